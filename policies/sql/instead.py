"""What to write instead of functions that analysts bring along from other dialects."""

from __future__ import annotations

import sqlglot.expressions as exp

_TEXT = "of texts there are LOWER, UPPER, TRIM, SUBSTRING, LEFT and LENGTH"
_LIKE = "write x LIKE 'pattern', with % for any text and _ for one character"
_DATE_PARTS = "write YEAR(d), QUARTER(d), MONTH(d), DAY(d), DAYOFWEEK(d) (0 is Sunday) or DATE_TRUNC('month', d)"
_ONE_DAY = "write a day like DATE '2026-01-31'"
_INEXACT = "numbers are exact, and it has no exact result"
_ONE_PERSON = "what it shows is somebody's own value; no noise hides that"
_QUANTILE = "write QUANTILE(x, p), one for each p"
_CONDITIONS = "write COUNT_IF(condition)"
_SAMPLE = "what a release says depends on the data and on noise that is paid for"

_INSTEAD: dict[str, str] = {
    **dict.fromkeys(("startswith", "endswith", "contains", "prefix", "suffix", "strposition", "position"), _LIKE),
    **dict.fromkeys(("regexplike", "regexpilike", "regexpfullmatch", "similarto", "glob", "regexp_contains"), _LIKE),
    **dict.fromkeys(("concat", "concatws", "right", "replace", "splitpart", "split", "pad", "reverse", "repeat", "regexpextract"), _TEXT),
    **dict.fromkeys(("regexpreplace", "initcap", "ascii", "md5", "md5digest", "sha", "sha2", "translate", "format"), _TEXT),
    **dict.fromkeys(("timetostr", "tochar", "monthname", "dayname", "yearweek", "weekday", "isodow", "dayofweekiso"), _DATE_PARTS),
    **dict.fromkeys(("lastday", "datefromparts", "datebin", "week", "weekofyear", "dayofyear", "yearofweek"), _DATE_PARTS),
    **dict.fromkeys(("date", "strtodate", "strtotime", "tsordstodate"), f"{_ONE_DAY}, or CAST(x AS DATE)"),
    **dict.fromkeys(("currentdate", "currenttimestamp", "currentdatetime", "now", "today", "age", "getdate"), _ONE_DAY),
    **dict.fromkeys(("dateadd", "datesub", "tsordsadd"), f"{_ONE_DAY}, or subtract two dates for days"),
    **dict.fromkeys(("sqrt", "cbrt", "ln", "log", "log2", "log10", "exp", "sin", "cos", "tan"), _INEXACT),
    **dict.fromkeys(("anyvalue", "first", "last", "firstvalue", "lastvalue", "argmax", "argmin", "arrayagg", "list"), _ONE_PERSON),
    **dict.fromkeys(("groupconcat", "jsonarrayagg", "arrayuniqueagg", "max_by", "min_by", "nthvalue"), _ONE_PERSON),
    **dict.fromkeys(("approxquantiles", "percentiledisc", "approx_percentile", "percentile", "approxtopk"), _QUANTILE),
    **dict.fromkeys(("logicalor", "logicaland", "booland", "boolor"), _CONDITIONS),
    **dict.fromkeys(("rand", "randn", "uuid", "randstr"), _SAMPLE),
    **dict.fromkeys(("clamp", "clip"), "write LEAST(GREATEST(x, low), high)"),
    **dict.fromkeys(("approxdistinct", "hll", "approx_distinct"), "write COUNT(DISTINCT x)"),
    "safedivide": "write a / b, which is NULL where b is 0",
    "isnull": "write x IS NULL",
    "zeroifnull": "write COALESCE(x, 0)",
    "nullifzero": "write NULLIF(x, 0)",
    "decode": "write CASE x WHEN 1 THEN ... ELSE ... END",
    "xor": "write a <> b",
    "bracket": "write SUBSTRING(x, 1, 1) for the first character",
    "mean": "write AVG(x)",
    "var": "write VARIANCE(x)",
    "covar": "write COVAR_SAMP(x, y)",
    "mode": "group by x and write COUNT(*) AS n, ORDER BY n DESC LIMIT 1",
    "histogram": "group by WIDTH_BUCKET(x, low, high, bins) and write COUNT(*)",
    "regrr2": "write CORR(x, y): it is its square",
    "sumif": "write SUM(x) FILTER (WHERE condition)",
    "avgif": "write AVG(x) FILTER (WHERE condition)",
}
"""By name of a function, or of the parser's class for it, in lower case."""


def instead_of(node: exp.Expr) -> str:
    """Return what to write instead of a node, after a semicolon; empty where nothing else is accepted."""
    while isinstance(node, (exp.WithinGroup, exp.IgnoreNulls, exp.RespectNulls)):
        node = node.this
    name = str(node.this).lower() if isinstance(node, exp.Anonymous) else node.key
    return f"; {_INSTEAD[name]}" if name in _INSTEAD else ""

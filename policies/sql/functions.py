"""Functions of texts, dates and numbers, and casts, from SQL to expressions in normal form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlglot.expressions as exp

from policies.declaration import parse_date
from policies.errors import Malformed
from policies.expression import MAX_ARGUMENTS, Constant, Expression, Function, Typed
from policies.normal_form import call, choice, comparison, integer, null, number
from policies.sql.text import bare, only, refuse, refuse_construct

_UNARY: dict[type[exp.Expr], Function] = {
    exp.Abs: "abs", exp.Sign: "sign", exp.Floor: "floor", exp.Ceil: "ceil", exp.Lower: "lower", exp.Upper: "upper", exp.Trim: "trim",
    exp.Length: "length", exp.Year: "year", exp.Quarter: "quarter", exp.Month: "month", exp.Day: "day", exp.DayOfMonth: "day",
    exp.DayOfWeek: "day_of_week",
}  # fmt: skip
_PARTS: dict[str, Function] = {
    "year": "year", "quarter": "quarter", "month": "month", "day": "day", "dow": "day_of_week", "dayofweek": "day_of_week",
}  # fmt: skip
_UNITS = ("year", "quarter", "month", "week", "day")
_WHOLE = ("INT", "BIGINT", "SMALLINT", "TINYINT")
UNTYPED_NULL = Constant(value=None, type="integer")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One node being read at `place`: `inner` reads its parts, `kind` tells what is known of them."""

    inner: Callable[[Any], Expression]
    kind: Callable[[Expression], Typed]
    place: str

    def value(self, node: Any) -> Expression:
        """A part that is not NULL itself."""
        found = self.inner(node)
        if found == UNTYPED_NULL:
            refuse_construct(bare(node), self.place)
        return found

    def alike(self, nodes: Sequence[Any]) -> list[Expression]:
        """Parts of one type: a quoted day beside a date is a date, NULL takes the type of the others."""
        found = [self.inner(node) for node in nodes]
        kinds = [self.kind(e) for e in found if e != UNTYPED_NULL and not (isinstance(e, Constant) and e.type == "text")]
        if any(kind.type == "date" for kind in kinds):
            found = [day_of(e) if isinstance(e, Constant) and e.type == "text" else e for e in found]
        return found


def day_of(constant: Constant) -> Constant:
    """The day that a quoted text spells. Raises Malformed."""
    try:
        return Constant(value=parse_date(str(constant.value), ""), type="date")
    except Malformed as error:
        shown = str(constant.value)[:40]
        raise Malformed(f"'{shown}' stands beside a date and is no day; write one like '2026-01-31'", code="sql") from error


def literal_number(node: exp.Expr, sign: int = 1) -> Constant:
    """A number as it is written, without exponent. Raises Malformed."""
    whole, _, fraction = str(node.this).partition(".")
    if len(whole + fraction) > 30 or not all(part.isascii() and part.isdigit() for part in (whole, fraction or "0")):
        refuse(node, "is not a plain decimal number like 0.5")
    return number(sign * int(whole + fraction), len(fraction))


def _unary(step: Step, node: exp.Expr) -> Expression:
    if isinstance(node, exp.Trim) and (node.args.get("position") or node.expression):
        refuse(node, "is not accepted; TRIM(x) takes blanks away at both ends")
    only(node, type(node).__name__.upper(), {"this"})
    return call(_UNARY[type(node)], _dated(step, node.this) if _UNARY[type(node)] in _PARTS.values() else step.value(node.this))


def _dated(step: Step, node: Any) -> Expression:
    found = step.value(node)
    return day_of(found) if isinstance(found, Constant) and found.type == "text" else found


def _round(step: Step, node: exp.Round) -> Expression:
    only(node, "ROUND", {"this", "decimals"})
    decimals = [step.value(node.args["decimals"])] if node.args.get("decimals") else []
    return call("round", step.value(node.this), *decimals)


def _substring(step: Step, node: exp.Expr) -> Expression:
    if isinstance(node, exp.Left):
        only(node, "LEFT", {"this", "expression"})
        return call("substring", step.value(node.this), integer(1), step.value(node.expression))
    only(node, "SUBSTRING", {"this", "start", "length"})
    start = step.value(node.args["start"]) if node.args.get("start") else integer(1)
    length = step.value(node.args["length"]) if node.args.get("length") else integer(10_000)
    return call("substring", step.value(node.this), start, length)


def _extract(step: Step, node: exp.Extract) -> Expression:
    only(node, "EXTRACT", {"this", "expression"})
    return _part(step, node, str(node.this.name), node.expression)


def _part(step: Step, node: exp.Expr, part: str, value: Any) -> Expression:
    if part.lower() not in _PARTS:
        refuse(node, f"is not accepted; parts of a date are {', '.join(_PARTS)}")
    return call(_PARTS[part.lower()], _dated(step, value))


def _truncated(step: Step, node: exp.Expr) -> Expression:
    only(node, "DATE_TRUNC", {"this", "unit"})
    unit = node.args["unit"]
    name = str(unit.name).lower() if isinstance(unit, (exp.Var, exp.Literal)) else ""
    if name not in _UNITS:
        refuse(node, f"is not accepted; write DATE_TRUNC('month', d), of {', '.join(map(repr, _UNITS))}")
    return call("truncate_date", Constant(value=name, type="text"), _dated(step, node.this))


def _days_between(step: Step, node: exp.DateDiff) -> Expression:
    only(node, "DATE_DIFF", {"this", "expression", "unit", "date_part_boundary"})
    if str(node.args["unit"].name).lower() != "day":
        refuse(node, "is not accepted; DATE_DIFF counts days: DATE_DIFF('day', a, b)")
    return call("subtract", _dated(step, node.this), _dated(step, node.expression))


def _cast(step: Step, node: exp.Cast) -> Expression:
    only(node, "CAST", {"this", "to", "safe"})
    to = node.to
    only(to, "a type", {"this", "expressions"})
    kind, parameters = to.this.value, [parameter.this for parameter in to.expressions]
    if kind in _WHOLE and not parameters:
        return call("to_integer", step.value(node.this))
    if kind == "DECIMAL" and len(parameters) == 2:
        return call("to_decimal", step.value(node.this), literal_number(parameters[1]))
    if kind == "DATE":
        value = _dated(step, node.this)
        return value if isinstance(value, Constant) else call("to_date", value)
    refuse(node, "is not accepted; types to cast to are INTEGER, BIGINT, DECIMAL(p, s) and DATE")


def _bucket(step: Step, node: exp.WidthBucket) -> Expression:
    """WIDTH_BUCKET(x, low, high, n): 0 below low, n + 1 from high on, and 1 to n between; a CASE over the exact edges."""
    only(node, "WIDTH_BUCKET", {"this", "min_value", "max_value", "num_buckets"})
    if not all(node.args.get(part) for part in ("this", "min_value", "max_value", "num_buckets")):
        refuse(node, "is not accepted; write WIDTH_BUCKET(number, low, high, bins)")
    value = step.value(node.this)
    kind = step.kind(value)
    low, high, bins = (_known(step, node.args[part]) for part in ("min_value", "max_value", "num_buckets"))
    if not kind.numeric:
        refuse(node, "is not accepted; write WIDTH_BUCKET(number, low, high, bins)")
    decimals = max(kind.decimals, low[1], high[1])
    first, last, count = low[0] * 10 ** (decimals - low[1]), high[0] * 10 ** (decimals - high[1]), bins[0]
    if bins[1] or not 1 <= count <= (MAX_ARGUMENTS - 5) // 2 or first >= last:
        refuse(node, f"is not accepted; it takes low < high and 1 to {(MAX_ARGUMENTS - 5) // 2} bins")
    # x is in units of 10^-decimals, so x < edge exactly where x < the edge rounded up.
    edges = [-(-(first * count + (last - first) * i) // count) for i in range(count + 1)]
    branches = [(comparison("<", value, number(edge, decimals)), integer(index)) for index, edge in enumerate(edges)]
    if kind.nullable:
        branches.insert(0, (call("is_null", value), null("integer")))
    return choice(branches, integer(count + 1))


def _known(step: Step, node: Any) -> tuple[int, int]:
    """(units, decimals) of a constant number."""
    found = step.value(node)
    if not isinstance(found, Constant) or not isinstance(found.value, int) or found.type not in ("integer", "decimal"):
        refuse(node, "is not accepted; it takes a constant number")
    return found.value, found.decimals


def _named(step: Step, node: exp.Anonymous) -> Expression:
    """A function that the SQL parser has no class for."""
    if str(node.this).lower() in ("date_part", "datepart") and len(node.expressions) == 2 and isinstance(node.expressions[0], exp.Literal):
        return _part(step, node, str(node.expressions[0].this), node.expressions[1])
    refuse_construct(node, step.place)


FUNCTIONS: dict[type[Any], Callable[[Step, Any], Expression]] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys((exp.Substring, exp.Left), _substring),
    **dict.fromkeys((exp.TimestampTrunc, exp.DateTrunc), _truncated),
    **dict.fromkeys((exp.Cast, exp.TryCast), _cast),
    exp.Round: _round,
    exp.Extract: _extract,
    exp.DateDiff: _days_between,
    exp.WidthBucket: _bucket,
    exp.Anonymous: _named,
}
"""How each function of texts, dates and numbers is read."""

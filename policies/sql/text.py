"""SQL text to one SELECT of a syntax tree, with bounded work, and refusals that name a construct and its position."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import sqlglot
import sqlglot.errors
import sqlglot.expressions as exp
from sqlglot import TokenType
from sqlglot.dialects.dialect import Dialect

from policies.errors import Malformed
from policies.names import require_name
from policies.query import MAX_SQL
from policies.sql.instead import instead_of

MAX_NESTING = 40
"""Deepest nesting of brackets in the text, and of constructs in the tree."""

MAX_JOIN_WORDS = 12
"""Times that a query may say JOIN, quotes and comments included: each without its condition doubles the time that the parser takes."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
_JOIN = re.compile(r"\b(?:straight_)?join\b", re.IGNORECASE)

_TOO_DEEP = f"the query nests deeper than {MAX_NESTING} levels"
_BEGINNINGS = frozenset({"SELECT", "WITH", "FROM", "VALUES", "("})
_SUBQUERY = "subqueries inside expressions are not accepted; join a subquery that groups by the privacy unit instead"
_SETS = "set operations are not accepted; ask two queries, or use a CASE or FILTER (WHERE ...)"
REASONS: dict[type[exp.Expr], str] = {
    exp.Window: "window functions are not accepted: they let one person's rows read another's; "
    "aggregate per privacy unit in a subquery instead",
    exp.SetOperation: _SETS,
    exp.Subquery: _SUBQUERY,
    exp.Select: _SUBQUERY,
    exp.Exists: _SUBQUERY,
    exp.Any: _SUBQUERY,
    exp.All: _SUBQUERY,
    exp.Star: "SELECT * is not accepted here; rows never leave, only aggregates and group keys",
    exp.Lambda: "lambda functions are not accepted",
    exp.Placeholder: "parameters are not accepted; write the value into the query",
    exp.Parameter: "parameters are not accepted; write the value into the query",
    exp.Null: "NULL stands only after IS, THEN and ELSE",
    exp.Interval: "intervals are not accepted; compare with a date such as DATE '2026-01-31', or subtract two dates for days",
    exp.DPipe: "joining texts is not accepted; accepted: LOWER, UPPER, TRIM, SUBSTRING, LEFT, LENGTH",
    exp.Pow: "powers are not accepted; multiply",
    exp.ILike: "ILIKE is not accepted; write LOWER(x) LIKE 'pattern'",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM is not accepted; compare with = and test IS NULL",
    exp.NullSafeNEQ: "IS DISTINCT FROM is not accepted; compare with <> and test IS NULL",
    exp.Tuple: "lists of values are not accepted; compare one value at a time",
    exp.Trunc: "TRUNC is not accepted; use FLOOR, CEIL or ROUND",
    exp.IgnoreNulls: "IGNORE NULLS is not accepted; aggregates leave out NULL as they are",
}
"""Why a construct is refused, and the accepted form where there is one."""


def parse_select(sql: str) -> exp.Select:
    """Return the one SELECT that `sql` holds. Raises Malformed; neither length nor nesting costs more than a bounded time."""
    if len(sql) > MAX_SQL:
        raise Malformed(f"the query is longer than {MAX_SQL} characters", code="sql")
    if len(_JOIN.findall(sql)) > MAX_JOIN_WORDS:
        raise Malformed(f"the query says JOIN more than {MAX_JOIN_WORDS} times", code="sql")
    if sum(map(sql.count, "([{")) > MAX_NESTING or _CONTROL.search(sql):
        _require_flat(sql)
    dialect = Dialect.get_or_raise("duckdb")
    try:
        tokens = dialect.tokenize(sql)
        _require_select(tokens)
        statements = [s for s in dialect.parser().parse(tokens, sql) if s is not None]
    except RecursionError as error:
        raise Malformed(_TOO_DEEP, code="sql") from error
    except (sqlglot.errors.SqlglotError, ValueError) as error:
        raise Malformed(f"the query is not valid SQL{_near(error, sql)}", code="sql", where=_place(error, sql)) from error
    if len(statements) != 1:
        raise Malformed(f"one statement is accepted, not {len(statements)}", code="sql")
    if not isinstance(statements[0], exp.Select):
        refuse(statements[0], "is not a SELECT; only SELECT is accepted" + _because(statements[0]))
    return statements[0]


def _require_flat(sql: str) -> None:
    """Refuse brackets that nest too deep and control characters, at the first of either."""
    depth = 0
    for index, character in enumerate(sql):
        depth += (character in "([{") - (character in ")]}")
        if depth > MAX_NESTING:
            raise Malformed(_TOO_DEEP, code="sql", where=_place_at(sql, index))
        if character < " " and character not in "\n\t\r":
            raise Malformed("the query holds a control character", code="sql", where=_place_at(sql, index))


def _require_select(tokens: Sequence[Any]) -> None:
    """Refuse by its first word what is no query: the parser would take some of it as a command, and write it into the log."""
    begins = True
    for token in tokens:
        ends = token.token_type == TokenType.SEMICOLON
        if begins and not ends and token.text.upper() not in _BEGINNINGS:
            shown = "".join(c if c.isprintable() else " " for c in token.text[:60])
            place = f"line {token.line}, column {max(1, token.col - len(token.text) + 1)}"
            raise Malformed(f"`{shown}` is not a SELECT; only SELECT is accepted", code="sql", where=place)
        begins = ends


def _near(error: Exception, sql: str) -> str:
    """The word at which the text is no SQL any more, and what may be meant."""
    details = getattr(error, "errors", None)
    word = str(details[0].get("highlight") or "") if details else ""
    shown = f" at `{word}`" if word and len(word) <= 40 and word.isprintable() and "`" not in word else ""
    return shown + ('; names are quoted like "this"' if "`" in sql else "")


def _place(error: Exception, sql: str) -> str | None:
    details = getattr(error, "errors", None)
    if details and details[0].get("line"):
        return f"line {details[0]['line']}, column {details[0].get('col')}"
    # Quotes that nobody closes: the parser tells how many characters stand before them.
    opened = re.fullmatch(r"Missing .* from \d+:(\d+)", str(error.__cause__ or error.__context__), re.DOTALL)
    return _place_at(sql, int(opened[1])) if opened else None


def _place_at(sql: str, index: int) -> str:
    before = sql[:index]
    return f"line {before.count(chr(10)) + 1}, column {index - before.rfind(chr(10))}"


def _because(node: exp.Expr) -> str:
    for kind, reason in REASONS.items():
        if isinstance(node, kind):
            return ": " + reason
    return ""


def position(node: exp.Expr) -> str | None:
    """Return where in the text a node begins, for example ``line 1, column 8``; None where the parser does not know."""
    places: list[dict[str, Any]] = []
    looked: exp.Expr | None = node
    while looked is not None and not places:
        # The parser does not place every node; what stands around one is placed.
        places, looked = [part.meta for part in looked.walk() if part.meta and "start" in part.meta], looked.parent
    if not places:
        return None
    first = min(places, key=lambda place: place["start"])
    # A token's column is that of its last character.
    return f"line {first['line']}, column {max(1, first['col'] - (first['end'] - first['start']))}"


class at:
    """Gives a Malformed that is raised inside the position of `node`, unless it has one."""

    __slots__ = ("node",)

    def __init__(self, node: exp.Expr) -> None:
        self.node = node

    def __enter__(self) -> None:
        """Nothing to do before."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Place the error."""
        if isinstance(error, Malformed) and (error.where is None or not error.where.startswith("line ")):
            error.where = position(self.node)


def refuse(node: Any, why: str, code: str = "sql") -> NoReturn:
    """Raise Malformed that shows a construct, names its kind, says why it is refused and where it stands."""
    if not isinstance(node, exp.Expr):
        raise Malformed(f"something is missing: it {why}", code=code)
    try:
        text = node.sql(dialect="duckdb", unsupported_level=sqlglot.errors.ErrorLevel.IGNORE)
    except (sqlglot.errors.SqlglotError, ValueError, RecursionError):
        text = type(node).__name__
    shown = "".join(c if c.isprintable() else " " for c in text[:60])
    raise Malformed(f"`{shown}` ({type(node).__name__}) {why}", code=code, where=position(node))


def refuse_construct(node: Any, place: str) -> NoReturn:
    """Refuse a node that a place does not know, with the reason for its kind. Raises Malformed."""
    for kind, reason in REASONS.items():
        if isinstance(node, kind):
            refuse(node, f"is not accepted {place}: {reason}")
    if isinstance(node, exp.AggFunc):
        refuse(node, f"is not accepted {place}: aggregates stand in SELECT, HAVING and ORDER BY, one level deep")
    if isinstance(node, exp.Func):
        refuse(node, f"is not accepted {place}: it is none of the functions of the allow-list{instead_of(node)}")
    refuse(node, f"is not accepted {place}{instead_of(node)}")


def only(node: exp.Expr, construct: str, allowed: Iterable[str]) -> None:
    """Refuse a node that carries anything besides the `allowed` parts. Raises Malformed naming the part."""
    for part, value in node.args.items():
        if value and part not in allowed:
            named = part.strip("_").replace("_", " ").upper()
            raise Malformed(f"{named} is not accepted in {construct}", code="sql", where=position(node))


def bare(node: Any) -> Any:
    """A node without the parentheses around it."""
    while isinstance(node, exp.Paren):
        only(node, "parentheses", {"this"})
        node = node.this
    return node


def name_of(node: Any) -> str:
    """Return an identifier, folded to lower case unless quoted, if it is a name of ours. Raises Malformed."""
    if not isinstance(node, exp.Identifier):
        refuse(node, "is not a name")
    text = str(node.this)
    with at(node):
        return require_name(text if node.args.get("quoted") else text.lower(), "sql")


def alias_of(node: exp.Expr) -> str | None:
    """Return the alias of a table or subquery, None without one. Raises Malformed."""
    alias = node.args.get("alias")
    if isinstance(alias, exp.TableAlias):
        only(alias, "alias", {"this"})
        alias = alias.this
    return None if alias is None else name_of(alias)


def operands(node: exp.Expr, kinds: tuple[type[exp.Binary], ...]) -> list[tuple[exp.Expr, type[exp.Binary] | None]]:
    """Return what a chain of binary operators joins, from left to right, each with the operator before it.

    Neither parentheses around the left side nor the length of the chain cost recursion.
    """
    found: list[tuple[exp.Expr, type[exp.Binary] | None]] = []
    part = bare(node)
    while isinstance(part, kinds):
        only(part, type(part).__name__.upper(), {"this", "expression", "typed", "safe"})
        found.append((part.expression, type(part)))
        part = bare(part.this)
    found.append((part, None))
    return found[::-1]


def conjuncts(node: exp.Expr) -> list[exp.Expr]:
    """What AND joins, from left to right, without parentheses around any of it."""
    found: list[exp.Expr] = []
    waiting = [node]
    while waiting:
        part = bare(waiting.pop())
        if isinstance(part, exp.And):
            only(part, "AND", {"this", "expression"})
            waiting += [part.expression, part.this]
        else:
            found.append(part)
    return found

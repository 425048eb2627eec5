"""From SQL text to the canonical Plan. The only module that knows sqlglot.

Accepted: one SELECT of group keys and COUNT(*), COUNT(x), SUM(x), AVG(x), from one dataset or an inner join of two on the whole unique
key of both, WHERE over comparisons of a column with constants joined by AND, OR and NOT, and GROUP BY over columns with a declared
domain. Every other construct is refused by name: the walk allows what it knows and never skips a part of the syntax tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NoReturn

import sqlglot
import sqlglot.errors
import sqlglot.expressions as exp

from policies.codec import decode
from policies.declaration import Column, Declaration
from policies.errors import Malformed
from policies.names import require_name
from policies.privacy import decimal_to_units
from policies.query import (
    MAX_SQL,
    AggregateOutput,
    AllOf,
    AnyOf,
    ColumnRef,
    Compare,
    Condition,
    IsNull,
    KeyOutput,
    Not,
    OneOf,
    Plan,
    cells,
    require_sound,
)

PARSER_VERSION = f"sqlglot/{version('sqlglot')}"
"""Logged with every decision: replay parses SQL again only under the same parser."""

MAX_NESTING = 40
MAX_CONDITION_DEPTH = 10
"""Alternations of AND, OR and NOT. Each takes at most two levels of the plan's JSON, of which canonical JSON allows 32."""

MAX_OUTPUTS = 100
MAX_TERMS = 500

_FUNCTIONS: dict[type[exp.Expression], str] = {exp.Count: "COUNT", exp.Sum: "SUM", exp.Avg: "AVG"}
_COMPARISONS: dict[type[exp.Expression], tuple[str, str]] = {
    exp.EQ: ("=", "="),
    exp.NEQ: ("<>", "<>"),
    exp.LT: ("<", ">"),
    exp.LTE: ("<=", ">="),
    exp.GT: (">", "<"),
    exp.GTE: (">=", "<="),
}
"""Operator as written, and with its sides exchanged."""


def parse_plan(sql: str, declarations: dict[str, Declaration]) -> Plan:
    """Return the canonical plan of `sql` over the declared datasets.

    Raises:
        Malformed: naming the construct that is not accepted, with its position where the parser knows it.
    """
    select = _parse_select(sql)
    _only(select, "SELECT", {"expressions", "from_", "joins", "where", "group"})
    scope = _scope(select, declarations)
    join = _join(select, scope)
    group_by = _group_by(select, scope)
    outputs = tuple(_output(node, scope, group_by, index) for index, node in enumerate(select.expressions))
    _check_outputs(outputs, group_by)
    where = None
    if select.args.get("where"):
        if len(list(select.args["where"].find_all(exp.Column))) > MAX_TERMS:
            raise Malformed(f"WHERE has more than {MAX_TERMS} terms", code="sql")
        where = _condition(select.args["where"].this, scope)
    plan = Plan(sources=tuple(scope.tables.values()), join=join, where=where, group_by=group_by, outputs=outputs)
    require_sound(plan, declarations)
    cells(plan, declarations)
    return plan


def _parse_select(sql: str) -> exp.Select:
    if len(sql) > MAX_SQL:
        raise Malformed(f"the query is longer than {MAX_SQL} characters", code="sql")
    depth = 0
    for character in sql:
        depth += (character == "(") - (character == ")")
        if depth > MAX_NESTING:
            raise Malformed(f"the query nests deeper than {MAX_NESTING} levels", code="sql")
        if character < " " and character not in "\n\t\r":
            raise Malformed("the query holds a control character", code="sql")
    try:
        statements = [s for s in sqlglot.parse(sql, read="duckdb") if s is not None]
    except (sqlglot.errors.SqlglotError, RecursionError, ValueError) as error:
        raise Malformed("the query is not valid SQL" + _position(error), code="sql") from error
    if len(statements) != 1:
        raise Malformed(f"one statement is accepted, not {len(statements)}", code="sql")
    if not isinstance(statements[0], exp.Select):
        _refuse(statements[0], "is not a SELECT; only SELECT is accepted")
    return statements[0]


def _position(error: Exception) -> str:
    details = getattr(error, "errors", None)
    if details and details[0].get("line"):
        return f" near line {details[0]['line']}, column {details[0].get('col')}"
    return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scope:
    """Names that the query may use: alias -> dataset, and the declarations."""

    tables: dict[str, str]
    declarations: dict[str, Declaration]

    def resolve(self, node: exp.Expression) -> ColumnRef:
        """Return the column that a column node names; a join key without a table name means that of the first dataset."""
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
            _refuse(node, "is not a column name")
        _only(node, "column", {"this", "table", "db"})
        name = _name(node.this)
        if node.args.get("db"):
            alias = f"{_name(node.args['db'])}.{_name(node.args['table'])}"
            datasets = [d for d in self.tables.values() if d == alias]
        elif node.args.get("table"):
            alias = _name(node.args["table"])
            datasets = [self.tables[alias]] if alias in self.tables else []
        else:
            alias = ""
            datasets = [d for d in self.tables.values() if self.declarations[d].has(name)]
            if len(datasets) == 2 and all(name in self.declarations[d].unique_key for d in datasets):
                datasets = datasets[:1]
        if not datasets:
            raise Malformed(f"unknown {'table `' + alias + '`' if alias else 'column `' + name + '`'}", code="unknown-column")
        if len(datasets) > 1:
            raise Malformed(f"column `{name}` is in both datasets; write it with its table", code="sql")
        self.declarations[datasets[0]].column(name)
        return ColumnRef(dataset=datasets[0], column=name)

    def column(self, reference: ColumnRef) -> Column:
        return self.declarations[reference.dataset].column(reference.column)


def _scope(select: exp.Select, declarations: dict[str, Declaration]) -> _Scope:
    if not select.args.get("from_"):
        raise Malformed("the query has no FROM", code="sql")
    tables: dict[str, str] = {}
    nodes = [select.args["from_"].this, *(join.this for join in select.args.get("joins") or [])]
    if len(nodes) > 2:
        raise Malformed(f"at most two datasets may be joined, not {len(nodes)}", code="sql")
    for node in nodes:
        if not isinstance(node, exp.Table) or not isinstance(node.this, exp.Identifier):
            _refuse(node, "cannot be read from; name a dataset as provider.dataset")
        _only(node, "table", {"this", "db", "alias"})
        if not node.args.get("db"):
            raise Malformed(f"table `{_name(node.this)}` needs its provider: write provider.{_name(node.this)}", code="sql")
        dataset = f"{_name(node.args['db'])}.{_name(node.this)}"
        if dataset not in declarations:
            known = ", ".join(sorted(declarations))
            raise Malformed(f"no dataset `{dataset}` in this agreement; it has {known}", code="unknown-dataset")
        alias = _alias(node) or _name(node.this)
        if alias in tables or dataset in tables.values():
            raise Malformed(f"`{alias}` names two tables, or a dataset is joined with itself", code="sql")
        tables[alias] = dataset
    return _Scope(tables=tables, declarations=declarations)


def _alias(node: exp.Expression) -> str | None:
    alias = node.args.get("alias")
    if alias is None:
        return None
    if isinstance(alias, exp.TableAlias):
        _only(alias, "alias", {"this"})
        alias = alias.this
    return _name(alias)


def _join(select: exp.Select, scope: _Scope) -> tuple[str, ...]:
    joins = select.args.get("joins") or []
    if not joins:
        return ()
    node = joins[0]
    if node.args.get("side") or node.args.get("method") or (node.args.get("kind") or "INNER") != "INNER":
        raise Malformed("only an inner JOIN is accepted; outer, cross, natural and lateral joins are not", code="sql")
    _only(node, "JOIN", {"this", "using", "on", "kind"})
    if node.args.get("using"):
        names = [_name(identifier) for identifier in node.args["using"]]
    elif node.args.get("on"):
        names = [_equated(term, scope) for term in _operands(node.args["on"], exp.And)]
    else:
        raise Malformed("a join needs USING (...) or ON; cross joins are not accepted", code="sql")
    return tuple(sorted(names))


def _operands(node: exp.Expression, connective: type[exp.Connector]) -> list[exp.Expression]:
    """Return what a chain of one connective joins, from left to right, without parentheses and without recursion."""
    found: list[exp.Expression] = []
    waiting = [node]
    while waiting:
        part = waiting.pop()
        while isinstance(part, exp.Paren):
            part = part.this
        if isinstance(part, connective):
            waiting += [part.expression, part.this]
        else:
            found.append(part)
    return found


def _equated(node: exp.Expression, scope: _Scope) -> str:
    if not isinstance(node, exp.EQ):
        _refuse(node, "is not accepted in ON; write equalities of key columns joined by AND")
    left, right = scope.resolve(node.this), scope.resolve(node.expression)
    if left.column != right.column or left.dataset == right.dataset:
        _refuse(node, "must equate a key column of one dataset with the same column of the other")
    return left.column


def _group_by(select: exp.Select, scope: _Scope) -> tuple[ColumnRef, ...]:
    group = select.args.get("group")
    if group is None:
        return ()
    _only(group, "GROUP BY", {"expressions"})
    if not group.expressions:
        raise Malformed("GROUP BY ALL, ROLLUP, CUBE and GROUPING SETS are not accepted; list columns", code="sql")
    keys = [scope.resolve(node) for node in group.expressions]
    if len(set(keys)) != len(keys):
        raise Malformed("GROUP BY names a column twice", code="sql")
    return tuple(keys)


def _output(node: exp.Expression, scope: _Scope, group_by: tuple[ColumnRef, ...], index: int) -> KeyOutput | AggregateOutput:
    name = None
    if isinstance(node, exp.Alias):
        _only(node, "alias", {"this", "alias"})
        name, node = _name(node.args["alias"]), node.this
    if isinstance(node, exp.Star) or (isinstance(node, exp.Column) and isinstance(node.this, exp.Star)):
        raise Malformed("SELECT * is not accepted; rows never leave, only aggregates and group keys", code="sql")
    if isinstance(node, exp.Column):
        reference = scope.resolve(node)
        if reference not in group_by:
            raise Malformed(
                f"`{reference}` is neither aggregated nor a group key: raw values never leave; "
                f"use COUNT, SUM or AVG of it, or drop it from SELECT",
                code="raw-column",
            )
        return KeyOutput(name=name or reference.column, column=reference)
    function = _FUNCTIONS.get(type(node))
    if function is None:
        _refuse(node, "is not accepted in SELECT; only group keys, COUNT, SUM and AVG of a column are")
    reference_or_none = _argument(node, function, scope)
    default = f"{function.lower()}_{reference_or_none.column if reference_or_none else 'rows'}"[:36] + (f"_{index}" if not name else "")
    return AggregateOutput(name=name or default, function=function, column=reference_or_none)  # type: ignore[arg-type]


def _argument(node: exp.Expression, function: str, scope: _Scope) -> ColumnRef | None:
    _only(node, function, {"this", "big_int"})
    if isinstance(node.this, exp.Star) and function == "COUNT":
        _only(node.this, "*", set())
        return None
    if isinstance(node.this, exp.Distinct):
        raise Malformed(f"{function}(DISTINCT ...) is not accepted", code="sql")
    if not isinstance(node.this, exp.Column):
        _refuse(node.this, f"is not accepted inside {function}; name a column")
    reference = scope.resolve(node.this)
    column = scope.column(reference)
    if function != "COUNT" and column.lower is None:
        raise Malformed(f"{function}({reference}) needs declared bounds of `{reference}`, and there are none", code="bounds-missing")
    return reference


def _check_outputs(outputs: tuple[KeyOutput | AggregateOutput, ...], group_by: tuple[ColumnRef, ...]) -> None:
    names = [output.name for output in outputs]
    if len(names) > MAX_OUTPUTS or len(set(names)) != len(names):
        raise Malformed(f"output names must be distinct, at most {MAX_OUTPUTS}", code="sql")
    shown = {output.column for output in outputs if isinstance(output, KeyOutput)}
    hidden = [str(reference) for reference in group_by if reference not in shown]
    if hidden:
        raise Malformed(f"group key `{hidden[0]}` must also be selected", code="sql")
    if len(shown) == len(outputs):
        raise Malformed("the query has no aggregate; add COUNT(*), SUM(x) or AVG(x)", code="sql")


def _condition(node: exp.Expression, scope: _Scope, depth: int = 0) -> Condition:
    if depth > MAX_CONDITION_DEPTH:
        raise Malformed(f"WHERE alternates AND, OR and NOT more than {MAX_CONDITION_DEPTH} levels deep", code="sql")
    while isinstance(node, exp.Paren):
        node = node.this
    if isinstance(node, exp.And):
        conditions = [_condition(part, scope, depth + 1) for part in _operands(node, exp.And)]
        return AllOf(terms=tuple(term for condition in conditions for term in _flat(condition, AllOf)))
    if isinstance(node, exp.Or):
        conditions = [_condition(part, scope, depth + 1) for part in _operands(node, exp.Or)]
        return AnyOf(terms=tuple(term for condition in conditions for term in _flat(condition, AnyOf)))
    if isinstance(node, exp.Not):
        return Not(term=_condition(node.this, scope, depth + 1))
    if isinstance(node, exp.Is):
        if not isinstance(node.expression, exp.Null):
            _refuse(node, "is not accepted; only IS NULL and IS NOT NULL are")
        return IsNull(column=scope.resolve(node.this))
    if isinstance(node, exp.Between):
        _only(node, "BETWEEN", {"this", "low", "high"})
        reference = scope.resolve(node.this)
        low, high = (_constant(node.args[side], scope.column(reference), reference) for side in ("low", "high"))
        return AllOf(terms=(Compare(column=reference, operator=">=", value=low), Compare(column=reference, operator="<=", value=high)))
    if isinstance(node, exp.In):
        _only(node, "IN", {"this", "expressions"})
        reference = scope.resolve(node.this)
        if not node.expressions or len(node.expressions) > MAX_TERMS:
            raise Malformed(f"IN needs 1 to {MAX_TERMS} constants", code="sql")
        return OneOf(column=reference, values=tuple(_constant(value, scope.column(reference), reference) for value in node.expressions))
    return _comparison(node, scope)


def _flat(condition: Condition, kind: type[AllOf | AnyOf]) -> tuple[Condition, ...]:
    return condition.terms if isinstance(condition, kind) else (condition,)


def _comparison(node: exp.Expression, scope: _Scope) -> Compare:
    operators = _COMPARISONS.get(type(node))
    if operators is None:
        _refuse(node, "is not accepted in WHERE; compare a column with a constant")
    left, right, operator = node.this, node.expression, operators[0]
    if not isinstance(left, exp.Column):
        left, right, operator = right, left, operators[1]
    if not isinstance(left, exp.Column):
        _refuse(node, "is not accepted in WHERE; compare a column with a constant, no functions or arithmetic")
    reference = scope.resolve(left)
    if isinstance(right, exp.Column):
        raise Malformed(f"comparing `{reference}` with another column is not accepted; compare with a constant", code="sql")
    return Compare(column=reference, operator=operator, value=_constant(right, scope.column(reference), reference))  # type: ignore[arg-type]


def _constant(node: exp.Expression, column: Column, reference: ColumnRef) -> int | str:
    """Return a literal as text or in the column's fixed-point units."""
    sign = ""
    if isinstance(node, exp.Neg):
        sign, node = "-", node.this
    if not isinstance(node, exp.Literal):
        _refuse(node, "is not a constant")
    text = str(node.this)
    if column.type == "text":
        if not node.is_string or sign:
            raise Malformed(f"`{reference}` is text; compare it with a quoted string", code="sql")
        return decode(str, text, f"constant for {reference}")
    if node.is_string:
        raise Malformed(f"`{reference}` is a number; compare it with a number", code="sql")
    return decimal_to_units(sign + text, column.decimals, f"constant for {reference}")


def _name(node: exp.Expression) -> str:
    """Return an identifier, folded to lower case unless quoted, if it is a name of ours. Raises Malformed."""
    if not isinstance(node, exp.Identifier):
        _refuse(node, "is not a name")
    text = str(node.this)
    return require_name(text if node.args.get("quoted") else text.lower(), "sql")


def _only(node: exp.Expression, construct: str, allowed: set[str]) -> None:
    """Refuse a node that carries anything besides the `allowed` parts. Raises Malformed naming the part."""
    for part, value in node.args.items():
        if value and part not in allowed:
            raise Malformed(f"{part.strip('_').replace('_', ' ').upper()} is not accepted in {construct}", code="sql")


def _refuse(node: Any, why: str) -> NoReturn:
    try:
        text = node.sql(dialect="duckdb") if isinstance(node, exp.Expression) else "nothing"
    except (sqlglot.errors.SqlglotError, ValueError, RecursionError):
        text = type(node).__name__
    shown = "".join(c if c.isprintable() else " " for c in text[:60])
    raise Malformed(f"`{shown}` ({type(node).__name__}) {why}", code="sql")

"""The rows that a plan reads, as SQL: tables, joins and subqueries per unit.

A key column has two forms. Joins, units and uniqueness use it raw, since clamping would merge units; an expression reads it clamped, as its
declared bounds promise. Names inside the SQL are made here: none comes from a plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from enclaves.kit.expressions import Columns, Fragment, clamped, expression_sql, joined, listed
from enclaves.kit.tables import quote
from policies.declaration import Declaration
from policies.expression import DIVISION_DECIMALS, MAX_EXPRESSION_DECIMALS, Typed, typed
from policies.query import Join, PerUnit, Relation, Table, UnitColumn
from policies.shape import Name, shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """A relation as a FROM clause.

    Attributes:
        source: what follows FROM.
        columns: how expressions read its columns.
        raw: how joins read them.
        unit: the privacy unit, raw; None in a public relation.
    """

    source: Fragment
    columns: Columns
    raw: Mapping[Name, str]
    unit: str | None


def rows_of(relation: Relation, declarations: Mapping[str, Declaration], loaded: Mapping[str, str], names: Iterator[str]) -> Rows:
    """Return a relation as SQL.

    Args:
        loaded: the database's name of every dataset's table.
        names: fresh names.
    """
    if isinstance(relation, Table):
        return _table(relation, declarations, loaded, names)
    if isinstance(relation, Join):
        return _join(relation, declarations, loaded, names)
    return _per_unit(relation, declarations, loaded, names)


def _table(table: Table, declarations: Mapping[str, Declaration], loaded: Mapping[str, str], names: Iterator[str]) -> Rows:
    declaration, here = declarations[table.dataset], next(names)
    scope = shape(table, declarations).scope
    raw = {name: f"{here}.{quote(name[1])}" for name in scope}
    read = {
        name: Fragment(sql=clamped(raw[name], kind) if name[1] in declaration.unique_key else raw[name]) for name, kind in scope.items()
    }
    return Rows(
        source=Fragment(sql=f"{quote(loaded[table.dataset])} AS {here}"),
        columns=Columns(scope=scope, sql=read),
        raw=raw,
        unit=None if declaration.public else raw[table.alias, declaration.unit],
    )


def _join(join: Join, declarations: Mapping[str, Declaration], loaded: Mapping[str, str], names: Iterator[str]) -> Rows:
    left, right = (rows_of(side, declarations, loaded, names) for side in (join.left, join.right))
    equal = " AND ".join(f"{left.raw[e.left.table, e.left.column]} = {right.raw[e.right.table, e.right.column]}" for e in join.on)
    return Rows(
        source=joined(f"{{}} JOIN {{}} ON {equal}", left.source, right.source),
        columns=Columns(scope={**left.columns.scope, **right.columns.scope}, sql={**left.columns.sql, **right.columns.sql}),
        raw={**left.raw, **right.raw},
        unit=left.unit or right.unit,
    )


def _per_unit(relation: PerUnit, declarations: Mapping[str, Declaration], loaded: Mapping[str, str], names: Iterator[str]) -> Rows:
    inner = rows_of(relation.source, declarations, loaded, names)
    here, scope = next(names), shape(relation, declarations).scope
    keys = [expression_sql(key.expression, inner.columns) for key in relation.keys]
    columns = [_unit_column(column, inner.columns) for column in relation.columns]
    unit = Fragment(sql=inner.raw[relation.by.table, relation.by.column])
    called = [f"c{index}" for index in range(1 + len(keys) + len(columns))]
    selected = [joined(f"{{}} AS {name}", value) for name, value in zip(called, [unit, *keys, *columns], strict=True)]
    where = Fragment(sql="") if relation.where is None else joined(" WHERE {}", expression_sql(relation.where, inner.columns))
    # By position: an alias would name a column of the source first.
    group = ", ".join(str(index + 1) for index in range(1 + len(keys)))
    source = joined(f"(SELECT {{}} FROM {{}}{{}} GROUP BY {group}) AS {here}", listed(", ", selected), inner.source, where)  # noqa: S608
    own = [relation.unit, *(key.name for key in relation.keys), *(column.name for column in relation.columns)]
    raw = {(relation.alias, name): f"{here}.{short}" for name, short in zip(own, called, strict=True)}
    read = {name: Fragment(sql=sql) for name, sql in raw.items()}
    whole = (relation.alias, relation.unit)
    read[whole] = Fragment(sql=clamped(raw[whole], scope[whole]))
    return Rows(source=source, columns=Columns(scope=scope, sql=read), raw=raw, unit=raw[whole])


def _unit_column(column: UnitColumn, columns: Columns) -> Fragment:
    """An aggregate over one unit's rows. What it can be is within 64 bits, since a unit's rows are bounded."""
    if column.argument is None:
        return Fragment(sql="count(*)")
    value, kind = expression_sql(column.argument, columns), typed(column.argument, columns.scope)
    if column.function == "COUNT":
        return joined("count({})", value)
    if column.function == "COUNT_DISTINCT":
        return joined("count(DISTINCT {})", value)
    if column.function in ("MIN", "MAX"):
        return joined(column.function.lower() + "({})", value)
    if column.function == "SUM":
        return joined("sum({})::BIGINT", value)
    return joined(f"(sum({{}}) * {_average_factor(kind)} // nullif(count({{}}), 0))::BIGINT", value, value)


def _average_factor(kind: Typed) -> int:
    """Units of an average per unit of its values."""
    further: int = min(DIVISION_DECIMALS, MAX_EXPRESSION_DECIMALS - kind.decimals)
    return int(10**further)

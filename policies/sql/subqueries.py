"""Subqueries of SQL: those that only name columns, and those that aggregate per privacy unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import sqlglot.expressions as exp

from policies.declaration import Declaration
from policies.errors import Malformed
from policies.expression import Expression, Ref, Typed
from policies.normal_form import all_of
from policies.query import NamedExpression, PerUnit, UnitColumn
from policies.shape import shape
from policies.sql.aggregates import holds_aggregate, is_aggregate, read_aggregate, unit_aggregate
from policies.sql.expressions import Expressions
from policies.sql.rows import Rows, Source, column_name, group_items, unaliased
from policies.sql.text import at, only, position, refuse


def is_per_unit(select: exp.Select) -> bool:
    """Whether a subquery aggregates."""
    return select.args.get("group") is not None or any(holds_aggregate(node) for node in select.expressions)


def projected(select: exp.Select, alias: str, rows: Rows) -> Rows:
    """Return the same rows under the names that a subquery gives their columns. Raises Malformed."""
    if select.args.get("having") is not None:
        raise Malformed("HAVING without GROUP BY is not accepted in a subquery; use WHERE", code="sql", where=position(select))
    columns: dict[str, Expression] = {}
    for node in select.expressions:
        for name, expression in _projected(node, rows).items():
            if columns.setdefault(name, expression) != expression:
                raise Malformed(f"the subquery names `{name}` twice", code="sql", where=position(node))
    return replace(rows, sources=(Source(alias=alias, columns=columns),))


def _projected(node: exp.Expr, rows: Rows) -> dict[str, Expression]:
    """The columns that an item of a subquery's SELECT adds."""
    if isinstance(node, exp.Star):
        only(node, "*", set())
        listed = [name for source in rows.sources for name in source.columns]
        return {name: rows.resolve(exp.column(name)) for name in dict.fromkeys(listed)}
    alias, node = unaliased(node)
    expression = rows.reader("in a subquery").read(node)
    return {alias or column_name(node): expression}


@dataclass(slots=True)
class PerUnitReader:
    """Reads a subquery that aggregates per privacy unit. What it computes from its aggregates is resolved away around it."""

    declarations: Mapping[str, Declaration]
    select: exp.Select
    rows: Rows
    name: str
    keys: dict[Expression, str] = field(default_factory=dict)
    columns: dict[UnitColumn, str] = field(default_factory=dict)
    scope: dict[tuple[str, str], Typed] = field(default_factory=dict)
    by: Ref | None = None

    def read(self, alias: str) -> Rows:
        """Return the subquery as rows under `alias`. Raises Malformed."""
        self._group()
        self._measure()
        reader = Expressions(resolve=self._refuse_column, scope=self.scope, special=self._special, place="in a subquery per unit")
        names: dict[str, Expression] = {}
        for item in self.select.expressions:
            written, node = unaliased(item)
            name = written or (column_name(node) if isinstance(node, exp.Column) else None)
            if name is None:
                refuse(node, "needs a name in a subquery: write ... AS name")
            if name in names:
                raise Malformed(f"the subquery names `{name}` twice", code="sql", where=position(item))
            names[name] = reader.read(node)
        where: tuple[Expression, ...] = ()
        having = self.select.args.get("having")
        if having is not None:
            only(having, "HAVING", {"this"})
            where = (reader.within("in HAVING").condition(having.this),)
        relation = self._relation()
        return Rows(
            relation=relation,
            where=where,
            sources=(Source(alias=alias, columns=names),),
            shape=shape(relation, self.declarations),
        )

    def _group(self) -> None:
        for written, expression in group_items(self.select, self.rows):
            if self.rows.is_unit(expression):
                assert isinstance(expression, Ref)
                self.by = self.by or expression
                self.keys.setdefault(expression, "unit")
            elif expression in self.keys:
                raise Malformed("GROUP BY names a key twice", code="sql", where=position(written))
            else:
                self.keys[expression] = f"k{sum(name != 'unit' for name in self.keys.values())}"
        if self.by is None:
            units = ", ".join(sorted(column for _, column in self.rows.shape.unit)) or "none: it reads public tables only"
            why = f"a subquery that aggregates must group by the privacy unit ({units}), alone or with other keys"
            raise Malformed(why, code="unit-missing", where=position(self.select))

    def _relation(self) -> PerUnit:
        assert self.by is not None
        return PerUnit(
            alias=self.name,
            source=self.rows.relation,
            by=self.by,
            where=all_of(self.rows.where),
            unit="unit",
            keys=tuple(NamedExpression(name=name, expression=key) for key, name in self.keys.items() if name != "unit"),
            columns=tuple(replace(column, name=name) for column, name in self.columns.items()),
        )

    def _measure(self) -> None:
        self.scope.update(shape(self._relation(), self.declarations).scope)

    def _special(self, node: exp.Expr) -> Expression | None:
        if is_aggregate(node):
            return self._aggregate(node)
        if isinstance(node, (exp.Literal, exp.Null, exp.Boolean)) or holds_aggregate(node):
            return None
        expression = self.rows.reader("in a subquery per unit").read(node)
        if expression in self.keys:
            return Ref(table=self.name, column=self.keys[expression])
        return None

    def _aggregate(self, node: exp.Expr) -> Ref:
        function, argument = unit_aggregate(node, read_aggregate(node, self.rows.reader("in an aggregate"), self.rows.is_unit))
        column = UnitColumn(name="", function=function, argument=argument)
        if column not in self.columns:
            self.columns[column] = f"c{len(self.columns)}"
            with at(node):
                self._measure()
        return Ref(table=self.name, column=self.columns[column])

    def _refuse_column(self, node: exp.Column) -> Expression:
        refuse(node, "is neither aggregated nor a key of the subquery; aggregate it or add it to GROUP BY", code="raw-column")

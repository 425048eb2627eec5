"""FROM, JOIN, WITH and subqueries of SQL: the relation that a SELECT reads, and what its names stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sqlglot.expressions as exp

from policies.declaration import Declaration
from policies.errors import Malformed
from policies.expression import Constant, Expression, Ref, Typed
from policies.normal_form import all_of
from policies.query import MAX_SOURCES, Equality, Join, NamedExpression, PerUnit, Relation, Table, UnitColumn, declared
from policies.shape import Shape, shape
from policies.sql_aggregates import holds_aggregate, is_aggregate, read_aggregate, unit_aggregate
from policies.sql_expressions import Expressions
from policies.sql_text import alias_of, at, bare, conjuncts, name_of, only, position, refuse, refuse_construct

MAX_SUBQUERIES = 12
"""Deepest nesting of subqueries and chains of WITH."""

Queries = Mapping[str, exp.Select]
"""The subqueries that WITH names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Something that FROM names.

    Attributes:
        dataset: of a table, under which its columns can be written in full; empty otherwise.
        columns: by name, what each stands for.
    """

    alias: str
    dataset: str = ""
    columns: Mapping[str, Expression]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What a SELECT reads: a relation, the rows of it that count, and the names that are in scope.

    Attributes:
        where: conditions of WHERE and of subqueries that were resolved away.
        shape: of the relation.
    """

    relation: Relation
    where: tuple[Expression, ...]
    sources: tuple[Source, ...]
    shape: Shape

    def resolve(self, node: exp.Column) -> Expression:
        """Return what a column stands for. Of columns of one name that a join equates, the first. Raises Malformed."""
        only(node, "column", {"this", "table", "db"})
        name = name_of(node.this)
        sources = self.sources
        if node.args.get("table"):
            alias = name_of(node.args["table"])
            if node.args.get("db"):
                alias = f"{name_of(node.args['db'])}.{alias}"
            sources = tuple(s for s in sources if alias in (s.alias, s.dataset))
            if not sources:
                raise Malformed(f"unknown table `{alias}`", code="unknown-column", where=position(node))
            if len(sources) > 1:
                raise Malformed(f"`{alias}` is read twice here; write the column with its alias", code="sql", where=position(node))
        found = [s.columns[name] for s in sources if name in s.columns]
        if not found:
            known = ", ".join(sorted({column for s in sources for column in s.columns})[:40])
            raise Malformed(f"unknown column `{name}`; known: {known}", code="unknown-column", where=position(node))
        if len(found) > 1 and not self._equated(found):
            raise Malformed(f"column `{name}` is in several tables; write it with its table", code="sql", where=position(node))
        return found[0]

    def _equated(self, expressions: list[Expression]) -> bool:
        groups: list[set[Expression]] = []
        relation = self.relation
        while isinstance(relation, Join):
            for equality in relation.on:
                pair: set[Expression] = {equality.left, equality.right}
                touching = [group for group in groups if group & pair]
                groups = [group for group in groups if not group & pair] + [pair.union(*touching)]
            relation = relation.left
        return any(set(expressions) <= group for group in groups)

    def reader(self, place: str) -> Expressions:
        """A reader of expressions over these rows."""
        return Expressions(resolve=self.resolve, scope=self.shape.scope, place=place)

    def is_unit(self, expression: Expression) -> bool:
        """Whether an expression is the privacy unit."""
        return isinstance(expression, Ref) and (expression.table, expression.column) in self.shape.unit


@dataclass(slots=True)
class Sources:
    """Reads FROM clauses, numbering tables `t0`, `t1`, ... and subqueries per unit `q0`, ... in the order in which they appear."""

    declarations: Mapping[str, Declaration]
    tables: int = 0
    subqueries: int = 0
    used: set[int] = field(default_factory=set)
    """Identities of the WITH queries that something reads."""
    _visible: dict[int, tuple[str, Queries]] = field(default_factory=dict)
    """Name of each WITH query, and what it sees, by identity."""

    def rows(self, select: exp.Select, queries: Queries, depth: int = 0) -> Rows:
        """Return what a SELECT reads, WHERE included. Raises Malformed."""
        if depth > MAX_SUBQUERIES:
            raise Malformed(f"subqueries nest deeper than {MAX_SUBQUERIES} levels", code="sql")
        if not select.args.get("from_"):
            raise Malformed("the query has no FROM", code="sql")
        joins = select.args.get("joins") or []
        if len(joins) >= MAX_SOURCES:
            raise Malformed(f"at most {MAX_SOURCES} tables may be joined, not {len(joins) + 1}", code="sql")
        only(select.args["from_"], "FROM", {"this"})
        found = self._source(select.args["from_"].this, queries, depth)
        for join in joins:
            found = self._join(found, join, queries, depth)
        where = select.args.get("where")
        if where is not None:
            only(where, "WHERE", {"this"})
            found = replace(found, where=(*found.where, found.reader("in WHERE").condition(where.this)))
        return found

    def named_queries(self, select: exp.Select, outer: Queries) -> Queries:
        """Return the queries that WITH names, besides those around. Raises Malformed; `require_used` is called when all is read."""
        clause = select.args.get("with_")
        if clause is None:
            return outer
        if clause.args.get("recursive"):
            raise Malformed("WITH RECURSIVE is not accepted; a query reads tables and earlier subqueries only", code="sql")
        only(clause, "WITH", {"expressions"})
        found = dict(outer)
        for query in clause.expressions:
            only(query, "WITH", {"this", "alias"})
            name = alias_of(query)
            if name is None or not isinstance(query.this, exp.Select):
                refuse_construct(query.this, "in WITH")
            if name in found:
                raise Malformed(f"WITH names `{name}` twice", code="sql", where=position(query))
            # A query sees those before it, and so never itself.
            found[name] = query.this
            self._visible[id(query.this)] = name, {k: v for k, v in found.items() if k != name}
        return found

    def require_used(self) -> None:
        """Raise Malformed if a query of WITH is read by nothing."""
        for key, (name, _) in self._visible.items():
            if key not in self.used:
                raise Malformed(f"WITH names `{name}`, which nothing reads; drop it", code="sql")

    def _source(self, node: Any, queries: Queries, depth: int) -> Rows:
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            return self._table(node, queries, depth)
        if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Select):
            only(node, "subquery", {"this", "alias"})
            return self._subquery(node.this, alias_of(node) or "", queries, depth)
        if isinstance(node, exp.Subquery) and isinstance(node.this, exp.SetOperation):
            refuse_construct(node.this, "in FROM")
        refuse(node, "cannot be read from; name a dataset as provider.dataset, or a subquery (SELECT ...) AS name")

    def _table(self, node: exp.Table, queries: Queries, depth: int) -> Rows:
        only(node, "table", {"this", "db", "alias"})
        name = name_of(node.this)
        if not node.args.get("db"):
            if name in queries:
                query = queries[name]
                self.used.add(id(query))
                return self._subquery(query, alias_of(node) or name, self._visible[id(query)][1], depth)
            raise Malformed(f"table `{name}` needs its provider: write provider.{name}", code="sql", where=position(node))
        dataset = f"{name_of(node.args['db'])}.{name}"
        if dataset not in self.declarations:
            known = ", ".join(sorted(self.declarations))
            raise Malformed(f"no dataset `{dataset}` in this agreement; it has {known}", code="unknown-dataset", where=position(node))
        if self.tables == MAX_SOURCES:
            raise Malformed(f"at most {MAX_SOURCES} tables may be joined, subqueries included", code="sql", where=position(node))
        table = Table(alias=f"t{self.tables}", dataset=dataset)
        self.tables += 1
        columns = {column.name: Ref(table=table.alias, column=column.name) for column in declared(dataset, self.declarations).columns}
        source = Source(alias=alias_of(node) or name, dataset=dataset, columns=columns)
        return Rows(relation=table, where=(), sources=(source,), shape=shape(table, self.declarations))

    def _join(self, left: Rows, node: exp.Join, queries: Queries, depth: int) -> Rows:
        if node.args.get("side") or node.args.get("method") or (node.args.get("kind") or "INNER") != "INNER":
            kind = " ".join(str(node.args[part]) for part in ("method", "side", "kind") if node.args.get(part)).upper()
            why = f"{kind} JOIN is not accepted, only an inner JOIN ... USING (...) or ON; outer, cross, natural and lateral joins are not"
            raise Malformed(why, code="sql", where=position(node))
        only(node, "JOIN", {"this", "using", "on", "kind"})
        right = self._source(node.this, queries, depth)
        if isinstance(right.relation, Join):
            why = "a subquery that joins tables must come first in FROM; or join its tables one after another"
            raise Malformed(why, code="sql", where=position(node))
        if {s.alias for s in left.sources} & {s.alias for s in right.sources}:
            raise Malformed(f"`{right.sources[0].alias}` names two tables; give each an alias", code="sql", where=position(node))
        pairs = self._equalities(left, right, node)
        on = tuple(sorted(set(pairs), key=lambda e: (e.right.column, e.left.table, e.left.column, e.right.table)))
        relation = Join(left=left.relation, right=right.relation, on=on)
        with at(node):
            found = shape(relation, self.declarations)
        return Rows(relation=relation, where=left.where + right.where, sources=left.sources + right.sources, shape=found)

    def _equalities(self, left: Rows, right: Rows, node: exp.Join) -> list[Equality]:
        if node.args.get("using"):
            columns = [exp.Column(this=identifier) for identifier in node.args["using"]]
            return [Equality(left=_key(left, column), right=_key(right, column)) for column in columns]
        if not node.args.get("on"):
            raise Malformed("a join needs USING (...) or ON; cross joins are not accepted", code="sql", where=position(node))
        found = []
        both = replace(right, relation=left.relation, sources=left.sources + right.sources)
        for term in conjuncts(node.args["on"]):
            if not isinstance(term, exp.EQ):
                refuse(term, "is not accepted in ON; write equalities of key columns joined by AND, and other conditions in WHERE")
            only(term, "ON", {"this", "expression"})
            one, other = _key(both, term.this), _key(both, term.expression)
            if (one.table, one.column) in right.shape.scope:
                one, other = other, one
            if (one.table, one.column) not in left.shape.scope or (other.table, other.column) not in right.shape.scope:
                refuse(term, "must equate a column of the joined table with a column of a table before it")
            found.append(Equality(left=one, right=other))
        return found

    def _subquery(self, select: exp.Select, alias: str, queries: Queries, depth: int) -> Rows:
        only(select, "a subquery", {"expressions", "from_", "joins", "where", "group", "having", "with_"})
        inner = self.named_queries(select, queries)
        rows = self.rows(select, inner, depth + 1)
        grouped = select.args.get("group") is not None or any(holds_aggregate(node) for node in select.expressions)
        if grouped:
            return self._per_unit(select, alias, rows)
        if select.args.get("having") is not None:
            raise Malformed("HAVING without GROUP BY is not accepted in a subquery; use WHERE", code="sql", where=position(select))
        columns: dict[str, Expression] = {}
        for node in select.expressions:
            for name, expression in _projected(node, rows).items():
                if columns.setdefault(name, expression) != expression:
                    raise Malformed(f"the subquery names `{name}` twice", code="sql", where=position(node))
        return replace(rows, sources=(Source(alias=alias, columns=columns),))

    def _per_unit(self, select: exp.Select, alias: str, rows: Rows) -> Rows:
        with at(select):
            return PerUnitReader(sources=self, select=select, rows=rows, name=f"q{self.subqueries}").read(alias)


def _key(rows: Rows, node: Any) -> Ref:
    node = bare(node)
    if not isinstance(node, exp.Column):
        refuse(node, "is not a column name; a join equates columns")
    found = rows.resolve(node)
    if not isinstance(found, Ref):
        refuse(node, "is computed in a subquery; a join equates columns of tables and keys of subqueries")
    return found


def _projected(node: exp.Expr, rows: Rows) -> dict[str, Expression]:
    """The columns that an item of a subquery's SELECT adds."""
    if isinstance(node, exp.Star):
        only(node, "*", set())
        listed = [name for source in rows.sources for name in source.columns]
        return {name: rows.resolve(exp.column(name)) for name in dict.fromkeys(listed)}
    alias, node = unaliased(node)
    expression = rows.reader("in a subquery").read(node)
    return {alias or column_name(node): expression}


def unaliased(node: exp.Expr) -> tuple[str | None, exp.Expr]:
    """(alias or None, the expression) of an item of SELECT."""
    if isinstance(node, exp.Alias):
        only(node, "alias", {"this", "alias"})
        return name_of(node.args["alias"]), bare(node.this)
    return None, bare(node)


def column_name(node: exp.Expr) -> str:
    """The name of a column that is projected without an alias. Raises Malformed."""
    if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star):
        refuse(node, "needs a name in a subquery: write ... AS name")
    return name_of(node.this)


def group_items(select: exp.Select, rows: Rows) -> list[tuple[exp.Expr, Expression]]:
    """Return the GROUP BY items with what they stand for: a column, an alias or a position of SELECT, or an expression."""
    group = select.args.get("group")
    if group is None:
        return []
    only(group, "GROUP BY", {"expressions"})
    if not group.expressions:
        raise Malformed("GROUP BY ALL, ROLLUP, CUBE and GROUPING SETS are not accepted; list columns", code="sql", where=position(select))
    aliases: dict[str, exp.Expr] = {}
    for item in select.expressions:
        if isinstance(item, exp.Alias):
            alias, inner = unaliased(item)
            aliases.setdefault(str(alias), inner)
    found: list[tuple[exp.Expr, Expression]] = []
    for written in group.expressions:
        node = bare(written)
        if isinstance(node, (exp.Rollup, exp.Cube, exp.GroupingSets)):
            refuse(node, "is not accepted; list columns and ask one query for each set of keys")
        if isinstance(node, exp.Literal) and not node.is_string:
            index = int(node.this) if str(node.this).isdigit() and len(str(node.this)) < 6 else 0
            if not 1 <= index <= len(select.expressions):
                refuse(node, f"is no position in SELECT, which has {len(select.expressions)} columns")
            node = unaliased(select.expressions[index - 1])[1]
        elif isinstance(node, exp.Column) and not node.args.get("table") and isinstance(node.this, exp.Identifier):
            name = name_of(node.this)
            if name in aliases and not any(name in source.columns for source in rows.sources):
                node = aliases[name]
        expression = rows.reader("in GROUP BY").read(node)
        if isinstance(expression, Constant):
            refuse(written, "is not accepted in GROUP BY: it is a constant")
        found.append((written, expression))
    return found


@dataclass(slots=True)
class PerUnitReader:
    """Reads a subquery that aggregates per privacy unit. What it computes from its aggregates is resolved away around it."""

    sources: Sources
    select: exp.Select
    rows: Rows
    name: str
    keys: dict[Expression, str] = field(default_factory=dict)
    columns: dict[UnitColumn, str] = field(default_factory=dict)
    scope: dict[tuple[str, str], Typed] = field(default_factory=dict)
    by: Ref | None = None

    def read(self, alias: str) -> Rows:
        """Return the subquery as rows under `alias`. Raises Malformed."""
        self.sources.subqueries += 1
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
            shape=shape(relation, self.sources.declarations),
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
        self.scope.update(shape(self._relation(), self.sources.declarations).scope)

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

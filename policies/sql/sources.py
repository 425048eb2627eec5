"""FROM and WITH of SQL: the relation that a SELECT reads, through joins and subqueries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sqlglot.expressions as exp

from policies.declaration import Declaration
from policies.errors import Malformed
from policies.expression import Ref
from policies.query import MAX_SOURCES, Table, declared
from policies.shape import shape
from policies.sql.joins import join, require_inner
from policies.sql.rows import Rows, Source
from policies.sql.subqueries import PerUnitReader, is_per_unit, projected
from policies.sql.text import alias_of, at, name_of, only, position, refuse, refuse_construct

MAX_SUBQUERIES = 12
"""Deepest nesting of subqueries and chains of WITH."""

Queries = Mapping[str, exp.Select]
"""The subqueries that WITH names."""


@dataclass(slots=True)
class Sources:
    """Reads FROM clauses, numbering tables `t0`, `t1`, ... and subqueries per unit `q0`, ... in the order in which they appear."""

    declarations: Mapping[str, Declaration]
    tables: int = 0
    subqueries: int = 0
    used: set[int] = field(default_factory=set)
    """Identities of the WITH queries that something reads."""
    _visible: dict[int, tuple[str, Queries, str | None]] = field(default_factory=dict)
    """Name of each WITH query, what it sees, and its place, by identity."""

    def rows(self, select: exp.Select, queries: Queries, depth: int = 0) -> Rows:
        """Return what a SELECT reads, WHERE included. Raises Malformed."""
        if depth > MAX_SUBQUERIES:
            raise Malformed(f"subqueries nest deeper than {MAX_SUBQUERIES} levels", code="sql")
        if not select.args.get("from_"):
            raise Malformed("the query has no FROM", code="sql", where=position(select))
        joins = select.args.get("joins") or []
        if len(joins) >= MAX_SOURCES:
            raise Malformed(f"at most {MAX_SOURCES} tables may be joined, not {len(joins) + 1}", code="sql")
        only(select.args["from_"], "FROM", {"this"})
        found = self._source(select.args["from_"].this, queries, depth)
        for joined in joins:
            found = self._join(found, joined, queries, depth)
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
            why = "WITH RECURSIVE is not accepted; a query reads tables and earlier subqueries only"
            raise Malformed(why, code="sql", where=position(clause))
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
            self._visible[id(query.this)] = name, {k: v for k, v in found.items() if k != name}, position(query)
        return found

    def require_used(self) -> None:
        """Raise Malformed if a query of WITH is read by nothing."""
        for key, (name, _, place) in self._visible.items():
            if key not in self.used:
                raise Malformed(f"WITH names `{name}`, which nothing reads; drop it", code="sql", where=place)

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
        require_inner(node)
        return join(left, self._source(node.this, queries, depth), node, self.declarations)

    def _subquery(self, select: exp.Select, alias: str, queries: Queries, depth: int) -> Rows:
        only(select, "a subquery", {"expressions", "from_", "joins", "where", "group", "having", "with_"})
        for item in select.expressions:
            if (window := item.find(exp.Window)) is not None:
                refuse_construct(window, "in a subquery")
        rows = self.rows(select, self.named_queries(select, queries), depth + 1)
        if not is_per_unit(select):
            return projected(select, alias, rows)
        name = f"q{self.subqueries}"
        self.subqueries += 1
        with at(select):
            return PerUnitReader(declarations=self.declarations, select=select, rows=rows, name=name).read(alias)

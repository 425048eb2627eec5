"""JOIN of SQL: which columns it equates, and the rows of both sides together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sqlglot.expressions as exp

from policies.declaration import Declaration
from policies.errors import Malformed
from policies.expression import Ref
from policies.query import Equality, Join
from policies.shape import shape
from policies.sql.rows import Rows
from policies.sql.text import at, bare, conjuncts, only, position, refuse


def require_inner(node: exp.Join) -> None:
    """Raise Malformed for every join but an inner one with a condition."""
    if node.args.get("side") or node.args.get("method") or (node.args.get("kind") or "INNER") != "INNER":
        kind = " ".join(str(node.args[part]) for part in ("method", "side", "kind") if node.args.get(part)).upper()
        why = f"{kind} JOIN is not accepted, only an inner JOIN ... USING (...) or ON; outer, cross, natural and lateral joins are not"
        raise Malformed(why, code="sql", where=position(node))
    only(node, "JOIN", {"this", "using", "on", "kind"})


def join(left: Rows, right: Rows, node: exp.Join, declarations: Mapping[str, Declaration]) -> Rows:
    """Return the rows of both sides that an inner join puts together. Raises Malformed, also for a join that the law refuses."""
    if isinstance(right.relation, Join):
        why = "a subquery that joins tables must come first in FROM; or join its tables one after another"
        raise Malformed(why, code="sql", where=position(node))
    if {s.alias for s in left.sources} & {s.alias for s in right.sources}:
        raise Malformed(f"`{right.sources[0].alias}` names two tables; give each an alias", code="sql", where=position(node))
    pairs = _equalities(left, right, node)
    on = tuple(sorted(set(pairs), key=lambda e: (e.right.column, e.left.table, e.left.column, e.right.table)))
    relation = Join(left=left.relation, right=right.relation, on=on)
    with at(node):
        found = shape(relation, declarations)
    return Rows(relation=relation, where=left.where + right.where, sources=left.sources + right.sources, shape=found)


def _equalities(left: Rows, right: Rows, node: exp.Join) -> list[Equality]:
    if node.args.get("using"):
        columns = [exp.Column(this=identifier) for identifier in node.args["using"]]
        return [Equality(left=_key(left, column), right=_key(right, column)) for column in columns]
    if not node.args.get("on"):
        why = "a join needs USING (...) or ON, not a comma and WHERE; cross joins are not accepted"
        raise Malformed(why, code="sql", where=position(node))
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


def _key(rows: Rows, node: Any) -> Ref:
    node = bare(node)
    if not isinstance(node, exp.Column):
        refuse(node, "is not a column name; a join equates columns; write other conditions in WHERE")
    found = rows.resolve(node)
    if not isinstance(found, Ref):
        refuse(node, "is computed in a subquery; a join equates columns of tables and keys of subqueries")
    return found

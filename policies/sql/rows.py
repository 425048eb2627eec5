"""What a SELECT reads, in SQL: a relation, what its names stand for, and the items of SELECT and GROUP BY over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlglot.expressions as exp

from policies.errors import Malformed
from policies.expression import Constant, Expression, Ref
from policies.query import Join, Relation
from policies.shape import Shape
from policies.sql.expressions import Expressions
from policies.sql.text import bare, name_of, only, position, refuse


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
    if group.args.get("all"):
        raise Malformed("GROUP BY ALL is not accepted; list the keys", code="sql", where=position(select))
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
        if isinstance(node, exp.Tuple):
            refuse(node, "is not accepted in GROUP BY; list keys without brackets, or leave GROUP BY out for one cell")
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

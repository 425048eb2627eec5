"""Where in the text of a query something stands: line and column of the clause or aggregate that names a column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import sqlglot.expressions as exp

from policies.sql.text import parse_select, position

Place: TypeAlias = str
"""`line:column`, both from 1."""

_CLAUSES = {"joins": "JOIN", "where": "WHERE", "group": "GROUP BY", "expressions": "SELECT", "having": "HAVING", "order": "ORDER BY"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mention:
    """One place where a query's text names a column.

    Attributes:
        around: clause, and names of aggregates, CASE and FILTER around it, each with its own place, innermost first.
    """

    column: str
    inside: bool
    around: tuple[tuple[str, Place | None], ...]
    place: Place | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where a text names columns; `outputs`: where the outermost SELECT makes each named output."""

    mentions: tuple[Mention, ...] = ()
    outputs: tuple[tuple[str, Place | None], ...] = ()

    @classmethod
    def of(cls, sql: str) -> Places:
        """The places of a query; none for an empty text. Raises Malformed as `parse_select`."""
        if not sql:
            return cls()
        select = parse_select(sql)
        mentions = tuple(_mention(column, select) for column in select.find_all(exp.Column))
        return cls(mentions=mentions, outputs=tuple((item.alias_or_name, _place(item.unalias())) for item in select.expressions))

    def find(self, through: str, inside: bool, column: str, output: str) -> Place | None:
        """Where a column goes through something; None where the text does not name the column there."""
        wanted = "GROUP BY" if through == "discovered GROUP BY" else through
        if not inside and output and wanted not in ("CASE", "NULLIF", "FILTER", "GROUP BY"):
            return dict(self.outputs).get(output)
        for mention in self.mentions:
            around = dict(mention.around)
            if mention.column == column and mention.inside == inside and wanted in around:
                return around[wanted] or mention.place
        return None


def _mention(column: exp.Column, outermost: exp.Expr) -> Mention:
    around: dict[str, Place | None] = {}
    node: exp.Expr = column
    while node.parent is not None and not isinstance(node.parent, exp.Select):
        node = node.parent
        for name in _names(node):
            around.setdefault(name, _place(node))
    if node.arg_key in _CLAUSES:
        around.setdefault(_CLAUSES[node.arg_key], _place(column))
    return Mention(column=column.name.lower(), inside=node.parent is not outermost, around=tuple(around.items()), place=_place(column))


def _names(node: exp.Expr) -> Iterator[str]:
    if isinstance(node, exp.AggFunc):
        distinct = isinstance(node, exp.Count) and isinstance(node.this, exp.Distinct)
        yield "COUNT_DISTINCT" if distinct else node.key.upper()
    elif isinstance(node, (exp.Case, exp.If)):  # the parser knows no place of the word CASE: its first condition stands for it
        yield "CASE"
    elif isinstance(node, exp.Nullif):
        yield "NULLIF"
    elif isinstance(node, exp.Filter):
        yield "FILTER"


def _place(node: exp.Expr) -> Place | None:
    text = position(node)
    return None if text is None else text.removeprefix("line ").replace(", column ", ":")

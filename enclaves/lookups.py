"""Joins on the privacy unit with a side that has at most one row per unit, without making the joined rows.

The rows of the other table, the main one, are added up per unit and cell as if nothing were joined. What the side says of a unit, whether
it passes the condition and which keys it has, is the same for all rows of the unit, so it is looked up once per unit afterwards. A unit
and its cells come out as they would of joined rows, and bounds are applied to them after the join, whatever a provider says of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from enclaves.cells import Layout, row_query
from enclaves.kit.arrays import Array, as_array, is_ascending, longest
from enclaves.kit.tables import Connection, arrow
from enclaves.lines import Domain, coded
from enclaves.pairs import Codes, Lines, Pairs
from policies.declaration import Declaration
from policies.expression import Expression, Ref, refs
from policies.query import Join, Plan, Relation, Table, relations
from policies.schedule import Statistic
from policies.shape import shape

NEAR = 4
"""Places per unit up to which a block's units are found by their distance from the first one rather than by bisection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A plan over a join, taken apart.

    Attributes:
        main: the plan of its one table alone, with the keys that this table has and no condition.
        side: the plan of the other relation, with its keys and the whole condition.
        of_side: of every key of the whole plan, whether it is the side's.
    """

    main: Plan
    side: Plan
    of_side: tuple[bool, ...]


def split(plan: Plan, statistics: Sequence[Statistic], declarations: Mapping[str, Declaration]) -> Split | None:
    """Take a plan apart; None unless it joins one table, by the privacy unit alone, with what has at most one row per unit, adds up columns
    of that table, and its conditions read the other side only. Keys are public, and each is of one side.
    """
    join = plan.source
    if not isinstance(join, Join) or plan.discovers or len(join.on) != 1:
        return None
    for main, side in ((join.left, join.right), (join.right, join.left)):
        if not isinstance(main, Table) or not _by_unit(join, main, side, declarations):
            continue
        added_up = [e for s in statistics for e in (*s.measured.arguments, s.measured.filter) if e is not None]
        if not all(isinstance(e, Ref) and e.table == main.alias for e in added_up) or not _reads(plan.where, side):
            continue
        of_side = tuple(_reads(key.expression, side) for key in plan.group_by)
        if not all(of or _reads(key.expression, main) for key, of in zip(plan.group_by, of_side, strict=True)):
            continue
        parts = [tuple(key for key, of in zip(plan.group_by, of_side, strict=True) if of is wanted) for wanted in (False, True)]
        alone = replace(plan, outputs=plan.aggregates, having=(), order=(), limit=None)
        return Split(
            main=replace(alone, source=main, where=None, group_by=parts[0]),
            side=replace(alone, source=side, group_by=parts[1]),
            of_side=of_side,
        )
    return None


def _by_unit(join: Join, main: Table, side: Relation, declarations: Mapping[str, Declaration]) -> bool:
    """Whether the privacy units of two protected sides are equated, and one of them has at most one row of each."""
    units, found = shape(main, declarations).unit, shape(side, declarations)
    equated = {(ref.table, ref.column) for ref in (join.on[0].left, join.on[0].right)}
    single = found.rows == 1 or any(key <= found.unit for key in found.keys)
    return bool(units) and single and len(equated & units) == 1 and len(equated & found.unit) == 1


def _reads(expression: Expression | None, relation: Relation) -> bool:
    """Whether an expression reads nothing but columns of a relation."""
    aliases = {inner.alias for inner in relations(relation) if not isinstance(inner, Join)}
    return all(ref.table in aliases for ref in refs(expression))


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """The units that pass, in ascending order, each once, and their keys in the order of the plan of the side."""

    units: Array
    keys: tuple[Codes, ...]


def side_of(connection: Connection, found: Layout, domains: Sequence[Domain]) -> Side | None:
    """What the database says of the side's units; None if one of them has two rows, which no bound of `shape` lets pass."""
    table = arrow(connection, row_query(found))
    units = as_array(table.column("u"))
    keys = tuple(coded(table.column(name), domain) for name, domain in zip(found.keys, domains, strict=True))
    if not is_ascending(units):
        order = np.argsort(units, kind="stable")
        units, keys = units[order], tuple(replace(key, values=key.values[order]) for key in keys)
    if len(units) and longest(units) > 1:
        return None
    return Side(units=units, keys=keys)


@dataclass(frozen=True, kw_only=True, slots=True)
class LookUp:
    """Turns pairs of the main table into pairs of the join."""

    side: Side
    of_side: tuple[bool, ...]

    def __call__(self, lines: Lines, pairs: Pairs) -> tuple[Lines, Pairs]:
        """The pairs of units that the side has, and what the numbers of their cells mean."""
        held = pairs.held
        place = places(pairs.units[np.cumsum(held) - held], self.side.units)
        owner = np.repeat(place, held)
        kept = np.flatnonzero(owner >= 0)
        cells, meaning = self._cells(pairs.cells[kept], owner[kept], lines)
        joined = Pairs(
            units=pairs.units[kept],
            cells=cells,
            rows=pairs.rows[kept],
            totals={name: total[kept] for name, total in pairs.totals.items()},
        )
        return meaning, joined

    def _cells(self, cells: Array, owner: Array, lines: Lines) -> tuple[Array, Lines]:
        if not any(self.of_side):
            return cells, lines
        numbers: list[Array] = []
        for key in reversed(lines.keys):
            cells, number = np.divmod(cells, key.size)
            numbers.append(number)
        main = zip(lines.keys, reversed(numbers), strict=True)
        side = ((key, key.values[owner]) for key in self.side.keys)
        found, keys = np.zeros(len(owner), np.int64), []
        for of_side in self.of_side:
            key, number = next(side if of_side else main)
            found *= key.size
            found += number
            keys.append(key)
        return found, replace(lines, keys=tuple(keys))


def places(units: Array, among: Array) -> Array:
    """Of every unit its place in `among`, -1 where it is not there; both are in ascending order, each unit once."""
    if not len(units) or not len(among):
        return np.full(len(units), -1)
    start, end = np.searchsorted(among, (units[0], units[-1]), side="left")
    near = among[start : end + 1]
    span = int(units[-1]) - int(units[0]) + 1
    if span <= NEAR * len(units):
        by_distance = np.full(span, -1)
        near = near[near <= units[-1]]
        by_distance[near - units[0]] = np.arange(start, start + len(near))
        found: Array = by_distance[units - units[0]]
        return found
    if not len(near):
        return np.full(len(units), -1)
    place = np.searchsorted(near, units).clip(max=len(near) - 1)
    return np.where(near[place] == units, place + start, -1)

"""What each unit may add to cells, from rows added up per unit and cell. Every step looks at one unit's own pairs alone.

A unit keeps its first `cells` cells by a hash of unit and cell. Where it has n rows in a cell and may have R < n, each of its totals v
there counts as floor((v R + h) / n) with a remainder h in [0, n) by the same hash: as R rows like its average one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from enclaves.kit.arrays import Array
from enclaves.pairs import Codes, Lines, Pairs
from policies.schedule import Statistic
from policies.shape import Contribution

DENSE = 1 << 16
"""Cells up to which sums are kept for all of them rather than for those that occur."""

EXACT = 2.0**52
"""Whole numbers up to twice this are exact as doubles."""

KEPT_BITS = 28
"""Of the hash, which decide the order of a unit's cells; where they are equal, cells are in the order of their keys."""


@dataclass
class Sums:
    """Vectors over cells that pairs are added to, block by block of whole units.

    Attributes:
        every: whether all cells are listed in the end, also those without rows.
        largest: per statistic, the largest absolute amount of one row, where it is known.
        totals: by cell, one number per statistic, as Python integers.
        first: lines of which the keys' meaning is taken.
    """

    statistics: Sequence[Statistic]
    bound: Contribution
    every: bool
    largest: Mapping[str, int] = field(default_factory=dict)
    first: Lines | None = None
    dense: Array | None = None
    seen: Array | None = None
    totals: dict[int, list[int]] = field(default_factory=dict)

    def add(self, lines: Lines, pairs: Pairs) -> None:
        """Add the pairs of some units; `lines` tells what their keys mean, the same every time."""
        if self.first is None:
            self.first = lines
            if lines.width <= DENSE:
                self.dense = np.zeros((len(self.statistics), lines.width), np.int64)
                self.seen = np.full(lines.width, self.every)
        totals = [self._total(statistic, pairs) for statistic in self.statistics]
        if self.bound.bounded_by_cell:
            pairs, totals = self._bounded(pairs, totals, lines)
        self._accumulate(pairs.cells, totals)

    def by_key(self) -> dict[tuple[int | str | None, ...], list[int]]:
        """By key, one number per statistic, for every cell in which there are rows; others may be among them if `every`."""
        if self.first is None:
            return {}
        if self.dense is not None and self.seen is not None:
            present = np.flatnonzero(self.seen)
            return {self.first.key(cell): values for cell, values in zip(present.tolist(), self.dense[:, present].T.tolist(), strict=True)}
        return {self.first.key(cell): values for cell, values in self.totals.items()}

    def _total(self, statistic: Statistic, pairs: Pairs) -> Array:
        found = pairs.totals.get(statistic.name)
        if found is not None:
            return found
        return pairs.rows if statistic.measured.quantity == "rows" else np.ones(len(pairs.rows), np.int64)

    def _most(self, statistic: Statistic) -> int | None:
        """The largest absolute total of a bounded pair."""
        largest = self.largest.get(statistic.name)
        return largest * self.bound.per_cell if largest is not None and self.bound.bounded_by_cell else None

    def _bounded(self, pairs: Pairs, totals: list[Array], lines: Lines) -> tuple[Pairs, list[Array]]:
        cells = self.bound.cells
        # Units are in order: who has more cells than so many is found again so many places on.
        if bool((pairs.units[cells:] == pairs.units[: len(pairs.units) - cells]).any() if len(pairs.units) > cells else False):
            keep = first_cells(pairs, lines.keys, cells)
            pairs = Pairs(units=pairs.units[keep], cells=pairs.cells[keep], rows=pairs.rows[keep], totals={})
            totals = [total[keep] for total in totals]
        most = self.bound.per_cell
        over = np.flatnonzero(pairs.rows > most)
        if len(over):
            n = pairs.rows[over]
            turn = (hashes(pairs.units[over], pairs.cells[over], lines.keys, 1) % n.astype(np.uint64)).astype(np.int64)
            totals = [
                total if s.measured.quantity == "units" else _weighed(total, over, n, most, turn)
                for s, total in zip(self.statistics, totals, strict=True)
            ]
        return pairs, totals

    def _accumulate(self, cells: Array, totals: list[Array]) -> None:
        if self.dense is not None and self.seen is not None:
            for index, (statistic, total) in enumerate(zip(self.statistics, totals, strict=True)):
                self.dense[index] += summed(cells, total, len(self.seen), self._most(statistic))
            if not self.every:
                self.seen |= np.bincount(cells, minlength=len(self.seen)) > 0
            return
        present, place = np.unique(cells, return_inverse=True)
        sums = [summed(place, total, len(present)).tolist() for total in totals]
        for cell, *values in zip(present.tolist(), *sums, strict=True):
            before = self.totals.get(cell)
            self.totals[cell] = values if before is None else [a + b for a, b in zip(before, values, strict=True)]


def _weighed(total: Array, over: Array, n: Array, most: int, turn: Array) -> Array:
    held, weighed = total[over], total.copy()
    if max(int(held.max()), -int(held.min())) * most + int(n.max()) <= EXACT:
        # A quotient of whole numbers below 2^53 is rounded to no whole number beyond it, so its floor is that of the exact one.
        weighed[over] = np.floor((held.astype(np.float64) * most + turn) / n)
    else:
        whole, rest = np.divmod(held, n)
        weighed[over] = whole * most + (rest * most + turn) // n
    return weighed


def summed(places: Array, values: Array, size: int, largest: int | None = None) -> Array:
    """Exact sums of integers by place; sums must fit 64 bits.

    Args:
        largest: no absolute value is above it; None if that has to be looked up.
    """
    if not len(values):
        return np.zeros(size, np.int64)
    if largest is None:
        largest = max(int(values.max()), -int(values.min()))
    if largest * len(values) <= EXACT or float(np.abs(values).sum(dtype=np.float64)) <= EXACT:
        return np.bincount(places, values, minlength=size).astype(np.int64)
    found = np.zeros(size, np.int64)
    np.add.at(found, places, values)
    return found


def first_cells(pairs: Pairs, keys: tuple[Codes, ...], most: int) -> Array:
    """Which pairs are among the first `most` of their unit by the hash."""
    held = pairs.held
    many = np.repeat(held > most, held)
    chosen, held = np.flatnonzero(many), held[held > most]
    owner = np.repeat(np.arange(len(held), dtype=np.uint64), held)
    order = hashes(pairs.units[chosen], pairs.cells[chosen], keys, 0) >> np.uint64(64 - KEPT_BITS)
    local = np.arange(len(chosen), dtype=np.uint64)
    bits = len(chosen).bit_length()
    ranked: Array
    if len(held).bit_length() + KEPT_BITS + bits <= 64:
        packed = (owner << np.uint64(KEPT_BITS + bits)) | (order << np.uint64(bits)) | local
        packed.sort()
        ranked = packed & np.uint64((1 << bits) - 1)
    else:
        ranked = np.lexsort((local, order, owner))
    rank = np.arange(len(chosen)) - np.repeat(np.cumsum(held) - held, held)
    keep: Array = ~many
    keep[chosen[ranked[rank < most].astype(np.int64)]] = True
    return keep


def hashes(units: Array, cells: Array, keys: tuple[Codes, ...], purpose: int) -> Array:
    """64 bits that a unit and the values of its keys alone decide (the finaliser of SplitMix64, Steele, Lea and Flood 2014).

    They need not be secret: any rule that looks at nobody else's rows will do. How keys are numbered has no part in them, since that may
    depend on what others' rows hold.
    """
    found = _mixed(units.astype(np.uint64) + np.uint64((purpose + 1) * int(_GAMMA) % 2**64))
    for key in reversed(keys):
        cells, numbers = np.divmod(cells, key.size)
        for part in _value_hashes(key, numbers):
            found = _mixed(found ^ part)
    return found


_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mixed(x: Array) -> Array:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = x ^ (x >> np.uint64(31))
    return mixed


def _value_hashes(key: Codes, numbers: Array) -> list[Array]:
    """Per key that `key` stands for, the last one first, a number that the value decides."""
    if isinstance(key.labels, int):
        values = (numbers + key.labels).astype(np.uint64)
        return [np.where(numbers == key.size - 1, _GAMMA, values) if key.missing else values]
    if not len(numbers):
        return []
    present, place = np.unique(numbers, return_inverse=True)
    labels = [label if isinstance(label, tuple) else (label,) for label in map(key.label, present.tolist())]
    parts = np.asarray([[_value_hash(value) for value in reversed(label)] for label in labels], np.uint64)
    return [column[place] for column in parts.reshape(len(labels), -1).T]


def _value_hash(value: int | str | None) -> int:
    if value is None:
        return int(_GAMMA)
    if isinstance(value, str):
        return int.from_bytes(blake2b(value.encode(), digest_size=8).digest(), "big")
    return value % 2**64

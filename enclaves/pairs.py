"""Rows added up per unit and cell by sorting packed integers: the pairs that a GROUP BY finds, in a fraction of its time.

Unit, cell and amounts of a row are packed into one 64-bit integer, so that sorting brings the rows of a pair together and no order of rows
matters. Rows that come sorted by unit, as homes publish them, are sorted in small pieces, and not at all where cells are in order, too.
Nobody's word is taken for that order: it is seen in the rows themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from enclaves.kit.arrays import Array, is_ascending, lengths, starts

BITS, SHORT_BITS = 63, 31
"""Of a packed row; of one without amounts, if it is to be a short one."""

MOST_ROWS = 2**31
"""Of one unit in one cell. An amount of one row is at most 2^62 / MOST_ROWS, so that no sum passes 62 bits."""

MOST_CELLS = 2**30
"""Combinations of keys in one number, beside units that are numbered."""

BLOCK = 1 << 17
"""Rows that are looked at together; their arrays stay near the core."""

PIECE = 4096
"""Rows that are sorted at a time where units are in order; they fit a core's first cache."""


LONG = np.dtype(np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Codes:
    """A key of every row as a number from 0 to `size` - 1, in the order of the values that the numbers stand for, NULL last.

    Attributes:
        labels: the values by number, without NULL; or the value of number 0, where numbers are consecutive integers. A key that stands for
            several has tuples.
        missing: whether the last number is NULL.
    """

    values: Array
    size: int
    labels: int | Sequence[int | str | tuple[int | str | None, ...]]
    missing: bool = False

    def label(self, number: int) -> Any:
        """The value that a number stands for."""
        if self.missing and number == self.size - 1:
            return None
        return self.labels + number if isinstance(self.labels, int) else self.labels[number]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lines:
    """The rows that count: the privacy unit, the keys, and what each adds to each statistic that is not the number of rows or units.

    Attributes:
        units: 64-bit integers.
        amounts: integers of 64 bits, or of 32 bits.
        any_of: the statistics of which a pair has 1 if any of its rows has.
        largest: per statistic, the largest absolute amount that a row may have, as declared; amounts of others may have any.
    """

    units: Array
    keys: tuple[Codes, ...]
    amounts: dict[str, Array]
    any_of: frozenset[str] = frozenset()
    largest: Mapping[str, int] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Number of combinations of keys."""
        return math.prod(key.size for key in self.keys)

    def key(self, cell: int) -> tuple[int | str | None, ...]:
        """The values of the keys in a cell of `Pairs.cells`."""
        found: list[int | str | None] = []
        for key in reversed(self.keys):
            cell, number = divmod(cell, key.size)
            label = key.label(number)
            if isinstance(label, tuple):
                return label
            found.append(label)
        return tuple(reversed(found))

    def chosen(self, rows: slice | Array) -> Lines:
        """Some of the rows."""
        return replace(
            self,
            units=self.units[rows],
            keys=tuple(replace(key, values=key.values[rows]) for key in self.keys),
            amounts={name: values[rows] for name, values in self.amounts.items()},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Rows added up per unit and cell, in ascending order of both.

    Attributes:
        units: the privacy units.
        cells: the keys' numbers as one, the last key's fastest.
        rows: how many rows there are.
        totals: per statistic, the sum over these rows.
    """

    units: Array
    cells: Array
    rows: Array
    totals: dict[str, Array]

    @property
    def held(self) -> Array:
        """Of every unit, in order, how many pairs it has."""
        return lengths(starts(self.units), len(self.units))


def pairs_of(lines: Lines, *, in_order: bool = False) -> Pairs:
    """Return the rows added up per unit and cell. Every sum must stay within 62 bits, and keys have at most `MOST_CELLS` combinations.

    Args:
        in_order: whether units are known to be in ascending order.
    """
    if not len(lines.units):
        nothing = np.zeros(0, np.int64)
        return Pairs(units=nothing, cells=nothing, rows=nothing, totals=dict.fromkeys(lines.amounts, nothing))
    first, last = (lines.units[0], lines.units[-1]) if in_order else (lines.units.min(), lines.units.max())
    reach = (int(last) - int(first) + 1) * lines.width
    if reach.bit_length() >= BITS:
        units, owner = np.unique(lines.units, return_inverse=True)
        found = pairs_of(replace(lines, units=owner))
        return replace(found, units=units[found.units])
    # Twice as many numbers fit the core where they are half as long.
    kind = np.dtype(np.int32 if reach.bit_length() <= SHORT_BITS else np.int64)
    packed, offset = _packed(lines, kind), _wrapped(int(first) * lines.width, kind)
    begin = starts(packed)
    places = packed.take(begin)
    places -= offset
    if is_ascending(places):
        return _reduced(places, begin, len(packed), lines.amounts, lines, int(first))
    packed -= offset
    packed, amounts = _sorted(packed.astype(np.int64, copy=False), reach, lines)
    begin = starts(packed)
    return _reduced(packed[begin], begin, len(packed), amounts, lines, int(first))


def sorted_pairs(blocks: Sequence[Lines], largest: Mapping[str, int]) -> Iterator[Pairs]:
    """Rows in any order added up per unit and cell, in parts of whole units.

    Args:
        blocks: with the same keys.
        largest: per statistic, the largest absolute amount of a row.
    """
    full = [block for block in blocks if len(block.units)]
    if not full:
        return
    first, last = min(int(block.units.min()) for block in full), max(int(block.units.max()) for block in full)
    bits = {name: (2 * largest[name]).bit_length() for name in full[0].amounts}
    if ((last - first + 1) * full[0].width - 1).bit_length() + sum(bits.values()) > BITS:
        yield pairs_of(in_a_row(full))
        return
    packed = np.empty(sum(len(block.units) for block in full), np.int64)
    end, offset = 0, _wrapped(first * full[0].width, LONG)
    for block in full:
        start, end = end, end + len(block.units)
        part = _packed(block, LONG)
        part -= offset
        for name, values in block.amounts.items():
            part <<= bits[name]
            part += values.astype(np.int64, copy=False) + largest[name]
        packed[start:end] = part
    packed.sort()
    below = sum(bits.values())
    for start, end in _cuts(packed, full[0].width << below):
        part, amounts = packed[start:end].copy(), {}
        for name in reversed(bits):
            amounts[name] = (part & ((1 << bits[name]) - 1)) - largest[name]
            part >>= bits[name]
        begin = starts(part)
        yield _reduced(part[begin], begin, len(part), amounts, full[0], first)


def _cuts(packed: Array, span: int) -> Iterator[tuple[int, int]]:
    """Where parts of about `BLOCK` sorted rows begin and end, between units; a unit's rows span `span` numbers."""
    marks = packed[::BLOCK] // span * span
    cuts = np.unique(np.searchsorted(packed, marks)).tolist()
    yield from zip(cuts, [*cuts[1:], len(packed)], strict=True)


def in_a_row(blocks: Sequence[Lines]) -> Lines:
    """Blocks with the same keys as one."""
    first = blocks[0]
    if len(blocks) == 1:
        return first
    keys = tuple(replace(key, values=np.concatenate([b.keys[index].values for b in blocks])) for index, key in enumerate(first.keys))
    amounts = {name: np.concatenate([b.amounts[name] for b in blocks]) for name in first.amounts}
    return replace(first, units=np.concatenate([b.units for b in blocks]), keys=keys, amounts=amounts)


def _packed(lines: Lines, kind: np.dtype[Any]) -> Array:
    """Unit and cell of every row as one number, which may wrap around the bits of `kind`."""
    packed: Array = lines.units.astype(kind)
    for key in lines.keys:
        packed *= key.size
        packed += key.values.astype(kind, copy=False)
    return packed


def _wrapped(number: int, kind: np.dtype[Any]) -> int:
    """A number as the bits of `kind` hold it. Less than it, packed rows are numbers from 0 on: no pass over all rows takes it from them."""
    half = 1 << (8 * kind.itemsize - 1)
    return (number + half) % (2 * half) - half


def _reduced(places: Array, begin: Array, count: int, amounts: dict[str, Array], lines: Lines, first: int) -> Pairs:
    """`count` sorted rows added up: runs of equal ones, of unit and cell `places`, begin at `begin`."""
    width = lines.width
    owners = places // width if width > 1 else places
    cells = places - owners * width if width > 1 else np.zeros(len(owners), np.int64)
    units, rows = owners.astype(np.int64), lengths(begin, count)
    units += first
    longest, ends = int(rows.max()), begin + rows
    ends -= 1
    totals = {}
    for name, values in amounts.items():
        # A declared bound for each of so many rows, as sums of 32 bits hold it.
        short = values.dtype == np.int32 and name in lines.largest and lines.largest[name] * longest < 2**31
        if name in lines.any_of:
            totals[name] = np.maximum.reduceat(values, begin)
        else:
            totals[name] = _added(values, ends, np.dtype(np.int32) if short else LONG)
    return Pairs(units=units, cells=cells.astype(np.int64, copy=False), rows=rows, totals=totals)


def in_one(keys: tuple[Codes, ...]) -> tuple[Codes, ...]:
    """The same keys, or, where they have very many combinations, one key of those that occur."""
    if math.prod(key.size for key in keys) <= MOST_CELLS:
        return keys
    present, place = np.unique(np.stack([key.values for key in keys], axis=1), axis=0, return_inverse=True)
    labels = [tuple(key.label(number) for key, number in zip(keys, line, strict=True)) for line in present.tolist()]
    return (Codes(values=place.reshape(-1), size=len(labels), labels=labels),)


def _added(values: Array, ends: Array, kind: np.dtype[Any]) -> Array:
    """Sums over runs whose last values are at `ends`. Running sums may wrap around the bits of `kind`; their differences must not."""
    running = np.cumsum(values, dtype=kind)
    upto = running.take(ends)
    added: Array = np.empty_like(upto)
    added[:1] = upto[:1]
    np.subtract(upto[1:], upto[:-1], out=added[1:])
    return added


def _sorted(packed: Array, reach: int, lines: Lines) -> tuple[Array, dict[str, Array]]:
    """Packed units and cells in ascending order, and the amounts in the same order."""
    least = {name: int(values.min()) for name, values in lines.amounts.items()}
    bits = {name: (int(values.max()) - least[name]).bit_length() for name, values in lines.amounts.items()}
    units = lines.units if is_ascending(lines.units) else None
    if (reach - 1).bit_length() + sum(bits.values()) <= BITS:
        for name, values in lines.amounts.items():
            packed <<= bits[name]
            packed |= values.astype(np.int64, copy=False) - least[name] if least[name] else values
        _sort(packed, units)
        amounts = {}
        for name in reversed(lines.amounts):
            amounts[name] = (packed & ((1 << bits[name]) - 1)) + least[name]
            packed >>= bits[name]
        return packed, amounts
    places = len(packed).bit_length()
    if (reach - 1).bit_length() + places <= BITS:
        packed <<= places
        packed |= np.arange(len(packed))
        _sort(packed, units)
        order = packed & ((1 << places) - 1)
        packed >>= places
    else:
        order = np.argsort(packed, kind="stable")
        packed = packed[order]
    return packed, {name: values[order] for name, values in lines.amounts.items()}


def _sort(packed: Array, units: Array | None) -> None:
    """Sort in place; by pieces that end between units, where these are in order already."""
    if units is None:
        packed.sort()
        return
    begin = starts(units)
    cuts = np.unique(begin[np.searchsorted(begin, np.arange(0, begin[-1] + 1, PIECE))])
    for start, end in zip(cuts, [*cuts[1:], len(packed)], strict=True):
        packed[start:end].sort()

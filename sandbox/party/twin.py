"""A synthetic twin: a table that a declaration alone describes. No data are looked at, so it may be handed to anybody who may read it.

The k-th unit of an id space is the same in every twin of that id space with the same seed and number of units, and meets the same keys in
the same order; therefore twins of two providers join. Values are uniform: a twin shows shape and noise, and nothing about the world.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import TypeAlias

from policies.declaration import Column, Declaration
from policies.errors import Malformed

Cell: TypeAlias = int | str | Decimal | None
NULL_SHARE = 0.05
"""Share of empty cells in a nullable column outside the key."""
_OPEN_RANGE = 1000
_OPEN_KEYS = 10**6
_OPEN_TEXTS = 50


def make_twin(declaration: Declaration, *, rows: int, seed: int, units: int | None = None) -> dict[str, list[Cell]]:
    """Return the columns of a twin.

    Args:
        rows: number of rows.
        units: number of distinct privacy units; by default as many as halve `rows_per_unit` on average.

    Raises:
        Malformed: the declaration allows no such table: too many or too few rows for the units, or more units than values of the unit.
    """
    if declaration.public:
        return _public_twin(declaration, rows, seed, units)
    key = [declaration.column(name) for name in declaration.unique_key if name != declaration.unit]
    most = min(declaration.rows_per_unit, math.prod(_size(column) for column in key))
    people = units if units is not None else max(1, -(-rows // max(1, (most + 1) // 2)))
    _require_possible(declaration, rows, people, most)
    counts = _rows_of_units(f"{seed}/{declaration.id_space}", rows, people, most)
    names = _values(declaration.column(declaration.unit))
    columns: dict[str, list[Cell]] = {column.name: [] for column in declaration.columns}
    for unit, count in enumerate(counts):
        columns[declaration.unit] += [names[unit]] * count
        for cells in _keys(f"{seed}/{declaration.id_space}/{unit}", key, count):
            for column, cell in zip(key, cells, strict=True):
                columns[column.name].append(cell)
    _fill(columns, declaration, rows, seed)
    return columns


def _public_twin(declaration: Declaration, rows: int, seed: int, units: int | None) -> dict[str, list[Cell]]:
    """As many distinct keys as rows: where there are as many as possible, every key that a protected table can hold."""
    key = [declaration.column(name) for name in declaration.unique_key]
    most = math.prod(_size(column) for column in key)
    if units is not None:
        raise Malformed("a public table has no privacy units", where="units")
    if rows > most:
        raise Malformed(f"the unique key of `{declaration.dataset}` has {most} values", where="rows")
    columns: dict[str, list[Cell]] = {column.name: [] for column in declaration.columns}
    for cells in _keys(f"{seed}/{declaration.dataset}", key, rows):
        for column, cell in zip(key, cells, strict=True):
            columns[column.name].append(cell)
    _fill(columns, declaration, rows, seed)
    return columns


def _fill(columns: dict[str, list[Cell]], declaration: Declaration, rows: int, seed: int) -> None:
    for column in declaration.columns:
        if column.name not in declaration.unique_key:
            draw = random.Random(f"{seed}/{declaration.dataset}/{column.name}")
            columns[column.name] = [_cell(column, draw) for _ in range(rows)]


def _require_possible(declaration: Declaration, rows: int, units: int, most: int) -> None:
    if not 1 <= units <= _size(declaration.column(declaration.unit)):
        raise Malformed(f"`{declaration.unit}` does not have {units} values", where="units")
    if not units <= rows <= units * most:
        message = (
            f"{units} units have {units} to {units * most} rows: at least one each, and at most {most} by `rows_per_unit` and `unique_key`"
        )
        raise Malformed(message, where="rows")


def _rows_of_units(seed: str, rows: int, units: int, most: int) -> list[int]:
    """How many rows each unit has: an even share, then as many random moves as there are units."""
    draw = random.Random(f"{seed}/rows")
    counts = [rows // units + (unit < rows % units) for unit in range(units)]
    for _ in range(units):
        giver, taker = draw.randrange(units), draw.randrange(units)
        if giver != taker and counts[giver] > 1 and counts[taker] < most:
            counts[giver] -= 1
            counts[taker] += 1
    return counts


def _keys(seed: str, key: Sequence[Column], count: int) -> list[tuple[Cell, ...]]:
    """`count` distinct combinations of key values: a walk i -> start + i * step through all of them that meets each once."""
    sizes = [_size(column) for column in key]
    total = math.prod(sizes)
    draw = random.Random(f"{seed}/keys")
    start, step = draw.randrange(total), draw.randrange(1, total + 1)
    while math.gcd(step, total) != 1:
        step += 1
    values = [_values(column) for column in key]
    found = []
    for index in range(count):
        place, cells = (start + index * step) % total, []
        for size, of in zip(sizes, values, strict=True):
            place, digit = divmod(place, size)
            cells.append(of[digit])
        found.append(tuple(cells))
    return found


class _Range(Sequence[Cell]):
    """Values of a key column as a sequence that is never laid out."""

    def __init__(self, column: Column) -> None:
        self._text = column.type == "text"
        self._first = column.bounds[0] if column.lower is not None else 1
        self._size = column.bounds[1] - self._first + 1 if column.lower is not None else _OPEN_KEYS

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Cell:  # type: ignore[override]
        return f"k{index + 1:06d}" if self._text else self._first + index


def _values(column: Column) -> Sequence[Cell]:
    return column.domain if column.domain is not None else _Range(column)


def _size(column: Column) -> int:
    return len(_values(column))


def _cell(column: Column, draw: random.Random) -> Cell:
    if column.nullable and draw.random() < NULL_SHARE:
        return None
    if column.domain is not None:
        return draw.choice(column.domain)
    if column.type == "text":
        return f"text-{draw.randrange(_OPEN_TEXTS)}"
    lower, upper = column.bounds if column.lower is not None else (0, _OPEN_RANGE * 10**column.decimals)
    units = draw.randint(lower, upper)
    return Decimal(units).scaleb(-column.decimals) if column.type == "decimal" else units

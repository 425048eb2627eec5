"""Columns as arrays of 64-bit integers, without a database: what `tables` writes in SQL, for the kinds of cells that homes publish.

A column that this module does not know how to read is None, and the database reads it. Both read every cell alike, so that nobody's cells
decide what becomes of other cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from policies.declaration import Column, Declaration

Array: TypeAlias = "np.ndarray[Any, Any]"

DENSE = 4
"""Range of integers, as a multiple of how many there are, up to which they are counted in a table of all that may occur."""

MOST = 2**50
"""Bounds up to which doubles round as the database does."""


def whole_numbers(
    table: pa.Table, declaration: Declaration, name: str, *, clamp: bool, widen: bool = True
) -> tuple[Array, Array | None] | None:
    """A column in its fixed-point unit or in days, and where it is NULL (None: nowhere); None if the database has to read it.

    NULL in a column that is not nullable is read as its lower bound, or 0.

    Args:
        clamp: whether values are cut to the declared bounds.
        widen: whether values shall have 64 bits, or may have as few as they are stored with.
    """
    column = declaration.column(name)
    cells = _one_chunk(table.column(name))
    read = _plain(cells, column)
    if read is None:
        return None
    values, missing = read
    bounds = column.bounds if column.lower is not None else None
    if clamp and bounds is not None:
        values = _clamped(values, *bounds)
    if widen and values.dtype != np.int64:
        values = values.astype(np.int64)
    if missing is None or column.nullable:
        return values, missing
    values = np.where(missing, np.int64(0 if bounds is None else bounds[0]), values)
    return values, None


def repeats_beyond(table: pa.Table, declaration: Declaration, by: Sequence[str], most: int) -> bool | None:
    """Whether more than `most` rows share their values of the key columns `by`; None if the database has to look.

    Rows without a unit do not count.
    """
    parts = [_key_column(table, declaration, name) for name in by]
    if len(parts) != 1 or parts[0] is None:
        return None
    values = parts[0]
    if most >= len(values):
        return False
    if not is_ascending(values):
        least = int(values.min())
        if int(values.max()) - least < DENSE * len(values):
            return int(np.bincount(values - least).max()) > most
        values = np.sort(values)
    return bool((values[most:] == values[: len(values) - most]).any())


def is_whole(kind: pa.DataType) -> bool:
    """Whether every value of a type is a 64-bit integer."""
    return pa.types.is_integer(kind) and not pa.types.is_uint64(kind)


def _key_column(table: pa.Table, declaration: Declaration, name: str) -> Array | None:
    found = whole_numbers(table, declaration, name, clamp=False)
    return None if found is None or found[1] is not None or table.column(name).null_count else found[0]


def whole_units(table: pa.Table, declaration: Declaration) -> Array | None:
    """The privacy units of all rows as 64-bit integers; None if the database has to read them, or some row has none."""
    column = declaration.column(declaration.unit)
    if column.type != "integer" or (column.lower is not None and column.name not in declaration.unique_key):
        return None
    return _key_column(table, declaration, declaration.unit)


def places_of_part(units: Array, part: int, parts: int) -> Array:
    """Where the units stand that fall into this one of `parts` parts of about one size."""
    with np.errstate(over="ignore"):
        mixed = units.view(np.uint64) * _ODD
        mixed ^= mixed >> np.uint64(32)
        mixed *= _ODD
    # The upper half of a product depends on all bits; dividing by a number of parts would cost more than all the rest.
    upper = (mixed >> np.uint64(32)).astype(np.uint32)
    least, above = -(-(part << 32) // parts), -(-((part + 1) << 32) // parts)
    return np.flatnonzero(upper - np.uint32(least) < above - least)


_ODD = np.uint64(0xD6E8FEB86659FD93)


def is_ascending(values: Array) -> bool:
    """Whether no value is below the one before it."""
    # Counting is quicker than `any`.
    return not np.count_nonzero(values[1:] < values[:-1])


def starts(values: Array) -> Array:
    """Where runs of equal values begin."""
    new = np.empty(len(values), np.bool_)
    new[:1] = True
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return np.flatnonzero(new)


def lengths(begin: Array, count: int) -> Array:
    """How long the runs are that begin at `begin` and of which the last one ends at `count`."""
    found: Array = np.empty(len(begin), np.int64)
    np.subtract(begin[1:], begin[:-1], out=found[:-1])
    found[-1:] = count - begin[-1:]
    return found


def longest(values: Array) -> int:
    """Length of the longest run of equal values, of which there is at least one."""
    return int(lengths(starts(values), len(values)).max())


def as_array(column: pa.ChunkedArray | pa.Array) -> Array:
    """Cells without NULL as an array."""
    return np.asarray(_one_chunk(column) if isinstance(column, pa.ChunkedArray) else column)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _plain(cells: pa.Array, column: Column) -> tuple[Array, Array | None] | None:
    """Cells as numbers in the column's unit, unbounded, and where they are NULL. What stands at a NULL is any number."""
    kind = cells.type
    missing = np.asarray(cells.is_null()) if cells.null_count else None
    if column.type == "date" and pa.types.is_date32(kind):
        return _buffer(cells, np.dtype(np.int32)), missing
    if column.type == "integer" and is_whole(kind):
        return _buffer(cells, np.dtype(kind.to_pandas_dtype())), missing
    if column.type != "decimal" or column.lower is None or max(map(abs, column.bounds)) > MOST:
        return None
    if (pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind)) and kind.scale == column.decimals:
        return _buffer(cells, np.dtype(np.int32 if kind.bit_width == 32 else np.int64)), missing
    if pa.types.is_decimal128(kind) and kind.precision <= 18 and kind.scale == column.decimals:
        # Up to 18 digits the lower of two 64-bit words is the number.
        return np.ascontiguousarray(_buffer(cells, np.dtype(np.int64), words=2)), missing
    if pa.types.is_float64(kind):
        return _rounded(cells, missing, column)
    return None


def _buffer(cells: pa.Array, dtype: np.dtype[Any], *, words: int = 1) -> Array:
    """The values of an array as they lie in memory, whether or not they are NULL."""
    data = cells.buffers()[1]
    if data is None or not len(cells):
        return np.zeros(len(cells), dtype)
    return np.frombuffer(data, dtype, count=(cells.offset + len(cells)) * words)[cells.offset * words :: words]


def _rounded(cells: pa.Array, missing: Array | None, column: Column) -> tuple[Array, Array | None]:
    """Doubles in the column's unit: clamped, then rounded half away from zero. NaN is NULL."""
    lower, upper = column.bounds
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = _buffer(cells, np.dtype(np.float64)) * float(10**column.decimals)
        nothing = np.isnan(scaled)
        if nothing.any():
            missing = nothing if missing is None else missing | nothing
            scaled[nothing] = lower
        np.clip(scaled, float(lower), float(upper), out=scaled)
        near = np.rint(scaled)
        # `rint` takes ties to the even neighbour.
        short = np.flatnonzero(np.abs(scaled - near) == 0.5)
    if len(short):
        near[short] = np.trunc(scaled[short] + np.copysign(0.5, scaled[short]))
    return np.clip(near.astype(np.int64), lower, upper), missing


def places(count: int) -> pa.Array:
    """The numbers from 0 to below `count`."""
    return pa.array(np.arange(count, dtype=np.int64))


def is_within(values: Array, lower: int, upper: int) -> bool:
    """Whether no value is below `lower` or above `upper`."""
    if not len(values):
        return True
    if lower == 0 <= upper and values.dtype in _UNSIGNED:
        # Negative numbers are the largest unsigned ones: one pass instead of two.
        return int(values.view(_UNSIGNED[values.dtype]).max()) <= upper
    return lower <= int(values.min()) and int(values.max()) <= upper


_UNSIGNED: dict[np.dtype[Any], np.dtype[Any]] = {np.dtype(np.int32): np.dtype(np.uint32), np.dtype(np.int64): np.dtype(np.uint64)}


def _clamped(values: Array, lower: int, upper: int) -> Array:
    if is_within(values, lower, upper):
        return values
    limits = np.iinfo(values.dtype)
    if lower < limits.min or upper > limits.max:
        values = values.astype(np.int64)
    return np.clip(values, lower, upper)

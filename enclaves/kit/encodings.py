"""How the columns of a published table are encoded and compressed, so that an enclave decodes them quickly. Any other way reads alike."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SAMPLE, MANY = 1 << 16, 1 << 12
"""Where the first rows of a column of whole numbers hold more than so many different ones, a dictionary costs more than it saves."""

ROWS_PER_PAGE = 1 << 17
"""Every page is encrypted by itself, which costs as much as a few thousand values do. Pages of more than 1 MiB end earlier."""

WORTH_IT = 0.8
"""Whole numbers are compressed after their encoding where the first rows shrink to less than so much of their size."""

SHORT_DIGITS, LONG_DIGITS = 9, 18
"""Of decimals that are stored as integers of 32 and of 64 bits."""


def encodings(table: pa.Table) -> dict[str, Any]:
    """Return what `pyarrow.parquet.write_table` is told of encodings and compression."""
    encoded = {name: found for name in table.column_names if (found := _encoding(table.column(name).slice(0, SAMPLE))) is not None}
    return {
        "compression": {name: _compression(name, table.column(name).slice(0, SAMPLE), encoded.get(name)) for name in table.column_names},
        "store_decimal_as_integer": True,
        "use_dictionary": [name for name in table.column_names if name not in encoded],
        "column_encoding": encoded,
        "max_rows_per_page": ROWS_PER_PAGE,
    }


def _compression(name: str, cells: pa.ChunkedArray, encoding: str | None) -> str:
    """How a column is compressed. What an encoding leaves of whole numbers shrinks no further for the time that zstd takes to read it."""
    if _whole_bits(cells.type) is None:
        return "zstd"
    sizes = {}
    for compression in ("none", "lz4"):
        sink = io.BytesIO()
        pq.write_table(
            pa.table({name: cells}),
            sink,
            compression=compression,
            use_dictionary=encoding is None,
            column_encoding=encoding,
            store_decimal_as_integer=True,
        )
        sizes[compression] = sink.tell()
    return "lz4" if sizes["lz4"] < WORTH_IT * sizes["none"] else "none"


def _encoding(cells: pa.ChunkedArray) -> str | None:
    """How a column is stored, by its first rows; None with a dictionary."""
    bits = _whole_bits(cells.type)
    if bits is None or int(pc.count_distinct(cells).as_py()) <= MANY:
        return None
    return "BYTE_STREAM_SPLIT" if bits == 32 and not _is_ascending(cells) else "DELTA_BINARY_PACKED"


def _is_ascending(cells: pa.ChunkedArray) -> bool:
    numbers = cells.cast(pa.decimal128(LONG_DIGITS, cells.type.scale)) if pa.types.is_decimal(cells.type) else cells
    return bool(pc.all(pc.less_equal(numbers.slice(0, len(numbers) - 1), numbers.slice(1))).as_py())


def _whole_bits(kind: pa.DataType) -> int | None:
    """32 or 64 where Parquet stores a type as integers of so many bits."""
    if pa.types.is_integer(kind):
        return int(kind.bit_width) if kind.bit_width >= 32 else None
    if pa.types.is_decimal(kind) and kind.precision <= LONG_DIGITS:
        return 32 if kind.precision <= SHORT_DIGITS else 64
    return None

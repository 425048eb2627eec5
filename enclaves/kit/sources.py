"""The provider's end of a seal: reading a local table and holding it to its declaration before it is encrypted."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from policies.declaration import Column, Declaration
from policies.errors import Malformed

Table: TypeAlias = pa.Table


def read_table(path: Path, declaration: Declaration) -> pa.Table:
    """Return the declared columns of a local Parquet file, checked against the declaration.

    Raises:
        Malformed: unreadable, a missing column or one of the wrong kind, a missing privacy unit, or rows that repeat the unique key.
    """
    try:
        table = pq.read_table(path, columns=None)
        table.validate(full=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise Malformed(f"{path.name} is not a readable Parquet file, or holds text that is not UTF-8", code="unreadable") from error
    missing = [column.name for column in declaration.columns if column.name not in table.column_names]
    if missing:
        raise Malformed(f"{path.name} has no column `{missing[0]}`", code="unknown-column")
    table = table.select([column.name for column in declaration.columns])
    for column in declaration.columns:
        _require_kind(column, table.schema.field(column.name).type)
    if table.column(declaration.unit).null_count:
        raise Malformed(f"some rows have no `{declaration.unit}`", where=declaration.unit, code="unit-missing")
    keys = table.group_by(list(declaration.unique_key)).aggregate([])
    if keys.num_rows != table.num_rows:
        raise Malformed(
            f"({', '.join(declaration.unique_key)}) does not identify rows: {table.num_rows - keys.num_rows} rows repeat a key",
            code="key-not-unique",
        )
    return table


def dropped_and_clamped(table: pa.Table, declaration: Declaration) -> dict[str, int]:
    """Count, for the provider's eyes only, the cells that the declared bounds change and the rows beyond `rows_per_unit`."""
    counts = {}
    for column in declaration.columns:
        if column.lower is None or column.name in declaration.unique_key:
            continue
        lower, upper = column.bounds
        values = pc.multiply(table.column(column.name).cast(pa.float64(), safe=False), float(10**column.decimals))
        outside = pc.or_(pc.less(values, float(lower)), pc.greater(values, float(upper)))
        counts[column.name] = int(pc.sum(outside).as_py() or 0)
    per_unit = table.group_by(declaration.unit).aggregate([([], "count_all")]).column("count_all")
    excess = pc.sum(pc.max_element_wise(pc.subtract(per_unit, declaration.rows_per_unit), 0)).as_py()
    counts["rows beyond the contribution bound"] = int(excess or 0)
    return counts


def _require_kind(column: Column, kind: pa.DataType) -> None:
    # Of the numbers that Parquet holds, the enclave's database does not read 16-bit floats and 256-bit decimals.
    real = pa.types.is_float32(kind) or pa.types.is_float64(kind) or (pa.types.is_decimal(kind) and kind.bit_width <= 128)
    number = pa.types.is_integer(kind) or real
    fits = {
        "integer": pa.types.is_integer(kind) or pa.types.is_boolean(kind),
        "decimal": number,
        "text": pa.types.is_string(kind) or pa.types.is_large_string(kind),
    }[column.type]
    if not fits:
        raise Malformed(f"column `{column.name}` holds {kind}, and is declared {column.type}", where=column.name, code="column-type")

"""The provider's end of a seal: reading a local table and holding it to its declaration before it is encrypted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from enclaves.kit.formats import AnyFile, LocalTable, open_local, typed_csv
from policies.declaration import Column, Declaration
from policies.errors import Malformed

Table: TypeAlias = pa.Table


def read_table(path: AnyFile, declaration: Declaration, sources: Mapping[str, str] | None = None, *, memory: int | None = None) -> pa.Table:
    """Return the declared columns of a local Parquet, Arrow or CSV file, checked against the declaration.

    Args:
        sources: names in the file of declared columns that are called otherwise there.
        memory: bytes that may be used; by default what the machine says is available.

    Raises:
        Malformed: unreadable or too large, a missing column or one of the wrong kind, a missing privacy unit, or rows that repeat the
            unique key; with the line of a CSV file where there is one.
    """
    local = open_local(path, memory=memory)
    table = select_columns(local, declaration, sources or {})
    missing = -1 if declaration.public else pc.index(pc.is_valid(table.column(declaration.unit)), False).as_py()
    if missing >= 0:
        raise Malformed(f"{local.place(missing)}: no `{declaration.unit}`", where=declaration.unit, code="unit-missing")
    keys = table.group_by(list(declaration.unique_key)).aggregate([])
    if keys.num_rows != table.num_rows:
        raise Malformed(
            f"({', '.join(declaration.unique_key)}) does not identify rows: {table.num_rows - keys.num_rows} rows repeat a key,"
            f" first at {local.place(_first_repeat(table, declaration.unique_key))}",
            code="key-not-unique",
        )
    return table


def select_columns(local: LocalTable, declaration: Declaration, sources: Mapping[str, str]) -> pa.Table:
    """The declared columns of a file under their declared names and of their declared kind. Raises Malformed."""
    columns = {}
    for column in declaration.columns:
        source = sources.get(column.name, column.name)
        count = local.table.column_names.count(source)
        if count != 1:
            found = "no" if count == 0 else "more than one"
            raise Malformed(f"{local.path.name} has {found} column `{source}`", where=column.name, code="unknown-column")
        if local.format != "csv":
            _require_kind(column, local.table.schema.field(source).type)
        cells = typed_csv(local, source, column) if local.format == "csv" else local.table.column(source)
        columns[column.name] = cells.cast(pa.date32()) if column.type == "date" else cells
    return pa.table(columns)


def write_table(path: Path, columns: Mapping[str, Sequence[int | str | Decimal | None]], declaration: Declaration) -> None:
    """Write columns to a new file whose name ends in `.parquet`, `.arrow`, `.feather` or `.csv`. Raises Malformed, OSError."""
    arrays = {column.name: pa.array(columns[column.name], _written_as(column)) for column in declaration.columns}
    table = pa.table(arrays)
    if path.suffix == ".csv":
        pacsv.write_csv(table, path)
    elif path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix in (".arrow", ".feather"):
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    else:
        raise Malformed(f"{path.name} must end in .parquet, .arrow, .feather or .csv", where="file")


def _written_as(column: Column) -> pa.DataType:
    if column.type == "decimal":
        return pa.decimal128(18, column.decimals)
    return {"integer": pa.int64(), "date": pa.date32()}.get(column.type, pa.string())


def _first_repeat(table: pa.Table, key: Sequence[str]) -> int:
    seen = set()
    for row, cells in enumerate(zip(*(table.column(name).to_pylist() for name in key), strict=True)):
        if cells in seen:
            return row
        seen.add(cells)
    return 0


def dropped_and_clamped(table: pa.Table, declaration: Declaration) -> dict[str, int]:
    """Count, for the provider's eyes only, the cells that the declared bounds change and the rows beyond `rows_per_unit`."""
    counts = {}
    for column in declaration.columns:
        if column.lower is None or column.name in declaration.unique_key:
            continue
        lower, upper = column.bounds
        values = _numbers(table.column(column.name), column)
        outside = pc.or_(pc.less(values, float(lower)), pc.greater(values, float(upper)))
        counts[column.name] = int(pc.sum(outside).as_py() or 0)
    if declaration.public:
        return counts
    per_unit = table.group_by(declaration.unit).aggregate([([], "count_all")]).column("count_all")
    excess = pc.sum(pc.max_element_wise(pc.subtract(per_unit, declaration.rows_per_unit), 0)).as_py()
    counts["rows beyond the contribution bound"] = int(excess or 0)
    return counts


def _numbers(cells: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    """Cells as floating-point numbers of the column's units; dates as days, where a text that is no date is NULL."""
    if column.type != "date":
        return pc.multiply(cells.cast(pa.float64(), safe=False), float(10**column.decimals))
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        cells = pc.strptime(cells, format="%Y-%m-%d", unit="s", error_is_null=True)
    return cells.cast(pa.date32(), safe=False).cast(pa.int32()).cast(pa.float64())


def _require_kind(column: Column, kind: pa.DataType) -> None:
    # Of the numbers that Parquet holds, the enclave's database does not read 16-bit floats and 256-bit decimals.
    real = pa.types.is_float32(kind) or pa.types.is_float64(kind) or (pa.types.is_decimal(kind) and kind.bit_width <= 128)
    number = pa.types.is_integer(kind) or real
    fits = {
        "integer": pa.types.is_integer(kind) or pa.types.is_boolean(kind),
        "decimal": number,
        "text": pa.types.is_string(kind) or pa.types.is_large_string(kind),
        "date": pa.types.is_date(kind) or pa.types.is_timestamp(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind),
    }[column.type]
    if not fits:
        raise Malformed(f"column `{column.name}` holds {kind}, and is declared {column.type}", where=column.name, code="column-type")

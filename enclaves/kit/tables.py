"""A locked DuckDB in memory, and the SQL that reads and bounds tables: the one owner of duckdb.

The database has no file, no network, no extensions and no spill folder, and its configuration is locked. Every expression is total: casts
are TRY_CAST, arithmetic is on clamped values, so no row can raise an error that tells about it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa

from enclaves.kit.arrays import is_whole, places, places_of_part, repeats_beyond, whole_numbers, whole_units
from enclaves.kit.expressions import Fragment, days_of, empty
from policies.declaration import Column, Declaration
from policies.shape import column_type

MAX_THREADS = 16

FEW_KEPT = 64
"""Most rows per combination that are found by their smallest hashes rather than by sorting."""

OutOfMemory = duckdb.OutOfMemoryException
"""Raised when a database has used up its memory; it never spills."""

Connection: TypeAlias = duckdb.DuckDBPyConnection

DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
"""Ticks of a timestamp per day."""


def bound_threads(most: int = MAX_THREADS) -> None:
    """Let pyarrow have at most so many threads of each kind; by default it takes one per core, and a process has only so many."""
    pa.set_cpu_count(min(most, len(os.sched_getaffinity(0))))
    pa.set_io_thread_count(min(most, 8))


def open_database(*, memory_mib: int, threads: int) -> Connection:
    """Return a connection to a fresh in-memory database that cannot reach anything outside itself.

    It never has more threads than the process has cores: two of them on one core take half as long again as one.
    """
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{memory_mib}MiB",
            "threads": str(min(threads, len(os.sched_getaffinity(0)))),
            "temp_directory": "",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
        },
    )
    # The rewrite of "first n of each" into lists is slower for rows as narrow as ours.
    connection.execute("SET disabled_optimizers='top_n_window_elimination'")
    connection.execute("SET enable_external_access=false")
    connection.execute("SET lock_configuration=true")
    return connection


def rows_of_units(connection: Connection, table: pa.Table, declaration: Declaration, part: int, parts: int) -> pa.Table:
    """Return the rows whose privacy unit, as `load_table` normalises it, falls into this part. Rows without one fall into none."""
    units = whole_units(table, declaration)
    if units is not None:
        return table.take(pa.array(places_of_part(units, part, parts), pa.int64()))
    cells, value = _normal_cells(readable(table.select([declaration.unit])), declaration, declaration.unit)
    connection.register("_batch", pa.table({declaration.unit: cells, "_place": places(table.num_rows)}))
    if declaration.column(declaration.unit).type == "text":
        query = f"SELECT _place FROM _batch WHERE {value} IS NOT NULL AND hash({value}) % {int(parts)} = {int(part)}"  # noqa: S608 - quoted names
        kept = connection.execute(query).fetchnumpy()["_place"]
    else:
        # A unit falls into the same part in a table that the database does not have to read.
        query = f"SELECT _place, ({value})::BIGINT AS _unit FROM _batch WHERE {value} IS NOT NULL"  # noqa: S608 - quoted names
        found = connection.execute(query).fetchnumpy()
        kept = found["_place"][places_of_part(found["_unit"], part, parts)]
    connection.unregister("_batch")
    return table.take(pa.array(kept, pa.int64()))


def load_table(
    connection: Connection, name: str, table: pa.Table, declaration: Declaration, columns: Sequence[str], *, bounded: bool, unique: bool
) -> None:
    """Make `name` the normalised rows of `table`: values typed, clamped to declared bounds, and no row without a privacy unit.

    Key columns are not clamped, since that would merge units. Where `bounded`, at most `rows_per_unit` rows are kept per unit; where
    `unique` as well, one per unique key. Which ones depends only on the unit's own row contents (a hash over the row, then the row itself),
    never on other units or on the order of rows, so one unit's presence changes no other unit's rows.
    """
    raw = f"{name}_raw"
    cells = {column: _normal_cells(table, declaration, column) for column in columns}
    connection.register(raw, pa.table({column: found[0] for column, found in cells.items()}))
    normal = ", ".join(f"{cells[column][1]} AS {quote(column)}" for column in columns)
    known = declaration.public or (is_whole(table.schema.field(declaration.unit).type) and not table.column(declaration.unit).null_count)
    owned = "" if known else f" WHERE {quote(declaration.unit)} IS NOT NULL"
    select = f"SELECT * FROM (SELECT {normal} FROM {quote(raw)}){owned}"  # noqa: S608 - quoted names
    connection.execute(f"CREATE VIEW {quote(name)} AS {select}")
    bounds: list[tuple[Sequence[str], int]] = []
    alone = declaration.unique_key == (declaration.unit,)
    if bounded and (unique or alone or declaration.public):
        bounds.append((declaration.unique_key, 1))
    if bounded and not declaration.public and not alone:
        bounds.append(((declaration.unit,), declaration.rows_per_unit))
    # Most tables keep to their bounds and need no copy.
    if not any(_exceeds(connection, name, table, declaration, by, most) for by, most in bounds):
        return
    connection.execute(f"DROP VIEW {quote(name)}")
    connection.execute(f"CREATE TABLE {quote(name)} AS {select}")
    connection.unregister(raw)
    for by, most in bounds:
        keep_at_most(connection, name, by=by, most=most, order=columns)


def _exceeds(connection: Connection, name: str, table: pa.Table, declaration: Declaration, by: Sequence[str], most: int) -> bool:
    repeated = repeats_beyond(table, declaration, by, most)
    return _in_excess(connection, name, by, most) if repeated is None else repeated


def keep_at_most(connection: Connection, name: str, *, by: Sequence[str], most: int, order: Sequence[str]) -> None:
    """Keep of table `name` at most `most` rows per combination of the columns `by`: the first by a hash of `order`, then by `order`.

    Rows that are equal in `order` are interchangeable for the caller. A small `most` is cut at its last hash, which is quicker than
    sorting; what then remains in excess, because hashes are equal, is sorted like the rest.
    """
    group = ", ".join(quote(column) for column in by)
    hashed = f"hash({', '.join(quote(column) for column in order)})"
    if not _in_excess(connection, name, by, most):
        return
    if most <= FEW_KEPT:
        limits = (
            f"SELECT {group}, min({hashed}, {int(most)})[-1] AS _limit FROM {quote(name)} "  # noqa: S608
            f"GROUP BY {group} HAVING count(*) > {int(most)}"
        )
        rows_, last = f"(SELECT *, {hashed} AS _hash FROM {quote(name)}) AS t", f"({limits}) AS l ON {_same(by, 't', 'l')}"  # noqa: S608
        kept = f"SELECT t.* EXCLUDE (_hash) FROM {rows_} LEFT JOIN {last} WHERE _limit IS NULL OR _hash <= _limit"  # noqa: S608
        _replace(connection, name, kept)
        if not _in_excess(connection, name, by, most):
            return
    # Within a combination its own columns are equal.
    sort = ", ".join([hashed, *(quote(column) for column in order if column not in by)])
    over = f"(SELECT {group} FROM {quote(name)} GROUP BY {group} HAVING count(*) > {int(most)}) AS o ON {_same(by, 't', 'o')}"  # noqa: S608
    _replace(
        connection,
        name,
        f"SELECT * FROM {quote(name)} AS t ANTI JOIN {over} UNION ALL SELECT * FROM {quote(name)} AS t SEMI JOIN {over} "  # noqa: S608
        f"QUALIFY row_number() OVER (PARTITION BY {group} ORDER BY {sort}) <= {int(most)}",
    )


def _in_excess(connection: Connection, name: str, by: Sequence[str], most: int) -> bool:
    group = ", ".join(quote(column) for column in by)
    counted = f"SELECT count(*) FROM (SELECT 1 FROM {quote(name)} GROUP BY {group} HAVING count(*) > {int(most)})"  # noqa: S608
    return row(connection, Fragment(sql=counted))[0] > 0


def _same(by: Sequence[str], left: str, right: str) -> str:
    return " AND ".join(f"{left}.{quote(column)} IS NOT DISTINCT FROM {right}.{quote(column)}" for column in by)


def _replace(connection: Connection, name: str, select: str) -> None:
    kept = quote(f"{name}_kept")
    connection.execute(f"CREATE TABLE {kept} AS {select}")
    connection.execute(f"DROP TABLE {quote(name)}")
    connection.execute(f"ALTER TABLE {kept} RENAME TO {quote(name)}")


def rows(connection: Connection, query: Fragment) -> list[tuple[int | str | None, ...]]:
    """All rows of a query."""
    found: list[tuple[int | str | None, ...]] = connection.execute(query.sql, list(query.parameters)).fetchall()
    return found


def columns_of(connection: Connection, query: Fragment) -> dict[str, Any]:
    """All rows of a query as one array for each column; none of them may hold NULL."""
    found: dict[str, Any] = connection.execute(query.sql, list(query.parameters)).fetchnumpy()
    return found


def arrow(connection: Connection, query: Fragment) -> pa.Table:
    """All rows of a query, in the order in which its tables hold them as far as the query keeps it."""
    return connection.sql(query.sql, params=list(query.parameters)).to_arrow_table()


def row(connection: Connection, query: Fragment) -> tuple[int, ...]:
    """The one row of a query."""
    # All of it: a result that is not read to its end keeps the connection from registering tables.
    (found,) = connection.execute(query.sql, list(query.parameters)).fetchall()
    return tuple(found)


def readable(table: pa.Table) -> pa.Table:
    """`table` with NULL for text that is not UTF-8, at which the database would end the whole query."""
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            column = table.column(index)
            try:
                column.validate(full=True)
            except pa.ArrowInvalid:
                cells = column.cast(pa.large_binary()).to_pylist()
                table = table.set_column(index, field.name, pa.array([_text(cell) for cell in cells], pa.large_string()))
    return table


def _normal_cells(table: pa.Table, declaration: Declaration, name: str) -> tuple[pa.ChunkedArray | pa.Array, str]:
    """A column for the database, and the SQL that reads it. Dates are plain numbers, and decimals are in fixed point where they can be."""
    cells, field = table.column(name), table.schema.field(name)
    is_key = name in declaration.unique_key
    column = declaration.column(name)
    read = None if is_key else whole_numbers(table, declaration, name, clamp=True, widen=False)
    if read is not None:
        return pa.array(read[0], mask=read[1]), f"{quote(name)}::BIGINT"
    if column.type == "date" and pa.types.is_temporal(field.type):
        cells = cells.cast(pa.int32() if pa.types.is_date32(field.type) else pa.int64())
    return cells, _normalised(declaration, field)


def _text(cell: bytes | None) -> str | None:
    try:
        return None if cell is None else cell.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _normalised(declaration: Declaration, field: pa.Field) -> str:
    """SQL for one column as text, or as a 64-bit integer in its fixed-point unit or in days, clamped where bounds are declared."""
    column = declaration.column(field.name)
    is_key = column.name in declaration.unique_key
    value = _VALUES[column.type](column, quote(column.name), field.type, not is_key and column.lower is not None)
    return value if column.nullable or is_key else f"coalesce({value}, {empty(column_type(column))})"


def _text_value(column: Column, source: str, kind: pa.DataType, clamp: bool) -> str:
    return f"TRY_CAST({source} AS VARCHAR)"


def _date_value(column: Column, source: str, kind: pa.DataType, clamp: bool) -> str:
    if pa.types.is_date32(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        days = f"TRY_CAST({source} AS BIGINT)"
    elif pa.types.is_date64(kind) or pa.types.is_timestamp(kind):
        ticks = DAY["ms" if pa.types.is_date64(kind) else kind.unit]
        days = f"({source} // {ticks} - CASE WHEN {source} % {ticks} < 0 THEN 1 ELSE 0 END)"
    else:
        days = days_of(Fragment(sql=f"TRY_CAST({source} AS DATE)")).sql
    return _held(column, days) if clamp else days


def _held(column: Column, whole: str) -> str:
    """SQL of a BIGINT within the declared bounds."""
    lower, upper = column.bounds
    return f"CASE WHEN {whole} > {upper} THEN {upper} WHEN {whole} < {lower} THEN {lower} ELSE {whole} END"


def _number_value(column: Column, source: str, kind: pa.DataType, clamp: bool) -> str:
    decimal = column.type == "decimal"
    if not decimal and pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
        return _held(column, f"{source}::BIGINT") if clamp else f"{source}::BIGINT"
    factor = 10**column.decimals
    wide = source if pa.types.is_float64(kind) else f"TRY_CAST({source} AS DOUBLE)"
    exact = f"TRY_CAST(round({wide} * {factor}.0) AS BIGINT)" if decimal else f"TRY_CAST({source} AS BIGINT)"
    if not clamp:
        return exact
    lower, upper = column.bounds
    # NaN compares greater than every number, so it is named first.
    return (
        f"CASE WHEN {wide} IS NULL OR isnan({wide}) THEN NULL WHEN {wide} * {factor}.0 >= {upper} THEN {upper} "
        f"WHEN {wide} * {factor}.0 <= {lower} THEN {lower} ELSE greatest({lower}, least({upper}, {exact})) END"
    )


_VALUES: dict[str, Callable[[Column, str, Any, bool], str]] = {
    "text": _text_value,
    "date": _date_value,
    "integer": _number_value,
    "decimal": _number_value,
}


def quote(name: str) -> str:
    """Return a SQL identifier in quotes."""
    return '"' + name.replace('"', '""') + '"'

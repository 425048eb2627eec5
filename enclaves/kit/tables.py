"""A locked DuckDB in memory, and the SQL that bounds contributions: the one owner of duckdb.

The database has no file, no network, no extensions and no spill folder, and its configuration is locked. Every expression is total: casts
are TRY_CAST, arithmetic is on clamped values, so no row can raise an error that tells about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from policies.declaration import Column, Declaration
from policies.query import AllOf, AnyOf, Compare, Condition, IsNull, Not, OneOf

OutOfMemory = duckdb.OutOfMemoryException
"""Raised when a database has used up its memory; it never spills."""


def open_database(*, memory_mib: int, threads: int) -> duckdb.DuckDBPyConnection:
    """Return a connection to a fresh in-memory database that cannot reach anything outside itself."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{memory_mib}MiB",
            "threads": str(threads),
            "temp_directory": "",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
        },
    )
    connection.execute("SET enable_external_access=false")
    connection.execute("SET lock_configuration=true")
    return connection


def load_bounded(
    connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table, declaration: Declaration, columns: Sequence[str]
) -> None:
    """Create table `name` with the normalised and bounded rows of `table`.

    Rows without a privacy unit are dropped; of rows with the same unique key one is kept; of each unit at most `rows_per_unit` rows are
    kept. Which ones depends only on the unit's own row contents (a hash over the row, then the row itself), never on other units or on
    the order of rows, so one unit's presence changes no other unit's rows.
    """
    connection.register(f"{name}_raw", _readable(table.select(columns)))
    normal = ", ".join(f"{_normalised(declaration, column)} AS {quote(column)}" for column in columns)
    listed = ", ".join(quote(column) for column in columns)
    unit, key = quote(declaration.unit), ", ".join(quote(column) for column in declaration.unique_key)
    connection.execute(
        f"""
        CREATE TABLE {quote(name)} AS
        WITH normal AS (SELECT {normal} FROM {quote(name + "_raw")}),
        hashed AS (SELECT *, hash({listed}) AS row_hash FROM normal WHERE {unit} IS NOT NULL),
        unique_rows AS (SELECT * FROM hashed
            QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY row_hash, {listed}) = 1),
        bounded AS (SELECT * FROM unique_rows
            QUALIFY row_number() OVER (PARTITION BY {unit} ORDER BY row_hash, {listed}) <= {int(declaration.rows_per_unit)})
        SELECT {listed} FROM bounded
        """  # noqa: S608 - names are quoted, numbers are integers
    )
    connection.unregister(f"{name}_raw")


def _readable(table: pa.Table) -> pa.Table:
    """`table` with NULL for text that is not UTF-8: the database would end the whole query at the first such cell."""
    for index, field in enumerate(table.schema):
        if not (pa.types.is_string(field.type) or pa.types.is_large_string(field.type)):
            continue
        try:
            table.column(index).validate(full=True)
        except pa.ArrowInvalid:
            cells = table.column(index).cast(pa.large_binary()).to_pylist()
            table = table.set_column(index, field.name, pa.array([_text(cell) for cell in cells], pa.large_string()))
    return table


def _text(cell: bytes | None) -> str | None:
    try:
        return None if cell is None else cell.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _normalised(declaration: Declaration, name: str) -> str:
    """SQL for one column as text or as a 64-bit integer in its fixed-point units, clamped where bounds are declared.

    Key columns are never clamped: that would merge different units.
    """
    column, source = declaration.column(name), quote(name)
    is_key = name in declaration.unique_key
    if column.type == "text":
        value, empty = f"TRY_CAST({source} AS VARCHAR)", "''"
    else:
        value, empty = _integer(column, source, clamp=not is_key)
    return value if column.nullable or is_key else f"coalesce({value}, {empty})"


def _integer(column: Column, source: str, *, clamp: bool) -> tuple[str, str]:
    number = f"TRY_CAST({source} AS DOUBLE)" if column.type == "decimal" else source
    factor = 10**column.decimals
    exact = f"TRY_CAST(round({number} * {factor}.0) AS BIGINT)" if column.type == "decimal" else f"TRY_CAST({source} AS BIGINT)"
    if not clamp or column.lower is None:
        return exact, "0"
    lower, upper = column.bounds
    # NaN compares greater than every number, so it is named first.
    wide = f"TRY_CAST({source} AS DOUBLE)"
    value = (
        f"CASE WHEN {wide} IS NULL OR isnan({wide}) THEN NULL WHEN {wide} * {factor}.0 >= {upper} THEN {upper} "
        f"WHEN {wide} * {factor}.0 <= {lower} THEN {lower} ELSE greatest({lower}, least({upper}, {exact})) END"
    )
    return value, str(lower)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fragment:
    """A piece of SQL with its positional parameters."""

    sql: str
    parameters: tuple[Any, ...]


def condition_sql(condition: Condition, alias: dict[str, str]) -> Fragment:
    """Return `condition` as SQL over tables named by `alias` (dataset -> table); constants become parameters."""
    if isinstance(condition, (AllOf, AnyOf)):
        parts = [condition_sql(term, alias) for term in condition.terms]
        word = " AND " if isinstance(condition, AllOf) else " OR "
        return Fragment(
            sql="(" + word.join(part.sql for part in parts) + ")", parameters=tuple(p for part in parts for p in part.parameters)
        )
    if isinstance(condition, Not):
        inner = condition_sql(condition.term, alias)
        return Fragment(sql=f"(NOT {inner.sql})", parameters=inner.parameters)
    column = f"{quote(alias[condition.column.dataset])}.{quote(condition.column.column)}"
    if isinstance(condition, IsNull):
        return Fragment(sql=f"({column} IS NULL)", parameters=())
    if isinstance(condition, OneOf):
        marks = ", ".join("?" for _ in condition.values)
        return Fragment(sql=f"({column} IN ({marks}))", parameters=condition.values)
    assert isinstance(condition, Compare)
    return Fragment(sql=f"({column} {condition.operator} ?)", parameters=(condition.value,))


def quote(name: str) -> str:
    """Return a SQL identifier in quotes."""
    return '"' + name.replace('"', '""') + '"'

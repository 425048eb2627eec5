"""A database as files: one file of JSON lines per table, the same for every kind of database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, func, insert, inspect, select

from policies.errors import Conflict, Malformed
from sandbox.store.migrations import migrate, reflected

BATCH = 500


def dump_table(connection: Connection, table: Table, path: Path) -> str:
    """Write all rows of a table by primary key; return the hex SHA-256 of the file."""
    hasher = hashlib.sha256()
    with path.open("xb") as file:
        for row in connection.execute(select(table).order_by(*table.primary_key.columns)):
            line = json.dumps(_plain(row._asdict()), ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode() + b"\n"
            hasher.update(line)
            file.write(line)
    return hasher.hexdigest()


def tables_of(connection: Connection) -> list[Table]:
    """All tables of a database, what a foreign key names first."""
    return list(reflected(connection).sorted_tables)


def require_empty(connection: Connection) -> None:
    """Raise Conflict (code `not-empty`) if the database holds any table."""
    if inspect(connection).get_table_names():
        raise Conflict("the database is not empty; restore into a new one", code="not-empty")


def load_database(connection: Connection, folder: Path, revision: str) -> None:
    """Make the schema of `revision` in an empty database, fill it from `folder`, and bring it to the newest schema.

    Raises:
        Conflict: the database is not empty.
        Malformed: this code does not know the revision, or a table is missing or not of that schema.
    """
    require_empty(connection)
    migrate(connection, revision)
    tables = tables_of(connection)
    strays = {path.stem for path in folder.glob("*.jsonl")} ^ {table.name for table in tables}
    if strays:
        raise Malformed(f"the backup's tables are not those of schema {revision}: {', '.join(sorted(strays))}", code="backup")
    for table in tables:
        connection.execute(table.delete())  # revisions may have stored rows of their own
    for table in tables:
        for rows in _batches(read_rows(folder / f"{table.name}.jsonl")):
            connection.execute(insert(table), rows)
        _count_on(connection, table)
    migrate(connection)


def _count_on(connection: Connection, table: Table) -> None:
    """Have PostgreSQL number further rows after those that were loaded; SQLite does of itself."""
    numbered = table.autoincrement_column
    if numbered is None or connection.dialect.name != "postgresql":
        return
    sequence = connection.execute(select(func.pg_get_serial_sequence(table.name, numbered.name))).scalar()
    highest = connection.execute(select(func.max(numbered))).scalar()
    if sequence is not None and highest is not None:
        connection.execute(select(func.setval(sequence, highest)))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a dumped table. Raises Malformed."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                found = json.loads(line)
                yield {name: bytes.fromhex(value["hex"]) if isinstance(value, dict) else value for name, value in found.items()}
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise Malformed("the line is no row", code="backup", where=f"{path.name}:{number}") from error


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: {"hex": bytes(value).hex()} if isinstance(value, (bytes, memoryview)) else value for name, value in row.items()}


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch

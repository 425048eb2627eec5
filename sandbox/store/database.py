"""The database: SQLite embedded (WAL, synchronous=FULL), any other SQLAlchemy URL at scale. One schema for both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError

from policies.errors import Conflict, SandboxError, Tampered, Unavailable
from sandbox.store.listings import Listings
from sandbox.store.log import LogTables
from sandbox.store.schema import SCHEMA_VERSION, log_state, metadata, settings

BUSY_TIMEOUT_MS = 30_000
PREPARING = 0x5A4D_B0C5
"""PostgreSQL advisory lock under which tables are made: processes that start at once would make them twice."""


class Transaction(LogTables, Listings):
    """All verbs of the store on one open transaction."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection


class Store:
    """Hands out transactions. Safe to share between threads; each process opens its own."""

    def __init__(self, url: str) -> None:
        embedded = make_url(url).get_backend_name() == "sqlite"
        self._engine = _sqlite(url) if embedded else create_engine(url, pool_pre_ping=True)
        self._reader = self._engine.execution_options(
            **({"sandbox_reading": True} if embedded else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True})
        )

    def prepare(self, origin: str) -> None:
        """Create missing tables and fix the log's origin at the first start. A store that cannot be prepared is left closed.

        Raises:
            Tampered: the database belongs to another log, or to another schema version.
            Unavailable: the database cannot be reached.
        """
        try:
            with self.transaction() as tx:
                _prepare(tx.connection, origin)
        except SandboxError:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """One transaction that may write: all of it happens or nothing.

        Raises:
            Conflict: a unique value exists already.
            Unavailable: the database cannot be reached or is locked for too long.
        """
        try:
            with self._engine.begin() as connection:
                yield Transaction(connection)
        except IntegrityError as error:
            raise Conflict("another request made the same thing first", code="conflict") from error
        except DBAPIError as error:
            raise Unavailable("the database cannot take this now; try again", code="database") from error

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """One transaction that only reads: a consistent view that waits for no writer. Raises Unavailable."""
        try:
            with self._reader.connect() as connection:
                yield Transaction(connection)
        except DBAPIError as error:
            raise Unavailable("the database cannot be read now; try again", code="database") from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _prepare(connection: Connection, origin: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({PREPARING})"))
    metadata.create_all(connection)
    known = {row.name: row.value for row in connection.execute(select(settings))}
    if not known:
        connection.execute(insert(settings), [{"name": "schema", "value": str(SCHEMA_VERSION)}, {"name": "origin", "value": origin}])
        connection.execute(insert(log_state).values(id=1, size=0))
        return
    if known.get("origin") != origin:
        raise Tampered(f"this database holds the log `{known.get('origin')}`, not `{origin}`", code="other-log")
    if known.get("schema") != str(SCHEMA_VERSION):
        raise Tampered(f"this database has schema {known.get('schema')}, not {SCHEMA_VERSION}", code="other-schema")


def _sqlite(url: str) -> Engine:
    database = make_url(url).database
    if database:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "isolation_level": None})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer takes the lock at once: two transactions that read before they write would otherwise both fail.
        reading = connection.get_execution_options().get("sandbox_reading")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine

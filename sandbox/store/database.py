"""The database: SQLite embedded (WAL, synchronous=FULL), any other SQLAlchemy URL at scale. One schema for both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, IntegrityError
from sqlalchemy.exc import TimeoutError as NoConnection

from policies.errors import Conflict, SandboxError, Tampered, Unavailable
from sandbox.store.acts import ActTables
from sandbox.store.escrow import EscrowTables
from sandbox.store.joint import JointTables
from sandbox.store.keys import KeyTables
from sandbox.store.lineage import LineageTables
from sandbox.store.listings import Listings
from sandbox.store.log import LogTables
from sandbox.store.migrations import current, head, migrate, newest, revisions
from sandbox.store.notices import NoticeTables
from sandbox.store.operations import OperationTables
from sandbox.store.recovery import RecoveryTables
from sandbox.store.schema import log_state, settings
from sandbox.store.scorings import ScoringTables

T = TypeVar("T")

BUSY_TIMEOUT_MS = 30_000
LOCK_TIMEOUT_MS = 30_000
IDLE_TIMEOUT_MS = 60_000
"""PostgreSQL ends a transaction that does nothing for so long: a process that froze while it held the log would stop all others."""

CONNECT_TIMEOUT_S = 10
_SILENT_S = {"tcp_keepalives_idle": 15, "tcp_keepalives_interval": 5, "tcp_keepalives_count": 3}
"""A peer that answers nothing at all for 30 s counts as gone, on either end of a connection to PostgreSQL."""

RESTED_S = 1.0
"""A connection that nobody used for so long is asked whether it is still there before it is used again."""

PREPARING = 0x5A4D_B0C5
"""PostgreSQL advisory lock under which tables are made: processes that start at once would make them twice."""


class Transaction(
    LogTables,
    Listings,
    KeyTables,
    LineageTables,
    RecoveryTables,
    OperationTables,
    NoticeTables,
    ActTables,
    JointTables,
    EscrowTables,
    ScoringTables,
):
    """All verbs of the store on one open transaction."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection


class Store:
    """Hands out transactions. Safe to share between threads; each process opens its own."""

    def __init__(self, url: str) -> None:
        embedded = make_url(url).get_backend_name() == "sqlite"
        self._engine = _sqlite(url) if embedded else _served(url)
        self._reader = self._engine.execution_options(
            **({"sandbox_reading": True} if embedded else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True})
        )
        self._single = self._reader if embedded else self._engine.execution_options(isolation_level="AUTOCOMMIT")

    def prepare(self, origin: str) -> None:
        """Bring the schema to the newest revision and fix the log's origin at the first start. One process does it, others wait for it.

        A store that cannot be prepared is left closed.

        Raises:
            Tampered: the database belongs to another log, or holds tables that are not this service's.
            Conflict: code `newer-schema`, if newer code has migrated the database.
            Unavailable: the database cannot be reached.
        """
        try:
            with self.transaction() as tx:
                hold_schema(tx.connection)
                if not newest(tx.connection):
                    migrate(tx.connection)
                _fix_origin(tx.connection, origin)
        except SandboxError:
            self.close()
            raise

    def migrate(self, target: str | None = None, *, dry_run: bool = False, allow_loss: bool = False) -> list[str]:
        """Bring the schema to `target`, a revision or `base`, and return the revisions on the way; as `prepare` does, without its settings.

        Args:
            dry_run: do it and roll it back.
            allow_loss: go back, which deletes what newer revisions store.

        Raises:
            Conflict: code `newer-schema`, or code `loss` for going back without `allow_loss`.
            Malformed: there is no such revision.
            Tampered: the tables are not this service's.
            Unavailable: the database cannot be reached.
        """
        with _typed_errors(), self._engine.connect() as connection, connection.begin() as transaction:
            hold_schema(connection)
            before = current(connection)
            steps = migrate(connection, target)
            if before is not None and steps and steps[0] <= before and not (dry_run or allow_loss):
                raise Conflict(f"going back from {before} deletes what {', '.join(steps)} stored; allow it explicitly", code="loss")
            if dry_run:
                transaction.rollback()
        return steps

    def schema(self) -> dict[str, Any]:
        """The revision in force (`current`, or None), the newest (`head`) and all `revisions`. Raises as `migrate`."""
        with self.reading() as tx:
            found = current(tx.connection)
        listed = [{"revision": name, "what": what, "applied": found is not None and name <= found} for name, what in revisions()]
        return {"current": found, "head": head(), "revisions": listed}

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """One transaction that may write: all of it happens or nothing.

        Raises:
            Conflict: a unique value exists already.
            Unavailable: the database cannot be reached, is full or is locked for too long. If that happens at the end, the transaction may
                have been applied: what is done again under the same id finds it, or does it.
        """
        with _typed_errors(), self._engine.begin() as connection:
            yield Transaction(connection)

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """One transaction that only reads: a consistent view that waits for no writer. Raises Unavailable."""
        try:
            with self._reader.connect() as connection:
                yield Transaction(connection)
        except _LOST as error:
            raise Unavailable("the database cannot be read now; try again", code="database") from error

    def look_up(self, query: Callable[[Transaction], T]) -> T:
        """Return `query(tx)` for a query of one statement that only reads, at a server without the two messages that a transaction costs.

        A connection that turns out to be gone is replaced once, so that what follows on other connections finds them renewed too.

        Raises:
            Unavailable: the database cannot be reached.
        """
        try:
            with self._single.connect() as connection:
                return query(Transaction(connection))
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise Unavailable("the database cannot be read now; try again", code="database") from error
        except NoConnection as error:
            raise Unavailable("the database cannot be read now; try again", code="database") from error
        with self.reading() as tx:
            return query(tx)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


_LOST = (DBAPIError, NoConnection)
"""What a lost, full or busy database raises."""


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise Conflict("another request made the same thing first", code="conflict") from error
    except _LOST as error:
        raise Unavailable("the database cannot take this now; try again", code="database") from error


def hold_schema(connection: Connection) -> None:
    """Let no other process migrate until the transaction ends. SQLite's write transactions exclude each other already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = 0"))  # a migration takes as long as it takes
        connection.execute(text(f"SELECT pg_advisory_xact_lock({PREPARING})"))


def shown_url(url: str) -> str:
    """A database URL without its secrets, for people."""
    if not url:
        return url
    parsed = make_url(url)
    secret = [name for name in parsed.query if "pass" in name.lower()]
    return parsed.update_query_dict(dict.fromkeys(secret, "***")).render_as_string(hide_password=True)


def _fix_origin(connection: Connection, origin: str) -> None:
    known = {row.name: row.value for row in connection.execute(select(settings))}
    if "origin" not in known:
        # Code older than the revisions compares `schema` and refuses every other value than "1".
        schema = str(int(head()))
        connection.execute(insert(settings), [{"name": "schema", "value": schema}, {"name": "origin", "value": origin}])
        connection.execute(insert(log_state).values(id=1, size=0))
    elif known["origin"] != origin:
        raise Tampered(f"this database holds the log `{known['origin']}`, not `{origin}`", code="other-log")


def _served(url: str) -> Engine:
    """An engine of a database server, whose locks and connections do not outlive whoever froze or fell off the network."""
    if make_url(url).get_backend_name() != "postgresql":
        return _checked(create_engine(url))
    own = make_url(url).query
    wanted = {"connect_timeout": CONNECT_TIMEOUT_S, "tcp_user_timeout": 30_000}
    wanted |= {name.removeprefix("tcp_"): seconds for name, seconds in _SILENT_S.items()}
    engine = _checked(create_engine(url, connect_args={name: value for name, value in wanted.items() if name not in own}))
    bounds = {"lock_timeout": LOCK_TIMEOUT_MS, "idle_in_transaction_session_timeout": IDLE_TIMEOUT_MS, **_SILENT_S}

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in bounds.items()))
        connection.commit()

    return engine


def _checked(engine: Engine) -> Engine:
    """The engine, with connections that rested tried before use: a message on every use would cost a reader as much as what it asks."""

    @event.listens_for(engine, "checkin")
    def _rest(_: Any, record: Any) -> None:
        record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _try(connection: Any, record: Any, _: Any) -> None:
        if time.monotonic() - record.info.get("rests_since", math.inf) < RESTED_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError("the connection is gone") from error

    return engine


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

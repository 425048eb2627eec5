"""The revisions make the schema that the code reads and writes, from whatever an operator has."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text

from policies.errors import Conflict, Malformed, SandboxError, Tampered
from sandbox.store.database import Store
from sandbox.store.migrations import FIRST, head, migrate, newest, revisions
from sandbox.store.schema import metadata
from tests.store.conftest import ORIGIN
from tests.support.service import checkout

START = "import sys; from sandbox.store.database import Store; Store(sys.argv[1]).prepare(sys.argv[2])"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """The database, past the store."""
    found = create_engine(url)
    yield found
    found.dispose()


@pytest.fixture
def opened(url: str) -> Iterator[Store]:
    """A store that nothing has prepared."""
    found = Store(url)
    yield found
    found.close()


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def say(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def as_the_first_code_left_it(engine: Engine, store: Store) -> None:
    """A database of revision 0001 without a word about revisions."""
    store.migrate("0001")
    say(
        engine,
        "DROP TABLE alembic_version",
        "INSERT INTO settings VALUES ('schema', '1')",
        f"INSERT INTO settings VALUES ('origin', '{ORIGIN}')",
        "INSERT INTO log_state VALUES (1, 0)",
    )


def test_the_revisions_make_exactly_the_tables_of_the_code(store: Store, engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": metadata})
        assert compare_metadata(context, metadata) == []


def test_up_down_and_up_again_ends_where_it_began(opened: Store, engine: Engine) -> None:
    everything = [name for name, _ in revisions()]
    assert opened.migrate() == everything
    assert opened.migrate("base", allow_loss=True) == everything[::-1]
    assert tables(engine) == {"alembic_version"}
    assert opened.migrate() == everything
    assert opened.migrate() == []
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_whether_a_database_is_the_newest_is_told_without_alembic_as_with_it(opened: Store, engine: Engine) -> None:
    for target, told in ((None, True), (FIRST, False), (head(), True)):
        opened.migrate(target, allow_loss=True)
        with engine.connect() as connection:
            assert newest(connection) is told
    say(engine, "UPDATE alembic_version SET version_num = '9999'")
    with engine.connect() as connection:
        assert not newest(connection)


def test_a_dry_run_changes_nothing(opened: Store, engine: Engine) -> None:
    assert opened.migrate(dry_run=True) == [name for name, _ in revisions()]
    assert tables(engine) == set()


def test_going_back_needs_to_be_allowed(store: Store) -> None:
    with pytest.raises(Conflict) as refused:
        store.migrate("0001")
    assert refused.value.code == "loss"
    assert store.schema()["current"] == head()


def test_a_database_of_the_first_code_is_stamped_and_keeps_its_rows(opened: Store, engine: Engine) -> None:
    as_the_first_code_left_it(engine, opened)
    say(engine, "INSERT INTO ledgers VALUES ('insurer', 'persons', 7, 0)")
    assert opened.schema()["current"] == "0001"
    opened.prepare(ORIGIN)
    assert opened.schema()["current"] == head()
    with opened.reading() as tx:
        assert tx.spent()["insurer", "persons"].amount == 7
        assert tx.setting("schema") == str(int(head()))


def test_a_database_newer_than_the_code_is_refused_and_left_alone(store: Store, engine: Engine) -> None:
    say(engine, "UPDATE alembic_version SET version_num = '9999'")
    for verb in (lambda: store.prepare(ORIGIN), store.migrate, store.schema):
        with pytest.raises(Conflict) as refused:
            verb()
        assert refused.value.code == "newer-schema"
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"


def test_a_database_of_something_else_is_refused_and_left_alone(opened: Store, engine: Engine) -> None:
    say(engine, "CREATE TABLE invoices (id INTEGER PRIMARY KEY)")
    with pytest.raises(Tampered) as refused:
        opened.prepare(ORIGIN)
    assert refused.value.code == "other-schema"
    assert tables(engine) == {"invoices"}


def test_a_database_of_another_log_is_not_migrated(opened: Store, engine: Engine) -> None:
    as_the_first_code_left_it(engine, opened)
    with pytest.raises(Tampered) as refused:
        opened.prepare("other.test/log")
    assert refused.value.code == "other-log"
    assert "workers" not in tables(engine)


def test_a_migration_that_breaks_off_leaves_the_database_as_it_was(opened: Store, engine: Engine) -> None:
    class Stopped(Exception):
        pass

    def broken() -> None:
        with opened.transaction() as tx:
            migrate(tx.connection)
            raise Stopped

    with pytest.raises(Stopped):
        broken()
    assert tables(engine) == set()


def test_an_unknown_revision_is_refused(store: Store) -> None:
    with pytest.raises(Malformed):
        store.migrate("0000")


def test_processes_that_start_at_once_on_an_empty_database_make_it_once(url: str, engine: Engine) -> None:
    command = [sys.executable, "-c", START, url, ORIGIN]
    started = [subprocess.Popen(command, cwd=checkout(), stderr=subprocess.PIPE) for _ in range(4)]
    ended = [process.communicate(timeout=300)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0] * 4, ended
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM log_state")).scalar_one() == 1
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [head()]


def test_every_refusal_is_typed() -> None:
    store = Store("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    with pytest.raises(SandboxError) as refused:
        store.migrate()
    assert refused.value.code == "database"
    store.close()

"""From one database schema to the next: Alembic revisions, applied inside a transaction that the caller holds.

Revision 0001 is the schema that the first code made without revisions; its databases are stamped, not made anew. A revision that
older code must not write to raises `settings.schema`, which that first code compares.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, MetaData, inspect, text

from policies.errors import Conflict, Malformed, Tampered

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

FIRST = "0001"
BASE = "base"
_STAMP = "alembic_version"


def newest(connection: Connection) -> bool:
    """Whether a database is stamped with the newest revision. Told by the names of the revisions' files: Alembic is slow to load."""
    if not inspect(connection).has_table(_STAMP):
        return False
    last = max(path.name.partition("_")[0] for path in (Path(__file__).parent / "versions").glob("[0-9]*_*.py"))
    return list(connection.execute(text(f"SELECT version_num FROM {_STAMP}")).scalars()) == [last]  # noqa: S608 - a constant


def revisions() -> list[tuple[str, str]]:
    """(revision, what it does) of all revisions that this code knows, oldest first."""
    found = [(script.revision, script.doc) for script in _scripts().walk_revisions()]
    return found[::-1]


def head() -> str:
    """The newest revision that this code knows."""
    return revisions()[-1][0]


def current(connection: Connection) -> str | None:
    """The revision of a database; `FIRST` for one that the first code made, None for an empty one.

    Raises:
        Conflict: code `newer-schema`, for a revision that this code does not know.
        Tampered: code `other-schema`, for tables that are not this project's.
    """
    found = _stamped(connection)
    if found is None:
        return _unstamped(connection)
    if found not in dict(revisions()):
        raise Conflict(
            f"the database has schema {found}, which is newer than this code ({head()}): run the newer code", code="newer-schema"
        )
    return found


def migrate(connection: Connection, target: str | None = None) -> list[str]:
    """Bring a database to `target` (a revision or `base`; None is the newest) and return the revisions applied or taken back, in order.

    The caller holds the one write transaction that may do this.

    Raises:
        Malformed: there is no such revision.
        Conflict, Tampered: as `current`.
    """
    from alembic.runtime.migration import MigrationContext

    names = [BASE, *dict(revisions())]
    wanted = target or head()
    if wanted not in names:
        raise Malformed(f"there is no revision `{wanted}`; known: {', '.join(names)}", where="revision")
    before = current(connection)
    if before is not None and _stamped(connection) is None:
        MigrationContext.configure(connection).stamp(_scripts(), before)
    start, end = names.index(before or BASE), names.index(wanted)
    if start != end:
        _run(connection, wanted, up=end > start)
    return names[start + 1 : end + 1] if end > start else names[end + 1 : start + 1][::-1]


def reflected(connection: Connection) -> MetaData:
    """The tables of a database as they are, without the table that holds its revision."""
    metadata = MetaData()
    metadata.reflect(connection)
    if _STAMP in metadata.tables:
        metadata.remove(metadata.tables[_STAMP])
    return metadata


def _stamped(connection: Connection) -> str | None:
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()


def _unstamped(connection: Connection) -> str | None:
    tables = set(inspect(connection).get_table_names()) - {_STAMP}
    if not tables:
        return None
    schema = None
    if "settings" in tables:
        schema = connection.execute(text("SELECT value FROM settings WHERE name = 'schema'")).scalar_one_or_none()
    if schema != "1":
        raise Tampered("this database holds tables that this service did not make", code="other-schema")
    return FIRST


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(Path(__file__).parent))


def _run(connection: Connection, target: str, *, up: bool) -> None:
    from alembic.config import Config as AlembicConfig
    from alembic.runtime.environment import EnvironmentContext
    from alembic.util import CommandError

    scripts = _scripts()

    def steps(revision: object, context: object) -> object:
        return scripts._upgrade_revs(target, revision) if up else scripts._downgrade_revs(target, revision)  # type: ignore[arg-type]

    try:
        with EnvironmentContext(AlembicConfig(), scripts, fn=steps, destination_rev=target) as environment:
            environment.configure(connection=connection)
            environment.run_migrations()
    except CommandError as error:
        raise Conflict(f"the database cannot be brought to {target}: {error}", code="migration") from error

"""Stored facts that only the operation of the service needs: its identity, its workers, and uploads that nothing names."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, delete, func, select, update

from policies.isolation import LAYERS, Layer, in_order
from sandbox.store.migrations import current, head
from sandbox.store.once import insert_once
from sandbox.store.schema import settings, uploads, versions, workers


class OperationTables:
    """Verbs on what an operator watches, inside one transaction."""

    connection: Connection

    def setting(self, name: str) -> str | None:
        """A stored setting of the database, such as `origin` or `log_key`."""
        found: str | None = self.connection.execute(select(settings.c.value).where(settings.c.name == name)).scalar_one_or_none()
        return found

    def fix_setting(self, name: str, value: str) -> str:
        """Store a setting unless it is stored, and return what is stored."""
        insert_once(self.connection, settings, name=name, value=value)
        return str(self.setting(name))

    def at_head(self) -> bool:
        """Whether the schema is the newest that this code knows."""
        return current(self.connection) == head()

    def see_worker(self, name: str, now: int, forget_before: int, isolation: Iterable[Layer] = ()) -> None:
        """Note that a worker lives at `now` and how it isolates runs; forget those not seen since `forget_before`; milliseconds."""
        seen = {"seen_at": now, "isolation": " ".join(isolation)}
        insert_once(self.connection, workers, name=name, **seen)
        self.connection.execute(update(workers).where(workers.c.name == name).values(**seen))
        self.connection.execute(delete(workers).where(workers.c.seen_at < forget_before))

    def workers_seen(self) -> list[int]:
        """When each worker was last seen, milliseconds since 1970, newest first."""
        return [int(row.seen_at) for row in self.connection.execute(select(workers.c.seen_at).order_by(workers.c.seen_at.desc()))]

    def isolation_since(self, since: int) -> tuple[Layer, ...]:
        """The layers that every worker seen since then (milliseconds since 1970) gives its enclaves; none where there is no such worker."""
        rows = self.connection.execute(select(workers.c.isolation).where(workers.c.seen_at >= since)).scalars().all()
        return in_order(set(LAYERS).intersection(*(text.split() for text in rows))) if rows else ()

    def referenced(self, digests: Iterable[str]) -> set[str]:
        """Those of the digests that a version names."""
        rows = self.connection.execute(select(versions.c.file_digest).where(versions.c.file_digest.in_(list(digests))))
        return {row.file_digest for row in rows}

    def stored_bytes(self) -> int:
        """Bytes of all uploads that participants made."""
        return int(self.connection.execute(select(func.coalesce(func.sum(uploads.c.size), 0))).scalar_one())

    def forget_upload(self, digest: str) -> bool:
        """Forget an upload that no version names. False if one names it; the caller holds the log, so that none is published meanwhile."""
        if self.referenced([digest]):
            return False
        self.connection.execute(delete(uploads).where(uploads.c.digest == digest))
        return True

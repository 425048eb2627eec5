"""Stored lineage of the log: its links, its epochs, and what is kept of logs that ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from policies.codec import decode
from policies.counts import Counts
from policies.entries import EntryKind, parse_header
from policies.lineage import Epoch, LogLink
from sandbox.store.exchange import from_text, to_text
from sandbox.store.once import insert_once
from sandbox.store.schema import (
    agreements,
    charges,
    checkpoints,
    consumer_charges,
    cosignatures,
    entries,
    epoch_signatures,
    epochs,
    former_entries,
    former_receipts,
    jobs,
    key_requests,
    log_links,
    log_state,
    openings,
    releases,
    scorings,
    settings,
    tree_nodes,
)
from sandbox.store.scorings import LOST

_LINKS = select(log_links.c.link).order_by(log_links.c.number)
_FORMER_RECEIPT = select(former_receipts.c.receipt).where(former_receipts.c.job == bindparam("job_id"))


class LineageTables:
    """Verbs inside one transaction that holds the log wherever it writes."""

    connection: Connection

    def log_links(self) -> tuple[LogLink, ...]:
        """Every step from the first log to the one in force, in order; an epoch counts once it is complete."""
        rows = self.connection.execute(_LINKS)
        return tuple(_link(from_text(row.link)) for row in rows)

    def add_log_link(self, link: LogLink) -> None:
        """Store the next step."""
        number = self.connection.execute(select(func.count()).select_from(log_links)).scalar_one()
        self.connection.execute(insert(log_links).values(number=number, link=to_text(link)))

    def replace_setting(self, name: str, value: str) -> None:
        """Store a setting, whatever it was."""
        insert_once(self.connection, settings, name=name, value=value)
        self.connection.execute(update(settings).where(settings.c.name == name).values(value=value))

    def newest_epoch(self) -> tuple[Epoch, bool] | None:
        """The newest epoch and whether all its providers have signed it."""
        row = self.connection.execute(select(epochs).order_by(epochs.c.number.desc()).limit(1)).one_or_none()
        return None if row is None else (decode(Epoch, from_text(row.document)), bool(row.complete))

    def opening_counts(self) -> Counts:
        """What consumers had used up when the log began: nothing in the first log, nor where the newest epoch does not say it."""
        newest = self.newest_epoch()
        return Counts() if newest is None else newest[0].counts or Counts()

    def epochs(self) -> list[Epoch]:
        """Every epoch so far, the oldest first, also those that others replaced."""
        return [decode(Epoch, from_text(row.document)) for row in self.connection.execute(select(epochs).order_by(epochs.c.number))]

    def ended_entries(self, epoch: int) -> Iterator[bytes]:
        """The entries of the log that ended with the epoch of that number, in order."""
        query = select(former_entries.c.data).where(former_entries.c.epoch == epoch).order_by(former_entries.c.position)
        return (bytes(row.data) for row in self.connection.execute(query))

    def ended_entries_at(self, position: int) -> list[bytes]:
        """The entries at a position of all logs that ended, the last of them first."""
        query = select(former_entries.c.data).where(former_entries.c.position == position).order_by(former_entries.c.epoch.desc())
        return [bytes(row.data) for row in self.connection.execute(query)]

    def epoch_signatures(self, number: int) -> dict[str, tuple[str, str]]:
        """Signatures on an epoch, and the keys that made them, by provider."""
        rows = self.connection.execute(
            select(epoch_signatures).where(epoch_signatures.c.number == number).order_by(epoch_signatures.c.participant)
        )
        return {row.participant: (row.signature, row.key) for row in rows}

    def sign_epoch(self, number: int, provider: str, signature: str, key: str) -> None:
        """Store a provider's signature on an epoch, and the key that made it."""
        self.connection.execute(insert(epoch_signatures).values(number=number, participant=provider, signature=signature, key=key))

    def complete_epoch(self, number: int) -> None:
        """All providers have signed."""
        self.connection.execute(update(epochs).where(epochs.c.number == number).values(complete=1))

    def live_agreements(self) -> list[str]:
        """Digests of agreements that all parties signed."""
        return [str(row.digest) for row in self.connection.execute(select(agreements.c.digest).where(agreements.c.state == "active"))]

    def ended_jobs(self) -> list[str]:
        """Ids of jobs that have a statement and no receipt of a former log."""
        kept = select(former_receipts.c.job)
        return [str(row.job) for row in self.connection.execute(select(releases.c.job).where(releases.c.job.not_in(kept)))]

    def keep_receipt(self, job_id: str, receipt: Any) -> None:
        """Keep the receipt of a job that ended in a log that ends now."""
        self.connection.execute(insert(former_receipts).values(job=job_id, receipt=to_text(receipt)))

    def former_receipt(self, job_id: str) -> dict[str, Any] | None:
        """The receipt of a job that ended in a former log."""
        found = self.connection.execute(_FORMER_RECEIPT, {"job_id": job_id}).scalar_one_or_none()
        return None if found is None else dict(from_text(found))

    def begin_epoch(self, epoch: Epoch, kinds: frozenset[EntryKind]) -> list[tuple[bytes, tuple[str, str, str | None] | None]]:
        """End the log: move its entries to the former ones, and begin an empty one under the epoch's identity.

        Its totals count as charged when it begins: `date_charge` is for the caller. Returns the ended log's entries of these kinds, as
        bytes and openings, in order.
        """
        self.connection.execute(insert(epochs).values(number=epoch.number, document=to_text(epoch), complete=0))
        carried = []
        rows = self.connection.execute(
            select(entries.c.position, entries.c.data, openings.c.salt, openings.c.body, openings.c.agreement)
            .join(openings, openings.c.position == entries.c.position, isouter=True)
            .order_by(entries.c.position)
        ).all()
        for row in rows:
            data = bytes(row.data)
            values = {"epoch": epoch.number, "position": row.position, "data": data, "salt": row.salt, "body": row.body}
            self.connection.execute(insert(former_entries).values(**values))
            if parse_header(data).kind in kinds:
                carried.append((data, None if row.salt is None else (row.salt, row.body, row.agreement)))
        # The new log opens with totals that name no consumer, and holds no earlier answer that could be repeated.
        for table in (openings, entries, tree_nodes, checkpoints, cosignatures, consumer_charges, charges):
            self.connection.execute(delete(table))
        self.connection.execute(update(log_state).where(log_state.c.id == 1).values(size=0))
        self.connection.execute(update(jobs).values(question=""))
        self.connection.execute(update(key_requests).values(renounced=""))  # charges of before are in the totals of the epoch
        self.connection.execute(update(jobs).where(jobs.c.state.in_(("charged", "running"))).values(state="failed", code="worker-died"))
        if epoch.counts is not None:
            self.connection.execute(update(jobs).where(jobs.c.grant_document.is_not(None)).values(former=1))
            self.connection.execute(update(scorings).values(former=1))
        self.connection.execute(delete(settings).where(settings.c.name.startswith(LOST, autoescape=True)))
        # What waits for approvals would be decided in a log that does not tell of its request.
        waiting = jobs.c.state == "awaiting_approval"
        self.connection.execute(update(jobs).where(waiting).values(state="expired", code="log-ended"))
        self.connection.execute(update(scorings).where(scorings.c.state.in_(("asked", "waiting"))).values(state="lapsed"))
        self.replace_setting("log_origin", epoch.log.origin)
        self.replace_setting("log_key", epoch.log.key)
        return carried


def _link(value: Any) -> LogLink:
    return cast(LogLink, decode(cast(Any, LogLink), value))

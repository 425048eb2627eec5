"""Webhooks and the outbox of notices to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, exists, func, insert, select, update

from policies.canonical import digest
from sandbox.jobs.notices import Notice, NoticeKind, NoticeState, Webhook, notice_id
from sandbox.store.exchange import from_text
from sandbox.store.schema import agreement_parties, epoch_signatures, epochs, jobs, key_requests, notices, webhooks


class NoticeTables:
    """Verbs on webhooks and notices, inside one transaction."""

    connection: Connection

    def set_webhook(self, participant: str, url: str | None, now: int) -> None:
        """Send a participant's notices to `url` from now on, dead ones again too; None forgets its webhook and what was not sent."""
        self.connection.execute(delete(webhooks).where(webhooks.c.participant == participant))
        own = notices.c.participant == participant
        if url is None:
            self.connection.execute(delete(notices).where(own, notices.c.state.in_(["waiting", "dead"])))
            return
        self.connection.execute(insert(webhooks).values(participant=participant, url=url, failures=0))
        again = update(notices).where(own, notices.c.state.in_(["waiting", "dead"]))
        self.connection.execute(again.values(state="waiting", attempts=0, next_at=now))

    def webhook(self, participant: str) -> Webhook | None:
        """A participant's webhook."""
        row = self.connection.execute(select(webhooks).where(webhooks.c.participant == participant)).one_or_none()
        return None if row is None else _webhook_of(row)

    def add_notices(self, kind: NoticeKind, subject: str, participants: Iterable[str], now: int) -> None:
        """Put a notice into the outbox for each of the participants that has a webhook; again changes nothing."""
        query = select(webhooks.c.participant).where(webhooks.c.participant.in_(sorted(set(participants))))
        for row in self.connection.execute(query).all():
            name = notice_id(row.participant, kind, subject)
            if self.connection.execute(select(notices.c.id).where(notices.c.id == name)).one_or_none() is None:
                values = {"id": name, "participant": row.participant, "kind": kind, "subject": subject, "at": now, "next_at": now}
                self.connection.execute(insert(notices).values(**values, state="waiting", attempts=0))

    def due_webhooks(self, now: int, most: int, without: Sequence[str] = ()) -> list[Webhook]:
        """Webhooks of participants with a notice that is due at `now`, those due longest first."""
        query = (
            select(webhooks)
            .join(notices, notices.c.participant == webhooks.c.participant)
            .where(notices.c.state == "waiting", notices.c.next_at <= now, webhooks.c.participant.not_in(list(without)))
            .group_by(webhooks.c.participant, webhooks.c.url, webhooks.c.failures)
            .order_by(func.min(notices.c.next_at))
            .limit(most)
        )
        return [_webhook_of(row) for row in self.connection.execute(query)]

    def take_notice(self, participant: str, now: int, held_until: int) -> Notice | None:
        """Count an attempt at a participant's notice that is due longest and hold it until `held_until`; None if none is due.

        What no longer waits is settled on the way and not returned. Of several processes one gets the notice.
        """
        wanted = notices.c.participant == participant, notices.c.state == "waiting", notices.c.next_at <= now
        while True:
            row = self.connection.execute(select(notices).where(*wanted).order_by(notices.c.next_at, notices.c.id).limit(1)).one_or_none()
            if row is None:
                return None
            seen = notices.c.id == row.id, notices.c.state == "waiting", notices.c.next_at == row.next_at
            if not self._waits(row):
                self.connection.execute(update(notices).where(*seen).values(state="settled"))
                continue
            done = self.connection.execute(update(notices).where(*seen).values(next_at=held_until, attempts=notices.c.attempts + 1))
            if done.rowcount != 1:
                return None
            return self.notice(row.id)

    def notice(self, name: str) -> Notice | None:
        """The notice of that id."""
        row = self.connection.execute(select(notices).where(notices.c.id == name)).one_or_none()
        return None if row is None else notice_of(row)

    def end_notice(self, notice: Notice, state: NoticeState) -> None:
        """Note that a notice was delivered, or that it is given up."""
        self.connection.execute(update(notices).where(notices.c.id == notice.id, notices.c.state == "waiting").values(state=state))
        self._note(notice.participant, failed=state != "delivered")

    def postpone_notice(self, notice: Notice, next_at: int) -> None:
        """Note that an attempt failed and when the next one is due; not if the notice was taken anew meanwhile."""
        held = notices.c.id == notice.id, notices.c.state == "waiting", notices.c.attempts == notice.attempts
        self.connection.execute(update(notices).where(*held).values(next_at=next_at))
        self._note(notice.participant, failed=True)

    def forget_notices(self, before: int) -> int:
        """Remove notices that were not to be sent any more and came to wait before `before`; returns how many."""
        gone = delete(notices).where(notices.c.state != "waiting", notices.c.at < before)
        return int(self.connection.execute(gone).rowcount)

    def _note(self, participant: str, *, failed: bool) -> None:
        count = webhooks.c.failures + 1 if failed else 0
        self.connection.execute(update(webhooks).where(webhooks.c.participant == participant).values(failures=count))

    def _waits(self, row: Any) -> bool:
        if row.kind == "agreement":
            parties = agreement_parties.c
            condition = exists().where(parties.agreement == row.subject, parties.participant == row.participant, parties.signed.is_(None))
        elif row.kind == "key-request":
            asked = key_requests.c
            condition = exists().where(
                asked.job == row.subject,
                asked.provider == row.participant,
                asked.state.in_(["wanted", "challenged", "attested"]),
                jobs.c.id == asked.job,
                jobs.c.state == "running",
            )
        elif row.kind == "approval":
            condition = exists().where(jobs.c.id == row.subject, jobs.c.state == "awaiting_approval")
        elif row.kind == "epoch":
            return self._epoch_waits(row)
        else:
            return True
        return bool(self.connection.execute(select(condition)).scalar_one())

    def _epoch_waits(self, row: Any) -> bool:
        newest = self.connection.execute(select(epochs).order_by(epochs.c.number.desc()).limit(1)).one_or_none()
        if newest is None or newest.complete or digest(from_text(newest.document)) != row.subject:
            return False
        own = epoch_signatures.c.number == newest.number, epoch_signatures.c.participant == row.participant
        return not self.connection.execute(select(exists().where(*own))).scalar_one()


def notice_of(row: Any) -> Notice:
    """The notice that a row holds."""
    return Notice(
        id=row.id,
        participant=row.participant,
        kind=row.kind,
        subject=row.subject,
        at=int(row.at),
        state=row.state,
        attempts=int(row.attempts),
        next_at=int(row.next_at),
    )


def _webhook_of(row: Any) -> Webhook:
    return Webhook(participant=row.participant, url=row.url, failures=int(row.failures))

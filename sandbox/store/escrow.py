"""Stored exchanges of two legs. Callers hold the log (`hold_log`) while they change one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from enclaves.kit.envelope import Signed
from policies.codec import decode
from policies.escrow import FINAL, Course
from policies.exchange import Exchange, SignedExchangeAct
from sandbox.exchange.escrow_states import StoredAct, StoredExchange
from sandbox.store.exchange import parsed, to_text
from sandbox.store.schema import exchange_acts, exchanges


class EscrowTables:
    """Verbs on exchanges, inside one transaction."""

    connection: Connection

    def add_exchange(self, stored: StoredExchange) -> None:
        """Store a new exchange."""
        first, second = stored.exchange.participants
        self.connection.execute(
            insert(exchanges).values(
                digest=stored.digest,
                first=first,
                second=second,
                arbiter=stored.exchange.arbiter or "",
                document=to_text(stored.signed),
                course=to_text(stored.course),
                stage=stored.course.stage,
                closed=stored.closed,
                at=stored.at,
            )
        )

    def exchange(self, digest: str) -> StoredExchange | None:
        """The exchange of that digest."""
        row = self.connection.execute(select(exchanges).where(exchanges.c.digest == digest)).one_or_none()
        return None if row is None else exchange_of(row)

    def set_course(self, digest: str, course: Course, closed: int = -1) -> None:
        """Store how far an exchange got, and where it was closed if it was now."""
        values: dict[str, Any] = {"course": to_text(course), "stage": course.stage} | ({"closed": closed} if closed >= 0 else {})
        self.connection.execute(update(exchanges).where(exchanges.c.digest == digest).values(**values))

    def running_exchanges(self) -> list[StoredExchange]:
        """Every exchange that has not ended, oldest first."""
        query = select(exchanges).where(exchanges.c.stage.not_in(sorted(FINAL))).order_by(exchanges.c.at, exchanges.c.digest)
        return [exchange_of(row) for row in self.connection.execute(query)]

    def live_exchanges(self) -> list[StoredExchange]:
        """Every exchange that has not ended and every one that was handed over, oldest first."""
        over = sorted(FINAL - {"handed_over"})
        query = select(exchanges).where(exchanges.c.stage.not_in(over)).order_by(exchanges.c.at, exchanges.c.digest)
        return [exchange_of(row) for row in self.connection.execute(query)]

    def add_exchange_act(self, signed: SignedExchangeAct, at: int) -> None:
        """Store the next act on an exchange."""
        name = signed.item.exchange
        place = self.connection.execute(
            select(func.count()).select_from(exchange_acts).where(exchange_acts.c.exchange == name)
        ).scalar_one()
        self.connection.execute(insert(exchange_acts).values(exchange=name, place=place, at=at, signed=to_text(signed)))

    def exchange_acts(self, digest: str) -> list[StoredAct]:
        """What was signed about an exchange, in the order of the log."""
        query = select(exchange_acts).where(exchange_acts.c.exchange == digest).order_by(exchange_acts.c.place)
        return [StoredAct(at=int(row.at), signed=parsed(SignedExchangeAct, row.signed)) for row in self.connection.execute(query)]


def exchange_of(row: Any) -> StoredExchange:
    """The exchange that a row holds."""
    signed = parsed(Signed, row.document)
    return StoredExchange(
        digest=row.digest,
        signed=signed,
        exchange=decode(Exchange, signed.body),
        course=parsed(Course, row.course),
        closed=int(row.closed),
        at=int(row.at),
    )

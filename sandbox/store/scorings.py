"""Stored requests to score encrypted rows. Callers hold the log while they add or change one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from enclaves.kit.envelope import Signed
from policies.codec import decode
from policies.finding import Decision
from policies.scorer import ScoreRequest
from policies.scoring_decision import ScoreFacts
from sandbox.jobs.scoring_states import Scoring
from sandbox.store.exchange import from_text, parsed, to_text
from sandbox.store.once import insert_once
from sandbox.store.schema import scorings, settings

LOST = "lost-"
"""Before the name of a scoring: a setting that says of which agreement and model a lost request is, and its rows."""


class ScoringTables:
    """Verbs on scorings, inside one transaction."""

    connection: Connection

    def add_scoring(self, scoring: Scoring) -> None:
        """Store a decided request."""
        self.connection.execute(
            insert(scorings).values(
                id=scoring.id,
                consumer=scoring.request.consumer,
                owner=scoring.owner,
                request_id=scoring.request.request_id,
                request_digest=scoring.digest,
                agreement=scoring.request.agreement,
                model=scoring.request.model,
                score_rows=scoring.request.rows,
                signed=to_text(scoring.signed),
                facts=to_text(scoring.facts),
                decision=to_text(scoring.decision),
                decided=scoring.decided,
                created_at=scoring.created_at,
                **_changing(scoring),
            )
        )

    def set_scoring(self, scoring: Scoring) -> None:
        """Store what may change of a scoring: its state, and how it ended."""
        self.connection.execute(update(scorings).where(scorings.c.id == scoring.id).values(**_changing(scoring)))

    def scoring(self, name: str) -> Scoring | None:
        """The scoring of that id."""
        row = self.connection.execute(select(scorings).where(scorings.c.id == name)).one_or_none()
        return None if row is None else _scoring_of(row)

    def scoring_by_request(self, consumer: str, request_id: str) -> Scoring | None:
        """The scoring that a request of a consumer made."""
        query = select(scorings).where(scorings.c.consumer == consumer, scorings.c.request_id == request_id)
        row = self.connection.execute(query).one_or_none()
        return None if row is None else _scoring_of(row)

    def open_scorings(self, participant: str) -> list[Scoring]:
        """Scorings of a consumer or owner that are `asked` or `waiting`, oldest first."""
        mine = (scorings.c.consumer == participant) | (scorings.c.owner == participant)
        query = select(scorings).where(mine, scorings.c.state.in_(("asked", "waiting"))).order_by(scorings.c.decided)
        return [_scoring_of(row) for row in self.connection.execute(query)]

    def encrypted_rows(self, agreement: str, model: str) -> tuple[int, int]:
        """Rows and number of all requests to a model under an agreement that were allowed in this log, and not returned."""
        counted = (scorings.c.state.not_in(("denied", "returned")), scorings.c.former == 0)
        mine = (scorings.c.agreement == agreement, scorings.c.model == model, *counted)
        total = select(func.coalesce(func.sum(scorings.c.score_rows), 0), func.count()).where(*mine)
        rows, requests = self.connection.execute(total).one()
        lost = [int(value.rpartition(" ")[2]) for value in self._lost() if value.startswith(f"{agreement} {model} ")]
        return int(rows) + sum(lost), int(requests) + len(lost)

    def lose_scoring(self, name: str, agreement: str, model: str, rows: int | None) -> None:
        """Remember a request of which a recovered log has only the header; its rows count, None for a denied or returned one."""
        value = "" if rows is None else f"{agreement} {model} {rows}"
        insert_once(self.connection, settings, name=f"{LOST}{name}", value=value)
        self.connection.execute(update(settings).where(settings.c.name == f"{LOST}{name}").values(value=value))

    def scoring_is_lost(self, name: str) -> bool:
        """Whether only the header of this request is known."""
        return self.connection.execute(select(settings.c.name).where(settings.c.name == f"{LOST}{name}")).first() is not None

    def _lost(self) -> list[str]:
        query = select(settings.c.value).where(settings.c.name.startswith(LOST, autoescape=True))
        return [str(row.value) for row in self.connection.execute(query)]

    def ended_scorings(self) -> list[Scoring]:
        """Scorings that ended in the present log."""
        query = select(scorings).where(scorings.c.ended.is_not(None), scorings.c.former == 0).order_by(scorings.c.ended)
        return [_scoring_of(row) for row in self.connection.execute(query)]

    def keep_score_receipt(self, name: str, receipt: Any) -> None:
        """Keep the receipt of a scoring that ended in a log that ends now."""
        self.connection.execute(update(scorings).where(scorings.c.id == name).values(receipt=to_text(receipt)))

    def former_score_receipt(self, name: str) -> dict[str, Any] | None:
        """The receipt of a scoring that ended in a former log."""
        found = self.connection.execute(select(scorings.c.receipt).where(scorings.c.id == name)).scalar_one_or_none()
        return None if found is None else dict(from_text(found))


def _changing(scoring: Scoring) -> dict[str, Any]:
    statement = None if scoring.statement is None else to_text(scoring.statement)
    return {"state": scoring.state, "statement": statement, "ended": scoring.ended}


def _scoring_of(row: Any) -> Scoring:
    signed = parsed(Signed, row.signed)
    return Scoring(
        id=row.id,
        state=row.state,
        owner=row.owner,
        request=decode(ScoreRequest, signed.body),
        digest=row.request_digest,
        signed=signed,
        facts=parsed(ScoreFacts, row.facts),
        decision=parsed(Decision, row.decision),
        statement=None if row.statement is None else parsed(Signed, row.statement),
        decided=int(row.decided),
        ended=None if row.ended is None else int(row.ended),
        created_at=int(row.created_at),
        former=bool(row.former),
    )

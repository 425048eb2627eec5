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
from sandbox.store.exchange import parsed, to_text
from sandbox.store.schema import scorings


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

    def scored_encrypted(self, agreement: str, model: str) -> tuple[int, int]:
        """Rows and number of all requests to a model under an agreement that were allowed."""
        mine = (scorings.c.agreement == agreement, scorings.c.model == model, scorings.c.state != "denied")
        total = select(func.coalesce(func.sum(scorings.c.score_rows), 0), func.count()).where(*mine)
        rows, requests = self.connection.execute(total).one()
        return int(rows), int(requests)


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
    )

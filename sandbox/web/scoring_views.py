"""Scorings of encrypted rows as response JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from enclaves.kit.envelope import Signed
from policies.finding import Decision
from policies.scorer import ScoreRequest, ScoreReturn, ScoreStatement
from policies.scoring_decision import ScoreFacts
from sandbox.jobs.scoring_states import ScoringState
from sandbox.web.shapes import Document


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringView:
    """A scoring of encrypted rows: `denied`, `asked` (its ciphertexts are missing), `waiting` for the owner, `answered`,
    `refused`, or `returned` to the client.
    """

    id: str
    state: ScoringState
    owner: str
    signed: Annotated[Signed, Document(purpose="score-request", body=ScoreRequest)]
    facts: ScoreFacts
    decision: Decision
    statement: Annotated[Signed, Document(purpose="score-statement", body=ScoreStatement)] | None
    returned: Annotated[Signed, Document(purpose="score-return", body=ScoreReturn)] | None
    created_at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorings:
    """Scorings that have not ended, oldest first."""

    scorings: tuple[ScoringView, ...]

"""Requests to score encrypted rows as the host keeps them, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enclaves.kit.envelope import Signed
from policies.finding import Decision
from policies.scorer import ScoreRequest
from policies.scoring_decision import ScoreFacts

ScoringState = Literal["denied", "asked", "waiting", "answered", "refused", "returned", "lapsed"]
"""Denied by the decision; allowed and without its ciphertexts; waiting for the model's owner; answered or refused by it; given back to the
client, as the owner let its time pass; without an end in the log in which it was decided, when that log ended. Final but two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """One request, from its decision on.

    Attributes:
        owner: of the model.
        signed: the request by its consumer; `digest` names it.
        statement: by the owner, or the consumer's return; None before either.
        decided, ended: indices of the entries that record the decision and the end; `ended` is None before it.
        created_at: milliseconds since 1970.
        former: whether those entries are in a log that has ended.
    """

    id: str
    state: ScoringState
    owner: str
    request: ScoreRequest
    digest: str
    signed: Signed
    facts: ScoreFacts
    decision: Decision
    statement: Signed | None
    decided: int
    ended: int | None
    created_at: int
    former: bool = False

"""Encrypted scorings after a restore: folded again from recovered entries. Rows that the log says were used stay used."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from enclaves.kit.envelope import Signed
from policies.codec import decode
from policies.entries import EntryKind, Header
from policies.scorer import ScoreRequest
from sandbox.audit.judge_scorings import DecidedBody
from sandbox.jobs.scoring_states import Scoring, ScoringState

if TYPE_CHECKING:
    from sandbox.store.database import Transaction

ENDS: dict[EntryKind, ScoringState] = {"score_answered": "answered", "score_refused": "refused", "score_returned": "returned"}
KINDS: frozenset[EntryKind] = frozenset({"score_decided", *ENDS})


def fold(tx: Transaction, header: Header, index: int, body: dict[str, Any] | None) -> bool:
    """Fold one entry about an encrypted scoring; returns whether it is known now. Of one that nobody opened only the rows are."""
    ids = header.ids
    if header.kind == "score_decided":
        return _decided(tx, header, index, body)
    stored = tx.scoring(ids["scoring"])
    if stored is None:
        if header.kind == "score_returned":
            tx.lose_scoring(ids["scoring"], ids["agreement"], "", None)
        return True
    if body is None:
        # Its end is known and not what was signed: it has no receipt, and nobody ends it again.
        tx.set_scoring(replace(stored, state="returned" if header.kind == "score_returned" else "lapsed"))
    else:
        signed = decode(Signed, body["signed"])
        tx.set_scoring(replace(stored, state=ENDS[header.kind], statement=signed, ended=index))
    return True


def _decided(tx: Transaction, header: Header, index: int, body: dict[str, Any] | None) -> bool:
    ids = header.ids
    terms = tx.terms(ids["agreement"])
    if body is None or terms is None:
        tx.lose_scoring(ids["scoring"], ids["agreement"], ids["model"], int(ids["rows"]) if ids["allowed"] == "yes" else None)
        return False
    found = decode(DecidedBody, body)
    request = decode(ScoreRequest, found.signed.body)
    tx.add_scoring(
        Scoring(
            id=ids["scoring"],
            state="asked" if found.decision.allowed else "denied",  # its client sends the ciphertexts again
            owner=terms.scorer_of(request.model).owner,
            request=request,
            digest=ids["request"],
            signed=found.signed,
            facts=found.facts,
            decision=found.decision,
            statement=None,
            decided=index,
            ended=None,
            created_at=header.at,
        )
    )
    return True

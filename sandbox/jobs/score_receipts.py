"""The receipt of an encrypted scoring, from what the store has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.errors import NotFound, Tampered, Unavailable
from policies.lineage import links_from
from sandbox.audit.scoring_receipt import ScoreReceipt
from sandbox.jobs.scoring_states import Scoring

if TYPE_CHECKING:
    from sandbox.store.database import Transaction


def receipt_of(tx: Transaction, scoring: Scoring) -> ScoreReceipt:
    """The receipt of a scoring of the present log. Raises NotFound, Unavailable (code `not-published`), Tampered."""
    newest = tx.newest_checkpoint()
    if scoring.ended is None or scoring.statement is None or scoring.former:
        raise NotFound(f"the scoring is {scoring.state} and has no receipt")
    if newest is None or newest[0] <= scoring.ended:
        raise Unavailable("the answer is stored and not yet published; look again", code="not-published")
    agreement = tx.terms(scoring.request.agreement)
    if agreement is None:
        raise Tampered("the stored scoring does not fit together", code="job-record")
    entry, proof = tx.included(scoring.ended, newest[0])
    signers = [agreement.party(who) for who in (scoring.request.consumer, scoring.owner)]
    return ScoreReceipt(
        request=scoring.signed,
        statement=scoring.statement,
        entry=entry.decode(),
        index=scoring.ended,
        proof=tuple(item.hex() for item in proof),
        checkpoint=newest[1],
        lineage=links_from(agreement.log, tx.log_links()),
        rotations=tuple(rotation for party in signers for rotation in tx.rotations_from(party.signing_key)),
    )

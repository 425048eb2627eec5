"""The receipt of an encrypted scoring: what its consumer asked, what the model's owner answered, and the entry that records it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enclaves.kit.envelope import Signed, document_digest
from enclaves.kit.lineage import follow_lineage
from policies.agreement import Agreement
from policies.codec import decode, omitted
from policies.documents import SignedRotation
from policies.entries import parse_header
from policies.errors import Malformed, Tampered
from policies.lineage import LogLink
from policies.odrl import agreement_digest
from policies.scorer import ScoreRequest, ScoreStatement, scoring_id
from sandbox.audit.checkpoint import Checkpoint, open_checkpoint
from sandbox.audit.joint_receipt import signed_under
from sandbox.audit.merkle import leaf_hash, verify_inclusion
from sandbox.audit.receipt import log_key


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreReceipt:
    """What proves offline how an encrypted scoring ended. It holds digests of ciphertexts and no score.

    Attributes:
        request: signed by the consumer; `statement`: by the model's owner.
        entry, index, proof, checkpoint: the entry of the end, as canonical JSON, and its place in the log.
        lineage, rotations: as of `JointReceipt`.
    """

    kind: Literal["score-receipt/1"] = "score-receipt/1"
    request: Signed
    statement: Signed
    entry: str
    index: int
    proof: tuple[str, ...]
    checkpoint: str
    lineage: tuple[LogLink, ...] = omitted(())
    rotations: tuple[SignedRotation, ...] = omitted(())


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedScoring:
    """A receipt that holds."""

    request: ScoreRequest
    statement: ScoreStatement
    checkpoint: Checkpoint


def verify_score_receipt(receipt: ScoreReceipt, agreement: Agreement) -> VerifiedScoring:
    """Return the verified receipt. The caller has made sure of `agreement` (its digest and signatures).

    Checks checkpoint signature and inclusion; that consumer and owner, as the agreement names them, signed request and statement; that the
    statement is of this request; and the entry's digests.

    Raises:
        Tampered, Malformed: what failed.
    """
    checkpoint = open_checkpoint(receipt.checkpoint, log_key(follow_lineage(agreement, receipt.lineage).log))
    try:
        proof = [bytes.fromhex(item) for item in receipt.proof]
    except ValueError as error:
        raise Malformed("the proof is not hexadecimal", where="proof") from error
    entry, name = receipt.entry.encode(), document_digest(receipt.request)
    verify_inclusion(leaf_hash(entry), receipt.index, checkpoint.size, proof, checkpoint.root)
    asked = signed_under(receipt.rotations, agreement, receipt.request, "score-request", receipt.request.by)
    request = decode(ScoreRequest, asked)
    owner = agreement.scorer_of(request.model).owner
    statement = decode(ScoreStatement, signed_under(receipt.rotations, agreement, receipt.statement, "score-statement", owner))
    if request.agreement != agreement_digest(agreement) or request.consumer != receipt.request.by:
        raise Tampered("the receipt is under another agreement", code="receipt-agreement")
    if (statement.scoring, statement.request) != (scoring_id(name), name):
        raise Tampered("the statement is of another request", code="scoring-binding")
    expected = {"scoring": statement.scoring, "agreement": request.agreement, "statement": document_digest(receipt.statement)}
    expected |= {"scores": statement.scores} if statement.scores is not None else {"code": str(statement.refused)}
    header = parse_header(entry)
    if header.kind != ("score_answered" if statement.scores else "score_refused") or header.ids != expected:
        raise Tampered("the log entry records another end", code="receipt-entry")
    return VerifiedScoring(request=request, statement=statement, checkpoint=checkpoint)

"""The receipt of an encrypted scoring: what its consumer asked, what the model's owner answered, or that it took its rows back, and the
entry that records it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enclaves.kit.envelope import Signed, document_digest
from enclaves.kit.lineage import follow_lineage
from policies.agreement import Agreement
from policies.canonical import digest_bytes
from policies.codec import decode, omitted
from policies.documents import SignedRotation
from policies.entries import EntryKind, parse_header
from policies.errors import Malformed, Tampered
from policies.lineage import LogLink
from policies.odrl import agreement_digest
from policies.scorer import ScoreRequest, ScoreReturn, ScoreStatement, scoring_id
from sandbox.audit.checkpoint import Checkpoint, open_checkpoint
from sandbox.audit.joint_receipt import signed_under
from sandbox.audit.merkle import leaf_hash, verify_inclusion
from sandbox.audit.receipt import log_key


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreReceipt:
    """What proves offline how an encrypted scoring ended. It holds digests of ciphertexts and no score.

    Attributes:
        request: signed by the consumer; `statement`: by the model's owner, or, that there was no answer in time, by the consumer.
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
    statement: ScoreStatement | ScoreReturn
    checkpoint: Checkpoint


def verify_score_receipt(receipt: ScoreReceipt, agreement: Agreement, answer: bytes | None = None) -> VerifiedScoring:
    """Return the verified receipt. The caller has made sure of `agreement` (its digest and signatures).

    Checks checkpoint signature and inclusion; that consumer and owner, as the agreement names them, signed request and statement (the
    consumer both, where it took its rows back); that the statement is of this request; the entry's digests; and, if given, the answer's
    ciphertexts.

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
    statement = _statement(receipt, agreement, request)
    if request.agreement != agreement_digest(agreement) or request.consumer != receipt.request.by:
        raise Tampered("the receipt is under another agreement", code="receipt-agreement")
    if (statement.scoring, statement.request) != (scoring_id(name), name):
        raise Tampered("the statement is of another request", code="scoring-binding")
    expected = {"scoring": statement.scoring, "agreement": request.agreement, "statement": document_digest(receipt.statement)}
    kind: EntryKind = "score_returned"
    if isinstance(statement, ScoreStatement):
        kind = "score_answered" if statement.scores else "score_refused"
    expected |= {"scores": statement.scores} if statement.scores is not None else {"code": str(statement.refused)}
    header = parse_header(entry)
    if header.kind != kind or header.ids != expected:
        raise Tampered("the log entry records another end", code="receipt-entry")
    if answer is not None and (digest_bytes(answer) if answer else None) != statement.scores:
        raise Tampered("the answer is not the one that the model's owner signed", code="receipt-sealed")
    return VerifiedScoring(request=request, statement=statement, checkpoint=checkpoint)


def _statement(receipt: ScoreReceipt, agreement: Agreement, request: ScoreRequest) -> ScoreStatement | ScoreReturn:
    """What the owner signed, or the consumer's return."""
    if receipt.statement.purpose == "score-return":
        return decode(ScoreReturn, signed_under(receipt.rotations, agreement, receipt.statement, "score-return", request.consumer))
    owner = agreement.scorer_of(request.model).owner
    return decode(ScoreStatement, signed_under(receipt.rotations, agreement, receipt.statement, "score-statement", owner))

"""The receipt of a run, and its offline verification from nothing but the agreement and the receipt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enclaves.kit.appraisal import Attested, appraise, reference_values, verify_statement
from enclaves.kit.lineage import follow_lineage
from enclaves.kit.rotation import keys_in_force
from policies.agreement import Agreement, LogIdentity
from policies.canonical import digest, digest_bytes
from policies.codec import encode, omitted
from policies.entries import parse_header
from policies.errors import Malformed, SandboxError, Tampered
from policies.exchange import Bound
from policies.grant import EnclaveGrant, grant_digest
from policies.lineage import LogLink
from policies.odrl import agreement_digest
from policies.statement import SignedEvidence, SignedStatement, verdict_of
from sandbox.audit.checkpoint import Checkpoint, LogKey, open_checkpoint
from sandbox.audit.merkle import leaf_hash, verify_inclusion


@dataclass(frozen=True, kw_only=True, slots=True)
class Repetition:
    """The log entry by which a release was handed out again for another job, and its place under the receipt's checkpoint."""

    entry: str
    index: int
    proof: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class HandOver:
    """The log entry by which both legs of an exchange were handed over, and its place under the receipt's checkpoint."""

    entry: str
    index: int
    proof: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What proves an outcome offline.

    Attributes:
        entry: the log entry that recorded the outcome, as canonical JSON.
        index, proof, checkpoint: its place in the log, RFC 6962 inclusion proof (hex) and the signed note.
        lineage: what leads from the log that the agreement names to the one that signed; nothing where that is the same.
        repeated: where a job asked again what an earlier one had answered: all else is of the earlier job.
        handed_over: where the release was one leg of an exchange, and both were handed over.
    """

    kind: Literal["receipt/1"] = "receipt/1"
    grant: EnclaveGrant
    evidence: SignedEvidence
    statement: SignedStatement
    entry: str
    index: int
    proof: tuple[str, ...]
    checkpoint: str
    lineage: tuple[LogLink, ...] = omitted(())
    repeated: Repetition | None = omitted(None)
    handed_over: HandOver | None = omitted(None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """A receipt that holds: the outcome is in the log under `checkpoint`, and the attested enclave signed it for this grant.

    Attributes:
        job: the job that it is about: the grant's, or the one that repeats it.
    """

    job: str
    receipt: Receipt
    attested: Attested
    checkpoint: Checkpoint


def log_key(log: LogIdentity) -> LogKey:
    """The verifier key of a log as agreements name it."""
    return LogKey(name=log.origin, public=bytes.fromhex(log.key))


def verify_receipt(receipt: Receipt, agreement: Agreement, sealed: bytes | None = None) -> Verified:
    """Return the verified receipt. The caller has made sure of `agreement` (its digest and signatures).

    Checks, in this order: checkpoint signature, inclusion, grant under this agreement, evidence against the reference values of every
    provider's terms, the enclave's signature and that mechanism, scale and loss are the granted ones, the entry's digests, and, if given,
    the sealed release.

    Raises:
        Tampered, EvidenceRejected, Malformed: what failed.
    """
    checkpoint = open_checkpoint(receipt.checkpoint, log_key(follow_lineage(agreement, receipt.lineage).log))
    entry = _require_included(receipt, checkpoint)
    header = parse_header(entry)
    attested = _appraise(receipt, agreement, header.at / 1000)
    statement = verify_statement(receipt.statement, attested, receipt.grant)
    expected = {
        "job": receipt.grant.job,
        "agreement": receipt.grant.agreement,
        "grant": grant_digest(receipt.grant),
        "evidence": attested.digest,
        "statement": digest(encode(receipt.statement)),
    }
    expected |= {"sealed": statement.sealed} if statement.sealed else {"code": str(statement.withheld)}
    accepted = verdict_of(statement)
    expected |= {"accepted": accepted} if accepted is not None else {}
    if header.kind != ("released" if statement.sealed else "withheld") or header.ids != expected:
        raise Tampered("the log entry records another outcome", code="receipt-entry")
    if sealed is not None and (digest_bytes(sealed) if sealed else None) != statement.sealed:
        raise Tampered("the sealed release is not the one that the enclave signed", code="receipt-sealed")
    job = receipt.grant.job if receipt.repeated is None else _repeating_job(receipt, receipt.repeated, checkpoint)
    return Verified(job=job, receipt=receipt, attested=attested, checkpoint=checkpoint)


def require_handed_over(receipt: Receipt, checkpoint: Checkpoint, bound: Bound) -> None:
    """Raise Tampered (code `not-handed-over`) unless the log hands over both legs of the exchange, this release among them.

    Args:
        bound: what the recipient's own request names.
    """
    if receipt.handed_over is None:
        raise Tampered("the release is one leg of an exchange, and nothing proves that both were handed over", code="not-handed-over")
    header = parse_header(_require_included(receipt.handed_over, checkpoint))
    leg = header.ids.get("first" if bound.leg == 1 else "second")
    named = (header.kind, header.ids.get("exchange"), leg) == ("handed_over", bound.exchange, receipt.statement.statement.sealed)
    if not named or receipt.grant.job not in header.ids.get("jobs", "").split(","):
        raise Tampered("the log hands over another exchange or release", code="not-handed-over")


def _require_included(place: Receipt | Repetition | HandOver, checkpoint: Checkpoint) -> bytes:
    try:
        proof = [bytes.fromhex(item) for item in place.proof]
    except ValueError as error:
        raise Malformed("the proof is not hexadecimal", where="proof") from error
    entry = place.entry.encode()
    verify_inclusion(leaf_hash(entry), place.index, checkpoint.size, proof, checkpoint.root)
    return entry


def _repeating_job(receipt: Receipt, repeated: Repetition, checkpoint: Checkpoint) -> str:
    header = parse_header(_require_included(repeated, checkpoint))
    expected = {"job": header.ids.get("job", ""), "agreement": receipt.grant.agreement, "of": receipt.grant.job}
    if header.kind != "repeated" or header.ids != expected or receipt.statement.statement.sealed is None:
        raise Tampered("the log entry does not hand this release out again", code="receipt-entry")
    return expected["job"]


def _appraise(receipt: Receipt, agreement: Agreement, at: float) -> Attested:
    """Whatever was valid when the outcome was logged counts: certificates of TEEs may live for hours only."""
    grant = receipt.grant
    if grant.agreement != agreement_digest(agreement):
        raise Tampered("the receipt is under another agreement", code="receipt-agreement")
    try:
        _, sealing_key = keys_in_force(agreement.party(grant.recipient.id), grant.recipient.rotations)
        terms = [agreement.terms_of(read.dataset) for read in grant.reads]
    except SandboxError as error:
        raise Tampered("the grant names what the agreement does not", code="receipt-grant") from error
    if sealing_key != grant.recipient.sealing_key or not terms:
        raise Tampered("the grant names another recipient key", code="receipt-grant")
    wanted = reference_values(terms)
    return appraise(
        receipt.evidence,
        grant=grant,
        kinds=wanted.kinds,
        measurements=wanted.measurements,
        nonce=None,
        platforms=wanted.platforms,
        at=at,
    )

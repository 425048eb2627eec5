"""How a run ends: the release is checked against the grant, stored and logged in one transaction; then published; then handed out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from enclaves.kit.appraisal import Attested, verify_statement
from policies.acts import informed_of
from policies.canonical import digest, digest_bytes
from policies.codec import encode
from policies.entries import EntryKind
from policies.errors import Conflict, Tampered
from policies.grant import grant_digest
from policies.granted import FailureCode
from policies.joint_grant import JointGrant
from policies.query import Plan
from policies.statement import SignedEvidence, SignedStatement, Statement, verdict_of
from sandbox.exchange import escrow
from sandbox.exchange.tightening import require_standing
from sandbox.host import Host
from sandbox.jobs.states import Job, JobState, Positions, StoredRelease
from sandbox.jobs.voids import ask_to_renounce

if TYPE_CHECKING:
    from sandbox.store.database import Transaction


def record_evidence(host: Host, job: Job, evidence: SignedEvidence, attested: Attested) -> Job:
    """Store and log the evidence of a running job, open it to the brokers, and publish. The same again is the same."""
    assert job.grant is not None
    with host.store.transaction() as tx:
        held = tx.lock_job(job.id)
        if held is None or held.state != "running":
            raise Conflict("the run was ended by somebody else", code="job-state")
        positions = held.positions if held.evidence == evidence else _log_evidence(host, tx, held, evidence, attested)
    host.publish()
    return replace(held, evidence=evidence, positions=positions)


def _log_evidence(host: Host, tx: Transaction, held: Job, evidence: SignedEvidence, attested: Attested) -> Positions:
    assert held.grant is not None
    ids = {"job": held.id, "grant": grant_digest(held.grant), "evidence": attested.digest, "measurement": attested.evidence.measurement}
    index = tx.append("attested", at=host.now(), ids=ids, body={"evidence": encode(evidence)}, agreement=held.request.agreement)
    positions = replace(held.positions, attested=index)
    tx.set_evidence(held, evidence, positions)
    for request in tx.key_requests(held.id):
        tx.set_key_request(replace(request, state="attested"))
    return positions


def record_outcome(host: Host, job: Job, attested: Attested, signed: SignedStatement, sealed: bytes) -> Job:
    """Store what the enclave stated and sealed, if it keeps to the grant; log it; publish. The same again is the same.

    Raises:
        Tampered: mechanism, scale, loss or digest differ from the grant or from the sealed bytes; nothing is stored.
        Conflict: the job is no longer running.
    """
    assert job.grant is not None
    assert not isinstance(job.grant, JointGrant), "joint totals are recorded elsewhere"
    statement = verify_statement(signed, attested, job.grant)
    if statement.sealed != (digest_bytes(sealed) if sealed else None):
        raise Tampered("the sealed release is not the stated one", code="statement-mismatch")
    with host.store.transaction() as tx:
        held = tx.lock_job(job.id)
        if held is None:
            raise Conflict("the job is gone", code="job-state")
        if tx.release(job.id) == StoredRelease(job=job.id, statement=signed, sealed=sealed):
            ended = held  # stored before, by an attempt whose answer was lost
        else:
            ended = _store_outcome(host, tx, held, signed, sealed)
    host.on_step("stored")
    host.publish()
    host.on_step("stored-published")
    return ended


def _store_outcome(host: Host, tx: Transaction, held: Job, signed: SignedStatement, sealed: bytes) -> Job:
    statement = signed.statement
    tx.hold_log()
    try:
        require_standing(tx, held.request.agreement, held.plan.sources, host.now())
    except Conflict:
        return fail_held(host, tx, held, "tightened")
    state: JobState = "released" if sealed else "withheld"
    kind: EntryKind = "released" if sealed else "withheld"
    ids = {
        "job": held.id,
        "agreement": held.request.agreement,
        "grant": statement.grant,
        "evidence": statement.evidence,
        "statement": digest(encode(signed)),
    }
    accepted = verdict_of(statement)
    ids |= {"sealed": statement.sealed} if statement.sealed else {"code": str(statement.withheld)}
    ids |= {"accepted": accepted} if accepted is not None else {}
    index = tx.append(kind, at=host.now(), ids=ids, body={"statement": encode(signed)}, agreement=held.request.agreement)
    ended = tx.move_job(held, state, positions=replace(held.positions, ended=index), code=statement.withheld or "")
    tx.add_release(StoredRelease(job=held.id, statement=signed, sealed=sealed))
    bound = held.request.exchange
    if bound is not None:
        escrow.note_ended(host, tx, held.id, bound, statement.sealed or "", accepted, host.now())
    if isinstance(statement, Statement) and statement.probing == "suspected":
        tx.add_notices("probing", held.id, _owner_of_model(held), host.now())
    if sealed:
        if bound is None or bound.form == "right":
            tx.add_notices("release", held.id, [held.request.consumer], host.now())
        tx.add_notices("use", held.id, informed(tx, held), host.now())
    return ended


def _owner_of_model(job: Job) -> list[str]:
    scoring = job.plan.scoring if isinstance(job.plan, Plan) else None
    return [] if scoring is None else [scoring.model.partition(".")[0]]


def informed(tx: Transaction, job: Job) -> list[str]:
    """The parties that the agreement has told of each release, besides its recipient."""
    agreement = tx.terms(job.request.agreement)
    names = () if agreement is None else informed_of(agreement, job.plan.sources)
    return [name for name in names if name != job.request.consumer]


def record_failure(host: Host, job_id: str, code: FailureCode) -> None:
    """End a running job without a release. A job that ended otherwise is left alone."""
    with host.store.transaction() as tx:
        held = tx.lock_job(job_id)
        if held is None or held.state != "running":
            return
        fail_held(host, tx, held, code)
    host.publish()


def fail_held(host: Host, tx: Transaction, held: Job, code: FailureCode) -> Job:
    """End a held job without a release; its charge stays unless every broker renounces the grant."""
    ids = {"job": held.id, "agreement": held.request.agreement, "code": code}
    index = tx.append("failed", at=host.now(), ids=ids, body={"code": code}, agreement=held.request.agreement)
    ask_to_renounce(tx, held)
    failed = tx.move_job(held, "failed", positions=replace(held.positions, ended=index), code=code)
    if held.request.exchange is not None:
        escrow.note_ended(host, tx, held.id, held.request.exchange, "", None, host.now())
    return failed

"""Jobs that wait for approvals: approving one, deciding it once enough have approved, taking one back, ending those that waited long."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from enclaves.kit.envelope import Signed
from policies.acts import JobApproval, JobCancellation, SignedApproval, SignedCancellation, approvers_of
from policies.agreement import Agreement
from policies.codec import decode
from policies.errors import Conflict, Forbidden, NotFound
from policies.grant import ledgers_charged
from sandbox.exchange.records import Participant
from sandbox.exchange.rotation import require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.host import Host
from sandbox.jobs.states import Job
from sandbox.jobs.submit import decide_held

if TYPE_CHECKING:
    from sandbox.store.database import Transaction

WAIT_MS = 30 * 24 * 3600 * 1000
"""How long a job waits for approvals."""


def approve(host: Host, caller: Participant, signed: Signed) -> Job:
    """Store and log an approval; the one that makes enough decides and charges the job. The same again is the same.

    Raises:
        NotFound: no such job under an agreement of the caller's. Forbidden: the caller's approval does not count.
        Conflict: the job waits for no approval, or the approval is of another request.
    """
    require_signed(signed, "job-approval", caller.id, caller.signing_key)
    approval = decode(JobApproval, signed.body)
    own = SignedApproval(approval=approval, by=caller.id, signature=signed.signature)
    with host.store.transaction() as tx:
        if tx.job_of_party(approval.job, caller.id) is None:
            raise NotFound("there is no such job under an agreement of yours")
        job = tx.lock_job(approval.job)  # before the log, as whoever ends a run does
        assert job is not None, "jobs are never deleted"
        tx.hold_log()
        spent = tx.lock_ledgers(ledgers_charged(_terms(tx, job), job.plan))
        if (approval.agreement, approval.request) != (job.request.agreement, job.request_digest):
            raise Conflict("the approval is of another request", code="approval-binding")
        if any(known.by == caller.id for known in tx.approvals(approval.agreement, job.id)):
            return job
        if caller.id not in approvers_of(_terms(tx, job), job.plan.sources):
            raise Forbidden("your approval of this job does not count")
        if job.state != "awaiting_approval":
            raise Conflict(f"the job is {job.state} and waits for no approval", code="job-state")
        require_in_force(tx, caller)
        tx.add_approval(own)
        tx.append("approved", at=host.now(), ids=own.to_ids(), body={}, agreement=approval.agreement)
        job = decide_held(host, tx, job, spent)
    host.publish()
    if job.state == "charged":
        host.hints.give(job.id)
    return job


def cancel(host: Host, caller: Participant, signed: Signed) -> Job:
    """End a job of the caller's that waits for approvals; nothing was charged for it. The same again is the same.

    Raises:
        NotFound: the caller made no such request. Conflict: code `job-charged` once anything is charged, `job-state` once it was decided
            or ended otherwise, `cancellation-binding` if what is signed is of another request.
    """
    require_signed(signed, "job-cancellation", caller.id, caller.signing_key)
    cancellation = decode(JobCancellation, signed.body)
    own = SignedCancellation(cancellation=cancellation, by=caller.id, signature=signed.signature)
    with host.store.transaction() as tx:
        job = tx.lock_job(cancellation.job)  # before the log, as whoever ends a run does
        if job is None or job.request.consumer != caller.id:
            raise NotFound("you made no such request")
        tx.hold_log()
        if (cancellation.agreement, cancellation.request) != (job.request.agreement, job.request_digest):
            raise Conflict("the cancellation is of another request", code="cancellation-binding")
        if job.state == "cancelled":
            return job
        if job.positions.charged >= 0:
            raise Conflict("the job is charged, and a charge is never given back", code="job-charged")
        if job.state != "awaiting_approval":
            raise Conflict(f"the job is {job.state} and waits for nothing", code="job-state")
        require_in_force(tx, caller)
        index = tx.append("cancelled", at=host.now(), ids=own.to_ids(), body={}, agreement=cancellation.agreement)
        job = tx.move_job(job, "cancelled", positions=replace(job.positions, ended=index))
    host.publish()
    return job


def _terms(tx: Transaction, job: Job) -> Agreement:
    found = tx.terms(job.request.agreement)
    assert found is not None, "a job is under an agreement"
    return found


def expire(host: Host) -> int:
    """End jobs that waited too long for approvals; nothing was charged for them. Returns how many."""
    with host.store.reading() as tx:
        late = tx.awaiting_since(host.now() - WAIT_MS)
    for name in late:
        with host.store.transaction() as tx:
            job = tx.lock_job(name)
            tx.hold_log()
            if job is None or job.state != "awaiting_approval":
                continue
            ids = {"job": job.id, "agreement": job.request.agreement}
            index = tx.append("expired", at=host.now(), ids=ids, body={"job": job.id}, agreement=job.request.agreement)
            tx.move_job(job, "expired", positions=replace(job.positions, ended=index))
    if late:
        host.publish()
    return len(late)

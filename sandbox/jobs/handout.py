"""Handing out what ended: the receipt, and with it the sealed release. Only under a published checkpoint that covers the entry."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from policies.agreement import Agreement
from policies.errors import Conflict, NotFound, Tampered, Unavailable
from policies.joint_grant import JointGrant
from policies.lineage import links_from
from policies.odrl import agreement_digest
from sandbox.audit.joint_receipt import AnyReceipt, JointReceipt
from sandbox.audit.receipt import HandOver, Receipt, Repetition
from sandbox.exchange.escrow_states import StoredExchange
from sandbox.jobs.duties import require_in_time
from sandbox.jobs.joint_states import StoredJointRelease
from sandbox.jobs.states import Job, StoredRelease

if TYPE_CHECKING:
    from sandbox.store.database import Transaction


def receipt(tx: Transaction, job: Job) -> AnyReceipt | dict[str, Any]:
    """Return the receipt of a released or withheld job; one of a former log as it was kept. Raises NotFound if it ended otherwise."""
    if isinstance(job.grant, JointGrant):
        return tx.former_receipt(job.id) or _joint_receipt(tx, job, job.grant, _stored_joint(tx, job))
    ran = _ran(tx, job)
    return tx.former_receipt(job.id) or _receipt(tx, job, ran, _stored(tx, ran))


def release(tx: Transaction, job: Job, now_ms: int) -> tuple[AnyReceipt | dict[str, Any], bytes]:
    """Return receipt and sealed release of a released or withheld job; the release is empty if it was withheld.

    Raises NotFound (code `deleted`) for a release that is to be deleted by now.
    """
    if isinstance(job.grant, JointGrant):
        require_in_time(tx, job, now_ms)
        joint = _stored_joint(tx, job)
        return tx.former_receipt(job.id) or _joint_receipt(tx, job, job.grant, joint), joint.sealed
    ran = _ran(tx, job)
    require_in_time(tx, ran, now_ms)
    stored = _stored(tx, ran)
    require_handed_over(tx, job, stored)
    return tx.former_receipt(job.id) or _receipt(tx, job, ran, stored), stored.sealed


def require_handed_over(tx: Transaction, job: Job, stored: StoredRelease) -> None:
    """Raise Conflict (code `in-escrow`) while the release of a leg waits for the hand-over, and NotFound (`returned`) if there was none.

    What was withheld is no leg of anything, and says so.
    """
    held = _held(tx, job)
    if held is None or stored.statement.statement.sealed is None:
        return
    stage = held.course.stage
    if stage == "handed_over" and job.id in (held.course.first.job, held.course.second.job):
        return
    if held.course.final or not stored.sealed:
        raise NotFound(f"the release was part of an exchange that is {stage}, and was not handed over", code="returned")
    raise Conflict(f"the release is in escrow: the exchange is {stage}", code="in-escrow")


def _held(tx: Transaction, job: Job) -> StoredExchange | None:
    """The exchange of which a job is the delivery of a leg."""
    bound = job.request.exchange
    return tx.exchange(bound.exchange) if bound is not None and bound.form == "delivery" else None


@lru_cache(maxsize=256)
def _digest(agreement: Agreement) -> str:
    return agreement_digest(agreement)


def _ran(tx: Transaction, job: Job) -> Job:
    """The job whose run answered: the job itself, or the one that it repeats."""
    if job.state != "released" or job.grant is not None or job.facts.repeats is None:
        return job
    ran = tx.job(job.facts.repeats)
    if ran is None:
        raise Tampered("the job that this one repeats is not stored", code="job-record")
    return ran


def _stored(tx: Transaction, job: Job) -> StoredRelease:
    stored = tx.release(job.id)
    if stored is None:
        raise NotFound(f"the job is {job.state}{' (' + job.code + ')' if job.code else ''} and has no release")
    return stored


def _stored_joint(tx: Transaction, job: Job) -> StoredJointRelease:
    stored = tx.joint_release(job.id)
    if stored is None:
        raise NotFound(f"the job is {job.state}{' (' + job.code + ')' if job.code else ''} and has no release")
    return stored


def _joint_receipt(tx: Transaction, job: Job, grant: JointGrant, stored: StoredJointRelease) -> JointReceipt:
    newest, agreement, attempt = tx.newest_checkpoint(), tx.terms(job.request.agreement), tx.joint_attempt(job.id)
    if newest is None or newest[0] <= job.positions.ended:
        raise Unavailable("the release is stored and not yet published; look again", code="not-published")
    if agreement is None or _digest(agreement) != job.request.agreement or attempt is None or attempt.manifest is None:
        raise Tampered("the stored job does not fit together", code="job-record")
    signed = tx.joint_contributions(job.id, attempt.attempt)
    entry, proof = _place(tx, job.positions.ended, newest[0])
    signers = [agreement.party(name) for name in (grant.pool.key_holder, *attempt.contributors)]
    return JointReceipt(
        grant=grant,
        manifest=attempt.manifest,
        contributions=tuple(signed[name] for name in attempt.contributors),
        statement=stored.statement,
        entry=entry,
        index=job.positions.ended,
        proof=proof,
        checkpoint=newest[1],
        lineage=links_from(agreement.log, tx.log_links()),
        rotations=tuple(rotation for party in signers for rotation in tx.rotations_from(party.signing_key)),
    )


def _receipt(tx: Transaction, job: Job, ran: Job, stored: StoredRelease) -> Receipt:
    newest, agreement, held = tx.newest_checkpoint(), tx.terms(ran.request.agreement), _held(tx, job)
    closed = held.closed if held is not None and held.course.stage == "handed_over" else -1
    if newest is None or newest[0] <= max(job.positions.ended, ran.positions.ended, closed):
        raise Unavailable("the release is stored and not yet published; look again", code="not-published")
    if agreement is None or _digest(agreement) != ran.request.agreement or ran.evidence is None:
        raise Tampered("the stored job does not fit together", code="job-record")
    if ran.grant is None or isinstance(ran.grant, JointGrant):
        raise Tampered("the stored job does not fit together", code="job-record")
    size = newest[0]
    entry, proof = _place(tx, ran.positions.ended, size)
    repeated = None
    if job.id != ran.id:
        again, at = _place(tx, job.positions.ended, size)
        repeated = Repetition(entry=again, index=job.positions.ended, proof=at)
    handed_over = None
    if closed >= 0:
        over, at = _place(tx, closed, size)
        handed_over = HandOver(entry=over, index=closed, proof=at)
    return Receipt(
        grant=ran.grant,
        evidence=ran.evidence,
        statement=stored.statement,
        entry=entry,
        index=ran.positions.ended,
        proof=proof,
        checkpoint=newest[1],
        lineage=links_from(agreement.log, tx.log_links()),
        repeated=repeated,
        handed_over=handed_over,
    )


def _place(tx: Transaction, index: int, size: int) -> tuple[str, tuple[str, ...]]:
    """An entry as text and its inclusion proof (hex) in the tree of `size`."""
    entry, proof = tx.included(index, size)
    return entry.decode(), tuple(item.hex() for item in proof)

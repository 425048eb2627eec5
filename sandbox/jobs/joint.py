"""The host's side of a joint total: it takes one signed contribution of each, adds what it cannot read, and logs what everybody signed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from enclaves.kit.envelope import Signed, document_digest
from policies.agreement import Agreement
from policies.codec import decode, encode
from policies.entries import EntryKind
from policies.errors import Conflict, Malformed, NotFound
from policies.grant import grant_digest
from policies.granted import MAX_RELEASE
from policies.joint_documents import (
    JointContribution,
    JointManifest,
    JointStatement,
    contributions_digest,
    manifest_digest,
)
from policies.joint_grant import JointGrant, value_count
from sandbox.exchange.records import Participant
from sandbox.exchange.rotation import require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.exchange.tightening import require_standing
from sandbox.host import Host
from sandbox.jobs.joint_states import JointAttempt, JointProgress, JointTask, StoredJointRelease
from sandbox.jobs.record import fail_held, informed
from sandbox.jobs.states import Job, JobState

if TYPE_CHECKING:
    from sandbox.store.database import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """What a joint total waits for from one participant, with everything that it checks."""

    task: JointTask
    attempt: JointAttempt
    contributions: tuple[Signed, ...]
    job: Job


def waiting(host: Host, caller: Participant) -> tuple[list[Waiting], tuple[str, ...]]:
    """Joint totals that wait for the caller, and the jobs of those that come to it next, oldest first: it had better look again soon.

    What they refer to is under a checkpoint by then: whoever recorded it may not have come to publish it yet, or have died before, and the
    caller holds every item against the log.
    """
    found, later = list[Waiting](), list[str]()
    with host.store.reading() as tx:
        for attempt, job in tx.running_joint():
            if not isinstance(job.grant, JointGrant):
                continue
            signed = tx.joint_contributions(job.id, attempt.attempt)
            task = attempt.task_of(caller.id, job.grant.pool.key_holder, caller.id in signed)
            if task is not None:
                ordered = tuple(signed[name] for name in attempt.contributors if name in signed)
                found.append(Waiting(task=task, attempt=attempt, contributions=ordered if task == "opening" else (), job=job))
            elif attempt.asks_later(caller.id, job.grant.pool.key_holder):
                later.append(job.id)
    if found:
        host.publish()
    return found, tuple(later)


def add_file(host: Host, caller: Participant, job_id: str, chunks: Iterable[bytes]) -> tuple[str, int]:
    """Store a public key, ciphertexts or a sealed release of the caller for a running joint total; returns (digest, size).

    Raises:
        NotFound: the caller has no part in it. Malformed: another size than its part has. TooLarge.
    """
    with host.store.reading() as tx:
        job, grant, attempt = _part(tx, job_id, caller)
        agreement = tx.terms(job.request.agreement)
    assert agreement is not None, "a job has an agreement"
    expected = ciphertext_bytes(grant, agreement)
    if caller.id == grant.pool.key_holder:
        expected = MAX_RELEASE if attempt.total is not None else grant.scheme.public_key_bytes

    def inspect(_head: bytes, _tail: bytes, size: int) -> None:
        if size != expected and attempt.total is None:
            raise Malformed(f"this part of the total has {expected} bytes, not {size}", code="he-size")

    stored = replace(host.blobs, limit=min(host.blobs.limit, expected)).add(chunks, inspect=inspect)
    with host.store.transaction() as tx:
        tx.add_upload(stored[0], caller.id, stored[1], host.config.upload_quota_bytes)
    return stored


def ciphertext_bytes(grant: JointGrant, agreement: Agreement) -> int:
    """How many bytes one contribution has: it follows from plan and declarations alone."""
    values = value_count(grant, agreement.by_dataset)
    return grant.scheme.ciphertexts(values) * grant.scheme.ciphertext_bytes


def file_of(host: Host, caller: Participant, job_id: str, name: str) -> Path:
    """Where the public key or, for the key holder, the total of a running joint total is. Raises NotFound."""
    with host.store.reading() as tx:
        _, grant, attempt = _part(tx, job_id, caller)
    named = {decode(JointManifest, attempt.manifest.body).public_key} if attempt.manifest is not None else set()
    if caller.id == grant.pool.key_holder and attempt.total is not None:
        named |= {attempt.total}
    if name not in named:
        raise NotFound("there is no such file of this total for you")
    return host.blobs.path(name)


def accept_manifest(host: Host, caller: Participant, signed: Signed) -> None:
    """Store and log the key holder's manifest of the present attempt. The same again is the same.

    Raises:
        NotFound, Conflict: it does not wait for one, or the manifest is of another attempt, grant or file.
    """
    require_signed(signed, "joint-manifest", caller.id, caller.signing_key)
    manifest = decode(JointManifest, signed.body)
    with host.store.transaction() as tx:
        job, grant, attempt = _held(tx, manifest.job, caller)
        if caller.id != grant.pool.key_holder:
            raise NotFound("no joint total asks you for a key")
        if attempt.manifest is not None and attempt.manifest.body == signed.body:
            return
        expected = (grant_digest(grant), attempt.attempt, attempt.contributors)
        if attempt.manifest is not None or (manifest.grant, manifest.attempt, manifest.contributors) != expected:
            raise Conflict("the manifest is of another attempt, or there is one already", code="joint-binding")
        _require_uploaded(tx, manifest.public_key, caller)
        _require_running(job)
        tx.hold_log()
        require_in_force(tx, caller)
        tx.set_joint_attempt(replace(attempt, manifest=signed, since=host.now()))
        ids = {"job": job.id, "manifest": manifest_digest(manifest)}
        tx.append("joint_keyed", at=host.now(), ids=ids, body={"signed": encode(signed)}, agreement=job.request.agreement)
    host.publish()


def accept_contribution(host: Host, caller: Participant, signed: Signed) -> None:
    """Store and log one contributor's signed ciphertexts, once. The same again is the same; others are a conflict.

    Raises:
        NotFound, Conflict: the total does not wait for them, or they are for another manifest.
    """
    require_signed(signed, "joint-contribution", caller.id, caller.signing_key)
    contribution = decode(JointContribution, signed.body)
    with host.store.transaction() as tx:
        job, grant, attempt = _held(tx, contribution.job, caller)
        if caller.id not in attempt.contributors:
            raise NotFound("this total asks you for nothing")
        before = tx.joint_contributions(job.id, attempt.attempt).get(caller.id)
        if before is not None and before.body == signed.body:
            return
        if before is not None:
            raise Conflict("you have contributed to this attempt", code="joint-once")
        if not attempt.named or contribution.manifest != attempt.named:
            raise Conflict("the contribution is for another attempt", code="joint-binding")
        _require_uploaded(tx, contribution.ciphertexts, caller)
        _require_running(job)
        tx.hold_log()
        require_in_force(tx, caller)
        require_standing(tx, job.request.agreement, grant.pool.members, host.now())
        tx.add_joint_contribution(job.id, attempt.attempt, caller.id, signed)
        ids = {"job": job.id, "participant": caller.id, "manifest": attempt.named, "ciphertexts": contribution.ciphertexts}
        tx.append("joint_contributed", at=host.now(), ids=ids, body={"signed": encode(signed)}, agreement=job.request.agreement)
    host.on_step("joint-contributed")


def accept_statement(host: Host, caller: Participant, signed: Signed) -> None:
    """Store and log what the key holder opened, or that it opened nothing; the job ends. The same again is the same.

    Raises:
        NotFound, Conflict: the statement is of another total, grant or release than the present one, or the job has ended otherwise.
    """
    require_signed(signed, "joint-statement", caller.id, caller.signing_key)
    statement = decode(JointStatement, signed.body)
    sealed = b"" if statement.sealed is None else host.blobs.path(statement.sealed).read_bytes()
    with host.store.transaction() as tx:
        stored = tx.joint_release(statement.job)
        if stored is not None and stored.statement.by == caller.id and stored.statement.body == signed.body:
            return
        job, grant, attempt = _held(tx, statement.job, caller)
        if caller.id != grant.pool.key_holder:
            raise NotFound("no joint total asks you to open it")
        _require_running(job)
        if statement.sealed is not None:
            _require_uploaded(tx, statement.sealed, caller)
        contributions = tx.joint_contributions(job.id, attempt.attempt)
        if stored is not None or not keeps_to(statement, grant, attempt, contributions):
            raise Conflict("the statement is not of this total", code="joint-binding")
        tx.hold_log()
        require_in_force(tx, caller)
        _end(host, tx, job, grant, statement, signed, sealed)
    host.on_step("stored")
    host.publish()


def keeps_to(statement: JointStatement, grant: JointGrant, attempt: JointAttempt, contributions: dict[str, Signed]) -> bool:
    """Whether a statement is of this very total and of nothing but what was granted."""
    if attempt.total is None or set(contributions) != set(attempt.contributors):
        return False
    signed = contributions_digest([decode(JointContribution, contributions[name].body) for name in attempt.contributors])
    return (statement.grant, statement.manifest, statement.total, statement.contributions, statement.statistics, statement.loss) == (
        grant_digest(grant),
        attempt.named,
        attempt.total,
        signed,
        grant.statistics,
        grant.loss,
    )


def _end(host: Host, tx: Transaction, job: Job, grant: JointGrant, statement: JointStatement, signed: Signed, sealed: bytes) -> None:
    try:
        require_standing(tx, job.request.agreement, grant.pool.members, host.now())
    except Conflict:
        fail_held(host, tx, job, "tightened")
        return
    released = statement.sealed is not None
    state: JobState = "released" if released else "withheld"
    kind: EntryKind = "joint_released" if released else "joint_withheld"
    ids = {
        "job": job.id,
        "agreement": job.request.agreement,
        "grant": statement.grant,
        "manifest": statement.manifest,
        "total": statement.total,
        "statement": document_digest(signed),
    }
    ids |= {"sealed": str(statement.sealed)} if released else {"code": str(statement.withheld)}
    index = tx.append(kind, at=host.now(), ids=ids, body={"signed": encode(signed)}, agreement=job.request.agreement)
    tx.move_job(job, state, positions=replace(job.positions, ended=index), code=statement.withheld or "")
    tx.add_joint_release(StoredJointRelease(job=job.id, statement=signed, sealed=sealed))
    if released:
        tx.add_notices("release", job.id, [job.request.consumer], host.now())
        tx.add_notices("use", job.id, informed(tx, job), host.now())


def progress_of(host: Host, tx: Transaction, job: Job) -> JointProgress | None:
    """How far a running joint total is; None for every other job."""
    attempt = tx.joint_attempt(job.id)
    if job.state != "running" or attempt is None or not isinstance(job.grant, JointGrant):
        return None
    contributed = tx.joint_contributions(job.id, attempt.attempt)
    return attempt.progress(job.grant.pool.key_holder, contributed, round(host.config.keys_timeout_s * 1000))


# --- what the run itself records


def begin(host: Host, job: Job, grant: JointGrant) -> None:
    """Open the first attempt with all contributors. The same again is the same."""
    with host.store.transaction() as tx:
        if tx.lock_job(job.id) is not None and tx.joint_attempt(job.id) is None:
            tx.set_joint_attempt(JointAttempt(job=job.id, attempt=1, contributors=grant.pool.contributors, since=host.now()))
            tx.add_notices("key-request", job.id, [grant.pool.key_holder, *grant.pool.contributors], host.now())


def record_drop(host: Host, job: Job, grant: JointGrant, attempt: int, dropped: dict[str, str]) -> bool:
    """Log who dropped out of an attempt and why, and begin another one without them, if the agreement wants that and enough are left.

    A rerun is free: nothing was opened, as there is no total yet. Returns whether there is another attempt; the same again is the same.
    """
    with host.store.transaction() as tx:
        held, present = tx.lock_job(job.id), tx.joint_attempt(job.id)
        if held is None or held.state != "running" or present is None or present.total is not None:
            return False
        if present.attempt != attempt:
            return True
        left = tuple(name for name in present.contributors if name not in dropped)
        again = grant.pool.dropout == "rerun" and len(left) >= grant.pool.fewest
        for name, reason in sorted(dropped.items()):
            ids = {"job": job.id, "participant": name, "attempt": str(attempt), "reason": reason, "rerun": "yes" if again else "no"}
            tx.append("joint_dropped", at=host.now(), ids=ids, body={"job": job.id}, agreement=job.request.agreement)
        if again:
            tx.set_joint_attempt(JointAttempt(job=job.id, attempt=attempt + 1, contributors=left, since=host.now()))
    host.publish()
    host.on_step("joint-dropped")
    return again


def record_total(host: Host, job: Job, attempt: JointAttempt, total: str) -> None:
    """Store and log which sum the key holder is to open. The same again is the same."""
    with host.store.transaction() as tx:
        held, present = tx.lock_job(job.id), tx.joint_attempt(job.id)
        if held is None or held.state != "running" or present is None or present.attempt != attempt.attempt:
            raise Conflict("the run was ended by somebody else", code="job-state")
        if present.total is None:
            tx.set_joint_total(job.id, total, host.now())
            ids = {"job": job.id, "manifest": attempt.named, "total": total}
            tx.append("joint_summed", at=host.now(), ids=ids, body={"job": job.id}, agreement=job.request.agreement)
    host.publish()


def _part(tx: Transaction, job_id: str, caller: Participant) -> tuple[Job, JointGrant, JointAttempt]:
    """A running joint total in which the caller has a part. Raises NotFound, whatever is missing."""
    job, attempt = tx.job(job_id), tx.joint_attempt(job_id)
    return _require_part(job, attempt, caller)


def _held(tx: Transaction, job_id: str, caller: Participant) -> tuple[Job, JointGrant, JointAttempt]:
    """As `_part`, held until the transaction ends."""
    job = tx.lock_job(job_id)
    return _require_part(job, tx.joint_attempt(job_id), caller)


def _require_part(job: Job | None, attempt: JointAttempt | None, caller: Participant) -> tuple[Job, JointGrant, JointAttempt]:
    if job is None or attempt is None or not isinstance(job.grant, JointGrant):
        raise NotFound("there is no such joint total of yours")
    if caller.id not in (job.grant.pool.key_holder, *attempt.contributors):
        raise NotFound("there is no such joint total of yours")
    return job, job.grant, attempt


def _require_running(job: Job) -> None:
    if job.state != "running":
        raise Conflict(f"the job is {job.state}", code="job-state")


def _require_uploaded(tx: Transaction, name: str, caller: Participant) -> None:
    if not tx.has_upload(name, caller.id):
        raise NotFound("upload the file first")

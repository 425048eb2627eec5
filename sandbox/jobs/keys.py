"""The host's side of key release: it carries challenges, evidence and sealed keys between brokers and enclaves, and opens none of them."""

from __future__ import annotations

from dataclasses import replace

from enclaves.kit.appraisal import evidence_digest
from enclaves.kit.envelope import Signed
from policies.canonical import digest_bytes
from policies.codec import decode, encode
from policies.documents import KeyRefusalStatement, KeyReleaseStatement
from policies.errors import Conflict, Malformed, NotFound
from policies.grant import grant_digest
from policies.names import require_key
from sandbox.exchange.paging import Listing, Page
from sandbox.exchange.records import Participant
from sandbox.exchange.rotation import require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.exchange.tightening import require_standing
from sandbox.host import Host
from sandbox.jobs.states import ASKED, Job, KeyRequest
from sandbox.jobs.voids import keep_charge

MAX_SEALED = 1 << 20


def waiting_keys(host: Host, caller: Participant, page: Page) -> Listing[tuple[KeyRequest, Job]]:
    """Key requests that wait for the caller's broker, oldest first."""
    with host.store.reading() as tx:
        listing = tx.open_key_requests(caller.id, page)
        jobs = tx.jobs_named([request.job for request in listing.items])
    return Listing(items=tuple((request, jobs[request.job]) for request in listing.items), next=listing.next)


def challenge(host: Host, caller: Participant, job_id: str, nonce: str) -> KeyRequest:
    """Store the nonce that the enclave's evidence must answer. The first one counts; the same again is the same.

    Raises:
        NotFound: no run asks the caller under this job. Conflict: the run was challenged already or has ended.
    """
    require_key(nonce, "nonce")
    with host.store.transaction() as tx:
        job = tx.lock_job(job_id)
        request = tx.key_request(job_id, caller.id)
        if job is None or request is None:
            raise NotFound("no run asks you for keys under this job")
        if request.nonce == nonce:
            return request
        if job.state != "running":
            raise Conflict("this run does not wait for keys", code="key-state")
        if request.state != "wanted":
            raise Conflict("this run was challenged already", code="challenged")
        request = replace(request, state="challenged", nonce=nonce)
        tx.set_key_request(request)
    return request


def accept_keys(host: Host, caller: Participant, signed: Signed, sealed: bytes) -> KeyRequest:
    """Store and log the keys that a broker sealed to the attested enclave. The same again is the same.

    Raises:
        Conflict: the run does not wait for keys, or the statement is about another grant, evidence or ciphertext.
    """
    require_signed(signed, "key-release", caller.id, caller.signing_key)
    statement = decode(KeyReleaseStatement, signed.body)
    if len(sealed) > MAX_SEALED or digest_bytes(sealed) != statement.sealed:
        raise Malformed("the sealed keys are not those of the statement", where="sealed")
    with host.store.transaction() as tx:
        job = tx.lock_job(statement.job)
        request = tx.key_request(statement.job, caller.id)
        if job is None or request is None or job.grant is None:
            raise NotFound("no run asks you for keys under this job")
        if request.state == "released" and request.sealed == sealed.hex():
            return request
        if request.state != "attested" or job.state != "running" or job.evidence is None:
            raise Conflict("this run does not wait for keys", code="key-state")
        if statement.grant != grant_digest(job.grant) or statement.evidence != evidence_digest(job.evidence):
            raise Conflict("the keys are for another grant or enclave", code="key-binding")
        tx.hold_log()
        require_in_force(tx, caller)
        require_standing(tx, job.request.agreement, job.plan.sources, host.now())
        request = replace(request, state="released", sealed=sealed.hex())
        tx.set_key_request(request)
        ids = {"job": job.id, "provider": caller.id, "grant": statement.grant, "evidence": statement.evidence}
        tx.append("key_released", at=host.now(), ids=ids, body={"signed": encode(signed)}, agreement=job.request.agreement)
    host.on_step("key-released")
    return request


def refuse_keys(host: Host, caller: Participant, signed: Signed) -> KeyRequest:
    """Store and log a broker's refusal; to renounce a grant of a failed run is refused without an entry. Raises like `accept_keys`."""
    require_signed(signed, "key-refusal", caller.id, caller.signing_key)
    statement = decode(KeyRefusalStatement, signed.body)
    with host.store.transaction() as tx:
        job = tx.lock_job(statement.job)
        request = tx.key_request(statement.job, caller.id)
        if job is None or request is None or job.grant is None:
            raise NotFound("no run asks you for keys under this job")
        if job.state == "failed" and request.renounced == ASKED:
            return keep_charge(tx, request)
        if request.state == "refused":
            return request
        if request.state == "released" or job.state != "running":
            raise Conflict("this run does not wait for keys", code="key-state")
        if statement.grant != grant_digest(job.grant):
            raise Conflict("the refusal is of another grant", code="key-binding")
        tx.hold_log()
        require_in_force(tx, caller)
        request = replace(request, state="refused", reason=statement.reason)
        tx.set_key_request(request)
        ids = {"job": job.id, "provider": caller.id, "reason": statement.reason}
        tx.append("key_refused", at=host.now(), ids=ids, body={"signed": encode(signed)}, agreement=job.request.agreement)
    return request

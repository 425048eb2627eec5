"""Jobs, key requests, releases: one function per operation of sandbox/web/routes.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from flask import Response

from policies.audit_scope import Openable
from policies.codec import decode
from policies.errors import Conflict, Malformed, NotFound
from policies.explain import explain
from policies.finding import refusal
from policies.request import JobRequest
from policies.reveals import reveals
from sandbox.audit.joint_receipt import JointReceipt
from sandbox.audit.receipt import Receipt
from sandbox.exchange.records import Participant
from sandbox.exchange.scopes import closed_to
from sandbox.jobs import approve, handout, keys, preview, submit, voids
from sandbox.jobs.joint import progress_of
from sandbox.jobs.states import FINAL, Job, KeyRequest
from sandbox.web.answers import job_view, key_request_view, key_state, reply
from sandbox.web.auth import host
from sandbox.web.models import ChallengeBody, CheckBody, JobsQuery, KeysBody, Paged, Query, SignedOnly, cursor_of
from sandbox.web.operation import Call
from sandbox.web.problems import of_error
from sandbox.web.views import Checked, Jobs, KeyRequests, KeyStateView, SealedRelease

if TYPE_CHECKING:
    from sandbox.store.database import Transaction

SHOWN: tuple[Openable, ...] = ("decided",)
"""Kinds of entries whose openings the record of a job shows: request, facts and decision."""

IN_RECEIPTS: tuple[Openable, ...] = ("granted", "attested", "released", "withheld", "joint_released", "joint_withheld")
"""Kinds of entries whose openings receipts show besides."""


def check(call: Call[Query, CheckBody]) -> Response:
    """Decide a request without charging or logging it."""
    request = decode(JobRequest, call.body.request)
    if request.consumer != call.who.id:
        raise NotFound("a request is made in one's own name")
    checked = preview.check(host(), call.who, request)
    accuracy = preview.foresee(checked, request, rows=call.body.rows, half_widths=call.body.half_widths or {})
    failed = [finding for finding in checked.decision.findings if not finding.allowed]
    return reply(
        Checked(
            allowed=checked.decision.allowed,
            accepted=checked.decision.allowed,
            reason=refusal(checked.decision).message if failed else "",
            outputs=accuracy.outputs,
            loss=request.loss if checked.facts.repeats is None else replace(request.loss, amount=0, delta0=0),
            remaining=accuracy.remaining,
            needed=accuracy.needed,
            plan=checked.plan,
            facts=checked.facts,
            decision=checked.decision,
            grant=checked.grant,
            explanation=explain(request, checked.agreement, checked.plan, checked.facts),
            reveals=reveals(checked.plan, (request.consumer, *(use.recipient for use in request.onward)), request.sql),
        )
    )


def submit_job(call: Call[Query, SignedOnly]) -> Response:
    """Submit a signed request. A denied one answers 403 with the findings and the job that holds the logged decision."""
    job = submit.submit(host(), call.who, call.body.signed.document())
    if job.state == "denied":
        error = refusal(job.decision)
        error.where = job.id
        return of_error(error)
    return reply(job_view(job), 201)


def list_jobs(call: Call[JobsQuery, None]) -> Response:
    """Jobs under the caller's agreements, newest first."""
    query = call.query
    with host().store.reading() as tx:
        found = tx.jobs(call.who.id, query.page(int, str), query.state, query.consumer, query.agreement)
        closed = closed_to(tx, call.who.id, SHOWN, host().now())
    seen = tuple(job_view(job) for job in found.items if job.request.agreement not in closed)
    return reply(Jobs(jobs=seen, next=cursor_of(found.next)))


def one_job(call: Call[Query, None], job_id: str) -> Response:
    """One job under an agreement of the caller's."""
    with host().store.reading() as tx:
        job = _visible(tx, job_id, call.who)
        requests = tx.key_requests(job_id) if job.state == "running" else []
        joint = progress_of(host(), tx, job)
    waiting = tuple(request.provider for request in requests if _waits(request, requests))
    return reply(job_view(job, waiting, joint))


def _waits(request: KeyRequest, others: list[KeyRequest]) -> bool:
    """Whether a run waits for this provider's broker: first for the nonces of all, then for the keys of all."""
    challenging = any(other.state == "wanted" for other in others)
    return request.state == ("wanted" if challenging else "attested")


def release(call: Call[Query, None], job_id: str) -> Response:
    """The sealed release, to its recipient alone, with the receipt."""
    with host().store.reading() as tx:
        job = _visible(tx, job_id, call.who)
        if job.request.consumer != call.who.id:
            raise NotFound("there is no such release of yours")
        found, sealed = handout.release(tx, _ended(job), host().now())
    return reply(SealedRelease(receipt=cast(Receipt | JointReceipt, found), sealed=sealed.hex()))


def receipt(call: Call[Query, None], job_id: str) -> Response:
    """The receipt, to every party of the agreement; it tells nothing of the figures."""
    with host().store.reading() as tx:
        return reply(handout.receipt(tx, _ended(_visible(tx, job_id, call.who, (*SHOWN, *IN_RECEIPTS)))))


def cancel_job(call: Call[Query, SignedOnly]) -> Response:
    """Take back a request of the caller's that waits."""
    return reply(job_view(approve.cancel(host(), call.who, call.body.signed.document())))


def approve_job(call: Call[Query, SignedOnly]) -> Response:
    """Approve a job that waits for it."""
    return reply(job_view(approve.approve(host(), call.who, call.body.signed.document())))


def list_key_requests(call: Call[Paged, None]) -> Response:
    """Runs that wait for the caller's broker."""
    found = keys.waiting_keys(host(), call.who, call.query.page(int, str))
    views = tuple(key_request_view(request, job) for request, job in found.items)
    return reply(KeyRequests(key_requests=views, next=cursor_of(found.next)))


def challenge(call: Call[Query, ChallengeBody], job_id: str) -> Response:
    """Challenge the enclave of a run."""
    return reply(KeyStateView(state=keys.challenge(host(), call.who, job_id, call.body.nonce).state))


def release_keys(call: Call[Query, KeysBody]) -> Response:
    """Hand over keys sealed to the attested enclave of a run."""
    try:
        sealed = bytes.fromhex(call.body.sealed)
    except ValueError as error:
        raise Malformed("must be hexadecimal", where="sealed") from error
    return reply(KeyStateView(state=keys.accept_keys(host(), call.who, call.body.signed.document(), sealed).state))


def refuse_keys(call: Call[Query, SignedOnly]) -> Response:
    """Refuse keys to a run."""
    return reply(KeyStateView(state=keys.refuse_keys(host(), call.who, call.body.signed.document()).state))


def renounce_grant(call: Call[Query, SignedOnly]) -> Response:
    """Renounce the grant of a run that failed without keys."""
    return reply(KeyStateView(state=key_state(voids.renounce(host(), call.who, call.body.signed.document()))))


def _visible(tx: Transaction, job_id: str, who: Participant, kinds: Iterable[Openable] = SHOWN) -> Job:
    job = tx.job_of_party(job_id, who.id)
    if job is None or job.request.agreement in closed_to(tx, who.id, kinds, host().now()):
        raise NotFound("there is no such job under an agreement of yours")
    return job


def _ended(job: Job) -> Job:
    if job.state not in FINAL:
        raise Conflict(f"the job is {job.state}; look again later", code="not-ready")
    return job

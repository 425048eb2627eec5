"""/api/v1: jobs, key requests, releases."""

from __future__ import annotations

from flask import Blueprint, Response

from policies.codec import decode, encode
from policies.decide import refusal
from policies.errors import Conflict, Malformed, NotFound
from policies.request import JobRequest
from sandbox.exchange.records import Participant
from sandbox.jobs import handout, keys, submit
from sandbox.jobs.states import FINAL, Job
from sandbox.web.auth import caller, host
from sandbox.web.models import ChallengeBody, CheckBody, KeysBody, SignedOnly, read_body
from sandbox.web.problems import of_error
from sandbox.web.views import job_view, key_request_view, reply

api = Blueprint("jobs", __name__, url_prefix="/api/v1")


@api.post("/jobs:check")
def check() -> Response:
    """Decide a request without charging or logging it."""
    who = caller()
    request = decode(JobRequest, read_body(CheckBody).request)
    if request.consumer != who.id:
        raise NotFound("a request is made in one's own name")
    preview = submit.check(host(), who, request)
    return reply(
        {
            "allowed": preview.decision.allowed,
            "plan": encode(preview.plan),
            "facts": encode(preview.facts),
            "decision": encode(preview.decision),
            "grant": None if preview.grant is None else encode(preview.grant),
        }
    )


@api.post("/jobs")
def submit_job() -> Response:
    """Submit a signed request. A denied one answers 403 with the findings and the job that holds the logged decision."""
    job = submit.submit(host(), caller(), read_body(SignedOnly).signed.document())
    if job.state == "denied":
        error = refusal(job.decision)
        error.where = job.id
        return of_error(error)
    return reply(job_view(job), 201)


@api.get("/jobs")
def list_jobs() -> Response:
    """Newest jobs under the caller's agreements."""
    who = caller()
    with host().store.reading() as tx:
        return reply({"jobs": [job_view(job) for job in tx.jobs_in(tx.agreements_of(who.id))]})


@api.get("/jobs/<job_id>")
def show(job_id: str) -> Response:
    """One job under an agreement of the caller's."""
    return reply(job_view(_visible(job_id, caller())))


@api.get("/jobs/<job_id>/release")
def release(job_id: str) -> Response:
    """The sealed release, to its recipient alone, with the receipt."""
    job = _visible(job_id, who := caller())
    if job.request.consumer != who.id:
        raise NotFound("there is no such release of yours")
    if job.state not in FINAL:
        raise Conflict(f"the job is {job.state}; look again later", code="not-ready")
    return reply(handout.release(host(), job))


@api.get("/jobs/<job_id>/receipt")
def receipt(job_id: str) -> Response:
    """The receipt, to every party of the agreement; it tells nothing of the figures."""
    job = _visible(job_id, caller())
    if job.state not in FINAL:
        raise Conflict(f"the job is {job.state}; look again later", code="not-ready")
    return reply(handout.receipt(host(), job))


@api.get("/key-requests")
def key_requests() -> Response:
    """Runs that wait for the caller's broker."""
    waiting = keys.waiting_keys(host(), caller())
    return reply({"key_requests": [key_request_view(request, job) for request, job in waiting]})


@api.post("/key-requests/<job_id>/challenge")
def challenge(job_id: str) -> Response:
    """Challenge the enclave of a run."""
    request = keys.challenge(host(), caller(), job_id, read_body(ChallengeBody).nonce)
    return reply({"state": request.state})


@api.post("/key-requests/keys")
def release_keys() -> Response:
    """Hand over keys sealed to the attested enclave of a run."""
    who, body = caller(), read_body(KeysBody)
    try:
        sealed = bytes.fromhex(body.sealed)
    except ValueError as error:
        raise Malformed("must be hexadecimal", where="sealed") from error
    return reply({"state": keys.accept_keys(host(), who, body.signed.document(), sealed).state})


@api.post("/key-requests/refusals")
def refuse_keys() -> Response:
    """Refuse keys to a run."""
    return reply({"state": keys.refuse_keys(host(), caller(), read_body(SignedOnly).signed.document()).state})


def _visible(job_id: str, who: Participant) -> Job:
    with host().store.reading() as tx:
        job = tx.job(job_id)
        if job is None or job.request.agreement not in tx.agreements_of(who.id):
            raise NotFound("there is no such job under an agreement of yours")
    return job

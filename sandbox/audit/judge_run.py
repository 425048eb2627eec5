"""Judging a run: evidence, key releases and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from enclaves.kit.appraisal import appraise, evidence_digest, reference_values, verify_statement
from enclaves.kit.envelope import Purpose, Signed
from policies.canonical import canonical, canonical_part, canonical_with, digest_bytes
from policies.codec import decode, encode
from policies.documents import KeyRefusalStatement, KeyReleaseStatement
from policies.errors import Refused
from policies.granted import FailureCode
from policies.joint_grant import JointGrant
from policies.statement import SignedEvidence, SignedStatement, verdict_of
from sandbox.audit import judge_escrow, judge_policy
from sandbox.audit.folds import Entry, JobFold
from sandbox.audit.judge_exchange import signed_body
from sandbox.audit.order import follow
from sandbox.audit.state import State
from sandbox.audit.verdict import Promise


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningBody:
    """The body of `running`."""

    worker: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AttestedBody:
    """The body of `attested`."""

    evidence: SignedEvidence


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedBody:
    """The body of `released` and `withheld`."""

    statement: SignedStatement


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedBody:
    """The body of `failed`."""

    code: FailureCode


def running(state: State, entry: Entry) -> None:
    """A worker takes the job."""
    job = follow(state, entry)
    if job is not None:
        job.running_at = entry.header.at
    if entry.body is not None:
        decode(RunningBody, entry.body)


def attested(state: State, entry: Entry) -> None:
    """Evidence that the reference values of every provider's terms accept, for this grant, answering every provider."""
    job = follow(state, entry)
    if job is None:
        return
    _require_bound(state, entry, job, "evidence")
    job.evidence_id, job.attested_at = entry.ids["evidence"], entry.header.at
    agreement = state.agreement(job.agreement)
    if entry.body is None or agreement is None or job.grant is None:
        state.cannot("evidence")
        return
    if isinstance(job.grant, JointGrant):
        state.report(entry, "evidence", "an enclave was attested for a joint total, which no enclave computes")
        return
    signed = decode(AttestedBody, entry.body).evidence
    name = evidence_digest(signed)
    named = (entry.ids["evidence"], entry.ids["measurement"]) == (name, signed.evidence.measurement)
    state.require(entry, named, "evidence", "the header names other evidence or another measurement than the body")
    wanted = reference_values(agreement.terms_of(read.dataset) for read in job.grant.reads)
    answered = sorted(nonce.provider for nonce in signed.evidence.nonces) == sorted({read.provider for read in job.grant.reads})
    state.require(entry, answered, "evidence", "the evidence does not answer exactly the providers of the grant")
    try:
        job.attested = appraise(
            signed,
            grant=job.grant,
            kinds=wanted.kinds,
            measurements=wanted.measurements,
            nonce=None,
            platforms=wanted.platforms,
            at=entry.header.at / 1000,
            named=job.grant_named,
            digest_of=name,
        )
    except Refused as error:
        state.report(entry, "evidence", error.message)


def key_released(state: State, entry: Entry) -> None:
    """A provider's signed statement that it sealed keys to the attested enclave of this grant."""
    job = follow(state, entry)
    if job is None:
        return
    _require_bound(state, entry, job, "evidence")
    bound = entry.ids["evidence"] == job.evidence_id
    state.require(entry, bound, "evidence", "keys were released to other evidence than was attested")
    judge_policy.require_standing(state, entry, job)
    judge_policy.require_fresh(state, entry, job)
    if entry.body is None:
        return
    signed = signed_body(entry)
    _verify_broker(state, entry, job, signed, released=True)
    statement = decode(KeyReleaseStatement, signed.body)
    named = (statement.job, statement.grant, statement.evidence) == tuple(entry.ids[name] for name in ("job", "grant", "evidence"))
    state.require(entry, named, "signatures", "the header names another job, grant or evidence than the provider signed")


def key_refused(state: State, entry: Entry) -> None:
    """A provider's signed statement that it refused keys."""
    job = follow(state, entry)
    if job is None or entry.body is None:
        return
    signed = signed_body(entry)
    _verify_broker(state, entry, job, signed, released=False)
    statement = decode(KeyRefusalStatement, signed.body)
    named = (statement.job, statement.reason) == (entry.ids["job"], entry.ids["reason"])
    state.require(entry, named, "signatures", "the header names another job or reason than the provider signed")


def ended(state: State, entry: Entry) -> None:
    """A release or a withholding that the attested enclave signed, for this grant, with its mechanism, scale and loss."""
    job = follow(state, entry)
    if job is None:
        return
    state.found.released += entry.header.kind == "released"
    _require_bound(state, entry, job, "releases")
    same = entry.ids["evidence"] == job.evidence_id
    state.require(entry, same, "releases", "the outcome is of another enclave than was attested")
    judge_policy.require_due(state, entry, job)
    if entry.header.kind == "released":
        judge_policy.require_standing(state, entry, job)
        judge_policy.note_release(state, entry, job)
    judge_escrow.note_ended(state, entry, job)
    try:
        if entry.body is not None:
            _judge_statement(state, entry, job, decode(EndedBody, entry.body).statement)
    finally:
        if entry.header.kind == "released" and not job.exchange:
            state.relate(entry, "answered", job.question, entry.ids["job"])
        state.end(entry.ids["job"], entry.header.kind)


def failed(state: State, entry: Entry) -> None:
    """A run that ended without a release. Its charge is kept, unless nobody released keys and every provider renounces the grant."""
    job = follow(state, entry)
    if job is None:
        return
    judge_escrow.note_ended(state, entry, job)
    judge_policy.require_due(state, entry, job)
    if job.released or job.attempts:
        state.end(entry.ids["job"], "failed")
    else:
        # Of its charge something may yet follow, for which headers are enough.
        job.stage, job.derived, job.grant, job.attested = "failed", None, None, None
    if entry.body is not None:
        same = decode(FailedBody, entry.body).code == entry.ids["code"]
        state.require(entry, same, "releases", "the header names another failure than the body")


def _judge_statement(state: State, entry: Entry, job: JobFold, signed: SignedStatement) -> None:
    statement, withheld = signed.statement, entry.header.kind == "withheld"
    outcome = statement.withheld if withheld else statement.sealed
    stated = entry.ids["code"] if withheld else entry.ids["sealed"]
    accepted = entry.ids.get("accepted") == verdict_of(statement)
    text = canonical(encode(statement))
    digested = digest_bytes(canonical_with({"signature": signed.signature}, "statement", text))
    named = accepted and outcome == stated and digested == entry.ids["statement"]
    state.require(entry, named, "releases", "the header names another outcome or statement than the body")
    if job.attested is None or job.grant is None or isinstance(job.grant, JointGrant):
        state.cannot("releases")
        return
    state.found.simulated |= job.attested.evidence.kind == "simulated"
    verify_statement(signed, job.attested, job.grant, job.grant_named, text)


def _require_bound(state: State, entry: Entry, job: JobFold, promise: Promise) -> None:
    bound = entry.ids["grant"] == job.grant_id
    state.require(entry, bound, promise, f"`{entry.header.kind}` is for another grant than was granted")


def _verify_broker(state: State, entry: Entry, job: JobFold, signed: Signed, *, released: bool) -> None:
    provider, agreement = entry.ids["provider"], state.agreement(job.agreement)
    key = agreement.party(provider).signing_key if agreement is not None else None
    purpose: Purpose = "key-release" if released else "key-refusal"
    state.verify(entry, signed, purpose, provider, key, canonical_part(signed.body))

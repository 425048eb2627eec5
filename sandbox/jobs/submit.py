"""From a signed request to a decision, a charge and a grant, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from enclaves.kit.envelope import Signed, document_digest
from policies.agreement import Agreement
from policies.canonical import digest as digest_of
from policies.codec import decode, encode
from policies.decide import LAW_VERSION, Decision, decide
from policies.entries import LedgerCharge
from policies.errors import Conflict, NotFound, Unavailable
from policies.grant import Grant, grant_digest, job_id, ledgers_charged, make_grant
from policies.plan import PARSER_VERSION, parse_plan
from policies.privacy import Loss
from policies.query import Plan
from policies.request import Facts, JobRequest, SpentFact, VersionFact
from sandbox.exchange.agreements import read_agreement
from sandbox.exchange.epochs import require_signed_epoch
from sandbox.exchange.records import Participant, StoredAgreement
from sandbox.exchange.rotation import require_carried, require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.host import Host
from sandbox.jobs.states import Job, Positions

if TYPE_CHECKING:
    from sandbox.store.database import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What `check` answers: the plan, the decision and, if allowed, the grant that a submission would get now."""

    plan: Plan
    facts: Facts
    decision: Decision
    grant: Grant | None


def check(host: Host, caller: Participant, request: JobRequest) -> Preview:
    """Decide without charging or logging. Raises Malformed, NotFound, Conflict like `submit`."""
    stored, plan = _prepare(host, caller, request)
    with host.store.reading() as tx:
        require_carried(tx, stored, _needed(stored.agreement, plan, request))
        facts = _facts(host, tx, stored.agreement, plan, tx.spent(), request.consumer, host.now())
    decision = decide(request, stored.agreement, plan, facts)
    grant = _grant(stored, digest_of(encode(request)), request, plan, facts, decision)
    return Preview(plan=plan, facts=facts, decision=decision, grant=grant)


def submit(host: Host, caller: Participant, signed: Signed) -> Job:
    """Decide a signed request and, if allowed, charge every ledger and store the grant, all in one transaction.

    The same request id with the same request returns the job that it made before, whatever became of it.

    Raises:
        Malformed: the request or its SQL.
        Forbidden: code `bad-signature`.
        NotFound: the agreement is not the caller's. Conflict: it is not active, names revoked keys (code `party-revoked`), or the request
            id was used for another request. Unavailable: code `epoch-unsigned` or `upload-lost`.
    """
    require_signed(signed, "job-request", caller.id, caller.signing_key)
    request = decode(JobRequest, signed.body)
    if request.consumer != caller.id:
        raise NotFound("a request is made in one's own name")
    digest = document_digest(signed)
    known = _known(host, request, digest)
    if known is not None:
        return known
    stored, plan = _prepare(host, caller, request)
    ledgers = ledgers_charged(stored.agreement, plan)
    with host.store.transaction() as tx:
        tx.hold_log()
        spent = tx.lock_ledgers(ledgers)
        raced = tx.job_by_request(request.consumer, request.request_id)
        if raced is not None:
            return _same_request(raced, digest)
        if tx.job_is_lost(job_id(digest)):
            raise Conflict("this request was decided before the service was restored; make a new one", code="request-lost")
        require_signed_epoch(tx)
        require_in_force(tx, caller)
        require_carried(tx, stored, _needed(stored.agreement, plan, request))
        now = host.now()  # one look: a clock that jumps in between would part the decision from its entry
        facts = _facts(host, tx, stored.agreement, plan, spent, request.consumer, now)
        decision = decide(request, stored.agreement, plan, facts)
        grant = _grant(stored, digest, request, plan, facts, decision)
        job = Job(
            id=job_id(digest),
            state="denied" if grant is None else "charged",
            request=request,
            request_digest=digest,
            signed=signed,
            plan=plan,
            facts=facts,
            decision=decision,
            grant=grant,
            evidence=None,
            positions=_record(now, tx, signed, digest, plan, facts, decision, grant, ledgers),
            code="",
            worker="",
            created_at=now,
        )
        tx.add_job(job)
    host.on_step("charged")
    host.publish()
    host.on_step("charge-published")
    if job.state == "charged":
        host.hints.give(job.id)
    return job


def _record(
    now: int,
    tx: Transaction,
    signed: Signed,
    digest: str,
    plan: Plan,
    facts: Facts,
    decision: Decision,
    grant: Grant | None,
    ledgers: tuple[tuple[str, str], ...],
) -> Positions:
    """Append the decision and, with a grant, the charge and the grant; charge the ledgers."""
    agreement = str(signed.body["agreement"])
    ids = {"job": job_id(digest), "agreement": agreement, "request": digest}
    body = {
        "signed": encode(signed),
        "plan": encode(plan),
        "facts": encode(facts),
        "decision": encode(decision),
        "law": LAW_VERSION,
        "parser": PARSER_VERSION,
    }
    verdict = {"allowed": "yes" if decision.allowed else "no"}
    decided = tx.append("decided", at=now, ids=ids | verdict, body=body, agreement=agreement)
    if grant is None:
        return Positions(decided=decided)
    losses = [
        LedgerCharge(provider=provider, id_space=id_space, amount=grant.loss.amount, delta0=grant.loss.delta0)
        for provider, id_space in ledgers
    ]
    tx.charge(losses)
    named = {"job": ids["job"], "agreement": agreement, "grant": grant_digest(grant)}
    charged = tx.append("charged", at=now, ids=named, body={"job": ids["job"]}, losses=losses, agreement=agreement)
    granted = tx.append("granted", at=now, ids=named, body={"grant": encode(grant)}, agreement=agreement)
    return Positions(decided=decided, charged=charged, granted=granted)


def _prepare(host: Host, caller: Participant, request: JobRequest) -> tuple[StoredAgreement, Plan]:
    with host.store.reading() as tx:
        require_signed_epoch(tx)
    stored = read_agreement(host, caller, request.agreement)
    if stored.state != "active":
        raise Conflict(f"the agreement waits for {', '.join(stored.waiting_for)}", code="agreement-not-active")
    return stored, parse_plan(request.sql, stored.agreement.by_dataset)


def _known(host: Host, request: JobRequest, digest: str) -> Job | None:
    with host.store.reading() as tx:
        job = tx.job_by_request(request.consumer, request.request_id)
    return None if job is None else _same_request(job, digest)


def _same_request(job: Job, digest: str) -> Job:
    if job.request_digest != digest:
        raise Conflict("this request id was used for another request", code="request-id")
    return job


def _needed(agreement: Agreement, plan: Plan, request: JobRequest) -> list[str]:
    """The parties without whose keys a job cannot run: the consumer and the providers that the plan reads."""
    names = {request.consumer, *(agreement.by_dataset[dataset].provider for dataset in plan.sources)}
    return sorted(name for name in names if agreement.has_party(name))


def _facts(
    host: Host, tx: Transaction, agreement: Agreement, plan: Plan, spent: dict[tuple[str, str], Loss], consumer: str, now: int
) -> Facts:
    versions = [tx.newest_version(dataset) for dataset in plan.sources]
    for version in versions:
        if version is not None and tx.upload_is_lost(version.file_digest):
            raise Unavailable(
                f"version {version.version} of `{version.dataset}` was lost; its provider publishes a new one", code="upload-lost"
            )
    return Facts(
        now=now // 1000,
        enclave_kind="simulated",
        measurement=host.measurement,
        versions=tuple(VersionFact(dataset=v.dataset, version=v.version, file_digest=v.file_digest) for v in versions if v is not None),
        spent=tuple(
            SpentFact(provider=provider, id_space=id_space, spent=spent[provider, id_space])
            for provider, id_space in ledgers_charged(agreement, plan)
            if (provider, id_space) in spent
        ),
        rotations=tx.rotations_from(agreement.party(consumer).signing_key) if agreement.has_party(consumer) else (),
    )


def _grant(
    stored: StoredAgreement,
    request_digest: str,
    request: JobRequest,
    plan: Plan,
    facts: Facts,
    decision: Decision,
) -> Grant | None:
    if not decision.allowed:
        return None
    return make_grant(stored.digest, request_digest, request, stored.agreement, plan, facts, decision)

"""From a signed request to a decision, a charge and a grant, in one transaction."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from enclaves.kit.envelope import Signed, document_digest
from policies.acts import approvers_of
from policies.agreement import Agreement
from policies.codec import decode, encode
from policies.decide import LAW_VERSION, decide
from policies.entries import LedgerCharge
from policies.errors import Conflict, Malformed, NotFound
from policies.exchange import Bound
from policies.finding import Decision
from policies.grant import CurrentGrant, Grant, entail, grant_digest, ledgers_charged, metered, public_providers, question_digest
from policies.granted import MAX_RELEASE, job_id
from policies.plan import PARSER_VERSION, plan_of
from policies.privacy import Loss
from policies.query import Plan
from policies.request import Facts, JobRequest
from policies.sizes import require_releasable
from sandbox.exchange import escrow
from sandbox.exchange.agreements import read_agreement
from sandbox.exchange.epochs import require_signed_epoch
from sandbox.exchange.records import Participant, StoredAgreement
from sandbox.exchange.rotation import require_carried, require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.host import Host
from sandbox.jobs.facts import facts_of
from sandbox.jobs.states import Job, JobState, Positions, require_transition

if TYPE_CHECKING:
    from sandbox.store.database import Transaction


def submit(host: Host, caller: Participant, signed: Signed) -> Job:
    """Decide a signed request and, if allowed, charge every ledger and store the grant, all in one transaction.

    A question that the same consumer asked before under the same agreement, of the same data and for the same loss, and that was
    answered with a release, is decided anew and charged nothing: that release is its answer, drawn once.

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
    stored, plan = prepare(host, caller, request)
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
        require_carried(tx, stored, needed_parties(stored.agreement, plan, request))
        job = _decided(host, tx, stored, signed, digest, request, plan, spent)
        tx.add_job(job)
    host.on_step("charged")
    host.publish()
    host.on_step("charge-published")
    if job.state == "charged":
        host.hints.give(job.id)
    return job


def _decided(
    host: Host,
    tx: Transaction,
    stored: StoredAgreement,
    signed: Signed,
    digest: str,
    request: JobRequest,
    plan: Plan,
    spent: dict[tuple[str, str], Loss],
) -> Job:
    """Decide under the locks that are held, append what follows, and return the job that it makes."""
    now = host.now()  # one look: a clock that jumps in between would part the decision from its entry
    facts = facts_of(host, tx, stored.agreement, request, plan, spent, now)
    decision = decide(request, stored.agreement, plan, facts)
    grant = grant_of(stored, digest, request, plan, facts, decision)
    waits = _waits_for_approval(decision)
    return Job(
        id=job_id(digest),
        state="awaiting_approval" if waits else _state(decision, grant),
        request=request,
        request_digest=digest,
        signed=signed,
        plan=plan,
        facts=facts,
        decision=decision,
        grant=grant,
        evidence=None,
        positions=_await(now, tx, signed, digest, stored, plan)
        if waits
        else _record(now, tx, signed, digest, stored.agreement, plan, facts, decision, grant),
        code="",
        worker="",
        created_at=now,
        question=_question(request, plan, facts, grant),
    )


def decide_held(host: Host, tx: Transaction, job: Job, spent: dict[tuple[str, str], Loss]) -> Job:
    """Decide anew a held job that waits for approvals, under the locks that `submit` holds; it goes on waiting while only they are missing.

    Raises:
        Conflict, Unavailable: as `submit`.
    """
    stored = tx.agreement(job.request.agreement)
    assert stored is not None, "a job is under an agreement"
    assert isinstance(job.plan, Plan), "no job of an earlier law waits"
    require_signed_epoch(tx)
    require_carried(tx, stored, needed_parties(stored.agreement, job.plan, job.request))
    now = host.now()
    facts = facts_of(host, tx, stored.agreement, job.request, job.plan, spent, now)
    decision = decide(job.request, stored.agreement, job.plan, facts)
    if _waits_for_approval(decision):
        return job
    grant = grant_of(stored, job.request_digest, job.request, job.plan, facts, decision)
    decided = replace(
        job,
        state=_state(decision, grant),
        facts=facts,
        decision=decision,
        grant=grant,
        positions=_record(now, tx, job.signed, job.request_digest, stored.agreement, job.plan, facts, decision, grant),
        question=_question(job.request, job.plan, facts, grant),
    )
    require_transition(job.state, decided.state)
    tx.decide_job(decided)
    return decided


def _question(request: JobRequest, plan: Plan, facts: Facts, grant: CurrentGrant | None) -> str:
    """The question that a job answers for those who ask it again; empty where its answer is nobody else's."""
    if not isinstance(grant, Grant) or request.exchange is not None:
        return ""
    return question_digest(request, plan, facts.versions)


def _state(decision: Decision, grant: CurrentGrant | None) -> JobState:
    return "denied" if not decision.allowed else "released" if grant is None else "charged"


def _waits_for_approval(decision: Decision) -> bool:
    """Whether nothing but approvals is missing."""
    return not decision.allowed and {finding.rule for finding in decision.findings if not finding.allowed} == {"approvals"}


def _await(now: int, tx: Transaction, signed: Signed, digest: str, stored: StoredAgreement, plan: Plan) -> Positions:
    """Append that a request waits, and tell those whose approval counts. Nothing is decided or charged yet."""
    name = job_id(digest)
    ids = {"job": name, "agreement": stored.digest, "request": digest}
    tx.append("awaiting", at=now, ids=ids, body={"signed": encode(signed)}, agreement=stored.digest)
    tx.add_notices("approval", name, sorted(approvers_of(stored.agreement, plan.sources) - {signed.by}), now)
    return Positions()


def _record(
    now: int,
    tx: Transaction,
    signed: Signed,
    digest: str,
    terms: Agreement,
    plan: Plan,
    facts: Facts,
    decision: Decision,
    grant: CurrentGrant | None,
) -> Positions:
    """Append the decision and, with a grant, the charge and the grant; charge the ledgers. Of a repetition, append what it repeats."""
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
    bound = decode(Bound, signed.body["exchange"]) if "exchange" in signed.body else None
    verdict = {"allowed": "yes" if decision.allowed else "no"} | (bound.to_ids() if bound is not None else {})
    decided = tx.append("decided", at=now, ids=ids | verdict, body=body, agreement=agreement)
    if not decision.allowed:
        return Positions(decided=decided)
    if grant is None:
        again = {"job": ids["job"], "of": str(facts.repeats)}
        repeated = tx.append("repeated", at=now, ids=again | {"agreement": agreement}, body=again, agreement=agreement)
        return Positions(decided=decided, ended=repeated)
    loss = grant.loss
    losses = [
        LedgerCharge(provider=provider, id_space=id_space, amount=loss.amount, delta0=loss.delta0, measure=loss.measure)
        for provider, id_space in ledgers_charged(terms, plan)
    ]
    consumer = grant.recipient.id
    tx.charge(losses, consumer, now)
    named = {"job": ids["job"], "agreement": agreement, "grant": grant_digest(grant)}
    public = public_providers(terms, plan)
    paid = named | {"consumer": consumer} | ({"public": ",".join(public)} if public else {}) | metered(plan)
    charged = tx.append("charged", at=now, ids=paid, body={"job": ids["job"]}, losses=losses, agreement=agreement)
    if bound is not None:
        escrow.note_charged(tx, ids["job"], bound, now)
    granted = tx.append("granted", at=now, ids=named, body={"grant": encode(grant)}, agreement=agreement)
    return Positions(decided=decided, charged=charged, granted=granted)


def prepare(host: Host, caller: Participant, request: JobRequest) -> tuple[StoredAgreement, Plan]:
    """Return the active agreement and the plan of a request. Raises Malformed, NotFound, Conflict, Unavailable like `submit`."""
    with host.store.reading() as tx:
        require_signed_epoch(tx)
    stored = read_agreement(host, caller, request.agreement)
    if stored.state != "active":
        raise Conflict(f"the agreement waits for {', '.join(stored.waiting_for)}", code="agreement-not-active")
    plan = plan_of(request, stored.agreement.by_dataset)
    _require_releasable(stored.agreement, plan)
    return stored, plan


def _require_releasable(agreement: Agreement, plan: Plan) -> None:
    """Refuse before anything is charged what an enclave could only withhold. The law does not ask: a charge of old stays valid."""
    terms = [agreement.terms_of(dataset) for dataset in agreement.members(plan.sources)]
    allowed = [bound for term in terms if (bound := term.output_bytes) is not None]
    try:
        require_releasable(plan, agreement.by_dataset, max(term.minimum_group for term in terms), min([MAX_RELEASE, *allowed]))
    except Malformed as error:
        if error.code == "release-too-large":
            raise


def _known(host: Host, request: JobRequest, digest: str) -> Job | None:
    with host.store.reading() as tx:
        job = tx.job_by_request(request.consumer, request.request_id)
    return None if job is None else _same_request(job, digest)


def _same_request(job: Job, digest: str) -> Job:
    if job.request_digest != digest:
        raise Conflict("this request id was used for another request", code="request-id")
    return job


def needed_parties(agreement: Agreement, plan: Plan, request: JobRequest) -> list[str]:
    """The parties without whose keys a job cannot run: the consumer and the providers that the plan reads."""
    names = {request.consumer, *agreement.needed(plan.sources)}
    return sorted(name for name in names if agreement.has_party(name))


def grant_of(
    stored: StoredAgreement,
    request_digest: str,
    request: JobRequest,
    plan: Plan,
    facts: Facts,
    decision: Decision,
) -> CurrentGrant | None:
    """The grant that an allowed request gets; None for a denied one and for a repetition."""
    if not decision.allowed or facts.repeats is not None:
        return None
    return entail(stored.digest, request_digest, request, stored.agreement, plan, facts, decision)

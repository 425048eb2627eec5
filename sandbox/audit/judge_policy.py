"""Judging what parties sign under agreements in force: tightenings, approvals, duties done; and what decisions state of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from enclaves.kit.acts import verify_approval, verify_cancellation, verify_duty, verify_tightening
from enclaves.kit.envelope import Signed, document_digest
from policies.acts import SignedApproval, SignedCancellation, SignedDuty, deletion_days
from policies.agreement import Agreement
from policies.codec import decode
from policies.conditions import DAY_S
from policies.errors import Malformed, Tampered
from policies.grant import AnyPlan
from policies.granted import job_id
from policies.joint_grant import JointGrant
from policies.quantum import longest_quantum
from policies.query import Plan
from policies.request import Facts, JobRequest
from policies.rules_conditions import CONDITIONS
from policies.tightening import SignedTightening, require_applicable, standing
from sandbox.audit import judge_escrow
from sandbox.audit.folds import Entry, JobFold
from sandbox.audit.state import State

SENDING_S = 60
"""Most seconds between a broker's own clock and the entry of what it sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AwaitingBody:
    """The body of `awaiting`."""

    signed: Signed


def tightened(state: State, entry: Entry) -> None:
    """The next tightening of a dataset, by its provider, of an agreed agreement. The header says all of it."""
    signed = SignedTightening.from_ids(entry.ids)
    name, item = entry.ids["agreement"], signed.tightening
    fold = state.agreements.get(name)
    state.require(entry, fold is not None and fold.agreed, "order", "an agreement is tightened that was not agreed before")
    before = tuple(state.acts.tightenings[name])
    agreement = state.agreement(name)
    if agreement is not None:
        require_applicable(item, agreement, before)
    else:
        last = max((s.tightening.sequence for s in before if s.tightening.dataset == item.dataset), default=0)
        state.require(entry, item.sequence == last + 1, "order", "the tightening is not the next one of its dataset")
    if _signed(state, entry, item.provider, agreement, lambda key: verify_tightening(signed, key)):
        state.acts.tightenings[name].append(signed)


def awaiting(state: State, entry: Entry) -> None:
    """A request that waits for approvals, once, before it is decided."""
    job, request = entry.ids["job"], entry.ids["request"]
    state.require(entry, job == job_id(request), "order", "the job id is not that of the request")
    state.require(
        entry, job not in state.acts.awaiting and request not in state.requests, "order", "the request waits or is decided already"
    )
    fold = state.agreements.get(entry.ids["agreement"])
    state.require(entry, fold is not None and fold.agreed, "order", "waits under an agreement that was not agreed before")
    state.acts.awaiting[job] = request
    if entry.body is None:
        return
    signed = decode(AwaitingBody, entry.body).signed
    state.acts.asked[job] = signed.by
    same = document_digest(signed) == request and decode(JobRequest, signed.body).agreement == entry.ids["agreement"]
    state.require(entry, same, "signatures", "the header names another request or agreement than was signed")
    agreement = state.agreement(entry.ids["agreement"])
    if agreement is not None and agreement.has_party(signed.by):
        state.verify(entry, signed, "job-request", signed.by, agreement.party(signed.by).signing_key)


def approved(state: State, entry: Entry) -> None:
    """A party's approval of a request that waits, once. The header says all of it."""
    signed = SignedApproval.from_ids(entry.ids)
    item = signed.approval
    waits = state.acts.awaiting.get(item.job) == item.request and item.request not in state.requests
    state.require(entry, waits, "order", f"{item.job} is approved and does not wait for it")
    state.require(entry, signed.by not in state.acts.approvals[item.job], "order", f"`{signed.by}` approves {item.job} twice")
    if _signed(state, entry, signed.by, state.agreement(item.agreement), lambda key: verify_approval(signed, key)):
        state.acts.approvals[item.job].add(signed.by)


def expired(state: State, entry: Entry) -> None:
    """The end of a request that waited; nothing was charged for it."""
    job = entry.ids["job"]
    request = state.acts.awaiting.get(job, "")
    state.require(entry, bool(request) and request not in state.requests, "order", f"{job} ends as expired and does not wait")
    state.requests.put(request)


def cancelled(state: State, entry: Entry) -> None:
    """The end of a request that waited, which its consumer took back. The header says all of it; nothing was charged."""
    signed = SignedCancellation.from_ids(entry.ids)
    item, acts = signed.cancellation, state.acts
    waits = acts.awaiting.get(item.job) == item.request and item.request not in state.requests
    state.require(entry, waits, "order", f"{item.job} is cancelled and does not wait")
    who = acts.asked.get(item.job)
    if who is None:
        state.cannot("signatures")
    else:
        state.require(entry, signed.by == who, "signatures", f"`{signed.by}` cancels a request of `{who}`")
    _signed(state, entry, signed.by, state.agreement(item.agreement), lambda key: verify_cancellation(signed, key))
    state.requests.put(item.request)


def duty_done(state: State, entry: Entry) -> None:
    """A payment that its provider confirms, or a deletion that the consumer reports, each once. The header says all of it."""
    signed = SignedDuty.from_ids(entry.ids)
    done, acts = signed.done, state.acts
    agreement = state.agreement(done.agreement)
    if not _signed(state, entry, signed.by, agreement, lambda key: verify_duty(signed, key)):
        return
    if done.duty == "payment":
        paid = (done.agreement, signed.by, done.about)
        state.require(entry, state.states((done.number,), (acts.paid[paid] + 1,)), "order", "the payment is not the next one")
        acts.paid[paid] = max(done.number, acts.paid[paid] + 1)
        return
    state.require(entry, state.stage_of(done.about) == "released", "order", f"{done.about} was not released, and is deleted")
    judge_escrow.check_had(state, entry, done.about)
    state.relate(entry, "deleted", done.about)


def _signed(state: State, entry: Entry, by: str, agreement: Agreement | None, verify: Callable[[str], object]) -> bool:
    """Whether `by` is a party and signed, with the key in force that follows from the agreement's."""
    if agreement is None:
        state.cannot("signatures")
        return True  # what cannot be verified is obeyed: it only tightens or counts
    if not state.require(entry, agreement.has_party(by), "signatures", f"`{by}` is no party of the agreement"):
        return False
    key = state.keyring.signing_key(agreement.party(by).signing_key)
    if not state.require(entry, key is not None, "signatures", f"the keys of `{by}` were revoked before"):
        return False
    try:
        verify(str(key))
    except Tampered as error:
        state.report(entry, "signatures", error.message)
        return False
    return True


def check_facts(state: State, entry: Entry, agreement: Agreement, request: JobRequest, plan: AnyPlan, facts: Facts) -> None:
    """What a decision states of tightenings, approvals, uses, payments and deletions is what the headers before it say."""
    name, acts = request.agreement, state.acts
    told = tuple(acts.tightenings[name])
    state.require(entry, facts.tightenings == told, "decisions", "the stated tightenings are not those of the log")
    given = tuple(sorted(acts.approvals[entry.ids["job"]]))
    state.require(entry, facts.approved_by == given, "decisions", "the stated approvals are not those of the log")
    for fact in facts.uses:
        used = acts.uses[name, fact.provider]
        counted = (sum(used.values()), used[request.consumer], acts.paid[name, fact.provider, request.consumer])
        what = f"{(fact.jobs, fact.own, fact.paid)} stated as uses, own uses and payments of `{fact.provider}`; the log has {counted}"
        state.require(entry, state.states((fact.jobs, fact.own, fact.paid), counted), "decisions", what)
    stated = {fact.provider for fact in facts.uses}
    for dataset in agreement.members(plan.sources):
        terms, provider = agreement.terms_of(dataset), agreement.by_dataset[dataset].provider
        lowered = any(s.tightening.dataset == dataset and s.tightening.uses is not None for s in told)
        if (terms.uses is not None or terms.payment is not None or lowered) and provider not in stated:
            state.report(entry, "decisions", f"does not state the uses of `{provider}`")
    _check_scored(state, entry, agreement, request, plan, facts)
    state.relate(entry, "overdue", f"{name} {request.consumer}", " ".join([str(facts.now * 1000), *facts.overdue]))


def _check_scored(state: State, entry: Entry, agreement: Agreement, request: JobRequest, plan: AnyPlan, facts: Facts) -> None:
    """The rows that count against a model's quota are those that the headers of charges within its time name."""
    scoring = plan.scoring if isinstance(plan, Plan) else None
    quota = None if scoring is None or scoring.model not in agreement.by_dataset else agreement.terms_of(scoring.model).scored_rows
    if scoring is None or quota is None:
        state.require(entry, not facts.scored, "decisions", "states rows that nobody counts")
        return
    since = quota.counts_from(facts.now)
    calls = state.acts.scored[request.agreement, scoring.model, request.consumer]
    rows = sum(rows for rows, at in calls if at // 1000 >= since)
    stated = facts.scored_by(scoring.model)
    same = stated is not None and state.states((stated,), (rows,)) and len(facts.scored) == 1
    state.require(entry, same, "decisions", f"{stated} stated as rows that {scoring.model} scored; the log has {rows}")


def note_charge(state: State, entry: Entry) -> None:
    """Count a charge as a use of every provider whose keys it is for, and the rows that it names."""
    rows = entry.ids.get("rows", "")
    if rows.isdecimal() and len(rows) < 10:
        called = (entry.ids["agreement"], entry.ids.get("model", ""), entry.ids.get("consumer", ""))
        state.acts.scored[called].append((int(rows), entry.header.at))
    names = {loss.provider for loss in entry.header.losses} | {n for n in entry.ids.get("public", "").split(",") if n}
    for name in names:
        state.acts.uses[entry.ids["agreement"], name][entry.ids.get("consumer", "")] += 1


def note_release(state: State, entry: Entry, job: JobFold) -> None:
    """Remember until when a release may be kept."""
    own, agreement = job.derived, state.agreement(job.agreement)
    if own is None or agreement is None or own.grant is None:
        return
    days = deletion_days(agreement, own.grant.plan.sources)
    if days is not None:
        deadline = entry.header.at + days * DAY_S * 1000
        state.relate(entry, "kept", f"{job.agreement} {own.request.consumer}", f"{deadline} {entry.ids['job']}")


def require_standing(state: State, entry: Entry, job: JobFold) -> None:
    """Report a key release or a release under terms that were revoked, ended or suspended before."""
    told = state.acts.tightenings.get(job.agreement, ())
    if not told:
        return
    if job.grant is None:
        state.cannot("releases")
        return
    datasets = job.grant.pool.members if isinstance(job.grant, JointGrant) else [read.dataset for read in job.grant.reads]
    for dataset in datasets:
        why = standing(dataset, told, entry.header.at // 1000)
        state.require(entry, not why, "releases", f"`{entry.header.kind}` although the terms of `{dataset}` are {why}")


def require_fresh(state: State, entry: Entry, job: JobFold) -> None:
    """Report a key release to evidence that is older than the provider's terms say, with room for what sending takes."""
    agreement = state.agreement(job.agreement)
    if agreement is None or job.grant is None or isinstance(job.grant, JointGrant):
        return
    own = (agreement.terms_of(read.dataset) for read in job.grant.reads if read.provider == entry.ids["provider"])
    ages = [terms.evidence_age for terms in own if terms.evidence_age is not None]
    age_ms = entry.header.at - job.attested_at
    late = bool(ages) and age_ms > (min(ages) + SENDING_S) * 1000
    state.require(
        entry, not late, "evidence", f"keys were released to evidence {age_ms // 1000} s old; the terms say {min(ages, default=0)} s"
    )


def require_due(state: State, entry: Entry, job: JobFold) -> None:
    """Report an end that was told before the quantum of the terms was over.

    What nobody computed says nothing by its time: runs without evidence, and those whose worker was lost, which a restore ends at once.
    """
    agreement = state.agreement(job.agreement)
    if agreement is None or all(terms.quantum is None for terms in agreement.terms):
        return
    if not job.attested_at or entry.ids.get("code") == "worker-died":
        return
    if job.grant is None:
        state.cannot("releases")
        return
    quantum = longest_quantum(agreement, agreement.members(job.grant.plan.sources))
    took_ms = entry.header.at - job.running_at
    told = f"`{entry.header.kind}` was told {took_ms / 1000} s after the run began; the terms say {quantum} s at the least"
    state.require(entry, took_ms >= quantum * 1000, "releases", told)


def require_known_terms(agreement: Agreement, current: bool) -> None:
    """Raise Malformed where a decision of an earlier law is under terms that it does not know."""
    if current:
        return
    for terms in agreement.terms:
        later = [name for name in CONDITIONS if name != "standing" and getattr(terms, name) not in (None, False, ())]
        if later or any(column.recipients for column in terms.columns):
            raise Malformed(f"decided under a law that does not know the terms of `{terms.dataset}`")

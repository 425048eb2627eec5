"""Judging a decision, its charge and its grant: everything is derived anew from what the entry of the decision holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from enclaves.kit.envelope import Signed
from policies.agreement import Agreement
from policies.budgets import Budget, budgets, periods
from policies.canonical import canonical_part, digest_bytes
from policies.codec import decode
from policies.decide import LAW_VERSION
from policies.entries import LedgerCharge
from policies.errors import Malformed
from policies.finding import Decision, is_spelled_by
from policies.grant import (
    AnyGrant,
    AnyPlan,
    former_grants,
    grant_digest,
    grant_text,
    ledgers_charged,
    metered,
    public_providers,
    question_digest,
)
from policies.granted import job_id
from policies.plan import PARSER_VERSION, plan_of
from policies.plan_text import plan_text
from policies.query import Plan
from policies.recent import Recent
from policies.request import Facts, JobRequest
from policies.tightening import tightened
from sandbox.audit import judge_escrow, judge_policy
from sandbox.audit.backtest import difference, recent_fact
from sandbox.audit.folds import Derived, Entry, JobFold, Ledger
from sandbox.audit.laws import law_of
from sandbox.audit.order import follow
from sandbox.audit.state import State
from sandbox.audit.totals import Total, shown

_BUDGETS = Recent(lambda agreement, plan: budgets(agreement, plan.sources))
_PERIODS = Recent(lambda agreement, plan: periods(agreement, plan.sources))

MAX_FACT_AGE_S = 60
"""Most seconds between the time that a decision states and the time of its entry."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChargedBody:
    """The body of `charged`."""

    job: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GrantedBody:
    """The body of `granted`."""

    grant: AnyGrant


@dataclass(frozen=True, kw_only=True, slots=True)
class RepeatedBody:
    """The body of `repeated`."""

    job: str
    of: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened:
    """The body of `decided`, as `DecidedBody`; plan and decision are read only where they are spelled otherwise than what is derived."""

    signed: Signed
    plan: dict[str, Any]
    facts: Facts
    decision: dict[str, Any]
    law: str
    parser: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Logged:
    plan: AnyPlan


def decided(state: State, entry: Entry) -> None:
    """A decision that follows from its inputs, under an agreement that all parties signed before, once per request."""
    request = entry.ids["request"]
    state.require(entry, request not in state.requests, "order", "the same request is decided twice")
    state.requests.put(request)
    state.require(entry, entry.ids["job"] == job_id(request), "order", "the job id is not that of the request")
    fold = state.agreements.get(entry.ids["agreement"])
    active = fold is not None and fold.agreed
    state.require(entry, active, "order", "decided under an agreement that was not agreed before")
    if state.waiting:
        state.report(entry, "order", f"decided before {', '.join(sorted(state.waiting))} signed the epoch")
    job = follow(state, entry)
    if job is None:
        return
    if fold is not None and fold.standing == "broken":
        state.report(entry, "signatures", "decided under an agreement that not every party validly signed")
    agreement = state.agreement(entry.ids["agreement"])
    job.blind = agreement is None
    if entry.body is None or agreement is None:
        state.cannot("signatures", "decisions", "budgets", "grants")
    else:
        job.derived = _derive(state, entry, job, agreement, decode(_Opened, entry.body))
    job.exchange, job.leg = entry.ids.get("exchange", ""), judge_escrow.leg_of(entry)
    allowed = {"yes": True, "no": False}.get(entry.ids["allowed"])
    state.require(entry, allowed is not None, "decisions", "the header says neither yes nor no")
    if not allowed:
        state.end(entry.ids["job"], "denied")


def charged(state: State, entry: Entry) -> None:
    """A charge on exactly the ledgers of the grant, each for its whole loss, within the budgets. Counted whatever else is wrong."""
    losses, consumer = entry.header.losses, entry.ids.get("consumer", "")
    judge_policy.note_charge(state, entry)
    for loss in losses:
        one = state.charge(loss, consumer, entry.header.at)
        what = f"ledger {loss.provider}/{loss.id_space} is charged in {loss.measure}, and was charged in another measure before"
        state.require(entry, one, "budgets", what)
    job = follow(state, entry)
    if job is None:
        return
    public = entry.ids.get("public", "")
    job.providers = frozenset([loss.provider for loss in losses] + (public.split(",") if public else []))
    job.grant_id, job.losses, job.consumer, job.charged_at = entry.ids["grant"], losses, consumer, entry.header.at
    judge_escrow.note_charged(state, entry, job)
    if entry.body is not None:
        state.require(entry, decode(ChargedBody, entry.body).job == entry.ids["job"], "budgets", "the body names another job")
    own = job.derived
    if own is None:
        state.cannot("budgets")
        return
    asked = own.request.loss
    wanted = [
        LedgerCharge(provider=provider, id_space=id_space, amount=asked.amount, delta0=asked.delta0, measure=asked.measure)
        for provider, id_space in own.ledgers
    ]
    if sorted(losses, key=lambda loss: (loss.provider, loss.id_space)) != wanted:
        state.report(entry, "budgets", f"charged {shown(losses)}; the grant spends {shown(wanted)}")
    state.require(entry, public == ",".join(own.public), "budgets", "the header names other providers of public tables than the plan reads")
    stated = {name: entry.ids[name] for name in ("model", "rows") if name in entry.ids}
    state.require(entry, stated == own.metered, "budgets", "the header meters other rows than the call asks to be scored")
    named = consumer == (own.request.consumer if own.names_consumer else "")
    state.require(entry, named, "budgets", f"charged for `{consumer}`; `{own.request.consumer}` asked")
    for budget in own.budgets:
        _require_within(state, entry, budget, consumer, own.now)


def repeated(state: State, entry: Entry) -> None:
    """The release of an earlier job is handed out again, without a charge, as its decision says."""
    job = follow(state, entry)
    if job is None:
        return
    released = state.stage_of(entry.ids["of"]) == "released"
    state.require(entry, released, "releases", "what is handed out again was not released before")
    if entry.body is not None:
        body = decode(RepeatedBody, entry.body)
        state.require(entry, (body.job, body.of) == (entry.ids["job"], entry.ids["of"]), "releases", "the body names other jobs")
    if job.derived is None:
        state.cannot("releases")
    else:
        stated = job.derived.repeats == entry.ids["of"]
        state.require(entry, stated, "releases", "the decision does not say that this job is repeated")
    state.end(entry.ids["job"], "repeated")


def granted(state: State, entry: Entry) -> None:
    """The grant that the decision entails, and that was charged."""
    job = follow(state, entry)
    if job is None:
        return
    name = entry.ids["grant"]
    state.require(entry, job.grant_id in ("", name), "grants", "the charge was for another grant")
    job.grant_id = name
    own = job.derived
    if entry.body is not None:
        job.grant, job.grant_named = _logged_grant(entry.body, own)
        state.require(entry, job.grant_named == name, "grants", "the header names another grant than the body")
    if own is None:
        state.cannot("grants")
    elif own.grant is None:
        state.report(entry, "grants", "a grant was made where the decision derived anew denies")
    else:
        entailed = (own.grant, *former_grants(own.grant))
        fits = [grant for grant in entailed if (grant_digest(grant) == name if job.grant is None else grant == job.grant)]
        state.require(entry, bool(fits), "grants", _difference(own.grant, job.grant))
        if job.grant is None:
            job.grant = next(iter(fits), own.grant)
            job.grant_named = grant_digest(job.grant)


def _logged_grant(body: dict[str, Any], own: Derived | None) -> tuple[AnyGrant, str]:
    """The grant of a body and its digest. One that is spelled as the derived one is the derived one."""
    if own is not None and own.grant is not None:
        derived = grant_text(own.grant)
        # Bytes and not values: to Python, true is 1.
        if canonical_part(body) == b'{"grant":%b}' % derived:
            return own.grant, digest_bytes(derived)
    logged = decode(GrantedBody, body).grant
    return logged, grant_digest(logged)


def _require_within(state: State, entry: Entry, budget: Budget, consumer: str, now: int) -> None:
    total, most = state.counted(budget, consumer, now), budget.most
    if total.measure == most.measure and total.amount <= most.amount and total.delta0 <= most.delta0:
        return
    whose = f"{budget.provider}/{budget.id_space}" + (f" for `{consumer}`" if budget.own else "")
    whose += f" in {budget.days} days" if budget.days is not None else ""
    state.report(entry, "budgets", f"ledger {whose}: {total.text} are charged; the budget is {most.text}")


def _derive(state: State, entry: Entry, job: JobFold, agreement: Agreement, body: _Opened) -> Derived:
    request = _request(state, entry, agreement, body.signed)
    facts = body.facts
    plan = _check_plan(state, entry, agreement, request, body)
    if not set(plan.sources) <= set(agreement.by_dataset):
        raise Malformed("the plan reads a dataset that the agreement does not declare")
    ledgers = ledgers_charged(agreement, plan)
    _check_keys(state, entry, agreement, request, plan, facts)
    law, current = law_of(body.law), body.law == LAW_VERSION
    judge_policy.require_known_terms(agreement, current)
    judge_policy.check_facts(state, entry, agreement, request, plan, facts)
    judge_escrow.check_fact(state, entry, request, facts)
    unasked = agreement.pool_of(plan.sources) is not None or request.exchange is not None
    job.question = "" if unasked else question_digest(request, plan, facts.versions)
    _check_facts(state, entry, plan, facts, ledgers)
    _check_consumer_facts(state, entry, request.consumer if current else None, facts, ledgers)
    _check_recent_facts(state, entry, request.consumer, facts, _PERIODS(agreement, plan) if current else ())
    own = law.decide(request, agreement, plan, facts)
    if facts.repeats is not None:
        state.relate(entry, "repeats", job.question, facts.repeats)
    logged = own if is_spelled_by(own, body.decision) else decode(Decision, body.decision, "decision")
    if own != logged:
        state.report(entry, "decisions", _decision_difference(own, logged))
    _backtest(state, entry, request, agreement, plan, logged, body)
    answer = "yes" if own.allowed else "no"
    state.require(
        entry, entry.ids["allowed"] == answer, "decisions", f"the header says allowed: {entry.ids['allowed'][:8]}; derived: {answer}"
    )
    grant = None
    if own.allowed and facts.repeats is None:
        grant = law.grants(entry.ids["agreement"], entry.ids["request"], request, agreement, plan, facts, own)
    bounds = tightened(agreement, facts.tightenings)
    return Derived(
        request=request,
        ledgers=ledgers if grant is not None else (),
        public=public_providers(agreement, plan),
        now=facts.now,
        budgets=tuple(budget for budget in _BUDGETS(bounds, plan) if current or not budget.own),
        metered=metered(plan) if grant is not None else {},
        names_consumer=current,
        repeats=facts.repeats,
        grant=grant,
    )


def _backtest(
    state: State, entry: Entry, request: JobRequest, agreement: Agreement, plan: AnyPlan, logged: Decision, body: _Opened
) -> None:
    if state.candidate is not None and state.candidate.concerns(agreement, plan):
        read = state.candidate.periods(agreement, plan)
        consumer, now = request.consumer, body.facts.now
        recent = tuple(
            recent_fact(name, state.recent(name[:2], name[2], now, None), state.recent(name[:2], name[2], now, consumer)) for name in read
        )
        facts = replace(body.facts, recent=recent)
        other = state.candidate.decide(request, agreement, plan, facts, body.law)
        found = difference(entry.index, entry.ids["job"], logged, other)
        if found is not None:
            state.found.differences.append(found)


def _request(state: State, entry: Entry, agreement: Agreement, signed: Signed) -> JobRequest:
    """The request as its consumer signed it, under the key of the agreement."""
    request, text = decode(JobRequest, signed.body), canonical_part(signed.body)
    state.verify(entry, signed, "job-request", request.consumer, agreement.party(request.consumer).signing_key, text)
    named = (entry.ids["request"], entry.ids["agreement"]) == (digest_bytes(text), request.agreement)
    state.require(entry, named, "signatures", "the header names another request or agreement than was signed")
    state.relate(entry, "asked", f"{request.consumer} {request.request_id}")
    return request


def _check_plan(state: State, entry: Entry, agreement: Agreement, request: JobRequest, body: _Opened) -> AnyPlan:
    """The logged plan; where it is what the SQL means, the very object that stands for this SQL, of which much is known already."""
    own: Plan | None = None
    if body.parser != PARSER_VERSION or body.law != LAW_VERSION:
        state.found.not_reparsed += 1
    else:
        try:
            own = _plan_of(state, entry.ids["agreement"], agreement, request)
        except Malformed as error:
            state.report(entry, "decisions", f"the SQL has no plan: {error.message}")
    # Bytes and not values: to Python, true is 1.
    if own is not None and canonical_part(body.plan) == plan_text(own):
        return own
    logged = decode(_Logged, {"plan": body.plan}).plan
    if own is None:
        return logged
    return own if state.require(entry, own == logged, "decisions", "the logged plan is not what the SQL means") else logged


def _plan_of(state: State, name: str, agreement: Agreement, request: JobRequest) -> Plan:
    """What a query means under an agreement; parsed once where the same text comes again. Raises Malformed."""
    asked = (name, request.sql, request.training, request.scoring)
    found = state.plans.get(asked)
    if found is None:
        found = plan_of(request, agreement.by_dataset)
        state.plans.put(asked, found)
    return found


def _check_facts(state: State, entry: Entry, plan: AnyPlan, facts: Facts, ledgers: tuple[Ledger, ...]) -> None:
    newest = tuple(state.newest[dataset] for dataset in plan.sources if dataset in state.newest)
    state.require(entry, facts.versions == newest, "decisions", "the stated versions are not the newest published ones")
    late = abs(facts.now - entry.header.at // 1000)
    state.require(
        entry, late <= MAX_FACT_AGE_S, "decisions", f"the stated time and the entry's are {late} s apart; {MAX_FACT_AGE_S} s are allowed"
    )
    stated = {ledger: facts.spent_on(*ledger) for ledger in ledgers}
    stated |= {(fact.provider, fact.id_space): fact.spent for fact in facts.spent}
    for ledger, spent in stated.items():
        total = state.ledgers.get(ledger, Total())
        if not total.is_stated_by(spent):
            what = f"ledger {'/'.join(ledger)}: {spent.text} stated as spent; charged were {total.text}"
            state.report(entry, "budgets", what)


def _check_keys(state: State, entry: Entry, agreement: Agreement, request: JobRequest, plan: AnyPlan, facts: Facts) -> None:
    """The stated rotations are those before this entry, and nobody whose part is needed has lost its keys."""
    chain = state.keyring.chain(agreement.party(request.consumer).signing_key)
    state.require(entry, facts.rotations == chain, "decisions", "the stated rotations are not those of the consumer's keys")
    for name in agreement.needed(plan.sources):
        held = state.keyring.signing_key(agreement.party(name).signing_key) is not None
        state.require(entry, held, "signatures", f"decided although the keys of `{name}` were revoked before")


def _check_consumer_facts(state: State, entry: Entry, consumer: str | None, facts: Facts, ledgers: tuple[Ledger, ...]) -> None:
    """What is stated as spent for the consumer is what the headers of earlier charges say; None under a law without such facts."""
    stated = {(fact.provider, fact.id_space): fact.spent for fact in facts.consumer_spent}
    if consumer is None:
        state.require(entry, not stated, "budgets", "states what one consumer has spent, which its law does not read")
        return
    for ledger, spent in ({ledger: facts.consumer_spent_on(*ledger) for ledger in ledgers} | stated).items():
        total = state.consumer_total(ledger, consumer)
        if not total.is_stated_by(spent):
            what = f"ledger {'/'.join(ledger)}: {spent.text} stated as spent for `{consumer}`; charged were {total.text}"
            state.report(entry, "budgets", what)


def _check_recent_facts(state: State, entry: Entry, consumer: str, facts: Facts, read: tuple[tuple[str, str, int], ...]) -> None:
    """What is stated of recent charges is what the headers say, of exactly those ledgers and periods that the terms name."""
    stated = tuple((fact.provider, fact.id_space, fact.days) for fact in facts.recent)
    state.require(entry, stated == read, "budgets", "states recent charges of other ledgers or periods than the terms renew")
    for fact in facts.recent:
        ledger = (fact.provider, fact.id_space)
        for spent, whose in ((fact.spent, None), (fact.own, consumer)):
            total = state.recent(ledger, fact.days, facts.now, whose)
            named = f" for `{whose}`" if whose else ""
            what = f"ledger {'/'.join(ledger)}: {spent.text} stated as charged{named} in {fact.days} days; charged were {total.text}"
            state.require(entry, total.is_stated_by(spent), "budgets", what)


def _decision_difference(own: Decision, logged: Decision) -> str:
    if own.allowed != logged.allowed:
        failed = next((f"; {f.rule} ({f.dataset}): {f.message}" for f in own.findings if not f.allowed), "")
        return f"logged as {'allowed' if logged.allowed else 'denied'}; derived: {'allowed' if own.allowed else 'denied'}{failed}"
    return "the logged findings are not those that follow from the inputs"


def _difference(own: AnyGrant, logged: AnyGrant | None) -> str:
    if logged is None or type(own) is not type(logged):
        return "the grant is not the one that the decision entails"
    names = [name for name in type(own).__slots__ if getattr(own, name) != getattr(logged, name)]
    return f"the grant differs from what the decision entails in: {', '.join(names)}"

"""Judging a decision, its charge and its grant: everything is derived anew from what the entry of the decision holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from enclaves.kit.envelope import Signed, document_digest
from policies.agreement import Agreement
from policies.codec import decode
from policies.decide import LAW_VERSION, Decision, decide
from policies.errors import Malformed
from policies.grant import Grant, grant_digest, job_id, ledgers_charged, make_grant
from policies.plan import PARSER_VERSION, parse_plan
from policies.query import Plan
from policies.request import Facts, JobRequest
from sandbox.audit.order import follow
from sandbox.audit.state import Derived, Entry, State

MAX_FACT_AGE_S = 60
"""Most seconds between the time that a decision states and the time of its entry."""

LAWS: dict[str, Callable[[JobRequest, Agreement, Plan, Facts], Decision]] = {LAW_VERSION: decide}
"""Every version of the law that a logged decision may name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecidedBody:
    """The body of `decided`: all inputs of the decision and the decision."""

    signed: Signed
    plan: Plan
    facts: Facts
    decision: Decision
    law: str
    parser: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ChargedBody:
    """The body of `charged`."""

    job: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GrantedBody:
    """The body of `granted`."""

    grant: Grant


def decided(state: State, entry: Entry) -> None:
    """A decision that follows from its inputs, under an agreement that all parties signed before, once per request."""
    request = entry.ids["request"]
    state.require(entry, request not in state.requests, "order", "the same request is decided twice")
    state.requests.add(request)
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
    if entry.body is None or agreement is None:
        state.cannot("signatures", "decisions", "budgets", "grants")
    else:
        job.derived = _derive(state, entry, agreement, decode(DecidedBody, entry.body))
    allowed = {"yes": True, "no": False}.get(entry.ids["allowed"])
    state.require(entry, allowed is not None, "decisions", "the header says neither yes nor no")
    if not allowed:
        job.end("denied")


def charged(state: State, entry: Entry) -> None:
    """A charge on exactly the ledgers of the grant, each for its whole loss, within the budgets. Counted whatever else is wrong."""
    losses = entry.header.losses
    for loss in losses:
        state.ledgers[loss.provider, loss.id_space] += loss.amount
    job = follow(state, entry)
    if job is None:
        return
    job.providers = frozenset(loss.provider for loss in losses)
    job.grant_id = entry.ids["grant"]
    if entry.body is not None:
        state.require(entry, decode(ChargedBody, entry.body).job == entry.ids["job"], "budgets", "the body names another job")
    own = job.derived
    if own is None:
        state.cannot("budgets")
        return
    found = [((loss.provider, loss.id_space), loss.amount, loss.delta0) for loss in losses]
    wanted = [(ledger, own.request.loss.amount, own.request.loss.delta0) for ledger in own.ledgers]
    state.require(entry, sorted(found) == wanted, "budgets", f"charged {_shown(found)}; the grant spends {_shown(wanted)}")
    for (provider, id_space), most in own.totals.items():
        total = state.ledgers[provider, id_space]
        state.require(
            entry, total <= most, "budgets", f"ledger {provider}/{id_space}: {total} nano-epsilon are charged; the budget is {most}"
        )


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
        job.grant = decode(GrantedBody, entry.body).grant
        state.require(entry, grant_digest(job.grant) == name, "grants", "the header names another grant than the body")
    if own is None:
        state.cannot("grants")
    elif own.grant is None:
        state.report(entry, "grants", "a grant was made where the decision derived anew denies")
    else:
        same = grant_digest(own.grant) == name if job.grant is None else own.grant == job.grant
        state.require(entry, same, "grants", _difference(own.grant, job.grant))
        job.grant = job.grant or own.grant


def _derive(state: State, entry: Entry, agreement: Agreement, body: DecidedBody) -> Derived:
    request = _request(state, entry, agreement, body.signed)
    plan, facts = body.plan, body.facts
    if not set(plan.sources) <= set(agreement.by_dataset):
        raise Malformed("the plan reads a dataset that the agreement does not declare")
    _check_plan(state, entry, agreement, request, body)
    ledgers = ledgers_charged(agreement, plan)
    _check_facts(state, entry, plan, facts, ledgers)
    _check_keys(state, entry, agreement, request, plan, facts)
    if body.law not in LAWS:
        raise Malformed(f"decided under `{body.law[:40]}`, a law that this replay does not have")
    own = LAWS[body.law](request, agreement, plan, facts)
    if own != body.decision:
        state.report(entry, "decisions", _decision_difference(own, body.decision))
    header_agrees = entry.ids["allowed"] == ("yes" if own.allowed else "no")
    state.require(entry, header_agrees, "decisions", f"the header says allowed: {entry.ids['allowed'][:8]}; derived: {own.allowed}")
    grant = None
    if own.allowed:
        grant = make_grant(entry.ids["agreement"], entry.ids["request"], request, agreement, plan, facts, own)
    return Derived(request=request, ledgers=ledgers, totals=_totals(agreement, plan), grant=grant)


def _request(state: State, entry: Entry, agreement: Agreement, signed: Signed) -> JobRequest:
    """The request as its consumer signed it, under the key of the agreement."""
    request = decode(JobRequest, signed.body)
    state.verify(entry, signed, "job-request", request.consumer, agreement.party(request.consumer).signing_key)
    named = (entry.ids["request"], entry.ids["agreement"]) == (document_digest(signed), request.agreement)
    state.require(entry, named, "signatures", "the header names another request or agreement than was signed")
    asked = (request.consumer, request.request_id)
    state.require(entry, asked not in state.asked, "order", f"request id `{request.request_id}` is decided twice")
    state.asked.add(asked)
    return request


def _check_plan(state: State, entry: Entry, agreement: Agreement, request: JobRequest, body: DecidedBody) -> None:
    if body.parser != PARSER_VERSION:
        state.not_reparsed += 1
        return
    try:
        same = parse_plan(request.sql, agreement.by_dataset) == body.plan
    except Malformed as error:
        state.report(entry, "decisions", f"the SQL has no plan: {error.message}")
        return
    state.require(entry, same, "decisions", "the logged plan is not what the SQL means")


def _check_facts(state: State, entry: Entry, plan: Plan, facts: Facts, ledgers: tuple[tuple[str, str], ...]) -> None:
    newest = tuple(state.newest[dataset] for dataset in plan.sources if dataset in state.newest)
    state.require(entry, facts.versions == newest, "decisions", "the stated versions are not the newest published ones")
    late = abs(facts.now - entry.header.at // 1000)
    state.require(
        entry, late <= MAX_FACT_AGE_S, "decisions", f"the stated time and the entry's are {late} s apart; {MAX_FACT_AGE_S} s are allowed"
    )
    stated = {ledger: facts.spent_on(*ledger).amount for ledger in ledgers}
    stated |= {(fact.provider, fact.id_space): fact.spent.amount for fact in facts.spent}
    for (provider, id_space), amount in stated.items():
        total = state.ledgers.get((provider, id_space), 0)
        state.require(
            entry, amount == total, "budgets", f"ledger {provider}/{id_space}: {amount} nano-epsilon stated as spent; charged were {total}"
        )
    distinct = len({(fact.provider, fact.id_space) for fact in facts.spent}) == len(facts.spent)
    state.require(entry, distinct, "budgets", "a ledger is stated twice")


def _check_keys(state: State, entry: Entry, agreement: Agreement, request: JobRequest, plan: Plan, facts: Facts) -> None:
    """The stated rotations are those before this entry, and nobody whose part is needed has lost its keys."""
    chain = state.keyring.chain(agreement.party(request.consumer).signing_key)
    state.require(entry, facts.rotations == chain, "decisions", "the stated rotations are not those of the consumer's keys")
    for name in sorted({agreement.by_dataset[dataset].provider for dataset in plan.sources}):
        held = state.keyring.signing_key(agreement.party(name).signing_key) is not None
        state.require(entry, held, "signatures", f"decided although the keys of `{name}` were revoked before")


def _totals(agreement: Agreement, plan: Plan) -> dict[tuple[str, str], int]:
    """Strictest total loss by ledger, over the datasets that the plan reads."""
    totals: dict[tuple[str, str], int] = {}
    for dataset in plan.sources:
        declaration, most = agreement.by_dataset[dataset], agreement.terms_of(dataset).total_loss.amount
        ledger = (declaration.provider, declaration.id_space)
        totals[ledger] = min(most, totals.get(ledger, most))
    return totals


def _shown(charges: list[tuple[tuple[str, str], int, int]]) -> str:
    return ", ".join(f"{amount} on {provider}/{id_space}" for (provider, id_space), amount, _ in charges) or "nothing"


def _decision_difference(own: Decision, logged: Decision) -> str:
    if own.allowed != logged.allowed:
        failed = next((f"; {f.rule} ({f.dataset}): {f.message}" for f in own.findings if not f.allowed), "")
        return f"logged as {'allowed' if logged.allowed else 'denied'}; derived: {'allowed' if own.allowed else 'denied'}{failed}"
    return "the logged findings are not those that follow from the inputs"


def _difference(own: Grant, logged: Grant | None) -> str:
    if logged is None:
        return "the grant is not the one that the decision entails"
    names = [name for name in Grant.__slots__ if getattr(own, name) != getattr(logged, name)]
    return f"the grant differs from what the decision entails in: {', '.join(names)}"

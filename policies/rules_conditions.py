"""Rules for terms that a permission may add: each is applied where its term stands, and then it must hold like all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from policies.agreement import Terms
from policies.conditions import Division
from policies.escrow import obstacle
from policies.exchange import Bound, exchange_digest
from policies.finding import Finding
from policies.isolation import lacking
from policies.odrl import timestamp
from policies.questions import most_rows, output_kind, plan_digest, template_digest
from policies.request import ExchangeFact
from policies.rules import Case
from policies.tightening import standing as standing_of

Rule = Callable[[Case], Iterator[Finding]]


def standing(case: Case) -> Iterator[Finding]:
    """The provider has neither revoked, ended nor suspended the terms."""
    why = standing_of(case.declaration.dataset, case.facts.tightenings, case.facts.now)
    words, _, at = why.rpartition(" ")
    shown = f"{words} {timestamp(int(at))}" if words else why
    remedy = f"wait until {timestamp(int(at))}" if words == "suspended until" else "sign a new agreement"
    yield case.finding("standing", not why, f"the terms are {shown or 'in force, tightened'}", remedy=remedy)


def isolation(case: Case) -> Iterator[Finding]:
    """Every layer that the terms require separates the enclave that would run from its machine."""
    required, present = case.terms.isolation, case.facts.isolation
    missing = lacking(required, present)
    yield case.finding(
        "isolation",
        not missing,
        f"runs must be isolated by {', '.join(required)}; " + (f"here they lack {', '.join(missing)}" if missing else "they are"),
        remedy=f"ask the operator for workers whose enclaves have {', '.join(missing)}",
    )


def uses(case: Case) -> Iterator[Finding]:
    """Jobs under the agreement that this provider's keys were granted for, and this one, are at most so many."""
    most, used = case.terms.uses, case.facts.uses_of(case.declaration.provider).jobs
    if case.facts.repeats is not None:
        yield case.finding("uses", True, f"repeats {case.facts.repeats}: not counted")
        return
    yield case.finding("uses", most is not None and used < most, f"{used} of {most} uses are made", remedy="sign a new agreement")


def scored_rows(case: Case) -> Iterator[Finding]:
    """Rows that the model has scored for the consumer in the time that counts, with those of this call, are at most so many."""
    quota, scoring = case.terms.scored_rows, case.plan.scoring
    if scoring is None or case.facts.repeats is not None:
        yield case.finding("scored_rows", True, "no rows are scored" if scoring is None else f"repeats {case.facts.repeats}: not counted")
        return
    assert quota is not None, "the rule is applied where its term stands"
    before = case.facts.scored_by(case.declaration.dataset)
    left = 0 if before is None else max(0, quota.rows - before)
    message = f"{'an unstated number' if before is None else before} of {quota.text} are scored; {scoring.rows} asked"
    wait = "sign a new agreement" if quota.days is None else f"wait until fewer count of the last {quota.days} days"
    yield case.finding("scored_rows", before is not None and scoring.rows <= left, message, remedy=f"ask for {left}" if left else wait)


def score_decimals(case: Case) -> Iterator[Finding]:
    """Scores have at most so many decimals."""
    most, scoring = case.terms.score_decimals, case.plan.scoring
    if scoring is None:
        yield case.finding("score_decimals", True, "no rows are scored")
        return
    allowed = most is not None and scoring.decimals <= most
    yield case.finding("score_decimals", allowed, f"scores with {scoring.decimals} decimals; agreed: {most}", remedy=f"ask for {most}")


def withhold_probing(case: Case) -> Iterator[Finding]:
    """The gate withholds the scores of rows that look made to copy the model."""
    yield case.finding("withhold_probing", True, "scores of rows that look made to copy the model are withheld at the gate")


def division(case: Case) -> Iterator[Finding]:
    """What the model is worth is divided as agreed."""
    asked, agreed = _divides(case), case.terms.division
    shown = "no worth is divided" if asked is None else f"{asked.text} asked; agreed: {agreed.text if agreed else 'no division'}"
    remedy = "train without a division" if agreed is None else f"divide {agreed.text}"
    yield case.finding("division", asked is None or asked == agreed, shown, remedy=remedy)


def _divides(case: Case) -> Division | None:
    return None if case.plan.training is None else case.plan.training.division


def windows(case: Case) -> Iterator[Finding]:
    """The decision falls into a window of the week."""
    windows, now = case.terms.windows or (), case.facts.now
    shown = "; ".join(window.text for window in windows)
    message = f"asked at {timestamp(now)}; open: {shown or 'never'}"
    if any(window.holds(now) for window in windows):
        yield case.finding("windows", True, message)
        return
    opens = min((window.next_start(now) for window in windows), default=None)
    yield case.finding("windows", False, message, remedy=None if opens is None else f"wait until {timestamp(opens)}")


def enclave_jurisdictions(case: Case) -> Iterator[Finding]:
    """The enclave would run in one of the countries. The operator states it, and the log keeps what it stated."""
    stated, allowed = case.facts.enclave_jurisdiction, case.terms.enclave_jurisdictions or ()
    message = f"the enclave runs in {stated or 'an unstated country'}; agreed: {', '.join(allowed)}"
    yield case.finding("enclave_jurisdictions", stated is not None and stated in allowed, message)


def recipient_jurisdictions(case: Case) -> Iterator[Finding]:
    """The recipient, and whoever it passes the release on to, is under the law of one of the countries, as all parties signed."""
    allowed = case.terms.recipient_jurisdictions or ()
    names = dict.fromkeys((case.request.consumer, *(use.recipient for use in case.request.onward)))
    found = {name: case.agreement.party(name).jurisdiction if case.agreement.has_party(name) else None for name in names}
    shown = ", ".join(f"`{name}` in {country or 'an unstated country'}" for name, country in found.items())
    within = all(country is not None and country in allowed for country in found.values())
    yield case.finding("recipient_jurisdictions", within, f"{shown}; agreed: {', '.join(allowed)}")


def no_debug(case: Case) -> Iterator[Finding]:
    """The enclave cannot be debugged. Evidence of a kind that does not show it is taken for debuggable."""
    words = {False: "cannot be debugged", True: "can be debugged", None: "is of a kind that does not show whether it can be debugged"}
    yield case.finding("no_debug", case.facts.enclave_debug is False, f"the enclave {words[case.facts.enclave_debug]}")


def evidence_age(case: Case) -> Iterator[Finding]:
    """The provider's broker releases keys to fresh evidence only, and a replay compares the times in the log."""
    yield case.finding("evidence_age", True, f"keys are released only to evidence at most {case.terms.evidence_age} s old")


def pre_approved(case: Case) -> Iterator[Finding]:
    """The plan, or the plan without its constants, is one of those that were approved beforehand."""
    names = (plan_digest(case.plan), template_digest(case.plan))
    known = case.terms.pre_approved or ()
    message = f"plan {names[0]}, template {names[1]}; {len(known)} are pre-approved"
    yield case.finding("pre_approved", any(name in known for name in names), message, remedy="ask a pre-approved query")


def output_kinds(case: Case) -> Iterator[Finding]:
    """A release is of one of the kinds."""
    kind, allowed = output_kind(case.plan), case.terms.output_kinds or ()
    remedies = {"number": "drop GROUP BY", "table": "group by keys with a declared domain"}
    remedy = next((remedies[other] for other in allowed if other in remedies), None)
    yield case.finding("output_kinds", kind in allowed, f"the release is a {kind}; agreed: {', '.join(allowed)}", remedy=remedy)


def output_rows(case: Case) -> Iterator[Finding]:
    """A release cannot have more rows."""
    rows, most = most_rows(case.plan, case.agreement.by_dataset), case.terms.output_rows
    message = f"the release has at most {rows} rows; agreed: {most}"
    yield case.finding("output_rows", most is not None and rows <= most, message, remedy=f"add LIMIT {most}, or group by fewer keys")


def output_bytes(case: Case) -> Iterator[Finding]:
    """The gate withholds a sealed release that is larger."""
    yield case.finding("output_bytes", True, f"a sealed release above {case.terms.output_bytes} bytes is withheld at the gate")


def quantum(case: Case) -> Iterator[Finding]:
    """Whoever runs the enclave tells the end of the run only at its time, and a replay compares the times in the log."""
    yield case.finding("quantum", True, f"the end of a run is told only at multiples of {case.terms.quantum} s, or of more")


def approvals(case: Case) -> Iterator[Finding]:
    """So many of the parties have approved this request; its author alone is not enough."""
    wanted, given, author = case.terms.approvals, case.facts.approved_by, case.request.consumer
    if case.facts.repeats is not None:
        yield case.finding("approvals", True, f"repeats {case.facts.repeats}: approved before")
        return
    assert wanted is not None, "the rule is applied where its term stands"
    missing = wanted.missing(given, author)
    counted = ", ".join(name for name in given if name in wanted.of) or "nobody"
    message = f"{wanted.need} of {', '.join(wanted.of)} must approve; {counted} did"
    yield case.finding("approvals", missing == 0, message, remedy=f"wait for {missing} more")


def exchange_only(case: Case) -> Iterator[Finding]:
    """The request is the job of a leg of an exchange, asks what the leg says, and the exchange is where such a job may be charged."""
    bound, stated = case.request.exchange, case.facts.exchange
    if bound is None:
        remedy = "open an exchange of which the job is part"
        yield case.finding("exchange_only", False, "the terms allow jobs of an exchange only, and this is none", remedy=remedy)
        return
    why = "there is no such exchange of the consumer" if stated is None else unbound(bound, stated, case)
    yield case.finding("exchange_only", not why, why or f"leg {bound.leg} of {bound.exchange}")


def unbound(bound: Bound, stated: ExchangeFact, case: Case) -> str:
    """Return why a request is no job of the leg that it names; empty if it is one."""
    exchange, request = stated.exchange, case.request
    leg = exchange.leg(bound.leg)
    if exchange_digest(exchange) != bound.exchange or leg.form != bound.form:
        return "the stated exchange, or the form of its leg, is another"
    if (leg.receiver, leg.agreement, leg.purpose) != (request.consumer, request.agreement, request.purpose):
        return f"leg {bound.leg} is for another receiver, agreement or purpose"
    if leg.ask is not None and ((request.sql, request.loss, request.training) != leg.ask.parts or request.scoring is not None):
        return f"leg {bound.leg} asks another query, training or loss"
    if leg.kind == "scenario" and (request.training is not None or request.scoring is not None):
        return "on a scenario only figures are released, no model and no scores"
    if case.agreement.pool_of(case.plan.sources) is not None:
        return "a joint total cannot be held in escrow"
    providers = {case.agreement.by_dataset[name].provider for name in case.plan.sources}
    if leg.giver not in {case.agreement.by_dataset[name].provider for name in case.plan.sources if name not in case.plan.tested_tables}:
        return f"the query reads nothing of `{leg.giver}`, who gives this leg"
    if leg.tested and leg.receiver not in providers:
        return f"the test is on data of `{leg.receiver}`, and the query reads none"
    return obstacle(exchange, stated.course, bound.leg, case.facts.now)


def payment(case: Case) -> Iterator[Finding]:
    """The provider has confirmed what must be paid before use."""
    price, known = case.terms.payment, case.facts.uses_of(case.declaration.provider)
    assert price is not None, "the rule is applied where its term stands"
    needed = 1 if price.per == "agreement" else known.own + (0 if case.facts.repeats is not None else 1)
    message = f"{price.text} before use; {known.paid} payments confirmed, {needed} needed"
    yield case.finding("payment", known.paid >= needed, message, remedy=f"pay {price.amount} {price.currency} to the provider")


def delete_after(case: Case) -> Iterator[Finding]:
    """The consumer has deleted what it had to delete by now."""
    overdue, days = case.facts.overdue, case.terms.delete_after
    message = f"releases are deleted after {days} days; overdue: {', '.join(overdue) or 'none'}"
    yield case.finding("delete_after", not overdue, message, remedy=f"delete {', '.join(overdue)} and report it")


def notify(case: Case) -> Iterator[Finding]:
    """The service gives notice of each release to the parties."""
    yield case.finding("notify", True, f"{', '.join(case.terms.notify)} learn of each release")


def attribution(case: Case) -> Iterator[Finding]:
    """The client shows the words beside each release."""
    yield case.finding("attribution", True, f"each release is shown with: {case.terms.attribution}")


def onward(case: Case) -> Iterator[Finding]:
    """Every use onward is one that the agreement allows."""
    allowed = case.terms.onward
    recipients, purposes = (allowed.recipients, allowed.purposes) if allowed else ((), ())
    refused = [use for use in case.request.onward if use.recipient not in recipients or use.purpose not in purposes]
    told = "to nobody" if allowed is None else f"to {', '.join(allowed.recipients)} for {', '.join(allowed.purposes)}"
    shown = ", ".join(f"`{use.recipient}` for {use.purpose}" for use in refused) or "none of the stated uses onward is refused"
    yield case.finding("onward", not refused, f"{shown}; may be passed on {told}", remedy="do not pass the release on to them")


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """A rule, and when it applies: where its term stands, or where a request or what was tightened calls for it (`also`)."""

    rule: Rule
    applies: Callable[[Terms], bool]
    also: Callable[[Case], bool] | None = None


CONDITIONS: dict[str, Condition] = {
    "standing": Condition(
        rule=standing,
        applies=lambda terms: False,
        also=lambda case: any(signed.tightening.dataset == case.declaration.dataset for signed in case.facts.tightenings),
    ),
    "isolation": Condition(rule=isolation, applies=lambda terms: bool(terms.isolation)),
    "uses": Condition(rule=uses, applies=lambda terms: terms.uses is not None),
    "scored_rows": Condition(rule=scored_rows, applies=lambda terms: terms.scored_rows is not None),
    "score_decimals": Condition(rule=score_decimals, applies=lambda terms: terms.score_decimals is not None),
    "withhold_probing": Condition(rule=withhold_probing, applies=lambda terms: terms.withhold_probing),
    "division": Condition(rule=division, applies=lambda terms: terms.division is not None, also=lambda case: _divides(case) is not None),
    "windows": Condition(rule=windows, applies=lambda terms: terms.windows is not None),
    "enclave_jurisdictions": Condition(rule=enclave_jurisdictions, applies=lambda terms: terms.enclave_jurisdictions is not None),
    "recipient_jurisdictions": Condition(rule=recipient_jurisdictions, applies=lambda terms: terms.recipient_jurisdictions is not None),
    "no_debug": Condition(rule=no_debug, applies=lambda terms: terms.no_debug),
    "evidence_age": Condition(rule=evidence_age, applies=lambda terms: terms.evidence_age is not None),
    "pre_approved": Condition(rule=pre_approved, applies=lambda terms: terms.pre_approved is not None),
    "output_kinds": Condition(rule=output_kinds, applies=lambda terms: terms.output_kinds is not None),
    "output_rows": Condition(rule=output_rows, applies=lambda terms: terms.output_rows is not None),
    "output_bytes": Condition(rule=output_bytes, applies=lambda terms: terms.output_bytes is not None),
    "quantum": Condition(rule=quantum, applies=lambda terms: terms.quantum is not None),
    "approvals": Condition(rule=approvals, applies=lambda terms: terms.approvals is not None),
    "exchange_only": Condition(
        rule=exchange_only, applies=lambda terms: terms.exchange_only, also=lambda case: case.request.exchange is not None
    ),
    "payment": Condition(rule=payment, applies=lambda terms: terms.payment is not None),
    "notify": Condition(rule=notify, applies=lambda terms: bool(terms.notify)),
    "attribution": Condition(rule=attribution, applies=lambda terms: terms.attribution is not None),
    "delete_after": Condition(rule=delete_after, applies=lambda terms: terms.delete_after is not None),
    "onward": Condition(rule=onward, applies=lambda terms: terms.onward is not None, also=lambda case: bool(case.request.onward)),
}
"""By field of `Terms` (`standing`: by tightenings), in the order in which they are applied after the rules of every permission."""

OF_DOCUMENTS = frozenset({
    "columns", "minimum_group", "evidence_age", "pre_approved", "output_kinds", "output_rows", "output_bytes", "notify", "attribution",
    "score_decimals", "withhold_probing", "quantum",
})  # fmt: skip
"""Rules that read nothing but plan, terms and who the recipient is: they hold for every request on the same documents."""

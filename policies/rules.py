"""The rules: each looks at one condition of one provider's terms and returns findings. All must hold.

A rule is a pure function of a `Case`. It says `allowed=False` for whatever it cannot establish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from policies.agreement import Agreement, Terms
from policies.declaration import Declaration
from policies.derive import USES, Use
from policies.finding import Finding, make_finding
from policies.odrl import timestamp
from policies.privacy import LARGEST, PARAMETERS, Loss
from policies.query import Plan
from policies.request import Facts, JobRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One request seen against one provider's terms."""

    request: JobRequest
    agreement: Agreement
    plan: Plan
    facts: Facts
    declaration: Declaration
    terms: Terms

    def finding(
        self,
        rule: str,
        allowed: bool,
        message: str,
        *,
        remedy: str | None = None,
        column: str | None = None,
        clause: str | None = None,
    ) -> Finding:
        """A finding about this case's dataset; a finding that allows carries no remedy."""
        return make_finding(rule, self.declaration.dataset, allowed, message, column, clause, None if allowed else remedy)


def assignee(case: Case) -> Iterator[Finding]:
    """The consumer may ask."""
    who, terms = case.request.consumer, case.terms
    remedy = f"ask as one of {', '.join(terms.assignees)}" if terms.assignees else None
    yield case.finding("assignee", who in terms.assignees, f"`{who}` asks; may ask: {', '.join(terms.assignees)}", remedy=remedy)


def recipient(case: Case) -> Iterator[Finding]:
    """The consumer may receive the release."""
    who, terms = case.request.consumer, case.terms
    yield case.finding("recipient", who in terms.recipients, f"`{who}` receives; may receive: {', '.join(terms.recipients)}")


def purpose(case: Case) -> Iterator[Finding]:
    """The stated purpose is one of the agreed ones."""
    stated, agreed = case.request.purpose, ", ".join(case.terms.purposes)
    allowed = stated in case.terms.purposes
    yield case.finding("purpose", allowed, f"purpose `{stated}`; agreed: {agreed}", remedy=None if allowed else f"state one of {agreed}")


def validity(case: Case) -> Iterator[Finding]:
    """The agreement is valid now."""
    now, terms = case.facts.now, case.terms
    begins = timestamp(terms.not_before)
    window = f"valid from {begins} until {timestamp(terms.not_after)}"
    remedy = f"wait until {begins}" if now < terms.not_before else "sign a new agreement"
    yield case.finding("validity", terms.not_before <= now < terms.not_after, window, remedy=remedy)


def columns(case: Case) -> Iterator[Finding]:
    """Every use of every column of this dataset is allowed."""
    uses = [use for use in USES(case.plan) if use.column.dataset == case.declaration.dataset]
    failed = [use for use in uses if use.operation not in case.terms.operations(use.column.column, case.request.consumer)]
    for use in failed:
        yield _column_finding(case, use)
    if not failed:
        shown = ", ".join(sorted({f"{use.column.column}: {use.operation}" for use in uses}))
        yield case.finding("columns", True, f"all uses are allowed ({shown})" if uses else "no column is named")


def _column_finding(case: Case, use: Use) -> Finding:
    allowed = case.terms.operations(use.column.column, case.request.consumer)
    listed = ", ".join(allowed) if allowed else "nothing"
    if use.operation in ("output", "group_by"):
        remedy = f"drop `{use.column}` from SELECT and GROUP BY"
    elif use.operation == "filter":
        remedy = f"drop the condition on `{use.column}`"
    elif use.operation == "join_key":
        remedy = "do not join this dataset"
    else:
        others = [name for name in ("count", "sum", "avg") if name in allowed]
        remedy = f"use {others[0].upper()}({use.column}) instead" if others else f"drop `{use.output}` from SELECT"
        if use.operation == "discover":
            remedy = f"declare a domain for `{use.column}`, or drop it from GROUP BY"
    return case.finding(
        "columns",
        False,
        f"column `{use.column}` may not be used for `{use.operation}`; it allows {listed}",
        remedy=remedy,
        column=str(use.column),
        clause=use.clause,
    )


def minimum_group(case: Case) -> Iterator[Finding]:
    """Cells below the minimum group are suppressed at the gate, on a noised count of distinct units."""
    yield case.finding("minimum_group", True, f"cells below {case.terms.minimum_group} units (noised count) are suppressed at the gate")


def job_loss(case: Case) -> Iterator[Finding]:
    """One job's loss stays within the bound, in the measure of the terms. Public tables charge nothing."""
    asked, most = case.request.loss, case.terms.job_loss
    if (free := _free(case)) is not None:
        yield case.finding("job_loss", True, free)
        return
    allowed, shown = case.declaration.public or asked.within(most), most.text
    remedy = f"ask for {shown} or less" if asked.measure == most.measure else f"ask in {PARAMETERS[most.measure]}"
    yield case.finding("job_loss", allowed, f"{asked.text} asked; one job may cost at most {shown}", remedy=remedy)


def total_loss(case: Case) -> Iterator[Finding]:
    """The ledger of this provider and id space can pay. A ledger has one measure: that of its first charge."""
    if case.declaration.public or (free := _free(case)) is not None:
        yield case.finding("total_loss", True, "a public table has no ledger" if case.declaration.public else str(free))
        return
    provider, id_space = case.declaration.provider, case.declaration.id_space
    paid, days = case.facts.spent_on(provider, id_space), case.terms.total_refresh
    whose = f"ledger {provider}/{id_space}"
    if days is None:
        yield _within(case, "total_loss", paid, case.terms.total_loss, whose)
        return
    recent = case.facts.recent_on(provider, id_space, days).spent
    yield _within(case, "total_loss", recent, case.terms.total_loss, f"{whose} in the last {days} days", days)
    ever = _within(case, "total_loss", paid, replace(LARGEST, measure=case.terms.total_loss.measure), f"{whose} ever")
    if not ever.allowed:
        yield ever


def consumer_loss(case: Case) -> Iterator[Finding]:
    """What this ledger pays for one consumer stays within the bound, if there is one."""
    most = case.terms.consumer_loss
    if most is None or case.declaration.public or _free(case) is not None:
        yield case.finding("consumer_loss", True, "no bound for one consumer applies")
        return
    provider, id_space = case.declaration.provider, case.declaration.id_space
    whose, days = f"`{case.request.consumer}` on ledger {provider}/{id_space}", case.terms.consumer_refresh
    if days is None:
        yield _within(case, "consumer_loss", case.facts.consumer_spent_on(provider, id_space), most, whose)
        return
    recent = case.facts.recent_on(provider, id_space, days).own
    yield _within(case, "consumer_loss", recent, most, f"{whose} in the last {days} days", days)


def _free(case: Case) -> str | None:
    """Why nothing is charged, or None."""
    if case.facts.repeats is not None:
        return f"repeats {case.facts.repeats}: nothing is charged"
    return "scores are of the asker's own rows: nothing is charged" if case.plan.scoring is not None else None


def _within(case: Case, rule: str, spent: Loss, most: Loss, whose: str, days: int | None = None) -> Finding:
    """Whether what is spent and what is asked stay within a bound together, in one measure.

    Args:
        days: after which the bound is renewed, if it is.
    """
    asked = case.request.loss
    if not spent.amount and spent.measure != most.measure:
        spent = Loss(measure=most.measure, amount=0, delta0=spent.delta0)
    one_measure = asked.measure == most.measure == spent.measure
    left = max(0, most.amount - spent.amount)
    left_delta0 = max(0, most.delta0 - spent.delta0)
    allowed = one_measure and asked.amount <= left and asked.delta0 <= left_delta0
    remedy: str | None
    if allowed:
        remedy = None
    elif not one_measure:
        remedy = f"this ledger pays in {PARAMETERS[spent.measure]}"
    elif left:
        remedy = f"ask for {Loss(measure=asked.measure, amount=min(left, most.amount), delta0=left_delta0).text} or less"
    elif days is not None:
        remedy = f"wait: what was charged counts for {days} days"
    else:
        remedy = "no budget is left; agree on a new one"
    return case.finding(rule, allowed, f"{whose}: {spent.text} of {most.text} spent, {asked.text} asked", remedy=remedy)


def enclave(case: Case) -> Iterator[Finding]:
    """The enclave that would run is of an agreed kind and measurement."""
    kind, measurement = case.facts.enclave_kind, case.facts.measurement
    known = kind in case.terms.enclave_kinds and measurement in case.terms.measurements
    yield case.finding(
        "enclave",
        known,
        f"{kind} enclave {measurement[:19]}; agreed: {', '.join(case.terms.enclave_kinds)} "
        f"{', '.join(m[:19] for m in case.terms.measurements)}",
    )


def version(case: Case) -> Iterator[Finding]:
    """There is data to read."""
    fact = case.facts.version_of(case.declaration.dataset)
    yield case.finding(
        "version",
        fact is not None,
        f"reads version {fact.version}" if fact else "no version of this dataset is published",
        remedy="wait until the provider publishes a version",
    )


Rule: TypeAlias = Callable[[Case], Iterator[Finding]]

RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        assignee,
        recipient,
        purpose,
        validity,
        columns,
        minimum_group,
        job_loss,
        total_loss,
        consumer_loss,
        enclave,
        version,
    )
}

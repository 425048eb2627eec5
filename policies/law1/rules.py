"""The rules: each looks at one condition of one provider's terms and returns findings. All must hold.

A rule is a pure function of a `Case`. It says `allowed=False` for whatever it cannot establish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from policies.agreement import Agreement, Terms
from policies.declaration import Declaration
from policies.finding import Finding
from policies.law1.derive import Use, derive
from policies.law1.query import Plan
from policies.odrl import timestamp
from policies.privacy import units_to_decimal
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
        return Finding(
            rule=rule,
            dataset=self.declaration.dataset,
            allowed=allowed,
            message=message,
            column=column,
            clause=clause,
            remedy=None if allowed else remedy,
        )


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
    stated, allowed = case.request.purpose, ", ".join(case.terms.purposes)
    yield case.finding("purpose", stated in case.terms.purposes, f"purpose `{stated}`; agreed: {allowed}", remedy=f"state one of {allowed}")


def validity(case: Case) -> Iterator[Finding]:
    """The agreement is valid now."""
    now, terms = case.facts.now, case.terms
    window = f"valid from {timestamp(terms.not_before)} until {timestamp(terms.not_after)}"
    remedy = f"wait until {timestamp(terms.not_before)}" if now < terms.not_before else "sign a new agreement"
    yield case.finding("validity", terms.not_before <= now < terms.not_after, window, remedy=remedy)


def columns(case: Case) -> Iterator[Finding]:
    """Every use of every column of this dataset is allowed."""
    uses = [use for use in derive(case.plan) if use.column.dataset == case.declaration.dataset]
    failed = [use for use in uses if use.operation not in case.terms.operations(use.column.column)]
    for use in failed:
        yield _column_finding(case, use)
    if not failed:
        shown = ", ".join(sorted({f"{use.column.column}: {use.operation}" for use in uses}))
        yield case.finding("columns", True, f"all uses are allowed ({shown})" if uses else "no column is named")


def _column_finding(case: Case, use: Use) -> Finding:
    allowed = case.terms.operations(use.column.column)
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
    """One job's loss stays within the bound."""
    asked, most = case.request.loss, case.terms.job_loss
    yield case.finding(
        "job_loss",
        asked.measure == most.measure and asked.amount <= most.amount,
        f"epsilon {asked.epsilon} asked; one job may cost at most {most.epsilon}",
        remedy=f"ask for epsilon {most.epsilon} or less",
    )


def total_loss(case: Case) -> Iterator[Finding]:
    """The ledger of this provider and id space can pay."""
    provider, id_space = case.declaration.provider, case.declaration.id_space
    spent, most, asked = case.facts.spent_on(provider, id_space).amount, case.terms.total_loss, case.request.loss
    left = max(0, most.amount - spent)
    remedy = f"ask for epsilon {units_to_decimal(left, 9)} or less" if left else "no budget is left; agree on a new one"
    yield case.finding(
        "total_loss",
        asked.measure == most.measure and asked.amount <= left,
        f"ledger {provider}/{id_space}: epsilon {units_to_decimal(spent, 9)} of {most.epsilon} spent, {asked.epsilon} asked",
        remedy=remedy,
    )


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


RULES: dict[str, Callable[[Case], Iterator[Finding]]] = {
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
        enclave,
        version,
    )
}

"""What is suspicious in terms before anybody signs: rules that can never decide, contradictions, and terms that admit everything.

A lint reads documents only. It proves what it says of them; that it says nothing proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from policies.agreement import Agreement, Terms
from policies.conditions import DAYS, MINUTES_PER_DAY, clock_minutes
from policies.declaration import Declaration
from policies.derive import OPERATIONS
from policies.privacy import NANO, units_to_decimal
from policies.query import MAX_CELLS
from policies.sizes import sealed_bytes

Kind = Literal["never-allows", "never-decides", "contradiction", "admits-everything"]

BROKER_AGE_S = 60
"""A broker accepts no older evidence, whatever terms say."""

DAYS_OF_A_YEAR = 366

MANY_EPSILON = 10
"""A total beyond it protects nobody in practice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Remark:
    """One suspicion. `dataset` is empty where it is about several providers' terms together."""

    kind: Kind
    dataset: str
    term: str
    message: str


def lint(agreement: Agreement) -> tuple[Remark, ...]:
    """Return the remarks on an agreement, provider by provider and then on all together."""
    found: list[Remark] = []
    for declaration, terms in zip(agreement.declarations, agreement.terms, strict=True):
        found += lint_terms(terms, declaration)
        found += _of_parties(agreement, terms)
    return (*found, *_together(agreement))


def lint_terms(terms: Terms, declaration: Declaration) -> tuple[Remark, ...]:
    """Return the remarks on one provider's terms, for example in an offer."""
    parts = (_never_allows(terms), _never_decides(terms, declaration), _columns(terms, declaration), _admits(terms, declaration))
    return tuple(Remark(kind=kind, dataset=terms.dataset, term=term, message=message) for part in parts for kind, term, message in part)


_Found = tuple[Kind, str, str]


def _never_allows(terms: Terms) -> Iterator[_Found]:
    lists = ("assignees", "recipients", "purposes", "enclave_kinds", "measurements", "windows", "enclave_jurisdictions")
    for term in (*lists, "recipient_jurisdictions", "pre_approved", "output_kinds"):
        if getattr(terms, term) == ():
            yield "never-allows", term, "the list is empty, so no request passes"
    if terms.assignees and terms.recipients and not set(terms.assignees) & set(terms.recipients):
        yield "contradiction", "recipients", "nobody may both ask and receive"
    if terms.uses == 0:
        yield "never-allows", "uses", "no use is allowed"
    smallest = sealed_bytes(0)
    if terms.output_bytes is not None and terms.output_bytes < smallest:
        yield "never-allows", "output_bytes", f"the smallest sealed release needs {smallest}"
    if terms.no_debug and set(terms.enclave_kinds) == {"simulated"}:
        yield "contradiction", "no_debug", "a simulated enclave cannot show that it is not debugged"


def _never_decides(terms: Terms, declaration: Declaration) -> Iterator[_Found]:
    if declaration.public:
        return
    total = terms.total_loss
    if terms.job_loss.amount > total.amount:
        yield "never-decides", "job_loss", f"one job may cost {terms.job_loss.text}, more than the total of {total.text}"
    if terms.consumer_loss is not None and terms.consumer_loss.amount >= total.amount and not _outlasts_total(terms):
        yield "never-decides", "consumer_loss", f"{terms.consumer_loss.text} for one consumer is no less than the total of {total.text}"
    if terms.evidence_age is not None and terms.evidence_age >= BROKER_AGE_S:
        yield "never-decides", "evidence_age", f"brokers accept no evidence older than {BROKER_AGE_S} s anyway"
    if terms.output_rows is not None and terms.output_rows >= MAX_CELLS:
        yield "never-decides", "output_rows", f"no release has more than {MAX_CELLS} rows"
    for name in sorted(set(terms.recipients) - set(terms.assignees)):
        yield "never-decides", "recipients", f"`{name}` may receive and may not ask"


def _outlasts_total(terms: Terms) -> bool:
    """Whether what counts to one consumer may outgrow what counts in all, since it counts for longer."""
    return terms.total_refresh is not None and (terms.consumer_refresh is None or terms.consumer_refresh > terms.total_refresh)


def _columns(terms: Terms, declaration: Declaration) -> Iterator[_Found]:
    for term in terms.columns:
        column = declaration.column(term.column)
        where = f"columns.{term.column}"
        if not term.operations:
            yield "never-decides", where, "no operation is allowed, which a column without a term has already"
        if term.recipients and not set(term.recipients) & set(terms.assignees):
            yield "never-decides", where, "none of its recipients may ask"
        if "output" in term.operations and not {"group_by", "discover"} & set(term.operations):
            yield "never-decides", where, "only a group key is an output, and it may not be one"
        if "group_by" in term.operations and column.domain is None and "discover" not in term.operations:
            yield "never-decides", where, "it has no declared domain, and its values may not be discovered"
        if {"sum", "avg", "variance", "quantile", "covariance"} & set(term.operations) and column.type != "text" and column.lower is None:
            yield "never-decides", where, "sums and quantiles need declared bounds"


def _admits(terms: Terms, declaration: Declaration) -> Iterator[_Found]:
    if terms.windows and all(_all_week(terms, day) for day in DAYS):
        yield "admits-everything", "windows", "together they are the whole week"
    if terms.scored_rows is None and any("score" in term.operations for term in terms.columns):
        yield "admits-everything", "scored_rows", "rows are scored without end, so that the model can be copied"
    if declaration.public:
        return
    if terms.minimum_group == 1:
        yield "admits-everything", "minimum_group", "cells of any size are released"
    if terms.total_loss.measure == "pure" and terms.total_loss.amount > MANY_EPSILON * NANO:
        yield "admits-everything", "total_loss", f"{terms.total_loss.text} in total protects nobody"
    yearly = terms.total_loss.amount * -(-DAYS_OF_A_YEAR // (terms.total_refresh or DAYS_OF_A_YEAR))
    if terms.total_refresh is not None and terms.total_loss.measure == "pure" and yearly > MANY_EPSILON * NANO:
        message = f"{terms.total_loss.text} every {terms.total_refresh} days is up to epsilon {units_to_decimal(yearly, 9)} a year"
        yield "admits-everything", "total_refresh", message
    open_columns = {term.column for term in terms.columns if set(term.operations) == set(OPERATIONS) and not term.recipients}
    if open_columns == {column.name for column in declaration.columns}:
        yield "admits-everything", "columns", "every operation is allowed on every column"


def _all_week(terms: Terms, day: str) -> bool:
    spans = [(clock_minutes(w.begins, "begins"), clock_minutes(w.ends, "ends")) for w in terms.windows or () if day in w.days]
    reached = 0
    for begins, ends in sorted(spans):
        reached = max(reached, ends) if begins <= reached else reached
    return reached == MINUTES_PER_DAY


def _of_parties(agreement: Agreement, terms: Terms) -> Iterator[Remark]:
    def remark(kind: Kind, term: str, message: str) -> Remark:
        return Remark(kind=kind, dataset=terms.dataset, term=term, message=message)

    able = {name for name in terms.assignees if name in terms.recipients}
    if terms.recipient_jurisdictions and not any(agreement.party(name).jurisdiction in terms.recipient_jurisdictions for name in able):
        yield remark("contradiction", "recipient_jurisdictions", "no party that may ask has signed one of these jurisdictions")
    if terms.approvals is not None:
        for name in sorted(able):
            if set(terms.approvals.of) == {name}:
                yield remark("contradiction", "approvals", f"`{name}` asks and is the only approver, which never suffices")


def _together(agreement: Agreement) -> Iterator[Remark]:
    """What no query over several datasets can pass."""
    protected = [terms for terms in agreement.terms if not agreement.by_dataset[terms.dataset].public]
    for index, one in enumerate(protected):
        for other in protected[index + 1 :]:
            names = f"{one.dataset} and {other.dataset}"
            if one.total_loss.measure != other.total_loss.measure:
                yield _pair("total_loss", f"{names} pay in different measures: no query can join them")
            if not set(one.purposes) & set(other.purposes):
                yield _pair("purposes", f"{names} share no purpose: no query can join them")
            if max(one.not_before, other.not_before) >= min(one.not_after, other.not_after):
                yield _pair("not_after", f"{names} are never valid at the same time")
            if not set(one.assignees) & set(other.assignees):
                yield _pair("assignees", f"nobody may ask of both {names}")
            if not set(one.measurements) & set(other.measurements):
                yield _pair("measurements", f"{names} accept no enclave in common")


def _pair(term: str, message: str) -> Remark:
    return Remark(kind="contradiction", dataset="", term=term, message=message)

"""The decision under law/1: deny by default; every provider must allow; the strictest bound wins."""

from __future__ import annotations

from policies.agreement import Agreement
from policies.errors import Malformed
from policies.finding import Decision, Finding
from policies.law1.query import Plan, schedule
from policies.law1.rules import RULES, Case
from policies.request import Facts, JobRequest

VERSION = "law/1"


def decide(request: JobRequest, agreement: Agreement, plan: Plan, facts: Facts) -> Decision:
    """Return the decision on `request` under an agreement whose signatures the caller has verified.

    Allowed only if there is at least one finding and all allow; a rule that raises yields a finding that denies.
    """
    findings: list[Finding] = []
    strictest = 1
    for dataset in plan.sources:
        if dataset not in agreement.by_dataset:
            findings.append(_denied("dataset", dataset, f"no provider of this agreement offers `{dataset}`"))
            continue
        terms = agreement.terms_of(dataset)
        strictest = max(strictest, terms.minimum_group)
        case = Case(
            request=request,
            agreement=agreement,
            plan=plan,
            facts=facts,
            declaration=agreement.by_dataset[dataset],
            terms=terms,
        )
        for name in RULES:
            findings.extend(_apply(name, case))
    findings.append(_affordable(request, agreement, plan, strictest))
    allowed = bool(findings) and all(finding.allowed for finding in findings)
    return Decision(allowed=allowed, minimum_group=strictest, findings=tuple(findings))


def _apply(name: str, case: Case) -> list[Finding]:
    try:
        findings = list(RULES[name](case))
    except Exception:  # noqa: BLE001 - whatever a rule raises, the answer is no
        findings = []
    return findings or [_denied(name, case.declaration.dataset, "the rule could not be established")]


def _affordable(request: JobRequest, agreement: Agreement, plan: Plan, minimum_group: int) -> Finding:
    """The loss can be split over the plan's statistics with the declared bounds."""
    try:
        statistics = schedule(plan, agreement.by_dataset, request.loss, minimum_group)
    except Malformed as error:
        return _denied("schedule", "", error.message)
    return Finding(rule="schedule", dataset="", allowed=True, message=f"{len(statistics)} noised statistics")


def _denied(rule: str, dataset: str, message: str) -> Finding:
    return Finding(rule=rule, dataset=dataset, allowed=False, message=message)

"""decide(request, agreement, plan, facts) -> Decision. Pure; deny by default; every provider must allow; the strictest bound wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policies.agreement import Agreement
from policies.codec import encode
from policies.errors import BudgetExhausted, Malformed, PolicyRefused, Refused
from policies.query import Plan, schedule
from policies.request import Facts, JobRequest
from policies.rules import RULES, Case, Finding

LAW_VERSION = "law/1"
"""Version of everything in this package that a decision depends on. Logged with every decision; old versions stay callable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Allowed or not, with every finding; `minimum_group` is the strictest of all terms."""

    allowed: bool
    minimum_group: int
    findings: tuple[Finding, ...]


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


def refusal(decision: Decision) -> Refused:
    """Return the error that tells a denied consumer why: the failing findings, budget first if it alone failed."""
    failed = [finding for finding in decision.findings if not finding.allowed]
    lines = [f"{f.rule} ({f.dataset}): {f.message}" + (f"; smallest change: {f.remedy}" if f.remedy else "") for f in failed]
    details: tuple[dict[str, Any], ...] = tuple(encode(finding) for finding in failed)
    kind = BudgetExhausted if failed and all(f.rule == "total_loss" for f in failed) else PolicyRefused
    return kind("refused by " + " | ".join(lines or ["no rule allows it"]), findings=details)


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

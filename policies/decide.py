"""decide(request, agreement, plan, facts) -> Decision. Pure; deny by default; every provider must allow; the strictest bound wins."""

from __future__ import annotations

from policies.agreement import Agreement
from policies.errors import Malformed
from policies.finding import Decision, Finding
from policies.joint import Pool
from policies.joint_grant import as_read_by, require_summable
from policies.privacy import PARAMETERS
from policies.query import Plan
from policies.request import Facts, JobRequest
from policies.rules import RULES, Case
from policies.schedule import schedule

LAW_VERSION = "law/2"
"""Version of everything in this package that a decision depends on. Logged with every decision; old versions stay callable."""

OF_ENCLAVES = frozenset({"enclave", "version"})
"""Rules about what an enclave reads. A joint total has none: contributors read their own tables at home."""


def decide(request: JobRequest, agreement: Agreement, plan: Plan, facts: Facts) -> Decision:
    """Return the decision on `request` under an agreement whose signatures the caller has verified.

    Allowed only if there is at least one finding and all allow; a rule that raises yields a finding that denies.
    """
    findings: list[Finding] = []
    strictest = 1
    pool = agreement.pool_of(plan.sources)
    for dataset in agreement.members(plan.sources):
        if dataset not in agreement.by_dataset:
            findings.append(_denied("dataset", dataset, f"no provider of this agreement offers `{dataset}`"))
            continue
        terms = agreement.terms_of(dataset)
        strictest = max(strictest, terms.minimum_group)
        case = Case(
            request=request,
            agreement=agreement,
            plan=plan if pool is None else as_read_by(plan, pool, dataset),
            facts=facts,
            declaration=agreement.by_dataset[dataset],
            terms=terms,
        )
        for name in RULES:
            if pool is None or name not in OF_ENCLAVES:
                findings.extend(_apply(name, case))
    findings.extend(_one_measure(agreement, plan))
    findings.append(_affordable(request, agreement, plan, strictest))
    if pool is not None:
        findings.append(_summable(request, agreement, plan, pool, strictest))
    allowed = bool(findings) and all(finding.allowed for finding in findings)
    return Decision(allowed=allowed, minimum_group=strictest, findings=tuple(findings))


def _apply(name: str, case: Case) -> list[Finding]:
    try:
        findings = list(RULES[name](case))
    except Exception:  # noqa: BLE001 - whatever a rule raises, the answer is no
        findings = []
    return findings or [_denied(name, case.declaration.dataset, "the rule could not be established")]


def _one_measure(agreement: Agreement, plan: Plan) -> list[Finding]:
    """What denies a join of providers whose ledgers pay in different measures: one loss cannot be charged to both."""
    known = [name for name in agreement.members(plan.sources) if name in agreement.by_dataset and not agreement.by_dataset[name].public]
    measures = {agreement.terms_of(name).total_loss.measure for name in known}
    if len(measures) <= 1:
        return []
    shown = ", ".join(f"{name} in {PARAMETERS[agreement.terms_of(name).total_loss.measure]}" for name in known)
    return [_denied("measure", "", f"one query cannot be charged in two measures: {shown}; join datasets whose terms have one measure")]


def _affordable(request: JobRequest, agreement: Agreement, plan: Plan, minimum_group: int) -> Finding:
    """The loss can be split over the plan's statistics with the declared bounds."""
    try:
        statistics = schedule(plan, agreement.by_dataset, request.loss, minimum_group)
    except Malformed as error:
        return _denied("schedule", "", error.message)
    return Finding(rule="schedule", dataset="", allowed=True, message=f"{len(statistics)} noised statistics")


def _summable(request: JobRequest, agreement: Agreement, plan: Plan, pool: Pool, minimum_group: int) -> Finding:
    """Contributors can compute their parts alone, and the parameters hold the total."""
    try:
        statistics = schedule(plan, agreement.by_dataset, request.loss, minimum_group)
        parameters = require_summable(plan, agreement.by_dataset, statistics, pool)
    except Malformed as error:
        return _denied("joint", pool.dataset, error.message)
    message = f"{len(pool.members)} contributors, {pool.noise} noise, key of `{pool.key_holder}`, {parameters.name}"
    return Finding(rule="joint", dataset=pool.dataset, allowed=True, message=message)


def _denied(rule: str, dataset: str, message: str) -> Finding:
    return Finding(rule=rule, dataset=dataset, allowed=False, message=message)

"""decide(request, agreement, plan, facts) -> Decision. Pure; deny by default; every provider must allow; the strictest bound wins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from policies.agreement import Agreement, Terms
from policies.declaration import Declaration
from policies.errors import Malformed
from policies.finding import Decision, Finding
from policies.joint import Pool
from policies.joint_grant import as_read_by, require_summable
from policies.privacy import PARAMETERS
from policies.query import Plan
from policies.recent import Recent
from policies.request import Facts, JobRequest
from policies.rules import RULES, Case
from policies.rules_conditions import CONDITIONS, OF_DOCUMENTS, Rule
from policies.schedule import OUTLINES, Outline, allot, schedule
from policies.service import Scoring, holds_model
from policies.tightening import tightened

LAW_VERSION = "law/2"
"""Version of everything in this package that a decision depends on. Logged with every decision; old versions stay callable."""

OF_ENCLAVES = frozenset({"enclave", "version", "isolation", "enclave_jurisdictions", "no_debug", "evidence_age", "quantum"})
"""Rules about the enclave and what it reads. A joint total has none: contributors read their own tables at home."""


def decide(request: JobRequest, agreement: Agreement, plan: Plan, facts: Facts) -> Decision:
    """Return the decision on `request` under an agreement whose signatures the caller has verified.

    Allowed only if there is at least one finding and all allow; a rule that raises yields a finding that denies. Stated tightenings,
    whose signatures the caller has verified, too, count from the moment that they are stated.
    """
    if facts.tightenings:
        agreement = tightened(agreement, facts.tightenings)
    derived = DERIVED(plan, agreement, word=request.consumer)
    findings: list[Finding] = []
    for source in derived.sources:
        if source.declaration is None or source.terms is None:
            findings += source.steps[0].findings
            continue
        case = Case(
            request=request,
            agreement=agreement,
            plan=source.plan,
            facts=facts,
            declaration=source.declaration,
            terms=source.terms,
        )
        for step in source.steps:
            if step.rule is None:
                findings += step.findings
            elif step.also is None or _stands(step.also, case):
                before = len(findings)
                try:
                    findings += step.rule(case)
                except Exception:  # noqa: BLE001 - whatever a rule raises, the answer is no
                    del findings[before:]
                if len(findings) == before:
                    findings.append(_unestablished(step.name, case))
    findings += derived.measures
    findings.append(_affordable(request, plan, derived))
    pool = derived.pool
    if pool is not None:
        findings.append(_summable(request, agreement, plan, pool, derived.minimum_group))
        findings += _untimed(agreement, pool)
    if plan.scoring is not None:
        findings.append(_scorable(request, agreement, plan, plan.scoring))
    if plan.examined is not None:
        findings.append(_examinable(request, plan))
    allowed = bool(findings) and False not in [finding.allowed for finding in findings]
    return Decision(allowed=allowed, minimum_group=derived.minimum_group, findings=tuple(findings))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """One rule on one dataset: the rule to apply, or, where it reads documents only, what it found.

    Attributes:
        also: when it applies, if not always.
    """

    name: str
    rule: Rule | None = None
    also: Callable[[Case], bool] | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """One dataset of a plan, or one member of its pool; without declaration and terms where nobody offers it.

    Attributes:
        plan: as it reads this dataset: of a pool, as if it were this member alone.
    """

    plan: Plan
    declaration: Declaration | None
    terms: Terms | None
    steps: tuple[_Step, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Derived:
    """What of a decision follows from plan, agreement and recipient alone."""

    sources: tuple[_Source, ...]
    pool: Pool | None
    minimum_group: int
    measures: tuple[Finding, ...]
    outline: Outline | Malformed


@dataclass(frozen=True, slots=True)
class _Asker:
    """All that a rule on documents may know of a request; reading more raises, and so denies."""

    consumer: str


def _derive(plan: Plan, agreement: Agreement, consumer: str) -> _Derived:
    declarations = agreement.by_dataset
    sources = []
    pool = agreement.pool_of(plan.sources)
    for dataset in agreement.members(plan.sources):
        if dataset not in declarations:
            denied = _denied("dataset", dataset, f"no provider of this agreement offers `{dataset}`")
            sources.append(_Source(plan=plan, declaration=None, terms=None, steps=(_Step(name="dataset", findings=(denied,)),)))
            continue
        terms, nothing = agreement.terms_of(dataset), cast(Any, None)
        read = plan if pool is None else as_read_by(plan, pool, dataset)
        case = Case(
            request=cast(Any, _Asker(consumer)),
            agreement=agreement,
            plan=read,
            facts=nothing,
            declaration=declarations[dataset],
            terms=terms,
        )
        steps = tuple(step for step in _steps(case) if pool is None or step.name not in OF_ENCLAVES)
        sources.append(_Source(plan=read, declaration=declarations[dataset], terms=terms, steps=steps))
    offered = [source.terms.minimum_group for source in sources if source.terms is not None]
    try:
        found: Outline | Malformed = OUTLINES(plan, agreement)
    except Malformed as error:
        found = error
    return _Derived(
        sources=tuple(sources),
        pool=pool,
        minimum_group=max([1, *offered]),
        measures=tuple(_one_measure(agreement, plan)),
        outline=found,
    )


DERIVED = Recent(_derive)


def _steps(case: Case) -> Iterator[_Step]:
    for name, rule in RULES.items():
        yield _step(name, rule, None, case)
    for name, condition in CONDITIONS.items():
        if _stands(condition.applies, case.terms):
            yield _step(name, condition.rule, None, case)
        elif condition.also is not None:
            yield _step(name, condition.rule, condition.also, case)


def _step(name: str, rule: Rule, also: Callable[[Case], bool] | None, case: Case) -> _Step:
    if name in OF_DOCUMENTS:
        try:
            found = tuple(rule(case))
        except Exception:  # noqa: BLE001 - whatever a rule raises, the answer is no
            found = ()
        return _Step(name=name, findings=found or (_unestablished(name, case),))
    return _Step(name=name, rule=rule, also=also)


def _stands(applies: Callable[[Any], bool], value: Any) -> bool:
    try:
        return applies(value)
    except Exception:  # noqa: BLE001 - then the rule is applied, and says what cannot be established
        return True


def _unestablished(name: str, case: Case) -> Finding:
    """What a rule that raises, or finds nothing, comes to."""
    return _denied(name, case.declaration.dataset, "the rule could not be established")


def _one_measure(agreement: Agreement, plan: Plan) -> list[Finding]:
    """What denies a join of providers whose ledgers pay in different measures: one loss cannot be charged to both."""
    known = [name for name in agreement.members(plan.sources) if name in agreement.by_dataset and not agreement.by_dataset[name].public]
    measures = {agreement.terms_of(name).total_loss.measure for name in known}
    if len(measures) <= 1:
        return []
    shown = ", ".join(f"{name} in {PARAMETERS[agreement.terms_of(name).total_loss.measure]}" for name in known)
    return [_denied("measure", "", f"one query cannot be charged in two measures: {shown}; join datasets whose terms have one measure")]


def _affordable(request: JobRequest, plan: Plan, derived: _Derived) -> Finding:
    """The loss can be split over the plan's statistics with the declared bounds."""
    if isinstance(derived.outline, Malformed):
        return _denied("schedule", "", derived.outline.message)
    try:
        statistics = allot(derived.outline, plan, request.loss, derived.minimum_group)
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


def _untimed(agreement: Agreement, pool: Pool) -> list[Finding]:
    """What denies a joint total under a quantum: parties send their parts when they are ready, and nobody can hold that back."""
    why = "a joint total is added up in its contributors' own time, which no quantum hides"
    return [_denied("quantum", member, why) for member in pool.members if agreement.terms_of(member).quantum is not None]


def _scorable(request: JobRequest, agreement: Agreement, plan: Plan, scoring: Scoring) -> Finding:
    """What scores is a model, and all that is scored is the asker's own."""
    declaration = agreement.by_dataset.get(scoring.model)
    if declaration is None or not holds_model(declaration):
        return _denied("scoring", scoring.model, f"`{scoring.model[:81]}` is not declared as a model")
    foreign = next((name for name in plan.tables if name.partition(".")[0] != request.consumer), None)
    if foreign is not None:
        return _denied("scoring", foreign, f"`{foreign}` is not the asker's: scores leave row by row, to whom the rows belong")
    message = f"at most {scoring.rows} rows of `{request.consumer}`, {scoring.decimals} decimals"
    return Finding(rule="scoring", dataset=scoring.model, allowed=True, message=message)


def _examinable(request: JobRequest, plan: Plan) -> Finding:
    """A model is tested on rows of who asks for it: nobody learns by a test what is in another's table."""
    foreign = next((name for name in plan.tested_tables if name.partition(".")[0] != request.consumer), None)
    if foreign is not None:
        return _denied("test_table", foreign, f"`{foreign}` is not the asker's: a model is tested on rows of one's own")
    shown = ", ".join(plan.tested_tables)
    return Finding(rule="test_table", dataset=plan.tested_tables[0], allowed=True, message=f"tested on {shown} of `{request.consumer}`")


def _denied(rule: str, dataset: str, message: str) -> Finding:
    return Finding(rule=rule, dataset=dataset, allowed=False, message=message)

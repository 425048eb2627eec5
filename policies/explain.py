"""Why a request is denied, and the smallest changes of it that would pass. Pure, and no part of the decision: nothing here is logged.

Changes are found by trying: each is applied to the request, the plan or the time, and the law decides anew. What the asker cannot change is
named with who can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from policies.agreement import Agreement, Terms
from policies.budgets import budgets, without
from policies.codec import omitted
from policies.conditions import DAY_S
from policies.decide import decide
from policies.derive import ColumnRef, derive
from policies.errors import Malformed
from policies.finding import Decision, Finding
from policies.odrl import timestamp
from policies.privacy import LARGEST, Loss
from policies.query import Plan
from policies.request import Facts, JobRequest
from policies.reveals import origin_of, reveals
from policies.smaller import limited, without_condition, without_keys, without_output
from policies.tightening import tightened

Action = Literal[
    "drop-output", "drop-key", "drop-keys", "drop-condition", "limit-rows", "ask-loss", "state-purpose", "wait-until", "keep-from"
]

Actor = Literal["all parties", "approvers", "provider", "operator", "consumer"]

ACTORS: dict[str, Actor] = {
    "approvals": "approvers", "payment": "provider", "version": "provider", "enclave": "operator", "enclave_jurisdictions": "operator",
    "no_debug": "operator", "delete_after": "consumer", "columns": "consumer", "schedule": "consumer", "output_kinds": "consumer",
    "output_rows": "consumer", "dataset": "consumer", "measure": "consumer", "pre_approved": "consumer",
    "exchange_only": "consumer", "test_table": "consumer",
}  # fmt: skip
"""Who can act where no change of the request helps; all parties, by a new agreement, on every other rule."""

MOST_ROUNDS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One change of what is asked, or of when.

    Attributes:
        what: the output, column, purpose, time, number of rows or party that it is about.
        loss: for `ask-loss`, what to ask for.
        text: the change in words.
    """

    action: Action
    what: str
    text: str
    loss: Loss | None = omitted(None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Obstacle:
    """A rule that no change of the request passes, and who can act."""

    rule: str
    dataset: str
    message: str
    by: Actor


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """All failing findings with their columns and clauses, changes that pass together and none of which can be left out, and what remains.

    Where nothing remains, the changed request is allowed.

    Attributes:
        origins: of each column that may not be used as it is, how it came to be used so, with the place in the text of the query.
    """

    findings: tuple[Finding, ...]
    changes: tuple[Change, ...]
    remains: tuple[Obstacle, ...]
    origins: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is decided: changed step by step."""

    request: JobRequest
    plan: Plan
    facts: Facts

    def decided(self, agreement: Agreement) -> Decision:
        """The law's decision on it."""
        return decide(self.request, agreement, self.plan, self.facts)


def explain(request: JobRequest, agreement: Agreement, plan: Plan, facts: Facts) -> Explanation:
    """Return why a request is denied and what would pass. An allowed request needs no change."""
    asked = Asked(request=request, plan=plan, facts=facts)
    first = asked.decided(agreement)
    changes: list[Change] = []
    current, refused = asked, list[Finding]()
    for _ in range(MOST_ROUNDS):
        failing = _failing(current.decided(agreement))
        step = next(((change, tried) for f in failing for change, tried in _tries(f, current, agreement) if change not in changes), None)
        if step is None:
            refused = failing
            break
        changes.append(step[0])
        current = step[1]
    changes = _fewest(asked, agreement, changes, {(f.rule, f.dataset, f.column) for f in refused})
    remains = tuple(Obstacle(rule=f.rule, dataset=f.dataset, message=f.message, by=ACTORS.get(f.rule, "all parties")) for f in refused)
    denied = tuple(_failing(first))
    return Explanation(
        findings=denied, changes=tuple(changes), remains=tuple(dict.fromkeys(remains)), origins=_origins(denied, request, plan)
    )


def _origins(failing: tuple[Finding, ...], request: JobRequest, plan: Plan) -> tuple[str, ...]:
    refused = {(finding.column, finding.clause) for finding in failing if finding.rule == "columns"}
    if not refused:
        return ()
    known = reveals(plan, (request.consumer,), request.sql)
    uses = [use for use in derive(plan) if (str(use.column), use.clause) in refused]
    found = (origin_of(known, use.column, use.operation, use.output) for use in uses)
    return tuple(dict.fromkeys(origin.text for origin in found if origin is not None))


def applied(change: Change, asked: Asked) -> Asked:
    """Return what is asked after a change. Raises Malformed where it leaves no question."""
    request, plan = asked.request, asked.plan
    if change.action == "drop-output":
        return replace(asked, plan=without_output(plan, change.what))
    if change.action == "drop-key":
        return replace(asked, plan=without_keys(plan, _column(change.what)))
    if change.action == "drop-keys":
        return replace(asked, plan=without_keys(plan, discovered=change.what == "discovered"))
    if change.action == "drop-condition":
        return replace(asked, plan=without_condition(plan, _column(change.what)))
    if change.action == "limit-rows":
        return replace(asked, plan=limited(plan, int(change.what)))
    if change.action == "ask-loss" and change.loss is not None:
        return replace(asked, request=replace(request, loss=change.loss))
    if change.action == "state-purpose":
        return replace(asked, request=replace(request, purpose=change.what))
    if change.action == "wait-until":
        return replace(asked, facts=_later(asked.facts, int(change.what)))
    kept = tuple(use for use in request.onward if f"{use.recipient} for {use.purpose}" != change.what)
    return replace(asked, request=replace(request, onward=kept))


def _later(facts: Facts, at: int) -> Facts:
    """The facts at a later time if nothing is charged until then: what is certain to have been charged longer ago counts no more."""
    recent = (
        replace(fact, spent=replace(fact.spent, amount=0, delta0=0), own=replace(fact.own, amount=0, delta0=0))
        if at - facts.now >= fact.days * DAY_S
        else fact
        for fact in facts.recent
    )
    return replace(facts, now=at, recent=tuple(recent))


def _fewest(asked: Asked, agreement: Agreement, changes: list[Change], remaining: set[tuple[str, str, str | None]]) -> list[Change]:
    """The changes without those that can be left out one by one, the latest first."""
    for change in reversed(list(changes)):
        fewer = [other for other in changes if other != change]
        try:
            found = asked
            for other in fewer:
                found = applied(other, found)
        except Malformed:
            continue
        if {(f.rule, f.dataset, f.column) for f in _failing(found.decided(agreement))} <= remaining:
            changes = fewer
    return changes


def _failing(decision: Decision) -> list[Finding]:
    return [finding for finding in decision.findings if not finding.allowed]


def _tries(finding: Finding, asked: Asked, agreement: Agreement) -> Iterator[tuple[Change, Asked]]:
    """Changes that may help against a finding, with what they lead to; only those after which this very finding is gone."""
    for change in _candidates(finding, asked, tightened(agreement, asked.facts.tightenings)):
        try:
            tried = applied(change, asked)
        except Malformed:
            continue
        if tried == asked:
            continue
        left = {(f.rule, f.dataset, f.column, f.clause) for f in _failing(tried.decided(agreement))}
        if (finding.rule, finding.dataset, finding.column, finding.clause) not in left:
            yield change, tried


def _candidates(finding: Finding, asked: Asked, agreement: Agreement) -> Iterator[Change]:
    terms = [agreement.terms_of(dataset) for dataset in agreement.members(asked.plan.sources) if dataset in agreement.by_dataset]
    if finding.rule == "columns":
        yield from _column_changes(finding, asked.plan)
    elif finding.rule == "purpose":
        shared = set.intersection(*(set(item.purposes) for item in terms))
        for purpose in sorted(shared):
            yield Change(action="state-purpose", what=purpose, text=f"state the purpose `{purpose}`")
    elif finding.rule in ("validity", "windows", "standing"):
        at = _opening(terms, asked.facts.now, asked)
        if at is not None:
            yield Change(action="wait-until", what=str(at), text=f"wait until {timestamp(at)}")
    elif finding.rule in ("job_loss", "total_loss", "consumer_loss", "schedule"):
        yield from _loss_changes(asked, agreement, terms)
        days = [budget.days for budget in budgets(agreement, asked.plan.sources) if budget.days is not None]
        if days and finding.rule in ("total_loss", "consumer_loss"):
            at = asked.facts.now + max(days) * DAY_S
            yield Change(action="wait-until", what=str(at), text=f"wait until {timestamp(at)}, if nothing else is charged meanwhile")
    elif finding.rule == "output_rows":
        most = min(item.output_rows for item in terms if item.output_rows is not None)
        yield Change(action="limit-rows", what=str(most), text=f"add ORDER BY and LIMIT {most}")
    elif finding.rule == "output_kinds":
        yield Change(action="drop-keys", what="discovered", text="drop group keys whose values are found in the data")
        yield Change(action="drop-keys", what="all", text="drop GROUP BY")
    elif finding.rule in ("onward", "recipient_jurisdictions"):
        for use in asked.request.onward:
            what = f"{use.recipient} for {use.purpose}"
            yield Change(action="keep-from", what=what, text=f"do not pass the release on to {what}")


def _column_changes(finding: Finding, plan: Plan) -> Iterator[Change]:
    for use in derive(plan):
        if (str(use.column), use.clause) != (finding.column, finding.clause):
            continue
        if use.operation in ("output", "group_by", "discover"):
            yield Change(action="drop-key", what=str(use.column), text=f"drop `{use.column}` from SELECT and GROUP BY")
        if use.operation == "filter" and use.output is None:
            yield Change(action="drop-condition", what=str(use.column), text=f"drop the condition on `{use.column}` from WHERE")
        if use.output is not None:
            yield Change(action="drop-output", what=use.output, text=f"drop `{use.output}` from SELECT")


def _opening(terms: list[Terms], now: int, asked: Asked) -> int | None:
    """The first time from now on at which every term is valid, inside a window and not suspended; None if there is none."""
    suspended = [s.tightening.suspended_until or 0 for s in asked.facts.tightenings if s.tightening.dataset in asked.plan.sources]
    at = max([now, *suspended, *(item.not_before for item in terms)])
    for _ in range(MOST_ROUNDS):
        later = max([at, *(min((w.next_start(at) for w in item.windows), default=at) for item in terms if item.windows is not None)])
        if later == at:
            break
        at = later
    return at if at > now and all(at < item.not_after for item in terms) else None


def _loss_changes(asked: Asked, agreement: Agreement, terms: list[Terms]) -> Iterator[Change]:
    """The most that every bound leaves, and what is asked without, or with, a part for discovered keys."""
    most = _most(asked, agreement, terms)
    loss = asked.request.loss
    if most is None:
        return
    wanted = (
        loss if loss.within(most) else replace(most, amount=min(loss.amount, most.amount) if loss.measure == most.measure else most.amount)
    )
    for amount in (wanted.amount, most.amount):
        found = replace(most, amount=amount, delta0=(min(loss.delta0, most.delta0) or most.delta0) if asked.plan.discovers else 0)
        if found.amount > 0:
            yield Change(action="ask-loss", what=found.text, text=f"ask for {found.text}", loss=found)


def _most(asked: Asked, agreement: Agreement, terms: list[Terms]) -> Loss | None:
    bounds = [item.job_loss for item in terms if not agreement.by_dataset[item.dataset].public]
    for budget in budgets(agreement, [item.dataset for item in terms]):
        bounds.append(budget.left(asked.facts))
        if budget.days is not None and not budget.own:
            ever = asked.facts.spent_on(budget.provider, budget.id_space)
            bounds.append(without(replace(LARGEST, measure=budget.most.measure), ever))
    if not bounds or len({bound.measure for bound in bounds}) != 1:
        return None
    return replace(bounds[0], amount=min(b.amount for b in bounds), delta0=min(b.delta0 for b in bounds))


def _column(text: str) -> ColumnRef:
    dataset, _, column = text.rpartition(".")
    return ColumnRef(dataset=dataset, column=column)

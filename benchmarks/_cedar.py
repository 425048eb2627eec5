"""Agreements as Cedar policies, and requests as Cedar contexts: the rules once more, by another engine, for comparison only.

Every rule is a `forbid ... unless { condition }` with the terms as literals, so that what cannot be evaluated denies. What a plan uses and
gives comes in as strings that our derivation made; Cedar has no notion of either.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import cedarpy

from policies.agreement import Agreement, Terms
from policies.conditions import DAY_S, DAYS, MINUTES_PER_DAY, Approvals, clock_minutes
from policies.decide import decide
from policies.derive import derive
from policies.privacy import Loss
from policies.query import Plan
from policies.questions import most_rows, output_kind, plan_digest, template_digest
from policies.request import Facts, JobRequest

PRINCIPAL, ACTION, RESOURCE = 'Party::"asker"', 'Action::"release"', 'Agreement::"agreement"'
ENTITIES = json.dumps(
    [{"uid": {"type": kind, "id": name}, "attrs": {}, "parents": []} for kind, name in (("Party", "asker"), ("Agreement", "agreement"))]
)


def compiled(agreement: Agreement) -> cedarpy.PolicySet:
    """Return the policies of an agreement: one per rule and dataset, named `rule dataset`, and one that permits what none forbids."""
    texts = ['@id("permit") permit (principal, action, resource);']
    texts += [
        f'@id("{rule} {terms.dataset}") forbid (principal, action, resource) when {{ context.sources.contains({_text(terms.dataset)}) }} '
        f"unless {{ {condition} }};"
        for index, terms in enumerate(agreement.terms)
        for rule, condition in _conditions(agreement, terms, f"context.d{index}")
    ]
    parsed = json.loads(cedarpy.policies_to_json_str("\n".join(texts)))
    parsed["staticPolicies"] = {policy["annotations"]["id"]: policy for policy in parsed["staticPolicies"].values()}
    return cedarpy.PolicySet.from_json_str(json.dumps(parsed))


def schema_for(datasets: int) -> cedarpy.Schema:
    """Return the schema of contexts with so many datasets: with it Cedar refuses a request that lacks what a policy reads."""
    loss = {"measure": "String", "amount": "Long", "delta0": "Long"}
    flat = {
        **dict.fromkeys(("consumer", "purpose", "measure", "day", "kind", "measurement", "country", "outputKind"), "String"),
        **dict.fromkeys(("amount", "delta0", "now", "minute", "outputRows"), "Long"),
        **dict.fromkeys(("hardened", "overdue"), "Boolean"),
        **dict.fromkeys(("sources", "questions", "approvedBy", "onward", "countries"), "Set"),
    }
    dataset = {
        **dict.fromkeys(("free", "public", "repeats", "version"), "Boolean"),
        **dict.fromkeys(("jobs", "ownJobs", "paid"), "Long"),
        "operations": "Set",
    }
    record = _record(dataset)
    record["attributes"] |= {"spent": _record(loss), "own": _record(loss)}
    context = _record(flat)
    context["attributes"] |= {f"d{index}": record for index in range(datasets)}
    applies = {"principalTypes": ["Party"], "resourceTypes": ["Agreement"], "context": context}
    return cedarpy.Schema.from_json_str(
        json.dumps({"": {"entityTypes": {"Party": {}, "Agreement": {}}, "actions": {"release": {"appliesTo": applies}}}})
    )


def _record(types: dict[str, str]) -> dict[str, Any]:
    members = {name: {"type": kind} if kind != "Set" else {"type": "Set", "element": {"type": "String"}} for name, kind in types.items()}
    return {"type": "Record", "attributes": members}


def entities() -> cedarpy.Entities:
    """Return the two entities of every request."""
    return cedarpy.Entities.from_json_str(ENTITIES)


def request_of(request: JobRequest, agreement: Agreement, plan: Plan, facts: Facts) -> dict[str, Any]:
    """Return what Cedar is asked: everything that our rules read, as a context."""
    minutes = facts.now // 60
    context = {
        "sources": list(plan.sources),
        "consumer": request.consumer,
        "purpose": request.purpose,
        "measure": request.loss.measure,
        "amount": request.loss.amount,
        "delta0": request.loss.delta0,
        "now": facts.now,
        "day": DAYS[(facts.now // DAY_S + 3) % 7],
        "minute": minutes % MINUTES_PER_DAY,
        "kind": facts.enclave_kind,
        "measurement": facts.measurement,
        "country": facts.enclave_jurisdiction or "",
        "hardened": facts.enclave_debug is False,
        "questions": [plan_digest(plan), template_digest(plan)],
        "outputKind": output_kind(plan),
        "outputRows": most_rows(plan, agreement.by_dataset),
        "approvedBy": list(facts.approved_by),
        "overdue": bool(facts.overdue),
        "onward": [f"{use.recipient}|{use.purpose}" for use in request.onward],
        "countries": _countries(request, agreement),
    }
    for index, terms in enumerate(agreement.terms):
        context[f"d{index}"] = _dataset(request, agreement, plan, facts, terms)
    return {"principal": PRINCIPAL, "action": ACTION, "resource": RESOURCE, "context": context}


def denials(decision: Any) -> set[tuple[str, str]]:
    """Return the (rule, dataset) of our failing findings that Cedar judges, too."""
    return {(f.rule, f.dataset) for f in decision.findings if not f.allowed and f.dataset}


def ours(request: JobRequest, agreement: Agreement, plan: Plan, facts: Facts) -> set[tuple[str, str]]:
    """Return our denials."""
    return denials(decide(request, agreement, plan, facts))


def theirs(result: Any) -> set[tuple[str, str]]:
    """Return Cedar's denials. Raises ValueError where a policy could not be evaluated: Cedar would skip it."""
    if result.diagnostics.errors:
        raise ValueError(str(result.diagnostics.errors))
    found = {tuple(name.split(" ", 1)) for name in result.diagnostics.reasons if name != "permit"}
    if (result.decision == cedarpy.Decision.Allow) != (not found):
        raise ValueError("a denial without a reason")
    return found


def _countries(request: JobRequest, agreement: Agreement) -> list[str]:
    names = {request.consumer, *(use.recipient for use in request.onward)}
    return sorted({(agreement.party(name).jurisdiction or "") if agreement.has_party(name) else "" for name in names})


def _dataset(request: JobRequest, agreement: Agreement, plan: Plan, facts: Facts, terms: Terms) -> dict[str, Any]:
    declaration = agreement.by_dataset[terms.dataset]
    ledger = (declaration.provider, declaration.id_space)
    spent, own = facts.spent_on(*ledger), facts.consumer_spent_on(*ledger)
    used = facts.uses_of(declaration.provider)
    return {
        "free": declaration.public or facts.repeats is not None,
        "public": declaration.public,
        "repeats": facts.repeats is not None,
        "version": facts.version_of(terms.dataset) is not None,
        "operations": sorted({f"{use.column.column}:{use.operation}" for use in derive(plan) if use.column.dataset == terms.dataset}),
        "spent": _spent(spent, terms.total_loss),
        "own": _spent(own, terms.total_loss),
        "jobs": used.jobs,
        "ownJobs": used.own,
        "paid": used.paid,
    }


def _spent(loss: Loss, like: Loss) -> dict[str, Any]:
    return {"measure": loss.measure if loss.amount else like.measure, "amount": loss.amount, "delta0": loss.delta0}


def _conditions(agreement: Agreement, terms: Terms, own: str) -> Iterator[tuple[str, str]]:
    yield "assignee", f"{_set(terms.assignees)}.contains(context.consumer)"
    yield "recipient", f"{_set(terms.recipients)}.contains(context.consumer)"
    yield "purpose", f"{_set(terms.purposes)}.contains(context.purpose)"
    yield "validity", f"context.now >= {terms.not_before} && context.now < {terms.not_after}"
    yield "columns", " || ".join(_columns(agreement, terms, own))
    yield "job_loss", f"{own}.free || ({_measured('context', terms.job_loss)} && {_within('context', terms.job_loss)})"
    yield "total_loss", f"{own}.free || ({_paid(own + '.spent', terms.total_loss)})"
    if terms.consumer_loss is not None:
        yield "consumer_loss", f"{own}.free || ({_paid(own + '.own', terms.consumer_loss)})"
    kinds, measurements = _set(terms.enclave_kinds), _set(terms.measurements)
    yield "enclave", f"{kinds}.contains(context.kind) && {measurements}.contains(context.measurement)"
    yield "version", f"{own}.version"
    yield from _further(terms, own)


def _further(terms: Terms, own: str) -> Iterator[tuple[str, str]]:
    if terms.uses is not None:
        yield "uses", f"{own}.repeats || {own}.jobs < {terms.uses}"
    if terms.windows is not None:
        yield "windows", " || ".join(_window(window) for window in terms.windows) or "false"
    if terms.enclave_jurisdictions is not None:
        yield "enclave_jurisdictions", f"{_set(terms.enclave_jurisdictions)}.contains(context.country)"
    if terms.recipient_jurisdictions is not None:
        yield "recipient_jurisdictions", f"{_set(terms.recipient_jurisdictions)}.containsAll(context.countries)"
    if terms.no_debug:
        yield "no_debug", "context.hardened"
    if terms.pre_approved is not None:
        yield "pre_approved", f"{_set(terms.pre_approved)}.containsAny(context.questions)"
    if terms.output_kinds is not None:
        yield "output_kinds", f"{_set(terms.output_kinds)}.contains(context.outputKind)"
    if terms.output_rows is not None:
        yield "output_rows", f"context.outputRows <= {terms.output_rows}"
    if terms.approvals is not None:
        yield "approvals", f"{own}.repeats || ({_approved(terms.approvals)})"
    if terms.payment is not None:
        once = "1" if terms.payment.per == "agreement" else f"(if {own}.repeats then {own}.ownJobs else {own}.ownJobs + 1)"
        yield "payment", f"{own}.paid >= {once}"
    if terms.delete_after is not None:
        yield "delete_after", "!context.overdue"
    allowed = terms.onward
    pairs = [f"{name}|{purpose}" for name in allowed.recipients for purpose in allowed.purposes] if allowed else []
    yield "onward", f"{_set(pairs)}.containsAll(context.onward)"


def _columns(agreement: Agreement, terms: Terms, own: str) -> Iterator[str]:
    """What each consumer may do; somebody without terms of its own may do what anybody may."""
    for party in agreement.parties:
        allowed = [f"{term.column}:{op}" for term in terms.columns for op in terms.operations(term.column, party.id)]
        yield f"(context.consumer == {_text(party.id)} && {_set(allowed)}.containsAll({own}.operations))"
    anybody = [f"{term.column}:{op}" for term in terms.columns for op in terms.operations(term.column)]
    names = _set(party.id for party in agreement.parties)
    yield f"(!{names}.contains(context.consumer) && {_set(anybody)}.containsAll({own}.operations))"


def _measured(where: str, most: Loss) -> str:
    return f"{where}.measure == {_text(most.measure)}"


def _within(where: str, most: Loss) -> str:
    return f"{where}.amount <= {most.amount} && {where}.delta0 <= {most.delta0}"


def _paid(where: str, most: Loss) -> str:
    """Both measures fit, and each sum stays within its bound. What is over it already leaves 0, which a request for 0 may still ask."""
    amount = f"(context.amount + {where}.amount <= {most.amount} || context.amount == 0)"
    delta0 = f"(context.delta0 + {where}.delta0 <= {most.delta0} || context.delta0 == 0)"
    return f"{_measured('context', most)} && {_measured(where, most)} && {amount} && {delta0}"


def _window(window: Any) -> str:
    begins, ends = clock_minutes(window.begins, "begins"), clock_minutes(window.ends, "ends")
    return f"({_set(window.days)}.contains(context.day) && context.minute >= {begins} && context.minute < {ends})"


def _approved(wanted: Approvals) -> str:
    """Enough of them: every choice of so many names. Nobody can be counted in Cedar, so the choices are written out."""
    choices = " || ".join(f"context.approvedBy.containsAll({_set(names)})" for names in combinations(wanted.of, wanted.need))
    others = " || ".join(f"(context.approvedBy.contains({_text(name)}) && context.consumer != {_text(name)})" for name in wanted.of)
    return f"({choices}) && ({others})"


def _set(items: Iterable[str]) -> str:
    return f"[{', '.join(map(_text, items))}]"


def _text(item: str) -> str:
    return json.dumps(item, ensure_ascii=True)

"""A dishonest operator, who owns the log's key, forges decisions, charges and the order of steps; the replay names the entry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from enclaves.kit.envelope import document_digest
from policies.agreement import Agreement
from policies.codec import decode, encode
from policies.decide import decide
from policies.entries import LedgerCharge
from policies.plan import parse_plan
from policies.query import Plan
from policies.request import Facts, JobRequest
from sandbox.audit.verdict import Promise
from tests.support import terms
from tests.support.forge import Draft, Forgery, find, forged, require_named
from tests.support.story import Story


def _body_decision(body: dict[str, Any], agreement: Agreement) -> None:
    """Make the logged decision the one that follows from the other fields."""
    request, plan = decode(JobRequest, body["signed"]["body"]), decode(Plan, body["plan"])
    body["decision"] = encode(decide(request, agreement, plan, decode(Facts, body["facts"])))


def _flip_denied(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["denied"].id)
    history[at] = history[at].edited(lambda body: body["decision"].update(allowed=True), allowed="yes")
    return at


def _flip_header_only(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["denied"].id)
    history[at] = history[at].edited(allowed="yes")
    return at


def _deny_what_is_allowed(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    history[at] = history[at].edited(lambda body: body["decision"].update(allowed=False), allowed="no")
    del history[at + 1 :]
    return at


def _hide_a_finding(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["denied"].id)
    history[at] = history[at].edited(lambda body: body["decision"]["findings"].pop())
    return at


def _decision_that_only_python_reads_alike(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    history[at] = history[at].edited(lambda body: body["decision"].update(allowed=1))
    return at


def _plan_that_says_more(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    history[at] = history[at].edited(lambda body: body["plan"].update(more=None))
    return at


def _expired_forged_as_allowed(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    honest = history[at].body["decision"]

    def expire(body: dict[str, Any]) -> None:
        body["facts"]["now"] = terms.NOT_AFTER
        body["decision"] = honest

    history[at] = history[at].edited(expire, at=terms.NOT_AFTER * 1000)
    return at


def _time_stated_that_is_not_now(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    history[at] = history[at].edited(at=terms.NOT_AFTER * 1000)
    return at


def _plan_that_the_sql_does_not_mean(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    agreement = story.agreement
    assert agreement is not None

    def replan(body: dict[str, Any]) -> None:
        sql = "SELECT COUNT(*) AS people FROM insurer.plans WHERE female = 1"
        body["plan"] = encode(parse_plan(sql, agreement.by_dataset))
        _body_decision(body, agreement)

    history[at] = history[at].edited(replan)
    return at


def _old_version_of_the_data(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    agreement = story.agreement
    assert agreement is not None

    def rewind(body: dict[str, Any]) -> None:
        body["facts"]["versions"][0] = encode(story.jobs["released"].facts.versions[0])
        _body_decision(body, agreement)

    history[at] = history[at].edited(rewind)
    return at


def _law_that_does_not_exist(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    history[at] = history[at].edited(lambda body: body.update(law="law/0"))
    return at


def _budget_fact_that_lies(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    agreement = story.agreement
    assert agreement is not None

    def lie(body: dict[str, Any]) -> None:
        body["facts"]["spent"][0]["spent"]["amount"] -= 1
        _body_decision(body, agreement)

    history[at] = history[at].edited(lie)
    return at


def _ledger_left_out_of_the_facts(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    agreement = story.agreement
    assert agreement is not None

    def forget(body: dict[str, Any]) -> None:
        body["facts"]["spent"] = []
        _body_decision(body, agreement)

    history[at] = history[at].edited(forget)
    return at


def _smaller_charge(story: Story, history: list[Draft]) -> int:
    at = find(history, "charged", job=story.jobs["released"].id)
    losses = history[at].header.losses
    history[at] = history[at].charging(replace(losses[0], amount=losses[0].amount - 1), *losses[1:])
    return at


def _one_ledger_not_charged(story: Story, history: list[Draft]) -> int:
    at = find(history, "charged", job=story.jobs["released"].id)
    history[at] = history[at].charging(history[at].header.losses[0])
    return at


def _loss_on_an_entry_that_is_no_charge(story: Story, history: list[Draft]) -> int:
    at = find(history, "granted")
    history[at] = history[at].charging(LedgerCharge(provider="clinic", id_space="rand-hie", amount=1))
    return at


def _charge_missing(story: Story, history: list[Draft]) -> int:
    at = find(history, "charged", job=story.jobs["counted"].id)
    del history[at]
    return at


def _release_without_anything(story: Story, history: list[Draft]) -> int:
    at = find(history, "released", job=story.jobs["counted"].id)
    history[:] = [draft for draft in history if draft.header.ids.get("job") != story.jobs["counted"].id] + [history[at]]
    return len(history) - 1


def _release_without_decision(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    del history[at]
    return at


def _denied_and_then_charged(story: Story, history: list[Draft]) -> int:
    model, denied = history[find(history, "charged")], story.jobs["denied"].id
    at = find(history, "decided", job=denied) + 1
    history.insert(at, model.edited(lambda body: body.update(job=denied), job=denied))
    return at


def _same_request_as_another_job(story: Story, history: list[Draft]) -> int:
    history.append(history[find(history, "decided", job=story.jobs["denied"].id)].edited(job="job-again"))
    return len(history) - 1


def _sql_without_a_plan(story: Story, history: list[Draft]) -> int:
    return _ask_instead(story, history, sql="SELECT person_id FROM insurer.plans")


def _plan_of_an_undeclared_dataset(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    history[at] = history[at].edited(lambda body: body["plan"].update(sources=["operator.secrets"]))
    return at


def _ask_instead(story: Story, history: list[Draft], **changes: Any) -> int:
    """Let the consumer sign another request than the one whose plan is logged."""
    at = find(history, "decided", job=story.jobs["counted"].id)
    request = replace(decode(JobRequest, history[at].body["signed"]["body"]), **changes)
    signed = story.firms["institute"].sign("job-request", request)
    history[at] = history[at].edited(lambda body: body.update(signed=encode(signed)), request=document_digest(signed))
    return at


FORGERIES: list[tuple[Forgery, Promise]] = [
    (_flip_denied, "decisions"),
    (_flip_header_only, "decisions"),
    (_deny_what_is_allowed, "decisions"),
    (_hide_a_finding, "decisions"),
    (_decision_that_only_python_reads_alike, "decisions"),
    (_plan_that_says_more, "decisions"),
    (_expired_forged_as_allowed, "decisions"),
    (_time_stated_that_is_not_now, "decisions"),
    (_plan_that_the_sql_does_not_mean, "decisions"),
    (_old_version_of_the_data, "decisions"),
    (_law_that_does_not_exist, "decisions"),
    (_budget_fact_that_lies, "budgets"),
    (_ledger_left_out_of_the_facts, "budgets"),
    (_smaller_charge, "budgets"),
    (_one_ledger_not_charged, "budgets"),
    (_loss_on_an_entry_that_is_no_charge, "budgets"),
    (_charge_missing, "order"),
    (_release_without_anything, "order"),
    (_release_without_decision, "order"),
    (_denied_and_then_charged, "order"),
    (_same_request_as_another_job, "order"),
    (_sql_without_a_plan, "decisions"),
    (_plan_of_an_undeclared_dataset, "decisions"),
]


@pytest.mark.parametrize(("forge", "promise"), FORGERIES, ids=lambda value: getattr(value, "__name__", value).removeprefix("_"))
def test_a_forged_decision_charge_or_step_is_caught_and_named(story: Story, history: list[Draft], forge: Forgery, promise: Promise) -> None:
    require_named(story, history, forge, promise)


def test_a_charge_beyond_the_budget_is_caught(story: Story, history: list[Draft]) -> None:
    """Even where facts and decision agree with the log, no total passes the agreed one."""
    at = find(history, "charged", job=story.jobs["counted"].id)
    loss = history[at].header.losses[0]
    history[at] = history[at].charging(replace(loss, amount=2_000_000_000))
    verdict = forged(history, story)
    assert any(m.index == at and m.promise == "budgets" and "the budget is" in m.what for m in verdict.mismatches)

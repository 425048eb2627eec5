"""A denial says what would pass: the suggested changes together lead to an allowed request, or to exactly what is said to remain."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from policies.agreement import ColumnTerm
from policies.conditions import Window
from policies.decide import decide
from policies.errors import Malformed
from policies.explain import Asked, Change, Explanation, applied, explain
from policies.privacy import parse_epsilon, parse_loss
from policies.request import OnwardUse
from policies.tightening import SignedTightening, Tightening
from tests.support import terms as standard
from tests.support.policies import QUERIES, random_agreement, random_facts, random_request

CASES = 400


def explained(sql: str = standard.COUNT_SQL, *, insurer: dict[str, Any] | None = None, **changed: Any) -> Explanation:
    """The explanation under the standard agreement with changed terms of the insurer, facts or request."""
    signed = standard.agreement(terms=(standard.terms_insurer(**(insurer or {})), standard.terms_clinic()))
    stated = {name: changed.pop(name) for name in ("now", "spent", "tightenings", "versions", "approved_by") if name in changed}
    return explain(standard.request(**changed), signed, standard.plan(sql), standard.facts(**stated))


def test_random_denials_are_explained_by_changes_that_pass_or_by_what_remains() -> None:
    draw = random.Random(11)
    plans = [standard.plan(sql) for sql in QUERIES]
    passed = remaining = 0
    for _ in range(CASES):
        agreement = random_agreement(draw, plans)
        plan = draw.choice(plans)
        asked = Asked(request=random_request(draw), plan=plan, facts=random_facts(draw, agreement, plan))
        found = explain(asked.request, agreement, asked.plan, asked.facts)
        decision = decide(asked.request, agreement, asked.plan, asked.facts)
        assert list(found.findings) == [finding for finding in decision.findings if not finding.allowed]
        assert bool(found.findings) or not (found.changes or found.remains)
        assert after(asked, found.changes, agreement) == {(item.rule, item.dataset) for item in found.remains}
        for change in found.changes:
            fewer = tuple(other for other in found.changes if other != change)
            try:
                left = after(asked, fewer, agreement)
            except Malformed:
                continue
            assert left - {(item.rule, item.dataset) for item in found.remains} or _columns(asked, fewer, agreement), change
        passed += bool(found.changes) and not found.remains
        remaining += bool(found.remains)
    assert passed > CASES // 20
    assert remaining > CASES // 20


def after(asked: Asked, changes: tuple[Change, ...], agreement: Any) -> set[tuple[str, str]]:
    """Rules that deny once the changes are made."""
    for change in changes:
        asked = applied(change, asked)
    return {(finding.rule, finding.dataset) for finding in asked.decided(agreement).findings if not finding.allowed}


def _columns(asked: Asked, changes: tuple[Change, ...], agreement: Any) -> bool:
    """Whether a column rule denies once the changes are made: several of its findings have one name."""
    return any(rule == "columns" for rule, _ in after(asked, changes, agreement))


def only(found: Explanation) -> Change:
    """The one change of an explanation that leaves nothing."""
    assert found.remains == ()
    (change,) = found.changes
    return change


SPEND = "SELECT coinsurance, SUM(medical_spend) AS spend, COUNT(*) AS n FROM insurer.plans WHERE year = 1 GROUP BY coinsurance"


def without(column: str, *operations: str) -> dict[str, Any]:
    """The insurer's columns with one that allows these operations only."""
    columns = standard.terms_insurer().columns
    return {"columns": tuple(ColumnTerm(column=c.column, operations=operations) if c.column == column else c for c in columns)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sql", "changed", "action", "what"),
    [
        (SPEND, {"insurer": without("medical_spend", "avg")}, "drop-output", "spend"),
        (SPEND, {"insurer": without("coinsurance", "filter")}, "drop-key", "insurer.plans.coinsurance"),
        (SPEND, {"insurer": without("year", "join_key")}, "drop-condition", "insurer.plans.year"),
        (SPEND, {"insurer": {"output_rows": 3}}, "limit-rows", "3"),
        (SPEND, {"insurer": {"output_kinds": ("number",)}}, "drop-keys", "all"),
        (standard.COUNT_SQL, {"epsilon": "2"}, "ask-loss", "epsilon 1"),
        (standard.COUNT_SQL, {"spent": (standard.spent("2.6"),)}, "ask-loss", "epsilon 0.4"),
        (standard.COUNT_SQL, {"loss": parse_loss("pure", "0.5", "0.000001")}, "ask-loss", "epsilon 0.5"),
        (standard.COUNT_SQL, {"purpose": "marketing"}, "state-purpose", "actuarial-review"),
        (standard.COUNT_SQL, {"now": standard.NOT_BEFORE - 9}, "wait-until", str(standard.NOT_BEFORE)),
        (standard.COUNT_SQL, {"onward": (OnwardUse(recipient="auditor", purpose="x"),)}, "keep-from", "auditor for x"),
    ],
)
def test_the_smallest_change_is_named(sql: str, changed: dict[str, Any], action: str, what: str) -> None:
    change = only(explained(sql, **changed))
    assert (change.action, change.what) == (action, what)


def test_windows_and_suspensions_are_waited_for_together() -> None:
    tuesday = Window(days=("tue",), begins="08:00", ends="09:00")
    until = standard.NOW + 86_400 + 8 * 3600 + 1800
    suspended = Tightening(agreement=standard.digest_of("a"), dataset="insurer.plans", sequence=1, suspended_until=until)
    stated = (SignedTightening(tightening=suspended, signature="00"),)
    assert only(explained(insurer={"windows": (tuesday,)}, tightenings=stated)).what == str(until)
    assert only(explained(insurer={"windows": (tuesday,)})).what == str(standard.NOW + 86_400 + 8 * 3600)


@pytest.mark.parametrize(
    ("changed", "rule", "by"),
    [
        ({"now": standard.NOT_AFTER}, "validity", "all parties"),
        ({"spent": (standard.spent("3"),)}, "total_loss", "all parties"),
        ({"versions": ()}, "version", "provider"),
        ({"insurer": {"no_debug": True}}, "no_debug", "operator"),
        ({"insurer": {"assignees": ()}}, "assignee", "all parties"),
    ],
)
def test_what_no_request_can_pass_is_named_with_who_can_act(changed: dict[str, Any], rule: str, by: str) -> None:
    found = explained(**changed)
    assert found.changes == ()
    assert [(item.rule, item.by) for item in found.remains] == [(rule, by)]


def test_an_allowed_request_needs_nothing() -> None:
    assert explained() == Explanation(findings=(), changes=(), remains=())


def test_the_change_of_loss_keeps_to_every_bound_at_once() -> None:
    found = explained(epsilon="2", insurer={"consumer_loss": parse_epsilon("0.3")})
    assert only(found).what == "epsilon 0.3"
    assert replace(only(found), text="") == Change(action="ask-loss", what="epsilon 0.3", text="", loss=parse_epsilon("0.3"))

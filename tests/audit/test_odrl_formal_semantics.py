"""The evaluated examples of the W3C ODRL Community Group's Formal Semantics report: its policies, states and expected activations.

Source: https://w3c.github.io/odrl/formal-semantics/ and github.com/w3c/odrl, folder formal-semantics/examples, cases A11 to C23. Facts of
the cases, in this project's spelling. docs/agreement-format.md says which cases do not apply, and why.
"""

from __future__ import annotations

from typing import Any

import pytest

from policies.conditions import Payment
from policies.decide import decide
from policies.request import UsesFact
from sandbox.audit.odrl_evaluation import ODRL, TYPE, XSD, Graph, Node, active, evaluate
from tests.support.terms import COUNT_SQL, agreement, facts, plan, request, terms_clinic, terms_insurer

DOCUMENT, PARTY = "http://example.com/document/1234", "http://example.com/party/"
MUSIC, RULE, CONDITION = "http://example.com/music/1999.mp3", "http://example.com/rule/", "http://example.com/condition/1"


def iri(name: str) -> list[Node]:
    return [Node(name)]


def asks(action: str, target: str, assignee: str) -> Graph:
    rule = {ODRL + "action": iri(ODRL + action), ODRL + "target": iri(target), ODRL + "assignee": iri(PARTY + assignee)}
    return {"asked": {TYPE: iri(ODRL + "Request"), ODRL + "permission": iri("wanted")}, "wanted": rule}


def at(moment: str) -> Graph:
    return {"http://example.com/request/currentTime": {"http://purl.org/dc/terms/issued": [Node(moment, XSD + "dateTime")]}}


def limited(operator: str = "lt", day: str = "2018-01-01") -> Graph:
    """Policy A1: distributing a document is permitted while a constraint on the time holds."""
    constraint = {
        ODRL + "leftOperand": iri(ODRL + "dateTime"),
        ODRL + "operator": iri(ODRL + operator),
        ODRL + "rightOperand": [Node(day, XSD + "date")],
    }
    rule = {ODRL + "target": iri(DOCUMENT), ODRL + "action": iri(ODRL + "distribute"), ODRL + "constraint": iri("limit")}
    return {"A1": {TYPE: iri(ODRL + "Set"), ODRL + "permission": iri(RULE + "A1")}, RULE + "A1": rule, "limit": constraint}


@pytest.mark.parametrize(("case", "moment", "expected"), [("A11", "2017-12-19T15:00:00Z", True), ("A12", "2019-12-19T15:00:00Z", False)])
def test_a_permission_is_active_only_while_its_constraint_is_satisfied(case: str, moment: str, expected: bool) -> None:
    assert active(evaluate(limited(), asks("distribute", DOCUMENT, "1"), at(moment))) == {RULE + "A1": expected}, case


@pytest.mark.parametrize(
    ("operator", "moment", "expected"),
    [
        ("lt", "2017-12-31T09:59:59Z", True),
        ("lt", "2017-12-31T10:00:00Z", False),
        ("gt", "2018-01-01T14:00:00Z", False),
        ("gt", "2018-01-01T14:00:01Z", True),
        ("eq", "2018-01-01T00:00:00Z", False),
    ],
)
def test_a_day_without_a_time_zone_has_begun_only_where_it_has_begun_everywhere(operator: str, moment: str, expected: bool) -> None:
    """XML Schema part 2, order of dateTime: within 14 hours of a time without a zone, a comparison is not determined, and so not met."""
    assert active(evaluate(limited(operator), asks("distribute", DOCUMENT, "1"), at(moment))) == {RULE + "A1": expected}


def paid_for() -> Graph:
    """Policy C1: one listener may play a song and has to pay for it."""
    rule = {
        ODRL + "target": iri(MUSIC),
        ODRL + "action": iri(ODRL + "play"),
        ODRL + "assignee": iri(PARTY + "billie"),
        ODRL + "duty": iri(CONDITION),
    }
    return {"C1": {TYPE: iri(ODRL + "Agreement"), ODRL + "permission": iri(RULE + "C1")}, RULE + "C1": rule}


def test_a_permission_whose_condition_is_fulfilled_is_active() -> None:
    paid: dict[str, Any] = {
        "https://w3id.org/force/compliance-report#rule": iri(CONDITION),
        "https://w3id.org/force/compliance-report#deonticState": iri("https://w3id.org/force/compliance-report#Fulfilled"),
        TYPE: iri("https://w3id.org/force/compliance-report#DutyReport"),
    }
    world = {**at("2025-07-25T00:00:00Z"), "paid": paid}
    assert active(evaluate(paid_for(), asks("play", MUSIC, "billie"), world)) == {RULE + "C1": True}
    assert active(evaluate(paid_for(), asks("play", MUSIC, "sony"), world)) == {RULE + "C1": False}


@pytest.mark.parametrize(("case", "payments", "expected"), [("C11", 0, False), ("C12", 1, True)])
def test_the_law_permits_what_has_to_be_paid_for_only_once_it_is_paid(case: str, payments: int, expected: bool) -> None:
    """C1 as terms of this service: what a duty asks before use is not yet done, so the permission is not there."""
    under = agreement(terms=(terms_insurer(payment=Payment(amount="5.00", currency="EUR", per="job")), terms_clinic()))
    stated = facts(uses=(UsesFact(provider="insurer", jobs=0, own=0, paid=payments),))
    decision = decide(request(sql=COUNT_SQL), under, plan(COUNT_SQL), stated)
    assert decision.allowed is expected, case
    assert [finding.rule for finding in decision.findings if not finding.allowed] == ([] if expected else ["payment"])

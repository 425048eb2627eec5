"""The document of an exchange and the rule that binds jobs to its legs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.codec import decode, encode
from policies.decide import decide
from policies.errors import Malformed
from policies.escrow import Course, Held, begin
from policies.exchange import Bound, Exchange, ExchangeAct, SignedExchangeAct, exchange_digest
from policies.plan import plan_of
from policies.privacy import parse_epsilon
from policies.request import ExchangeFact, JobRequest
from tests.support import exchanges as ex
from tests.support import terms

AGREED = ex.agreement()
NAME = ex.digest()
DOCUMENT = ex.exchange(ex.data_leg(NAME), ex.order_leg())
OPEN = replace(begin(DOCUMENT, "clinic"), stage="open")
SEALED = terms.digest_of("sealed")


def decided(request: JobRequest, document: Exchange | None = DOCUMENT, course: Course = OPEN, now: int = terms.NOW) -> str:
    """The message of the rule's finding that denies, or `allowed`."""
    plan = plan_of(request, AGREED.by_dataset)
    stated = None if document is None else ExchangeFact(exchange=document, course=course)
    decision = decide(request, AGREED, plan, terms.facts(exchange=stated, now=now))
    failed = [finding for finding in decision.findings if not finding.allowed]
    assert decision.allowed or {finding.rule for finding in failed} == {"exchange_only"}, failed
    return failed[0].message if failed else "allowed"


def test_the_job_that_the_leg_asks_for_is_allowed() -> None:
    assert decided(ex.request_of(DOCUMENT, 1)) == "allowed"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"exchange": None}, "the terms allow jobs of an exchange only"),
        ({"consumer": "clinic"}, "another receiver"),
        ({"purpose": "actuarial-review"}, "another receiver, agreement or purpose"),
        ({"sql": "SELECT COUNT(*) AS n FROM clinic.care"}, "another query"),
        ({"loss": parse_epsilon("0.5")}, "another query, training or loss"),
        ({"exchange": Bound(exchange=terms.digest_of("x"), leg=1)}, "is another"),
        ({"exchange": Bound(exchange=exchange_digest(DOCUMENT), leg=1, form="right")}, "is another"),
        ({"exchange": Bound(exchange=exchange_digest(DOCUMENT), leg=2)}, "is another"),
    ],
)
def test_any_other_job_is_denied(change: dict[str, Any], why: str) -> None:
    assert why in decided(replace(ex.request_of(DOCUMENT, 1), **change))


def test_a_binding_to_nothing_is_denied() -> None:
    assert decided(ex.request_of(DOCUMENT, 1), None) == "there is no such exchange of the consumer"


@pytest.mark.parametrize(
    ("course", "now", "why"),
    [
        (replace(OPEN, stage="proposed"), terms.NOW, "the exchange is proposed"),
        (replace(OPEN, stage="disputed"), terms.NOW, "the exchange is disputed"),
        (replace(OPEN, stage="returned"), terms.NOW, "the exchange is returned"),
        (replace(OPEN, first=Held(charged=1, running="job-a")), terms.NOW, "job-a runs for this leg"),
        (replace(OPEN, first=Held(charged=1, given=SEALED)), terms.NOW, "in escrow"),
        (replace(OPEN, first=Held(charged=2)), terms.NOW, "all 2 jobs of this leg are made"),
        (OPEN, DOCUMENT.deadline, "the deadline is over"),
    ],
)
def test_a_job_waits_for_its_turn(course: Course, now: int, why: str) -> None:
    assert why in decided(ex.request_of(DOCUMENT, 1), course=course, now=now)


def test_a_leg_whose_query_reads_nothing_of_its_giver_is_denied() -> None:
    document = ex.exchange(ex.data_leg(NAME, ask=ex.back_leg(NAME).ask), ex.order_leg())
    assert "reads nothing of `clinic`" in decided(ex.request_of(document, 1), document)


def test_a_right_is_used_after_the_hand_over_so_often_and_so_long_as_agreed() -> None:
    document = ex.exchange(ex.data_leg(NAME), ex.scenario_leg(NAME))
    asked, over = ex.request_of(document, 2), replace(OPEN, stage="handed_over")
    assert decided(asked, document, over) == "allowed"
    assert decided(asked, document, OPEN) == "the exchange is open"
    assert "all 2 jobs" in decided(asked, document, replace(over, second=Held(charged=2)))
    assert decided(asked, document, over, now=terms.NOW + 91 * 86_400) == "the right is over"


def test_an_exchange_is_written_and_read_back() -> None:
    for document in (DOCUMENT, ex.exchange(ex.data_leg(NAME), ex.scenario_leg(NAME))):
        assert decode(Exchange, encode(document)) == document


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: ex.exchange(ex.order_leg(), ex.order_leg(giver="clinic", receiver="insurer")), "no-computed-leg"),
        (lambda: ex.exchange(ex.data_leg(NAME), ex.data_leg(NAME)), "malformed"),
        (lambda: replace(DOCUMENT, legs=DOCUMENT.legs[:1]), "malformed"),
        (lambda: replace(DOCUMENT, accept_by=DOCUMENT.deadline + 1), "malformed"),
        (lambda: replace(DOCUMENT, arbiter="clinic"), "malformed"),
        (lambda: replace(DOCUMENT, dispute_days=0), "malformed"),
        (lambda: ex.order_leg(agreement=NAME), "leg-fields"),
        (lambda: ex.data_leg(NAME, document=ex.ORDER), "leg-fields"),
        (lambda: ex.data_leg(NAME, kind="model"), "malformed"),
        (lambda: ex.data_leg(NAME, jobs=0), "malformed"),
        (lambda: ex.order_leg(receiver="insurer"), "malformed"),
        (lambda: ex.exchange(ex.data_leg(NAME), ex.scenario_leg(NAME, until=DOCUMENT.deadline)), "malformed"),
        (lambda: ex.act(DOCUMENT, "accept", 1), "malformed"),
        (lambda: ex.act(DOCUMENT, "give", 0, ex.ORDER), "malformed"),
        (lambda: ex.act(DOCUMENT, "resolve", 0, "perhaps"), "malformed"),
        (lambda: ex.act(DOCUMENT, "accept", number=2), "malformed"),
        (lambda: DOCUMENT.leg(3), "malformed"),
    ],
)
def test_a_document_that_makes_no_sense_is_malformed(make: Any, code: str) -> None:
    with pytest.raises(Malformed) as refused:
        make()
    assert refused.value.code == code


def test_an_act_is_what_its_entry_says_and_nothing_more() -> None:
    signed = SignedExchangeAct(item=ex.act(DOCUMENT, "dispute", about=terms.digest_of("why"), number=2), by="clinic", signature="00" * 64)
    ids = signed.to_ids()
    assert SignedExchangeAct.from_ids(ids) == signed
    for wrong in ({"number": "02"}, {"leg": "3"}, {"act": "sell"}, {"more": "x"}, {"number": "x"}):
        with pytest.raises(Malformed):
            SignedExchangeAct.from_ids(ids | wrong)
    assert isinstance(signed.item, ExchangeAct)

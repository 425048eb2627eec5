"""Who withdraws from an exchange, at whatever stage and whatever runs meanwhile: what becomes of it, of its job, and of what was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import pytest

from policies.errors import SandboxError
from policies.escrow import FINAL, Acted, Course, Ended, Event, HandedOver, JobCharged, JobEnded, Stage, advance, begin, due, waiting
from policies.exchange import Exchange
from tests.support import exchanges as ex
from tests.support import terms

NOW = terms.NOW
NAME = ex.digest()
DOCUMENT = ex.exchange(ex.data_leg(NAME), ex.back_leg(NAME))
SEALED = {1: terms.digest_of("first release"), 2: terms.digest_of("second release")}
WHY = terms.digest_of("reasons")


def acted(by: str, name: str, leg: int = 0, about: str = "", number: int = 1) -> Acted:
    return Acted(by=by, item=ex.act(DOCUMENT, name, leg, about, number))


ACCEPT = acted("insurer", "accept")
FIRST, SECOND = JobCharged(job="job-1", leg=1), JobCharged(job="job-2", leg=2)
FIRST_GIVEN, SECOND_GIVEN = JobEnded(job="job-1", leg=1, sealed=SEALED[1]), JobEnded(job="job-2", leg=2, sealed=SEALED[2])
FIRST_FAILED = JobEnded(job="job-1", leg=1, sealed="")
FIRST_THERE, SECOND_THERE = acted("insurer", "acknowledge", 1, SEALED[1]), acted("clinic", "acknowledge", 2, SEALED[2])
DISPUTE = acted("insurer", "dispute", about=WHY)
BOTH = (ACCEPT, FIRST, FIRST_GIVEN, SECOND, SECOND_GIVEN)
AGREED = (*BOTH, FIRST_THERE, SECOND_THERE)


@dataclass(frozen=True, kw_only=True)
class Case:
    """How an exchange came to where it is, and what a withdrawal of either participant's makes of it: a stage, or a refusal's code."""

    events: tuple[Event, ...]
    stage: Stage
    clinic: str
    insurer: str


def both(stage: Stage, after: str, *events: Event) -> Case:
    return Case(events=events, stage=stage, clinic=after, insurer=after)


CASES = {
    "proposed": Case(events=(), stage="proposed", clinic="withdrawn", insurer="forbidden"),
    "accepted by both": both("open", "withdrawn", ACCEPT),
    "a job is queued, granted or runs": both("open", "withdrawn", ACCEPT, FIRST),
    "both jobs run": both("open", "withdrawn", ACCEPT, FIRST, SECOND),
    "a job has failed": both("open", "withdrawn", ACCEPT, FIRST, FIRST_FAILED),
    "one leg is in escrow": both("one_in_escrow", "returned", ACCEPT, FIRST, FIRST_GIVEN),
    "one leg is in escrow and the other's job runs": both("one_in_escrow", "returned", ACCEPT, FIRST, FIRST_GIVEN, SECOND),
    "one leg is in escrow and acknowledged": both("one_in_escrow", "returned", ACCEPT, FIRST, FIRST_GIVEN, FIRST_THERE),
    "both are in escrow": both("both_in_escrow", "returned", *BOTH),
    "one receiver has acknowledged": both("both_in_escrow", "returned", *BOTH, FIRST_THERE),
    "both receivers have acknowledged": both("accepted", "exchange-late", *AGREED),
    "disputed when open": both("disputed", "returned", ACCEPT, DISPUTE),
    "disputed while a job runs": both("disputed", "returned", ACCEPT, FIRST, DISPUTE),
    "disputed, and the job has ended since": both("disputed", "returned", ACCEPT, FIRST, DISPUTE, FIRST_GIVEN),
    "disputed with both in escrow": both("disputed", "returned", *BOTH, DISPUTE),
    "disputed, and one wants to go on": both("disputed", "returned", *BOTH, DISPUTE, acted("insurer", "resolve", about="continue")),
    "disputed when both had acknowledged": both("disputed", "returned", *AGREED, DISPUTE),
    "handed over": both("handed_over", "exchange-late", *AGREED, HandedOver()),
    "received": both("handed_over", "exchange-late", *AGREED, HandedOver(), acted("insurer", "received", 1, SEALED[1])),
    "returned by the deadline": both("returned", "exchange-state", *BOTH, Ended(reason="deadline")),
    "refused": Case(events=(acted("insurer", "refuse"),), stage="refused", clinic="exchange-state", insurer="exchange-state"),
    "withdrawn before": both("withdrawn", "exchange-state", ACCEPT, acted("clinic", "withdraw")),
    "expired": both("expired", "exchange-state", Ended(reason=None)),
}


def told(case: Case) -> Course:
    course = begin(DOCUMENT, "clinic")
    for event in case.events:
        course = advance(DOCUMENT, course, event, NOW)
    assert course.stage == case.stage
    return course


def test_every_stage_is_one_of_the_cases() -> None:
    assert {case.stage for case in CASES.values()} == set(get_args(Stage))


@pytest.mark.parametrize("by", ["clinic", "insurer"])
@pytest.mark.parametrize("name", CASES)
def test_a_withdrawal_ends_it_for_both_or_is_refused_by_name_and_changes_nothing(name: str, by: str) -> None:
    case = CASES[name]
    course, wanted = told(case), getattr(case, by)
    if wanted not in FINAL:
        with pytest.raises(SandboxError) as refused:
            advance(DOCUMENT, course, acted(by, "withdraw"), NOW)
        assert refused.value.code == wanted
        return
    after = advance(DOCUMENT, course, acted(by, "withdraw"), NOW)
    assert after.stage == wanted
    assert (after.first.charged, after.second.charged) == (course.first.charged, course.second.charged), "what was charged stays counted"
    require_over(DOCUMENT, after)


def require_over(document: Exchange, course: Course) -> None:
    """Nothing follows for anybody: nothing is due, waited for, handed over or begun, and what still runs gives nothing."""
    assert due(document, course, NOW + 10**9, "over") is None
    assert waiting(document, course) == ()
    for event in (HandedOver(), Ended(reason="deadline"), FIRST, SECOND, ACCEPT, FIRST_THERE, SECOND_THERE, DISPUTE):
        with pytest.raises(SandboxError):
            advance(document, course, event, NOW)
    for number, late in ((1, FIRST_GIVEN), (2, SECOND_GIVEN)):
        held = course.held(number)
        if held.running:
            ended = advance(document, course, late, NOW)
            assert (ended.stage, ended.held(number).given, ended.held(number).running) == (course.stage, held.given, "")


@pytest.mark.parametrize("by", ["auditor", "institute"])
@pytest.mark.parametrize("name", CASES)
def test_neither_the_arbiter_nor_a_stranger_withdraws(name: str, by: str) -> None:
    with pytest.raises(SandboxError) as refused:
        advance(DOCUMENT, told(CASES[name]), acted(by, "withdraw"), NOW)
    assert refused.value.code == "not-found"

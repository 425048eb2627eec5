"""The machine of an exchange: whatever anybody does in whatever order, nothing is handed over but both legs together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies.conditions import DAY_S
from policies.errors import Conflict, Forbidden, NotFound, SandboxError
from policies.escrow import (
    ALLOWED,
    FINAL,
    Acted,
    Course,
    Ended,
    Event,
    HandedOver,
    JobCharged,
    JobEnded,
    Stage,
    advance,
    begin,
    due,
    obstacle,
)
from policies.exchange import Exchange
from tests.support import exchanges as ex
from tests.support import terms

NAME = ex.digest()
NOW = terms.NOW
DOCUMENT = ex.exchange(ex.data_leg(NAME), ex.order_leg())
TWO_JOBS = ex.exchange(ex.data_leg(NAME), ex.back_leg(NAME))
SEALED = {1: terms.digest_of("first release"), 2: terms.digest_of("second release")}
WHY = terms.digest_of("reasons")


def acted(by: str, name: str, leg: int = 0, about: str = "", number: int = 1, document: Exchange = DOCUMENT) -> Acted:
    """An act as an event."""
    return Acted(by=by, item=ex.act(document, name, leg, about, number))


STORY: tuple[tuple[Stage, Event], ...] = (
    ("open", acted("insurer", "accept")),
    ("open", JobCharged(job="job-a", leg=1)),
    ("one_in_escrow", JobEnded(job="job-a", leg=1, sealed=SEALED[1])),
    ("both_in_escrow", acted("insurer", "give", 2, ex.ORDER)),
    ("both_in_escrow", acted("insurer", "acknowledge", 1, SEALED[1])),
    ("accepted", acted("clinic", "acknowledge", 2, ex.ORDER)),
    ("handed_over", HandedOver()),
    ("handed_over", acted("insurer", "received", 1, SEALED[1])),
)


def told(count: int) -> Course:
    """The honest story up to so many events."""
    course = begin(DOCUMENT, "clinic")
    for stage, event in STORY[:count]:
        course = advance(DOCUMENT, course, event, NOW)
        assert course.stage == stage
    return course


def refused(course: Course, event: Event, now: int = NOW) -> str:
    """The code with which an event is refused."""
    with pytest.raises(SandboxError) as found:
        advance(DOCUMENT, course, event, now)
    return found.value.code


def test_the_honest_story_ends_with_both_legs_handed_over() -> None:
    course = told(len(STORY))
    assert course.final
    assert due(DOCUMENT, course, NOW + 10**9, "over") is None


@pytest.mark.parametrize("count", range(len(STORY) + 1))
def test_every_act_of_the_story_twice_too_early_or_too_late_is_refused(count: int) -> None:
    course = told(count)
    for place, (_, event) in enumerate(STORY):
        if place == count or (place, count) in FREE:
            continue
        assert refused(course, event) in ("exchange-state", "exchange-twice", "exchange-binding", "exchange-late"), (count, place)


@pytest.mark.parametrize("count", range(len(STORY)))
def test_nobody_else_takes_a_step(count: int) -> None:
    event = STORY[count][1]
    if not isinstance(event, Acted):
        return
    with pytest.raises(NotFound):
        advance(DOCUMENT, told(count), replace(event, by="institute"), NOW)
    with pytest.raises(Forbidden):
        advance(DOCUMENT, told(count), replace(event, by=DOCUMENT.other(event.by)), NOW)


FREE = ((3, 1), (3, 2), (4, 3), (5, 4))
"""(place, events before) of steps of different legs, whose order is free."""

WITHDRAWN: tuple[Stage | str, ...] = ("withdrawn", "withdrawn", "withdrawn", "returned", "returned", "returned", "exchange-late")


@pytest.mark.parametrize("count", range(len(WITHDRAWN)))
@pytest.mark.parametrize("by", ["clinic", "insurer"])
def test_a_participant_that_withdraws_in_each_stage(count: int, by: str) -> None:
    event, course = acted(by, "withdraw"), told(count)
    if count == 0 and by == "insurer":
        assert refused(course, event) == "forbidden"
    elif WITHDRAWN[count] in ALLOWED:
        after = advance(DOCUMENT, course, event, NOW)
        assert after.stage == WITHDRAWN[count]
        assert refused(after, HandedOver()) == "exchange-state"
    else:
        assert refused(course, event) == WITHDRAWN[count]


def test_what_a_job_gives_after_the_exchange_has_ended_goes_nowhere() -> None:
    course = advance(DOCUMENT, told(2), acted("clinic", "withdraw"), NOW)
    after = advance(DOCUMENT, course, JobEnded(job="job-a", leg=1, sealed=SEALED[1]), NOW)
    assert (after.stage, after.first.given, after.first.running) == ("withdrawn", "", "")


def test_a_job_that_failed_its_test_may_be_repeated_as_often_as_agreed() -> None:
    course = told(1)
    for attempt in (1, 2):
        assert due(DOCUMENT, course, NOW, "in force") is None
        course = advance(DOCUMENT, course, JobCharged(job=f"job-{attempt}", leg=1), NOW)
        course = advance(DOCUMENT, course, JobEnded(job=f"job-{attempt}", leg=1, sealed=""), NOW)
        assert course.stage == "open"
    assert obstacle(DOCUMENT, course, 1, NOW)
    assert due(DOCUMENT, course, NOW, "in force") == Ended(reason="attempts")


@pytest.mark.parametrize(
    ("count", "at", "standing", "wanted"),
    [
        (0, DOCUMENT.accept_by, "in force", Ended(reason=None)),
        (0, DOCUMENT.accept_by - 1, "over", None),
        (1, DOCUMENT.deadline, "in force", Ended(reason="deadline")),
        (5, DOCUMENT.deadline, "in force", Ended(reason="deadline")),
        (5, NOW, "over", Ended(reason="terms")),
        (5, NOW, "suspended", None),
        (6, NOW, "in force", HandedOver()),
        (6, NOW, "suspended", None),
        (6, NOW, "over", Ended(reason="terms")),
        (6, DOCUMENT.deadline, "in force", Ended(reason="deadline")),
    ],
)
def test_what_is_due(count: int, at: int, standing: str, wanted: Any) -> None:
    assert due(DOCUMENT, told(count), at, standing) == wanted


def test_a_proposal_is_refused_expires_and_is_not_accepted_late() -> None:
    course = told(0)
    assert advance(DOCUMENT, course, acted("insurer", "refuse"), NOW).stage == "refused"
    assert advance(DOCUMENT, course, Ended(reason=None), NOW).stage == "expired"
    assert refused(course, acted("insurer", "accept"), DOCUMENT.accept_by) == "exchange-late"
    assert refused(course, acted("clinic", "accept")) == "forbidden"
    assert refused(course, Ended(reason="deadline")) == "exchange-state"


def test_a_dispute_freezes_everything_until_it_is_resolved() -> None:
    course = advance(DOCUMENT, told(5), acted("insurer", "dispute", about=WHY), NOW)
    assert course.stage == "disputed"
    for event in (HandedOver(), acted("clinic", "acknowledge", 2, ex.ORDER), JobCharged(job="job-b", leg=1)):
        assert refused(course, event) == "exchange-state"
    assert due(DOCUMENT, course, NOW + 7 * DAY_S - 1, "over") is None
    assert due(DOCUMENT, course, NOW + 7 * DAY_S, "in force") == Ended(reason="undecided")
    voted = advance(DOCUMENT, course, acted("insurer", "resolve", about="continue"), NOW)
    assert voted.stage == "disputed"
    assert advance(DOCUMENT, voted, acted("clinic", "resolve", about="return"), NOW).stage == "disputed"
    again = advance(DOCUMENT, voted, acted("clinic", "resolve", about="continue"), NOW)
    assert again == replace(told(5), disputes=1)
    assert refused(again, acted("insurer", "dispute", about=WHY)) == "exchange-binding"
    assert advance(DOCUMENT, again, acted("insurer", "dispute", about=WHY, number=2), NOW).stage == "disputed"


def test_the_arbiter_resolves_alone_and_does_nothing_else() -> None:
    course = advance(DOCUMENT, told(5), acted("clinic", "dispute", about=WHY), NOW)
    assert advance(DOCUMENT, course, acted("auditor", "resolve", about="return"), NOW).stage == "returned"
    assert advance(DOCUMENT, course, acted("auditor", "resolve", about="continue"), NOW).stage == "both_in_escrow"
    with pytest.raises(NotFound):
        advance(DOCUMENT, told(5), acted("auditor", "withdraw"), NOW)


def test_something_else_than_agreed_is_neither_given_nor_acknowledged() -> None:
    assert refused(told(3), acted("insurer", "give", 2, WHY)) == "exchange-binding"
    assert refused(told(3), acted("clinic", "give", 1, WHY)) == "exchange-state"
    assert refused(told(4), acted("insurer", "acknowledge", 1, WHY)) == "exchange-binding"
    assert refused(told(7), acted("clinic", "received", 2, WHY)) == "exchange-binding"


def test_every_stage_that_is_allowed_is_one_of_the_table() -> None:
    assert {following for after in ALLOWED.values() for following in after} | {"proposed"} == set(ALLOWED)
    assert {"handed_over", "returned", "refused", "withdrawn", "expired"} == FINAL


class Anybody(RuleBasedStateMachine):
    """Insurer, clinic, auditor, a stranger and the host's clock do whatever they like."""

    @initialize()
    def propose(self) -> None:
        """The clinic proposes."""
        self.course, self.now, self.jobs = begin(TWO_JOBS, "clinic"), NOW, 0
        self.events: list[Event] = []
        self.stages = ["proposed"]

    def take(self, event: Event) -> None:
        """Take a step if it is allowed; a refused one changes nothing."""
        try:
            after = advance(TWO_JOBS, self.course, event, self.now)
        except (Conflict, Forbidden, NotFound):
            return
        self.course = after
        self.events.append(event)
        self.stages.append(after.stage)

    @rule(
        by=st.sampled_from(["insurer", "clinic", "auditor", "institute"]),
        name=st.sampled_from(["accept", "refuse", "withdraw", "dispute", "resolve"]),
        wanted=st.sampled_from(["continue", "return"]),
        number=st.integers(1, 2),
    )
    def on_the_whole(self, by: str, name: str, wanted: str, number: int) -> None:
        """An act on the whole."""
        about = wanted if name == "resolve" else WHY if name == "dispute" else ""
        self.take(acted(by, name, about=about, number=number if name in ("dispute", "resolve") else 1, document=TWO_JOBS))

    @rule(
        by=st.sampled_from(["insurer", "clinic", "institute"]),
        name=st.sampled_from(["give", "acknowledge", "received"]),
        leg=st.sampled_from([1, 2]),
        of=st.sampled_from([1, 2]),
    )
    def on_a_leg(self, by: str, name: str, leg: int, of: int) -> None:
        """An act on a leg."""
        self.take(acted(by, name, leg, SEALED[of], document=TWO_JOBS))

    @rule(leg=st.sampled_from([1, 2]), released=st.booleans())
    def job(self, leg: int, released: bool) -> None:
        """A job of a leg ends, or one is charged where the law allows it."""
        running = self.course.held(leg).running
        if running:
            self.take(JobEnded(job=running, leg=leg, sealed=SEALED[leg] if released else ""))  # type: ignore[arg-type]
        elif not obstacle(TWO_JOBS, self.course, leg, self.now):
            self.jobs += 1
            before = self.course
            self.take(JobCharged(job=f"job-{self.jobs}", leg=leg))  # type: ignore[arg-type]
            assert self.course != before, "what the rule allows the machine takes"

    @rule(days=st.integers(0, 12), standing=st.sampled_from(["in force", "in force", "suspended", "over"]))
    def host(self, days: int, standing: str) -> None:
        """Time passes, and the host does what is due."""
        self.now += days * DAY_S
        event = due(TWO_JOBS, self.course, self.now, standing)
        if event is not None:
            before = self.course
            self.take(event)
            assert self.course != before, "what is due can be done"

    @precondition(lambda self: self.course.stage not in FINAL)
    @rule(event=st.sampled_from([HandedOver(), Ended(reason="deadline"), Ended(reason=None)]))
    def host_that_hurries(self, event: Event) -> None:
        """The host tries to hand over or to end before it is due."""
        if isinstance(event, HandedOver):
            self.take(event)

    @invariant()
    def never_one_sided(self) -> None:
        """Handed over means that both legs were given and acknowledged by who gets them; final stages stay."""
        course = self.course
        if course.stage == "handed_over":
            for leg in (1, 2):
                held = course.held(leg)
                assert held.given == SEALED[leg]
                assert held.job
                assert held.acknowledged
        else:
            assert not course.first.received
            assert not course.second.received
        if course.stage in ("accepted", "both_in_escrow"):
            assert course.first.given
            assert course.second.given
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            assert before == after or after in ALLOWED[before]  # type: ignore[index]
        assert max(course.first.charged, course.second.charged) <= 2

    def teardown(self) -> None:
        """The events alone tell the course again."""
        if not hasattr(self, "course"):
            return
        after = begin(TWO_JOBS, "clinic")
        for event in self.events:
            after = advance(TWO_JOBS, after, event, NOW)
        assert replace(after, disputed_at=0) == replace(self.course, disputed_at=0)


TestAnybody = Anybody.TestCase
TestAnybody.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

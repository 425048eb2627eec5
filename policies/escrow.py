"""How an exchange runs: one pure machine that host, participants and auditors fold over the same events.

Nothing of what is given can be had before the hand-over, and the hand-over is of both legs or of none. Every step that the machine does
not allow raises Conflict; who takes it too late, too early, twice or in another's place is told so by its code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from policies.conditions import DAY_S
from policies.errors import Conflict, Forbidden, NotFound
from policies.exchange import Exchange, ExchangeAct, Leg, LegNumber, Outcome

Stage = Literal[
    "proposed", "open", "one_in_escrow", "both_in_escrow", "accepted", "disputed",
    "handed_over", "returned", "refused", "withdrawn", "expired",
]  # fmt: skip

_RUNNING: frozenset[Stage] = frozenset({"open", "one_in_escrow", "both_in_escrow", "accepted"})

ALLOWED: dict[Stage, frozenset[Stage]] = {
    "proposed": frozenset({"open", "refused", "withdrawn", "expired"}),
    "open": frozenset({"one_in_escrow", "disputed", "withdrawn", "returned"}),
    "one_in_escrow": frozenset({"both_in_escrow", "disputed", "returned"}),
    "both_in_escrow": frozenset({"accepted", "disputed", "returned"}),
    "accepted": frozenset({"handed_over", "disputed", "returned"}),
    "disputed": _RUNNING | {"returned"},
    "handed_over": frozenset(),
    "returned": frozenset(),
    "refused": frozenset(),
    "withdrawn": frozenset(),
    "expired": frozenset(),
}
"""Stage of an exchange -> the stages that may follow it."""

FINAL: frozenset[Stage] = frozenset(stage for stage, following in ALLOWED.items() if not following)

Reason = Literal["deadline", "terms", "attempts", "undecided"]
"""Why the host returns everything: too late, an agreement's terms ended, no job of a leg is left, a dispute stood too long. The end of
the log ends an exchange besides (`at_epoch`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """One leg as far as it got.

    Attributes:
        charged: jobs that were charged for it; `running`: the one that has not ended.
        given: digest of what is in escrow (sealed release, document or agreement); empty before. `job`: whose release it is.
        acknowledged: whether the receiver agreed to be handed this.
        received: whether the receiver signed, after the hand-over, that it holds it.
    """

    charged: int = 0
    running: str = ""
    given: str = ""
    job: str = ""
    acknowledged: bool = False
    received: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """An exchange as far as it got.

    Attributes:
        proposer: who signed first.
        disputes: how many there were; `disputed_at`: seconds since 1970 of the present one.
        votes: who wants which outcome of the present dispute.
    """

    stage: Stage
    proposer: str
    first: Held = Held()
    second: Held = Held()
    disputes: int = 0
    disputed_at: int = 0
    votes: tuple[tuple[str, Outcome], ...] = ()

    def held(self, leg: int) -> Held:
        """The leg of a number."""
        return self.first if leg == 1 else self.second

    @property
    def final(self) -> bool:
        """Whether nothing can follow but that receivers sign that they received."""
        return self.stage in FINAL


@dataclass(frozen=True, kw_only=True, slots=True)
class Acted:
    """A participant, or the arbiter, signed something."""

    by: str
    item: ExchangeAct


@dataclass(frozen=True, kw_only=True, slots=True)
class JobCharged:
    """A job was charged for a leg."""

    job: str
    leg: LegNumber


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEnded:
    """A job of a leg ended. `sealed` is the digest of its release if there is one that passed its test; else empty."""

    job: str
    leg: LegNumber
    sealed: str


@dataclass(frozen=True, kw_only=True, slots=True)
class HandedOver:
    """The host hands both legs over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """The host ends an exchange: what is in escrow returns, or a proposal that nobody accepted expires (no reason)."""

    reason: Reason | None


Event: TypeAlias = Acted | JobCharged | JobEnded | HandedOver | Ended


def begin(exchange: Exchange, proposer: str) -> Course:
    """Return the course of a new exchange. Raises Forbidden for a proposer who is no participant."""
    if proposer not in exchange.participants:
        raise Forbidden("only a participant proposes an exchange")
    return Course(stage="proposed", proposer=proposer)


def advance(exchange: Exchange, course: Course, event: Event, now: int) -> Course:
    """Return what follows from an event at `now`, seconds since 1970.

    Raises:
        NotFound: who acts has no part in the exchange. Forbidden: another one has to do this.
        Conflict: code `exchange-state` (not at this stage), `exchange-late`, `exchange-twice` or `exchange-binding` (of something else).
    """
    if isinstance(event, Acted):
        after = _acted(exchange, course, event, now)
    elif isinstance(event, JobCharged):
        after = _charged(exchange, course, event)
    elif isinstance(event, JobEnded):
        after = _job_ended(exchange, course, event)
    elif isinstance(event, HandedOver):
        _require(course.stage == "accepted", "both legs must be acknowledged before a hand-over")
        after = replace(course, stage="handed_over")
    else:
        _require(not course.final and (event.reason is None) == (course.stage == "proposed"), f"an exchange that is {course.stage}")
        after = replace(course, stage="returned" if event.reason else "expired")
    if after.stage != course.stage and after.stage not in ALLOWED[course.stage]:
        raise Conflict(f"an exchange that is {course.stage} cannot become {after.stage}", code="exchange-state")
    return after


def due(exchange: Exchange, course: Course, now: int, standing: str) -> HandedOver | Ended | None:
    """Return what the host has to do now, seconds since 1970, if anything.

    Args:
        standing: `in force`, `suspended` or `over`: of the agreements of the exchange, the worst.
    """
    if course.final:
        return None
    if course.stage == "proposed":
        return Ended(reason=None) if now >= exchange.accept_by else None
    if course.stage == "disputed":
        return Ended(reason="undecided") if now >= course.disputed_at + exchange.dispute_days * DAY_S else None
    if now >= exchange.deadline:
        return Ended(reason="deadline")
    if standing == "over":
        return Ended(reason="terms")
    if any(is_exhausted(leg, course.held(number)) for number, leg in enumerate(exchange.legs, 1)):
        return Ended(reason="attempts")
    return HandedOver() if course.stage == "accepted" and standing == "in force" else None


def is_exhausted(leg: Leg, held: Held) -> bool:
    """Whether no job of a delivery is left that could still give it."""
    return leg.form == "delivery" and not held.given and not held.running and held.charged >= leg.jobs


def at_epoch(exchange: Exchange, course: Course, now: int) -> Course | None:
    """Return how an exchange stands in the log that follows where its own ends at `now`; None if nothing can follow there.

    What is under way returns, to both, and a proposal expires. A right that was handed over goes on with the jobs that are left of it.
    """
    if course.stage == "handed_over":
        return (
            course if any(not obstacle(exchange, course, n, now) for n, leg in enumerate(exchange.legs, 1) if leg.form == "right") else None
        )
    if course.final:
        return None
    stopped = replace(course, first=replace(course.first, running=""), second=replace(course.second, running=""))
    return replace(stopped, stage="expired" if course.stage == "proposed" else "returned")


def obstacle(exchange: Exchange, course: Course, leg_number: int, now: int) -> str:
    """Return why no job may be charged for a leg now; empty if one may."""
    leg, held = exchange.leg(leg_number), course.held(leg_number)
    if held.charged >= leg.jobs:
        return f"all {leg.jobs} jobs of this leg are made"
    if leg.form == "right":
        over = leg.until is not None and now >= leg.until
        return "the right is over" if over else "" if course.stage == "handed_over" else f"the exchange is {course.stage}"
    if leg.form == "promise":
        return "this leg is fulfilled outside"
    if course.stage not in ("open", "one_in_escrow"):
        return f"the exchange is {course.stage}"
    if now >= exchange.deadline:
        return "the deadline is over"
    return "what this leg gives is in escrow" if held.given else f"{held.running} runs for this leg" if held.running else ""


# --- acts


def _acted(exchange: Exchange, course: Course, event: Acted, now: int) -> Course:
    act, by = event.item.act, event.by
    arbiter = act == "resolve" and by == exchange.arbiter
    if by not in exchange.participants and not arbiter:
        raise NotFound("there is no such exchange of yours")
    if act in ("accept", "refuse"):
        return _answered(exchange, course, event, now)
    if act == "withdraw":
        return _withdrawn(course, by)
    if act == "dispute":
        _require(course.stage in _RUNNING, "only what is under way can be disputed; after a hand-over there is nothing to hold back")
        _require(event.item.number == course.disputes + 1, f"the next dispute has number {course.disputes + 1}", "exchange-binding")
        return replace(course, stage="disputed", disputes=course.disputes + 1, disputed_at=now, votes=())
    if act == "resolve":
        return _resolved(exchange, course, event, arbiter)
    return _on_leg(exchange, course, event, now)


def _answered(exchange: Exchange, course: Course, event: Acted, now: int) -> Course:
    _require(course.stage == "proposed", f"the exchange is {course.stage}")
    if event.by == course.proposer:
        raise Forbidden("the other participant answers a proposal")
    if event.item.act == "refuse":
        return replace(course, stage="refused")
    _require(now < exchange.accept_by, "the time to accept is over", "exchange-late")
    return replace(course, stage="open")


def _withdrawn(course: Course, by: str) -> Course:
    if course.stage == "proposed" and by != course.proposer:
        raise Forbidden("whoever proposed withdraws a proposal; refuse it")
    _require(course.stage not in ("accepted", "handed_over"), "both have acknowledged: it is too late to withdraw", "exchange-late")
    _require(not course.final, f"the exchange is {course.stage}")
    return replace(course, stage="withdrawn" if course.stage in ("proposed", "open") else "returned")


def _resolved(exchange: Exchange, course: Course, event: Acted, arbiter: bool) -> Course:
    """The arbiter decides alone; participants decide where both want the same. To return needs no more than both, or the arbiter."""
    _require(course.stage == "disputed", f"the exchange is {course.stage}")
    _require(event.item.number == course.disputes, f"the present dispute has number {course.disputes}", "exchange-binding")
    wanted: Outcome = "return" if event.item.about == "return" else "continue"
    votes = dict(course.votes) | {event.by: wanted}
    after = replace(course, votes=tuple(sorted(votes.items())))
    if not arbiter and [votes.get(name) for name in exchange.participants] != [wanted, wanted]:
        return after
    if wanted == "return":
        return replace(after, stage="returned")
    return replace(after, stage=_stage_of(after), disputed_at=0, votes=())


def _on_leg(exchange: Exchange, course: Course, event: Acted, now: int) -> Course:
    item = event.item
    leg, held = exchange.leg(item.leg), course.held(item.leg)
    wanted = leg.giver if item.act == "give" else leg.receiver
    if event.by != wanted:
        raise Forbidden(f"`{wanted}` does this for leg {item.leg}")
    if item.act == "received":
        _require(course.stage == "handed_over", "nothing is received before the hand-over")
        _require(item.about == held.given, "this is not what was handed over", "exchange-binding")
        _require(not held.received, "this was said before", "exchange-twice")
        return _with(course, item.leg, replace(held, received=True))
    _require(course.stage in _RUNNING, f"the exchange is {course.stage}")
    _require(now < exchange.deadline, "the deadline is over", "exchange-late")
    if item.act == "give":
        _require(leg.form != "delivery", "this leg is given by its job alone")
        _require(item.about == leg.thing, "this is not what the leg is about", "exchange-binding")
        _require(not held.given, "this was given before", "exchange-twice")
        return _moved(_with(course, item.leg, replace(held, given=item.about)))
    _require(bool(held.given), f"leg {item.leg} is not given yet")
    _require(item.about == held.given, "this is not what is in escrow", "exchange-binding")
    _require(not held.acknowledged, "this was said before", "exchange-twice")
    return _moved(_with(course, item.leg, replace(held, acknowledged=True)))


# --- jobs


def _charged(exchange: Exchange, course: Course, event: JobCharged) -> Course:
    leg, held = exchange.leg(event.leg), course.held(event.leg)
    _require(held.charged < leg.jobs, f"more than {leg.jobs} jobs are charged for leg {event.leg}")
    if leg.form == "right":
        _require(course.stage == "handed_over", f"a right is used while the exchange is {course.stage}")
        return _with(course, event.leg, replace(held, charged=held.charged + 1))
    _require(leg.form == "delivery" and course.stage in ("open", "one_in_escrow"), f"the exchange is {course.stage}")
    _require(not held.given and not held.running, f"leg {event.leg} has a job already", "exchange-twice")
    return _with(course, event.leg, replace(held, charged=held.charged + 1, running=event.job))


def _job_ended(exchange: Exchange, course: Course, event: JobEnded) -> Course:
    """A job that ends after its exchange did gives nothing to anybody any more."""
    held = course.held(event.leg)
    if exchange.leg(event.leg).form == "right":
        return course
    _require(held.running == event.job, f"{event.job} is not the job that runs for leg {event.leg}", "exchange-binding")
    done = replace(held, running="")
    if event.sealed and not course.final:
        done = replace(done, given=event.sealed, job=event.job)
    after = _with(course, event.leg, done)
    return after if course.final or course.stage == "disputed" else _moved(after)


def _with(course: Course, leg: int, held: Held) -> Course:
    return replace(course, first=held) if leg == 1 else replace(course, second=held)


def _moved(course: Course) -> Course:
    return replace(course, stage=_stage_of(course))


def _stage_of(course: Course) -> Stage:
    """The stage of what is under way, by what is in escrow."""
    given = bool(course.first.given) + bool(course.second.given)
    if given == 2 and course.first.acknowledged and course.second.acknowledged:
        return "accepted"
    return "both_in_escrow" if given == 2 else "one_in_escrow" if given else "open"


def _require(holds: bool, message: str, code: str = "exchange-state") -> None:
    if not holds:
        raise Conflict(message, code=code)


# --- what is waited for

Task = Literal["accept", "run", "give", "acknowledge", "resolve"]
"""What somebody has to do next: accept or refuse a proposal, ask the job of a leg, sign that a leg is given or there, resolve a dispute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """One thing that an exchange waits for; `leg` is 0 for the whole."""

    participant: str
    task: Task
    leg: int


def waiting(exchange: Exchange, course: Course) -> tuple[Waiting, ...]:
    """Return what an exchange waits for, leg by leg."""
    if course.stage == "proposed":
        return (Waiting(participant=exchange.other(course.proposer), task="accept", leg=0),)
    if course.stage == "disputed":
        voted = dict(course.votes)
        return tuple(Waiting(participant=name, task="resolve", leg=0) for name in exchange.participants if name not in voted)
    if course.stage not in _RUNNING:
        return ()
    found = []
    for number, leg in enumerate(exchange.legs, 1):
        held = course.held(number)
        if not held.given and not held.running:
            task: Task = "run" if leg.form == "delivery" else "give"
            found.append(Waiting(participant=leg.receiver if task == "run" else leg.giver, task=task, leg=number))
        elif held.given and not held.acknowledged:
            found.append(Waiting(participant=leg.receiver, task="acknowledge", leg=number))
    return tuple(found)

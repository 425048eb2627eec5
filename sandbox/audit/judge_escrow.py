"""Judging exchanges of two legs: who signed what when, what was in escrow, and that both legs were handed over together or neither.

That the host kept sealed releases to itself before the hand-over leaves no trace in a log, unless who was given one says so. What follows
from the headers is that no hand-over, no receipt and no use came before its time, and that none was of one leg alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from enclaves.kit.acts import verify_exchange_act
from enclaves.kit.envelope import document_digest
from policies.codec import decode
from policies.errors import Conflict, SandboxError, Tampered
from policies.escrow import Acted, Course, Ended, Event, HandedOver, JobCharged, JobEnded, Reason, advance, begin, due
from policies.exchange import Exchange, LegNumber, SignedExchangeAct
from policies.request import ExchangeFact, Facts, JobRequest
from policies.tightening import worst_standing
from sandbox.audit.folds import Entry, ExchangeFold, JobFold
from sandbox.audit.judge_exchange import signed_body
from sandbox.audit.state import State
from sandbox.audit.verdict import Promise


def proposed(state: State, entry: Entry) -> None:
    """A document that a participant signed, once, under agreements that all signed before; of the log before, one that its end ended."""
    name, by = entry.ids["exchange"], entry.ids["participant"]
    if not state.require(entry, name not in state.exchanges, "order", "the exchange is proposed twice"):
        return
    fold = state.exchanges[name] = ExchangeFold(agreements=tuple(entry.ids["agreements"].split(",")))
    for agreement in fold.agreements:
        known = state.agreements.get(agreement)
        state.require(entry, known is not None and known.agreed, "order", "an exchange under an agreement that was not agreed before")
    if entry.body is None:
        return
    signed = signed_body(entry)
    exchange = decode(Exchange, signed.body)
    named = (document_digest(signed), exchange.agreements) == (name, fold.agreements)
    state.require(entry, named, "signatures", "the header names another exchange or other agreements than were signed")
    fold.exchange, fold.course = exchange, _begun(state, name, begin(exchange, by))
    state.require(entry, entry.header.at // 1000 < exchange.accept_by, "order", "proposed when the time to accept was over")
    for agreement in exchange.agreements:
        parties = state.agreement(agreement)
        if parties is not None:
            absent = [who for who in exchange.participants if not parties.has_party(who)]
            state.require(entry, not absent, "signatures", f"{', '.join(absent)} signed no agreement of this exchange")
    key = _key(state, fold, by)
    if key is None:
        state.cannot("signatures")
    else:
        state.verify(entry, signed, "exchange", by, key)


def _begun(state: State, name: str, course: Course) -> Course | None:
    """How an exchange stands that is proposed: where the epoch that opens the log says, if it does; None where nobody opened that epoch."""
    return None if state.carried is None else state.carried.get(name, course)


def acted(state: State, entry: Entry) -> None:
    """What a participant or the arbiter signed, where the exchange allows it. The header says all of it."""
    signed = SignedExchangeAct.from_ids(entry.ids)
    fold = _fold(state, entry)
    if fold is None:
        return
    named = _key(state, fold, signed.by)
    key = state.keyring.signing_key(named) if named is not None else None
    if named is None:
        state.cannot("signatures")
    elif state.require(entry, key is not None, "signatures", f"the keys of `{signed.by}` were revoked before"):
        try:
            verify_exchange_act(signed, str(key))
        except Tampered as error:
            state.report(entry, "signatures", error.message)
            return
    one_sided = signed.item.act == "received" and fold.course is not None and fold.course.stage != "handed_over"
    if one_sided:
        what = f"one-sided: `{signed.by}` has leg {signed.item.leg}, and nothing was handed over"
        state.report(entry, "releases", what)
        return
    _step(state, entry, fold, Acted(by=signed.by, item=signed.item), "order")


def handed_over(state: State, entry: Entry) -> None:
    """Both legs at once, each in escrow and acknowledged, under terms in force and in time."""
    fold = _fold(state, entry)
    if fold is None or fold.exchange is None or fold.course is None:
        return
    course = fold.course
    given = (course.first.given, course.second.given)
    both = all(given) and (entry.ids["first"], entry.ids["second"]) == given
    missing = ", ".join(str(leg) for leg in (1, 2) if not course.held(leg).given)
    what = f"one-sided: leg {missing} is not in escrow" if missing else "another release or document is handed over than was in escrow"
    state.require(entry, both, "releases", what)
    jobs = ",".join(held.job for held in (course.first, course.second) if held.job)
    state.require(entry, entry.ids["jobs"] == jobs, "releases", "the header hands over the releases of other jobs")
    why = due(fold.exchange, course, entry.header.at // 1000, _standing(state, entry, fold))
    state.require(entry, isinstance(why, HandedOver), "releases", f"handed over while the exchange is {course.stage}{_because(why)}")
    fold.course = _over(course)


def ended(state: State, entry: Entry) -> None:
    """An end that is due by time, terms or attempts."""
    fold = _fold(state, entry)
    if fold is None or fold.exchange is None or fold.course is None:
        return
    reason = entry.ids["reason"]
    wanted = due(fold.exchange, fold.course, entry.header.at // 1000, _standing(state, entry, fold))
    said = Ended(reason=None if reason == "expired" else cast(Reason, reason))
    same = wanted == said
    state.require(entry, same, "order", f"ended for `{reason[:20]}` while the exchange is {fold.course.stage}{_because(wanted)}")
    _step(state, entry, fold, said, "order")


# --- jobs of legs


def leg_of(entry: Entry) -> int:
    """The leg that the header of a decision names; 0 for none."""
    return {"1": 1, "2": 2}.get(entry.ids.get("leg", ""), 0)


def check_fact(state: State, entry: Entry, request: JobRequest, facts: Facts) -> None:
    """Header, request and stated facts are of one exchange, as far as it got before."""
    bound = request.exchange
    told = (entry.ids.get("exchange"), entry.ids.get("leg"))
    named = told == ((None, None) if bound is None else (bound.exchange, str(bound.leg)))
    state.require(entry, named, "signatures", "the header names another exchange or leg than the request")
    if bound is None:
        state.require(entry, facts.exchange is None, "decisions", "states an exchange for a job that is part of none")
        return
    fold = state.exchanges.get(bound.exchange)
    if fold is None or fold.exchange is None or fold.course is None:
        if fold is not None:
            state.cannot("decisions")
        else:
            state.require(entry, facts.exchange is None, "decisions", "states an exchange that was never proposed")
        return
    own = ExchangeFact(exchange=fold.exchange, course=fold.course) if request.consumer in fold.exchange.participants else None
    state.require(entry, facts.exchange == own, "decisions", "the stated course of the exchange is not that of the log")


def note_charged(state: State, entry: Entry, job: JobFold) -> None:
    """A job is charged for a leg."""
    fold = state.exchanges.get(job.exchange) if job.exchange else None
    if fold is not None and job.leg:
        _step(state, entry, fold, JobCharged(job=entry.ids["job"], leg=cast(LegNumber, job.leg)), "order")


def note_ended(state: State, entry: Entry, job: JobFold) -> None:
    """A job of a leg ended: with a release that passed its test it is in escrow."""
    fold = state.exchanges.get(job.exchange) if job.exchange else None
    if fold is None or not job.leg:
        return
    ids = entry.ids
    sealed = ids.get("sealed", "") if entry.header.kind == "released" and ids.get("accepted") != "no" else ""
    if ids.get("sealed") and fold.exchange is not None and fold.exchange.leg(job.leg).form == "delivery":
        state.escrowed[ids["job"]] = job.exchange
    _step(state, entry, fold, JobEnded(job=ids["job"], leg=cast(LegNumber, job.leg), sealed=sealed), "order")


def check_had(state: State, entry: Entry, job: str) -> None:
    """A release that its recipient deletes was handed over to it before."""
    name = state.escrowed.get(job)
    if name is None:
        return
    course = state.exchanges[name].course
    had = course is not None and course.stage == "handed_over" and job in (course.first.job, course.second.job)
    state.require(entry, had, "releases", f"one-sided: the recipient had the release of {job}, which was never handed over")


def _step(state: State, entry: Entry, fold: ExchangeFold, event: Event, promise: Promise) -> None:
    if fold.exchange is None or fold.course is None:
        return
    try:
        fold.course = advance(fold.exchange, fold.course, event, entry.header.at // 1000)
    except SandboxError as error:
        state.report(entry, promise, f"the exchange is {fold.course.stage}: {error.message}")


def _over(course: Course) -> Course:
    """Handed over, whatever was wrong with it, so that what follows is judged by what the log says."""
    return replace(course, stage="handed_over")


def _fold(state: State, entry: Entry) -> ExchangeFold | None:
    fold = state.exchanges.get(entry.ids["exchange"])
    if fold is None:
        state.report(entry, "order", "the exchange was never proposed")
    elif fold.exchange is None:
        state.cannot("order", "releases", "signatures")
    return fold


def _key(state: State, fold: ExchangeFold, who: str) -> str | None:
    """The signing key that the first agreement gives somebody; None where it is not opened. Raises Conflict for no party."""
    agreement = state.agreement(fold.agreements[0])
    if agreement is None:
        return None
    if not agreement.has_party(who):
        raise Conflict(f"`{who}` is no party of the agreement")
    return agreement.party(who).signing_key


def _standing(state: State, entry: Entry, fold: ExchangeFold) -> str:
    return worst_standing((state.acts.tightenings.get(name, ()) for name in fold.agreements), entry.header.at // 1000)


def _because(event: HandedOver | Ended | None) -> str:
    return f", and was to end: {event.reason or 'expired'}" if isinstance(event, Ended) else ""

"""Exchanges of two legs: proposed, accepted, put into escrow leg by leg, and handed over in one transaction or not at all.

Every change of an exchange is folded by `policies.escrow`, stored and logged in one transaction that holds the log; what the host owes
by then (a hand-over, an end) is done in the same transaction, so that no crash comes in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enclaves.kit.envelope import Signed, document_digest
from policies.acceptance import Verdict
from policies.codec import decode, encode
from policies.entries import parse_header
from policies.errors import Conflict, Malformed, NotFound
from policies.escrow import Acted, Course, Ended, HandedOver, JobCharged, JobEnded, Stage, Waiting, advance, at_epoch, begin, due, waiting
from policies.exchange import Bound, Exchange, ExchangeAct, Leg, SignedExchangeAct
from policies.lineage import CarriedExchange
from policies.plan import parse_plan
from policies.request import ExchangeFact, JobRequest
from policies.tightening import worst_standing
from sandbox.exchange.agreements import visible
from sandbox.exchange.escrow_states import StoredAct, StoredExchange
from sandbox.exchange.paging import Listing, Page
from sandbox.exchange.records import Participant, StoredAgreement
from sandbox.exchange.rotation import require_carried, require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.host import Host

if TYPE_CHECKING:
    from sandbox.store.database import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """An exchange with what was signed about it.

    Attributes:
        reason: why the host ended it, as the log says; empty where it did not.
    """

    stored: StoredExchange
    acts: tuple[StoredAct, ...]
    reason: str

    @property
    def waiting(self) -> tuple[Waiting, ...]:
        """What it waits for."""
        return waiting(self.stored.exchange, self.stored.course)


def propose(host: Host, caller: Participant, signed: Signed) -> Shown:
    """Store and log a proposed exchange. The same document again is the same exchange.

    Raises:
        NotFound: an agreement that is not the caller's. Forbidden: the caller is no participant.
        Conflict: an agreement is not active or names revoked keys, or the time to accept is over.
        Malformed: the other participant, or the arbiter, is no party of an agreement; a leg reads nothing of its giver; what it asks cannot
            be asked, or it is tested on another's rows.
    """
    require_signed(signed, "exchange", caller.id, caller.signing_key)
    exchange, name = decode(Exchange, signed.body), document_digest(signed)
    course = begin(exchange, caller.id)
    with host.store.transaction() as tx:
        tx.hold_log()
        if tx.exchange(name) is None:
            require_in_force(tx, caller)
            _require_agreed(tx, caller, exchange)
            now = host.now()
            if now // 1000 >= exchange.accept_by:
                raise Conflict("the time to accept is over already", code="exchange-late")
            ids = {"exchange": name, "participant": caller.id, "agreements": ",".join(exchange.agreements)}
            tx.add_exchange(StoredExchange(digest=name, signed=signed, exchange=exchange, course=course, closed=-1, at=now))
            tx.append("exchange_proposed", at=now, ids=ids, body={"signed": encode(signed)}, agreement=exchange.agreements[0])
            tx.add_notices("exchange", name, [exchange.other(caller.id)], now)
    host.on_step("exchange-proposed")
    host.publish()
    return read(host, caller, name)


def act(host: Host, caller: Participant, signed: Signed) -> Shown:
    """Take a step that a participant, or the arbiter, signed; with it whatever it makes due. The same again is the same.

    Raises:
        NotFound: no such exchange of the caller's. Forbidden: another one does this.
        Conflict: as `policies.escrow.advance`; code `other-log` where the log has begun anew since.
    """
    require_signed(signed, "exchange-act", caller.id, caller.signing_key)
    item = decode(ExchangeAct, signed.body)
    own = SignedExchangeAct(item=item, by=caller.id, signature=signed.signature)
    with host.store.transaction() as tx:
        tx.hold_log()
        stored = _visible(tx, item.exchange, caller)
        if not any(known.signed == own for known in tx.exchange_acts(item.exchange)):
            require_in_force(tx, caller)
            _require_this_log(tx, stored)
            _require_keys(tx, stored.exchange, caller.id)
            now = host.now()
            course = advance(stored.exchange, stored.course, Acted(by=caller.id, item=item), now // 1000)
            tx.add_exchange_act(own, now)
            tx.append("exchange_act", at=now, ids=own.to_ids(), body={}, agreement=stored.exchange.agreements[0])
            _keep(tx, stored, course, now)
            settle_held(host, tx, item.exchange, now)
    host.on_step("exchange-acted")
    host.publish()
    host.on_step("exchange-published")
    return read(host, caller, item.exchange)


def read(host: Host, caller: Participant, name: str) -> Shown:
    """Return an exchange to its participants and its arbiter. Raises NotFound to everybody else."""
    with host.store.reading() as tx:
        return _shown(tx, _visible(tx, name, caller))


def listed(host: Host, caller: Participant, page: Page, stage: Stage | None = None) -> Listing[Shown]:
    """A page of the caller's exchanges, as participant or arbiter, newest first; at one stage if given."""
    with host.store.reading() as tx:
        found = tx.exchanges_of(caller.id, page, stage)
        return Listing(items=tuple(_shown(tx, stored) for stored in found.items), next=found.next)


def _shown(tx: Transaction, stored: StoredExchange) -> Shown:
    return Shown(stored=stored, acts=tuple(tx.exchange_acts(stored.digest)), reason=_reason(tx, stored))


def _reason(tx: Transaction, stored: StoredExchange) -> str:
    closing = next(iter(tx.entries(stored.closed, stored.closed + 1)), None) if stored.closed >= 0 else None
    if closing is None or stored.course.stage == "handed_over":
        return ""
    header = parse_header(closing)
    if header.kind == "epoch_opened":
        return "epoch"
    return header.ids["reason"] if header.kind == "exchange_ended" and header.ids["exchange"] == stored.digest else ""


def sweep(host: Host) -> int:
    """Do what is due by the clock: hand over what waited for suspended terms, end what is too late. Returns how many exchanges moved."""
    with host.store.reading() as tx:
        names = [found.digest for found in tx.running_exchanges() if _due(tx, found, host.now()) is not None]
    moved = 0
    for name in names:
        with host.store.transaction() as tx:
            tx.hold_log()
            stored = tx.exchange(name)
            if stored is not None and _is_of_this_log(tx, stored):
                moved += settle_held(host, tx, name, host.now())
    if moved:
        host.publish()
    return moved


# --- jobs of legs; the caller holds the log


def fact(tx: Transaction, request: JobRequest) -> ExchangeFact | None:
    """What is known of the exchange that a request is bound to; None where its consumer is no participant, as if there were none."""
    if request.exchange is None:
        return None
    stored = tx.exchange(request.exchange.exchange)
    if stored is None or request.consumer not in stored.exchange.participants:
        return None
    return ExchangeFact(exchange=stored.exchange, course=stored.course)


def note_charged(tx: Transaction, job: str, bound: Bound, now: int) -> None:
    """Fold that a job was charged for a leg. Raises Conflict where the decision should have denied it."""
    tx.hold_log()
    stored = tx.exchange(bound.exchange)
    assert stored is not None, "a decision allows jobs of known exchanges only"
    course = advance(stored.exchange, stored.course, JobCharged(job=job, leg=bound.leg), now // 1000)
    tx.set_course(stored.digest, course)


def note_ended(host: Host, tx: Transaction, job: str, bound: Bound, sealed: str, accepted: Verdict | None, now: int) -> None:
    """Fold how a job of a leg ended, and do what is due then.

    Args:
        sealed: digest of its release; empty if there is none. A release that did not pass its test is deleted.
    """
    tx.hold_log()
    stored = tx.exchange(bound.exchange)
    assert stored is not None, "a bound job was charged for an exchange"
    passed = sealed if accepted != "no" else ""
    course = advance(stored.exchange, stored.course, JobEnded(job=job, leg=bound.leg, sealed=passed), now // 1000)
    if bound.form == "delivery" and course.held(bound.leg).job != job:
        tx.delete_release(job)
    _keep(tx, stored, course, now)
    if _is_of_this_log(tx, stored):
        settle_held(host, tx, bound.exchange, now)


def settle_held(host: Host, tx: Transaction, name: str, now: int) -> bool:
    """Do what is due of an exchange, under the log that is held. Returns whether anything was."""
    stored = tx.exchange(name)
    assert stored is not None, "exchanges are never deleted"
    event = _due(tx, stored, now)
    if event is None:
        return False
    course = advance(stored.exchange, stored.course, event, now // 1000)
    agreement = stored.exchange.agreements[0]
    if isinstance(event, HandedOver):
        ids = {"exchange": name, "first": course.first.given, "second": course.second.given, "jobs": jobs_of(course)}
        closed = tx.append("handed_over", at=now, ids=ids, body={}, agreement=agreement)
        for leg, held in zip(stored.exchange.legs, (course.first, course.second), strict=True):
            if held.job:
                tx.add_notices("release", held.job, [leg.receiver], now)
    else:
        ids = {"exchange": name, "reason": event.reason or "expired"}
        closed = tx.append("exchange_ended", at=now, ids=ids, body={}, agreement=agreement)
    _keep(tx, stored, course, now, closed)
    host.on_step("exchange-settled")
    return True


def jobs_of(course: Course) -> str:
    """The jobs whose releases are handed over, as the header names them."""
    return ",".join(held.job for held in (course.first, course.second) if held.job)


def at_end_of_log(tx: Transaction, now: int) -> tuple[CarriedExchange, ...]:
    """Every exchange that ends with the log at `now`, milliseconds since 1970, and every one whose right goes on in the next log."""
    found = ((stored.digest, at_epoch(stored.exchange, stored.course, now // 1000)) for stored in tx.live_exchanges())
    return tuple(CarriedExchange(exchange=name, course=course) for name, course in found if course is not None)


def end_with_log(tx: Transaction, carried: Iterable[CarriedExchange], now: int) -> None:
    """Store how exchanges stand in the log that has begun: its first entry closes them."""
    for item in carried:
        stored = tx.exchange(item.exchange)
        if stored is not None:
            _keep(tx, stored, item.course, now, closed=0)


def _due(tx: Transaction, stored: StoredExchange, now: int) -> HandedOver | Ended | None:
    told = [tx.tightenings(name) for name in stored.exchange.agreements]
    event = due(stored.exchange, stored.course, now // 1000, worst_standing(told, now // 1000))
    return None if isinstance(event, HandedOver) and not _is_complete(tx, stored) else event


def _is_complete(tx: Transaction, stored: StoredExchange) -> bool:
    """Whether every sealed release is really here: one that was lost with a database must not make the hand-over one-sided."""
    for held in (stored.course.first, stored.course.second):
        if held.job:
            release = tx.release(held.job)
            if release is None or not release.sealed:
                return False
    return True


def _keep(tx: Transaction, stored: StoredExchange, course: Course, now: int, closed: int = -1) -> None:
    """Store a course; where the exchange ends without a hand-over, delete what was in escrow; tell whoever has to act."""
    tx.set_course(stored.digest, course, closed)
    if course.final and course.stage != "handed_over":
        for held in (course.first, course.second):
            if held.job:
                tx.delete_release(held.job)
    if course.stage != stored.course.stage:
        tx.add_notices("exchange", stored.digest, stored.exchange.participants, now)


def _visible(tx: Transaction, name: str, caller: Participant) -> StoredExchange:
    stored = tx.exchange(name)
    if stored is None or caller.id not in (*stored.exchange.participants, stored.exchange.arbiter):
        raise NotFound("there is no such exchange of yours")
    return stored


def _require_agreed(tx: Transaction, caller: Participant, exchange: Exchange) -> None:
    for name in exchange.agreements:
        stored = visible(tx.agreement(name), caller)
        if stored.state != "active":
            raise Conflict(f"an agreement waits for {', '.join(stored.waiting_for)}", code="agreement-not-active")
        for who in exchange.participants:
            stored.agreement.party(who)
        require_carried(tx, stored, exchange.participants)
        for leg in exchange.legs:
            if leg.agreement == name:
                _require_given(stored, leg)
    if exchange.arbiter is not None:
        visible(tx.agreement(exchange.agreements[0]), caller).agreement.party(exchange.arbiter)


def _require_given(stored: StoredAgreement, leg: Leg) -> None:
    """What a leg asks can be asked, and its test is on the receiver's own rows. What the giver provides under the agreement is for jobs of
    exchanges only: else the receiver could ask for the same outside of one.
    """
    given = [d.dataset for d in stored.agreement.declarations if d.provider == leg.giver]
    if not given:
        raise Malformed(f"`{leg.giver}` provides nothing under the agreement of its leg", where="legs", code="nothing-given")
    if leg.form == "delivery" and not all(stored.agreement.terms_of(name).exchange_only for name in given):
        message = f"the terms of `{leg.giver}` allow jobs outside of an exchange: nothing could be held in escrow"
        raise Conflict(message, code="not-exchange-only")
    if leg.ask is not None:
        plan = parse_plan(leg.ask.sql, stored.agreement.by_dataset, leg.ask.training)
        foreign = [name for name in plan.tested_tables if stored.agreement.by_dataset[name].provider != leg.receiver]
        if foreign:
            raise Malformed(f"`{foreign[0]}` is not of `{leg.receiver}`, who tests the model on its own", where="legs", code="test-table")


def _require_keys(tx: Transaction, exchange: Exchange, who: str) -> None:
    stored = tx.agreement(exchange.agreements[0])
    assert stored is not None, "an exchange rests on agreements"
    require_carried(tx, stored, [who])


def _is_of_this_log(tx: Transaction, stored: StoredExchange) -> bool:
    """Whether the log has the proposal of an exchange: it was proposed since the log began, or the epoch names it (entry 0 closed it)."""
    first = next(iter(tx.entries(0, 1)), None)
    header = None if first is None else parse_header(first)
    return header is None or header.kind != "epoch_opened" or stored.at >= header.at or stored.closed == 0


def _require_this_log(tx: Transaction, stored: StoredExchange) -> None:
    if not _is_of_this_log(tx, stored):
        raise Conflict("the log has begun anew since; propose the exchange anew", code="other-log")

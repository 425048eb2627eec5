"""Exchanges after a restore: folded again from recovered entries. A release that was lost is never half of a hand-over (`escrow`)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from enclaves.kit.envelope import Signed
from policies.codec import decode
from policies.entries import EntryKind, Header
from policies.errors import SandboxError
from policies.escrow import Acted, Course, Ended, Event, HandedOver, JobCharged, JobEnded, advance, begin
from policies.exchange import Exchange, SignedExchangeAct
from sandbox.exchange.escrow_states import StoredExchange
from sandbox.jobs.states import Job

if TYPE_CHECKING:
    from sandbox.store.database import Transaction

KINDS: frozenset[EntryKind] = frozenset({"exchange_proposed", "exchange_act", "handed_over", "exchange_ended"})
UNKNOWN = "unknown"
"""In place of the agreement whose parties may read an entry, where nothing tells of it: then nobody may."""


def readers(tx: Transaction, ids: dict[str, str]) -> str:
    """Return the agreement whose parties may read the body of an entry about an exchange."""
    if "agreements" in ids:
        return ids["agreements"].partition(",")[0]
    stored = tx.exchange(ids["exchange"])
    return UNKNOWN if stored is None else stored.exchange.agreements[0]


def fold(tx: Transaction, header: Header, index: int, body: dict[str, Any] | None) -> None:
    """Fold one entry about an exchange; one whose document nobody opened is left out."""
    ids = header.ids
    if header.kind == "exchange_proposed":
        if body is not None and all(tx.agreement(name) is not None for name in ids["agreements"].split(",")):
            signed = decode(Signed, body["signed"])
            exchange = decode(Exchange, signed.body)
            course = begin(exchange, ids["participant"])
            tx.add_exchange(
                StoredExchange(digest=ids["exchange"], signed=signed, exchange=exchange, course=course, closed=-1, at=header.at)
            )
        return
    stored = tx.exchange(ids["exchange"])
    if stored is None:
        return
    if header.kind == "exchange_act":
        act = SignedExchangeAct.from_ids(ids)
        tx.add_exchange_act(act, header.at)
        tx.set_course(stored.digest, _after(stored, Acted(by=act.by, item=act.item), header.at))
    elif header.kind == "handed_over":
        tx.set_course(stored.digest, replace(_after(stored, HandedOver(), header.at), stage="handed_over"), index)
    else:
        reason: Any = None if ids["reason"] == "expired" else ids["reason"]
        ended = replace(_after(stored, Ended(reason=reason), header.at), stage="returned" if reason else "expired")
        tx.set_course(stored.digest, ended, index)


def fold_job(tx: Transaction, job: Job, kind: EntryKind, ids: dict[str, str], at: int) -> None:
    """Fold what became of the job of a leg: charged, or ended with a release that passed its test or without one."""
    bound = job.request.exchange
    stored = tx.exchange(bound.exchange) if bound is not None else None
    if bound is None or stored is None:
        return
    if kind == "charged":
        tx.set_course(stored.digest, _after(stored, JobCharged(job=job.id, leg=bound.leg), at))
    elif kind in ("released", "withheld", "failed"):
        sealed = ids.get("sealed", "") if kind == "released" and ids.get("accepted") != "no" else ""
        tx.set_course(stored.digest, _after(stored, JobEnded(job=job.id, leg=bound.leg, sealed=sealed), at))


def _after(stored: StoredExchange, event: Event, at: int) -> Course:
    """The course after an event; as it was where entries between are missing, so that the event does not follow."""
    with suppress(SandboxError):
        return advance(stored.exchange, stored.course, event, at // 1000)
    return stored.course

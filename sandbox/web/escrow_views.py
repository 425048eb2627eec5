"""Exchanges as response JSON."""

from __future__ import annotations

from dataclasses import dataclass

from enclaves.kit.envelope import Signed
from policies.escrow import Course, Waiting
from sandbox.exchange.escrow import Shown
from sandbox.exchange.escrow_states import StoredAct


@dataclass(frozen=True, kw_only=True, slots=True)
class ExchangeView:
    """An exchange of the caller's.

    Attributes:
        signed: the document with its proposer's signature.
        course: how far it got; stages are in docs/exchange.md.
        closed: index of the entry that handed everything over, or ended it; -1 before.
        reason: why the host ended it: `deadline`, `terms`, `attempts`, `undecided`, `expired` or `epoch`; else empty.
        at: milliseconds since 1970 at which it was proposed.
        acts: what was signed about it, in the order of the log.
        waiting_for: who has to do what next.
    """

    digest: str
    signed: Signed
    course: Course
    closed: int
    reason: str
    at: int
    acts: tuple[StoredAct, ...]
    waiting_for: tuple[Waiting, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchanges:
    """A page of the caller's exchanges, newest first."""

    exchanges: tuple[ExchangeView, ...]
    next: str | None


def exchange_view(shown: Shown) -> ExchangeView:
    """An exchange as it is answered."""
    stored = shown.stored
    return ExchangeView(
        digest=stored.digest,
        signed=stored.signed,
        course=stored.course,
        closed=stored.closed,
        reason=shown.reason,
        at=stored.at,
        acts=shown.acts,
        waiting_for=shown.waiting,
    )

"""What the host keeps of an exchange, as values."""

from __future__ import annotations

from dataclasses import dataclass

from enclaves.kit.envelope import Signed
from policies.escrow import Course
from policies.exchange import Exchange, SignedExchangeAct


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredExchange:
    """An exchange and how far it got.

    Attributes:
        signed: the document as its proposer signed it.
        closed: index of the entry that handed everything over, or ended it; -1 before.
        at: milliseconds since 1970 at which it was proposed.
    """

    digest: str
    signed: Signed
    exchange: Exchange
    course: Course
    closed: int
    at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredAct:
    """An act with when it was logged, milliseconds since 1970."""

    at: int
    signed: SignedExchangeAct

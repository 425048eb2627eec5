"""What the host keeps of participants, datasets and agreements, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enclaves.kit.envelope import Signed
from policies.agreement import Agreement, Offer
from policies.declaration import Declaration
from policies.lineage import Epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class Participant:
    """An admitted organisation with its public keys in force (hex); once they are revoked, with those, until it is admitted anew."""

    id: str
    title: str
    signing_key: str
    sealing_key: str
    revoked: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochState:
    """The newest epoch of the log; `complete` once every provider of a live agreement has signed it."""

    epoch: Epoch
    complete: bool
    waiting_for: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A declared dataset and its newest version; 0 if none is published."""

    declaration: Declaration
    signed: Signed
    newest: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One encrypted upload that its provider signed for."""

    dataset: str
    version: int
    file_digest: str
    size: int
    signed: Signed


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredOffer:
    """An offer, named by the digest of its document."""

    digest: str
    offer: Offer
    signed: Signed


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredAgreement:
    """An agreement and the signatures that it has so far; `active` once every party has signed."""

    digest: str
    agreement: Agreement
    document: dict[str, object]
    state: Literal["proposed", "active"]
    proposed_by: str
    signatures: tuple[Signed, ...]

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Parties that have not signed."""
        signed = {signature.by for signature in self.signatures}
        return tuple(party.id for party in self.agreement.parties if party.id not in signed)

"""How one log follows from another: a new key of the same log, or a new epoch that opens with the totals of the log before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from policies.agreement import LogIdentity
from policies.codec import omitted
from policies.counts import Counts
from policies.documents import SignedRotation
from policies.entries import LedgerCharge
from policies.errors import Malformed
from policies.escrow import Course
from policies.names import require_digest, require_key, require_name


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRotation:
    """What a log signs, with its old and with its new key, to replace its key. The tree goes on."""

    kind: Literal["log-rotation/1"] = "log-rotation/1"
    origin: str
    old_key: str
    key: str

    def __post_init__(self) -> None:
        require_key(self.old_key, "old_key")
        require_key(self.key, "key")
        if self.old_key == self.key:
            raise Malformed("old and new key must differ", where="key")

    @property
    def old(self) -> LogIdentity:
        """The log as agreements of before name it."""
        return LogIdentity(origin=self.origin, key=self.old_key)

    @property
    def log(self) -> LogIdentity:
        """The log as agreements from now on name it."""
        return LogIdentity(origin=self.origin, key=self.key)


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedLogRotation:
    """A rotation of a log's key with the signatures of both keys (128 hex digits each)."""

    kind: Literal["signed-log-rotation/1"] = "signed-log-rotation/1"
    rotation: LogRotation
    old_signature: str
    new_signature: str

    def to_ids(self) -> dict[str, str]:
        """The header of its `log_rotated` entry."""
        return {
            "origin": self.rotation.origin,
            "old": self.rotation.old_key,
            "key": self.rotation.key,
            "old_signature": self.old_signature,
            "new_signature": self.new_signature,
        }

    @classmethod
    def from_ids(cls, ids: Mapping[str, str]) -> SignedLogRotation:
        """The rotation that a `log_rotated` entry records. Raises Malformed."""
        try:
            rotation = LogRotation(origin=ids["origin"], old_key=ids["old"], key=ids["key"])
            found = cls(rotation=rotation, old_signature=ids["old_signature"], new_signature=ids["new_signature"])
        except KeyError as error:
            raise Malformed("the entry of a rotation does not say all of it") from error
        if found.to_ids() != dict(ids):
            raise Malformed("the entry of a rotation says more than that")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class CarriedExchange:
    """An exchange of the log that ends, as it stands in the one that begins: returned or expired, or handed over with a right left."""

    exchange: str
    course: Course

    def __post_init__(self) -> None:
        require_digest(self.exchange, "exchange")
        if not self.course.final:
            raise Malformed("no exchange goes on in another log but by a right that was handed over", where="course")
        legs = (self.course.first, self.course.second)
        if self.course.stage == "handed_over" and not all(leg.given and leg.acknowledged for leg in legs):
            raise Malformed("one-sided: handed over without both legs", where="course")


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """What every provider signs when a log is lost for good: which log ends, where, which one begins, and with which totals.

    Attributes:
        number: 2 for the first new log of a deployment; a number is used once.
        before: all logs of this lineage that agreements may name, oldest first; the last one ends here.
        size, root: of the last log as far as the operator knows it (RFC 6962 root, hex).
        log: the log that begins.
        providers: who has to sign, by id.
        totals: what every ledger has paid; the new log counts on from there.
        exchanges: those that this ends, and those whose rights go on, by digest.
        counts: what consumers used up under agreements; None in the first epochs, whose logs count anew what the service counts on.
    """

    kind: Literal["epoch/1"] = "epoch/1"
    number: int
    before: tuple[LogIdentity, ...]
    size: int
    root: str
    log: LogIdentity
    providers: tuple[str, ...]
    totals: tuple[LedgerCharge, ...]
    exchanges: tuple[CarriedExchange, ...] = omitted(())
    counts: Counts | None = omitted(None)

    def __post_init__(self) -> None:
        require_key(self.root, "root")
        for name in self.providers:
            require_name(name, "providers")
        if self.number < 2 or self.size < 0:
            raise Malformed("an epoch has a number from 2 and a size from 0", where="number")
        if not self.before or self.log in self.before:
            raise Malformed("an epoch ends one log and begins another", where="before")
        ledgers = [(total.provider, total.id_space) for total in self.totals]
        if ledgers != sorted(set(ledgers)) or list(self.providers) != sorted(set(self.providers)):
            raise Malformed("ledgers and providers stand once each, in order", where="totals")
        carried = [item.exchange for item in self.exchanges]
        if carried != sorted(set(carried)):
            raise Malformed("exchanges stand once each, in order", where="exchanges")

    def total(self, provider: str, id_space: str) -> int:
        """What a ledger opens with, nano-epsilon."""
        return sum(total.amount for total in self.totals if (total.provider, total.id_space) == (provider, id_space))


@dataclass(frozen=True, kw_only=True, slots=True)
class Consent:
    """A provider's signature on an epoch (128 hex digits), and all rotations of its keys since it was admitted."""

    provider: str
    signature: str
    rotations: tuple[SignedRotation, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedEpoch:
    """An epoch with the signatures of all its providers."""

    kind: Literal["signed-epoch/1"] = "signed-epoch/1"
    epoch: Epoch
    consents: tuple[Consent, ...]


LogLink = SignedLogRotation | SignedEpoch
"""One step from a log that an agreement names to the log in force."""


def links_from(log: LogIdentity, links: tuple[LogLink, ...]) -> tuple[LogLink, ...]:
    """Return those of a lineage's links that lead on from `log`."""
    for at, link in enumerate(links):
        old = link.rotation.old if isinstance(link, SignedLogRotation) else link.epoch.before[-1]
        if old == log:
            return links[at:]
    return ()

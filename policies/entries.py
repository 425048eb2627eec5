"""Log entries: a public header, and a salted commitment to a body that an opening reveals. The vocabulary is append-only.

The header names kinds, ids, losses and digests; whatever a reader of the bare log must not learn (queries, columns, declarations) is in
the body. `data` of an entry, the bytes that the log hashes, is the canonical JSON of header and commitment.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal, get_args

from policies.canonical import canonical, parse_canonical
from policies.codec import decode, omitted
from policies.errors import Malformed, Tampered
from policies.names import require_digest, require_key, require_name, require_slug
from policies.privacy import Measure

EntryKind = Literal[
    "opened", "admitted", "declared", "published", "offered", "proposed", "signed", "agreed", "decided", "charged", "granted",
    "attested", "key_released", "key_refused", "running", "released", "withheld", "failed", "cancelled", "expired",
    "rotated", "revoked", "readmitted", "log_rotated", "epoch_opened", "epoch_signed", "repeated",
    "tightened", "awaiting", "approved", "duty_done", "measured", "destroyed", "log_noted",
    "joint_keyed", "joint_contributed", "joint_dropped", "joint_summed", "joint_released", "joint_withheld",
    "renounced", "voided",
    "exchange_proposed", "exchange_act", "handed_over", "exchange_ended",
    "score_decided", "score_answered", "score_refused",
    "audit_scoped",
    "score_returned",
]  # fmt: skip
"""Every kind of entry of version 1. Kinds are only ever added."""

KINDS: tuple[EntryKind, ...] = get_args(EntryKind)
MAX_ENTRY = 65_535
"""Largest entry, bytes (C2SP tlog-tiles: a 16-bit length)."""

SALT_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The public part of an entry.

    Attributes:
        at: milliseconds since 1970 by the host's clock.
        ids: names and digests by field, for example ``{"job": ..., "agreement": ...}``.
        losses: for `charged` and `voided`, provider, id space, amount, delta0 and measure per ledger.
        commitment: SHA-256 over salt and canonical body.
    """

    v: Literal[1] = 1
    kind: EntryKind
    at: int
    ids: dict[str, str]
    losses: tuple[LedgerCharge, ...] = ()
    commitment: str

    def __post_init__(self) -> None:
        require_digest(self.commitment, "commitment")


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerCharge:
    """One ledger's part of a charge, in units of `policies.privacy.Loss`. Charges of the first logs name no measure: they are `pure`."""

    provider: str
    id_space: str
    amount: int
    delta0: int = 0
    measure: Measure = omitted("pure")

    def __post_init__(self) -> None:
        require_name(self.provider, "provider")
        require_slug(self.id_space, "id_space")
        if self.amount < 0 or self.delta0 < 0:
            raise Malformed("a charge never gives back", where="amount")


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """What reveals the body of one entry."""

    index: int
    salt: str
    body: dict[str, Any]


_WRITTEN = frozenset({"v", "kind", "at", "ids", "losses", "commitment"})
_WRITTEN_OF_CHARGES = frozenset({"provider", "id_space", "amount", "delta0"})
"""Fields that are written out whatever they hold; decoding refuses one that must be left out."""


def commit(salt: bytes, body: dict[str, Any]) -> str:
    """Return the commitment to `body` under a 32-byte random `salt`: hiding by the salt, binding by SHA-256."""
    return commit_text(salt, canonical(body))


def commit_text(salt: bytes, text: bytes) -> str:
    """Return the commitment to a body whose canonical bytes are `text`, under a 32-byte salt."""
    if len(salt) != SALT_BYTES:
        raise Malformed(f"a salt has {SALT_BYTES} bytes")
    return "sha256:" + hashlib.sha256(b"sandbox/v1/commitment\n" + salt + text).hexdigest()


def parse_header(data: bytes) -> Header:
    """Return the header that an entry's bytes spell. Raises Malformed, also where the bytes are not its one canonical spelling."""
    value = parse_canonical(data, limit=MAX_ENTRY)
    header = decode(Header, value)
    if not value.keys() >= _WRITTEN or not all(charge.keys() >= _WRITTEN_OF_CHARGES for charge in value["losses"]):
        raise Malformed("the entry is not canonical JSON with every field")
    return header


def open_body(header: Header, opening: Opening) -> dict[str, Any]:
    """Return the body that `opening` reveals, if it is the one committed to. Raises Tampered (code `bad-opening`)."""
    try:
        found = commit(bytes.fromhex(require_key(opening.salt, "salt")), opening.body)
    except Malformed as error:
        raise Tampered("the opening is not a salt and a body", code="bad-opening") from error
    if found != header.commitment:
        raise Tampered("the opening does not match its commitment", code="bad-opening")
    return opening.body

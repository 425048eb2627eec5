"""Checkpoints of other logs as entries of this one: whoever holds an export of this log can prove what the other had signed.

The header of a `log_noted` entry says all: the other log's signed checkpoint, its key, and the proof that leads there from the checkpoint
of the same log that was noted before. The first one pins the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policies.errors import Malformed, Tampered
from policies.names import require_key
from sandbox.audit.checkpoint import Checkpoint, LogKey, open_checkpoint
from sandbox.audit.merkle import verify_consistency

MAX_NOTE = 16_000
"""Longest checkpoint with its cosignatures, characters: an entry has at most 64 KiB."""

MAX_PROOF = 64
"""Most hashes of a consistency proof between trees of fewer than 2^63 leaves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Noted:
    """A checkpoint of another log.

    Attributes:
        origin, key: of the other log; its Ed25519 key in hex.
        note: the signed checkpoint as text.
        proof: consistency proof (RFC 6962) from the checkpoint noted before, hex; empty for the first one of a log.
    """

    origin: str
    key: str
    note: str
    proof: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_key(self.key, "key")
        if len(self.note) > MAX_NOTE:
            raise Malformed(f"is longer than {MAX_NOTE} characters", where="note")
        if len(self.proof) > MAX_PROOF:
            raise Malformed(f"has more than {MAX_PROOF} hashes", where="proof")
        for part in self.proof:
            require_key(part, "proof")

    def to_ids(self) -> dict[str, str]:
        """The header of its entry."""
        return {"origin": self.origin, "key": self.key, "note": self.note, "proof": ",".join(self.proof)}

    @classmethod
    def from_ids(cls, ids: Mapping[str, str]) -> Noted:
        """The checkpoint that an entry records. Raises Malformed."""
        proof = tuple(ids["proof"].split(",")) if ids["proof"] else ()
        return cls(origin=ids["origin"], key=ids["key"], note=ids["note"], proof=proof)

    def opened(self) -> Checkpoint:
        """The checkpoint, if its log signed it. Raises Malformed, Tampered."""
        return open_checkpoint(self.note, LogKey(name=self.origin, public=bytes.fromhex(self.key)))


def require_following(noted: Noted, before: Noted | None) -> Checkpoint:
    """Return the checkpoint if its log signed it and it extends the one noted `before` of that log, if any.

    Raises:
        Tampered: code `checkpoint-signature` or `checkpoint-origin`; `other-key`, for another key than was noted before; `rolled-back`, for
            a smaller tree; `stale`, for the tree that is noted already; `other-history`, where no proof leads from the one before.
        Malformed: no signed checkpoint.
    """
    found = noted.opened()
    if before is None:
        return found
    known = before.opened()
    if noted.key != before.key:
        raise Tampered(f"`{noted.origin}` was noted under another key before", code="other-key")
    if found.size < known.size:
        raise Tampered(f"`{noted.origin}` had {known.size} entries before and has {found.size} now", code="rolled-back")
    if found == known:
        raise Tampered(f"`{noted.origin}` is noted with {known.size} entries already", code="stale")
    try:
        if known.size:
            verify_consistency(known.size, known.root, found.size, found.root, [bytes.fromhex(part) for part in noted.proof])
    except Tampered as error:
        raise Tampered(f"`{noted.origin}` does not extend what was noted before: {error.message}", code="other-history") from error
    return found

"""Which keys of participants are in force, folded from the log's public headers.

Rotations are signed by the key before them; a revocation ends a key.

The fold trusts nobody but the keys that it starts from: whoever asks begins with the keys of an agreement that it signed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from enclaves.kit.envelope import Signed, verify_document
from enclaves.kit.rotation import verify_rotation
from policies.agreement import Party
from policies.codec import decode, encode
from policies.documents import KeyRevocation, SignedRotation
from policies.entries import Header
from policies.errors import Malformed, SandboxError, Tampered
from policies.names import require_key, require_name

OPERATOR = "operator"
"""Who revoked, where the participant itself could not."""

REVOCATION_IDS = frozenset({"participant", "key", "by", "signature"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotated:
    """A verified rotation and the index of its entry."""

    index: int
    signed: SignedRotation


@dataclass(kw_only=True, slots=True)
class Keyring:
    """The fold.

    Attributes:
        rotations: by the signing key that each replaced; a key is replaced once.
        revoked: index of the entry by the signing key revoked.
        made: sequence number of the rotation that made a signing key.
        owners: whose signing key a rotation made.
        known: every signing and sealing key that a rotation named.
    """

    rotations: dict[str, Rotated] = field(default_factory=dict)
    revoked: dict[str, int] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)

    def fold(self, index: int, header: Header) -> None:
        """Take one entry's header. Raises Tampered (code `bad-rotation` or `bad-revocation`) for one that does not follow."""
        try:
            if header.kind == "rotated":
                self._rotate(index, SignedRotation.from_ids(header.ids))
            elif header.kind == "revoked":
                self._revoke(index, header.ids)
        except Malformed as error:
            raise Tampered(error.message, code="bad-rotation" if header.kind == "rotated" else "bad-revocation") from error

    def chain(self, signing_key: str, before: int | None = None) -> tuple[SignedRotation, ...]:
        """The rotations that lead on from a signing key, of those whose entry stands before index `before` (None: of all)."""
        return tuple(item.signed for item in self._chain(signing_key) if before is None or item.index < before)

    def signing_key(self, signing_key: str, before: int | None = None) -> str | None:
        """The signing key in force for one whose key an agreement names; None if it was revoked. `before` as in `chain`."""
        rotations = self.chain(signing_key, before)
        newest = rotations[-1].rotation.signing_key if rotations else signing_key
        at = self.revoked.get(newest)
        return None if at is not None and (before is None or at < before) else newest

    def is_as_agreed(self, party: Party) -> bool:
        """Whether nothing has happened to the keys that an agreement gives a party."""
        return party.signing_key not in self.rotations and party.signing_key not in self.revoked

    def to_json(self) -> dict[str, Any]:
        """The fold as a JSON value."""
        return {
            "rotations": [{"index": item.index, "signed": encode(item.signed)} for item in self.rotations.values()],
            "revoked": dict(self.revoked),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Keyring:
        """The fold that `to_json` gave; signatures are not verified again."""
        found = cls(revoked={key: int(index) for key, index in value["revoked"].items()})
        for item in value["rotations"]:
            found._add(int(item["index"]), decode(SignedRotation, item["signed"]))
        return found

    def copy(self) -> Keyring:
        """An independent copy."""
        return Keyring(
            rotations=dict(self.rotations),
            revoked=dict(self.revoked),
            made=dict(self.made),
            owners=dict(self.owners),
            known=set(self.known),
        )

    def _chain(self, signing_key: str) -> Iterator[Rotated]:
        while signing_key in self.rotations:  # ends: every rotation makes a key that none named before
            yield self.rotations[signing_key]
            signing_key = self.rotations[signing_key].signed.rotation.signing_key

    def _rotate(self, index: int, signed: SignedRotation) -> None:
        rotation = verify_rotation(signed)
        old = rotation.old_key
        if old in self.rotations:
            raise Malformed(f"a key of `{rotation.participant}` is replaced that was replaced before")
        if old in self.revoked:
            raise Malformed(f"a key of `{rotation.participant}` is replaced that was revoked")
        if rotation.sequence != self.made.get(old, 0) + 1:
            raise Malformed(f"rotation {rotation.sequence} of `{rotation.participant}` is not the next one")
        if self.owners.get(old, rotation.participant) != rotation.participant:
            raise Malformed(f"`{rotation.participant}` replaces a key of `{self.owners[old]}`")
        if {rotation.signing_key, rotation.sealing_key} & self.known:
            raise Malformed(f"a new key of `{rotation.participant}` was in use before")
        self._add(index, signed)

    def _add(self, index: int, signed: SignedRotation) -> None:
        rotation = signed.rotation
        self.rotations[rotation.old_key] = Rotated(index=index, signed=signed)
        self.made[rotation.signing_key] = rotation.sequence
        self.owners[rotation.signing_key] = rotation.participant
        self.known |= {rotation.old_key, rotation.signing_key, rotation.sealing_key}

    def _revoke(self, index: int, ids: dict[str, str]) -> None:
        if ids.keys() != REVOCATION_IDS:
            raise Malformed("the entry of a revocation does not say all of it")
        name, key = require_name(ids["participant"], "participant"), require_key(ids["key"], "key")
        if key in self.revoked or key in self.rotations:
            raise Malformed(f"a key of `{name}` is revoked that is not in force")
        if ids["by"] != OPERATOR or ids["signature"]:
            verify_revocation(name, key, ids)
        self.revoked[key] = index


def verify_revocation(name: str, key: str, ids: dict[str, str]) -> None:
    """Raise Malformed unless participant `name` itself signed that its own `key` is revoked, as the ids of the entry say."""
    if ids["by"] != name:
        raise Malformed(f"`{ids['by'][:40]}` cannot revoke the keys of `{name}`")
    body = encode(KeyRevocation(participant=name, signing_key=key))
    try:
        verify_document(Signed(purpose="key-revocation", by=name, body=body, signature=ids["signature"]), "key-revocation", name, key)
    except SandboxError as error:
        raise Malformed(f"the revocation of `{name}` is not signed with the key that it revokes") from error

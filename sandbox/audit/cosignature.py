"""Witness cosignatures (C2SP tlog-cosignature, cosignature/v1 with Ed25519): a witness vouches that it saw one history up to a checkpoint.

The signed message is ``cosignature/v1\\ntime <seconds>\\n`` and the text of the note; the signature line carries the time, 8 bytes
big-endian, before the 64 bytes of the signature.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from enclaves.kit.signatures import SIGNATURE_BYTES, SigningKey, verify_raw
from policies.errors import Malformed, Tampered
from sandbox.audit.checkpoint import NoteKey, signature_line, signature_lines

MAX_TIME = 2**63 - 1
_TIME_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessKey(NoteKey):
    """The Ed25519 key under which a witness cosigns; its name is the witness's."""

    TYPE: ClassVar[bytes] = b"\x04"


def cosign(text: str, name: str, key: SigningKey, at: int) -> str:
    """Return the signature line of witness `name` on a note's text.

    Args:
        text: with its final newline.
        at: seconds since 1970.

    Raises:
        Malformed: for a name that no key can have, or a time out of range.
    """
    witness = WitnessKey(name=name, public=key.public)
    if not 0 < at <= MAX_TIME:
        raise Malformed("the time of a cosignature is a positive number of seconds", code="note")
    return signature_line(witness, at.to_bytes(_TIME_BYTES, "big") + key.sign_raw(_message(text, at)))


def add_lines(note: str, lines: str) -> str:
    """Return a note with further signature lines, without those that it has already."""
    have = set(note.splitlines(keepends=True))
    return note + "".join(line for line in lines.splitlines(keepends=True) if line not in have)


def cosignatures(note: str, witnesses: Iterable[WitnessKey]) -> dict[WitnessKey, int]:
    """Return the time, seconds since 1970, of the newest cosignature by each of `witnesses` that is on a note.

    Lines by others are ignored; every line with the name and id of a known witness must verify.

    Raises:
        Malformed: code "note". Tampered: code "cosignature".
    """
    text, lines = signature_lines(note)
    known = {(witness.name, witness.key_id): witness for witness in witnesses}
    found: dict[WitnessKey, int] = {}
    for name, key_id, signature in lines:
        witness = known.get((name, key_id))
        if witness is None:
            continue
        at = int.from_bytes(signature[:_TIME_BYTES], "big")
        try:
            if len(signature) != _TIME_BYTES + SIGNATURE_BYTES or not 0 < at <= MAX_TIME:
                raise Tampered("a cosignature has a time of 8 bytes and a signature of 64", code="cosignature")
            verify_raw(witness.public, _message(text, at), signature[_TIME_BYTES:])
        except Tampered as error:
            raise Tampered(f"the cosignature of {name} does not verify", code="cosignature") from error
        found[witness] = max(at, found.get(witness, 0))
    return found


def _message(text: str, at: int) -> bytes:
    return f"cosignature/v1\ntime {at}\n{text}".encode()

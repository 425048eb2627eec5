"""Signed checkpoints of the log: C2SP signed-note and tlog-checkpoint with Ed25519. Pure.

A checkpoint's note is ``origin\\nsize\\nbase64(root)\\n``, a blank line, and signature lines ``— <key name>
base64(key id || signature)``. The log signs under its origin: key name and origin are the same text here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

from enclaves.kit.signatures import SigningKey, verify_raw
from policies.errors import Malformed, Tampered
from sandbox.audit.merkle import EMPTY_ROOT, HASH_BYTES

MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 100
MAX_SIZE = 2**63 - 1
"""Largest tree size: other implementations count leaves in a signed 64-bit integer."""

_ED25519 = b"\x01"
_PUBLIC_BYTES = 32
_SIGNATURE_BYTES = 64
_KEY_ID_BYTES = 4
_SIGNATURE_PREFIX = "\u2014 "
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteKey:
    """An Ed25519 key under which notes are signed in one way.

    Args:
        name: key name; not empty, without spaces, control characters and ``+``.
        public: Ed25519 public key, 32 bytes.

    Raises:
        Malformed: code "log-key".
    """

    TYPE: ClassVar[bytes] = b""
    """Signature type (C2SP signed-note, Signature types)."""

    name: str
    public: bytes

    def __post_init__(self) -> None:
        _require_name(self.name, "log-key")
        if len(self.public) != _PUBLIC_BYTES:
            raise Malformed(f"an Ed25519 public key has {_PUBLIC_BYTES} bytes", code="log-key")

    @property
    def key_id(self) -> bytes:
        """SHA-256(name || 0x0A || type || public)[:4] (C2SP signed-note, Signatures)."""
        material = self.name.encode() + b"\n" + self.TYPE + self.public
        return hashlib.sha256(material).digest()[:_KEY_ID_BYTES]

    @property
    def vkey(self) -> str:
        """The verifier key as text: ``name+hex(key id)+base64(type || public)``."""
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(self.TYPE + self.public)}"

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Parse a verifier key and check that its key id belongs to its name and key.

        Raises:
            Malformed: code "log-key".
        """
        # Base64 may contain "+", a name and a hexadecimal id may not.
        parts = vkey.split("+", 2)
        if len(parts) != 3:
            raise Malformed("a verifier key is name+hex(key id)+base64(key)", code="log-key")
        name, key_id, encoded = parts
        material = decode_base64(encoded, "log-key")
        if material[:1] != cls.TYPE:
            raise Malformed(f"only Ed25519 verifier keys of type 0x{cls.TYPE.hex()} are accepted", code="log-key")
        key = cls(name=name, public=material[1:])
        if key.key_id.hex() != key_id:
            raise Malformed("the key id does not belong to this name and key", code="log-key")
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class LogKey(NoteKey):
    """The Ed25519 key under which a log signs; its name is the log's origin."""

    TYPE: ClassVar[bytes] = _ED25519


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a log says about itself at one size.

    Args:
        origin: the log's identity; not empty, without spaces, control characters and ``+``.
        size: leaves in the tree, 0 to 2**63 - 1.
        root: RFC 6962 root of that tree, 32 bytes; `EMPTY_ROOT` exactly at size 0.

    Raises:
        Malformed: code "checkpoint".
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        _require_name(self.origin, "checkpoint")
        if not 0 <= self.size <= MAX_SIZE:
            raise Malformed("a tree's size is from 0 to 2**63 - 1", code="checkpoint", where="size")
        if len(self.root) != HASH_BYTES:
            raise Malformed(f"a root has {HASH_BYTES} bytes", code="checkpoint", where="root")
        if (self.size == 0) != (self.root == EMPTY_ROOT):
            raise Malformed("the empty root belongs to size 0 and to no other", code="checkpoint", where="root")

    def text(self) -> str:
        """Return the note text, three lines without extensions (C2SP tlog-checkpoint, Note text)."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"


def sign(checkpoint: Checkpoint, key: SigningKey) -> str:
    """Return the signed note of `checkpoint`, signed with `key` under the checkpoint's origin as key name."""
    text = checkpoint.text()
    return f"{text}\n{signature_line(LogKey(name=checkpoint.origin, public=key.public), key.sign_raw(text.encode()))}"


def open_checkpoint(note: str, key: LogKey) -> Checkpoint:
    """Verify `note` under `key` and return its checkpoint.

    The text is read only after the signature has been verified. Extension lines are covered by the signature
    and dropped.

    Raises:
        Malformed: code "note" for a bad note, code "checkpoint" for a bad text (at least three non-empty
            lines; a decimal size without leading zeros; canonical base64 of a 32-byte root).
        Tampered: code "checkpoint-signature", or code "checkpoint-origin" when the text names another log
            than `key`.
    """
    return parse_text(open_note(note, key), key.name)


def open_note(note: str, key: LogKey) -> str:
    """Return the text of a signed note, with its final newline.

    At least one signature by `key` must be there. Lines by other keys must be well formed and are otherwise
    ignored; every line with the name and id of `key` must verify (C2SP signed-note, Signatures).

    Raises:
        Malformed: code "note"; also beyond 64 KiB or 100 signatures.
        Tampered: code "checkpoint-signature".
    """
    text, lines = _split_note(note)
    verified = False
    for name, key_id, signature in _signatures(lines):
        if name != key.name or key_id != key.key_id:
            continue
        if len(signature) != _SIGNATURE_BYTES:
            raise Tampered("an Ed25519 signature has 64 bytes", code="checkpoint-signature")
        try:
            verify_raw(key.public, text.encode(), signature)
        except Tampered as error:
            raise Tampered("the log's signature does not verify", code="checkpoint-signature") from error
        verified = True
    if not verified:
        raise Tampered(f"the note has no signature by {key.name}", code="checkpoint-signature")
    return text


def signature_lines(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """The text of a note, with its final newline, and of every signature line the key's name and id and the signature; none is verified.

    Raises:
        Malformed: code "note".
    """
    text, lines = _split_note(note)
    return text, list(_signatures(lines))


def signature_line(key: NoteKey, signature: bytes) -> str:
    """A signature line of a note, with its newline (C2SP signed-note, Format)."""
    return f"{_SIGNATURE_PREFIX}{key.name} {encode_base64(key.key_id + signature)}\n"


def parse_text(text: str, origin: str) -> Checkpoint:
    """Return the checkpoint that a note's text tells of the log `origin`.

    Raises:
        Malformed: code "checkpoint". Tampered: code "checkpoint-origin".
    """
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < 3 or not all(lines):
        raise Malformed("a checkpoint has at least three lines and none is empty", code="checkpoint")
    found, size, root = lines[:3]
    if found != origin:
        raise Tampered("the checkpoint is of another log", code="checkpoint-origin")
    if not _SIZE.fullmatch(size):
        raise Malformed("a tree's size is decimal without leading zeros", code="checkpoint", where="size")
    return Checkpoint(origin=found, size=int(size), root=decode_base64(root, "checkpoint"))


def _split_note(note: str) -> tuple[str, list[str]]:
    """Split at the last empty line into the text, with its final newline, and the signature lines."""
    if len(note) > MAX_NOTE_BYTES or len(_utf8(note, "note")) > MAX_NOTE_BYTES:
        raise Malformed(f"a note has at most {MAX_NOTE_BYTES} bytes", code="note")
    if _CONTROL.search(note):
        raise Malformed("a note has no control characters but newlines", code="note")
    if not note.endswith("\n"):
        raise Malformed("a note ends with a newline", code="note")
    text, separator, signatures = note.rpartition("\n\n")
    if not separator or not signatures:
        raise Malformed("a note is a text, an empty line and signature lines", code="note")
    lines = signatures.removesuffix("\n").split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise Malformed(f"a note has at most {MAX_SIGNATURES} signatures", code="note")
    return text + "\n", lines


def _signatures(lines: list[str]) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield (key name, key id, signature) of each line."""
    for line in lines:
        if not line.startswith(_SIGNATURE_PREFIX):
            raise Malformed("a signature line starts with an em dash and a space", code="note")
        name, _, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
        _require_name(name, "note")
        blob = decode_base64(encoded, "note")
        if len(blob) <= _KEY_ID_BYTES:
            raise Malformed("a signature is a 4-byte key id and at least one byte", code="note")
        yield name, blob[:_KEY_ID_BYTES], blob[_KEY_ID_BYTES:]


def _require_name(name: str, code: str) -> None:
    """Hold a key name to C2SP signed-note, Format: not empty; no Unicode space, plus or control character."""
    if not name or "+" in name or _CONTROL.search(name) or any(char.isspace() for char in name):
        raise Malformed("a name is not empty and has no spaces, control characters or plus signs", code=code)
    _utf8(name, code)


def _utf8(text: str, code: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Malformed("the text is not valid Unicode", code=code) from error


def encode_base64(data: bytes) -> str:
    """Standard base64 (RFC 4648 section 4)."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str, code: str) -> bytes:
    """Decode standard base64 (RFC 4648 section 4), accepting only the canonical spelling of the bytes."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("the text is not base64", code=code) from error
    if encode_base64(data) != text:
        raise Malformed("the base64 is not canonical", code=code)
    return data

"""Ed25519 signatures (RFC 8032) with domain separation; the one owner of `cryptography` for Ed25519.

A signature made for one purpose is worthless for every other: the signed bytes are
``b"sandbox/v1/" + purpose + b"\\n" + message``. Formats that fix the signed bytes themselves (C2SP signed
notes) use the raw pair, which refuses messages in that namespace, so neither way of signing can stand in for
the other.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from policies.errors import Malformed, Tampered

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_NAMESPACE = b"sandbox/v1/"
_PURPOSE = re.compile(r"[a-z0-9-]{1,40}")

_FIELD_PRIME = 2**255 - 19
_ORDER_EIGHT_Y = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_Y = frozenset({0, 1, _FIELD_PRIME - 1, _ORDER_EIGHT_Y, _FIELD_PRIME - _ORDER_EIGHT_Y})
"""y coordinates of the eight points whose order divides the cofactor 8 of edwards25519."""


class SigningKey:
    """An Ed25519 private key. Its text form shows the public fingerprint only."""

    __slots__ = ("_key",)

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> SigningKey:
        """Return a fresh key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, secret: bytes) -> SigningKey:
        """Return the key of the 32-byte seed `secret` (RFC 8032 section 5.1.5).

        Raises:
            Malformed: code ``bad-signing-key`` unless `secret` has 32 bytes.
        """
        if len(secret) != KEY_BYTES:
            raise Malformed(f"An Ed25519 signing key has {KEY_BYTES} bytes.", code="bad-signing-key")
        return cls(Ed25519PrivateKey.from_private_bytes(secret))

    def to_bytes(self) -> bytes:
        """Return the secret 32-byte seed."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """The public key: 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, purpose: str, message: bytes) -> bytes:
        """Return the 64-byte signature of `message` for `purpose`.

        Raises:
            Malformed: code ``bad-purpose`` unless `purpose` is 1 to 40 characters of ``a-z``, ``0-9`` and
            ``-``.
        """
        return self._key.sign(_separated(purpose, message))

    def sign_raw(self, message: bytes) -> bytes:
        """Return the 64-byte signature of exactly `message`, for formats that fix the signed bytes.

        Raises:
            Malformed: code ``reserved-message`` if `message` begins as the ones that `sign` makes.
        """
        if message.startswith(_NAMESPACE):
            raise Malformed("This message is reserved for signatures with a purpose.", code="reserved-message")
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey({fingerprint(self.public)})"


def verify(public: bytes, purpose: str, message: bytes, signature: bytes) -> None:
    """Check that `signature` (64 bytes) is by `public` (32 bytes) over `message` for `purpose`.

    Raises:
        Tampered: code ``bad-signature`` on any failure: wrong lengths, an impossible purpose, a public key
            that is no canonical point (RFC 8032 section 5.1.3) or whose order divides 8, or a signature that
            does not verify.
    """
    try:
        signed = _separated(purpose, message)
    except Malformed:
        raise _bad_signature() from None
    _verify_bytes(public, signed, signature)


def verify_raw(public: bytes, message: bytes, signature: bytes) -> None:
    """Check that `signature` is by `public` over exactly `message`.

    Raises:
        Tampered: code ``bad-signature`` as in `verify`, and for a message that only `SigningKey.sign` may
            sign.
    """
    if message.startswith(_NAMESPACE):
        raise _bad_signature()
    _verify_bytes(public, message, signature)


def fingerprint(public: bytes) -> str:
    """Return what people compare out of band for a 32-byte public key (signing or sealing).

    The first 16 bytes of SHA-256 as 8 groups of 4 hex digits joined by ``-``. That is 128 bits: finding
    another key with the same fingerprint costs about 2^128 trials; one owner could make two of its own keys
    collide in about 2^64, so machines compare whole keys.

    Raises:
        Malformed: code ``bad-public-key`` unless `public` has 32 bytes.
    """
    if len(public) != KEY_BYTES:
        raise Malformed(f"A public key has {KEY_BYTES} bytes.", code="bad-public-key")
    digits = hashlib.sha256(public).hexdigest()[:32]
    return "-".join(digits[at : at + 4] for at in range(0, 32, 4))


def _separated(purpose: str, message: bytes) -> bytes:
    if not _PURPOSE.fullmatch(purpose):
        raise Malformed("A purpose is 1 to 40 characters of a-z, 0-9 and '-'.", code="bad-purpose")
    return _NAMESPACE + purpose.encode("ascii") + b"\n" + message


def _verify_bytes(public: bytes, message: bytes, signature: bytes) -> None:
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        raise _bad_signature()
    try:
        _strong(bytes(public)).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise _bad_signature() from None


@lru_cache(maxsize=1024)
def _strong(public: bytes) -> Ed25519PublicKey:
    """The key of 32 bytes, kept for whoever signs again. Raises ValueError where it is none, or a weak one."""
    if _is_weak(public):
        raise ValueError("a weak key")
    return Ed25519PublicKey.from_public_bytes(public)


def _is_weak(public: bytes) -> bool:
    # Under a small-order key some signatures fit many messages; OpenSSL, which verifies below, accepts such
    # keys.
    y = int.from_bytes(public, "little") & (2**255 - 1)
    return y >= _FIELD_PRIME or y in _SMALL_ORDER_Y


def _bad_signature() -> Tampered:
    return Tampered("The signature does not verify.", code="bad-signature")

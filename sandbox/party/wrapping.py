"""The key that wraps a provider's column keys: in a file, in a file under a passphrase, or in a token that never gives it out.

The passphrase file is JSON: parameters of scrypt (RFC 7914) and the wrapping key under AES-256-GCM with the derived key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from enclaves.kit import sealing
from policies.errors import Malformed, Tampered, Unauthenticated

KEY_BYTES = 32
SALT_BYTES = 16
MIN_PASSPHRASE = 12

SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 17, 8, 1
"""About 128 MiB and a third of a second per attempt (OWASP password storage cheat sheet)."""

_MOST_N = 1 << 20
_CONTEXT = b"sandbox/v1/wrapping-key"


class WrappingKey(Protocol):
    """What wraps and unwraps column keys; where the key lies is its own affair."""

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Return `key` under AES-256-GCM, bound to `context`: nonce (12 bytes), ciphertext, tag (16 bytes)."""

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return the key that was wrapped in this context. Raises Tampered (code `unwrappable`)."""


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A wrapping key in this process's memory. Its text form shows nothing."""

    secret: bytes

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """As `WrappingKey.wrap`."""
        return sealing.wrap_key(self.secret, key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """As `WrappingKey.unwrap`."""
        return sealing.unwrap_key(self.secret, wrapped, context)

    def __repr__(self) -> str:
        return "HeldKey()"


@dataclass(frozen=True, kw_only=True, slots=True)
class Either:
    """Two keys while one replaces the other: new keys are wrapped with the first, and either unwraps."""

    first: WrappingKey
    second: WrappingKey

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """As `WrappingKey.wrap`."""
        return self.first.wrap(key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """As `WrappingKey.unwrap`."""
        try:
            return self.first.unwrap(wrapped, context)
        except Tampered:
            return self.second.unwrap(wrapped, context)


def no_passphrase() -> str:
    """Stands for a passphrase where nobody can be asked. Raises Unauthenticated (code `passphrase`)."""
    raise Unauthenticated("the wrapping key is under a passphrase; name a file that holds it in SANDBOX_PASSPHRASE_FILE", code="passphrase")


def protect_key(secret: bytes, passphrase: str, *, n: int = SCRYPT_N) -> dict[str, Any]:
    """Return the file that holds a 32-byte key under a passphrase. Raises Malformed for one of less than 12 characters."""
    if len(passphrase) < MIN_PASSPHRASE:
        raise Malformed(f"a passphrase has {MIN_PASSPHRASE} characters or more", code="weak-passphrase")
    salt = os.urandom(SALT_BYTES)
    derived = _derive(passphrase, salt, n, SCRYPT_R, SCRYPT_P)
    wrapped = sealing.wrap_key(derived, secret, _CONTEXT)
    return {"kdf": "scrypt", "n": n, "r": SCRYPT_R, "p": SCRYPT_P, "salt": salt.hex(), "wrapped": wrapped.hex()}


def open_key(protected: dict[str, Any], passphrase: Callable[[], str]) -> bytes:
    """Return the key in such a file.

    Raises:
        Unauthenticated: code `passphrase`, if it is another passphrase or the file was changed: the two look alike.
        Malformed: the file is none.
    """
    try:
        salt, wrapped = bytes.fromhex(protected["salt"]), bytes.fromhex(protected["wrapped"])
        n, r, p = (int(protected[name]) for name in ("n", "r", "p"))
        known = protected["kdf"] == "scrypt" and 2 <= n <= _MOST_N and n & (n - 1) == 0 and (r, p) == (SCRYPT_R, SCRYPT_P)
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed("this is no key under a passphrase", code="bad-wrapping-key") from error
    if not known:
        raise Malformed("this is no key under a passphrase", code="bad-wrapping-key")
    try:
        return sealing.unwrap_key(_derive(passphrase(), salt, n, r, p), wrapped, _CONTEXT)
    except Tampered as error:
        raise Unauthenticated("this passphrase does not open the wrapping key", code="passphrase") from error


@lru_cache(maxsize=4)
def _derive(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(passphrase.encode(), salt=salt, n=n, r=r, p=p, dklen=KEY_BYTES, maxmem=256 * n * r)

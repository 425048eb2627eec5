"""A wrapping key in a PKCS#11 token: an HSM, a smart card, or SoftHSM. The one owner of `pkcs11`, which is an optional extra.

The key is made in the token as sensitive and not extractable: what it wraps can be unwrapped there only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from enclaves.kit.sealing import NONCE_BYTES, TAG_BYTES
from policies.errors import Malformed, NotFound, Tampered, Unauthenticated, Unavailable

MISSING = "the extra `pkcs11` is not installed: pip install python-pkcs11"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenKey:
    """An AES-256 key of a token.

    Attributes:
        module: path of the maker's PKCS#11 library.
        token, key: labels.
        pin: asked for once per use.
    """

    module: str
    token: str
    key: str
    pin: Callable[[], str] = field(repr=False, compare=False)

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """As `WrappingKey.wrap`. Raises Unavailable, NotFound or Unauthenticated where token, key or PIN are wrong."""
        nonce = os.urandom(NONCE_BYTES)
        with self._opened() as (pkcs11, held):
            sealed = held.encrypt(key, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=_gcm(nonce, context))
        return nonce + bytes(sealed)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """As `WrappingKey.unwrap`, and as `wrap`."""
        nonce, sealed = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
        if len(sealed) <= TAG_BYTES:
            raise Tampered("The wrapped key cannot be unwrapped.", code="unwrappable")
        with self._opened() as (pkcs11, held):
            try:
                return bytes(held.decrypt(sealed, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=_gcm(nonce, context)))
            except (pkcs11.PKCS11Error, ValueError):
                raise Tampered("The wrapped key cannot be unwrapped.", code="unwrappable") from None

    def make(self) -> None:
        """Make the key in the token, unless there is one of that label."""
        with _session(self) as (pkcs11, session):
            found = list(session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY, pkcs11.Attribute.LABEL: self.key}))
            if not found:
                session.generate_key(
                    pkcs11.KeyType.AES,
                    256,
                    label=self.key,
                    store=True,
                    capabilities=pkcs11.MechanismFlag.ENCRYPT | pkcs11.MechanismFlag.DECRYPT,
                    template={pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False},
                )

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        with _session(self) as (pkcs11, session):
            try:
                held = session.get_key(object_class=pkcs11.ObjectClass.SECRET_KEY, label=self.key)
            except (pkcs11.NoSuchKey, pkcs11.MultipleObjectsReturned) as error:
                raise NotFound(f"token `{self.token}` has no one key `{self.key}`") from error
            yield pkcs11, held


def _gcm(nonce: bytes, context: bytes) -> Any:
    from pkcs11 import GCMParams

    return GCMParams(nonce, aad=context, tag_bits=8 * TAG_BYTES)


@contextmanager
def _session(key: TokenKey) -> Iterator[tuple[Any, Any]]:
    try:
        import pkcs11
    except ImportError as error:
        raise Malformed(MISSING, code="no-pkcs11") from error
    try:
        token = pkcs11.lib(key.module).get_token(token_label=key.token)
    except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
        raise Unavailable(f"there is no token `{key.token}` behind {key.module}", code="token") from error
    try:
        session = token.open(rw=True, user_pin=key.pin())
    except (pkcs11.PinIncorrect, pkcs11.PinLenRange, pkcs11.PinInvalid, pkcs11.PinLocked) as error:
        raise Unauthenticated(f"the PIN does not open token `{key.token}`", code="passphrase") from error
    except pkcs11.PKCS11Error as error:
        raise Unavailable(f"token `{key.token}` cannot be used now", code="token") from error
    with session:
        yield pkcs11, session

"""Sealing to a public key (HPKE) and wrapping keys with a key; the one owner of `pycryptodome`.

HPKE is RFC 9180 in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM. Base mode
authenticates no sender: whoever holds the public key can seal, so origin is proved by a signature or by what
`info` names.
"""

from __future__ import annotations

import secrets

from Crypto.Cipher import AES
from Crypto.Protocol import HPKE
from Crypto.Protocol.DH import import_x25519_private_key, import_x25519_public_key
from Crypto.PublicKey import ECC
from Crypto.PublicKey.ECC import EccKey

from policies.errors import Malformed, Tampered

KEY_BYTES = 32
ENCAPSULATED_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


class SealingKey:
    """An X25519 private key that opens what was sealed to its public key. Its text form shows nothing
    secret."""

    __slots__ = ("_key",)

    def __init__(self, key: EccKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> SealingKey:
        """Return a fresh key from the operating system's randomness."""
        return cls(ECC.generate(curve="Curve25519"))

    @classmethod
    def from_bytes(cls, secret: bytes) -> SealingKey:
        """Return the key of the 32 raw bytes `secret` (RFC 7748 section 5).

        Raises:
            Malformed: code ``bad-sealing-key`` unless `secret` has 32 bytes.
        """
        if len(secret) != KEY_BYTES:
            raise Malformed(f"An X25519 sealing key has {KEY_BYTES} bytes.", code="bad-sealing-key")
        return cls(import_x25519_private_key(bytes(secret)))

    def to_bytes(self) -> bytes:
        """Return the secret 32 bytes."""
        return bytes(self._key.seed)

    @property
    def public(self) -> bytes:
        """The public key: 32 bytes, little-endian u-coordinate."""
        return bytes(self._key.public_key().export_key(format="raw"))

    def open(self, sealed: bytes, info: bytes, aad: bytes = b"") -> bytes:
        """Return the plaintext of `sealed` as `seal` made it for this key with the same `info` and `aad`.

        Raises:
            Tampered: code ``unsealable`` on any failure, without saying which.
        """
        encapsulated, ciphertext = bytes(sealed[:ENCAPSULATED_BYTES]), bytes(sealed[ENCAPSULATED_BYTES:])
        try:
            context = HPKE.new(receiver_key=self._key, aead_id=HPKE.AEAD.AES256_GCM, enc=encapsulated, info=info)
            return bytes(context.unseal(ciphertext, aad))
        except ValueError:
            raise Tampered("The sealed bytes cannot be opened with this key.", code="unsealable") from None

    def __repr__(self) -> str:
        return f"SealingKey(public={self.public.hex()})"


def seal(public: bytes, plaintext: bytes, info: bytes, aad: bytes = b"") -> bytes:
    """Seal `plaintext` to the holder of `public` (32 bytes) under a fresh ephemeral key.

    Returns:
        The encapsulated key (32 bytes), then ciphertext and tag (len(plaintext) + 16 bytes).

    Raises:
        Malformed: code ``bad-public-key`` if `public` has another length, is not a canonical coordinate or
            has low order (then the shared secret would be no secret, RFC 7748 section 6.1).
    """
    context = HPKE.new(receiver_key=_public_key(public), aead_id=HPKE.AEAD.AES256_GCM, info=info)
    return bytes(context.enc) + bytes(context.seal(plaintext, aad))


def wrap_key(kek: bytes, key: bytes, context: bytes) -> bytes:
    """Encrypt `key` under `kek` with AES-256-GCM, bound to `context`.

    Args:
        kek: 32 bytes; with random nonces it must not wrap more than 2^32 keys (NIST SP 800-38D section 8.3).
        key: the secret to wrap, at least one byte.
        context: what the wrapped key is for; unwrapping needs exactly the same bytes.

    Returns:
        Nonce (12 bytes), ciphertext (len(key) bytes), tag (16 bytes).

    Raises:
        Malformed: code ``bad-key`` if `kek` has not 32 bytes or `key` is empty.
    """
    if not key:
        raise Malformed("There is no key to wrap.", code="bad-key")
    nonce = secrets.token_bytes(NONCE_BYTES)
    cipher = AES.new(_kek(kek), AES.MODE_GCM, nonce=nonce, mac_len=TAG_BYTES)
    cipher.update(context)
    ciphertext, tag = cipher.encrypt_and_digest(key)
    return nonce + bytes(ciphertext) + bytes(tag)


def unwrap_key(kek: bytes, wrapped: bytes, context: bytes) -> bytes:
    """Return the key that `wrap_key` wrapped under the same `kek` and `context`.

    Raises:
        Malformed: code ``bad-key`` if `kek` has not 32 bytes.
        Tampered: code ``unwrappable`` if `wrapped` is too short or was not made so.
    """
    kek = _kek(kek)
    nonce, ciphertext, tag = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:-TAG_BYTES], wrapped[-TAG_BYTES:]
    try:
        if not ciphertext:
            raise ValueError
        cipher = AES.new(kek, AES.MODE_GCM, nonce=nonce, mac_len=TAG_BYTES)
        cipher.update(context)
        return bytes(cipher.decrypt_and_verify(ciphertext, tag))
    except ValueError:
        raise Tampered("The wrapped key cannot be unwrapped.", code="unwrappable") from None


def _kek(kek: bytes) -> bytes:
    if len(kek) != KEY_BYTES:
        raise Malformed(f"A wrapping key has {KEY_BYTES} bytes.", code="bad-key")
    return kek


def _public_key(public: bytes) -> EccKey:
    try:
        key = import_x25519_public_key(bytes(public))
    except ValueError:
        key = None
    # HPKE hashes the encoding of the receiver's key: a second encoding of the same point would seal what
    # nobody can open.
    if key is None or key.export_key(format="raw") != public:
        raise Malformed("This is not an X25519 public key that can be sealed to.", code="bad-public-key")
    return key

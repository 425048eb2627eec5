"""Pairwise masks: uniform numbers that cancel in the sum over all contributors, so that one ciphertext alone, even opened, shows nothing.

Every two contributors share a secret by X25519 of the sealing keys that their agreement names (Bonawitz et al. 2017, section 4.1, without
its recovery: who drops out makes a new attempt necessary). HKDF-SHA256 (RFC 5869) binds
it to one manifest; AES-256 in counter mode expands it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from enclaves.kit.he import Words
from enclaves.kit.sealing import SealingKey
from policies.errors import Malformed
from policies.joint import Parameters

_SPARE = 64
"""Words drawn beyond those needed; a draw is thrown away with probability below 2^-22."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskKey:
    """The secret of one pair for one manifest (32 bytes); one of the two adds what it expands to, the other takes it away."""

    key: bytes
    adds: bool

    def __repr__(self) -> str:
        return f"MaskKey(adds={self.adds})"


def mask_keys(own: SealingKey, me: str, peers: Mapping[str, str], manifest: str) -> tuple[MaskKey, ...]:
    """Return what one contributor shares with every other one.

    Args:
        peers: sealing key (hex) of every other contributor, by id.
        manifest: digest of what is added up, for one attempt: another attempt has other masks.

    Raises:
        Malformed: code `bad-public-key`, if a peer's key has low order (RFC 7748 section 6.1).
    """
    return tuple(MaskKey(key=_shared(own, public, manifest, *sorted((me, peer))), adds=me < peer) for peer, public in sorted(peers.items()))


def expand(keys: Iterable[MaskKey], parameters: Parameters, count: int) -> Words:
    """Return the sum of one contributor's masks, mod the plain modulus: `count` words.

    Over all contributors these sums add up to zero. Any of them is uniform to whoever lacks one of its secrets.
    """
    modulus = np.uint64(parameters.plain_modulus)
    total: Words = np.zeros(count, dtype=np.uint64)
    for shared in keys:
        drawn = _uniform(shared.key, parameters.plain_modulus, count)
        total = (total + (drawn if shared.adds else (modulus - drawn) % modulus)) % modulus
    return total


def add_mask(slots: Words, masks: Words, parameters: Parameters, count: int) -> Words:
    """Return packed slots with masks added to the first `count` values; the others, and the guard slots, stay as they are."""
    found = slots.copy()
    flat = found[:, : parameters.slots].reshape(-1)
    flat[:count] = (flat[:count] + masks) % np.uint64(parameters.plain_modulus)
    found[:, : parameters.slots] = flat.reshape(len(slots), parameters.slots)
    return found


def _shared(own: SealingKey, public: str, manifest: str, first: str, second: str) -> bytes:
    try:
        secret = X25519PrivateKey.from_private_bytes(own.to_bytes()).exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(public)))
    except ValueError as error:
        raise Malformed("a contributor's sealing key is none", code="bad-public-key") from error
    info = f"sandbox/v1/mask\n{manifest}\n{first}\n{second}".encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


def _uniform(key: bytes, modulus: int, count: int) -> Words:
    """Words that are exactly uniform below `modulus`: those of its length, less those that are not below it. The key serves once."""
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor()
    found: Words = np.empty(0, dtype=np.uint64)
    while len(found) < count:
        words = np.frombuffer(stream.update(bytes(8 * (count - len(found) + _SPARE))), dtype="<u8")
        words = words & np.uint64((1 << modulus.bit_length()) - 1)
        found = np.concatenate([found, words[words < np.uint64(modulus)]])
    return found[:count]

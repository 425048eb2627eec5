"""HPKE and key wrapping: two implementations open what the other seals; attacks on every input."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.kit.sealing import SealingKey, seal, unwrap_key, wrap_key
from policies.errors import Malformed, Tampered

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
P = 2**255 - 19
# The coordinates of order dividing 8 on Curve25519 and its twist (RFC 7748 section 6.1 asks for this check).
LOW_ORDER = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
    P,
    P + 1,
]

secrets = st.binary(min_size=32, max_size=32)
short = st.binary(max_size=64)
key = SealingKey.from_bytes(bytes(range(32)))


def test_rfc_7748_section_6_1_public_key_is_derived() -> None:
    alice = SealingKey.from_bytes(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"


@settings(deadline=None, max_examples=30)
@given(secret=secrets, plaintext=short, info=short)
def test_a_second_implementation_opens_what_is_sealed(secret: bytes, plaintext: bytes, info: bytes) -> None:
    sealed = seal(SealingKey.from_bytes(secret).public, plaintext, info)
    assert len(sealed) == 32 + len(plaintext) + 16
    assert SUITE.decrypt(sealed, X25519PrivateKey.from_private_bytes(secret), info) == plaintext


@settings(deadline=None, max_examples=30)
@given(secret=secrets, plaintext=short, info=short)
def test_what_a_second_implementation_seals_opens(secret: bytes, plaintext: bytes, info: bytes) -> None:
    recipient = SealingKey.from_bytes(secret)
    sealed = SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(recipient.public), info)
    assert recipient.open(sealed, info) == plaintext
    assert SealingKey.from_bytes(recipient.to_bytes()).public == recipient.public


@settings(deadline=None, max_examples=30)
@given(plaintext=short, info=short, aad=short)
def test_both_implementations_agree_on_associated_bytes(plaintext: bytes, info: bytes, aad: bytes) -> None:
    # The second implementation takes associated bytes only below its public interface.
    private = X25519PrivateKey.from_private_bytes(key.to_bytes())
    sealed = seal(key.public, plaintext, info, aad)
    assert openssl.hpke._decrypt_with_aad(SUITE, sealed, private, info, aad) == plaintext
    sealed = openssl.hpke._encrypt_with_aad(SUITE, plaintext, private.public_key(), info, aad)
    assert key.open(sealed, info, aad) == plaintext


def refuses_to_open(recipient: SealingKey, sealed: bytes, info: bytes, aad: bytes) -> None:
    with pytest.raises(Tampered) as caught:
        recipient.open(sealed, info, aad)
    assert caught.value.code == "unsealable"


def test_sealed_bytes_open_only_with_their_key_info_and_aad() -> None:
    sealed = seal(key.public, b"data key", b"nonce|grant|evidence", b"column")
    assert key.open(sealed, b"nonce|grant|evidence", b"column") == b"data key"
    refuses_to_open(SealingKey.generate(), sealed, b"nonce|grant|evidence", b"column")
    refuses_to_open(key, sealed, b"nonce|grant|other", b"column")
    refuses_to_open(key, sealed, b"nonce|grant|evidence", b"other")
    refuses_to_open(key, sealed, b"nonce|grant|evidence", b"")


def test_any_flipped_bit_of_sealed_bytes_is_detected() -> None:
    sealed = seal(key.public, b"data key", b"info")
    for position in range(len(sealed)):
        for mask in (1, 0x80):
            changed = bytearray(sealed)
            changed[position] ^= mask
            refuses_to_open(key, bytes(changed), b"info", b"")


def test_truncated_sealed_bytes_are_detected() -> None:
    sealed = seal(key.public, b"data key", b"info")
    for length in range(len(sealed)):
        refuses_to_open(key, sealed[:length], b"info", b"")


@pytest.mark.parametrize("coordinate", LOW_ORDER)
def test_low_order_keys_are_refused_on_both_sides(coordinate: int) -> None:
    point = coordinate.to_bytes(32, "little")
    with pytest.raises(Malformed) as caught:
        seal(point, b"data key", b"info")
    assert caught.value.code == "bad-public-key"
    refuses_to_open(key, point + bytes(24), b"info", b"")


def test_a_second_encoding_of_a_public_key_is_refused() -> None:
    same_point = key.public[:31] + bytes([key.public[31] | 0x80])
    for encoding in (same_point, (P + 9).to_bytes(32, "little")):
        with pytest.raises(Malformed):
            seal(encoding, b"data key", b"info")
    seal((9).to_bytes(32, "little"), b"data key", b"info")


def test_keys_of_another_length_are_refused() -> None:
    for length in (0, 31, 33):
        with pytest.raises(Malformed):
            seal(bytes(length), b"data key", b"info")
        with pytest.raises(Malformed):
            SealingKey.from_bytes(bytes(length))


def test_sealing_twice_gives_different_bytes() -> None:
    first, second = seal(key.public, b"data key", b"info"), seal(key.public, b"data key", b"info")
    assert first[:32] != second[:32]
    assert first[32:] != second[32:]


def test_the_secret_is_not_shown() -> None:
    secret = key.to_bytes()
    for text in (repr(key), str(key), f"{key}"):
        assert secret.hex() not in text
        assert str(int.from_bytes(secret, "little")) not in text
        assert "d=" not in text
    assert not hasattr(key, "__dict__")


@given(kek=secrets, wrapped=st.binary(min_size=1, max_size=64), context=short)
def test_a_second_implementation_unwraps_and_wraps(kek: bytes, wrapped: bytes, context: bytes) -> None:
    ours = wrap_key(kek, wrapped, context)
    assert AESGCM(kek).decrypt(ours[:12], ours[12:], context) == wrapped
    nonce = os.urandom(12)
    assert unwrap_key(kek, nonce + AESGCM(kek).encrypt(nonce, wrapped, context), context) == wrapped


def test_a_wrapped_key_opens_only_with_its_kek_and_context() -> None:
    kek = bytes(32)
    wrapped = wrap_key(kek, bytes(range(32)), b"dataset a")
    attempts = [(bytes([1]) * 32, wrapped, b"dataset a"), (kek, wrapped, b"dataset b"), (kek, wrapped, b"")]
    attempts += [(kek, wrapped[:length], b"dataset a") for length in range(len(wrapped))]
    for position in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[position] ^= 1
        attempts.append((kek, bytes(changed), b"dataset a"))
    for attempt in attempts:
        with pytest.raises(Tampered) as caught:
            unwrap_key(*attempt)
        assert caught.value.code == "unwrappable"


def test_wrapping_never_repeats_a_nonce() -> None:
    assert len({wrap_key(bytes(32), b"k", b"")[:12] for _ in range(200)}) == 200


def test_wrapping_keys_are_256_bits() -> None:
    for length in (0, 16, 24, 31, 33):
        with pytest.raises(Malformed):
            wrap_key(bytes(length), b"key", b"")
        with pytest.raises(Malformed):
            unwrap_key(bytes(length), bytes(60), b"")
    with pytest.raises(Malformed):
        wrap_key(bytes(32), b"", b"")

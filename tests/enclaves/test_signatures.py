"""Ed25519 with purposes: published vectors, a second implementation, attacks on keys, purposes and bytes."""

from __future__ import annotations

import pytest
from Crypto.Signature import eddsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from enclaves.kit.signatures import SigningKey, fingerprint, verify, verify_raw
from policies.errors import Malformed, Tampered

RFC_8032_SECTION_7_1 = {
    "test 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "test 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "test 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
}

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

seeds = st.binary(min_size=32, max_size=32)
purposes = st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True)
key = SigningKey.from_bytes(bytes(range(32)))


@pytest.mark.parametrize("case", RFC_8032_SECTION_7_1)
def test_rfc_8032_vectors_are_reproduced(case: str) -> None:
    secret, public, message, signature = map(bytes.fromhex, RFC_8032_SECTION_7_1[case])
    signer = SigningKey.from_bytes(secret)
    assert signer.public == public
    assert signer.to_bytes() == secret
    assert signer.sign_raw(message) == signature
    verify_raw(public, message, signature)


@given(seed=seeds, purpose=purposes, message=st.binary(max_size=200))
def test_a_second_implementation_makes_the_same_signature(seed: bytes, purpose: str, message: bytes) -> None:
    signer = SigningKey.from_bytes(seed)
    other = eddsa.import_private_key(seed)
    signed = b"sandbox/v1/" + purpose.encode() + b"\n" + message
    assert signer.public == other.public_key().export_key(format="raw")
    assert signer.sign(purpose, message) == eddsa.new(other, "rfc8032").sign(signed)
    verify(signer.public, purpose, message, signer.sign(purpose, message))


@given(ours=purposes, theirs=purposes, message=st.binary(max_size=50))
def test_a_signature_serves_no_other_purpose(ours: str, theirs: str, message: bytes) -> None:
    signature = key.sign(ours, message)
    if ours != theirs:
        with pytest.raises(Tampered) as caught:
            verify(key.public, theirs, message, signature)
        assert caught.value.code == "bad-signature"


def test_a_raw_signature_cannot_be_passed_off_as_one_with_a_purpose() -> None:
    reserved = b"sandbox/v1/grant\nmessage"
    with pytest.raises(Malformed) as caught:
        key.sign_raw(reserved)
    assert caught.value.code == "reserved-message"
    with pytest.raises(Tampered):
        verify_raw(key.public, reserved, key.sign("grant", b"message"))


@given(bit=st.integers(0, 511))
def test_any_flipped_signature_bit_is_rejected(bit: int) -> None:
    signature = bytearray(key.sign("grant", b"message"))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Tampered):
        verify(key.public, "grant", b"message", bytes(signature))


@given(bit=st.integers(0, 255))
def test_any_flipped_public_key_bit_is_rejected(bit: int) -> None:
    public = bytearray(key.public)
    public[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Tampered):
        verify(bytes(public), "grant", b"message", key.sign("grant", b"message"))


@pytest.mark.parametrize("cut", [slice(0), slice(31), slice(63)])
def test_wrong_lengths_are_rejected(cut: slice) -> None:
    signature = key.sign("grant", b"message")
    for public, shortened in [
        (key.public, signature[cut]),
        (key.public, signature + b"\0"),
        (key.public[:31], signature),
    ]:
        with pytest.raises(Tampered) as caught:
            verify(public, "grant", b"message", shortened)
        assert caught.value.code == "bad-signature"
    with pytest.raises(Malformed):
        SigningKey.from_bytes(bytes(33))


def test_the_malleated_twin_of_a_signature_is_rejected() -> None:
    signature = key.sign("grant", b"message")
    twin = signature[:32] + (int.from_bytes(signature[32:], "little") + L).to_bytes(32, "little")
    with pytest.raises(Tampered):
        verify(key.public, "grant", b"message", twin)


def add(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
    """Affine addition on edwards25519 (RFC 8032 section 5.1.4)."""
    (x1, y1), (x2, y2) = first, second
    product = D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P,
    )


def times(scalar: int, point: tuple[int, int]) -> tuple[int, int]:
    total = (0, 1)
    for bit in bin(scalar)[2:]:
        total = add(total, total)
        total = add(total, point) if bit == "1" else total
    return total


def small_order_points() -> set[tuple[int, int]]:
    """All eight points of order dividing 8: L times points of the curve, closed under addition."""
    found = {(0, 1)}
    for y in range(2, 40):
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        x = x if x * x % P == square else x * pow(2, (P - 1) // 4, P) % P
        if x * x % P == square:
            found.add(times(L, (x, y)))
    return found | {add(a, b) for a in found for b in found}


def test_small_order_public_keys_are_rejected() -> None:
    points = small_order_points()
    assert len(points) == 8
    identity_signature = (1).to_bytes(32, "little") + bytes(32)
    for x, y in points:
        encodings = {y | (x & 1) << 255, y | (1 - (x & 1)) << 255}
        encodings |= {other + P for other in encodings if (other & (2**255 - 1)) + P < 2**255}
        for encoding in encodings:
            with pytest.raises(Tampered):
                verify_raw(encoding.to_bytes(32, "little"), b"anything", identity_signature)


def test_the_library_alone_would_accept_one_signature_for_every_message() -> None:
    identity = (1).to_bytes(32, "little")
    Ed25519PublicKey.from_public_bytes(identity).verify(identity + bytes(32), b"anything")
    with pytest.raises(Tampered):
        verify_raw(identity, b"anything", identity + bytes(32))


@pytest.mark.parametrize("purpose", ["", "Grant", "a" * 41, "a b", "a\n", "é", "a/b", "a_b"])
def test_an_impossible_purpose_neither_signs_nor_verifies(purpose: str) -> None:
    with pytest.raises(Malformed) as caught:
        key.sign(purpose, b"message")
    assert caught.value.code == "bad-purpose"
    with pytest.raises(Tampered):
        verify(key.public, purpose, b"message", bytes(64))


def test_the_secret_is_not_shown() -> None:
    for text in (repr(key), str(key), f"{key}"):
        assert key.to_bytes().hex() not in text
        assert repr(key.to_bytes()) not in text
    assert not hasattr(key, "__dict__")


def test_generated_keys_differ() -> None:
    assert SigningKey.generate().public != SigningKey.generate().public


def test_a_fingerprint_is_the_first_half_of_sha_256_in_groups() -> None:
    # SHA-256 of 32 zero bytes is 66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925.
    assert fingerprint(bytes(32)) == "6668-7aad-f862-bd77-6c8f-c18b-8e9f-8e20"
    with pytest.raises(Malformed):
        fingerprint(bytes(31))

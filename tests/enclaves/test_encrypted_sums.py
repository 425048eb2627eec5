"""Exact sums under encryption: they equal the plain sums, and nothing that anybody sends in place of a ciphertext gets near SEAL."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import tenseal
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.kit import he, he_score
from enclaves.kit.he_masks import MaskKey, add_mask, expand, mask_keys
from enclaves.kit.sealing import SealingKey
from policies.errors import Malformed, SandboxError, Tampered
from policies.joint import GUARD_SLOTS, NARROW, PARAMETERS, WIDE, Parameters

ROOT = Path(__file__).parents[2]
NAMES = sorted(PARAMETERS)


@pytest.fixture(scope="module")
def keys() -> dict[str, he.KeyPair]:
    return {name: he.generate_key(name) for name in NAMES}


def mask(own: SealingKey, me: str, peers: dict[str, str], manifest: str, parameters: Parameters, count: int) -> he.Words:
    return expand(mask_keys(own, me, peers, manifest), parameters, count)


def encrypted(parameters: Parameters, keys: dict[str, he.KeyPair], values: list[int]) -> he.Words:
    packed = he.pack(parameters.name, np.array(values, dtype=np.int64), parameters.largest)
    return he.encrypt(parameters.name, keys[parameters.name].public, packed)


def opened(parameters: Parameters, keys: dict[str, he.KeyPair], words: he.Words, count: int, window: int) -> list[int]:
    slots = he.decrypt(parameters.name, keys[parameters.name].secret, words)
    return [int(v) for v in he.unpack(parameters.name, slots, count, np.full(count, window, dtype=np.int64))]


def summed(parameters: Parameters, parts: list[he.Words]) -> he.Words:
    total = parts[0].copy()
    for part in parts[1:]:
        he.add_into(parameters.name, total, he.read_ciphertexts(parameters.name, he.write_ciphertexts(part), len(part)))
    return total


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_sums_of_sixteen_are_exact_up_to_the_largest_total(name: str, data: st.DataObject, keys: dict[str, he.KeyPair]) -> None:
    parameters = PARAMETERS[name]
    most = parameters.largest // 16
    edges = st.sampled_from([most, -most, 0, 1, -1]) | st.integers(-most, most)
    rows = data.draw(st.lists(st.lists(edges, min_size=3, max_size=3), min_size=16, max_size=16))
    total = summed(parameters, [encrypted(parameters, keys, row) for row in rows])
    assert opened(parameters, keys, total, 3, parameters.largest) == [sum(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_values_fill_several_ciphertexts_and_come_back_in_order(name: str, keys: dict[str, he.KeyPair]) -> None:
    parameters = PARAMETERS[name]
    values = [*range(-7, parameters.slots * 2 - 7), 5]
    words = encrypted(parameters, keys, values)
    assert len(words) == 3
    assert opened(parameters, keys, words, len(values), parameters.largest) == values


def test_seal_adds_the_same(keys: dict[str, he.KeyPair]) -> None:
    """The sum of residues is SEAL's own sum: a second implementation of what hosts do."""
    import tenseal.sealapi as seal

    parts = [encrypted(WIDE, keys, [n, -(n**3)]) for n in (5, 7)]
    scheme = he._scheme(WIDE.name)
    loaded = [
        he.loaded(seal.Ciphertext(), scheme.context, scheme.stored, scheme.stored.ciphertext_head + he.write_ciphertexts(part[0]))
        for part in parts
    ]
    total = seal.Ciphertext()
    scheme.evaluator.add(loaded[0], loaded[1], total)
    assert he.stored_bytes(total)[len(scheme.stored.ciphertext_head) :] == he.write_ciphertexts(summed(WIDE, parts))


@pytest.mark.parametrize("name", NAMES)
def test_as_many_additions_as_are_allowed_change_nothing(name: str, keys: dict[str, he.KeyPair]) -> None:
    """The same ciphertext each time, whose noise all points one way: no other one adds up to more."""
    parameters = PARAMETERS[name]
    total, times = encrypted(parameters, keys, [1, -2]).copy(), 1
    while 2 * times <= parameters.additions:
        he.add_into(name, total, total.copy())
        times *= 2
    assert times == parameters.additions
    assert opened(parameters, keys, total, 2, parameters.largest) == [times, -2 * times]


def test_where_the_system_allows_no_large_pipe_values_are_encrypted_alike(
    keys: dict[str, he.KeyPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(he, "fcntl", refused)
    words = encrypted(WIDE, keys, [3, -4])
    assert opened(WIDE, keys, words, 2, 10) == [3, -4]


@pytest.mark.parametrize("parameters", [NARROW, WIDE], ids=["narrow", "wide"])
def test_the_parameters_are_what_batching_and_security_need(parameters: Parameters) -> None:
    for prime in (*parameters.primes, parameters.plain_modulus):
        assert prime % (2 * parameters.degree) == 1
        assert all(pow(base, prime - 1, prime) == 1 for base in (2, 3, 5, 7))
    most_bits = {4096: 109, 8192: 218}[parameters.degree]  # Homomorphic Encryption Standard (2018), table 1: 128 bits
    assert sum(prime.bit_length() for prime in parameters.primes) <= most_bits
    assert parameters.largest < parameters.plain_modulus // 2


# --- what is refused before it is encrypted


@pytest.mark.parametrize(
    "values",
    [
        np.array([1.0]),
        np.array([float("nan")]),
        np.array([True]),
        np.array([1], dtype=np.int32),
        np.array([1], dtype=np.uint64),
        np.array([2**70], dtype=object),
        np.array([], dtype=np.int64),
        np.array([[1]], dtype=np.int64),
        [1],
        np.array([101]),
        np.array([-101]),
        np.array([-(2**63)]),
    ],
    ids=repr,
)
def test_floats_and_values_out_of_range_are_refused_and_never_wrapped(values: object) -> None:
    with pytest.raises(Malformed) as refused:
        he.pack(NARROW.name, values, 100)  # type: ignore[arg-type]
    assert refused.value.code == "he-values"


def test_a_slot_beyond_the_plain_modulus_is_refused(keys: dict[str, he.KeyPair]) -> None:
    slots = np.full((1, NARROW.degree), NARROW.plain_modulus, dtype=np.uint64)
    with pytest.raises(Malformed, match="wrap"):
        he.encrypt(NARROW.name, keys[NARROW.name].public, slots)


# --- what is refused when it comes from somebody


def crafted_protobuf(sizes: bytes, ciphertexts: list[bytes]) -> bytes:
    """A protobuf message of TenSEAL's vectors: field 1 packed sizes, field 2 ciphertexts."""

    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    found = b"\x0a" + varint(len(sizes)) + sizes
    return found + b"".join(b"\x12" + varint(len(c)) + c for c in ciphertexts)


def of_other_scheme() -> bytes:
    """An encrypted row of a scoring, under CKKS."""
    _, half = he_score.generate_key("sha256:" + "a" * 64, "r-1")
    return he_score.encrypt_rows(he_score.public_key(half, "sha256:" + "a" * 64, "r-1"), he_score.matrix([[0.5]]))


def hostile(keys: dict[str, he.KeyPair]) -> dict[str, bytes]:
    good = he.write_ciphertexts(encrypted(NARROW, keys, [1, 2, 3]))
    other = he.write_ciphertexts(encrypted(WIDE, keys, [1]))
    bomb = b"\x5e\xa1\x10\x04\x03\x02\x00\x00" + (1 << 31).to_bytes(8, "little") + b"\x28\xb5\x2f\xfd" + bytes(1000)
    return {
        "nothing": b"",
        "truncated": good[:-1],
        "half": good[: len(good) // 2],
        "longer": good + b"\0",
        "twice": good * 2,
        "other parameters": other,
        "other scheme": of_other_scheme(),
        "zeros": bytes(len(good)),
        "all ones": b"\xff" * len(good),
        "no residue": good[:8] + (NARROW.primes[0]).to_bytes(8, "little") + good[16:],
        "transparent": good[: len(good) // 2] + bytes(len(good) // 2),
        "protobuf without ciphertext": crafted_protobuf(b"\x80\x20", []),
        "protobuf of size 0": crafted_protobuf(b"\x00", [good]),
        "protobuf of size 2^63": crafted_protobuf(b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", [good]),
        "protobuf with two ciphertexts": crafted_protobuf(b"\x80\x20", [good, good]),
        "protobuf without ciphertext in a ciphertext's size": crafted_protobuf(b"\x80\x20", []).ljust(len(good), b"\0"),
        "protobuf of size 0 in a ciphertext's size": crafted_protobuf(b"\x00", [good])[: len(good) // 2].ljust(len(good), b"\0"),
        "zstd bomb": bomb,
        "zstd bomb in a ciphertext's size": bomb.ljust(len(good), b"\xff"),
        "text": b"a" * len(good),
    }


def test_no_bytes_but_ciphertexts_of_these_parameters_are_read(keys: dict[str, he.KeyPair]) -> None:
    for name, data in hostile(keys).items():
        with pytest.raises(Malformed) as refused:
            he.read_ciphertexts(NARROW.name, data, 1)
        assert refused.value.code in ("he-size", "he-range", "he-transparent"), name


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300), flips=st.lists(st.integers(0, NARROW.ciphertext_bytes * 8 - 1), min_size=1, max_size=40))
def test_flipped_bits_are_refused_or_found_when_the_total_is_opened(data: bytes, flips: list[int], keys: dict[str, he.KeyPair]) -> None:
    with pytest.raises(Malformed):
        he.read_ciphertexts(NARROW.name, data, 1)
    good = bytearray(he.write_ciphertexts(encrypted(NARROW, keys, [1, 2])))
    # The lowest bits of a coefficient are noise of the encryption, so a flip there changes nothing at all.
    for bit in {flip // 64 * 64 + 30 + flip % 34 for flip in flips}:
        good[bit // 8] ^= 1 << bit % 8
    assert outcome(keys, bytes(good)) in ("[1, 2]", "he-range", "he-implausible")


def outcome(keys: dict[str, he.KeyPair], data: bytes) -> str:
    """The two values that one ciphertext opens to, or why it does not."""
    try:
        return str(opened(NARROW, keys, he.read_ciphertexts(NARROW.name, data, 1), 2, 1000))
    except SandboxError as error:
        return error.code


@pytest.mark.parametrize("name", NAMES)
def test_a_ciphertext_under_another_key_makes_the_total_implausible(name: str, keys: dict[str, he.KeyPair]) -> None:
    parameters = PARAMETERS[name]
    packed = he.pack(name, np.array([4], dtype=np.int64), 10)
    foreign = he.encrypt(name, he.generate_key(name).public, packed)
    with pytest.raises(Tampered) as aborted:
        opened(parameters, keys, summed(parameters, [encrypted(parameters, keys, [3]), foreign]), 1, parameters.largest)
    assert aborted.value.code == "he-implausible"


@pytest.mark.parametrize("name", NAMES)
def test_the_ciphertext_that_adds_the_secret_key_to_the_total_opens_to_nothing(name: str, keys: dict[str, he.KeyPair]) -> None:
    """c0 = 0 and c1 = floor(q / t): the decryption of a sum with it is the sum plus the secret key."""
    parameters = PARAMETERS[name]
    modulus = 1
    for prime in parameters.data_primes:
        modulus *= prime
    evil = np.zeros((1, *parameters.shape), dtype=np.uint64)
    for index, prime in enumerate(parameters.data_primes):
        evil[0, 1, index, 0] = (modulus // parameters.plain_modulus) % prime
    words = he.read_ciphertexts(name, he.write_ciphertexts(evil), 1)
    total = summed(parameters, [encrypted(parameters, keys, [7] * 20), words])
    slots = he.decrypt(name, keys[name].secret, total)
    assert slots[:, parameters.slots :].any(), "a guard slot must tell"
    with pytest.raises(Tampered) as aborted:
        he.unpack(name, slots, 20, np.full(20, parameters.largest, dtype=np.int64))
    assert str(aborted.value) == "the total is not plausible"


def test_a_total_out_of_its_window_says_no_more_than_that(keys: dict[str, he.KeyPair]) -> None:
    words = encrypted(NARROW, keys, [10, -11])
    assert opened(NARROW, keys, words, 2, 11) == [10, -11]
    with pytest.raises(Tampered) as high:
        opened(NARROW, keys, words, 2, 10)
    with pytest.raises(Tampered) as hidden:
        opened(NARROW, keys, words, 1, 11)  # a value where none belongs
    assert str(high.value) == str(hidden.value)
    assert high.value.code == hidden.value.code


@pytest.mark.parametrize("change", ["short", "long", "range", "empty second"])
def test_a_public_key_of_another_shape_is_not_loaded(change: str, keys: dict[str, he.KeyPair]) -> None:
    good = keys[NARROW.name].public
    bad = {
        "short": good[:-8],
        "long": good + bytes(8),
        "range": NARROW.primes[0].to_bytes(8, "little") + good[8:],
        "empty second": good[: len(good) // 2] + bytes(len(good) // 2),
    }[change]
    with pytest.raises(Malformed) as refused:
        he.encrypt(NARROW.name, bad, he.pack(NARROW.name, np.array([1]), 1))
    assert refused.value.code == "he-key"


def test_a_context_in_place_of_a_key_is_not_loaded(keys: dict[str, he.KeyPair]) -> None:
    """TenSEAL's vectors come with a context and load it; here its bytes are no key, in whatever length they come."""
    sent = tenseal.context(tenseal.SCHEME_TYPE.BFV, poly_modulus_degree=4096, plain_modulus=NARROW.plain_modulus).serialize()
    packed, size = he.pack(NARROW.name, np.array([1]), 1), len(keys[NARROW.name].public)
    for data in (sent, sent[:size], sent.ljust(size, b"\0"), (sent * (size // len(sent) + 1))[:size]):
        with pytest.raises(Malformed) as refused:
            he.encrypt(NARROW.name, data, packed)
        assert refused.value.code == "he-key"


def test_nothing_of_anybodys_makes_a_context_or_parameters() -> None:
    """Contexts are made from pinned parameters alone; SEAL loads keys and ciphertexts whose residues were compared, and nothing else."""
    made, loads = set[str](), set[str]()
    for folder in ("enclaves", "sandbox", "policies"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)) if "seal" in text else ():
                if not isinstance(node, ast.Call):
                    continue
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in ("SEALContext", "EncryptionParameters", "context", "context_from"):
                    made.add(f"{path.name} {ast.unparse(node)}")
                if called in ("loaded", "load") and node.args and "seal" in ast.unparse(node.args[0]):
                    loads.add(ast.unparse(node.args[0]))
    assert {call.partition("(")[0].rpartition(" ")[2] for call in made} == {"seal.SEALContext", "seal.EncryptionParameters"}
    assert all("made" in call or "SCHEME_TYPE" in call for call in made)
    assert loads <= {"seal.PublicKey()", "seal.SecretKey()", "seal.Ciphertext()"}


def test_the_text_of_a_key_pair_shows_nothing(keys: dict[str, he.KeyPair]) -> None:
    assert repr(keys[NARROW.name]) == "KeyPair()"
    assert repr(MaskKey(key=b"\x01" * 32, adds=True)) == "MaskKey(adds=True)"


def test_a_peer_whose_key_makes_the_secret_known_is_refused() -> None:
    with pytest.raises(Malformed) as refused:
        mask_keys(SealingKey.generate(), "a", {"b": "00" * 32}, "sha256:m")
    assert refused.value.code == "bad-public-key"


# --- masks


@pytest.mark.parametrize("parameters", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("contributors", [2, 5])
def test_masks_cancel_over_all_contributors_and_over_nobody_else(parameters: Parameters, contributors: int) -> None:
    sealing = {f"firm_{n}": SealingKey.generate() for n in range(contributors)}
    publics = {name: key.public.hex() for name, key in sealing.items()}
    drawn = {
        name: mask(key, name, {peer: public for peer, public in publics.items() if peer != name}, "sha256:m", parameters, 50)
        for name, key in sealing.items()
    }
    modulus = parameters.plain_modulus
    assert all(sum(int(drawn[name][i]) for name in drawn) % modulus == 0 for i in range(50))
    for left in drawn:
        rest = [sum(int(drawn[name][i]) for name in drawn if name != left) % modulus for i in range(50)]
        assert sum(value == 0 for value in rest) == 0


def test_masks_of_another_attempt_are_other_masks() -> None:
    first, second = SealingKey.generate(), SealingKey.generate()
    peers = {"b": second.public.hex()}
    one, other = (mask(first, "a", peers, manifest, WIDE, 40) for manifest in ("sha256:1", "sha256:2"))
    assert not (one == other).any()


def test_masks_leave_guard_slots_and_the_padding_alone() -> None:
    peers = {"b": SealingKey.generate().public.hex()}
    slots = he.pack(NARROW.name, np.array([5, 6], dtype=np.int64), 10)
    masked = add_mask(slots, mask(SealingKey.generate(), "a", peers, "sha256:m", NARROW, 2), NARROW, 2)
    assert masked[0, :2].tolist() != [5, 6]
    assert not masked[0, 2:].any()
    assert masked.shape[1] - NARROW.slots == GUARD_SLOTS


def test_a_masked_contribution_alone_opens_to_nothing_that_it_holds(keys: dict[str, he.KeyPair]) -> None:
    """Who holds the key and sees every single ciphertext, as host and key holder together do, sees uniform numbers."""
    own, peer = SealingKey.generate(), SealingKey.generate()
    ciphers = []
    for me, other, key, value in (("a", "b", own, peer), ("b", "a", peer, own)):
        slots = he.pack(NARROW.name, np.full(200, 3 if me == "a" else 4, dtype=np.int64), 10)
        masked = add_mask(slots, mask(key, me, {other: value.public.hex()}, "sha256:m", NARROW, 200), NARROW, 200)
        ciphers.append(he.encrypt(NARROW.name, keys[NARROW.name].public, masked))
    single = he.decrypt(NARROW.name, keys[NARROW.name].secret, ciphers[0])[0, :200]
    assert len(set(single.tolist())) == 200
    assert (single > 2**32).sum() > 150
    assert opened(NARROW, keys, summed(NARROW, ciphers), 200, 16) == [7] * 200

"""Weighted sums of encrypted columns: CKKS by SEAL, reached through `tenseal.sealapi`, with bare residues as in `enclaves.kit.he`.

Everything that travels is in coefficient form, `policies.scorer` has its sizes and the argument of what an answer hides. Whoever scores
multiplies residues by small integers in numpy and hands SEAL nothing of the client's but half a public key, whose shape was checked.

`open_scores` is the only function that decrypts, and it takes a `ClientKey`: there is no such value but in the process of the key's owner.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as seal

from enclaves.kit import he
from enclaves.kit.he import Words
from policies.errors import Malformed
from policies.joint import SCORING
from policies.scorer import (
    BLOCK,
    CIPHERTEXT_BYTES,
    DATA_PRIMES,
    DEGREE,
    FINE,
    FLOOD_BITS,
    INPUT_SCALE,
    KEY_BYTES,
    PRIMES,
    Scorer,
    blocks,
    request_bytes,
)

Reals = npt.NDArray[np.float64]

ANSWER_SCALE = INPUT_SCALE + FINE
COLUMNS = 1 << 13
"""Halves of residues that are multiplied at a time, so that they stay in the cache."""

_SHAPE = (2, len(DATA_PRIMES), DEGREE)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scheme:
    context: Any
    encoder: Any
    evaluator: Any
    stored: he.Stored


class ClientKey:
    """The secret key of one request. It cannot be written anywhere but by `to_bytes`, and its text form shows nothing."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise Malformed("this is not a secret key for scores", code="he-key")
        self._secret = secret

    def to_bytes(self) -> bytes:
        """The key, for the owner's own disk."""
        return self._secret

    def __repr__(self) -> str:
        return "ClientKey()"

    def __reduce__(self) -> str:
        raise TypeError("a client's key goes to no other process")


def common_half(agreement: str, request_id: str) -> Words:
    """Return the half of a public key that nobody chooses: SHAKE-256 of agreement and request; shape (primes, degree).

    With a half of the client's making, an answer's second polynomial could be left unmasked: the model times what the client sent.
    """
    found = np.empty((len(PRIMES), DEGREE), dtype=np.uint64)
    for index, prime in enumerate(PRIMES):
        seed = f"sandbox/v1/score-key\n{agreement}\n{request_id}\n{index}".encode()
        words = np.frombuffer(hashlib.shake_256(seed).digest(9 * DEGREE), dtype="<u8") & np.uint64(2**60 - 1)
        kept = words[words < np.uint64(prime)]  # all but one in 2^42
        found[index] = kept[:DEGREE]
    return found


def generate_key(agreement: str, request_id: str) -> tuple[ClientKey, bytes]:
    """Return a fresh secret key and the client's half of its public key, b = -(a s + e) for the common half a.

    e is the noise of a key that SEAL made for the same secret and that nobody sees.
    """
    scheme = _scheme()
    made = seal.KeyGenerator(scheme.context)
    own, size = seal.PublicKey(), KEY_BYTES
    made.create_public_key(own)
    secret = he.stored_bytes(made.secret_key())[-size:]
    s = np.frombuffer(secret, dtype="<u8").reshape(len(PRIMES), DEGREE)
    b, a = np.frombuffer(he.stored_bytes(own)[-2 * size :], dtype="<u8").reshape(2, len(PRIMES), DEGREE)
    wanted = common_half(agreement, request_id)
    halves = [
        (b[i].astype(object) + (a[i].astype(object) - wanted[i].astype(object)) * s[i].astype(object)) % prime
        for i, prime in enumerate(PRIMES)
    ]
    return ClientKey(secret), np.stack(halves).astype("<u8").tobytes()


def public_key(half: bytes, agreement: str, request_id: str) -> bytes:
    """Return a whole public key from its client's half. Raises Malformed (code `he-key`) where that is none."""
    whole = half + common_half(agreement, request_id).astype("<u8").tobytes()
    he.require_public_key(he.parameters_named(SCORING.name), whole)
    return whole


def matrix(rows: Sequence[Sequence[float]]) -> Reals:
    """Return rows as `encrypt_rows` takes them."""
    return np.array(rows, dtype=np.float64)


def encrypt_rows(public: bytes, coordinates: Reals) -> bytes:
    """Return ciphertexts of rows, column-packed.

    Args:
        coordinates: (rows, width), each in [-1, 1].

    Raises:
        Malformed: code `he-values`, for anything else: NaN, other types, values beyond; nothing is clipped.
    """
    if coordinates.dtype != np.float64 or coordinates.ndim != 2 or not coordinates.size:
        raise Malformed("coordinates are a matrix of 64-bit floats", code="he-values")
    if not bool((np.abs(coordinates) <= 1.0).all()):
        raise Malformed("a coordinate is no number in [-1, 1]", code="he-values")
    scheme = _scheme()
    encryptor = _encryptor(public)
    plain, found = seal.Plaintext(), []
    for first in range(0, len(coordinates), BLOCK):
        block = np.zeros((coordinates.shape[1], BLOCK))
        part = coordinates[first : first + BLOCK]
        block[:, : len(part)] = part.T
        for column in block:
            scheme.encoder.encode(column.tolist(), 2.0**INPUT_SCALE, plain)
            found.append(_encrypted(encryptor, plain))
    return b"".join(found)


def score(scorer: Scorer, weights: Sequence[Sequence[int]], data: bytes, rows: int, agreement: str, request_id: str) -> bytes:
    """Return the answer to a client's file.

    Args:
        weights: per output, bias first, in 2^-14 (`policies.scorer.fine_weights`).
        data: from anybody.

    Raises:
        Malformed: code `he-size`, `he-range`, `he-transparent` or `he-key`: these are no ciphertexts of this request.
    """
    if len(data) != request_bytes(scorer, rows):
        raise Malformed("the file has another size than its request", code="he-size")
    public = public_key(data[:KEY_BYTES], agreement, request_id)
    count = blocks(rows)
    words = he.read_ciphertexts(SCORING.name, memoryview(data)[KEY_BYTES:], count * scorer.width)
    encryptor, step = _encryptor(public), scorer.step_units / 10**6
    factors, found = np.array([row[1:] for row in weights], dtype=np.float64), []
    for block in words.reshape(count, scorer.width, *_SHAPE):
        for sums, (bias, *_) in zip(_combine(factors, block), weights, strict=True):
            fresh = np.frombuffer(_encrypted(encryptor, _masking(step)), dtype="<u8").reshape(_SHAPE).copy()
            _add_integers(fresh[0], _flood())
            _add_constant(fresh[0], bias << INPUT_SCALE)
            total = sums[None]
            he.add_into(SCORING.name, total, fresh[None])
            found.append(he.write_ciphertexts(total))
    return b"".join(found)


def open_scores(key: ClientKey, data: bytes, rows: int, outputs: int) -> Reals:
    """Return the numbers of an answer, (rows, outputs). They are the key's owner's alone: whoever else sees them may compute the key.

    Raises:
        Malformed: code `he-size`, `he-range` or `he-transparent`: this is no answer.
    """
    scheme, count = _scheme(), blocks(rows)
    words = he.read_ciphertexts(SCORING.name, data, count * outputs)
    secret = he.loaded(seal.SecretKey(), scheme.context, scheme.stored, scheme.stored.secret_head + key.to_bytes())
    decryptor, plain = seal.Decryptor(scheme.context, secret), seal.Plaintext()
    found = np.empty((count * outputs, BLOCK))
    for index, one in enumerate(words):
        encrypted = he.loaded(seal.Ciphertext(), scheme.context, scheme.stored, scheme.stored.ciphertext_head + he.write_ciphertexts(one))
        scheme.evaluator.transform_to_ntt_inplace(encrypted)
        decryptor.decrypt(encrypted, plain)
        found[index] = scheme.encoder.decode_double(plain)
    shaped = found.reshape(count, outputs, BLOCK).transpose(0, 2, 1).reshape(count * BLOCK, outputs)
    result: Reals = shaped[:rows]
    return result


def use_once() -> None:
    """Use everything that scoring needs on zeros of one's own, where libraries cannot be loaded later."""
    from policies.training import Encoded

    scorer = Scorer(
        dataset="own.zeros",
        features=(Encoded(column="zero", encoding="scaled", lower=0, upper=1),),
        link="logistic",
        outputs=1,
        rows=1,
    )
    bound = ("sha256:" + "0" * 64, "request-0000")
    _, half = generate_key(*bound)
    score(scorer, [[0, 0]], half + encrypt_rows(public_key(half, *bound), matrix([[0.0]])), 1, *bound)


def _combine(factors: Reals, block: Words) -> Words:
    """Weighted sums of residues: (outputs, *shape). Halves of 32 bits times 2^20 stay below 2^53, so floating point is exact."""
    width = len(block)
    halves = block.reshape(width, -1).view(np.uint32)
    found = np.empty((len(factors), halves.shape[1] // 2), dtype=np.uint64)
    per_prime = DEGREE
    for first in range(0, halves.shape[1], COLUMNS):
        part = factors @ halves[:, first : first + COLUMNS].astype(np.float64)
        low, high = part[:, 0::2].astype(np.int64), part[:, 1::2].astype(np.int64)
        prime = DATA_PRIMES[(first // 2 // per_prime) % len(DATA_PRIMES)]
        top, rest = high >> 28, high & (2**28 - 1)  # high 2^32 = top 2^60 + rest 2^32, and 2^60 is `beyond` modulo the prime
        beyond = 2**60 - prime
        found[:, first // 2 : (first + COLUMNS) // 2] = ((top * beyond + (rest << 32) + low) % prime).astype(np.uint64)
    return found.reshape(len(factors), *_SHAPE)


def _masking(step: float) -> Any:
    """A plaintext of numbers uniform in [-step/2, step/2]; of zeros without a step."""
    plain = seal.Plaintext()
    drawn = np.frombuffer(secrets.token_bytes(8 * BLOCK), dtype="<u8").astype(np.float64) / 2.0**64 - 0.5
    _scheme().encoder.encode((drawn * step).tolist(), 2.0**ANSWER_SCALE, plain)
    return plain


def _flood() -> list[Words]:
    """Uniform integers in [-2^84, 2^84) per coefficient, as residues per prime."""
    words = np.frombuffer(secrets.token_bytes(16 * DEGREE), dtype="<u8").reshape(2, DEGREE)
    low, high = words[0] & np.uint64(2**60 - 1), words[1] & np.uint64(2 ** (FLOOD_BITS + 1 - 60) - 1)
    found = []
    for prime in DATA_PRIMES:
        beyond = np.uint64(2**60 - prime)
        centred = (high * beyond + low) % np.uint64(prime)
        found.append((centred + np.uint64(prime - 2**FLOOD_BITS % prime)) % np.uint64(prime))
    return found


def _add_integers(polynomial: Words, residues: list[Words]) -> None:
    for index, prime in enumerate(DATA_PRIMES):
        polynomial[index] = (polynomial[index] + residues[index]) % np.uint64(prime)


def _add_constant(polynomial: Words, value: int) -> None:
    """Add a number to every slot: it is the constant coefficient."""
    for index, prime in enumerate(DATA_PRIMES):
        polynomial[index, 0] = (int(polynomial[index, 0]) + value) % prime


def _encryptor(public: bytes) -> Any:
    scheme = _scheme()
    return seal.Encryptor(scheme.context, he.loaded(seal.PublicKey(), scheme.context, scheme.stored, scheme.stored.public_head + public))


def _encrypted(encryptor: Any, plain: Any) -> bytes:
    encrypted = seal.Ciphertext()
    encryptor.encrypt(plain, encrypted)
    _scheme().evaluator.transform_from_ntt_inplace(encrypted)
    return he.stored_bytes(encrypted)[-CIPHERTEXT_BYTES:]


@cache
def _scheme() -> _Scheme:
    """The pinned context. Raises RuntimeError where SEAL does not hold the parameters for 128-bit secure."""
    made = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    made.set_poly_modulus_degree(DEGREE)
    made.set_coeff_modulus([seal.Modulus(prime) for prime in PRIMES])
    context = seal.SEALContext(made, True, seal.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise RuntimeError("SEAL refuses the parameters of scores")
    keys, public, plain, encrypted = seal.KeyGenerator(context), seal.PublicKey(), seal.Plaintext(), seal.Ciphertext()
    keys.create_public_key(public)
    encoder, evaluator = seal.CKKSEncoder(context), seal.Evaluator(context)
    encoder.encode([0.0] * BLOCK, 2.0**ANSWER_SCALE, plain)
    seal.Encryptor(context, public).encrypt(plain, encrypted)
    evaluator.transform_from_ntt_inplace(encrypted)
    return _Scheme(
        context=context,
        encoder=encoder,
        evaluator=evaluator,
        stored=he.Stored.of(encrypted, CIPHERTEXT_BYTES, public, 2 * KEY_BYTES, keys.secret_key(), KEY_BYTES),
    )

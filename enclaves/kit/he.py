"""Exact sums of encrypted integers: BFV (Fan and Vercauteren, eprint 2012/144) by SEAL, reached through `tenseal.sealapi`.

What travels is not a serialised object but the bare coefficients of fresh ciphertexts: `Parameters.ciphertext_bytes` each, little-endian,
nothing else. Whether bytes are ciphertexts is therefore decided by their number and by comparisons, before SEAL sees them, and a host adds
them without SEAL at all. Parameters are pinned here by name; no context, modulus or compressed stream is ever read from anybody.

A key serves one job and one decryption. There is no CKKS here: what it decrypts may be shown to nobody but the owner of the key
(`enclaves.kit.he_score`).
"""

from __future__ import annotations

import os
import struct
from array import array
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fcntl import F_SETPIPE_SZ, fcntl
from functools import cache
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tenseal.sealapi as seal

from policies.errors import Malformed, Tampered
from policies.joint import GUARD_SLOTS, PARAMETERS, Parameters

Words = npt.NDArray[np.uint64]
"""Ciphertexts: shape (count, 2, data primes, degree); residues in coefficient order."""

Integers = npt.NDArray[np.int64]

_HEADER = struct.Struct("<HBBBBHQ")
"""SEAL's own: magic, header size, major and minor version, compression, reserved, total size in bytes."""

_MAGIC = 0xA15E
_ZSTD = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """The bytes that come before the coefficients where SEAL stores objects of one set of parameters, and its version."""

    version: tuple[int, int]
    ciphertext_head: bytes
    public_head: bytes
    secret_head: bytes

    @classmethod
    def of(cls, encrypted: Any, encrypted_bytes: int, public: Any, public_bytes: int, secret: Any, secret_bytes: int) -> Stored:
        """Those of own objects whose coefficients have so many bytes."""
        with _Memory() as memory:
            memory.stored(public)
            version = _HEADER.unpack(memory.read()[: _HEADER.size])[2:4]
        return cls(
            version=version,
            ciphertext_head=stored_bytes(encrypted)[:-encrypted_bytes],
            public_head=stored_bytes(public)[:-public_bytes],
            secret_head=stored_bytes(secret)[:-secret_bytes],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scheme:
    """SEAL's objects for one set of parameters."""

    parameters: Parameters
    context: Any
    encoder: Any
    evaluator: Any
    stored: Stored


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPair:
    """A fresh key pair as bare coefficients. The text form shows nothing secret."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return "KeyPair()"


def generate_key(name: str) -> KeyPair:
    """Return a fresh key pair for the parameters of that name. Raises Malformed for an unknown name."""
    scheme = _scheme(name)
    made = seal.KeyGenerator(scheme.context)
    public = seal.PublicKey()
    made.create_public_key(public)
    parameters = scheme.parameters
    return KeyPair(
        public=stored_bytes(public)[-parameters.public_key_bytes :],
        secret=stored_bytes(made.secret_key())[-parameters.secret_key_bytes :],
    )


def encrypt(name: str, public: bytes, slots: Words, *, processes: int = 1) -> Words:
    """Return fresh encryptions of slots.

    Args:
        public: a public key as `generate_key` gives it.
        slots: shape (count, degree), each below the plain modulus.
        processes: SEAL's bindings hold the interpreter's lock, so several cores take several processes.

    Raises:
        Malformed: code `he-key` or `he-slots`.
    """
    parameters = parameters_named(name)
    require_public_key(parameters, public)
    if slots.dtype != np.uint64 or slots.ndim != 2 or slots.shape[1] != parameters.degree or not len(slots):
        raise Malformed("there are no whole ciphertexts to fill", code="he-slots")
    if int(slots.max()) >= parameters.plain_modulus:
        raise Malformed("a slot lies beyond the plain modulus: it would wrap", code="he-slots")
    if processes <= 1 or len(slots) < 2 * processes:
        return _encrypt(name, public, slots)
    parts = np.array_split(slots, processes)
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        return np.concatenate(list(pool.map(_encrypt, [name] * processes, [public] * processes, parts)))


def _encrypt(name: str, public: bytes, slots: Words) -> Words:
    scheme = _scheme(name)
    parameters = scheme.parameters
    encryptor = seal.Encryptor(scheme.context, loaded(seal.PublicKey(), scheme.context, scheme.stored, scheme.stored.public_head + public))
    plain, encrypted = seal.Plaintext(), seal.Ciphertext()
    found = np.empty((len(slots), *parameters.shape), dtype=np.uint64)
    with _Memory(room=2 * parameters.ciphertext_bytes) as memory:
        for index, row in enumerate(slots):
            scheme.encoder.encode(array("Q", row.tobytes()), plain)  # its numbers become Python's only as SEAL's bindings take them
            encryptor.encrypt(plain, encrypted)
            memory.store_into(encrypted, len(scheme.stored.ciphertext_head), found[index])
    return found


def read_ciphertexts(name: str, data: bytes | memoryview, count: int) -> Words:
    """Return `count` ciphertexts that bytes of anybody spell.

    Raises:
        Malformed: code `he-size` for another number of bytes, `he-range` for a coefficient that is no residue, `he-transparent` for a
            ciphertext whose second polynomial is zero, so that anybody reads it.
    """
    parameters = parameters_named(name)
    if count <= 0 or len(data) != count * parameters.ciphertext_bytes:
        raise Malformed(f"{count} ciphertexts of {name} are {count * parameters.ciphertext_bytes} bytes, not {len(data)}", code="he-size")
    words: Words = np.frombuffer(data, dtype="<u8").reshape(count, *parameters.shape)
    for index, prime in enumerate(parameters.data_primes):
        if int(words[:, :, index].max()) >= prime:
            raise Malformed("a coefficient is no residue of its prime", code="he-range")
    if not words[:, 1].any(axis=(1, 2)).all():
        raise Malformed("a ciphertext is transparent", code="he-transparent")
    return words


def add_into(name: str, total: Words, more: Words) -> None:
    """Add ciphertexts to others of the same shape, in place. Both hold residues."""
    for index, prime in enumerate(parameters_named(name).data_primes):
        part = total[:, :, index]
        np.add(part, more[:, :, index], out=part)  # below 2^61, so nothing wraps
        np.minimum(part, part - np.uint64(prime), out=part)  # the difference of the smaller ones wraps to above 2^63


def write_ciphertexts(words: Words) -> bytes:
    """Return the bytes of ciphertexts, as `read_ciphertexts` reads them."""
    return np.ascontiguousarray(words, dtype="<u8").tobytes()


def decrypt(name: str, secret: bytes, words: Words) -> Words:
    """Return the slots of ciphertexts: shape (count, degree), below the plain modulus.

    A ciphertext that is no honest sum decrypts to anything at all: `unpack` has the last word on what may be believed.

    Raises:
        Malformed: code `he-key`.
    """
    scheme = _scheme(name)
    parameters = scheme.parameters
    if len(secret) != parameters.secret_key_bytes:
        raise Malformed("this is not a secret key of these parameters", code="he-key")
    decryptor = seal.Decryptor(scheme.context, loaded(seal.SecretKey(), scheme.context, scheme.stored, scheme.stored.secret_head + secret))
    plain, found = seal.Plaintext(), np.empty((len(words), parameters.degree), dtype=np.uint64)
    for index, one in enumerate(words):
        encrypted = loaded(seal.Ciphertext(), scheme.context, scheme.stored, scheme.stored.ciphertext_head + write_ciphertexts(one))
        decryptor.decrypt(encrypted, plain)
        found[index] = np.array(scheme.encoder.decode_uint64(plain), dtype=np.uint64)
    return found


def pack(name: str, values: Integers, bound: int) -> Words:
    """Return the slots of signed values: negative ones counted down from the plain modulus, and guard slots that are zero.

    Args:
        values: one-dimensional, int64; nothing else is taken, so that no float, boolean or object is ever converted in silence.
        bound: most that a value may be, in absolute value.

    Raises:
        Malformed: code `he-values` for another type, none at all, or a value beyond the bound. Nothing is clipped and nothing wraps.
    """
    parameters = parameters_named(name)
    if not isinstance(values, np.ndarray) or values.dtype != np.int64 or values.ndim != 1 or not len(values):
        raise Malformed("values are a vector of 64-bit integers", code="he-values")
    if not 0 <= bound < parameters.plain_modulus // 2:
        raise Malformed("the bound does not fit the plain modulus", code="he-values")
    if int(values.max()) > bound or int(values.min()) < -bound:
        raise Malformed("a value lies beyond its bound", code="he-values")
    width = parameters.slots
    slots: Words = np.zeros((parameters.ciphertexts(len(values)), parameters.degree), dtype=np.uint64)
    residues = values >> 63  # all ones where negative, which adds the modulus
    residues &= np.int64(parameters.plain_modulus)
    residues += values
    full = len(values) // width
    slots[:full, :width] = residues[: full * width].reshape(full, width)
    if full < len(slots):
        slots[full, : len(values) - full * width] = residues[full * width :]
    return slots


def unpack(name: str, slots: Words, count: int, window: Integers) -> Integers:
    """Return the `count` signed values that slots hold.

    Args:
        window: most that each value may be, in absolute value; shape (count,).

    Raises:
        Tampered: code `he-implausible`, whatever is wrong: a guard slot that is not zero or a value out of its window. It says no more, as
            what it says may be about the key.
    """
    parameters = parameters_named(name)
    plain = np.int64(parameters.plain_modulus)
    flat = slots[:, : parameters.slots].reshape(-1)
    rest = flat[count:]
    signed = flat[:count].astype(np.int64)
    signed = np.where(signed > plain // 2, signed - plain, signed)
    if slots[:, parameters.slots :].any() or rest.any() or (np.abs(signed) > window).any():
        raise Tampered("the total is not plausible", code="he-implausible")
    return signed


def parameters_named(name: str) -> Parameters:
    """Return the parameters of that name. Raises Malformed (code `he-parameters`)."""
    if name not in PARAMETERS:
        raise Malformed(f"there are no parameters `{name[:40]}`", code="he-parameters")
    return PARAMETERS[name]


def require_public_key(parameters: Parameters, public: bytes) -> None:
    """Raise Malformed (code `he-key`) unless bytes have the shape of a public key: its number of residues, each below its prime."""
    if len(public) != parameters.public_key_bytes:
        raise Malformed("this is not a public key of these parameters", code="he-key")
    words = np.frombuffer(public, dtype="<u8").reshape(2, len(parameters.primes), parameters.degree)
    if any(int(words[:, index].max()) >= prime for index, prime in enumerate(parameters.primes)) or not words[1].any():
        raise Malformed("this is not a public key of these parameters", code="he-key")


@cache
def _scheme(name: str) -> _Scheme:
    """The pinned context. Raises Malformed; and RuntimeError where SEAL does not take the parameters for what they are here."""
    parameters = parameters_named(name)
    made = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    made.set_poly_modulus_degree(parameters.degree)
    made.set_plain_modulus(seal.Modulus(parameters.plain_modulus))
    made.set_coeff_modulus([seal.Modulus(prime) for prime in parameters.primes])
    context = seal.SEALContext(made, True, seal.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise RuntimeError(f"SEAL refuses {name}")
    keys, public, plain, encrypted = seal.KeyGenerator(context), seal.PublicKey(), seal.Plaintext(), seal.Ciphertext()
    keys.create_public_key(public)
    encoder = seal.BatchEncoder(context)
    encoder.encode([0] * parameters.degree, plain)
    seal.Encryptor(context, public).encrypt(plain, encrypted)
    if encrypted.coeff_modulus_size() != len(parameters.data_primes):
        raise RuntimeError(f"SEAL leaves other primes to ciphertexts of {name}")
    sizes = (parameters.ciphertext_bytes, parameters.public_key_bytes, parameters.secret_key_bytes)
    return _Scheme(
        parameters=parameters,
        context=context,
        encoder=encoder,
        evaluator=seal.Evaluator(context),
        stored=Stored.of(encrypted, sizes[0], public, sizes[1], keys.secret_key(), sizes[2]),
    )


class _Memory:
    """A file that is only in memory, as SEAL's bindings read and write nothing else.

    Args:
        room: bytes that nothing stored exceeds, where they are known. It goes through a pipe then, if one may be as large: a file's pages
            are given back and taken again each time, which is a twentieth of an encryption.
    """

    def __init__(self, room: int = 0) -> None:
        self._room = room

    def __enter__(self) -> _Memory:
        self._handle = os.memfd_create("seal", os.MFD_CLOEXEC)
        self._path = f"/proc/self/fd/{self._handle}"
        self._buffer = bytearray(max(self._room, 1 << 16))
        self._pipe = _pipe_of(self._room) if self._room else None
        return self

    def __exit__(self, *_: object) -> None:
        for handle in (self._handle, *(self._pipe or ())):
            os.close(handle)

    def store_into(self, thing: Any, skipped: int, words: Words) -> None:
        """Fill `words` (contiguous) with what SEAL stores of an own object behind the first `skipped` bytes."""
        stream = self._stream(thing)
        stream.read(skipped)
        filled = stream.readinto(words.view(np.uint8).reshape(-1).data)
        assert filled == words.nbytes, "SEAL's own bytes"

    def read(self) -> bytes:
        """All bytes."""
        return os.pread(self._handle, os.fstat(self._handle).st_size, 0)

    def stored(self, thing: Any) -> bytes:
        """What SEAL stores of an own object, without its header and decompressed."""
        return bytes(self._stream(thing).read())

    def _stream(self, thing: Any) -> Any:
        size = self._saved(thing) if self._pipe is None else self._piped(thing, *self._pipe)
        data = memoryview(self._buffer)[:size]
        magic, _, _, _, compression, _, size = _HEADER.unpack(data[: _HEADER.size])
        assert (magic, compression, size) == (_MAGIC, _ZSTD, len(data)), "SEAL's own bytes"
        return pa.input_stream(pa.BufferReader(data[_HEADER.size :]), compression="zstd")

    def _saved(self, thing: Any) -> int:
        thing.save(self._path)
        size = os.fstat(self._handle).st_size
        if size > len(self._buffer):
            self._buffer = bytearray(size)
        return os.preadv(self._handle, [self._buffer], 0)

    def _piped(self, thing: Any, reading: int, writing: int) -> int:
        thing.save(f"/proc/self/fd/{writing}")
        return os.readv(reading, [self._buffer])

    def load(self, thing: Any, context: Any, stored: Stored, payload: bytes) -> Any:
        """An object of SEAL's from its uncompressed payload."""
        size = _HEADER.size + len(payload)
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, _HEADER.pack(_MAGIC, _HEADER.size, *stored.version, 0, 0, size) + payload, 0)
        thing.load(context, self._path)
        return thing


def _pipe_of(room: int) -> tuple[int, int] | None:
    """The ends of a pipe that holds `room` bytes without a reader, or None where the system allows none."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        if fcntl(writing, F_SETPIPE_SZ, room) >= room:
            return reading, writing
    except OSError:
        pass
    os.close(reading)
    os.close(writing)
    return None


def stored_bytes(thing: Any) -> bytes:
    """What SEAL stores of an own object, without its header."""
    with _Memory() as memory:
        return memory.stored(thing)


def loaded(thing: Any, context: Any, stored: Stored, payload: bytes) -> Any:
    """An object of SEAL's from the payload that it stores; the caller has checked every coefficient."""
    with _Memory() as memory:
        return memory.load(thing, context, stored, payload)


__all__ = [
    "GUARD_SLOTS", "KeyPair", "Stored", "Words", "add_into", "decrypt", "encrypt", "generate_key", "loaded", "pack", "parameters_named",
    "read_ciphertexts", "require_public_key", "stored_bytes", "unpack", "write_ciphertexts",
]  # fmt: skip

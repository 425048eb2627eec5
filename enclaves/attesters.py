"""Where a TEE's evidence comes from: one small interface, and the devices of Linux guests behind it.

An attester gets 64 bytes to bind and returns what the TEE signs about them. Nothing here judges: that is for whoever gets the evidence.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import secrets
import struct
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from enclaves.kit.attestation.platform import BOUND_BYTES
from policies.attestation import EnclaveKind
from policies.statement import Endorsed

SEV_GUEST, NSM, TSM = Path("/dev/sev-guest"), Path("/dev/nsm"), Path("/sys/kernel/config/tsm/report")


class Attester(Protocol):
    """A source of evidence of one kind."""

    def endorse(self, bound: bytes) -> Endorsed:
        """Return what the TEE says of the 64 bytes `bound`. Raises OSError if it does not."""


class NoAttester(OSError):
    """This machine is no TEE of the wanted kind, or shows it no device."""


def find_attester(kind: EnclaveKind) -> Attester:
    """Return this machine's source of evidence of `kind`. Raises NoAttester."""
    if kind == "aws-nitro" and NSM.exists():
        return NsmAttester()
    if kind == "intel-tdx" and TSM.is_dir():
        return TsmAttester("tdx_guest")
    if kind == "amd-sev-snp" and TSM.is_dir():
        return TsmAttester("sev_guest")
    if kind == "amd-sev-snp" and SEV_GUEST.exists():
        return SevGuestAttester()
    raise NoAttester(f"this machine gives out no evidence of kind `{kind}`")


class TsmAttester:
    """Linux 6.7 and later, AMD and Intel: Documentation/ABI/testing/configfs-tsm-report.

    Args:
        provider: `sev_guest` or `tdx_guest`.
    """

    def __init__(self, provider: str, root: Path = TSM) -> None:
        self._provider, self._root = provider, root

    def endorse(self, bound: bytes) -> Endorsed:
        """As `Attester.endorse`. Raises OSError also where another process wrote into the same folder meanwhile."""
        _require_bound(bound)
        folder = self._root / f"sandbox-{secrets.token_hex(8)}"
        folder.mkdir()
        try:
            if _read(folder / "provider").decode().strip() != self._provider:
                raise NoAttester(f"this guest is no {self._provider}")
            _write(folder / "inblob", bound)
            document = _read(folder / "outblob")
            certificates = b""
            with suppress(OSError):  # hosts need not give any
                certificates = _read(folder / "auxblob")
            if _read(folder / "generation").strip() != b"1":
                raise OSError("the report was asked for by somebody else meanwhile")
        finally:
            with suppress(OSError):
                folder.rmdir()
        chain = certificates_of(certificates) if self._provider == "sev_guest" else ()
        return Endorsed(document=document.hex(), chain=tuple(item.hex() for item in chain))


class SevGuestAttester:
    """AMD before configfs: SNP_GET_EXT_REPORT of /dev/sev-guest (include/uapi/linux/sev-guest.h), at VMPL 0.

    Args:
        ioctl: as `fcntl.ioctl`.
    """

    GET_EXT_REPORT = 0xC0205302
    CERTIFICATES = 64 << 10
    _REQUEST, _RESPONSE = 112, 4000
    _REPORT_AT = 32

    def __init__(self, device: Path = SEV_GUEST, ioctl: Callable[..., Any] = fcntl.ioctl) -> None:
        self._device, self._ioctl = device, ioctl

    def endorse(self, bound: bytes) -> Endorsed:
        """As `Attester.endorse`."""
        _require_bound(bound)
        table = mmap.mmap(-1, self.CERTIFICATES)  # the kernel wants whole pages
        start = ctypes.c_char.from_buffer(table)
        request = ctypes.create_string_buffer(
            struct.pack("<64sI28xQI4x", bound, 0, ctypes.addressof(start), self.CERTIFICATES), self._REQUEST
        )
        response = ctypes.create_string_buffer(self._RESPONSE)
        call = bytearray(struct.pack("<B7xQQQ", 1, ctypes.addressof(request), ctypes.addressof(response), 0))
        handle = os.open(self._device, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._ioctl(handle, self.GET_EXT_REPORT, call)
        finally:
            os.close(handle)
            del start
        status, size = struct.unpack_from("<II", response.raw)
        if status or size > self._RESPONSE - self._REPORT_AT:
            raise OSError(f"the firmware answered with status {status}")
        document = response.raw[self._REPORT_AT : self._REPORT_AT + size]
        return Endorsed(document=document.hex(), chain=tuple(item.hex() for item in certificates_of(table[:])))


class NsmAttester:
    """AWS Nitro: one request to the security module /dev/nsm (aws-nitro-enclaves-nsm-api).

    Args:
        ioctl: as `fcntl.ioctl`.
    """

    REQUEST = 0xC0200A00
    _MOST = 0x3000

    def __init__(self, device: Path = NSM, ioctl: Callable[..., Any] = fcntl.ioctl) -> None:
        self._device, self._ioctl = device, ioctl

    def endorse(self, bound: bytes) -> Endorsed:
        """As `Attester.endorse`."""
        import cbor2

        _require_bound(bound)
        asked = cbor2.dumps({"Attestation": {"user_data": bound, "nonce": None, "public_key": None}})
        request, response = ctypes.create_string_buffer(asked, len(asked)), ctypes.create_string_buffer(self._MOST)
        call = bytearray(struct.pack("<QQQQ", ctypes.addressof(request), len(asked), ctypes.addressof(response), self._MOST))
        handle = os.open(self._device, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._ioctl(handle, self.REQUEST, call)
        finally:
            os.close(handle)
        length = struct.unpack_from("<Q", call, 24)[0]
        answer = cbor2.loads(response.raw[: min(length, self._MOST)])
        try:
            return Endorsed(document=answer["Attestation"]["document"].hex())
        except (KeyError, TypeError, AttributeError) as error:
            raise OSError("the security module gave no attestation document") from error


_SIGNER_KINDS = {
    uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd"),
    uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1"),
    uuid.UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"),
    uuid.UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae"),
}
"""VCEK, VLEK, ASK and ARK in the table of certificates (GHCB specification, SNP extended guest request)."""


def certificates_of(table: bytes) -> tuple[bytes, ...]:
    """Return the certificates of AMD's table: entries of GUID, offset and length until one of zeros. What does not fit is left out."""
    found = []
    for at in range(0, len(table) - 23, 24):
        name, offset, length = table[at : at + 16], *struct.unpack_from("<II", table, at + 16)
        if not any(name):
            break
        known = uuid.UUID(bytes=name) in _SIGNER_KINDS or uuid.UUID(bytes_le=name) in _SIGNER_KINDS
        if known and length and offset + length <= len(table):
            found.append(table[offset : offset + length])
    return tuple(found)


def _require_bound(bound: bytes) -> None:
    if len(bound) != BOUND_BYTES:
        raise ValueError(f"a TEE binds {BOUND_BYTES} bytes")


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _write(path: Path, data: bytes) -> None:
    """One write call: configfs takes the whole value at once."""
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, data)
    finally:
        os.close(handle)

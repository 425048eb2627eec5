"""Where evidence comes from: the kernel's interfaces are spoken as they are documented, and what they give verifies."""

from __future__ import annotations

import ctypes
import datetime
import struct
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from enclaves import attesters
from enclaves.attesters import NoAttester, NsmAttester, SevGuestAttester, TsmAttester, certificates_of, find_attester
from enclaves.kit.attestation.nitro import verify_nitro
from enclaves.kit.attestation.snp import verify_snp
from tests.support.platforms import AT, Chipmaker, NitroMaker

WHEN = datetime.datetime.fromtimestamp(AT, datetime.UTC)
BOUND = bytes(range(48)) + bytes(16)
NAMES = {
    "leaf": uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd"),
    "middle": uuid.UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"),
    "root": uuid.UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae"),
}


def table(maker: Chipmaker, spell: Callable[[uuid.UUID], bytes] = lambda name: name.bytes) -> bytes:
    """The firmware's table of certificates."""
    entries, data, at = b"", b"", 24 * (len(NAMES) + 1)
    for part, name in NAMES.items():
        der = getattr(maker, part).public_bytes(Encoding.DER)
        entries += spell(name) + struct.pack("<II", at + len(data), len(der))
        data += der
    return entries + bytes(24) + data


class Configfs:
    """Stands for configfs: writing `inblob` makes a report."""

    def __init__(self, maker: Chipmaker, provider: str = "sev_guest", meddle: Callable[[Path], None] = lambda folder: None) -> None:
        self.maker, self.provider, self.meddle = maker, provider, meddle

    def write(self, path: Path, data: bytes) -> None:
        assert path.name == "inblob"
        folder = path.parent
        (folder / "outblob").write_bytes(self.maker.report(data))
        (folder / "auxblob").write_bytes(table(self.maker))
        (folder / "generation").write_text("1\n")
        self.meddle(folder)

    def read(self, path: Path) -> bytes:
        return f"{self.provider}\n".encode() if path.name == "provider" else path.read_bytes()


def test_configfs_gives_evidence_that_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Chipmaker()
    fake = Configfs(maker)
    monkeypatch.setattr(attesters, "_write", fake.write)
    monkeypatch.setattr(attesters, "_read", fake.read)
    endorsed = TsmAttester("sev_guest", tmp_path).endorse(BOUND)
    chain = [bytes.fromhex(item) for item in endorsed.chain]
    assert verify_snp(bytes.fromhex(endorsed.document), chain, WHEN, maker.roots).bound == BOUND.hex()


def test_a_report_that_somebody_else_asked_for_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Configfs(Chipmaker(), meddle=lambda folder: (folder / "generation").write_text("2\n") and None)
    monkeypatch.setattr(attesters, "_write", fake.write)
    monkeypatch.setattr(attesters, "_read", fake.read)
    with pytest.raises(OSError, match="somebody else"):
        TsmAttester("sev_guest", tmp_path).endorse(BOUND)


def test_a_guest_of_another_maker_is_no_attester(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Configfs(Chipmaker(), provider="tdx_guest")
    monkeypatch.setattr(attesters, "_read", fake.read)
    with pytest.raises(NoAttester):
        TsmAttester("sev_guest", tmp_path).endorse(BOUND)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_host_that_gives_no_certificates_leaves_them_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Configfs(Chipmaker(), meddle=lambda folder: (folder / "auxblob").unlink())
    monkeypatch.setattr(attesters, "_write", fake.write)
    monkeypatch.setattr(attesters, "_read", fake.read)
    assert TsmAttester("sev_guest", tmp_path).endorse(BOUND).chain == ()


def test_the_sev_guest_device_is_asked_as_its_header_says() -> None:
    """struct snp_guest_request_ioctl, snp_ext_report_req and snp_report_resp of include/uapi/linux/sev-guest.h."""
    maker = Chipmaker()

    def ioctl(handle: int, number: int, call: bytearray) -> int:
        assert (number >> 30, number >> 16 & 0x3FFF, chr(number >> 8 & 0xFF), number & 0xFF) == (3, len(call), "S", 2)
        version, request, response, _ = struct.unpack("<B7xQQQ", call)
        bound, vmpl, place, length = struct.unpack("<64sI28xQI4x", ctypes.string_at(request, 112))
        assert (version, vmpl) == (1, 0)
        certificates = table(maker)
        assert length >= len(certificates)
        assert length % 4096 == place % 4096 == 0
        ctypes.memmove(place, certificates, len(certificates))
        report = maker.report(bound)
        ctypes.memmove(response, struct.pack("<II24x", 0, len(report)) + report, 32 + len(report))
        return 0

    endorsed = SevGuestAttester(Path("/dev/null"), ioctl).endorse(BOUND)
    chain = [bytes.fromhex(item) for item in endorsed.chain]
    assert verify_snp(bytes.fromhex(endorsed.document), chain, WHEN, maker.roots).bound == BOUND.hex()


def test_a_firmware_that_refuses_gives_no_evidence() -> None:
    def ioctl(handle: int, number: int, call: bytearray) -> int:
        ctypes.memmove(struct.unpack("<B7xQQQ", call)[2], struct.pack("<II", 0x16, 0), 8)
        return 0

    with pytest.raises(OSError, match="status 22"):
        SevGuestAttester(Path("/dev/null"), ioctl).endorse(BOUND)


def test_the_nitro_security_module_is_asked_as_its_driver_says() -> None:
    maker = NitroMaker()

    def ioctl(handle: int, number: int, call: bytearray) -> int:
        assert (number >> 30, number >> 16 & 0x3FFF, number >> 8 & 0xFF, number & 0xFF) == (3, len(call), 0x0A, 0)
        request, length, response, room = struct.unpack("<QQQQ", call)
        asked = cbor2.loads(ctypes.string_at(request, length))["Attestation"]
        answer = cbor2.dumps({"Attestation": {"document": maker.document(maker.payload(**asked))}})
        assert len(answer) <= room
        ctypes.memmove(response, answer, len(answer))
        struct.pack_into("<Q", call, 24, len(answer))
        return 0

    document = bytes.fromhex(NsmAttester(Path("/dev/null"), ioctl).endorse(BOUND).document)
    assert verify_nitro(document, WHEN, maker.roots).bound == BOUND.hex()


def test_a_security_module_that_refuses_gives_no_evidence() -> None:
    def ioctl(handle: int, number: int, call: bytearray) -> int:
        answer = cbor2.dumps({"Error": "InvalidOperation"})
        ctypes.memmove(struct.unpack("<QQQQ", call)[2], answer, len(answer))
        struct.pack_into("<Q", call, 24, len(answer))
        return 0

    with pytest.raises(OSError, match="no attestation document"):
        NsmAttester(Path("/dev/null"), ioctl).endorse(BOUND)


@pytest.mark.parametrize("spell", [lambda name: name.bytes, lambda name: name.bytes_le])
def test_certificates_are_found_in_either_byte_order(spell: Callable[[uuid.UUID], bytes]) -> None:
    maker = Chipmaker()
    assert certificates_of(table(maker, spell)) == tuple(getattr(maker, part).public_bytes(Encoding.DER) for part in NAMES)


def test_a_table_that_points_outside_itself_gives_nothing() -> None:
    wild = NAMES["leaf"].bytes + struct.pack("<II", 2**32 - 1, 2**32 - 1)
    assert certificates_of(wild + bytes(24)) == ()
    assert certificates_of(b"") == certificates_of(wild[:20]) == ()


@pytest.mark.parametrize("kind", ["amd-sev-snp", "intel-tdx", "aws-nitro"])
def test_a_machine_that_is_no_tee_says_so(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEV_GUEST", "NSM", "TSM"):
        monkeypatch.setattr(attesters, name, Path("/nowhere"))
    with pytest.raises(NoAttester, match=kind):
        find_attester(kind)


def test_the_device_that_is_there_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEV_GUEST", "NSM", "TSM"):
        monkeypatch.setattr(attesters, name, Path("/nowhere"))
    monkeypatch.setattr(attesters, "SEV_GUEST", Path("/dev/null"))
    monkeypatch.setattr(attesters, "NSM", Path("/dev/null"))
    assert isinstance(find_attester("amd-sev-snp"), SevGuestAttester)
    assert isinstance(find_attester("aws-nitro"), NsmAttester)
    monkeypatch.setattr(attesters, "TSM", tmp_path)
    assert isinstance(find_attester("amd-sev-snp"), TsmAttester)
    assert isinstance(find_attester("intel-tdx"), TsmAttester)

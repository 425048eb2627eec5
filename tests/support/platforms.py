"""Published evidence of real TEEs, and a maker of chips of one's own whose evidence is right in every field that a test does not change."""

from __future__ import annotations

import datetime
import struct
from dataclasses import dataclass, field
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from enclaves.kit.attestation.chains import fingerprint
from enclaves.kit.attestation.platform import PlatformEvidence
from policies.statement import Endorsed
from tests.support.vectors import PUBLISHED

VECTORS = PUBLISHED / "attestation"


def seconds(text: str) -> float:
    """A UTC time as seconds since 1970."""
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()


def vector(name: str) -> bytes:
    """A published file; where there is none, its test is skipped."""
    if not VECTORS.is_dir():
        pytest.skip("published test vectors ../shared/vectors/attestation are missing")
    return (VECTORS / name).read_bytes()


@dataclass(frozen=True)
class Sample:
    """Published evidence, a time at which it was valid, and why the default policy refuses it, if it does."""

    name: str
    evidence: PlatformEvidence
    at: float
    refused: str | None


def samples() -> list[Sample]:
    """All published evidence; none where it is missing."""
    if not VECTORS.is_dir():
        return []
    snp = PlatformEvidence(
        kind="amd-sev-snp", document=vector("snp/report-v2-debug.bin"), chain=(vector("snp/vcek.der"), vector("snp/ask_ark_milan.pem"))
    )
    tdx = {name: PlatformEvidence(kind="intel-tdx", document=vector(f"tdx/{name}.bin")) for name in ("quote-v4", "quote-v5")}
    full = PlatformEvidence(kind="intel-tdx", document=vector("tdx/quote-with-collateral.bin"), collateral=vector("tdx/collateral.json"))
    nitro = {name: PlatformEvidence(kind="aws-nitro", document=vector(f"nitro/{name}.cbor")) for name in ("valid", "debug")}
    return [
        Sample("snp-debug", snp, seconds("2024-01-01"), "debug"),
        Sample("nitro", nitro["valid"], seconds("2022-10-13T10:00:00"), None),
        Sample("nitro-debug", nitro["debug"], seconds("2022-10-12T14:00:00"), "debug"),
        Sample("tdx-v4", tdx["quote-v4"], seconds("2024-01-01"), "unsigned-bytes"),
        Sample("tdx-v5", tdx["quote-v5"], seconds("2026-06-01"), "collateral-missing"),
        Sample("tdx-collateral", full, seconds("2025-06-19T11:00:00"), None),
    ]


NOT_BEFORE, NOT_AFTER = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
AT = seconds("2026-06-01")


def issue(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: tuple[str, ec.EllipticCurvePrivateKey] | None, *, ca: bool, extensions: Any = ()
) -> x509.Certificate:
    """A certificate for `name`, by `issuer` or by itself, valid from 2026 on."""
    by, signer = issuer or (name, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, by)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True
        )
    for oid, value in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
    return builder.sign(signer, hashes.SHA384())


def p384() -> ec.EllipticCurvePrivateKey:
    """A fresh key."""
    return ec.generate_private_key(ec.SECP384R1())


@dataclass
class Chipmaker:
    """Stands for AMD: its root, its intermediate and one chip."""

    product: str = "Milan-B0"
    signer: str = "VCEK"
    tcb: dict[str, int] = field(default_factory=lambda: {"bootloader": 4, "tee": 1, "snp": 23, "microcode": 213})
    chip: bytes = b"\x5a" * 64

    def __post_init__(self) -> None:
        self.root_key, self.middle_key, self.chip_key = p384(), p384(), p384()
        self.root = issue("ARK-Test", self.root_key, None, ca=True)
        self.middle = issue("SEV-Test", self.middle_key, ("ARK-Test", self.root_key), ca=True)
        self.leaf = self.certify()

    def certify(self, **tcb: int) -> x509.Certificate:
        """The chip's certificate, for its firmware or another."""
        oids = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
        parts = [
            (oids[name], b"\x02\x02\x00" + bytes([v]) if v > 127 else b"\x02\x01" + bytes([v])) for name, v in (self.tcb | tcb).items()
        ]
        product = self.product.encode()
        values = [("2", b"\x16" + bytes([len(product)]) + product), *parts]
        if self.signer == "VCEK":
            values.append(("4", self.chip))
        extensions = [(f"1.3.6.1.4.1.3704.1.{oid}", value) for oid, value in values]
        return issue(f"SEV-{self.signer}", self.chip_key, ("SEV-Test", self.middle_key), ca=False, extensions=extensions)

    @property
    def roots(self) -> frozenset[str]:
        """Who this maker is."""
        return frozenset({fingerprint(self.root)})

    @property
    def chain(self) -> tuple[bytes, ...]:
        """Root, chip and intermediate: any order will do."""
        pem = self.root.public_bytes(Encoding.PEM) + self.leaf.public_bytes(Encoding.PEM)
        return (pem, self.middle.public_bytes(Encoding.DER))

    def revocations(self, *revoked: x509.Certificate) -> x509.CertificateRevocationList:
        """The root's list, for as long as its certificates hold."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.root.subject).last_update(NOT_BEFORE).next_update(NOT_AFTER)
        for item in revoked:
            number = x509.RevokedCertificateBuilder().serial_number(item.serial_number).revocation_date(NOT_BEFORE).build()
            builder = builder.add_revoked_certificate(number)
        return builder.sign(self.root_key, hashes.SHA384())

    def report(self, bound: bytes, *, measurement: bytes = b"\xa1" * 48, policy: int = 0x30000, version: int = 3, vmpl: int = 0) -> bytes:
        """A signed report."""
        body = bytearray(0x2A0)
        layout = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}
        if not self.product.startswith("Turin"):
            layout = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
        struct.pack_into("<IIQ", body, 0, version, 0, policy)
        struct.pack_into("<II", body, 0x30, vmpl, 1)
        body[0x48] = (1 if self.signer == "VLEK" else 0) << 2
        body[0x50:0x90], body[0x90:0xC0], body[0x1A0:0x1E0] = bound, measurement, self.chip.ljust(64, b"\0")
        for name, at in layout.items():
            body[0x180 + at] = self.tcb.get(name, 0)
        r, s = decode_dss_signature(self.chip_key.sign(bytes(body), ec.ECDSA(hashes.SHA384())))
        return (bytes(body) + r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(0x4A0, b"\0")


@dataclass
class SnpMachine:
    """An attester on a chip of one's own."""

    maker: Chipmaker = field(default_factory=Chipmaker)
    report: dict[str, Any] = field(default_factory=dict)

    def endorse(self, bound: bytes) -> Endorsed:
        """A report and its chain."""
        return Endorsed(document=self.maker.report(bound, **self.report).hex(), chain=tuple(item.hex() for item in self.maker.chain))


class NitroMaker:
    """Stands for AWS: a root, an intermediate and one security module."""

    def __init__(self) -> None:
        self.root_key, self.leaf_key = p384(), p384()
        self.root = issue("aws.test", self.root_key, None, ca=True)
        self.leaf = issue("module", self.leaf_key, ("aws.test", self.root_key), ca=False)
        self.roots = frozenset({fingerprint(self.root)})

    def payload(self, **changed: Any) -> dict[str, Any]:
        """The fields of a document that is right."""
        fields: dict[str, Any] = {
            "module_id": "i-test",
            "digest": "SHA384",
            "timestamp": int(AT * 1000),
            "pcrs": {at: bytes([at + 1]) * 48 for at in range(16)},
            "certificate": self.leaf.public_bytes(Encoding.DER),
            "cabundle": [self.root.public_bytes(Encoding.DER)],
            "public_key": None,
            "user_data": b"\7" * 64,
            "nonce": None,
        }
        return fields | changed

    def document(self, payload: Any = None, *, protected: Any = None, raw: bytes | None = None, unprotected: Any = None) -> bytes:
        """A signed document over a payload that may be anything."""
        body = raw if raw is not None else cbor2.dumps(self.payload() if payload is None else payload)
        header = cbor2.dumps({1: -35} if protected is None else protected)
        message = cbor2.dumps(["Signature1", header, b"", body])
        r, s = decode_dss_signature(self.leaf_key.sign(message, ec.ECDSA(hashes.SHA384())))
        return cbor2.dumps([header, unprotected or {}, body, r.to_bytes(48, "big") + s.to_bytes(48, "big")])

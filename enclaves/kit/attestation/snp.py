"""AMD SEV-SNP attestation reports, versions 2 to 5, signed by a chip's key (VCEK) or a cloud's (VLEK).

Layout: SEV Secure Nested Paging Firmware ABI Specification (AMD 56860), ATTESTATION_REPORT. Certificate extensions: VCEK Certificate and
KDS Interface Specification (AMD 57230), table 8 and 9.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.utils import CryptographyDeprecationWarning

from enclaves.kit.attestation.chains import order_chain, parse_certificates, verify_chain
from enclaves.kit.attestation.revocation import judge_revocation, parse_lists
from policies.attestation import AttestationResult, TrustVector, platform_measurement
from policies.errors import EvidenceRejected

REPORT_BYTES = 0x4A0
SIGNED_BYTES = 0x2A0

AMD_ROOTS = frozenset(
    {
        "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
        "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
        "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    }
)
"""SHA-256 of ARK-Milan, ARK-Genoa and ARK-Turin (kdsintf.amd.com)."""

_VERSIONS = (2, 3, 4, 5)
_ECDSA_P384_SHA384 = 1
_VCEK, _VLEK = 0, 1
_DEBUG, _MIGRATE, _RESERVED_ONE = 1 << 19, 1 << 18, 1 << 17

_OID = "1.3.6.1.4.1.3704.1."
_PRODUCT, _CHIP = "2", "4"
_PARTS = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8"}
_FMC = {"fmc": "3.9"}

_CLASSIC = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_TURIN = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}


def verify_snp(
    report: bytes, chain: Sequence[bytes], at: datetime, roots: Collection[str] | None = None, lists: bytes | None = None
) -> AttestationResult:
    """Return what a genuine report says.

    Args:
        report: 1184 bytes as the firmware gives them.
        chain: PEM or DER: the signer's certificate, the intermediate and the root, in any order.
        at: aware time at which the certificates have to be valid.
        roots: accepted roots, SHA-256 of DER in hex; by default `AMD_ROOTS`.
        lists: revocation lists of the chain's authorities, in PEM or DER; the claim `revocation` says whether there was the root's.

    Raises:
        EvidenceRejected: code `format`, `version`, `signature`, `platform` (the signer's certificate is of another chip or firmware), or
            one of `verify_chain` or `judge_revocation`.
    """
    _require_form(report)
    path = _verified_path(report, chain, at, AMD_ROOTS if roots is None else roots)
    signer, revocation = path[0], judge_revocation(path, parse_lists(lists) if lists else (), at)
    tcb = _require_platform(report, signer)
    registers = {"measurement": report[0x90:0xC0].hex()}
    policy = int.from_bytes(report[0x08:0x10], "little")
    debug, migratable = bool(policy & _DEBUG), bool(policy & _MIGRATE)
    claims: dict[str, Any] = {
        "debug": debug,
        "migratable": migratable,
        "measured": any(report[0x90:0xC0]),
        "registers": registers,
        "tcb": tcb,
        "guest_svn": int.from_bytes(report[0x04:0x08], "little"),
        "policy": f"{policy:#x}",
        "vmpl": int.from_bytes(report[0x30:0x34], "little"),
        "host_data": report[0xC0:0xE0].hex(),
        "chip_id": report[0x1A0:0x1E0].hex(),
        "signer": "vlek" if _signing_key(report) == _VLEK else "vcek",
        "version": int.from_bytes(report[:4], "little"),
        "revocation": revocation,
    }
    vector = TrustVector(
        instance_identity=2,
        configuration=96 if debug or migratable or claims["vmpl"] else 2,
        executables=2 if claims["measured"] else 33,
        hardware=2,
        runtime_opaque=96 if debug else 2,
    )
    measurement = platform_measurement("amd-sev-snp", registers)
    return AttestationResult(kind="amd-sev-snp", measurement=measurement, bound=report[0x50:0x90].hex(), vector=vector, claims=claims)


def _require_form(report: bytes) -> None:
    if len(report) != REPORT_BYTES:
        raise EvidenceRejected(f"a report has {REPORT_BYTES} bytes", code="format")
    if int.from_bytes(report[:4], "little") not in _VERSIONS:
        raise EvidenceRejected("reports of this version are not known", code="version")
    policy = int.from_bytes(report[0x08:0x10], "little")
    algorithm = int.from_bytes(report[0x34:0x38], "little")
    # Nothing signs what follows the signature's two numbers.
    if algorithm != _ECDSA_P384_SHA384 or not policy & _RESERVED_ONE or any(report[SIGNED_BYTES + 144 :]):
        raise EvidenceRejected("this is no report of the firmware", code="format")


def _verified_path(report: bytes, chain: Sequence[bytes], at: datetime, roots: Collection[str]) -> list[x509.Certificate]:
    """The verified chain of the key that signed, its certificate first."""
    certificates = [item for data in chain for item in parse_certificates(data)]
    issued = {item.issuer for item in certificates if item.issuer != item.subject} & {item.subject for item in certificates}
    leaves = [item for item in certificates if item.issuer in issued and not _is_authority(item)]
    if len(leaves) != 1:
        raise EvidenceRejected("the chain holds the certificates of one signer, its intermediate and its root", code="chain-incomplete")
    signer = leaves[0]
    path = order_chain(signer, certificates)
    verify_chain(path, roots, at)
    key = signer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise EvidenceRejected("the signer's key is not on P-384", code="signature")
    r = int.from_bytes(report[SIGNED_BYTES : SIGNED_BYTES + 72], "little")
    s = int.from_bytes(report[SIGNED_BYTES + 72 : SIGNED_BYTES + 144], "little")
    try:
        key.verify(encode_dss_signature(r, s), report[:SIGNED_BYTES], ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError) as error:
        raise EvidenceRejected("the report is not signed by that key", code="signature") from error
    return path


def _require_platform(report: bytes, signer: x509.Certificate) -> dict[str, int]:
    """The reported patch levels, which must be those that the signer's certificate was issued for; a VCEK is also of one chip."""
    extensions = _extensions(signer)
    turin = _text(extensions.get(_PRODUCT, b"")).startswith("Turin")
    layout, parts = (_TURIN, _PARTS | _FMC) if turin else (_CLASSIC, _PARTS)
    tcb = {name: report[0x180 + at] for name, at in layout.items()}
    certified = {name: _integer(extensions.get(oid, b"")) for name, oid in parts.items()}
    common_name = signer.subject.rfc4514_string()
    kind = _signing_key(report)
    fits = tcb == certified and (kind, True) in ((_VCEK, "SEV-VCEK" in common_name), (_VLEK, "SEV-VLEK" in common_name))
    if kind == _VCEK and any(report[0x1A0:0x1E0]):
        chip = extensions.get(_CHIP, b"")
        fits = fits and len(chip) in (8, 64) and report[0x1A0:0x1E0] == chip.ljust(64, b"\0")
    if not fits:
        raise EvidenceRejected("the signer's certificate is of another platform than the report", code="platform")
    return tcb


def _signing_key(report: bytes) -> int:
    return report[0x48] >> 2 & 0b111


def _extensions(certificate: x509.Certificate) -> dict[str, bytes]:
    """AMD's extensions by the end of their OID, as raw bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        found = [item for item in certificate.extensions if item.oid.dotted_string.startswith(_OID)]
    return {
        item.oid.dotted_string.removeprefix(_OID): item.value.value for item in found if isinstance(item.value, x509.UnrecognizedExtension)
    }


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _integer(der: bytes) -> int:
    """A DER INTEGER of 0 to 255; -1 for anything else."""
    if der[:1] != b"\x02" or len(der) not in (3, 4) or der[1] != len(der) - 2 or (len(der) == 4 and der[2]):
        return -1
    return der[-1]


def _text(der: bytes) -> str:
    """A short DER IA5String or UTF8String; empty for anything else."""
    return der[2:].decode("ascii", "replace") if der[:1] in (b"\x16", b"\x0c") and len(der) == 2 + der[1] else ""

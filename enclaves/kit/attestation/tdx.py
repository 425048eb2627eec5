"""Intel TDX quotes, versions 4 and 5.

Layout: Intel TDX DCAP Quoting Library API, appendix A.3 and A.4. The signatures are verified here; what Intel's collateral says of the
platform's firmware is judged by dcap-qvl, which verifies the same signatures again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from enclaves.kit.attestation.chains import plain_pem, verify_chain
from enclaves.kit.attestation.collateral import INTEL_ROOTS, judge_collateral
from policies.attestation import AttestationResult, TrustVector, platform_measurement
from policies.errors import EvidenceRejected

MAX_QUOTE = 32 << 10

_HEADER, _BODY_10, _BODY_15 = 48, 584, 648
_TEE_TDX, _KEY_P256 = 0x81, 2
_INTEL_QE = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_QE_REPORT_DATA, _PCK_CHAIN = 6, 5
_QE_REPORT = 384
_DEBUG = 1

_REGISTERS = {"mrtd": 136, "mrconfigid": 184, "mrowner": 232, "mrownerconfig": 280, "rtmr0": 328, "rtmr1": 376, "rtmr2": 424, "rtmr3": 472}
"""Offset of every measured register in the body; 48 bytes each."""

_REPORT_DATA = slice(520, 584)
_SERVICE_TD = slice(600, 648)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Quote:
    """The parts of a quote.

    Attributes:
        signed: header and body (and the body's descriptor) as the attestation key signs them.
        certificates: the PCK certificate, its issuer and the root.
        whole: the quote without what follows it.
        rest: what follows it.
    """

    version: int
    signed: bytes
    body: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_signature: bytes
    qe_auth: bytes
    certificates: list[x509.Certificate]
    whole: bytes
    rest: bytes


def verify_tdx(quote: bytes, collateral: bytes | None, at: datetime, roots: Collection[str] = INTEL_ROOTS) -> AttestationResult:
    """Return what a genuine quote says.

    Args:
        collateral: JSON as Intel's provisioning service and dcap-qvl spell it; without it the state of the firmware stays unknown.
        at: aware time at which certificates and collateral have to be valid.

    Raises:
        EvidenceRejected: code `format`, `version`, `signature`, `quoting-enclave`, `collateral`, `collateral-expired`,
            `collateral-not-yet-valid`, `tcb` (no known or a revoked state), or one of `verify_chain`.
    """
    parsed = _parse(quote)
    verify_chain(parsed.certificates, roots, at)
    _verify_signatures(parsed)
    body = parsed.body
    registers = {name: body[at_ : at_ + 48].hex() for name, at_ in _REGISTERS.items()}
    if len(body) == _BODY_15:
        registers["mrservicetd"] = body[_SERVICE_TD].hex()
    if any(body[64:112]) or any(body[112:120]):
        raise EvidenceRejected("the TDX module is not Intel's own", code="quoting-enclave")
    debug = bool(body[120] & _DEBUG)
    claims: dict[str, Any] = {
        "debug": debug,
        "measured": any(body[136:184]),
        "unsigned_bytes": any(parsed.rest),
        "registers": registers,
        "tee_tcb_svn": body[:16].hex(),
        "mrseam": body[16:64].hex(),
        "attributes": body[120:128].hex(),
        "xfam": body[128:136].hex(),
        "version": parsed.version,
    }
    if collateral is not None:
        status, advisories = judge_collateral(parsed.whole, collateral, at)
        claims |= {"tcb_status": status, "advisories": advisories}
    vector = TrustVector(
        instance_identity=2,
        configuration=96 if debug else 2,
        executables=2 if claims["measured"] else 33,
        hardware=0 if collateral is None else 2,
        runtime_opaque=96 if debug else 2,
    )
    return AttestationResult(
        kind="intel-tdx",
        measurement=platform_measurement("intel-tdx", registers),
        bound=body[_REPORT_DATA].hex(),
        vector=vector,
        claims=claims,
    )


def _verify_signatures(quote: _Quote) -> None:
    """Quote by attestation key, attestation key by the quoting enclave's report, that report by the platform's certificate."""
    _verify_p256(_p256(quote.attestation_key), quote.signature, quote.signed)
    bound = hashlib.sha256(quote.attestation_key + quote.qe_auth).digest() + bytes(32)
    if quote.qe_report[320:384] != bound:
        raise EvidenceRejected("the quoting enclave did not make this attestation key", code="quoting-enclave")
    key = quote.certificates[0].public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise EvidenceRejected("the platform's key is not on P-256", code="signature")
    _verify_p256(key, quote.qe_signature, quote.qe_report)


def _verify_p256(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> None:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError) as error:
        raise EvidenceRejected("the quote's signatures do not hold", code="signature") from error


def _p256(raw: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + raw)
    except ValueError as error:
        raise EvidenceRejected("the attestation key is no point of P-256", code="format") from error


class _Reader:
    """Takes bytes off the front; too few are a fault of the evidence."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise EvidenceRejected("the quote ends before it is complete", code="format")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    @property
    def ended(self) -> bool:
        return self.at == len(self.data)


def _parse(data: bytes) -> _Quote:
    if len(data) > MAX_QUOTE:
        raise EvidenceRejected("a quote has at most 32 KiB", code="format")
    reader = _Reader(data)
    header = reader.take(_HEADER)
    version = int.from_bytes(header[:2], "little")
    if version not in (4, 5):
        raise EvidenceRejected("quotes of this version are not known", code="version")
    key_type, tee = int.from_bytes(header[2:4], "little"), int.from_bytes(header[4:8], "little")
    if (key_type, tee) != (_KEY_P256, _TEE_TDX) or header[12:28] != _INTEL_QE:
        raise EvidenceRejected("this is no quote of a TDX guest by Intel's quoting enclave", code="format")
    body = reader.take(_body_bytes(version, reader))
    signed = data[: reader.at]
    inner = _Reader(reader.take(reader.number(4)))
    signature, key = inner.take(64), inner.take(64)
    certified = _certification(inner, _QE_REPORT_DATA)
    qe_report, qe_signature, auth = certified.take(_QE_REPORT), certified.take(64), certified.take(certified.number(2))
    chain = _certification(certified, _PCK_CHAIN).data
    return _Quote(
        version=version,
        signed=signed,
        body=body,
        signature=signature,
        attestation_key=key,
        qe_report=qe_report,
        qe_signature=qe_signature,
        qe_auth=auth,
        certificates=plain_pem(chain, count=3),
        whole=data[: reader.at],
        rest=data[reader.at :],
    )


def _body_bytes(version: int, reader: _Reader) -> int:
    if version == 4:
        return _BODY_10
    found = (reader.number(2), reader.number(4))
    if found not in ((2, _BODY_10), (3, _BODY_15)):
        raise EvidenceRejected("the quote's body is not of a TDX guest", code="format")
    return found[1]


def _certification(reader: _Reader, kind: int) -> _Reader:
    """The certification data that end `reader`, which must be of one kind."""
    found, length = reader.number(2), reader.number(4)
    inner = _Reader(reader.take(length))
    if found != kind or not reader.ended:
        raise EvidenceRejected("the quote's certification data are not the documented ones", code="format")
    return inner

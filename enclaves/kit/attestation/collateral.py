"""Intel's signed statements on platforms: which firmware is current, which keys are revoked; the one owner of `dcap_qvl`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import dcap_qvl
from cryptography import x509

from enclaves.kit.attestation.chains import plain_pem, verify_chain
from policies.errors import EvidenceRejected

INTEL_ROOTS = frozenset({"44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"})
"""SHA-256 of CN=Intel SGX Root CA (certificates.trustedservices.intel.com)."""

MAX_COLLATERAL = 256 << 10

_FIELDS = {
    "pck_crl_issuer_chain",
    "root_ca_crl",
    "pck_crl",
    "tcb_info_issuer_chain",
    "tcb_info",
    "tcb_info_signature",
    "qe_identity_issuer_chain",
    "qe_identity",
    "qe_identity_signature",
}
_OPTIONAL = {"pck_certificate_chain"}


def judge_collateral(quote: bytes, collateral: bytes, at: datetime) -> tuple[str, list[str]]:
    """Return the state of the platform's firmware and the advisories that concern it.

    Args:
        quote: a TDX quote and nothing after it.
        collateral: the JSON object of the nine documents, as Intel's provisioning service gives them.
        at: aware time.

    Raises:
        EvidenceRejected: code `collateral`, `collateral-expired`, `collateral-not-yet-valid`, or `tcb`.
    """
    fields = _parse(collateral)
    _require_plain(fields, at)
    _require_current(fields, at)
    try:
        verified = dcap_qvl.verify(quote, dcap_qvl.QuoteCollateralV3.from_json(json.dumps(fields)), int(at.timestamp()))
    except Exception as error:
        text = str(error).lower()
        if "tcb" in text and ("no matching" in text or "revoked" in text):
            raise EvidenceRejected("the collateral knows no such firmware, or has revoked it", code="tcb") from error
        raise EvidenceRejected("the collateral does not verify for this quote", code="collateral") from error
    if verified.status == "Revoked":
        raise EvidenceRejected("Intel has revoked this platform", code="tcb")
    return str(verified.status), sorted(map(str, verified.advisory_ids))


def _parse(collateral: bytes) -> dict[str, str]:
    if len(collateral) > MAX_COLLATERAL:
        raise EvidenceRejected("collateral has at most 256 KiB", code="collateral")
    try:
        found = json.loads(collateral)
    except (ValueError, RecursionError) as error:
        raise EvidenceRejected("the collateral is no JSON", code="collateral") from error
    if not isinstance(found, dict) or not _FIELDS <= set(found) <= _FIELDS | _OPTIONAL:
        raise EvidenceRejected("the collateral is not the nine documents of Intel's service", code="collateral")
    if any(not isinstance(found[name], str) for name in _FIELDS):
        raise EvidenceRejected("a document of the collateral is no text", code="collateral")
    return {name: found[name] for name in _FIELDS}


def _require_plain(fields: dict[str, str], at: datetime) -> None:
    """Chains in one spelling, up to Intel's root: dcap-qvl looks for the root elsewhere and ignores whatever stands for it here."""
    try:
        for name in ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"):
            verify_chain(plain_pem(fields[name].encode(), count=2), INTEL_ROOTS, at)
        hexadecimal = all(
            bytes.fromhex(fields[name]).hex() == fields[name]
            for name in ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
        )
    except (EvidenceRejected, ValueError) as error:
        raise EvidenceRejected("the collateral is not signed under Intel's root", code="collateral") from error
    if not hexadecimal:
        raise EvidenceRejected("a document of the collateral is not in lower-case hex", code="collateral")


def _require_current(fields: dict[str, str], at: datetime) -> None:
    """Every document has been issued and none was to be replaced before `at`."""
    periods = [_json_period(fields[name]) for name in ("tcb_info", "qe_identity")]
    periods += [_crl_period(fields[name]) for name in ("pck_crl", "root_ca_crl")]
    if any(at > end for _, end in periods):
        raise EvidenceRejected("the collateral has expired", code="collateral-expired")
    if any(at < begin for begin, _ in periods):
        raise EvidenceRejected("the collateral is not valid yet", code="collateral-not-yet-valid")


def _json_period(text: str) -> tuple[datetime, datetime]:
    try:
        body: Any = json.loads(text)
        begin, end = (datetime.strptime(body[name], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) for name in ("issueDate", "nextUpdate"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EvidenceRejected("a document of the collateral has no period", code="collateral") from error
    return begin, end


def _crl_period(text: str) -> tuple[datetime, datetime]:
    try:
        found = x509.load_der_x509_crl(bytes.fromhex(text))
    except ValueError as error:
        raise EvidenceRejected("a revocation list of the collateral is unreadable", code="collateral") from error
    if found.next_update_utc is None:
        raise EvidenceRejected("a revocation list of the collateral has no period", code="collateral")
    return found.last_update_utc, found.next_update_utc

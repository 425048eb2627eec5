"""Certificate revocation lists (RFC 5280 section 5) of the authorities of a chain. Pure: lists are collateral that somebody hands in.

AMD publishes one per product, signed by its root (kdsintf.amd.com, `/vcek/v1/PRODUCT/crl` and `/vlek/v1/PRODUCT/crl`). It lists
intermediates; a list of an intermediate, over its chips' certificates, is judged in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from enclaves.kit.attestation.chains import MAX_CERTIFICATES
from policies.errors import EvidenceRejected

MAX_BYTES = 256 << 10
_BEGIN, _END = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"

Revocation: TypeAlias = Literal["no-crl", "checked"]
"""`checked`: the root's list was at hand, signed, of this time, and names none of the chain; `no-crl`: nobody handed it in."""


def parse_lists(data: bytes) -> list[x509.CertificateRevocationList]:
    """Return the lists of a plain PEM bundle, or the one of a DER file. Raises EvidenceRejected (code `crl-format`)."""
    if not data or len(data) > MAX_BYTES:
        raise EvidenceRejected("revocation lists have between 1 byte and 256 KiB", code="crl-format")
    if _BEGIN not in data:
        return [_list(data)]
    parts = [part + _END + b"\n" for part in data.strip().split(_END) if part.strip()]
    found = [_list(part.lstrip(), pem=True) for part in parts]
    # Nothing signs the text around lists, so only one spelling of it counts.
    if len(found) > MAX_CERTIFICATES or data.rstrip(b"\n") != b"".join(item.public_bytes(Encoding.PEM) for item in found).rstrip(b"\n"):
        raise EvidenceRejected("the revocation lists are not plain PEM", code="crl-format")
    return found


def bundle(files: Sequence[bytes]) -> bytes:
    """Return files of lists, each in PEM or DER, as one PEM text. Raises EvidenceRejected (code `crl-format`)."""
    return b"".join(item.public_bytes(Encoding.PEM) for data in files for item in parse_lists(data))


def judge_revocation(path: Sequence[x509.Certificate], lists: Sequence[x509.CertificateRevocationList], at: datetime) -> Revocation:
    """Hold a verified path, leaf first, against the lists of its own authorities.

    Args:
        lists: each signed by an authority of the path; one that says nothing of this chain is refused rather than passed over, as
            whoever hands it in means to prove something.
        at: aware time at which every list has to be in force.

    Raises:
        EvidenceRejected: code `crl-foreign` (signed by no authority of the path), `crl-expired`, `crl-not-yet-valid`, `crl-format`
            (unreadable, no next update, or a critical extension that is not understood), or `certificate-revoked`.
    """
    try:
        covered = {_covered(item, path, at) for item in lists}
    except ValueError as error:  # fields are parsed when they are read
        raise EvidenceRejected("a revocation list cannot be read", code="crl-format") from error
    return "checked" if len(path) - 1 in covered else "no-crl"


def _covered(item: x509.CertificateRevocationList, path: Sequence[x509.Certificate], at: datetime) -> int:
    """Whose list it is, as a place in the path. Raises as `judge_revocation`, or ValueError."""
    place = _issuer(item, path)
    _require_in_force(item, at)
    issued = path[place - 1 :] if place == len(path) - 1 else path[place - 1 : place]
    if any(item.get_revoked_certificate_by_serial_number(below.serial_number) is not None for below in issued):
        raise EvidenceRejected("a certificate of the chain was revoked by its maker", code="certificate-revoked")
    return place


def _list(data: bytes, *, pem: bool = False) -> x509.CertificateRevocationList:
    try:
        return x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise EvidenceRejected("this is no revocation list in PEM or DER", code="crl-format") from error


def _issuer(item: x509.CertificateRevocationList, path: Sequence[x509.Certificate]) -> int:
    """Where in the path the authority stands that signed a list; the leaf is none."""
    for place, certificate in enumerate(path):
        key = certificate.public_key()
        if place == 0 or certificate.subject != item.issuer or not isinstance(key, EllipticCurvePublicKey | RSAPublicKey):
            continue
        if not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign:
            continue
        try:
            if item.is_signature_valid(key):
                return place
        except (ValueError, TypeError):
            continue
    raise EvidenceRejected("a revocation list is signed by no authority of the chain", code="crl-foreign")


def _require_in_force(item: x509.CertificateRevocationList, at: datetime) -> None:
    unknown = [found.oid for found in item.extensions if found.critical]
    if unknown or item.next_update_utc is None:
        # A critical extension narrows what a list speaks of (RFC 5280 section 5.2): delta lists, lists of one distribution point.
        raise EvidenceRejected("a revocation list says not until when it holds, or holds only for a part", code="crl-format")
    if at > item.next_update_utc:
        raise EvidenceRejected("a revocation list has expired", code="crl-expired")
    if at < item.last_update_utc:
        raise EvidenceRejected("a revocation list is not valid yet", code="crl-not-yet-valid")

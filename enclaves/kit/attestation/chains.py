"""Certificate chains of TEE makers, up to roots that are pinned by the SHA-256 of their DER."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from policies.errors import EvidenceRejected

MAX_CERTIFICATES = 12
MAX_CHAIN_BYTES = 64 << 10

_PEM = b"-----BEGIN CERTIFICATE-----"


def parse_certificates(data: bytes) -> list[x509.Certificate]:
    """Return the certificates of a PEM bundle, or the one of a DER file. Raises EvidenceRejected (code `chain-format`)."""
    if not data or len(data) > MAX_CHAIN_BYTES:
        raise EvidenceRejected("a chain has between 1 byte and 64 KiB", code="chain-format")
    with warnings.catch_warnings():
        # AMD numbers its chips' certificates 0.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        try:
            found = x509.load_pem_x509_certificates(data) if _PEM in data else [x509.load_der_x509_certificate(data)]
        except ValueError as error:
            raise EvidenceRejected("this is no certificate in PEM or DER", code="chain-format") from error
    if len(found) > MAX_CERTIFICATES:
        raise EvidenceRejected("the chain is too long", code="chain-format")
    return found


def plain_pem(data: bytes, count: int) -> list[x509.Certificate]:
    """Return the `count` certificates of a PEM text that holds nothing else.

    Nothing signs the text around certificates, so only one spelling of it counts, with or without a last line end and a zero byte.

    Raises:
        EvidenceRejected: code `chain-format`.
    """
    found = parse_certificates(data)
    text = b"".join(item.public_bytes(Encoding.PEM) for item in found)
    if len(found) != count or data not in (text, text + b"\0", text.rstrip(b"\n"), text.rstrip(b"\n") + b"\0"):
        raise EvidenceRejected(f"the certificates are not {count} in plain PEM", code="chain-format")
    return found


def order_chain(leaf: x509.Certificate, others: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Return the path from `leaf` to a certificate that names itself as its issuer. Raises EvidenceRejected (code `chain-incomplete`)."""
    path = [leaf]
    while path[-1].issuer != path[-1].subject:
        above = next((item for item in others if item.subject == path[-1].issuer and item not in path), None)
        if above is None:
            raise EvidenceRejected("a certificate of the chain is missing", code="chain-incomplete")
        path.append(above)
    return path


def verify_chain(path: Sequence[x509.Certificate], roots: Collection[str], at: datetime) -> None:
    """Check a path, leaf first: pinned root, each signed by the next, each valid at `at` (aware), each issuer an authority.

    Raises:
        EvidenceRejected: code `foreign-root`, `chain-signature`, `chain-authority`, `certificate-expired` or `certificate-not-yet-valid`.
    """
    if fingerprint(path[-1]) not in roots:
        raise EvidenceRejected("the chain does not end at a root of this kind's maker", code="foreign-root")
    for item, issuer in zip(path, [*path[1:], path[-1]], strict=True):
        _require_authority(issuer, below=path.index(issuer) - 1)
        try:
            item.verify_directly_issued_by(issuer)
        except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError) as error:
            raise EvidenceRejected("a certificate is not signed by the one above it", code="chain-signature") from error
    for item in path:
        if at > item.not_valid_after_utc:
            raise EvidenceRejected("a certificate of the chain has expired", code="certificate-expired")
        if at < item.not_valid_before_utc:
            raise EvidenceRejected("a certificate of the chain is not valid yet", code="certificate-not-yet-valid")


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER, hex."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def _require_authority(certificate: x509.Certificate, below: int) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise EvidenceRejected("an issuer is no certificate authority", code="chain-authority") from error
    if not constraints.ca or not usage.key_cert_sign or (constraints.path_length is not None and below > constraints.path_length):
        raise EvidenceRejected("an issuer is no certificate authority", code="chain-authority")

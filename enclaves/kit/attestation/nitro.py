"""AWS Nitro Enclaves attestation documents: COSE_Sign1 (RFC 9052) over CBOR (RFC 8949); the one owner of `cbor2`.

Layout and rules: aws/aws-nitro-enclaves-nsm-api, docs/attestation_process.md.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from enclaves.kit.attestation.chains import fingerprint, parse_certificates, verify_chain
from policies.attestation import AttestationResult, TrustVector, platform_measurement
from policies.errors import EvidenceRejected

AWS_ROOTS = frozenset({"641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"})
"""SHA-256 of CN=aws.nitro-enclaves (aws-nitro-enclaves.amazonaws.com/AWS_NitroEnclaves_Root-G1.zip)."""

MAX_DOCUMENT = 16 << 10
MEASURED = (0, 1, 2)
"""PCR0 is the enclave image, PCR1 kernel and bootstrap, PCR2 the application."""

_COSE_SIGN1_TAG = 18
_ES384 = {1: -35}
_FIELDS = {"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle", "public_key", "user_data", "nonce"}
_SIGNATURE_BYTES = 96
_PCR_BYTES = 48


def verify_nitro(document: bytes, at: datetime, roots: Collection[str] | None = None) -> AttestationResult:
    """Return what a genuine attestation document says; its `user_data` is what the enclave bound.

    Args:
        document: COSE_Sign1, tagged or not.
        at: aware time at which the certificates, which live about three hours, have to be valid.
        roots: accepted roots, SHA-256 of DER in hex; by default `AWS_ROOTS`.

    Raises:
        EvidenceRejected: code `format`, `signature`, or one of `verify_chain`.
    """
    protected, payload, signature = _parse_sign1(document)
    body = _parse_payload(payload)
    chain = [parse_certificates(item) for item in [body["certificate"], *reversed(body["cabundle"])]]
    if any(len(found) != 1 for found in chain):
        raise EvidenceRejected("a certificate of the document is in another form than DER", code="chain-format")
    path = [found[0] for found in chain]
    verify_chain(path, AWS_ROOTS if roots is None else roots, at)
    key = path[0].public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise EvidenceRejected("the signer's key is not on P-384", code="signature")
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    try:
        key.verify(encode_dss_signature(r, s), cbor2.dumps(["Signature1", protected, b"", payload]), ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError) as error:
        raise EvidenceRejected("the document is not signed by that key", code="signature") from error
    return _result(body, root=fingerprint(path[-1]))


def _result(body: dict[str, Any], root: str) -> AttestationResult:
    registers = {f"pcr{index}": body["pcrs"][index].hex() for index in MEASURED}
    debug = not any(body["pcrs"][0])  # an enclave in debug mode has PCRs of zeros
    claims: dict[str, Any] = {
        "debug": debug,
        "measured": not debug,
        "registers": registers,
        "pcrs": {str(index): value.hex() for index, value in sorted(body["pcrs"].items()) if any(value)},
        "module_id": body["module_id"],
        "timestamp": body["timestamp"],
        "nonce": (body["nonce"] or b"").hex(),
        "public_key": (body["public_key"] or b"").hex(),
        "root": root,
    }
    vector = TrustVector(
        instance_identity=2,
        configuration=96 if debug else 2,
        executables=33 if debug else 2,
        hardware=2,
        runtime_opaque=96 if debug else 2,
    )
    return AttestationResult(
        kind="aws-nitro",
        measurement=platform_measurement("aws-nitro", registers),
        bound=(body["user_data"] or b"").hex(),
        vector=vector,
        claims=claims,
    )


def _parse_sign1(document: bytes) -> tuple[bytes, bytes, bytes]:
    """Protected header, payload and signature; the document must be exactly the encoding of these and an empty unprotected header."""
    if not 0 < len(document) <= MAX_DOCUMENT:
        raise EvidenceRejected("an attestation document has between 1 byte and 16 KiB", code="format")
    found = _decoded(document)
    parts = found.value if isinstance(found, cbor2.CBORTag) and found.tag == _COSE_SIGN1_TAG else found
    if not isinstance(parts, (list, tuple)) or len(parts) != 4:
        raise EvidenceRejected("this is no COSE_Sign1", code="format")
    protected, unprotected, payload, signature = parts
    typed = all(isinstance(item, bytes) for item in (protected, payload, signature)) and unprotected == {}
    if not typed or len(signature) != _SIGNATURE_BYTES or protected != cbor2.dumps(_ES384):
        raise EvidenceRejected("the document is not signed with ES384 in the documented form", code="format")
    plain: Any = [protected, {}, payload, signature]
    # Nothing signs tag, array and lengths: only one spelling of them counts.
    if document not in (cbor2.dumps(plain), cbor2.dumps(cbor2.CBORTag(_COSE_SIGN1_TAG, plain))):
        raise EvidenceRejected("the document is not in its one shortest encoding", code="format")
    return protected, payload, signature


def _parse_payload(payload: bytes) -> dict[str, Any]:
    body = _decoded(payload)
    if not isinstance(body, dict) or set(body) != _FIELDS:
        raise EvidenceRejected("the document has other fields than are documented", code="format")
    pcrs, bundle = body["pcrs"], body["cabundle"]
    shaped = (
        isinstance(body["module_id"], str)
        and body["digest"] == "SHA384"
        and type(body["timestamp"]) is int
        and body["timestamp"] > 0
        and isinstance(pcrs, dict)
        and set(MEASURED) <= set(pcrs)
        and all(type(at) is int and 0 <= at < 32 and isinstance(pcr, bytes) and len(pcr) == _PCR_BYTES for at, pcr in pcrs.items())
        and isinstance(bundle, (list, tuple))
        and 1 <= len(bundle) <= 8
        and all(isinstance(item, bytes) for item in [body["certificate"], *bundle])
        and all(body[name] is None or isinstance(body[name], bytes) for name in ("public_key", "user_data", "nonce"))
    )
    if not shaped:
        raise EvidenceRejected("a field of the document has another form than is documented", code="format")
    return body


def _decoded(data: bytes) -> Any:
    try:
        return cbor2.loads(data)
    except Exception as error:
        raise EvidenceRejected("this is no CBOR", code="format") from error

"""Evidence of real TEEs, told apart by kind. Pure: bytes and a time in, what they prove out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from policies.attestation import AttestationResult, EnclaveKind
from policies.errors import EvidenceRejected

BOUND_BYTES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class PlatformEvidence:
    """What a TEE gives out about itself (RFC 9334: evidence), and the endorsements that come with it.

    Attributes:
        document: report, quote or attestation document.
        chain: certificates in PEM or DER, where the document holds none.
        collateral: what the maker says of its platforms, where a kind has it: Intel's documents, AMD's revocation lists.
    """

    kind: EnclaveKind
    document: bytes
    chain: tuple[bytes, ...] = ()
    collateral: bytes | None = None


def verify_platform(evidence: PlatformEvidence, at: float) -> AttestationResult:
    """Return what genuine evidence says; whether that is good enough is for `policies.attestation.refusal` to say.

    Args:
        at: seconds since 1970 at which certificates and collateral have to be valid.

    Raises:
        EvidenceRejected: the evidence is not genuine; its code says why. Code `kind`: no platform gives out evidence of this kind.
    """
    try:
        return _verify(evidence, _time(at))
    except EvidenceRejected:
        raise
    except Exception as error:
        # Parsers of foreign bytes fail in more ways than they document; whatever they raise, nothing was proved.
        raise EvidenceRejected("the evidence cannot be read", code="format") from error


def _verify(evidence: PlatformEvidence, when: datetime) -> AttestationResult:
    if evidence.kind == "amd-sev-snp":
        from enclaves.kit.attestation.snp import verify_snp

        return verify_snp(evidence.document, evidence.chain, when, lists=evidence.collateral)
    if evidence.kind == "intel-tdx":
        from enclaves.kit.attestation.tdx import verify_tdx

        return verify_tdx(evidence.document, evidence.collateral, when)
    if evidence.kind == "aws-nitro":
        from enclaves.kit.attestation.nitro import verify_nitro

        return verify_nitro(evidence.document, when)
    raise EvidenceRejected(f"no platform gives out evidence of kind `{evidence.kind}`", code="kind")


def bound_data(message: bytes) -> bytes:
    """Return the 64 bytes that a TEE signs for an enclave: SHA-384 of `message`, then 16 zero bytes.

    So do the key brokers of Confidential Containers (kbs_attestation_protocol.md, runtime data).
    """
    return hashlib.sha384(message).digest().ljust(BOUND_BYTES, b"\0")


def _time(at: float) -> datetime:
    try:
        return datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise EvidenceRejected("this is no time", code="time") from error

"""Judging what an enclave says: evidence (RATS, RFC 9334) and the statement about a run. Pure.

`appraise` turns evidence into `Attested`; whatever needs an attested enclave takes that type, so the order cannot be skipped.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from enclaves.kit import signatures
from policies.canonical import canonical, digest
from policies.codec import encode
from policies.errors import EvidenceRejected, Tampered
from policies.grant import EnclaveGrant, grant_digest
from policies.statement import AnyStatement, Evidence, Nonce, SignedEvidence, SignedStatement

EVIDENCE_PURPOSE = "enclave-evidence"
STATEMENT_PURPOSE = "enclave-statement"
UNITS_OF_TRUST = {"simulated": "nothing about the machine: whoever runs it is trusted with plaintext"}
"""What an accepted kind of evidence proves, in words, for receipts and pages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attested:
    """Evidence that was appraised and accepted, and its digest."""

    evidence: Evidence
    digest: str


def evidence_digest(signed: SignedEvidence) -> str:
    """Return the digest that names a piece of evidence, signature included."""
    return digest(encode(signed))


def appraise(
    signed: SignedEvidence, *, grant: EnclaveGrant, kinds: Collection[str], measurements: Collection[str], nonce: Nonce | None
) -> Attested:
    """Judge evidence for one grant against reference values.

    Args:
        grant: the grant that the enclave must be bound to.
        kinds, measurements: accepted evidence kinds and reference values.
        nonce: the caller's own fresh challenge; None where freshness was judged by the brokers and only the binding matters.

    Raises:
        EvidenceRejected: code `kind`, `measurement`, `grant`, `nonce` or `signature`.
    """
    evidence = signed.evidence
    if evidence.kind not in kinds:
        raise EvidenceRejected(f"evidence kind `{evidence.kind}` is not accepted", code="kind")
    if evidence.measurement not in measurements or evidence.measurement != grant.measurement:
        raise EvidenceRejected("the measurement is not among the reference values", code="measurement")
    if evidence.kind != grant.enclave_kind or evidence.grant != grant_digest(grant):
        raise EvidenceRejected("the evidence is for another grant", code="grant")
    providers = [item.provider for item in evidence.nonces]
    if len(set(providers)) != len(providers) or (nonce is not None and nonce not in evidence.nonces):
        raise EvidenceRejected("the evidence does not answer this challenge", code="nonce")
    try:
        message = canonical(encode(evidence))
        signatures.verify(bytes.fromhex(evidence.signing_key), EVIDENCE_PURPOSE, message, bytes.fromhex(signed.signature))
    except (Tampered, ValueError) as error:
        raise EvidenceRejected("the enclave's signature is wrong", code="signature") from error
    return Attested(evidence=evidence, digest=evidence_digest(signed))


def verify_statement(signed: SignedStatement, attested: Attested, grant: EnclaveGrant) -> AnyStatement:
    """Return the statement if the attested enclave signed it and it keeps to the grant in mechanism, scale and loss.

    Raises:
        Tampered: code `statement-signature` or `statement-mismatch`.
    """
    statement = signed.statement
    try:
        message = canonical(encode(statement))
        key = bytes.fromhex(attested.evidence.signing_key)
        signatures.verify(key, STATEMENT_PURPOSE, message, bytes.fromhex(signed.signature))
    except (Tampered, ValueError) as error:
        raise Tampered("the statement is not signed by the attested enclave", code="statement-signature") from error
    kept = (
        statement.grant == grant_digest(grant)
        and statement.evidence == attested.digest
        and statement.statistics == grant.statistics
        and statement.loss == grant.loss
        and (statement.sealed is None) != (statement.withheld is None)
    )
    if not kept:
        raise Tampered("the statement does not keep to the grant", code="statement-mismatch")
    return statement


def key_release_info(provider_nonce: str, grant: str, evidence: str) -> bytes:
    """Return the HPKE info string of a key release: it binds the sealed keys to nonce, grant and evidence."""
    return canonical({"purpose": "key-release", "nonce": provider_nonce, "grant": grant, "evidence": evidence})


def release_info(grant: str) -> bytes:
    """Return the HPKE info string of a sealed release."""
    return canonical({"purpose": "release", "grant": grant})

"""Judging what an enclave says: evidence (RATS, RFC 9334) and the statement about a run. Pure.

`appraise` turns evidence into `Attested`; whatever needs an attested enclave takes that type, so the order cannot be skipped. What a TEE
proves is found in `enclaves.kit.attestation`; whether that is enough is decided by the law (`policies.attestation`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from enclaves.kit import signatures
from enclaves.kit.attestation.platform import PlatformEvidence, bound_data, verify_platform
from policies.agreement import Terms
from policies.attestation import AttestationResult, EnclaveKind, PlatformFloor, refusal
from policies.canonical import canonical, digest
from policies.codec import encode
from policies.errors import EvidenceRejected, Tampered
from policies.grant import EnclaveGrant, Grant, grant_digest, is_tested
from policies.isolation import lacking
from policies.statement import AnyStatement, Evidence, Nonce, SignedEvidence, SignedStatement, Statement, verdict_of

EVIDENCE_PURPOSE = "enclave-evidence"
STATEMENT_PURPOSE = "enclave-statement"
UNITS_OF_TRUST: dict[EnclaveKind, str] = {
    "simulated": "nothing about the machine: whoever runs it is trusted with plaintext",
    "amd-sev-snp": "a guest with this launch measurement and encrypted memory, on an AMD processor with agreed firmware",
    "intel-tdx": "a trust domain with this launch measurement and encrypted memory, on an Intel platform in an agreed state",
    "aws-nitro": "an enclave with this image, isolated by the hypervisor of AWS, which is trusted with it",
}
"""What an accepted kind of evidence proves, in words, for receipts and pages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attested:
    """Evidence that was appraised and accepted, and its digest.

    Attributes:
        result: what was found of the TEE; None under `simulated`, of which nothing is known.
    """

    evidence: Evidence
    digest: str
    result: AttestationResult | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceValues:
    """What evidence is compared with (RFC 9334 section 8.3): accepted kinds and measurements, and floors that must all be met."""

    kinds: frozenset[EnclaveKind]
    measurements: frozenset[str]
    platforms: tuple[PlatformFloor, ...] = ()


def reference_values(terms: Iterable[Terms]) -> ReferenceValues:
    """Return what all of `terms` accept: kinds and measurements that are in each, and everybody's floors. At least one is needed."""
    held = list(terms)
    return ReferenceValues(
        kinds=frozenset.intersection(*(frozenset(item.enclave_kinds) for item in held)),
        measurements=frozenset.intersection(*(frozenset(item.measurements) for item in held)),
        platforms=tuple(floor for item in held for floor in item.platforms),
    )


def evidence_digest(signed: SignedEvidence) -> str:
    """Return the digest that names a piece of evidence, signature and the TEE's document included.

    Endorsements are not: whoever carries evidence may add certificates and collateral, which prove themselves.
    """
    if signed.platform is not None:
        signed = replace(signed, platform=replace(signed.platform, chain=(), collateral=""))
    return digest(encode(signed))


def appraise(
    signed: SignedEvidence,
    *,
    grant: EnclaveGrant,
    kinds: Collection[str],
    measurements: Collection[str],
    nonce: Nonce | Collection[Nonce] | None,
    platforms: Collection[PlatformFloor] = (),
    at: float | None = None,
    named: str | None = None,
    digest_of: str | None = None,
) -> Attested:
    """Judge evidence for one grant against reference values.

    Args:
        grant: the grant that the enclave must be bound to.
        kinds, measurements, platforms: accepted evidence kinds, reference values, and what the firmware must show.
        nonce: the caller's own fresh challenge, or several of which one must be answered; None where freshness was judged by the brokers
            and only the binding matters.
        at: seconds since 1970 at which certificates and collateral have to be valid; evidence of a TEE needs it.
        named: the digest of `grant`, where the caller has computed it already; `digest_of`: that of `signed`, likewise.

    Raises:
        EvidenceRejected: code `kind`, `measurement`, `grant`, `isolation`, `nonce`, `signature`, `endorsement` or `key-binding`, or one of
            `verify_platform` or `refusal`.
    """
    evidence = signed.evidence
    if evidence.kind not in kinds:
        raise EvidenceRejected(f"evidence kind `{evidence.kind}` is not accepted", code="kind")
    if evidence.measurement not in measurements or evidence.measurement != grant.measurement:
        raise EvidenceRejected("the measurement is not among the reference values", code="measurement")
    if evidence.kind != grant.enclave_kind or evidence.grant != (named or grant_digest(grant)):
        raise EvidenceRejected("the evidence is for another grant", code="grant")
    missing = lacking(grant.isolation, evidence.isolation) if isinstance(grant, Grant) else ()
    if missing:
        raise EvidenceRejected(f"the run is not isolated by {', '.join(missing)}", code="isolation")
    providers = [item.provider for item in evidence.nonces]
    if len(set(providers)) != len(providers) or not _answers(evidence, nonce):
        raise EvidenceRejected("the evidence does not answer this challenge", code="nonce")
    try:
        message = canonical(encode(evidence))
        signatures.verify(bytes.fromhex(evidence.signing_key), EVIDENCE_PURPOSE, message, bytes.fromhex(signed.signature))
    except (Tampered, ValueError) as error:
        raise EvidenceRejected("the enclave's signature is wrong", code="signature") from error
    result = _appraise_platform(signed, message, frozenset(measurements) & {evidence.measurement}, platforms, at)
    return Attested(evidence=evidence, digest=digest_of or evidence_digest(signed), result=result)


def _answers(evidence: Evidence, nonce: Nonce | Collection[Nonce] | None) -> bool:
    if nonce is None:
        return True
    return any(item in evidence.nonces for item in ((nonce,) if isinstance(nonce, Nonce) else nonce))


def _appraise_platform(
    signed: SignedEvidence, message: bytes, measurements: Collection[str], platforms: Collection[PlatformFloor], at: float | None
) -> AttestationResult | None:
    """What a TEE proves of the claims; None under `simulated`, which no TEE vouches for."""
    kind, endorsed = signed.evidence.kind, signed.platform
    if (kind == "simulated") != (endorsed is None):
        raise EvidenceRejected(
            f"evidence of kind `{kind}` comes {'without' if kind == 'simulated' else 'with'} a TEE's", code="endorsement"
        )
    if endorsed is None:
        return None
    if at is None:
        raise EvidenceRejected("certificates are judged at a time, and none is given", code="time")
    collateral = bytes.fromhex(endorsed.collateral) if endorsed.collateral else None
    chain = tuple(bytes.fromhex(item) for item in endorsed.chain)
    result = verify_platform(PlatformEvidence(kind=kind, document=bytes.fromhex(endorsed.document), chain=chain, collateral=collateral), at)
    if result.bound != bound_data(message).hex():
        raise EvidenceRejected("the TEE vouches for other keys, nonces or another grant than these", code="key-binding")
    refused = refusal(result, measurements=measurements, floors=platforms)
    if refused is not None:
        code, message_ = refused
        raise EvidenceRejected(message_, code=code)
    return result


def verify_statement(
    signed: SignedStatement, attested: Attested, grant: EnclaveGrant, named: str | None = None, text: bytes | None = None
) -> AnyStatement:
    """Return the statement if the attested enclave signed it and it keeps to the grant in mechanism, scale and loss.

    Args:
        named: the digest of `grant`, where the caller has computed it already; `text`: the canonical bytes of the statement, likewise.

    Raises:
        Tampered: code `statement-signature` or `statement-mismatch`.
    """
    statement = signed.statement
    try:
        message = text or canonical(encode(statement))
        key = bytes.fromhex(attested.evidence.signing_key)
        signatures.verify(key, STATEMENT_PURPOSE, message, bytes.fromhex(signed.signature))
    except (Tampered, ValueError) as error:
        raise Tampered("the statement is not signed by the attested enclave", code="statement-signature") from error
    kept = (
        statement.grant == (named or grant_digest(grant))
        and statement.evidence == attested.digest
        and statement.statistics == grant.statistics
        and statement.loss == grant.loss
        and (statement.sealed is None) != (statement.withheld is None)
        and (verdict_of(statement) is not None) == (statement.sealed is not None and is_tested(grant))
        and _speaks_of_rows(statement, grant)
    )
    if not kept:
        raise Tampered("the statement does not keep to the grant", code="statement-mismatch")
    return statement


def _speaks_of_rows(statement: AnyStatement, grant: EnclaveGrant) -> bool:
    """Whether the word about a call's rows stands where one was released, or withheld for it, and nowhere else."""
    said = statement.probing if isinstance(statement, Statement) else None
    scored = isinstance(grant, Grant) and grant.plan.scoring is not None
    return (said is not None) == (scored and (statement.sealed is not None or statement.withheld == "probing"))


def key_release_info(provider_nonce: str, grant: str, evidence: str) -> bytes:
    """Return the HPKE info string of a key release: it binds the sealed keys to nonce, grant and evidence."""
    return canonical({"purpose": "key-release", "nonce": provider_nonce, "grant": grant, "evidence": evidence})


def release_info(grant: str) -> bytes:
    """Return the HPKE info string of a sealed release."""
    return canonical({"purpose": "release", "grant": grant})

"""The inside identity of one run, and the evidence that binds it: for itself, or with the word of a TEE."""

from __future__ import annotations

from dataclasses import dataclass

from enclaves.attesters import Attester, find_attester
from enclaves.kit.appraisal import EVIDENCE_PURPOSE, evidence_digest
from enclaves.kit.attestation.platform import bound_data
from enclaves.kit.sealing import SealingKey
from enclaves.kit.signatures import SigningKey
from policies.attestation import EnclaveKind
from policies.canonical import canonical
from policies.codec import encode
from policies.grant import Grant, grant_digest
from policies.isolation import Layer
from policies.statement import Evidence, Nonce, SignedEvidence


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Fresh keys of one run; they exist in this process only and end with it."""

    signing: SigningKey
    sealing: SealingKey
    evidence: SignedEvidence

    @property
    def digest(self) -> str:
        """Digest of the evidence."""
        return evidence_digest(self.evidence)

    def nonce_of(self, provider: str) -> str:
        """The challenge of one provider's broker; empty if it sent none."""
        return next((nonce.value for nonce in self.evidence.evidence.nonces if nonce.provider == provider), "")


def attest(
    grant: Grant, nonces: tuple[Nonce, ...], measurement: str, isolation: tuple[Layer, ...] = (), attester: Attester | None = None
) -> Identity:
    """Return fresh keys and evidence of the kind that the grant names, from this machine's own attester.

    Args:
        measurement: of this code; evidence of a TEE states the grant's, which the TEE then vouches for or not.
        isolation: the layers around the process.
        attester: where the TEE's word comes from; None for this machine's devices.

    Raises:
        OSError: this machine is no TEE of that kind.
    """
    if grant.enclave_kind == "simulated":
        return attest_simulated(grant, nonces, measurement, isolation)
    return attest_with(attester or find_attester(grant.enclave_kind), grant, nonces, isolation)


def attest_simulated(grant: Grant, nonces: tuple[Nonce, ...], measurement: str, isolation: tuple[Layer, ...] = ()) -> Identity:
    """Return fresh keys and `simulated` evidence that binds them to nonces, grant, measurement and the layers around the process.

    The enclave signs for itself: the evidence proves possession of the keys, and nothing about the machine or its operator.
    """
    return _identity(None, "simulated", grant, nonces, measurement, isolation)


def attest_with(attester: Attester, grant: Grant, nonces: tuple[Nonce, ...], isolation: tuple[Layer, ...] = ()) -> Identity:
    """Return fresh keys, and evidence in which a TEE vouches for them, the nonces and the grant. Raises OSError."""
    return _identity(attester, grant.enclave_kind, grant, nonces, grant.measurement, isolation)


def _identity(
    attester: Attester | None,
    kind: EnclaveKind,
    grant: Grant,
    nonces: tuple[Nonce, ...],
    measurement: str,
    isolation: tuple[Layer, ...],
) -> Identity:
    signing, sealing = SigningKey.generate(), SealingKey.generate()
    evidence = Evidence(
        kind=kind,
        measurement=measurement,
        nonces=nonces,
        grant=grant_digest(grant),
        sealing_key=sealing.public.hex(),
        signing_key=signing.public.hex(),
        isolation=isolation,
    )
    claims = canonical(encode(evidence))
    signature = signing.sign(EVIDENCE_PURPOSE, claims).hex()
    platform = None if attester is None else attester.endorse(bound_data(claims))
    return Identity(signing=signing, sealing=sealing, evidence=SignedEvidence(evidence=evidence, signature=signature, platform=platform))

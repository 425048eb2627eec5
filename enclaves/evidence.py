"""The inside identity of one run, and the attester that makes evidence of it."""

from __future__ import annotations

from dataclasses import dataclass

from enclaves.kit.appraisal import EVIDENCE_PURPOSE, evidence_digest
from enclaves.kit.sealing import SealingKey
from enclaves.kit.signatures import SigningKey
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


def attest_simulated(grant: Grant, nonces: tuple[Nonce, ...], measurement: str, isolation: tuple[Layer, ...] = ()) -> Identity:
    """Return fresh keys and `simulated` evidence that binds them to nonces, grant, measurement and the layers around the process.

    The enclave signs for itself: the evidence proves possession of the keys, and nothing about the machine or its operator.
    """
    signing, sealing = SigningKey.generate(), SealingKey.generate()
    evidence = Evidence(
        kind="simulated",
        measurement=measurement,
        nonces=nonces,
        grant=grant_digest(grant),
        sealing_key=sealing.public.hex(),
        signing_key=signing.public.hex(),
        isolation=isolation,
    )
    signature = signing.sign(EVIDENCE_PURPOSE, canonical(encode(evidence)))
    return Identity(signing=signing, sealing=sealing, evidence=SignedEvidence(evidence=evidence, signature=signature.hex()))

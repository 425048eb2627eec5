"""Endorsements that a host adds to its enclaves' evidence: they prove themselves, and an enclave without a network cannot fetch them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from enclaves.kit.attestation.revocation import bundle
from policies.statement import SignedEvidence

FOLDER, COLLATERAL = "endorsements", "collateral.json"
CERTIFICATES = (".pem", ".der", ".crt", ".cer")
LISTS = ".crl"


def add_endorsements(signed: SignedEvidence, folder: Path) -> SignedEvidence:
    """Return evidence of a TEE with the certificates and the collateral of a folder, where it came without; `simulated` stays as it is.

    Args:
        folder: certificates as files named `*.pem` or `*.der`, AMD's revocation lists as `*.crl`,
            Intel's collateral as `collateral.json`; read anew for every run.

    Raises:
        EvidenceRejected: code `crl-format`, for a file that is no revocation list.
    """
    platform = signed.platform
    if platform is None:
        return signed
    if not platform.chain and signed.evidence.kind == "amd-sev-snp":
        files = sorted(path for path in folder.glob("*") if path.suffix in CERTIFICATES)
        platform = replace(platform, chain=tuple(path.read_bytes().hex() for path in files))
    lists = sorted(folder.glob(f"*{LISTS}")) if signed.evidence.kind == "amd-sev-snp" and not platform.collateral else []
    if lists:
        platform = replace(platform, collateral=bundle([path.read_bytes() for path in lists]).hex())
    if not platform.collateral and signed.evidence.kind == "intel-tdx" and (folder / COLLATERAL).is_file():
        platform = replace(platform, collateral=(folder / COLLATERAL).read_bytes().hex())
    return replace(signed, platform=platform)

"""Attestation results as the law reads them: EAR claims (draft-ietf-rats-ear) with the trustworthiness vector of AR4SI
(draft-ietf-rats-ar4si), and what terms may ask of a kind of TEE besides its measurement. Pure.

Whoever appraises evidence (`enclaves.kit.attestation`) says what it found as an `AttestationResult`; `refusal` is the appraisal policy for
attestation results of RFC 9334: it alone decides whether that is good enough for somebody's terms.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from policies.canonical import digest, digest_bytes
from policies.codec import omitted
from policies.errors import Malformed

EnclaveKind = Literal["simulated", "amd-sev-snp", "intel-tdx", "aws-nitro"]
"""Evidence kinds that the law knows. `simulated` proves nothing about the machine."""

TcbStatus = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]
"""What Intel's collateral says of a platform (Intel PCS API v4, TCB status); `Revoked` cannot be agreed to."""

Status = Literal["none", "affirming", "warning", "contraindicated"]
"""`ear.status`: the worst tier of the vector (AR4SI section 2.3.2)."""

EAR_PROFILE = "tag:github.com,2023:veraison/ear"
POLICY_ID = "urn:sandbox:appraisal-policy:1"

_SVN = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpFloor:
    """The lowest firmware that an AMD platform may report: one security patch level (0 to 255) per part (SEV-SNP ABI, TCB_VERSION).

    `fmc` exists from Turin on. `revocation` asks for AMD's revocation list besides: without it, nothing is known of revoked intermediates.
    """

    kind: Literal["amd-sev-snp"] = "amd-sev-snp"
    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int = omitted(0)
    revocation: bool = omitted(False)

    def __post_init__(self) -> None:
        for name in ("bootloader", "tee", "snp", "microcode", "fmc"):
            if not 0 <= getattr(self, name) <= _SVN:
                raise Malformed("must lie between 0 and 255", where=name)

    @property
    def text(self) -> str:
        """For people."""
        listed = "; with AMD's revocation list" if self.revocation else ""
        return f"bootloader {self.bootloader}, tee {self.tee}, snp {self.snp}, microcode {self.microcode}, fmc {self.fmc} or newer{listed}"

    def refuses(self, claims: dict[str, Any]) -> bool:
        """Whether a reported patch level lies below this floor, or is not reported at all."""
        tcb = claims.get("tcb", {})
        parts = {name: getattr(self, name) for name in ("bootloader", "tee", "snp", "microcode")} | ({"fmc": self.fmc} if self.fmc else {})
        return any(not isinstance(tcb.get(name), int) or tcb[name] < least for name, least in parts.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class TdxFloor:
    """The states of an Intel platform that are good enough; without this term only `UpToDate` is."""

    kind: Literal["intel-tdx"] = "intel-tdx"
    statuses: tuple[TcbStatus, ...]

    def __post_init__(self) -> None:
        if not self.statuses or len(set(self.statuses)) != len(self.statuses):
            raise Malformed("needs distinct states", where="statuses")

    @property
    def text(self) -> str:
        """For people."""
        return ", ".join(self.statuses)

    def refuses(self, claims: dict[str, Any]) -> bool:
        """Whether the platform's state is another than the accepted ones."""
        return claims.get("tcb_status") not in self.statuses


PlatformFloor: TypeAlias = SnpFloor | TdxFloor
"""What one kind of TEE must show of its firmware."""

UP_TO_DATE = TdxFloor(statuses=("UpToDate",))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustVector:
    """AR4SI trustworthiness claims, -128 to 127; 0 makes no claim, 2 to 31 affirm, 32 to 95 warn, 96 to 127 contraindicate."""

    instance_identity: int = 0
    configuration: int = 0
    executables: int = 0
    hardware: int = 0
    runtime_opaque: int = 0

    def document(self) -> dict[str, int]:
        """The claims by their names in EAR."""
        names = ("instance_identity", "configuration", "executables", "hardware", "runtime_opaque")
        return {name.replace("_", "-"): getattr(self, name) for name in names}

    @property
    def status(self) -> Status:
        """The worst tier of the claims that are made."""
        worst = max(self.document().values())
        tiers: tuple[tuple[int, Status], ...] = ((96, "contraindicated"), (32, "warning"), (2, "affirming"))
        return next((tier for least, tier in tiers if worst >= least), "none")


@dataclass(frozen=True, kw_only=True, slots=True)
class AttestationResult:
    """What an appraisal found of genuine evidence.

    Attributes:
        measurement: the reference value that the evidence amounts to (`platform_measurement`).
        bound: the data that the platform signed for the attester, hex.
        claims: everything else that was read in the evidence: plain JSON values.
    """

    kind: EnclaveKind
    measurement: str
    bound: str
    vector: TrustVector
    claims: dict[str, Any]

    def ear(self, at: int) -> dict[str, Any]:
        """The EAR claims set, issued at `at` seconds since 1970."""
        return {
            "eat_profile": EAR_PROFILE,
            "iat": at,
            "ear.verifier-id": {"developer": "urn:sandbox", "build": "1"},
            "submods": {
                "cpu0": {
                    "ear.status": self.vector.status,
                    "ear.trustworthiness-vector": self.vector.document(),
                    "ear.appraisal-policy-id": POLICY_ID,
                    "ear.veraison.annotated-evidence": {
                        "kind": self.kind,
                        "measurement": self.measurement,
                        "report_data": self.bound,
                        **self.claims,
                    },
                }
            },
        }


def code_measurement(files: Mapping[str, str]) -> str:
    """Return the measurement of code: SHA-256 over one line per file, sorted by path: hex SHA-256, two spaces, path with `/`.

    Args:
        files: path to hex SHA-256 of its contents.
    """
    return digest_bytes("".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode())


def platform_measurement(kind: EnclaveKind, registers: dict[str, str]) -> str:
    """Return the one digest that names what a TEE has measured at its launch: over the kind and its registers (name to hex)."""
    return digest({"kind": kind, "registers": registers})


def refusal(
    result: AttestationResult, *, measurements: Collection[str] | None = None, floors: Collection[PlatformFloor] = ()
) -> tuple[str, str] | None:
    """Return (code, sentence) of why a result is not good enough for terms, or None if it is. What is not claimed is refused.

    Args:
        measurements: reference values; None where only the platform is judged, and then whatever is measured but nothing.
        floors: every one that speaks of this kind must be met; Intel's platforms are `UpToDate` unless one says otherwise.
    """
    claims = result.claims
    if claims.get("debug") is not False:
        return "debug", "the enclave is in debug mode: its operator can read it"
    if claims.get("migratable", False):
        return "migratable", "the enclave may be moved to machines that nobody has appraised"
    if claims.get("unsigned_bytes", False):
        return "unsigned-bytes", "the evidence carries bytes that nothing signs"
    if not claims.get("measured", False) or (measurements is not None and result.measurement not in measurements):
        return "measurement", "the measurement is not among the reference values"
    if result.kind == "intel-tdx" and "tcb_status" not in claims:
        return "collateral-missing", "without Intel's collateral nothing is known of the platform's firmware"
    asked = [floor for floor in floors if floor.kind == result.kind] or ([UP_TO_DATE] if result.kind == "intel-tdx" else [])
    if claims.get("revocation") != "checked" and any(isinstance(floor, SnpFloor) and floor.revocation for floor in asked):
        return "no-crl", "without the maker's revocation list nothing is known of revoked certificates"
    if any(floor.refuses(claims) for floor in asked):
        return "tcb", "the platform's firmware is older than the terms allow"
    if result.vector.status != "affirming":
        return "status", f"the attestation result is `{result.vector.status}`"
    return None

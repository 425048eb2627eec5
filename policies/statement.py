"""What an enclave signs and what a recipient opens: evidence, the release and the statement about it. Shapes only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from policies.agreement import EnclaveKind
from policies.codec import omitted
from policies.granted import WithheldCode
from policies.law1 import statement as law1
from policies.model import ModelRelease
from policies.names import require_digest, require_key
from policies.privacy import Loss
from policies.schedule import Statistic


@dataclass(frozen=True, kw_only=True, slots=True)
class Nonce:
    """One broker's challenge."""

    provider: str
    value: str

    def __post_init__(self) -> None:
        require_key(self.value, "value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """An enclave's claim (RATS, RFC 9334): it binds every broker's nonce, the grant and its fresh keys to its measurement.

    Under kind `simulated` the enclave signs with its own fresh key, so the signature proves possession of that key and nothing about the
    machine.
    """

    kind: EnclaveKind
    measurement: str
    nonces: tuple[Nonce, ...]
    grant: str
    sealing_key: str
    signing_key: str

    def __post_init__(self) -> None:
        require_digest(self.measurement, "measurement")
        require_digest(self.grant, "grant")
        require_key(self.sealing_key, "sealing_key")
        require_key(self.signing_key, "signing_key")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedEvidence:
    """Evidence with the enclave's signature (128 hex digits)."""

    evidence: Evidence
    signature: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """What the enclave states of a run. `sealed` is the digest of the sealed release, or None with a `withheld` code."""

    kind: Literal["statement/2"] = "statement/2"
    grant: str
    evidence: str
    sealed: str | None
    withheld: WithheldCode | None
    statistics: tuple[Statistic, ...]
    loss: Loss

    def __post_init__(self) -> None:
        require_digest(self.grant, "grant")
        require_digest(self.evidence, "evidence")
        if self.sealed is not None:
            require_digest(self.sealed, "sealed")


AnyStatement: TypeAlias = Statement | law1.Statement
"""A statement of whatever law."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedStatement:
    """A statement with the enclave's signature (128 hex digits)."""

    statement: AnyStatement
    signature: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One released aggregate with its 95 % interval, as decimal strings."""

    name: str
    value: str
    low: str
    high: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One combination of group keys; `figures` is empty where the noised unit count stayed below the minimum group."""

    keys: tuple[str | int | None, ...]
    suppressed: bool
    figures: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What leaves an enclave, before sealing.

    Attributes:
        model: of a training whose cell was not suppressed.
    """

    kind: Literal["release/2"] = "release/2"
    grant: str
    enclave_kind: EnclaveKind
    key_names: tuple[str, ...]
    cells: tuple[Cell, ...]
    minimum_group: int
    statistics: tuple[Statistic, ...]
    loss: Loss
    model: ModelRelease | None = omitted(None)


AnyRelease: TypeAlias = Release | law1.Release
"""A release of whatever law."""

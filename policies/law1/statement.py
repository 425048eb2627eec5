"""What an enclave signed and released under law/1. Shapes only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.agreement import EnclaveKind
from policies.granted import WithheldCode
from policies.law1.privacy import Statistic
from policies.names import require_digest
from policies.privacy import Loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """What the enclave states of a run. `sealed` is the digest of the sealed release, or None with a `withheld` code."""

    kind: Literal["statement/1"] = "statement/1"
    grant: str
    evidence: str
    sealed: str | None
    withheld: WithheldCode | None
    mechanism: Literal["discrete-laplace"]
    statistics: tuple[Statistic, ...]
    loss: Loss

    def __post_init__(self) -> None:
        require_digest(self.grant, "grant")
        require_digest(self.evidence, "evidence")
        if self.sealed is not None:
            require_digest(self.sealed, "sealed")


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

    keys: tuple[str | int, ...]
    suppressed: bool
    figures: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What leaves an enclave, before sealing."""

    kind: Literal["release/1"] = "release/1"
    grant: str
    enclave_kind: EnclaveKind
    key_names: tuple[str, ...]
    cells: tuple[Cell, ...]
    minimum_group: int
    statistics: tuple[Statistic, ...]
    loss: Loss

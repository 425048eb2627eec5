"""What an enclave signs and what a recipient opens: evidence, the release and the statement about it. Shapes only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from policies.acceptance import Verdict
from policies.agreement import EnclaveKind
from policies.codec import omitted
from policies.errors import Malformed
from policies.granted import WithheldCode
from policies.isolation import Layer, require_in_order
from policies.law1 import statement as law1
from policies.model import ModelRelease
from policies.names import require_digest, require_key
from policies.privacy import Loss
from policies.schedule import Statistic
from policies.service import Probing, Scores


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

    The enclave signs with its own fresh key, so the signature proves possession of that key and nothing about the machine: that is all
    there is under kind `simulated`. Under the other kinds a TEE vouches for these very claims (`Endorsed`).

    Attributes:
        isolation: the layers between the run and its machine, all of them; evidence of the first logs names none.
    """

    kind: EnclaveKind
    measurement: str
    nonces: tuple[Nonce, ...]
    grant: str
    sealing_key: str
    signing_key: str
    isolation: tuple[Layer, ...] = omitted(())

    def __post_init__(self) -> None:
        require_in_order(self.isolation, "isolation")
        require_digest(self.measurement, "measurement")
        require_digest(self.grant, "grant")
        require_key(self.sealing_key, "sealing_key")
        require_key(self.signing_key, "signing_key")


@dataclass(frozen=True, kw_only=True, slots=True)
class Endorsed:
    """What the TEE itself gives out about the claims, and the endorsements that come with it; all in hex.

    Attributes:
        document: report, quote or attestation document, which carries SHA-384 of the claims' canonical JSON.
        chain: certificates, PEM or DER, where the document holds none.
        collateral: what the maker says of its platforms; empty where a kind has none.
    """

    document: str
    chain: tuple[str, ...] = omitted(())
    collateral: str = omitted("")

    def __post_init__(self) -> None:
        for where, text in (("document", self.document), ("collateral", self.collateral), *(("chain", item) for item in self.chain)):
            if not _is_hex(text):
                raise Malformed("must be lower-case hexadecimal", where=where)


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedEvidence:
    """Evidence with the enclave's signature (128 hex digits), and under a kind other than `simulated` what the TEE says of it."""

    evidence: Evidence
    signature: str
    platform: Endorsed | None = omitted(None)


def _is_hex(text: str) -> bool:
    return len(text) % 2 == 0 and not set(text) - set("0123456789abcdef")


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """What the enclave states of a run. `sealed` is the digest of the sealed release, or None with a `withheld` code.

    Attributes:
        accepted: of a released model with a test: whether it passed. One bit of a noised metric, which whoever reads the log learns.
        probing: of a call of a scoring service whose rows were read.
    """

    kind: Literal["statement/2"] = "statement/2"
    grant: str
    evidence: str
    sealed: str | None
    withheld: WithheldCode | None
    statistics: tuple[Statistic, ...]
    loss: Loss
    accepted: Verdict | None = omitted(None)
    probing: Probing | None = omitted(None)

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
        scores: of a call of a scoring service, which has no cells.
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
    scores: Scores | None = omitted(None)


AnyRelease: TypeAlias = Release | law1.Release
"""A release of whatever law."""


def verdict_of(statement: AnyStatement) -> Verdict | None:
    """Return whether a model passed its test; None where there was no test, or nothing was released."""
    return statement.accepted if isinstance(statement, Statement) else None

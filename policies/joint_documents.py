"""What key holder and contributors of a joint total sign, and what its recipient opens. Shapes only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from policies.canonical import digest
from policies.codec import encode, omitted
from policies.errors import Malformed
from policies.joint import MAX_CONTRIBUTORS, Noise
from policies.model import ModelRelease
from policies.names import require_digest, require_name, require_slug
from policies.privacy import Loss
from policies.schedule import Statistic
from policies.statement import Cell

MAX_ATTEMPTS = MAX_CONTRIBUTORS
"""Every attempt after the first has a contributor less."""

JointWithheld = Literal["aborted", "output-limit"]
"""All that a key holder ever says when it releases nothing. Whatever is wrong with a total is `aborted`: one bit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JointManifest:
    """What one attempt adds up. The key holder signs it with its fresh key; every contributor signs its digest with what it sends.

    Attributes:
        attempt: 1, or one more after a contributor dropped out.
        contributors: those of this attempt, in the order of the pool.
        public_key: digest of the public key's bytes. Whoever encrypts under another one has been given it by nobody.
    """

    kind: Literal["joint-manifest/1"] = "joint-manifest/1"
    job: str
    grant: str
    attempt: int
    contributors: tuple[str, ...]
    public_key: str

    def __post_init__(self) -> None:
        require_slug(self.job, "job")
        require_digest(self.grant, "grant")
        require_digest(self.public_key, "public_key")
        if not 1 <= self.attempt <= MAX_ATTEMPTS:
            raise Malformed(f"must lie between 1 and {MAX_ATTEMPTS}", where="attempt")
        for name in self.contributors:
            require_name(name, "contributors")
        if len(set(self.contributors)) != len(self.contributors) or not 2 <= len(self.contributors) <= MAX_CONTRIBUTORS:
            raise Malformed(f"needs 2 to {MAX_CONTRIBUTORS} distinct contributors", where="contributors")


@dataclass(frozen=True, kw_only=True, slots=True)
class JointContribution:
    """What a contributor signs: its ciphertexts, by digest, for one manifest and no other."""

    kind: Literal["joint-contribution/1"] = "joint-contribution/1"
    job: str
    manifest: str
    ciphertexts: str

    def __post_init__(self) -> None:
        require_slug(self.job, "job")
        require_digest(self.manifest, "manifest")
        require_digest(self.ciphertexts, "ciphertexts")


@dataclass(frozen=True, kw_only=True, slots=True)
class JointStatement:
    """What the key holder signs of the one total that it opened.

    Attributes:
        total: digest of the sum's ciphertexts; `contributions`: of what every contributor signed, in the manifest's order.
        sealed: digest of the sealed release, or None with a `withheld` code.
        key_destroyed: that the secret key of this job exists nowhere any more.
    """

    kind: Literal["joint-statement/1"] = "joint-statement/1"
    job: str
    grant: str
    manifest: str
    contributions: str
    total: str
    sealed: str | None
    withheld: JointWithheld | None
    statistics: tuple[Statistic, ...]
    loss: Loss
    key_destroyed: Literal[True] = True

    def __post_init__(self) -> None:
        require_slug(self.job, "job")
        for name in ("grant", "manifest", "contributions", "total"):
            require_digest(getattr(self, name), name)
        if (self.sealed is None) == (self.withheld is None):
            raise Malformed("says either what was sealed or why nothing was", where="sealed")
        if self.sealed is not None:
            require_digest(self.sealed, "sealed")


@dataclass(frozen=True, kw_only=True, slots=True)
class JointRelease:
    """What leaves a key holder, before sealing.

    Attributes:
        noise: who drew it; `contributors`: of the attempt that was opened.
        statistics: as granted, with the noise that the loss is charged for; intervals are of all noise that was drawn.
        model: of a training whose one cell was not suppressed.
    """

    kind: Literal["joint-release/1"] = "joint-release/1"
    grant: str
    manifest: str
    noise: Noise
    contributors: tuple[str, ...]
    key_names: tuple[str, ...]
    cells: tuple[Cell, ...]
    minimum_group: int
    statistics: tuple[Statistic, ...]
    loss: Loss
    model: ModelRelease | None = omitted(None)


def contributions_digest(contributions: Sequence[JointContribution]) -> str:
    """Return the digest of what all contributors signed, in the manifest's order: a total is of these and of nothing else."""
    return digest([digest(encode(contribution)) for contribution in contributions])


def manifest_digest(manifest: JointManifest) -> str:
    """Return the digest that names an attempt."""
    return digest(encode(manifest))

"""What the host keeps of a joint total while it runs, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enclaves.kit.envelope import Signed
from policies.codec import decode
from policies.joint_documents import JointManifest, manifest_digest

JointTask = Literal["key", "contribution", "opening"]
"""What a joint total waits for: its key holder's fresh key, a contributor's ciphertexts, the opening of the total."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JointAttempt:
    """The present attempt at a joint total.

    Attributes:
        manifest: signed by the key holder; None before there is a key.
        total: digest of the sum's ciphertexts; None before all contributions were added.
    """

    job: str
    attempt: int
    contributors: tuple[str, ...]
    manifest: Signed | None = None
    total: str | None = None

    @property
    def named(self) -> str:
        """Digest of the manifest; empty before there is one."""
        return "" if self.manifest is None else manifest_digest(decode(JointManifest, self.manifest.body))

    def task_of(self, name: str, key_holder: str, contributed: bool) -> JointTask | None:
        """What this attempt waits for from a participant, or None."""
        if self.manifest is None:
            return "key" if name == key_holder else None
        if self.total is not None:
            return "opening" if name == key_holder else None
        return "contribution" if name in self.contributors and not contributed else None


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredJointRelease:
    """What the key holder stated, signed, and the sealed release (empty if withheld)."""

    job: str
    statement: Signed
    sealed: bytes

"""What the host keeps of a joint total while it runs, as values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from enclaves.kit.envelope import Signed
from policies.codec import decode
from policies.joint_documents import JointManifest, manifest_digest

JointTask = Literal["key", "contribution", "opening"]
"""What a joint total waits for: its key holder's fresh key, a contributor's ciphertexts, the opening of the total."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JointProgress:
    """How far a running joint total is.

    Attributes:
        contributed: whose ciphertexts are there, in the pool's order.
        waiting_for: contributors that are missing, or the key holder for its key or the opening; nobody while all is being added.
        until: when whoever has not come is dropped or fails the job, milliseconds since 1970.
    """

    attempt: int
    contributed: tuple[str, ...]
    waiting_for: tuple[str, ...]
    until: int


@dataclass(frozen=True, kw_only=True, slots=True)
class JointAttempt:
    """The present attempt at a joint total.

    Attributes:
        manifest: signed by the key holder; None before there is a key.
        total: digest of the sum's ciphertexts; None before all contributions were added.
        since: when it began to wait for what it waits for, milliseconds since 1970.
    """

    job: str
    attempt: int
    contributors: tuple[str, ...]
    manifest: Signed | None = None
    total: str | None = None
    since: int = 0

    @property
    def named(self) -> str:
        """Digest of the manifest; empty before there is one."""
        return "" if self.manifest is None else manifest_digest(decode(JointManifest, self.manifest.body))

    def progress(self, key_holder: str, contributed: Iterable[str], patience_ms: int) -> JointProgress:
        """Who has contributed to this attempt, and for whom it waits until when. Nobody learns more than names and times."""
        have = frozenset(contributed)
        done = tuple(name for name in self.contributors if name in have)
        keyed = self.manifest is not None and self.total is None
        waits = tuple(name for name in self.contributors if name not in have) if keyed else (key_holder,)
        return JointProgress(attempt=self.attempt, contributed=done, waiting_for=waits, until=self.since + patience_ms)

    def task_of(self, name: str, key_holder: str, contributed: bool) -> JointTask | None:
        """What this attempt waits for from a participant, or None."""
        if self.manifest is None:
            return "key" if name == key_holder else None
        if self.total is not None:
            return "opening" if name == key_holder else None
        return "contribution" if name in self.contributors and not contributed else None

    def asks_later(self, name: str, key_holder: str) -> bool:
        """Whether this attempt, which waits for somebody else now, comes to a participant if all goes well."""
        if self.manifest is None:
            return name in self.contributors
        return self.total is None and name == key_holder


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredJointRelease:
    """What the key holder stated, signed, and the sealed release (empty if withheld)."""

    job: str
    statement: Signed
    sealed: bytes

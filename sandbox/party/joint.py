"""What contributors and key holders of joint totals have in common, at home: both decide again before they do anything."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from enclaves.kit.child import Child, Work
from policies.agreement import Agreement
from policies.codec import decode
from policies.errors import PolicyRefused, SandboxError, Tampered, Unavailable
from policies.grant import grant_digest
from policies.joint_documents import JointManifest
from policies.joint_grant import JointGrant
from policies.names import require_slug
from sandbox.party.deciding import require_decided, require_logged
from sandbox.party.followed import Followed
from sandbox.party.joint_client import JointClient
from sandbox.party.kept import kept_agreement, kept_agreements

RETRY_S = 1.0
AHEAD_S = 10.0
"""How long after a failure an agreement is not read ahead again."""

_UNUSABLE = (KeyError, TypeError, ValueError, AttributeError)
"""What an answer of the service of any shape may raise; none may end a participant's process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A joint total that this participant decided again and allows."""

    grant: JointGrant
    agreement: Agreement
    followed: Followed


@dataclass
class JointPart:
    """What contributors and key holders have in common.

    Attributes:
        idle_s: seconds between two looks while nothing is under way. soon_s: while a total runs that comes to this participant next.
    """

    client: JointClient
    now: Callable[[], float] = time.time
    progress: Callable[[str, int, int], None] = lambda what, done, of: None

    tasks = frozenset[str]()
    work: ClassVar[Work] = "contribute"
    idle_s, soon_s = 0.5, 0.2

    def __post_init__(self) -> None:
        self._next = frozenset[str]()
        self.child = Child(self.work)
        self._ahead: dict[str, float] = {}

    def serve(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Do what waits until told to stop; a service that cannot be reached is waited for, what goes wrong stands in the journal.

        A child process stands ready for the next computation, and agreements on pools have been read.
        """
        try:
            while not stopping():
                self._turn()
        finally:
            self.child.close()

    def _turn(self) -> None:
        self.child.ready()
        done = 0
        try:
            done = self.step()
            if not done and not self._next:
                self._read_ahead()
        except (SandboxError, *_UNUSABLE) as error:
            code = error.code if isinstance(error, SandboxError) else "malformed-answer"
            if code != "unreachable":
                told = str(error) if isinstance(error, SandboxError) else type(error).__name__
                self.client.home.note("error", code=code, message=told)
            time.sleep(RETRY_S)
        time.sleep(self.soon_s if done or self._next else self.idle_s)

    def _read_ahead(self) -> None:
        """Read one more agreement with a part for this participant, and verify all its signatures, while nothing waits."""
        client, now = self.client, time.monotonic()
        due = (name for name in kept_agreements(client.home) if self._ahead.get(name, 0.0) <= now)
        name = next(due, None)
        if name is None:
            return
        self._ahead[name] = now + AHEAD_S
        agreement = kept_agreement(client.home, name)
        if any(client.home.participant in (pool.key_holder, *pool.contributors) for pool in agreement.pools):
            client.followed_agreement(name)
        self._ahead[name] = math.inf

    def step(self) -> int:
        """Do everything that waits once; returns how much that was. The first failure is raised after all were tried."""
        waiting, self._next = self.client.joint_work()
        mine, failures = [item for item in waiting if item["task"] in self.tasks], list[Exception]()
        for item in mine:
            try:
                self._one(item)
            except (SandboxError, *_UNUSABLE) as error:
                if isinstance(error, Unavailable) and error.code in ("unreachable", "home"):
                    raise
                failures.append(error)
        if failures:
            raise failures[0]
        return len(mine)

    def _one(self, item: dict[str, Any]) -> None:
        job = item["job"]
        grant = decode(JointGrant, job["grant"])
        if grant.job != require_slug(str(job["id"]), "job"):
            raise Tampered("the grant is for another job", code="grant-job")
        with self.client.home.locked("joint"):
            self._do(item, grant)

    def _do(self, item: dict[str, Any], grant: JointGrant) -> None:
        """Do one thing that waits."""

    def _checked(self, item: dict[str, Any], grant: JointGrant) -> Checked:
        agreement, followed = self.client.followed_agreement(grant.agreement)
        require_logged(grant, followed)
        require_decided(self.client.home, item["job"], grant, agreement, followed, self.now())
        return Checked(grant=grant, agreement=agreement, followed=followed)

    @contextmanager
    def _files(self, *contents: bytes) -> Iterator[list[Path]]:
        """Private files for a child process, gone afterwards; one more for what it writes."""
        with tempfile.TemporaryDirectory(prefix="joint-", dir=self.client.home.folder) as folder:
            paths = [Path(folder) / str(index) for index in range(len(contents) + 1)]
            for path, content in zip(paths, contents, strict=False):
                path.write_bytes(content)
            yield paths


def require_manifest(manifest: JointManifest, grant: JointGrant) -> None:
    """Raise PolicyRefused (code `joint-manifest`) unless an attempt is one that the agreement allows."""
    pool = grant.pool
    own = tuple(name for name in pool.contributors if name in manifest.contributors)
    most = len(pool.members) - pool.fewest + 1 if pool.dropout == "rerun" else 1
    complete = len(own) == len(pool.members) or (pool.dropout == "rerun" and manifest.attempt > 1)
    fits = (manifest.job, manifest.grant, manifest.contributors) == (grant.job, grant_digest(grant), own)
    if not fits or not complete or len(own) < pool.fewest or manifest.attempt > most:
        raise PolicyRefused("the attempt is not one that the agreement allows", code="joint-manifest")


def key_in_force(followed: Followed, agreement: Agreement, name: str) -> str:
    """The signing key of a party in force. Raises PolicyRefused (code `party-revoked`)."""
    key = followed.keyring.signing_key(agreement.party(name).signing_key)
    if key is None:
        raise PolicyRefused(f"the keys of `{name}` were revoked", code="party-revoked")
    return key

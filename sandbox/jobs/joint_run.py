"""One run of a joint total, as steps that its worker drives: key, contributions, sum, opening. Nothing here can read a value.

Contributors and key holder work at home and in their own time; a run waits for each as long as for brokers. What contributors send is
parsed and added in a child process. Who drops out, or sends what is no ciphertexts, is named in the log; then there is another attempt
without it, under a new key, or the job fails, as the agreement says. After a sum there is never another attempt: it may have been opened.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from enclaves.kit.child import PUBLIC, Child
from enclaves.kit.envelope import Signed
from policies.codec import decode, encode
from policies.errors import NotFound, SandboxError, Unavailable
from policies.joint_documents import JointContribution, JointManifest
from policies.joint_grant import JointGrant
from sandbox.jobs.joint import begin, record_drop, record_total
from sandbox.jobs.joint_states import JointAttempt
from sandbox.jobs.run import WAIT_S, Run, RunFailed, Steps, aside, persist, rest

T = TypeVar("T")
CHUNK = 1 << 20

_log = logging.getLogger("sandbox.isolation")


class JointRun(Run):
    """One execution of a joint total that `worker` took."""

    def through(self) -> Steps[None]:
        """Go through all attempts, until the key holder's statement has ended the job. The child that adds loads while others work."""
        child = Child("add_up", first_uid=self.host.config.enclave_first_uid)
        child.ready()
        try:
            yield from self._attempts(child)
        finally:
            child.close()

    def _attempts(self, child: Child) -> Steps[None]:
        host, job, grant = self.host, self.job, self.job.grant
        assert isinstance(grant, JointGrant)
        yield from persist(lambda: begin(host, job, grant))
        while True:
            attempt = yield from self._wait(self._keyed)
            if attempt is None:
                raise RunFailed("key-holder-timeout")
            dropped = yield from self._contributions(attempt)
            if not dropped:
                total, dropped = yield from self._sum(grant, attempt, child)
                if total is not None:
                    yield from persist(lambda a=attempt, t=total: record_total(host, job, a, t))  # type: ignore[misc]
                    host.on_step("joint-summed")
                    break
            again = yield from persist(lambda a=attempt, d=dropped: record_drop(host, job, grant, a.attempt, d))  # type: ignore[misc]
            if not again:
                raise RunFailed("contributor-dropped")
        if (yield from self._wait(self._ended)) is None:
            raise RunFailed("key-holder-timeout")

    def _wait(self, look: Callable[[], T | None]) -> Steps[T | None]:
        """What `look` finds, or None once it has taken too long."""
        began = time.monotonic()
        while True:
            try:
                found = look()
            except Unavailable:
                found = None
            waited = time.monotonic() - began
            if found is not None or waited > self.host.config.keys_timeout_s:
                return found
            yield from rest("brokers", min(10 * WAIT_S, max(WAIT_S, waited / 20)))

    def _keyed(self) -> JointAttempt | None:
        with self.host.store.reading() as tx:
            attempt = tx.joint_attempt(self.job.id)
        return attempt if attempt is not None and attempt.manifest is not None else None

    def _signed(self, attempt: JointAttempt) -> dict[str, Signed]:
        with self.host.store.reading() as tx:
            return tx.joint_contributions(self.job.id, attempt.attempt)

    def _ended(self) -> bool | None:
        with self.host.store.reading() as tx:
            job = tx.job(self.job.id)
        return True if job is None or job.state != "running" else None

    def _contributions(self, attempt: JointAttempt) -> Steps[dict[str, str]]:
        """Wait for all; returns who did not come, with the reason."""
        wanted = set(attempt.contributors)
        complete = yield from self._wait(lambda: True if set(self._signed(attempt)) == wanted else None)
        if complete:
            return {}
        have = yield from persist(lambda: self._signed(attempt))
        return {name: "no-contribution" for name in attempt.contributors if name not in have}

    def _sum(self, grant: JointGrant, attempt: JointAttempt, child: Child) -> Steps[tuple[str | None, dict[str, str]]]:
        """Add everything up in a child process; returns the digest of the sum, or whose contribution is none and why."""
        stored = yield from persist(self.agreement)
        signed = yield from persist(lambda: self._signed(attempt))
        while self.turns.computing:
            yield "turn"
        with self.computing():
            try:
                return (yield from aside(lambda: self._added(grant, attempt, child, stored, signed)))
            except SandboxError as error:
                raise RunFailed("sum-failed") from error

    def _added(
        self, grant: JointGrant, attempt: JointAttempt, child: Child, stored: dict[str, object], signed: dict[str, Signed]
    ) -> tuple[str | None, dict[str, str]]:
        assert attempt.manifest is not None
        blobs, key = self.host.blobs, decode(JointManifest, attempt.manifest.body).public_key
        named = {name: decode(JointContribution, signed[name].body).ciphertexts for name in attempt.contributors}
        try:
            files = {name: blobs.path(digest) for name, digest in named.items()}
        except NotFound as error:
            raise Unavailable("a contribution is not stored any more", code="upload-lost") from error
        output = blobs.scratch()
        question = {
            "verb": "add_up",
            "grant": encode(grant),
            "agreement": stored,
            "public": key,
            "contributions": named,
        }
        try:
            found = child.ask(question, {**files, PUBLIC: blobs.path(key)}, output, timeout=self.host.config.run_timeout_s)
            _log.info("joint total of %s added up between the layers: %s", self.job.id, ", ".join(child.layers) or "none")
            if "rejected" in found:
                return None, {str(found["rejected"]): str(found["code"])}
            return blobs.add(_chunks(output), inspect=lambda head, tail, size: None)[0], {}
        finally:
            output.unlink(missing_ok=True)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk

"""The worker: takes charged jobs one by one by a state transition, launches an enclave for each and ends what dead workers left.

A job is taken once. If its worker dies before the release is stored, the job ends `failed` and the charge stays: no run is repeated.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from enclaves.kit.appraisal import Attested, appraise
from policies.errors import EvidenceRejected, SandboxError, Tampered
from policies.grant import FailureCode, Grant
from policies.statement import Nonce, SignedEvidence
from sandbox.host import Host
from sandbox.jobs.delivery import Deliverer
from sandbox.jobs.launch import EnclaveDied, EnclaveProcess
from sandbox.jobs.record import record_evidence, record_failure, record_outcome
from sandbox.jobs.states import Job, KeyRequest
from sandbox.jobs.upkeep import Upkeep

START_TIMEOUT_S = 60.0
WAIT_S = 0.01
SWEEP_S = 1.0
"""How often a worker looks at the job table for dead workers' runs, unpublished entries and, where hints work, jobs without a hint."""


class _RunFailed(Exception):
    """Ends one run with a failure code."""

    def __init__(self, code: FailureCode) -> None:
        super().__init__(code)
        self.code: FailureCode = code


@dataclass
class Worker:
    """Runs jobs of one host until told to stop.

    Attributes:
        launch: starts an enclave process; replaced where enclaves run elsewhere.
        keep_spare: keep one enclave process started ahead: it has loaded its libraries, has no keys yet, and serves one run.
        stopping: asked between jobs.
    """

    host: Host
    launch: Callable[[], EnclaveProcess] = EnclaveProcess
    keep_spare: bool = False
    stopping: Callable[[], bool] = lambda: False
    name: str = field(default_factory=lambda: "worker-" + secrets.token_hex(8))
    _spare: EnclaveProcess | None = None
    _upkeep: Upkeep | None = None

    def work(self) -> None:
        """Take and run jobs until `stopping`; errors of the database are waited out."""
        host, sweep_at = self.host, 0.0
        deliverer = Deliverer(host=host)
        deliverer.start()
        try:
            while not self.stopping():
                if self.keep_spare and self._spare is None:
                    self._spare = self.launch()
                try:
                    if time.monotonic() >= sweep_at:
                        sweep_at = time.monotonic() + SWEEP_S
                        self.sweep()
                    found = self._run_one()
                except SandboxError:
                    found = False
                if not found:
                    host.hints.wait(SWEEP_S if host.hints.working else host.config.poll_s)
        finally:
            if self._spare is not None:
                self._spare.close()
            deliverer.stop()

    def step(self) -> bool:
        """End abandoned runs, then run at most one job. Returns whether there was one."""
        self.sweep()
        return self._run_one()

    def _run_one(self) -> bool:
        job = self._take()
        if job is None:
            return False
        try:
            self._run(job)
        except _RunFailed as failure:
            record_failure(self.host, job.id, failure.code)
        except EnclaveDied:
            record_failure(self.host, job.id, "enclave-died")
        return True

    def sweep(self) -> None:
        """End jobs whose worker died, and publish what a dead process committed but did not publish."""
        with self.host.store.reading() as tx:
            abandoned = tx.abandoned(time.time())
            newest, size = tx.newest_checkpoint(), tx.log_size()
        for job in abandoned:
            record_failure(self.host, job.id, "worker-died")
        if newest is None or newest[0] != size:
            self.host.publish()
        self._upkeep = self._upkeep or Upkeep(host=self.host, worker=self.name)
        self._upkeep.step()

    def _take(self) -> Job | None:
        """Move the oldest charged job to `running` under this worker's lease and ask its providers for keys."""
        host = self.host
        with host.store.reading() as tx:
            if not tx.has_charged():  # nearly always; a writing transaction would make every other writer wait
                return None
        with host.store.transaction() as tx:
            job = tx.claim_charged(self.name, time.time() + host.config.lease_s)
            if job is None:
                return None
            assert job.grant is not None, "a charged job has a grant"
            ids = {"job": job.id, "agreement": job.request.agreement}
            tx.append("running", at=host.now(), ids=ids, body={"worker": self.name}, agreement=job.request.agreement)
            taken = tx.move_job(job, "running")
            providers = sorted({read.provider for read in job.grant.reads})
            tx.add_key_requests(job.id, providers)
            tx.add_notices("key-request", job.id, providers, host.now())
        host.publish()
        host.on_step("running")
        return taken

    def _run(self, job: Job) -> None:
        """One run: challenges, evidence, keys, release."""
        grant = job.grant
        assert grant is not None
        with self._lease(job), self._enclave() as enclave:
            with self.host.store.reading() as tx:
                stored = tx.agreement(job.request.agreement)
            assert stored is not None, "a job has an agreement"
            asked = self._wait_for_keys(job, lambda request: bool(request.nonce))
            nonces = [Nonce(provider=request.provider, value=request.nonce) for request in asked]
            evidence = enclave.start(grant, stored.document, nonces, START_TIMEOUT_S)
            attested = self._appraise(evidence, grant)
            record_evidence(self.host, job, evidence, attested)
            self.host.on_step("attested")
            answered = self._wait_for_keys(job, lambda request: request.state == "released")
            self.host.on_step("keys-complete")
            files = {read.dataset: self.host.blobs.path(read.file_digest) for read in grant.reads}
            keys = {request.provider: request.sealed for request in answered}
            statement, sealed = enclave.run(keys, files, self.host.config.run_timeout_s)
        self.host.on_step("ran")
        try:
            record_outcome(self.host, job, attested, statement, sealed)
        except Tampered as error:
            raise _RunFailed("release-mismatch") from error

    def _enclave(self) -> EnclaveProcess:
        """The spare, if it is still alive, or a new process."""
        spare, self._spare = self._spare, None
        if spare is not None and not spare.alive:
            spare.close()
            spare = None
        return spare or self.launch()

    def _appraise(self, evidence: SignedEvidence, grant: Grant) -> Attested:
        try:
            return appraise(evidence, grant=grant, kinds=[grant.enclave_kind], measurements=[grant.measurement], nonce=None)
        except EvidenceRejected as error:
            raise _RunFailed("evidence-rejected") from error

    def _wait_for_keys(self, job: Job, ready: Callable[[KeyRequest], bool]) -> list[KeyRequest]:
        """Return the key requests once all are `ready`; fail the run if one is refused or time is up."""
        deadline = time.monotonic() + self.host.config.keys_timeout_s
        while True:
            with self.host.store.reading() as tx:
                requests = tx.key_requests(job.id)
            if any(request.state == "refused" for request in requests):
                raise _RunFailed("keys-refused")
            if all(ready(request) for request in requests):
                return requests
            if time.monotonic() > deadline:
                raise _RunFailed("keys-timeout")
            time.sleep(WAIT_S)

    @contextmanager
    def _lease(self, job: Job) -> Iterator[None]:
        """Keep this worker's lease on a job renewed from a thread, which ends with the run and dies with the process."""
        ended = threading.Event()
        lease_s = self.host.config.lease_s

        def renew() -> None:
            while not ended.wait(lease_s / 3):
                try:
                    with self.host.store.transaction() as tx:
                        tx.renew_lease(job.id, self.name, time.time() + lease_s)
                except SandboxError:
                    continue  # the next renewal may still come in time; if not, a sweep ends the run and recording it fails

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

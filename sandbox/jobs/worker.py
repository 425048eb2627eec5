"""The worker: takes charged jobs by a state transition, drives their runs and ends what dead workers left.

A job is taken once. If its worker dies before the release is stored, the job ends `failed`: no run is repeated.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from policies.errors import SandboxError
from policies.grant import Grant
from policies.isolation import Layer
from policies.joint_grant import JointGrant
from sandbox.host import Host
from sandbox.jobs.delivery import Deliverer
from sandbox.jobs.joint_run import JointRun
from sandbox.jobs.launch import Enclave, EnclaveDied, EnclaveProcess, remove_leftovers
from sandbox.jobs.leases import Leases
from sandbox.jobs.record import record_failure
from sandbox.jobs.run import WAIT_S, Run, Steps, Turns, Waits, quantum_of
from sandbox.jobs.states import Job
from sandbox.jobs.upkeep import Upkeep

SWEEP_S = 1.0
"""How often a worker looks at the job table for dead workers' runs, unpublished entries and, where hints work, jobs without a hint."""

SLOW_S = 0.5
"""A run whose brokers have not answered for so long no longer keeps its worker from taking another job."""

ENCLAVES = 4
"""Most enclave processes of one worker, besides the spare."""

_log = logging.getLogger("sandbox.worker")


@dataclass
class _Active:
    """A run under way, for whom it waits, and since when."""

    job: str
    steps: Steps[None]
    waits: Waits = "brokers"
    since: float = field(default_factory=time.monotonic)

    def step(self) -> bool:
        """Go on; False at the end. Raises what the run raises."""
        try:
            waits = next(self.steps)
        except StopIteration:
            return False
        if waits != self.waits:
            self.waits, self.since = waits, time.monotonic()
        return True

    @property
    def slow(self) -> bool:
        """Whether its brokers, or the time at which its end may be told, keep it waiting."""
        return self.waits in ("brokers", "quantum") and time.monotonic() - self.since > SLOW_S


@dataclass
class Worker:
    """Runs jobs of one host until told to stop.

    One run computes at a time. While brokers keep runs waiting, other jobs are taken, up to `runs` of the configuration.

    Attributes:
        launch: starts an enclave; replaced where enclaves run elsewhere.
        layers: those that isolate its enclaves, which decisions under agreements that require some rely on.
        tidy: removes what enclaves of killed workers left.
        keep_spare: keep one enclave process started ahead: it has loaded its libraries, has no keys yet, and serves one run.
        stopping: asked between steps; runs under way are finished.
    """

    host: Host
    launch: Callable[[], Enclave] = EnclaveProcess
    layers: Callable[[], tuple[Layer, ...]] = lambda: ()
    tidy: Callable[[], object] = remove_leftovers
    keep_spare: bool = False
    stopping: Callable[[], bool] = lambda: False
    name: str = field(default_factory=lambda: "worker-" + secrets.token_hex(8))
    _spare: Enclave | None = None
    _upkeep: Upkeep | None = None
    _leases: Leases | None = None
    _turns: Turns = field(default_factory=lambda: Turns(enclaves=ENCLAVES))
    _active: list[_Active] = field(default_factory=list)
    _unsure: bool = False
    """Whether a job may have been taken without this worker having learnt of it."""
    _claimed_ms: int = 0
    """When the last job was taken, as the log says."""
    _sweep_at: float = 0.0
    _look_at: float = 0.0

    def work(self) -> None:
        """Take and run jobs until `stopping`; errors of the database are waited out, and so is a machine that starts no enclave."""
        self.tidy()
        deliverer = Deliverer(host=self.host)
        deliverer.start()
        try:
            while self._active or not self.stopping():
                if not self._turn():
                    self._pause()
        finally:
            for run in self._active:
                run.steps.close()
            self._drop_spare()
            deliverer.stop()

    def step(self) -> bool:
        """End abandoned runs, then run at most one job. Returns whether there was one."""
        self.sweep()
        job = self._take()
        if job is None:
            return False
        self._run(job)
        return True

    def sweep(self) -> None:
        """End jobs whose worker died, and publish what a dead process committed but did not publish."""
        with self.host.store.reading() as tx:
            leases = tx.leases()
            newest, size = tx.newest_checkpoint(), tx.log_size()
        lease_s = self.host.config.lease_s
        self._leases = self._leases or Leases(patience_s=lease_s, gap_s=max(lease_s / 3, 3 * SWEEP_S))
        own = {run.job for run in self._active}
        for job in self._leases.run_out(leases):
            if job not in own and self._leases.still_s(job) > self._quantum(job):
                record_failure(self.host, job, "worker-died")
        if newest is None or newest[0] != size:
            self.host.publish()
        self._upkeep = self._upkeep or Upkeep(host=self.host, worker=self.name, layers=self.layers)
        self._upkeep.step()

    def _quantum(self, job: str) -> float:
        """The time, seconds, for which the end of a running job is not told in any case."""
        with self.host.store.reading() as tx:
            held = tx.job(job)
            return max(self.host.config.quantum_s, 0 if held is None else quantum_of(tx, held))

    def _turn(self) -> bool:
        """Sweep if due, go on with every run, take a job if there is room. Returns whether anything began or ended."""
        try:
            if time.monotonic() >= self._sweep_at:
                self._sweep_at = time.monotonic() + SWEEP_S
                self.sweep()
            moved = self._go_on()
            if self.stopping() or not self._room():
                return moved
            return self._begin() or moved
        except SandboxError as error:
            _log.warning("not now: %s", error.code)
            return False
        except OSError as error:
            _log.warning("no enclave can be started: %s", type(error).__name__)
            return False

    def _go_on(self) -> bool:
        """One step of every run; whether one ended."""
        before = len(self._active)
        for run in list(self._active):
            try:
                if not run.step():
                    self._active.remove(run)
            except SandboxError as error:
                self._active.remove(run)
                _log.warning("a run was given up: %s", error.code)
        return len(self._active) < before

    def _room(self) -> bool:
        """Whether a job may be taken: none runs, or all wait for slow brokers."""
        if not self._active:
            return True
        if len(self._active) >= self.host.config.runs or time.monotonic() < self._look_at:
            return False
        return all(run.slow for run in self._active)

    def _begin(self) -> bool:
        """Take a job, if there is one and an enclave for it. A machine that starts no enclave takes no job."""
        self._look_at = time.monotonic() + self.host.config.poll_s
        if self.keep_spare:
            self._ready_spare()
        job = self._take()
        if job is not None:
            self._active.append(_Active(job=job.id, steps=self._steps(job)))
        return job is not None

    def _pause(self) -> None:
        host = self.host
        if self._active:
            time.sleep(WAIT_S)
        else:
            host.hints.wait(SWEEP_S if host.hints.working else host.config.poll_s)

    def _run(self, job: Job) -> None:
        """Run a taken job to its end, alone."""
        for _ in self._steps(job):
            time.sleep(WAIT_S)

    def _steps(self, job: Job) -> Steps[None]:
        kind = JointRun if isinstance(job.grant, JointGrant) else Run
        run = kind(host=self.host, job=job, worker=self.name, launch=self._enclave, turns=self._turns, began_ms=self._claimed_ms)
        return run.steps()

    def _take(self) -> Job | None:
        """Move the oldest charged job to `running` under this worker's lease, ask its providers for keys, and publish.

        Where the answer to an earlier attempt was lost, the job that it took is found under this worker's name.
        """
        host = self.host
        with host.store.reading() as tx:
            job = self._taken_unawares(tx.running_of(self.name)) if self._unsure else None
            if job is None and not tx.has_charged():  # nearly always; a writing transaction would make every other writer wait
                self._unsure = False
                return None
        self._unsure = True
        if job is None:
            job = self._claim()
        host.publish()
        self._unsure = False
        if job is not None:
            host.on_step("running")
        return job

    def _taken_unawares(self, mine: list[Job]) -> Job | None:
        known = {run.job for run in self._active}
        return next((job for job in mine if job.id not in known and job.evidence is None), None)

    def _claim(self) -> Job | None:
        host = self.host
        with host.store.transaction() as tx:
            job = tx.claim_charged(self.name, time.time() + host.config.lease_s)
            if job is None:
                return None
            assert job.grant is not None, "a charged job has a grant"
            ids = {"job": job.id, "agreement": job.request.agreement}
            self._claimed_ms = host.now()
            tx.append("running", at=self._claimed_ms, ids=ids, body={"worker": self.name}, agreement=job.request.agreement)
            taken = tx.move_job(job, "running")
            if isinstance(job.grant, Grant):  # of an earlier law nothing is run, so no keys are asked for
                providers = sorted({read.provider for read in job.grant.reads})
                tx.add_key_requests(job.id, providers)
                tx.add_notices("key-request", job.id, providers, host.now())
        return taken

    def _ready_spare(self) -> None:
        """Have an enclave process waiting. Raises OSError."""
        if self._spare is not None and not self._spare.alive:
            self._drop_spare()
        if self._spare is None:
            try:
                self._spare = self.launch()
            except EnclaveDied:
                return  # the run that needs one says so

    def _enclave(self) -> Enclave:
        """The spare, if it is still alive, or a new process. Raises EnclaveDied."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.alive:
            return spare
        if spare is not None:
            spare.close()
        try:
            return self.launch()
        except OSError as error:
            raise EnclaveDied from error

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.close()

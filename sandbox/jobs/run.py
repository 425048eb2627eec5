"""One run of a taken job, as steps that its worker drives: challenges, evidence, keys, release, record.

A run never blocks its worker while it waits for somebody: it yields whom it waits for. So a worker goes on with other runs while a broker
is slow, and everything still happens in the worker's one thread: an enclave dies with the thread that started it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from enclaves.kit.appraisal import Attested, appraise
from policies.errors import EvidenceRejected, SandboxError, Tampered, Unavailable
from policies.grant import Grant
from policies.granted import FailureCode
from policies.quantum import due_at, longest_quantum
from policies.statement import Nonce, SignedEvidence, SignedStatement
from sandbox.host import Host
from sandbox.jobs.endorsing import FOLDER, add_endorsements
from sandbox.jobs.launch import Enclave, EnclaveDied, EnclaveOutOfMemory
from sandbox.jobs.record import record_evidence, record_failure, record_outcome
from sandbox.jobs.states import Job, KeyRequest

if TYPE_CHECKING:
    from sandbox.store.database import Transaction

_log = logging.getLogger("sandbox.runs")

T = TypeVar("T")
Waits = Literal["brokers", "enclave", "turn", "database", "quantum"]
"""For what a run waits: brokers, its own enclave, another run of this worker, a database that does not answer, or the time to tell."""

Steps = Generator[Waits, None, T]

START_TIMEOUT_S = 60.0
WAIT_S = 0.01
RETRY_S = 0.2
RECORD_S = 600.0
"""How long a finished run tries to store its outcome while the database is away."""

RENEW_RETRY_S = 1.0

RENEW_NONCES_S = 25.0
"""How old a nonce may grow while other brokers have sent none; brokers take evidence for 60 s."""


@dataclass
class Turns:
    """What the runs of one worker share: one computes at a time, and so many enclaves exist at once."""

    enclaves: int
    computing: bool = False
    open: int = 0


class RunFailed(Exception):
    """Ends one run with a failure code."""

    def __init__(self, code: FailureCode) -> None:
        super().__init__(code)
        self.code: FailureCode = code


@dataclass(frozen=True, kw_only=True)
class Run:
    """One execution of a job that `worker` took.

    Attributes:
        launch: gives an enclave of this run's own.
        began, began_ms: when it was taken, by the monotonic clock, seconds, and by the clock of the log, milliseconds since 1970; no
            earlier than the log says.
    """

    host: Host
    job: Job
    worker: str
    launch: Callable[[], Enclave]
    turns: Turns
    began: float = field(default_factory=time.monotonic)
    began_ms: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "began_ms", max(self.began_ms, self.host.now()))

    def steps(self) -> Steps[None]:
        """Go through the run. Raises Unavailable or Conflict where its end could not be recorded: a sweep ends it then."""
        with self._lease():
            try:
                yield from self.through()
            except RunFailed as failure:
                yield from self._fail(failure.code)
            except EnclaveOutOfMemory:
                yield from self._fail("out-of-memory")
            except EnclaveDied:
                yield from self._fail("enclave-died")

    def through(self) -> Steps[None]:
        """Do what the job needs, until its outcome is recorded. Raises RunFailed, EnclaveDied."""
        host, job, grant = self.host, self.job, self.job.grant
        if not isinstance(grant, Grant):
            raise RunFailed("law-retired")
        with ExitStack() as held:
            # One enclave loads its libraries while brokers challenge; further runs get theirs once it has something to do.
            early = None if self.turns.open else held.enter_context(self._enclave())
            asked = yield from self._brokers(lambda request: bool(request.nonce), self._ask_again)
            while early is None and self.turns.open >= self.turns.enclaves:
                yield "turn"
            enclave = early or held.enter_context(self._enclave())
            stored = yield from persist(self.agreement)
            nonces = [Nonce(provider=request.provider, value=request.nonce) for request in asked]
            evidence = yield from aside(lambda: enclave.start(grant, stored, nonces, START_TIMEOUT_S))
            evidence, attested = _appraise(evidence, grant, host.config.data / FOLDER, host.now() / 1000)
            yield from persist(lambda: record_evidence(host, job, evidence, attested))
            host.on_step("attested")
            answered = yield from self._brokers(lambda request: request.state == "released")
            host.on_step("keys-complete")
            files = {read.dataset: host.blobs.path(read.file_digest) for read in grant.reads}
            keys = {request.provider: request.sealed for request in answered}
            while self.turns.computing:
                yield "turn"
            quantum = yield from self._quantum()
            with self.computing():
                found = yield from self._computed(enclave, keys, files, hidden=quantum > 0)
                host.on_step("ran")
                # Until the end is told this worker computes nothing else: when it begins would tell when this run was done.
                yield from self.told(quantum)
        if found is None:
            yield from persist(lambda: record_failure(host, job.id, "engine-error"))
            return
        try:
            yield from persist(lambda: record_outcome(host, job, attested, *found))
        except Tampered as error:
            raise RunFailed("release-mismatch") from error

    def _computed(
        self, enclave: Enclave, keys: dict[str, str], files: dict[str, Path], *, hidden: bool
    ) -> Steps[tuple[SignedStatement, bytes] | None]:
        """What the enclave says and seals; None, whatever went wrong once it had its keys.

        What it was may depend on the data, so no participant is told. The operator is, by what it measures itself.

        Args:
            hidden: whether the worker must go on with other jobs as if this run computed until its end is told.
        """
        began, found = time.monotonic(), None
        steps = aside(lambda: enclave.run(keys, files, self.host.config.run_timeout_s))
        try:
            found = yield from renamed("quantum", steps) if hidden else steps
            why = "the enclave gave up" if found[0].statement.withheld == "internal" else ""
        except EnclaveOutOfMemory:
            why = "the kernel ended it: it wanted more memory than it may have"
        except EnclaveDied:
            why = "the enclave died, or took too long"
        if not why:
            return found
        used = "unknown" if enclave.peak_mib is None else f"{enclave.peak_mib} MiB at most"
        _log.warning("%s: engine error: %s; %.1f s, memory %s", self.job.id, why, time.monotonic() - began, used)
        return None

    def _fail(self, code: FailureCode) -> Steps[None]:
        yield from self.told((yield from self._quantum()))
        yield from persist(lambda: record_failure(self.host, self.job.id, code))

    def told(self, quantum: float) -> Steps[None]:
        """Wait until the end of this run may be told: how long it computed depends on the data.

        By the monotonic clock, so that a jump of the wall clock tells nobody earlier; and by the clock of the log besides, from which a
        replay reads whether the terms were kept.
        """
        if not quantum:
            return  # a wall clock that is set back keeps nobody waiting
        due = due_at(self.began, time.monotonic(), quantum)
        while time.monotonic() < due or self.host.now() - self.began_ms < quantum * 1000:
            yield "quantum"

    def _quantum(self) -> Steps[float]:
        """The strictest quantum of the operator and of all terms, seconds; 0 for none."""
        agreed = yield from persist(self._agreed_quantum)
        return max(self.host.config.quantum_s, agreed)

    def _agreed_quantum(self) -> int:
        with self.host.store.reading() as tx:
            return quantum_of(tx, self.job)

    def agreement(self) -> dict[str, object]:
        """The agreement's document. Raises Unavailable."""
        with self.host.store.reading() as tx:
            stored = tx.agreement(self.job.request.agreement)
        assert stored is not None, "a job has an agreement"
        return dict(stored.document)

    def _ask_again(self) -> None:
        """Want a new nonce of every broker that has sent one: it would be too old by the time the last broker sends its own."""
        with self.host.store.transaction() as tx:
            if tx.lock_job(self.job.id) is not None:
                for request in tx.key_requests(self.job.id):
                    if request.state == "challenged":
                        tx.set_key_request(replace(request, state="wanted", nonce=""))

    def _brokers(self, ready: Callable[[KeyRequest], bool], renew: Callable[[], None] = lambda: None) -> Steps[list[KeyRequest]]:
        """Return the key requests once all are `ready`; fail the run if one is refused or time is up. `renew` is called now and then."""
        began = renewed = time.monotonic()
        while True:
            requests = self._key_requests()
            if any(request.state == "refused" for request in requests):
                raise RunFailed("keys-refused")
            if requests and all(ready(request) for request in requests):
                return requests
            waited = time.monotonic() - began
            if waited > self.host.config.keys_timeout_s:
                raise RunFailed("keys-timeout")
            if time.monotonic() - renewed > RENEW_NONCES_S:
                renewed = time.monotonic()
                yield from persist(renew)
            yield from rest("brokers", WAIT_S if waited < 1.0 else 10 * WAIT_S)

    def _key_requests(self) -> list[KeyRequest]:
        """All key requests of this job; none while the database is away."""
        try:
            with self.host.store.reading() as tx:
                return tx.key_requests(self.job.id)
        except Unavailable:
            return []

    @contextmanager
    def _enclave(self) -> Iterator[Enclave]:
        self.turns.open += 1
        try:
            with self.launch() as enclave:
                yield enclave
        finally:
            self.turns.open -= 1

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Nobody else of this worker computes meanwhile."""
        self.turns.computing = True
        try:
            yield
        finally:
            self.turns.computing = False

    @contextmanager
    def _lease(self) -> Iterator[None]:
        """Keep this worker's lease on the job renewed from a thread, which ends with the run and dies with the process."""
        ended = threading.Event()
        lease_s = self.host.config.lease_s

        def renew() -> None:
            rest = lease_s / 3
            while not ended.wait(rest):
                try:
                    with self.host.store.transaction() as tx:
                        tx.renew_lease(self.job.id, self.worker, time.time() + lease_s)
                    rest = lease_s / 3
                except SandboxError:
                    rest = min(rest, RENEW_RETRY_S)  # if none comes in time, a sweep ends the run and recording it fails

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def quantum_of(tx: Transaction, job: Job) -> int:
    """Return the quantum that the terms of a job's datasets ask for, seconds; 0 for none."""
    agreement = tx.terms(job.request.agreement)
    return 0 if agreement is None else longest_quantum(agreement, agreement.members(job.plan.sources))


def _appraise(bare: SignedEvidence, grant: Grant, endorsements: Path, at: float) -> tuple[SignedEvidence, Attested]:
    """The evidence with its endorsements, and what it amounts to."""
    try:
        evidence = add_endorsements(bare, endorsements)
        found = appraise(evidence, grant=grant, kinds=[grant.enclave_kind], measurements=[grant.measurement], nonce=None, at=at)
        return evidence, found
    except EvidenceRejected as error:
        raise RunFailed("evidence-rejected") from error


def aside(act: Callable[[], T]) -> Steps[T]:
    """Return what `act` returns; it waits for an enclave in a thread of its own, so that this worker's other runs go on."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(act())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    while True:
        try:
            return future.result(timeout=WAIT_S)
        except TimeoutError:
            if future.done():
                return future.result()
            yield "enclave"


def persist(act: Callable[[], T]) -> Steps[T]:
    """Return what `act` returns, which is safe to repeat: a lost database is waited for, and a lost answer asked for again."""
    give_up = time.monotonic() + RECORD_S
    while True:
        try:
            return act()
        except Unavailable:
            if time.monotonic() > give_up:
                raise
        yield from rest("database", RETRY_S)


def renamed(waits: Waits, steps: Steps[T]) -> Steps[T]:
    """The same steps, said to wait for something else."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return cast(T, ended.value)
        yield waits


def rest(waits: Waits, seconds: float) -> Steps[None]:
    """Let others go on for so long."""
    until = time.monotonic() + seconds
    yield waits
    while time.monotonic() < until:
        yield waits

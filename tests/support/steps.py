"""A job driven step by step in one thread, with brokers that answer when the run waits for them; and what must hold after any fault."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from policies.canonical import parse_json
from policies.errors import SandboxError, Unavailable
from sandbox.audit.replay import replay
from sandbox.host import Host
from sandbox.jobs.launch import EnclaveProcess
from sandbox.jobs.states import FINAL
from sandbox.jobs.worker import Worker
from sandbox.party.broker import Broker
from tests.support.story import EnclaveHere, export

T = TypeVar("T")
PATIENCE_S = 300.0


def again(act: Callable[[], T], times: int = 5) -> T:
    """Return what `act` returns, tried again as long as it is said to be unavailable."""
    for _ in range(times - 1):
        try:
            return act()
        except Unavailable:
            continue
    return act()


@dataclass
class Line:
    """One worker with its enclaves in this process, and the brokers that it needs.

    Attributes:
        between: called before every turn of the worker.
    """

    host: Host
    brokers: list[Broker]
    between: Callable[[], None] = lambda: None
    worker: Worker = field(init=False)

    def __post_init__(self) -> None:
        self.worker = Worker(host=self.host, launch=lambda: cast(EnclaveProcess, EnclaveHere(self.host.measurement, [])))

    def ask_brokers(self) -> None:
        """Let every broker look once; what it cannot reach it tries next time, as `Broker.serve` does."""
        for broker in self.brokers:
            try:
                broker.step()
            except (SandboxError, KeyError):
                continue

    def turn(self) -> None:
        """One turn of the worker, and of the brokers if it waits for them."""
        self.worker._turn()
        if any(run.waits == "brokers" for run in self.worker._active):
            self.ask_brokers()
        elif any(run.waits == "database" for run in self.worker._active):
            time.sleep(0.01)

    def until(self, ended: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        """Turn the worker until something holds."""
        deadline = time.monotonic() + seconds
        while not again(ended):
            assert time.monotonic() < deadline, "a job is stuck"
            self.between()
            self.turn()

    def finish(self, *jobs: str) -> None:
        """Turn the worker until these jobs have ended."""
        self.until(lambda: all(state_of(self.host, job) in FINAL for job in jobs))
        again(self.worker.sweep)


def state_of(host: Host, job: str) -> str:
    """A job's state."""
    with host.store.reading() as tx:
        found = tx.job(job)
    assert found is not None
    return found.state


def headers(host: Host) -> list[dict[str, Any]]:
    """The public headers of the log, in order."""
    with host.store.reading() as tx:
        return [parse_json(data) for data in tx.entries(0, tx.log_size())]


def require_sound(host: Host, participant: str = "auditor") -> None:
    """Raise unless everything that is promised of any history holds for what `host` stores.

    Every job has one decision, one charge and one grant, was taken at most once, got keys from each provider at most once, and has at most
    one end; the ledgers are the sum of the log's charges; a release is stored for exactly the jobs that were released; the log replays.
    """
    entries = headers(host)
    with host.store.reading() as tx:
        jobs = {header["ids"]["job"]: tx.job(header["ids"]["job"]) for header in entries if header["kind"] == "decided"}
        spent = {ledger: loss.amount for ledger, loss in tx.spent().items() if loss.amount}
        stored = {name: tx.release(name) for name in jobs}
        newest, size = tx.newest_checkpoint(), tx.log_size()
    counted: Counter[tuple[str, str]] = Counter()
    for header in entries:
        for loss in header["losses"]:
            counted[loss["provider"], loss["id_space"]] += loss["amount"] * (-1 if header["kind"] == "voided" else 1)
    assert spent == dict(+counted), "the ledgers are the fold of the log"
    by_job = Counter(
        (header["ids"]["job"], header["kind"], header["ids"].get("provider", "")) for header in entries if "job" in header["ids"]
    )
    assert [what for what, times in by_job.items() if times > 1] == [], "nothing happens twice"
    for name, job in jobs.items():
        assert job is not None, "what is logged is stored"
        ends = [kind for kind in ("released", "withheld", "failed") if by_job[name, kind, ""]]
        assert ends == ([job.state] if job.state in ("released", "withheld", "failed") else []), name
        assert (stored[name] is not None) == (job.state in ("released", "withheld")), name
        assert by_job[name, "charged", ""] == by_job[name, "granted", ""] == (job.state != "denied"), name
    assert newest is not None
    assert newest[0] == size, "all is published"
    files = export(host, participant)
    verdict = replay(lambda path: io.BytesIO(files[path]).read(), host.log_identity)
    assert verdict.mismatches == ()

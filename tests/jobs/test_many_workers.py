"""Several workers on one database: each job is run by exactly one, a dead worker's run is ended, and a stopped worker leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.jobs.launch import EnclaveDied, EnclaveProcess
from sandbox.jobs.worker import Worker
from sandbox.store.schema import jobs
from tests.support.market import Market, open_market
from tests.support.runs import gone
from tests.support.service import DATABASES, Service, kill, running, spawn

LEASE_S = 4.0
ON_ONE_DATABASE = pytest.mark.parametrize("market", DATABASES if os.environ.get("SANDBOX_FULL") else DATABASES[:1], indirect=True)
"""For what a signal does to a process, whatever the database. That each job is taken once is for the database to see to."""


@pytest.fixture(scope="module", params=DATABASES)
def market(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """A market on a service without a worker."""
    with running(tmp_path_factory.mktemp(f"workers-{request.param}"), request.param) as service:
        yield open_market(service)


def submit(market: Market, count: int) -> list[str]:
    """Charged jobs that read the insurer alone."""
    return [market.clients["institute"].submit(market.request())["id"] for _ in range(count)]


def states(market: Market, ids: list[str]) -> Counter[str]:
    """How many of these jobs are in each state."""
    return Counter(row["state"] for row in market.service.rows(jobs) if row["id"] in ids)


def until(condition: Callable[[], bool], what: str, seconds: float = 240.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def times_logged(market: Market, kind: str, ids: list[str]) -> list[int]:
    """How often the log holds an entry of a kind about each of these jobs."""
    counted = Counter(header["ids"].get("job") for header in market.service.headers() if header["kind"] == kind)
    return [counted[job] for job in ids]


def start_worker(market: Market, name: str, *options: str) -> subprocess.Popen[bytes]:
    """A worker process with a short lease."""
    service: Service = market.service
    environment = service.environment | {"SANDBOX_LEASE_S": str(LEASE_S), "SANDBOX_RUNS": "1"}
    service.processes[name] = spawn(service.folder / f"{name}.log", environment, "worker", *options)
    return service.processes[name]


def below(pid: int) -> set[int]:
    """All processes that a process started, and theirs."""
    try:
        own = {int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()}
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return own | {grandchild for child in own for grandchild in below(child)}


def dies() -> EnclaveProcess:
    """An enclave that cannot be started: the run ends at once."""
    raise EnclaveDied


def test_eight_workers_take_each_job_once(market: Market) -> None:
    ids = submit(market, 16)
    workers = [Worker(host=market.service.host, launch=dies) for _ in range(8)]
    barrier = threading.Barrier(len(workers))
    taken: list[str] = []

    def work(worker: Worker) -> None:
        barrier.wait(timeout=120)
        while worker.step():
            taken.append(worker.name)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: states(market, ids) == {"failed": 16}, "all jobs end")
    assert times_logged(market, "running", ids) == times_logged(market, "failed", ids) == [1] * 16
    assert len(taken) == 16


@ON_ONE_DATABASE
def test_parallel_runs_lose_nothing_and_stop_with_their_supervisor(market: Market) -> None:
    ids = submit(market, 3)
    supervisor = start_worker(market, "parallel", "--parallel", "2")
    until(lambda: states(market, ids) == {"running": 2, "charged": 1}, "two runs at a time")
    with market.service.brokers(market.clients["insurer"]):
        until(lambda: states(market, ids) == {"released": 3}, "all jobs are released")
    assert times_logged(market, "running", ids) == [1] * 3
    started = below(supervisor.pid)
    assert len(started) >= 2
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(timeout=120) == 0
    until(lambda: all(gone(pid) for pid in started), "nothing outlives the supervisor")
    del market.service.processes["parallel"]


@ON_ONE_DATABASE
def test_a_stopped_worker_finishes_its_run_and_takes_no_new_one(market: Market) -> None:
    ids = submit(market, 2)
    worker = start_worker(market, "stopped")
    until(lambda: states(market, ids) == {"running": 1, "charged": 1}, "a run begins")
    worker.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert worker.poll() is None
    with market.service.brokers(market.clients["insurer"]):
        started = below(worker.pid)
        assert worker.wait(timeout=120) == 0
    assert states(market, ids) == {"released": 1, "charged": 1}
    assert all(gone(pid) for pid in started)
    del market.service.processes["stopped"]
    finish = Worker(host=market.service.host, launch=dies)
    assert finish.step()


@ON_ONE_DATABASE
def test_a_killed_worker_loses_its_own_run_alone(market: Market) -> None:
    ids = submit(market, 2)
    doomed, other = start_worker(market, "doomed"), start_worker(market, "other")
    until(lambda: states(market, ids) == {"running": 2}, "both run")
    orphans = below(doomed.pid)
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.wait()
    with market.service.brokers(market.clients["insurer"]):
        until(lambda: states(market, ids) == {"released": 1, "failed": 1}, "the sweep ends the dead worker's run")
    assert [row["code"] for row in market.service.rows(jobs) if row["id"] in ids and row["state"] == "failed"] == ["worker-died"]
    assert times_logged(market, "running", ids) == [1, 1]
    assert sum(times_logged(market, "released", ids)) == 1
    until(lambda: all(gone(pid) for pid in orphans), "no enclave outlives its worker")
    kill(other)
    for name in ("doomed", "other"):
        del market.service.processes[name]

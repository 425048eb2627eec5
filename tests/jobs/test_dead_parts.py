"""kill -9 of the database server and of enclaves, at every step of a job; and what a killed worker leaves on the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policies.errors import Unavailable
from sandbox.jobs import launch
from sandbox.jobs.launch import EnclaveProcess, remove_leftovers
from sandbox.jobs.worker import Worker
from sandbox.web.application import make_app
from tests.support.cluster import Cluster, own_cluster
from tests.support.runs import COUNT_SQL, Town, brokers_running, found_town, gone
from tests.support.service import checkout
from tests.support.steps import Line, again, require_sound, state_of

STEPS = ("charged", "charge-published", "running", "attested", "key-released", "keys-complete", "ran", "stored", "stored-published")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with own_cluster() as found:
        yield found


@pytest.fixture(scope="module")
def powered(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A town on a server of its own."""
    town = found_town(tmp_path_factory.mktemp("powered"), persons=10, total="100", database=cluster.url, queue="off")
    yield town
    town.close()


@pytest.mark.parametrize("step", STEPS)
def test_a_database_server_that_is_killed_at_a_step_loses_nothing(cluster: Cluster, powered: Town, step: str) -> None:
    """Whatever was committed is there after recovery, whatever was not is done again, and the job is released."""
    killed: list[str] = []

    def on_step(reached: str) -> None:
        if reached == step and not killed:
            killed.append(reached)
            cluster.kill()

    host = replace(powered.host, on_step=on_step)
    for client in powered.clients.values():
        session: Any = client.session
        session.app = make_app(host)

    def restart() -> None:
        if killed and cluster.process is None:
            cluster.start()

    line = Line(host=host, brokers=[powered.broker("insurer")], between=restart)
    request = powered.request(f"killed-{step}", sql=COUNT_SQL, epsilon="0.1")
    try:
        job = powered.clients["institute"].submit(request)["id"]
    except Unavailable:
        restart()
        job = again(lambda: powered.clients["institute"].submit(request))["id"]
    line.until(lambda: alive(cluster) and state_of(host, job) == "released" and killed != [])
    restart()
    again(line.worker.sweep)
    assert killed == [step]
    sealed = [powered.clients["institute"]._get(f"/jobs/{job}/release")["sealed"] for _ in range(2)]
    assert sealed[0] == sealed[1]
    require_sound(powered.host)


def alive(cluster: Cluster) -> bool:
    return cluster.process is not None


# Enclaves


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    found = found_town(tmp_path_factory.mktemp("enclaves"), persons=10, total="100", queue="off")
    yield found
    found.close()


@pytest.mark.parametrize("step", ["started", "attested", "keys-complete"])
def test_an_enclave_that_is_killed_ends_its_run_alone(town: Town, step: str) -> None:
    pids: list[int] = []

    def launched() -> EnclaveProcess:
        enclave = EnclaveProcess()
        pids.append(enclave.pid)
        if step == "started":
            os.kill(enclave.pid, signal.SIGKILL)
        return enclave

    def on_step(reached: str) -> None:
        if reached == step:
            os.kill(pids[-1], signal.SIGKILL)

    first = town.charged(f"enclave-{step}", sql=COUNT_SQL, epsilon="0.1")
    worker = Worker(host=replace(town.host, on_step=on_step), launch=launched)
    with brokers_running(town.clients["insurer"]):
        assert worker.step()
    assert (town.job(first).state, town.job(first).code) == ("failed", "enclave-died" if step == "started" else "engine-error")
    assert len(town.headers("charged", first)) == 1, "the charge stays"
    assert all(gone(pid) for pid in pids)
    second = town.charged(f"after-{step}", sql=COUNT_SQL, epsilon="0.1")
    with brokers_running(town.clients["insurer"]):
        assert Worker(host=town.host).step()
    assert town.job(second).state == "released"
    require_sound(town.host)


def test_a_spare_that_was_killed_is_replaced(town: Town) -> None:
    worker = Worker(host=town.host, keep_spare=True)
    worker._ready_spare()
    spare = worker._spare
    assert spare is not None
    os.kill(spare.pid, signal.SIGKILL)
    spare._process.wait()
    job = town.charged("dead-spare", sql=COUNT_SQL, epsilon="0.1")
    with brokers_running(town.clients["insurer"]):
        assert worker.step()
    worker._drop_spare()
    assert town.job(job).state == "released"
    assert not Path(spare._folder).exists()


# A machine that starts no process, and leftovers on the disk


def test_a_worker_that_cannot_start_an_enclave_takes_no_job(town: Town) -> None:
    failing = [True]

    def launched() -> EnclaveProcess:
        if failing:
            raise OSError("no space left on device")
        return EnclaveProcess()

    job = town.charged("no-enclave", sql=COUNT_SQL, epsilon="0.1")
    worker = Worker(host=town.host, launch=launched, keep_spare=True)
    for _ in range(3):
        assert not worker._turn()
    assert town.job(job).state == "charged"
    failing.clear()
    with brokers_running(town.clients["insurer"]):
        worker.stopping = lambda: town.job(job).state != "charged"
        worker.work()
    assert town.job(job).state == "released"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of one's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


KILLED = """
import os, signal
from sandbox.jobs.launch import EnclaveProcess
enclave = EnclaveProcess()
print(enclave.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_that_a_killed_worker_left_is_removed_when_the_next_starts(temporary: Path, town: Town) -> None:
    with EnclaveProcess() as living:
        done = subprocess.run(
            [sys.executable, "-c", KILLED], cwd=checkout(), env={**os.environ, "TMPDIR": str(temporary)}, capture_output=True, check=False
        )
        assert done.returncode == -signal.SIGKILL
        deadline = time.monotonic() + 120
        while not gone(int(done.stdout)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        left = set(temporary.glob("enclave-*"))
        assert len(left) == 2
        Worker(host=town.host, stopping=lambda: True).work()
        assert set(temporary.glob("enclave-*")) == {Path(living._folder)}
        assert living.alive
    assert list(temporary.iterdir()) == []


def test_what_is_not_an_enclaves_empty_folder_stays(temporary: Path) -> None:
    (temporary / "enclave-full").mkdir()
    (temporary / "enclave-full" / "something").write_text("of somebody else")
    (temporary / "enclave-file").write_text("a file")
    (temporary / "elsewhere").mkdir()
    (temporary / "enclave-link").symlink_to(temporary / "elsewhere")
    (temporary / "other").mkdir()
    assert remove_leftovers() == 0
    assert {path.name for path in temporary.iterdir()} == {"enclave-full", "enclave-file", "elsewhere", "enclave-link", "other"}


def test_a_folder_that_is_removed_before_it_is_locked_is_made_anew(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., str] = tempfile.mkdtemp
    made: list[str] = []

    def swept(**options: Any) -> str:
        made.append(real(**options))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(launch.tempfile, "mkdtemp", swept)
    with EnclaveProcess() as enclave:
        assert len(made) == 2
        assert Path(enclave._folder) == Path(made[1])
        assert remove_leftovers() == 0

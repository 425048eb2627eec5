"""Hints may be lost, doubled, late or broken: every charged job is still taken, once."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from policies.errors import Malformed
from sandbox.config import Config, read_config
from sandbox.jobs import worker as worker_module
from sandbox.jobs.launch import EnclaveDied, EnclaveProcess
from sandbox.jobs.queue import Hints, open_hints
from sandbox.jobs.worker import Worker
from sandbox.party.client import Client
from sandbox.web.application import make_app
from tests.support.runs import COUNT_SQL, Direct, Town, found_town
from tests.support.service import fresh_database

REDIS = os.environ.get("TEST_REDIS", "redis://127.0.0.1:6379/15")


@pytest.fixture(params=["sqlite", "redis", "postgresql"])
def setting(request: pytest.FixtureRequest) -> Iterator[str]:
    """A queue setting whose server is present."""
    if request.param == "postgresql":
        with fresh_database("postgresql") as url:
            yield url.replace("+psycopg", "")
        return
    if request.param == "redis":
        redis = pytest.importorskip("redis")
        try:
            redis.Redis.from_url(REDIS, socket_connect_timeout=30).ping()
        except redis.RedisError:
            pytest.skip(f"no Redis at {REDIS}: apt-get install redis-server, or name another server in TEST_REDIS")
        yield REDIS
        return
    yield "sqlite"


@pytest.fixture
def opened(setting: str, tmp_path: Path) -> Iterator[Callable[[], Hints]]:
    """Opens the same queue again, as another process would."""
    name, hints = f"test{os.getpid()}x{time.time_ns()}", []

    def another() -> Hints:
        hints.append(open_hints(setting, tmp_path / "hints.sqlite3", name))
        return hints[-1]

    yield another
    for item in hints:
        item.close()


def test_a_hint_wakes_a_waiting_worker_at_once(opened: Callable[[], Hints]) -> None:
    waiting, giving = opened(), opened()
    assert not waiting.wait(0.0)
    threading.Timer(0.2, giving.give, args=("job-1",)).start()
    started = time.monotonic()
    assert any(waiting.wait(2.0) for _ in range(30))
    assert time.monotonic() - started < 30.0
    assert waiting.working
    assert giving.working


def test_one_hint_wakes_one_waiter(opened: Callable[[], Hints]) -> None:
    first, second, giving = opened(), opened(), opened()
    giving.give("job-1")
    woken = [first.wait(30.0), second.wait(0.1)]
    assert woken.count(True) == 1


def test_hints_outlive_the_process_that_gave_them(opened: Callable[[], Hints]) -> None:
    opened().give("job-1")
    assert opened().wait(30.0)


@pytest.mark.parametrize("broken", ["redis://127.0.0.1:1/0", "postgresql://nobody@127.0.0.1:1/none", "sqlite"])
def test_a_broken_queue_is_logged_and_raises_nothing(broken: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hints = open_hints(broken, tmp_path / "missing" / "hints.sqlite3", "test")
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "sandbox.queue"):
        hints.give("job-1")
        hints.give("job-2")
        assert not hints.wait(0.01)
    assert time.monotonic() - started < 30.0
    assert not hints.working
    assert len(caplog.records) == 1, "a queue that broke is left alone for a while"


def test_a_queue_that_came_back_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.jobs.queue.RETRY_S", 0.05)
    storage = Faulty(broken=1)
    hints = Hints(lambda: storage)
    hints.give("job-1")
    assert not hints.working
    time.sleep(0.06)
    hints.give("job-2")
    assert hints.wait(30.0)


def test_queue_off_waits_and_gives_nothing(tmp_path: Path) -> None:
    hints = open_hints("off", tmp_path / "hints.sqlite3", "test")
    hints.give("job-1")
    started = time.monotonic()
    assert not hints.wait(0.05)
    assert time.monotonic() - started >= 0.05
    assert not list(tmp_path.iterdir())


def test_an_unknown_queue_is_refused(tmp_path: Path) -> None:
    config = read_config({"SANDBOX_QUEUE": "kafka://somewhere"})
    assert isinstance(config, Config)
    with pytest.raises(Malformed):
        open_hints(config.queue, tmp_path / "hints.sqlite3", "test")


# What a queue may do to hints


@dataclass
class Faulty:
    """A storage that mistreats hints.

    Attributes:
        lose, double, reverse: whether it does so to every hint.
        broken: how many calls fail before it works.
    """

    lose: bool = False
    double: bool = False
    reverse: bool = False
    broken: int = 0
    hints: list[bytes] = field(default_factory=list)

    def _break(self) -> None:
        if self.broken:
            self.broken -= 1
            raise ConnectionError("the queue is down")

    def enqueue(self, data: bytes) -> None:
        """Add a hint, or not, or twice."""
        self._break()
        self.hints += [] if self.lose else [data, data] if self.double else [data]

    def dequeue(self) -> bytes | None:
        """Take a hint from either end."""
        self._break()
        return (self.hints.pop(-1 if self.reverse else 0)) if self.hints else None

    def close(self) -> None:
        """Keep the hints for whoever opens it again."""


FAULTS: dict[str, dict[str, Any]] = {
    "lost": {"lose": True},
    "twice": {"double": True},
    "reversed": {"reverse": True},
    "breaks": {"broken": 1},
    "down": {"broken": 10**9},
}
PAIRS = list(itertools.combinations_with_replacement(FAULTS, 2))


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A host whose budget lasts for all tests of this module."""
    found = found_town(tmp_path_factory.mktemp("queue"), persons=10, total="100", per_job="2")
    yield found
    found.close()


def dies() -> EnclaveProcess:
    """An enclave that cannot be started: the run ends at once, `failed`, and the job's way is the same until then."""
    raise EnclaveDied


@contextmanager
def at_work(*workers: Worker) -> Iterator[None]:
    """Workers in threads, told to stop at the end."""
    stop = threading.Event()
    for worker in workers:
        worker.stopping = stop.is_set
    threads = [threading.Thread(target=worker.work) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_for_all(town: Town, jobs: list[str], seconds: float = 120.0) -> None:
    """Wait until these jobs have failed, the only end that they can have here."""
    deadline = time.monotonic() + seconds
    while any(town.job(job).state != "failed" for job in jobs):
        assert time.monotonic() < deadline, [town.job(job).state for job in jobs]
        time.sleep(0.02)


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=["-and-".join(pair) for pair in PAIRS])
def test_every_job_is_taken_once_whatever_the_queue_does(town: Town, first: str, second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "SWEEP_S", 0.1)
    storage = Faulty(**{**FAULTS[first], **FAULTS[second]})
    host = replace(town.host, hints=Hints(lambda: storage))
    session: Any = Direct(make_app(host))
    institute = Client(home=town.clients["institute"].home, session=session)
    workers = [Worker(host=replace(town.host, hints=Hints(lambda: storage)), launch=dies) for _ in range(2)]
    with at_work(*workers):
        label = f"{first}-{second}"
        jobs = [institute.submit(town.request(f"{label}-{n}", COUNT_SQL, "0.1"))["id"] for n in range(3)]
        wait_for_all(town, jobs)
    for job in jobs:
        assert len(town.headers("charged", job)) == len(town.headers("running", job)) == len(town.headers("failed", job)) == 1


def test_a_hint_about_no_job_changes_nothing(town: Town) -> None:
    storage = Faulty(hints=[b"job-unknown", b"\xff", b""])
    host = replace(town.host, hints=Hints(lambda: storage))
    with town.host.store.reading() as tx:
        before = tx.log_size()
    with at_work(Worker(host=host, launch=dies)):
        deadline = time.monotonic() + 60
        while storage.hints:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with town.host.store.reading() as tx:
        assert tx.log_size() == before


def test_a_worker_is_woken_long_before_its_next_look(town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "SWEEP_S", 600.0)
    hints = [open_hints("sqlite", tmp_path / "hints.sqlite3", "test") for _ in range(2)]
    session: Any = Direct(make_app(replace(town.host, hints=hints[0])))
    institute = Client(home=town.clients["institute"].home, session=session)
    stop = threading.Event()
    worker = Worker(host=replace(town.host, hints=hints[1]), launch=dies, stopping=stop.is_set)
    thread = threading.Thread(target=worker.work)
    thread.start()
    time.sleep(0.5)
    jobs = [institute.submit(town.request("woken", COUNT_SQL, "0.1"))["id"]]
    wait_for_all(town, jobs)
    stop.set()
    hints[0].give("look again")
    thread.join(timeout=60)
    assert not thread.is_alive()

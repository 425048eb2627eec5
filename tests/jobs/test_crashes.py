"""kill -9 at every step of the durable order: nothing is spent twice, no grant runs twice, nothing stored is lost.

For every step one process of the service, or a provider's broker, kills itself there, with a job of its own. Then honest processes start,
and all jobs end. On SQLite; on PostgreSQL with SANDBOX_FULL=1, where the commits that a death may cut are cut in
test_lost_database.py in any case.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from policies.errors import Unavailable
from policies.privacy import parse_epsilon
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.replay import replay
from sandbox.config import Config
from sandbox.jobs.states import FINAL, Job
from sandbox.jobs.worker import Worker
from sandbox.party.client import Client
from sandbox.party.exporting import export_log
from tests.support.runs import Town, brokers_running, found_town, gone
from tests.support.service import DATABASES, checkout, environment, free_port, fresh_database, kill, spawn, wait_until_up

WEB_STEPS = ("charged", "charge-published")
BEFORE_STORING = ("running", "attested", "keys-complete", "ran")
AFTER_STORING = ("stored", "stored-published")
WORKER_STEPS = BEFORE_STORING + AFTER_STORING
BROKER_STEPS = ("nonce-kept", "nonce-sent", "keys-kept", "keys-sent")
STEPS = (*WEB_STEPS, "key-released", *BROKER_STEPS, *WORKER_STEPS)
EPSILON = parse_epsilon("0.5").amount
PATIENCE_S = 240.0


@dataclass
class Port:
    """Stands for `requests.Session`: sends what is meant for the town's host to a process on a port."""

    port: int
    session: requests.Session = field(default_factory=requests.Session)

    def request(self, method: str, url: str, **arguments: Any) -> requests.Response:
        """Ask the process."""
        parts = urlsplit(url)
        return self.session.request(method, parts._replace(netloc=f"127.0.0.1:{self.port}").geturl(), **arguments)


@dataclass
class Seen:
    """What stood in the store right after a kill."""

    job: str
    state: str
    published: bool
    sealed: bytes | None


@dataclass
class Aftermath:
    """Everything after the kills and the recovery.

    Attributes:
        retried: by web step, the answer to the same request sent again.
        enclaves: process ids of the enclaves of killed workers, by step.
    """

    town: Town
    client: Client
    seen: dict[str, Seen]
    retried: dict[str, dict[str, Any]]
    enclaves: dict[str, list[int]]

    def job(self, step: str) -> Job:
        """The job whose process died at a step."""
        return self.town.job(self.seen[step].job)


@dataclass
class Doomed:
    """Starts processes of the service that kill themselves, one at a time."""

    folder: Path
    process: subprocess.Popen[str]

    def start(self, role: str, step: str, port: int = 0) -> None:
        """Start one that dies at a step; a web process is waited for until it answers."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{role} {step} {port}\n")
        self.process.stdin.flush()
        if role == "web":
            until(lambda: answers(port), f"no answer: {self.log}")

    def died(self) -> None:
        """Wait until it has killed itself."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == str(-signal.SIGKILL), self.log

    @property
    def log(self) -> str:
        """What these processes said."""
        return (self.folder / "doomed.log").read_text()[-3000:]


def answers(port: int) -> bool:
    """Whether a web process is up."""
    try:
        return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=30).ok
    except requests.RequestException:
        return False


@contextmanager
def doomed(config: Config, settings: dict[str, str]) -> Iterator[Doomed]:
    """What starts them; its own process is gone afterwards, and with it whichever is left."""
    folder = config.data.parent
    command = [sys.executable, "-m", "tests.support.faulty", str(folder)]
    with (
        (folder / "doomed.log").open("ab") as output,
        subprocess.Popen(
            command, env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, cwd=checkout(), text=True,
            start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            yield Doomed(folder=folder, process=process)
        finally:
            kill(process)  # type: ignore[arg-type]


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def look(town: Town, job: str) -> Seen:
    """What the store holds of a job."""
    with town.host.store.reading() as tx:
        held, stored, newest = tx.job(job), tx.release(job), tx.newest_checkpoint()
        assert held is not None
        assert newest is not None
        return Seen(job=job, state=held.state, published=newest[0] == tx.log_size(), sealed=stored.sealed if stored else None)


def client_at(town: Town, name: str, port: int) -> Client:
    """A participant's client of the process on a port."""
    session: Any = Port(port)
    return Client(home=town.clients[name].home, session=session)


def kill_web(town: Town, others: Doomed, step: str) -> Seen:
    """Submit a job to a web process that dies on the way."""
    port = free_port()
    others.start("web", step, port)
    with pytest.raises(Unavailable):
        client_at(town, "institute", port).submit(town.request(step))
    others.died()
    with town.host.store.reading() as tx:
        job = tx.job_by_request("institute", f"request-{step}")
    assert job is not None
    return look(town, job.id)


def kill_broker(town: Town, others: Doomed, step: str, port: int) -> Seen:
    """Let the insurer's broker die on its way through a job, and another on the same home take over."""
    job = town.charged(step)
    others.start("broker", step, port)
    others.died()
    found = look(town, job)
    with brokers_running(client_at(town, "insurer", port)):
        until(lambda: town.job(job).state in FINAL, f"{step}: the job did not end")
    return found


def kill_worker(town: Town, others: Doomed, step: str) -> Seen:
    """Let a worker take a job and die on the way."""
    job = town.charged(step)
    others.start("worker", step)
    others.died()
    return look(town, job)


@pytest.fixture(scope="module", params=DATABASES if os.environ.get("SANDBOX_FULL") else DATABASES[:1])
def aftermath(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    with fresh_database(request.param) as database:
        yield from crash_everywhere(tmp_path_factory.mktemp(f"crashes-{request.param}"), database)


def crash_everywhere(folder: Path, database: str) -> Iterator[Aftermath]:
    """Let a process die at every step, start honest ones, and wait until all jobs have ended."""
    town = found_town(folder, total="100", lease_s=3.0, database=database)
    settings = environment(town.host.config) | {"SANDBOX_LEASE_S": "3.0", "TMPDIR": str(folder)}
    insurer, clinic = town.clients["insurer"], town.clients["clinic"]
    port, honest = free_port(), {}
    try:
        with doomed(town.host.config, settings) as others:
            with brokers_running(insurer, clinic):
                seen = {step: kill_worker(town, others, step) for step in WORKER_STEPS}
            seen |= {step: kill_web(town, others, step) for step in WEB_STEPS}
            through = free_port()
            others.start("web", "key-released", through)
            seen["key-released"] = look(town, town.charged("key-released"))
            honest["worker"] = spawn(folder / "worker.log", settings, "worker")
            honest["web"] = spawn(folder / "web.log", settings, "serve", "--bind", f"127.0.0.1:{port}", "--processes", "1")
            with brokers_running(client_at(town, "insurer", through), clinic):
                others.died()
        wait_until_up(f"http://127.0.0.1:{port}", honest["web"], folder / "web.log")
        with brokers_running(client_at(town, "insurer", port), clinic):  # so that a doomed broker meets no job but its own
            until(lambda: all(town.job(s.job).state in FINAL for s in seen.values()), "a job did not end")
        with doomed(town.host.config, settings) as others, brokers_running(clinic):
            seen |= {step: kill_broker(town, others, step, port) for step in BROKER_STEPS}
        with brokers_running(insurer, clinic):
            client = client_at(town, "institute", port)
            retried = {step: client.submit(town.request(step)) for step in STEPS}
            until(lambda: all(town.job(s.job).state in FINAL for s in seen.values()), "a job did not end")
            until(lambda: look(town, seen["charged"].job).published, "the log was not published")
            enclaves = {step: [int(line) for line in pids(folder / f"{step}.pids")] for step in WORKER_STEPS}
            yield Aftermath(town=town, client=client, seen=seen, retried=retried, enclaves=enclaves)
    finally:
        for process in honest.values():
            kill(process)
        town.close()


def pids(path: Path) -> list[str]:
    """Lines of a file; none if it is not there."""
    return path.read_text().split() if path.exists() else []


# What the kills left


def test_every_process_died_where_it_should(aftermath: Aftermath) -> None:
    assert {step: seen.state for step, seen in aftermath.seen.items()} == {
        **dict.fromkeys(BEFORE_STORING, "running"), **dict.fromkeys(AFTER_STORING, "released"),
        **dict.fromkeys(WEB_STEPS, "charged"), "key-released": "charged",
        **dict.fromkeys(BROKER_STEPS[:3], "running"), "keys-sent": aftermath.seen["keys-sent"].state,
    }  # fmt: skip
    published = {step: aftermath.seen[step].published for step in ("charged", "charge-published", "stored", "stored-published")}
    assert published == {"charged": False, "charge-published": True, "stored": False, "stored-published": True}


def test_no_enclave_outlives_its_worker(aftermath: Aftermath) -> None:
    started = [pid for pids in aftermath.enclaves.values() for pid in pids]
    assert len(started) == len(WORKER_STEPS) - 1, "all but the one that died before it launched one"
    for pid in started:
        until(lambda pid=pid: gone(pid), f"enclave {pid} is still there")  # type: ignore[misc]


# What is promised


@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_spent_twice(aftermath: Aftermath, step: str) -> None:
    job = aftermath.job(step)
    charges = aftermath.town.headers("charged", job.id)
    assert [[loss["amount"] for loss in header["losses"]] for header in charges] == [[EPSILON, EPSILON]]
    assert len(aftermath.town.headers("decided", job.id)) == len(aftermath.town.headers("granted", job.id)) == 1


def test_the_ledgers_are_the_sum_of_one_charge_per_job_but_for_dead_grants(aftermath: Aftermath) -> None:
    """Where the worker died before a broker released keys, both brokers renounce the grant as soon as they look."""
    town = aftermath.town
    keyless = [aftermath.job(step).id for step in BEFORE_STORING if not _released(town, aftermath.job(step).id)]
    assert keyless == [aftermath.job("running").id]
    until(lambda: all(town.headers("voided", job) for job in keyless), "a dead grant keeps its charge")
    assert sum(len(town.headers("voided", aftermath.job(step).id)) for step in STEPS) == len(keyless)
    assert town.spent() == dict.fromkeys(("clinic", "insurer"), (len(STEPS) - len(keyless)) * EPSILON)


def _released(town: Town, job: str) -> bool:
    return any((town.clients[name].home.folder / f"broker/{job}.release.json").is_file() for name in ("insurer", "clinic"))


@pytest.mark.parametrize("step", STEPS)
def test_the_same_request_again_is_the_same_job(aftermath: Aftermath, step: str) -> None:
    assert aftermath.retried[step]["id"] == aftermath.seen[step].job
    before = aftermath.town.spent()
    assert aftermath.client.submit(aftermath.town.request(step))["id"] == aftermath.seen[step].job
    assert aftermath.town.spent() == before


@pytest.mark.parametrize("step", STEPS)
def test_no_grant_runs_twice_and_no_broker_releases_twice(aftermath: Aftermath, step: str) -> None:
    town, job = aftermath.town, aftermath.job(step)
    assert len(town.headers("running", job.id)) == 1
    assert len(town.headers("attested", job.id)) == (0 if step == "running" else 1)
    for provider in ("insurer", "clinic"):
        assert sum(header["ids"]["provider"] == provider for header in town.headers("key_released", job.id)) <= 1
        assert sum(note["event"] == "released" and note["job"] == job.id for note in town.journal(provider)) <= 1
    assert sum(len(town.headers(kind, job.id)) for kind in ("released", "withheld", "failed")) == 1


@pytest.mark.parametrize("step", BEFORE_STORING)
def test_a_run_whose_worker_died_before_storing_has_failed_and_stays_charged(aftermath: Aftermath, step: str) -> None:
    job = aftermath.job(step)
    assert (job.state, job.code) == ("failed", "worker-died")
    with aftermath.town.host.store.reading() as tx:
        assert tx.release(job.id) is None


@pytest.mark.parametrize("step", AFTER_STORING)
def test_a_stored_release_is_neither_lost_nor_drawn_anew(aftermath: Aftermath, step: str) -> None:
    job, stored = aftermath.job(step), aftermath.seen[step].sealed
    assert job.state == "released"
    asked = [aftermath.client._get(f"/jobs/{job.id}/release") for _ in range(2)]
    assert stored
    assert [bytes.fromhex(answer["sealed"]) for answer in asked] == [stored, stored]
    release, receipt = aftermath.client.release(job.id)
    assert release.loss == job.request.loss
    assert receipt.statement == aftermath.client.release(job.id)[1].statement


@pytest.mark.parametrize("step", [*WEB_STEPS, "key-released", *BROKER_STEPS])
def test_a_job_whose_web_process_or_broker_died_runs_normally(aftermath: Aftermath, step: str) -> None:
    job = aftermath.job(step)
    assert (job.state, job.code) == ("released", "")
    assert aftermath.client.release(job.id)[0].loss.amount == EPSILON


def test_a_run_that_ended_is_not_asked_for_again(aftermath: Aftermath) -> None:
    assert all(not client.key_requests() for name, client in aftermath.town.clients.items() if name in ("insurer", "clinic"))


def test_the_log_of_all_this_replays(aftermath: Aftermath, tmp_path: Path) -> None:
    town = aftermath.town
    assert town.composed is not None
    export_log(town.clients["auditor"], tmp_path, town.composed.log)
    key = LogKey(name=town.composed.log.origin, public=bytes.fromhex(town.composed.log.key))
    verdict = replay(lambda path: (tmp_path / path).read_bytes(), key)
    assert verdict.mismatches == ()
    assert verdict.ok


def test_nothing_was_refused_on_the_way(aftermath: Aftermath) -> None:
    for provider in ("insurer", "clinic"):
        notes = (aftermath.town.clients[provider].home.folder / "journal.jsonl").read_text().splitlines()
        assert "refused" not in {json.loads(note)["event"] for note in notes}


@pytest.mark.parametrize("step", BROKER_STEPS)
def test_a_broker_that_died_sends_what_it_kept_and_nothing_else(aftermath: Aftermath, step: str) -> None:
    town, job = aftermath.town, aftermath.job(step)
    kept = json.loads((town.clients["insurer"].home.folder / f"broker/{job.id}.release.json").read_text())
    with town.host.store.reading() as tx:
        request = next(item for item in tx.key_requests(job.id) if item.provider == "insurer")
    assert (request.state, request.sealed) == ("released", kept["sealed"])


def test_what_a_dead_process_committed_is_published_by_the_next_look_for_work(tmp_path: Path) -> None:
    town = found_town(tmp_path)
    with town.host.store.transaction() as tx:
        tx.append("declared", at=1, ids={"dataset": "insurer.other"}, body={"committed": "and not published"})
    assert not Worker(host=town.host).step()
    with town.host.store.reading() as tx:
        newest = tx.newest_checkpoint()
        assert newest is not None
        assert newest[0] == tx.log_size()
    town.close()

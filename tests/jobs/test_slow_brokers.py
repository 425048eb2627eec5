"""Brokers that are slow, absent or flapping: their jobs end in a typed state or complete, and nobody else's job waits for them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from policies.errors import Conflict, Malformed, Unavailable
from sandbox.jobs import worker as worker_module
from sandbox.jobs.states import FINAL
from sandbox.jobs.worker import ENCLAVES, Worker
from sandbox.party import broker as broker_module
from sandbox.party.broker import Broker
from tests.support.runs import COUNT_SQL, Town, found_town, network_down
from tests.support.steps import Line, require_sound

TIMEOUT_S = 2.0


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A town whose runs wait for brokers only shortly."""
    found = found_town(tmp_path_factory.mktemp("slow"), persons=10, total="100", queue="off", keys_timeout_s=TIMEOUT_S, poll_s=0.02)
    yield found
    require_sound(found.host)
    found.close()


@pytest.fixture(autouse=True)
def _soon_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "SLOW_S", 0.05)


def waits_for(line: Line, job: str) -> None:
    """Turn until a job waits for its brokers and keeps nobody else waiting."""
    line.until(lambda: any(run.job == job and run.slow for run in line.worker._active))


def joint(town: Town, label: str) -> str:
    return town.charged(label, epsilon="0.1")


def single(town: Town, label: str) -> str:
    return town.charged(label, sql=COUNT_SQL, epsilon="0.1")


def test_other_jobs_do_not_wait_for_an_absent_broker(town: Town) -> None:
    host = replace(town.host, config=replace(town.host.config, keys_timeout_s=300.0))
    line = Line(host=host, brokers=[town.broker("insurer")])
    stuck = [joint(town, f"stuck-{n}") for n in range(ENCLAVES + 2)]
    others = [single(town, f"other-{n}") for n in range(3)]
    line.until(lambda: all(town.job(job).state in FINAL for job in others))
    assert {town.job(job).state for job in others} == {"released"}
    assert {town.job(job).state for job in stuck} == {"running"}
    line.brokers.append(town.broker("clinic"))
    line.finish(*stuck)
    assert {town.job(job).state for job in stuck} == {"released"}, "it came back"
    assert line.worker._turns.open == 0


def test_runs_whose_broker_never_comes_end_with_a_word_for_it(town: Town) -> None:
    line = Line(host=town.host, brokers=[town.broker("insurer")])
    jobs = [joint(town, f"never-{n}") for n in range(2)]
    line.finish(*jobs)
    assert {(town.job(job).state, town.job(job).code) for job in jobs} == {("failed", "keys-timeout")}


def test_a_run_that_waits_for_a_broker_holds_no_more_enclaves_than_it_may(town: Town) -> None:
    patient = replace(town.host, config=replace(town.host.config, keys_timeout_s=300.0))
    line, half = Line(host=patient, brokers=[]), [town.broker("insurer"), town.broker("clinic")]
    jobs = [joint(town, f"many-{n}") for n in range(ENCLAVES + 3)]
    line.until(lambda: len(line.worker._active) == len(jobs))
    for broker in half:
        broker.step()  # every run is challenged, none gets keys
    seen = []
    until = time.monotonic() + TIMEOUT_S / 2
    while time.monotonic() < until:
        line.worker._turn()
        seen.append(line.worker._turns.open)
    assert max(seen) == ENCLAVES
    line.brokers = half
    line.finish(*jobs)
    assert line.worker._turns.open == 0


def test_one_run_after_the_other_if_the_operator_says_so(town: Town) -> None:
    host = replace(town.host, config=replace(town.host.config, runs=1))
    line = Line(host=host, brokers=[town.broker("insurer")])
    first, second = joint(town, "alone-1"), single(town, "alone-2")
    waits_for(line, first)
    for _ in range(20):
        line.worker._turn()
    assert town.job(second).state == "charged"
    line.finish(first, second)
    assert town.job(second).state == "released"


@pytest.mark.parametrize("back", ["in time", "too late"])
def test_a_broker_that_dies_between_challenge_and_keys(town: Town, back: str) -> None:
    line = Line(host=town.host, brokers=[])
    insurer = town.broker("insurer")
    job = single(town, f"dies-{back.replace(' ', '-')}")
    line.until(lambda: town.job(job).state == "running")
    insurer.step()
    line.until(lambda: town.job(job).evidence is not None)
    if back == "too late":
        line.finish(job)
        assert (town.job(job).state, town.job(job).code) == ("failed", "keys-timeout")
        assert insurer.step() == 1, "it renounces the grant"
        assert insurer.step() == 0, "nobody asks any more"
        assert town.headers("key_released", job) == []
        assert town.headers("voided", job)
        return
    line.brokers = [Broker(client=town.again("insurer"))]
    line.finish(job)
    assert town.job(job).state == "released"


def test_keys_that_come_after_the_run_has_ended_are_refused_and_change_nothing(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker saw the request in time and was slow to answer."""
    line = Line(host=town.host, brokers=[])
    insurer = town.broker("insurer")
    job = single(town, "late-keys")
    line.until(lambda: town.job(job).state == "running")
    insurer.step()
    line.until(lambda: town.job(job).evidence is not None)
    seen = insurer.client.key_requests()
    line.finish(job)
    with town.host.store.reading() as tx:
        size = tx.log_size()
    monkeypatch.setattr(insurer.client, "key_requests", lambda: seen)
    with pytest.raises(Conflict) as refused:
        insurer.step()
    assert refused.value.code == "key-state"
    with town.host.store.reading() as tx:
        assert tx.log_size() == size
    assert town.job(job).state == "failed"


def test_a_flapping_broker_gets_every_job_done(town: Town) -> None:
    """Two of five messages are answered by nobody, though they were applied."""
    insurer = town.broker("insurer")
    session: Any = insurer.client.session
    draw, lost = random.Random(7), [0]

    def flap(method: str, path: str, answer: Any) -> Any:
        if draw.random() < 0.6:
            return answer
        lost[0] += 1
        return network_down()

    line = Line(host=town.host, brokers=[insurer])
    jobs = [single(town, f"flapping-{n}") for n in range(3)]
    session.doctor = flap
    try:
        line.finish(*jobs)
    finally:
        session.doctor = lambda method, path, answer: answer
    assert {town.job(job).state for job in jobs} == {"released"}
    assert lost[0] > 5


def test_a_key_request_that_fails_holds_up_no_other(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two is answered with errors, whatever is said about it."""
    insurer = town.broker("insurer")
    jobs = [single(town, "poisoned"), single(town, "healthy")]
    line = Line(host=town.host, brokers=[insurer])
    real = insurer.client.challenge
    errors = [Conflict("another nonce", code="challenged"), Malformed("no"), Unavailable("busy", code="database"), KeyError("job")]

    def challenge(job: str, nonce: str) -> None:
        if job == jobs[0]:
            raise errors[len(tried) % 4]
        real(job, nonce)

    tried: list[int] = []
    monkeypatch.setattr(insurer.client, "challenge", challenge)
    line.until(lambda: all(town.job(job).state in FINAL for job in jobs) or tried.append(1) is not None)
    assert town.job(jobs[1]).state == "released"
    assert (town.job(jobs[0]).state, town.job(jobs[0]).code) == ("failed", "keys-timeout")


def test_a_broker_serves_on_through_everything_that_a_service_may_do(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "RETRY_S", 0.01)
    broker = town.broker("insurer")
    outcomes: list[Any] = [Unavailable("x"), Conflict("x"), KeyError("x"), TypeError("x"), Unavailable("x", code="home"), None]
    left = list(outcomes)

    def step() -> int:
        found = left.pop(0)
        if found is not None:
            raise found
        return 0

    monkeypatch.setattr(broker, "step", step)
    broker.serve(stopping=lambda: not left, poll_s=0.001)
    assert left == []


def test_a_stopping_worker_finishes_the_runs_that_wait_and_takes_none(town: Town) -> None:
    stop = threading.Event()
    worker = Worker(host=town.host, launch=Line(host=town.host, brokers=[]).worker.launch, stopping=stop.is_set)
    first = single(town, "stop-first")
    thread = threading.Thread(target=worker.work)
    thread.start()
    deadline = time.monotonic() + 120
    while town.job(first).state != "running":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stop.set()
    second = single(town, "stop-second")
    while thread.is_alive():
        assert time.monotonic() < deadline
        town.broker("insurer").step()
    assert (town.job(first).state, town.job(second).state) == ("released", "charged")
    Line(host=town.host, brokers=[town.broker("insurer")]).finish(second)

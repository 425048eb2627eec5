"""With a quantum, the end of a run is seen only at multiples of it: how long a run computed tells nothing."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.quantum import due_at, longest_quantum
from sandbox.audit.replay import replay
from sandbox.jobs.launch import EnclaveDied, EnclaveProcess
from sandbox.jobs.run import Run, Steps
from sandbox.jobs.states import FINAL
from sandbox.jobs.worker import SLOW_S, Worker
from tests.support import terms
from tests.support.runs import COUNT_SQL, JOIN_SQL, Town, found_town
from tests.support.steps import Line, require_sound, state_of
from tests.support.story import EnclaveHere, export

QUANTUM_S = 2.0

times = st.floats(0, 1e6, allow_nan=False)


@given(began=times, took=st.floats(0, 1e4), quantum=st.floats(0.01, 1e4))
def test_whatever_a_run_took_it_is_told_on_the_grid_and_never_before_it_ended(began: float, took: float, quantum: float) -> None:
    due = due_at(began, began + took, quantum)
    turns = (due - began) / quantum
    assert turns == pytest.approx(round(turns), abs=1e-4)
    assert round(turns) >= 1
    assert began + took - 1e-6 <= due <= began + took + quantum * (1 + 1e-9) + 1e-6


@given(began=times, took=st.floats(0, 1e4))
def test_without_a_quantum_it_is_told_at_once(began: float, took: float) -> None:
    assert due_at(began, began + took, 0.0) == began + took


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    found = found_town(tmp_path_factory.mktemp("quantum"), persons=10, total="100", queue="off", quantum_s=QUANTUM_S)
    yield found
    require_sound(found.host)
    found.close()


@dataclass
class Enclave(EnclaveHere):
    """An enclave that computes for some time, and may die of it."""

    takes_s: float = 0.0
    dies: bool = False

    def run(self, *arguments: Any) -> Any:
        """Compute."""
        time.sleep(self.takes_s)
        if self.dies:
            raise EnclaveDied
        return super().run(*arguments)


ENDS: dict[str, dict[str, Any]] = {
    "released": {}, "released after a while": {"takes_s": 0.5}, "withheld": {"spoil": True}, "failed": {"dies": True},
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_no_end_of_a_run_is_seen_before_its_time(town: Town, end: str) -> None:
    line = Line(host=town.host, brokers=[town.broker("insurer")])
    launch: Callable[[], EnclaveProcess] = lambda: cast(EnclaveProcess, Enclave(town.host.measurement, [], **ENDS[end]))  # noqa: E731
    line.worker.launch = launch
    job = town.charged(f"ends-{end.replace(' ', '-')}", sql=COUNT_SQL, epsilon="0.1")
    line.until(lambda: state_of(town.host, job) == "running")
    seen, waited = time.monotonic(), False
    while state_of(town.host, job) not in FINAL:
        line.turn()
        waits = [run.waits for run in line.worker._active]
        waited |= waits == ["quantum"]
        if waits == ["quantum"]:
            assert not any(town.headers(kind, job) for kind in ("released", "withheld", "failed"))
    assert waited, "it was over, and nobody could see it"
    assert time.monotonic() - seen >= QUANTUM_S - 1.0
    assert state_of(town.host, job) == end.partition(" ")[0]
    (entry,) = [header for kind in ("released", "withheld", "failed") for header in town.headers(kind, job)]
    (taken,) = town.headers("running", job)
    assert entry["at"] - taken["at"] >= (QUANTUM_S - 0.2) * 1000


def test_a_wall_clock_that_jumps_shows_nothing_earlier(town: Town) -> None:
    ahead = replace(town.host, now=lambda: time.time_ns() // 10**6 + 250_000)
    line = Line(host=ahead, brokers=[town.broker("insurer")])
    job = town.charged("jumps", sql=COUNT_SQL, epsilon="0.1")
    line.until(lambda: state_of(town.host, job) == "running")
    began = time.monotonic()
    line.finish(job)
    assert time.monotonic() - began >= QUANTUM_S - 0.5
    assert state_of(town.host, job) == "released"


@pytest.mark.parametrize("long", [False, True])
def test_when_a_worker_takes_and_computes_another_job_tells_nothing_of_how_long_the_first_one_took(town: Town, long: bool) -> None:
    """The next job is taken as long after the first began to compute, and computed only once the first one's end is told."""
    ran: list[tuple[float, str]] = []
    taken = threading.Event()

    class Timed(Enclave):
        def run(self, *arguments: Any) -> Any:
            ran.append((time.monotonic(), state_of(town.host, first)))
            if long and len(ran) == 1:
                assert taken.wait(60), "the next job is taken while the first one computes"
            return super().run(*arguments)

    line = Line(host=town.host, brokers=[town.broker("insurer")])
    line.worker.launch = lambda: cast(EnclaveProcess, Timed(town.host.measurement, []))
    first, second = (town.charged(f"next-{long}-{n}", sql=COUNT_SQL, epsilon="0.1") for n in range(2))
    line.until(lambda: state_of(town.host, second) == "running")
    taken.set()
    assert time.monotonic() - ran[0][0] > SLOW_S - 0.1, "no sooner where that one was done at once"
    assert state_of(town.host, first) == "running"
    line.finish(first, second)
    assert [state for _, state in ran] == ["running", "released"], "the second one is computed once the first one is told"


def test_a_worker_takes_other_jobs_while_an_end_waits_for_its_time(town: Town) -> None:
    line = Line(host=town.host, brokers=[town.broker("insurer")])
    first, second = (town.charged(f"beside-{n}", sql=COUNT_SQL, epsilon="0.1") for n in range(2))
    line.until(lambda: state_of(town.host, second) == "running" or state_of(town.host, first) in FINAL)
    assert state_of(town.host, first) == "running", "it waits, and the second one was taken"
    line.finish(first, second)
    assert {state_of(town.host, job) for job in (first, second)} == {"released"}


AGREED_S = 1


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A town where nobody but the insurer wants a quantum."""
    found = found_town(tmp_path_factory.mktemp("agreed"), persons=10, total="100", queue="off", quantum={"insurer": AGREED_S})
    yield found
    found.close()


def took_ms(town: Town, job: str) -> int:
    """From the entry by which a worker took a job to the one by which it ended."""
    (ended,) = [header for kind in ("released", "withheld", "failed") for header in town.headers(kind, job)]
    (taken,) = town.headers("running", job)
    return int(ended["at"]) - int(taken["at"])


def test_the_strictest_quantum_of_all_terms_counts() -> None:
    both = terms.agreement(terms=(terms.terms_insurer(quantum=60), terms.terms_clinic(quantum=90)))
    insurer, clinic = (declaration.dataset for declaration in both.declarations)
    found = [longest_quantum(both, datasets) for datasets in ([insurer], [clinic], [insurer, clinic])]
    assert found == [60, 90, 90]
    assert longest_quantum(terms.agreement(), [insurer, clinic]) == 0


@pytest.mark.parametrize("end", ["released", "withheld", "failed"])
def test_every_end_waits_for_the_quantum_of_the_terms(bound: Town, end: str) -> None:
    line = Line(host=bound.host, brokers=[bound.broker("insurer"), bound.broker("clinic")])
    line.worker.launch = lambda: cast(EnclaveProcess, Enclave(bound.host.measurement, [], **ENDS[end]))
    job = bound.charged(f"agreed-{end}", sql=JOIN_SQL, epsilon="0.1")
    line.finish(job)
    assert state_of(bound.host, job) == end
    assert took_ms(bound, job) >= AGREED_S * 1000
    require_sound(bound.host)


def test_a_wall_clock_that_is_set_back_makes_a_run_wait_until_the_log_shows_the_quantum(bound: Town) -> None:
    taken: list[str] = []
    back = replace(bound.host, now=lambda: time.time_ns() // 10**6 - (700 if "running" in taken else 0), on_step=taken.append)
    line = Line(host=back, brokers=[bound.broker("insurer")])
    job = bound.charged("set-back", sql=COUNT_SQL, epsilon="0.1")
    line.finish(job)
    assert took_ms(bound, job) >= AGREED_S * 1000
    require_sound(bound.host)


def test_a_dead_workers_run_is_not_ended_before_the_quantum(bound: Town) -> None:
    job = bound.charged("left", sql=COUNT_SQL, epsilon="0.1")
    taker = Worker(host=bound.host)
    assert taker._take() is not None
    line = Line(host=replace(bound.host, config=replace(bound.host.config, lease_s=0.05)), brokers=[])
    line.until(lambda: state_of(bound.host, job) in FINAL)
    assert state_of(bound.host, job) == "failed"
    assert took_ms(bound, job) >= AGREED_S * 1000


def test_an_end_before_the_quantum_of_the_terms_is_found_by_a_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(_: Run, quantum: float) -> Steps[None]:
        yield from ()

    town = found_town(tmp_path, persons=10, total="100", queue="off", quantum={"insurer": 3600})
    monkeypatch.setattr(Run, "told", hasty)
    line = Line(host=town.host, brokers=[town.broker("insurer")])
    for end in ("released", "withheld", "failed"):
        line.worker.launch = lambda end=end: cast(EnclaveProcess, Enclave(town.host.measurement, [], **ENDS[end]))  # type: ignore[misc]
        line.finish(town.charged(f"hasty-{end}", sql=COUNT_SQL, epsilon="0.1"))
    files = export(town.host, "auditor")
    found = [str(mismatch) for mismatch in replay(lambda path: io.BytesIO(files[path]).read(), town.host.log_identity).mismatches]
    assert len(found) == 3
    for end in ("released", "withheld", "failed"):
        assert sum(f"`{end}` was told" in mismatch for mismatch in found) == 1, found
    town.close()

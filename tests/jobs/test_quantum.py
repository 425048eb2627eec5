"""With a quantum, the end of a run is seen only at multiples of it: how long a run computed tells nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.jobs.launch import EnclaveDied, EnclaveProcess
from sandbox.jobs.run import due_at
from sandbox.jobs.states import FINAL
from tests.support.runs import COUNT_SQL, Town, found_town
from tests.support.steps import Line, require_sound, state_of
from tests.support.story import EnclaveHere

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


def test_a_worker_takes_other_jobs_while_an_end_waits_for_its_time(town: Town) -> None:
    line = Line(host=town.host, brokers=[town.broker("insurer")])
    first, second = (town.charged(f"beside-{n}", sql=COUNT_SQL, epsilon="0.1") for n in range(2))
    line.until(lambda: state_of(town.host, second) == "running" or state_of(town.host, first) in FINAL)
    assert state_of(town.host, first) == "running", "it waits, and the second one was taken"
    line.finish(first, second)
    assert {state_of(town.host, job) for job in (first, second)} == {"released"}

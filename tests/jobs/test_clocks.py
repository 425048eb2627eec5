"""Clocks that jump by hours, backward and forward, between any two steps, at the host, at a broker, or between two machines."""

from __future__ import annotations

import ast
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.errors import Forbidden, PolicyRefused
from sandbox.exchange.participants import issue_code
from sandbox.host import Host
from sandbox.jobs.leases import Leases
from sandbox.web.application import make_app
from tests.support.market import plans_declaration
from tests.support.runs import COUNT_SQL, Direct, Town, found_town
from tests.support.service import checkout
from tests.support.steps import Line, headers, require_sound

HOUR_MS = 3_600_000
JUMPS = (5 * HOUR_MS, -5 * HOUR_MS)
STEPS = ("charged", "charge-published", "running", "attested", "key-released", "keys-complete", "ran", "stored")

WALL = {
    "app.py": "the host's clock: times of entries, decisions and admission codes",
    "sandbox/jobs/worker.py": "what a lease is renewed to, for people; whose change counts, not whose value",
    "sandbox/jobs/run.py": "the same",
    "sandbox/jobs/facts.py": "whether a worker that said how it isolates runs was seen lately",
    "sandbox/jobs/cgroups.py": "ages of control groups that were left over",
    "sandbox/party/encrypted_scoring.py": "whether a decision is of now, before a model's owner answers",
    "sandbox/party/joint.py": "whether a decision is of now, before a contributor or key holder acts on it",
    "sandbox/party/exporting.py": "when an export was made, for what its replay says of windows of audit scopes",
    "sandbox/party/witness.py": "the time in a cosignature",
    "sandbox/jobs/upkeep.py": "ages of files, and when a worker was last seen",
    "sandbox/party/epochs.py": "whether an exchange had expired by now, before a home holds an epoch against it",
    "sandbox/party/broker.py": "whether a decision is of now, and the age of a nonce",
    "sandbox/web/metrics.py": "how long ago a worker was seen",
    "sandbox/cli": "what people read",
}
"""Who may look at the wall clock, and what for. docs/operations.md says what a jump of it does there."""


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    found = found_town(tmp_path_factory.mktemp("clocks"), persons=10, total="100", queue="off", lease_s=30.0)
    yield found
    require_sound(found.host)
    found.close()


def with_clock(town: Town, clock: Callable[[], int], on_step: Callable[[str], None] = lambda step: None, **broker: Any) -> Line:
    """A worker, a broker and the participants' clients on a host with another clock."""
    host: Host = replace(town.host, now=clock, on_step=on_step)
    for client in town.clients.values():
        session: Any = client.session
        session.app = make_app(host)
    return Line(host=host, brokers=[town.broker("insurer", **broker)])


def wall() -> int:
    return time.time_ns() // 1_000_000


def submitted(town: Town, label: str) -> str:
    return str(town.clients["institute"].submit(town.request(label, sql=COUNT_SQL, epsilon="0.1"))["id"])


# The host's clock


@pytest.mark.parametrize("by", JUMPS, ids=["forward", "backward"])
def test_a_clock_that_jumps_between_any_two_looks_leaves_a_log_that_replays(town: Town, by: int) -> None:
    """Every look shows another hour: a decision and its entry must not part."""
    looks = [0]

    def now() -> int:
        looks[0] += 1
        return wall() + (by if looks[0] % 2 else 0)

    line = with_clock(town, now)
    for number in range(4):
        line.finish(submitted(town, f"looks-{by}-{number}"))
    require_sound(town.host)


@pytest.mark.parametrize("by", JUMPS, ids=["forward", "backward"])
@pytest.mark.parametrize("step", STEPS)
def test_a_jump_at_a_step_does_not_touch_a_job_under_way(town: Town, step: str, by: int) -> None:
    shift = [0]

    def on_step(reached: str) -> None:
        if reached == step:
            shift[0] = by

    line = with_clock(town, lambda: wall() + shift[0], on_step)
    job = submitted(town, f"jump-{step}-{by}")
    line.finish(job)
    assert shift[0] == by
    assert town.job(job).state == "released", town.job(job).code


def test_the_logs_order_is_its_own_and_not_the_clocks(town: Town) -> None:
    """A corrected clock goes on at the right time; entries are not held back at the wrong one, and replay asks for no order of times."""
    line = with_clock(town, lambda: wall() + 5 * HOUR_MS)
    town.clients["insurer"].declare(plans_declaration("insurer", "in_the_future"))
    line = with_clock(town, wall)
    job = submitted(town, "after-the-correction")
    line.finish(job)
    times = [header["at"] for header in headers(town.host)]
    assert times != sorted(times)
    assert town.job(job).state == "released"
    assert abs(town.job(job).created_at - wall()) < HOUR_MS
    require_sound(town.host)


@pytest.mark.parametrize("by", [5 * HOUR_MS, -30 * HOUR_MS], ids=["future", "long-ago"])
def test_a_decision_of_another_time_gets_no_keys_and_the_next_one_does(town: Town, by: int) -> None:
    line = with_clock(town, lambda: wall() + by)
    job = submitted(town, f"wrong-{by}")
    line.finish(job)
    assert (town.job(job).state, town.job(job).code) == ("failed", "keys-refused")
    assert [note["code"] for note in town.journal("insurer") if note.get("job") == job] == ["clock"]
    line = with_clock(town, wall)
    job = submitted(town, f"right-{by}")
    line.finish(job)
    assert town.job(job).state == "released"


def test_a_clock_that_is_hours_late_looks_like_a_long_queue_and_harms_nobody(town: Town) -> None:
    line = with_clock(town, lambda: wall() - 5 * HOUR_MS)
    job = submitted(town, "late-clock")
    line.finish(job)
    assert town.job(job).state == "released"


def test_of_a_queue_that_grew_for_twenty_hours_nothing_is_lost(town: Town) -> None:
    """Jobs, each decided an hour (20 minutes with SANDBOX_FULL=1) after the one before and the last one now, drained by two workers."""
    per_hour = 3 if os.environ.get("SANDBOX_FULL") else 1
    count = 20 * per_hour
    jobs: list[str] = []
    with_clock(town, lambda: wall() - (count - 1 - len(jobs)) * HOUR_MS // per_hour)
    for number in range(count):
        jobs.append(submitted(town, f"queued-{number}"))
    line = with_clock(town, wall)
    other = Line(host=line.host, brokers=line.brokers)
    line.between = other.turn
    line.finish(*jobs)
    assert {town.job(job).state for job in jobs} == {"released"}
    took = Counter(town.job(job).worker for job in jobs)
    assert set(took) == {line.worker.name, other.worker.name}
    require_sound(town.host)


def test_a_validity_window_is_told_by_the_clock_and_a_jump_out_of_it_denies(town: Town) -> None:
    with_clock(town, lambda: 4_000_000_001_000)
    with pytest.raises(PolicyRefused):
        submitted(town, "after-the-end")
    spent = town.spent()
    line = with_clock(town, wall)
    job = submitted(town, "back-in-the-window")
    line.finish(job)
    assert town.job(job).state == "released"
    assert town.spent()["insurer"] == spent["insurer"] + 100_000_000


def test_an_admission_code_ends_by_the_clock(town: Town) -> None:
    from sandbox.party.client import Client
    from sandbox.party.home import Home

    session: Any = Direct(town.app)
    client = Client(home=Home.create(town.folder / "homes" / "late", "late", "Late", "http://host.test"), session=session)
    code = issue_code(town.host, "late")
    session.app = make_app(replace(town.host, now=lambda: wall() + 25 * HOUR_MS))
    with pytest.raises(Forbidden):
        client.join(code)
    session.app = town.app
    client.join(code)


# The broker's clock


@pytest.mark.parametrize("by", [30 * 3600, -5 * 3600], ids=["ahead", "behind"])
def test_a_broker_whose_clock_is_wrong_gives_no_keys(town: Town, by: int) -> None:
    line = with_clock(town, wall, now=lambda: time.time() + by)
    job = submitted(town, f"broker-{by}")
    line.finish(job)
    assert (town.job(job).state, town.job(job).code) == ("failed", "keys-refused")
    assert [note["code"] for note in town.journal("insurer") if note.get("job") == job] == ["clock"]


@pytest.mark.parametrize("by", [5 * 3600, -5 * 3600], ids=["forward", "backward"])
def test_a_brokers_clock_that_jumps_after_the_challenge_makes_its_nonce_stale(town: Town, by: int) -> None:
    shift = [0]

    def on_step(reached: str) -> None:
        if reached == "attested":
            shift[0] = by

    line = with_clock(town, wall, on_step, now=lambda: time.time() + shift[0])
    job = submitted(town, f"stale-{by}")
    line.finish(job)
    assert (town.job(job).state, town.job(job).code) == ("failed", "keys-refused")
    assert [note["code"] for note in town.journal("insurer") if note.get("job") == job] == ["nonce-expired"]


# Leases


@pytest.mark.parametrize("by", [5 * 3600.0, -5 * 3600.0], ids=["forward", "backward"])
def test_a_live_run_is_not_ended_by_a_jump_and_a_dead_one_is_ended_in_spite_of_it(
    town: Town, by: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monotonic, shift, real = [0.0], [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    line = with_clock(town, wall)
    sweeper = Line(host=line.host, brokers=[])
    sweeper.worker._leases = Leases(patience_s=30.0, gap_s=10.0, clock=lambda: monotonic[0])
    line.brokers = []
    job = submitted(town, f"leased-{int(by)}")
    line.until(lambda: town.job(job).state == "running")

    def look(seconds: int, *, alive: bool) -> None:
        for _ in range(seconds):
            monotonic[0] += 1.0
            if alive and int(monotonic[0]) % 10 == 0:
                with town.host.store.transaction() as tx:
                    tx.renew_lease(job, line.worker.name, time.time() + 30.0)
            sweeper.worker.sweep()

    look(45, alive=True)
    shift[0] = by
    look(45, alive=True)
    assert town.job(job).state == "running"
    look(25, alive=False)
    assert town.job(job).state == "running"
    look(20, alive=False)
    assert (town.job(job).state, town.job(job).code) == ("failed", "worker-died")


@settings(max_examples=150, deadline=None)
@given(
    every=st.floats(0.1, 10.0),
    looks=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=60),
    values=st.randoms(use_true_random=False),
)
def test_whoever_renews_in_time_is_never_dead_and_whoever_stopped_is_dead_after_the_patience(
    every: float, looks: list[float], values: Any
) -> None:
    clock = [1000.0]
    leases = Leases(patience_s=30.0, gap_s=10.0, clock=lambda: clock[0])
    lease, renewed = 0.0, clock[0]
    for wait in looks:
        clock[0] += wait
        if clock[0] - renewed >= every:
            renewed, lease = clock[0], lease + values.choice((-18000.0, -1.0, 0.5, 18000.0))  # whatever the clocks said
        assert leases.run_out({"job": lease}) == []
    stopped = clock[0]
    found: list[str] = []
    while not found:
        clock[0] += 1.0
        found = leases.run_out({"job": lease})
        assert clock[0] - stopped <= 32.0
    assert clock[0] - renewed > 30.0


def test_time_in_which_nobody_could_look_does_not_count() -> None:
    """The database was away: nobody could renew either."""
    clock = [0.0]
    leases = Leases(patience_s=30.0, gap_s=10.0, clock=lambda: clock[0])
    assert leases.run_out({"job": 1.0}) == []
    clock[0] = 500.0
    assert leases.run_out({"job": 1.0}) == []
    for _ in range(30):
        clock[0] += 1.0
        assert leases.run_out({"job": 1.0}) == []
    clock[0] += 1.0
    assert leases.run_out({"job": 1.0}) == ["job"]
    assert leases.run_out({}) == []
    assert leases.run_out({"job": 1.0}) == [], "an ended job is forgotten"


# Who may look at the clock on the wall


def looks_at_the_wall(path: Path) -> bool:
    """Whether a module names the wall clock; durations are measured by `time.monotonic`."""
    tree = ast.parse(path.read_text())
    names = {
        f"{node.value.id}.{node.attr}" for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    return bool(names & {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow"})


def test_only_these_modules_look_at_the_wall_clock() -> None:
    root = checkout()
    modules = [root / "app.py", *(path for room in ("policies", "enclaves", "sandbox") for path in (root / room).rglob("*.py"))]
    found = {str(path.relative_to(root)) for path in modules if looks_at_the_wall(path)}
    unexplained = {path for path in found if not any(path == name or path.startswith(f"{name}/") for name in WALL)}
    assert not unexplained, "say in WALL and in docs/operations.md what a jump of the clock does there, or use time.monotonic"
    assert not {path for path in found if path.startswith(("policies/", "enclaves/"))}
    unused = {name for name in WALL if not any(path == name or path.startswith(f"{name}/") for path in found)}
    assert not unused

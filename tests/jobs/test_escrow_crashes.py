"""kill -9 before every single call of the store that an exchange makes, and after its commit: both legs are handed over, or neither.

A child process with a store of its own takes one step and kills itself before its n-th call, for n = 0, 1, 2, ... until it gets through.
After every death the parent looks at both releases; the step that was interrupted is then simply taken again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app import compose
from policies.errors import SandboxError
from policies.exchange import Exchange
from policies.privacy import parse_epsilon
from sandbox.audit.replay import replay
from sandbox.config import Config
from sandbox.exchange import escrow
from sandbox.jobs.record import record_failure
from sandbox.jobs.states import Job
from sandbox.store.database import Transaction
from tests.support import exchanges as ex
from tests.support.service import DATABASES, fresh_database
from tests.support.story import Story, begin, export

VERBS = tuple(name for name in dir(Transaction) if not name.startswith("_") and callable(getattr(Transaction, name)))
MOST_CALLS = 80
STRIDE = 1 if os.environ.get("SANDBOX_FULL") else 3
"""Deaths of steps that decide nothing are tried before every third call only, unless all tests are run."""

NOT_HAD = ("in-escrow", "not-published", "returned", "not-found")


class Dying:
    """Counts calls of the store's verbs and ends the process before the n-th; `armed` from the first one, or from a step on."""

    def __init__(self, before: int, armed: bool = True) -> None:
        self.left, self.armed = before, armed

    def wrap(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        """The verb, or death in its place."""

        def called(*arguments: Any, **named: Any) -> Any:
            if self.armed:
                if not self.left:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.left -= 1
            return verb(*arguments, **named)

        return called


def in_child(story: Story, step: Callable[[], object], before: int, armed_at: str = "") -> int:
    """Take a step in a process of its own that dies before its n-th call; returns how it ended: 0, or -9."""

    def child() -> None:
        dying = Dying(before, armed=not armed_at)
        for name in VERBS:
            setattr(Transaction, name, dying.wrap(getattr(Transaction, name)))

        def on_step(reached: str) -> None:
            dying.armed = dying.armed or reached == armed_at
            story.on_step(reached)

        folder = Config(data=story.host.config.data, database=story.host.config.database)
        story.host = replace(compose(folder, on_step), now=story.clock)
        step()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    story.clock.at += 100_000  # the child's looks at the clock are unknown here
    return int(process.exitcode)


def had(story: Story, jobs: list[Job]) -> set[bool]:
    """Whether each release can be had."""
    found = set()
    for job in jobs:
        try:
            found.add(bool(ex.handed(story, job)))
        except SandboxError as error:
            if error.code not in NOT_HAD:
                raise
            found.add(False)
    return found


def taken(story: Story, jobs: list[Job], step: Callable[[], object], stride: int = STRIDE) -> int:
    """Take a step over every death; returns how many there were. After each, either both releases can be had or neither."""
    for deaths in range(0, MOST_CALLS, stride):
        code = in_child(story, step, deaths)
        story.host.publish()
        assert len(had(story, jobs)) <= 1, f"one-sided after death {deaths}"
        if code == 0:
            return deaths
    raise AssertionError("the step never got through")


@pytest.fixture(scope="module", params=DATABASES if os.environ.get("SANDBOX_FULL") else DATABASES[:1])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder: Path = tmp_path_factory.mktemp("crashing")
    with fresh_database(str(request.param)) as url:
        found = begin(folder, url)
        yield found
        verdict = replay(export(found.host, "insurer").__getitem__, found.host.log_identity)
        assert not verdict.mismatches
        found.host.store.close()


def exchange_of(story: Story, uid: str) -> Exchange:
    """An exchange of two jobs, proposed by nobody yet."""
    name = ex.agreed(story, uid, total_loss=parse_epsilon("90"))
    now = story.clock.at // 1000
    legs = ex.data_leg(name, jobs=60), ex.back_leg(name, jobs=60)
    return ex.exchange(*legs, uid=uid, accept_by=now + 20 * 86_400, deadline=now + 60 * 86_400)


def test_every_act_dies_at_every_call_and_never_one_sided(story: Story) -> None:
    document = exchange_of(story, "acts")
    assert taken(story, [], lambda: ex.propose(story, document)) > 5
    assert taken(story, [], lambda: ex.did(story, "insurer", document, "accept")) > 5
    jobs = [ex.delivered(story, document, leg, f"acts-{leg}") for leg in (1, 2)]
    for who, leg in (("insurer", 1), ("clinic", 2)):
        sealed = ex.sealed_of(story, document, leg)
        assert had(story, jobs) == {False}
        assert (
            taken(story, jobs, lambda w=who, n=leg, s=sealed: ex.did(story, w, document, "acknowledge", n, s), 1 if leg == 2 else STRIDE)
            > 5
        )  # type: ignore[misc]
    assert had(story, jobs) == {True}
    with story.host.store.reading() as tx:
        kinds = [data for data in tx.entries(0, tx.log_size()) if b'"kind":"handed_over"' in data]
    assert len(kinds) == 1


def test_a_withdrawal_dies_at_every_call_and_returns_both(story: Story) -> None:
    document = exchange_of(story, "withdrawal")
    ex.propose(story, document)
    ex.did(story, "insurer", document, "accept")
    jobs = [ex.delivered(story, document, leg, f"withdrawal-{leg}") for leg in (1, 2)]
    assert taken(story, jobs, lambda: ex.did(story, "insurer", document, "withdraw")) > 5
    assert ex.stage(story, document) == "returned"
    assert had(story, jobs) == {False}


def test_the_host_dies_at_every_call_of_what_is_due(story: Story) -> None:
    document = exchange_of(story, "due")
    ex.propose(story, document)
    ex.did(story, "insurer", document, "accept")
    job = ex.delivered(story, document, 1, "due")
    story.clock.at = document.deadline * 1000
    assert taken(story, [job], lambda: escrow.sweep(story.host)) > 5
    assert ex.stage(story, document) == "returned"


def test_a_release_that_is_being_stored_is_in_escrow_or_its_leg_is_free(story: Story) -> None:
    document = exchange_of(story, "storing")
    ex.propose(story, document)
    ex.did(story, "insurer", document, "accept")
    for attempt in range(0, MOST_CALLS, STRIDE):
        job = ex.charged(story, document, 1, f"storing-{attempt}")
        assert job.state == "charged", job.decision
        code = in_child(story, story.work, attempt, armed_at="ran")
        record_failure(story.host, job.id, "worker-died")
        state, stage = ex.stored(story, job.id).state, ex.stage(story, document)
        assert (state, stage) in (("failed", "open"), ("released", "one_in_escrow"))
        assert had(story, [job]) == {False}
        if stage == "one_in_escrow":
            assert code == 0 or attempt > 5
            return
    raise AssertionError("no release was ever stored")

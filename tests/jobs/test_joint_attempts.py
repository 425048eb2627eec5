"""Whom an attempt at a joint total asks for something, and whom it tells that it will."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enclaves.kit.envelope import Signed
from sandbox.jobs.joint_states import JointAttempt

OPENED = JointAttempt(job="job-0123456789abcdef0123", attempt=1, contributors=("first", "second"))
KEYED = replace(OPENED, manifest=Signed(purpose="joint-manifest", by="notary", body={}, signature="00" * 64))
SUMMED = replace(KEYED, total="sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("attempt", "contributed", "asked", "next_asked"),
    [
        (OPENED, (), {"notary": "key"}, {"first", "second"}),
        (KEYED, (), {"first": "contribution", "second": "contribution"}, {"notary"}),
        (KEYED, ("first",), {"second": "contribution"}, {"notary"}),
        (KEYED, ("first", "second"), {}, {"notary"}),
        (SUMMED, ("first", "second"), {"notary": "opening"}, set()),
    ],
    ids=["opened", "keyed", "half", "complete", "summed"],
)
def test_who_is_asked_next_looks_again_soon_and_nobody_else(
    attempt: JointAttempt, contributed: tuple[str, ...], asked: dict[str, str], next_asked: set[str]
) -> None:
    people = ("notary", "first", "second", "dropped")
    tasks = {name: attempt.task_of(name, "notary", name in contributed) for name in people}
    assert {name: task for name, task in tasks.items() if task is not None} == asked
    assert {name for name in people if tasks[name] is None and attempt.asks_later(name, "notary")} == next_asked

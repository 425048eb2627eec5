"""The child process of a joint total: what is done to it ends there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enclaves.kit.child import Child
from policies.canonical import digest_bytes
from policies.codec import encode
from policies.errors import Tampered, Unavailable
from policies.odrl import agreement_document
from tests.enclaves.test_joint_totals import NAMES, Round
from tests.support.pool import claims_pool


@pytest.fixture
def child() -> Iterator[Child]:
    found = Child()
    yield found
    found.close()


def adding(attempt: Round, parts: dict[str, bytes], folder: Path) -> dict[str, Any]:
    """The question by which a host has contributions added."""
    (folder / "public").write_bytes(attempt.pair.public)
    for name, data in parts.items():
        (folder / name).write_bytes(data)
    return {
        "verb": "add_up",
        "grant": encode(attempt.grant),
        "agreement": agreement_document(attempt.agreement),
        "public": [str(folder / "public"), digest_bytes(attempt.pair.public)],
        "contributions": {name: [str(folder / name), digest_bytes(data)] for name, data in parts.items()},
        "output": str(folder / "total"),
    }


def test_a_child_adds_and_names_whoever_sends_no_ciphertexts(child: Child, tmp_path: Path) -> None:
    attempt = Round(claims_pool(NAMES))
    parts = attempt.contributions()
    child.ready()
    assert child.ask(adding(attempt, parts, tmp_path))["digest"] == digest_bytes((tmp_path / "total").read_bytes())
    assert not isinstance(attempt.open((tmp_path / "total").read_bytes()), str)
    bad = adding(attempt, parts | {NAMES[1]: b"\xff" * len(parts[NAMES[1]])}, tmp_path)
    assert child.ask(bad) == {"rejected": NAMES[1], "code": "he-range"}
    changed = adding(attempt, parts, tmp_path)
    (tmp_path / NAMES[0]).write_bytes(parts[NAMES[1]])
    with pytest.raises(Tampered) as other:
        child.ask(changed)
    assert other.value.code == "upload-digest"


def test_a_child_that_dies_or_is_asked_nonsense_says_nothing_and_the_asker_goes_on(child: Child) -> None:
    with pytest.raises(Unavailable) as nonsense:
        child.ask({"verb": "nonsense"})
    child.ready()
    assert child._ready is not None
    os.kill(child._ready.pid, signal.SIGKILL)
    with pytest.raises(Unavailable) as died:
        child.ask({"verb": "add_up"})
    assert nonsense.value.code == died.value.code == "child-died"
    child.ready()
    first = child._ready
    child.ready()
    assert child._ready is first
    with pytest.raises(Unavailable):
        child.ask({"verb": "open"}, timeout=0.001)

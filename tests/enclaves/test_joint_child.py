"""The child process of a joint total: what is done to it ends there."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks._attempts import stage
from enclaves.kit import child as children
from enclaves.kit.child import PUBLIC, Child
from enclaves.kit.frames import read_frame
from enclaves.kit.jail import strongest
from enclaves.kit.measure import checkout_root
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


def adding(attempt: Round, parts: dict[str, bytes], folder: Path) -> tuple[dict[str, Any], dict[str, Path], Path]:
    """The question by which a host has contributions added, its files, and where the sum goes."""
    (folder / "public").write_bytes(attempt.pair.public)
    for name, data in parts.items():
        (folder / name).write_bytes(data)
    question = {
        "verb": "add_up",
        "grant": encode(attempt.grant),
        "agreement": agreement_document(attempt.agreement),
        "public": digest_bytes(attempt.pair.public),
        "contributions": {name: digest_bytes(data) for name, data in parts.items()},
    }
    return question, {PUBLIC: folder / "public", **{name: folder / name for name in parts}}, folder / "total"


def test_a_child_adds_and_names_whoever_sends_no_ciphertexts(child: Child, tmp_path: Path) -> None:
    attempt = Round(claims_pool(NAMES))
    parts = attempt.contributions()
    child.ready()
    assert child.ask(*adding(attempt, parts, tmp_path))["digest"] == digest_bytes((tmp_path / "total").read_bytes())
    if strongest() == "uid":
        assert child.layers == ("network", "processes", "filesystem", "uid", "capabilities", "syscalls")
    assert not isinstance(attempt.open((tmp_path / "total").read_bytes()), str)
    bad = adding(attempt, parts | {NAMES[1]: b"\xff" * len(parts[NAMES[1]])}, tmp_path)
    assert child.ask(*bad) == {"rejected": NAMES[1], "code": "he-range"}
    changed = adding(attempt, parts, tmp_path)
    (tmp_path / NAMES[0]).write_bytes(parts[NAMES[1]])
    with pytest.raises(Tampered) as other:
        child.ask(*changed)
    assert other.value.code == "upload-digest"


def test_a_child_that_dies_or_is_asked_nonsense_says_nothing_and_the_asker_goes_on(child: Child) -> None:
    with pytest.raises(Unavailable) as nonsense:
        child.ask({"verb": "nonsense"})
    child.ready()
    assert child._ready is not None
    os.killpg(child._ready.process.pid, signal.SIGKILL)
    with pytest.raises(Unavailable) as died:
        child.ask({"verb": "add_up"})
    assert nonsense.value.code == died.value.code == "child-died"
    child.ready()
    first = child._ready
    child.ready()
    assert child._ready is first
    with pytest.raises(Unavailable):
        child.ask({"verb": "open"}, timeout=0.001)


def hostile(folder: Path, monkeypatch: pytest.MonkeyPatch, **kind: Any) -> dict[str, bool]:
    """What hostile code in the place of a child reaches; all attempts, by name."""
    with stage(folder) as aimed:
        code = aimed.code(checkout_root(), memory_mib=1024, total=True)
        monkeypatch.setattr(children, "_START", code.replace("{", "{{").replace("}", "}}"))
        process = Child(**kind)._started()
        try:
            assert process.process.stdout is not None
            return {str(name): bool(value) for name, value in json.loads(read_frame(process.process.stdout)).items()}
        finally:
            process.end()


def test_hostile_code_in_a_child_reaches_nothing_but_memory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if strongest() != "uid":
        pytest.skip("install bubblewrap and util-linux, and run as root")
    found = hostile(tmp_path, monkeypatch)
    assert len(found) >= 40
    assert {name for name, succeeded in found.items() if succeeded} <= {"memory-file", "write-tmp"}


def test_without_bubblewrap_a_child_has_its_filter_and_says_that_this_is_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = Round(claims_pool(NAMES))
    monkeypatch.setattr(children, "strongest", lambda first: "none")
    bare = Child()
    assert bare.ask(*adding(attempt, attempt.contributions(), tmp_path))["digest"] == digest_bytes((tmp_path / "total").read_bytes())
    assert not set(bare.layers) & {"network", "processes", "filesystem", "uid"}
    assert "syscalls" in bare.layers
    assert "limits" not in bare.layers, "its files in memory may grow"

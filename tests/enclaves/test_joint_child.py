"""The child process of a joint total: what is done to it ends there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks._attempts import stage
from enclaves import joint, joint_sum
from enclaves.kit import child as children
from enclaves.kit.child import PUBLIC, TABLE, Child
from enclaves.kit.frames import read_frame
from enclaves.kit.he_masks import mask_keys
from enclaves.kit.jail import strongest
from enclaves.kit.measure import checkout_root
from enclaves.kit.sources import write_table
from policies.canonical import digest, digest_bytes
from policies.codec import encode
from policies.errors import Malformed, Tampered, Unavailable
from policies.joint_documents import JointRelease
from policies.odrl import agreement_document
from tests.enclaves.test_joint_totals import NAMES, TABLES, Round, straight
from tests.support.pool import claims_pool


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Child]:
    monkeypatch.setattr(children, "REST_S", 0.0)
    found = Child(getattr(request, "param", "add_up"))
    yield found
    found.close()


contributing_child = pytest.mark.parametrize("child", ["contribute"], indirect=True)


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


def contributing(attempt: Round, name: str, table: Path, public: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The question by which a contributor has its own table added up and encrypted, and its files."""
    public.write_bytes(attempt.pair.public)
    peers = {peer: attempt.keys[peer][1].public.hex() for peer in NAMES if peer != name}
    masks = mask_keys(attempt.keys[name][1], name, peers, digest(encode(attempt.manifest)))
    question = {
        "verb": "contribute",
        "grant": encode(attempt.grant),
        "manifest": encode(attempt.manifest),
        "agreement": agreement_document(attempt.agreement),
        "member": f"{name}.claims",
        "table": table.name,
        "sources": {},
        "masks": [{"key": mask.key.hex(), "adds": mask.adds} for mask in masks],
    }
    return question, {PUBLIC: public, TABLE: table}


@contributing_child
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow"])
def test_a_contribution_is_computed_between_the_same_walls(
    child: Child, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The contributor's own table is of an owner and a mode that the child's uid could not open."""
    for module in (joint, joint_sum):
        monkeypatch.setattr(module, "add_noise", lambda values, statistic: list(values))
    attempt, name, output = Round(claims_pool(NAMES)), NAMES[0], tmp_path / "output"
    table = tmp_path / f"claims{suffix}"
    columns = {column: TABLES[name].column(column).to_pylist() for column in TABLES[name].column_names}
    columns["amount"] = [Decimal(str(value)) for value in columns["amount"]]
    write_table(table, columns, attempt.declarations[f"{name}.claims"])
    table.chmod(0o600)
    child.ask(*contributing(attempt, name, table, tmp_path / "key"), output)
    assert child.layers == ("network", "processes", "filesystem", "uid", "capabilities", "syscalls") or strongest() != "uid"
    parts = {name: output.read_bytes(), **{other: attempt.contribution(other) for other in NAMES[1:]}}
    release = attempt.open(attempt.total(parts))
    assert isinstance(release, JointRelease)
    counts = {tuple(cell.keys): {f.name: f.value for f in cell.figures}["claims"] for cell in release.cells}
    assert counts == {cell: str(count) for cell, (count, _) in straight().items()}


@contributing_child
@pytest.mark.parametrize("content", [b"PAR1" + bytes(60) + b"PAR1", b"person,claim\n1,2,3\n", b"ARROW1" + b"\xff" * 90, b""])
def test_a_table_that_is_none_is_refused_by_its_name_alone(child: Child, tmp_path: Path, content: bytes) -> None:
    attempt, table = Round(claims_pool(NAMES)), tmp_path / "claims.dat"
    table.write_bytes(content)
    with pytest.raises(Malformed) as refused:
        child.ask(*contributing(attempt, NAMES[0], table, tmp_path / "key"), tmp_path / "output")
    assert refused.value.code == "unreadable"
    assert "claims.dat" in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


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
        child.ask({"verb": "add_up"}, timeout=0.001)


def test_a_child_answers_nothing_but_what_it_was_started_for(child: Child, tmp_path: Path) -> None:
    """A host's adder that was made to open a total would be asked with a key beside it; it has loaded nothing for that, and ends."""
    attempt, table = Round(claims_pool(NAMES)), tmp_path / "claims.csv"
    table.write_bytes(b"")
    with pytest.raises(Unavailable) as other:
        child.ask(*contributing(attempt, NAMES[0], table, tmp_path / "key"), tmp_path / "output")
    assert other.value.code == "child-died"


def test_what_adds_up_loads_no_engine_for_tables() -> None:
    """It is started while contributors are at work, often on the same cores."""
    code = (
        "import sys; from enclaves.joint_main import preload; preload('add_up'); "
        "print([m for m in ('duckdb', 'enclaves.aggregate', 'enclaves.learn') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=checkout_root(), check=True)
    assert found.stdout.strip() == "[]"


def test_the_next_process_is_not_made_ready_while_others_may_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child("add_up")
    with pytest.raises(Unavailable):
        child.ask({"verb": "nothing"})
    clock = [child._rests_until - 0.1]
    monkeypatch.setattr(children, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    child.ready()
    assert child._ready is None
    clock[0] += 0.2
    child.ready()
    assert child._ready is not None
    child.close()


def hostile(folder: Path, monkeypatch: pytest.MonkeyPatch, **kind: Any) -> dict[str, bool]:
    """What hostile code in the place of a child reaches; all attempts, by name."""
    with stage(folder) as aimed:
        code = aimed.code(checkout_root(), memory_mib=1024, total=True)
        monkeypatch.setattr(children, "_START", code.replace("{", "{{").replace("}", "}}"))
        process = Child("add_up", **kind)._started()
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
    bare = Child("add_up")
    assert bare.ask(*adding(attempt, attempt.contributions(), tmp_path))["digest"] == digest_bytes((tmp_path / "total").read_bytes())
    assert not set(bare.layers) & {"network", "processes", "filesystem", "uid"}
    assert "syscalls" in bare.layers
    assert "limits" not in bare.layers, "its files in memory may grow"

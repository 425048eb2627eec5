"""Several processes judge a log as one does: honest or forged, wherever its parts begin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import _history
from policies.canonical import canonical
from policies.entries import parse_header
from sandbox.audit import judging, tiles
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.digest_table import DigestTable
from sandbox.audit.export import READER_PATH, Export
from sandbox.audit.replay import replay
from sandbox.audit.verdict import Verdict

ENTRIES = 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of several bundles, with jobs under way at every boundary."""
    folder = tmp_path_factory.mktemp("history")
    _history.write(folder, ENTRIES)
    return folder


def reader(folder: Path) -> Callable[[str], bytes]:
    return lambda path: (folder / path).read_bytes()


def spoiling(read: Callable[[str], bytes], spoiled: dict[str, bytes]) -> Callable[[str], bytes]:
    return lambda path: spoiled[path] if path in spoiled else read(path)


def verdict_of(read: Callable[[str], bytes], processes: int) -> Verdict:
    return replay(read, LogKey.parse(read("log.vkey").decode().strip()), processes=processes)


def test_an_honest_log_replays_in_any_number_of_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "REJUDGED", 0)
    alone = verdict_of(reader(folder), 1)
    assert alone.ok, alone.mismatches
    assert alone.entries >= ENTRIES
    for part in (1, 2):
        monkeypatch.setattr(judging.Judging, "part", part)
        assert verdict_of(reader(folder), 3) == alone


@pytest.mark.parametrize("plant", ["hidden-charge", "unpaid-release"])
def test_a_planted_violation_is_named_alike(tmp_path: Path, plant: _history.Violation) -> None:
    _history.write(tmp_path, 300, plant=plant)
    alone = verdict_of(reader(tmp_path), 1)
    assert alone.mismatches
    assert not alone.ok
    assert verdict_of(reader(tmp_path), 2) == alone


def test_damaged_files_are_named_alike(folder: Path) -> None:
    read = reader(folder)
    damages: list[tuple[str, Callable[[bytes], bytes]]] = [
        ("openings/000001.jsonl", lambda data: data[:-2]),
        ("openings/000000.jsonl", lambda data: data.replace(b"worker-", b"wooker-")),
        ("tile/entries/001", lambda data: data.replace(b'"kind":"charged"', b'"kind":"granted"', 3)),
        ("tile/entries/001", lambda data: data[:-1]),
    ]
    for path, damage in damages:
        spoiled = spoiling(read, {path: damage(read(path))})
        alone = verdict_of(spoiled, 1)
        assert not alone.ok
        assert verdict_of(spoiled, 3) == alone, path


def test_withheld_bodies_are_counted_alike(folder: Path) -> None:
    def without(name: str) -> bytes:
        if name == READER_PATH:
            return canonical({"kind": "reader/1", "participant": "outsider", "at": 1})
        data = reader(folder)(name)
        if not name.startswith("openings/"):
            return data
        return b"".join(line + b"\n" for at, line in enumerate(data.splitlines()) if at % 7)

    alone = verdict_of(without, 1)
    assert alone.unopened > ENTRIES // 8
    assert {mismatch.kind for mismatch in alone.mismatches} == {"openings"}, "no provider gave the outsider anything"
    assert alone.reading is not None
    assert sum(closed.entries for closed in alone.reading.closed) == alone.unopened
    assert verdict_of(without, 3) == alone


def test_a_process_that_dies_is_an_error_and_no_verdict(folder: Path) -> None:
    import os

    parent, read = os.getpid(), reader(folder)

    def deadly(name: str) -> bytes:
        if os.getpid() != parent:
            os._exit(9)
        return read(name)

    with pytest.raises(RuntimeError, match="died"):
        verdict_of(deadly, 2)


def test_jobs_straddle_the_parts_of_these_tests(folder: Path) -> None:
    kinds: dict[str, list[int]] = {}
    for index, data, _ in Export(read=reader(folder)).entries(verdict_of(reader(folder), 2).size):
        kinds.setdefault(parse_header(data).ids.get("job", ""), []).append(index // tiles.TILE_WIDTH)
    assert sum(len(set(bundles)) > 1 for name, bundles in kinds.items() if name) >= 4


def test_a_digest_table_is_a_dictionary() -> None:
    table, known = DigestTable(), {}
    for number in range(5000):
        name = f"name {number % 3500}"
        table.put(name, number % 255 + 1)
        known[name] = number % 255 + 1
    assert len(table) == len(known) == 3500
    assert all(table.get(name) == number for name, number in known.items())
    assert [table.get(f"other {number}") for number in range(100)] == [0] * 100

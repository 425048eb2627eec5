"""What a home keeps of a log grows by lines: a crash at any byte of one loses that step and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.errors import Unavailable
from sandbox.party import followed_file, lines
from sandbox.party.home import Home
from tests.party.test_following import Log, charge, filler


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", "insurer", "First Insurance", "http://host.test")


@pytest.fixture
def log() -> Log:
    return Log(entries=[charge(f"job-{number}", number + 1) if number % 2 else filler(number) for number in range(30)])


def files(home: Home) -> dict[str, bytes]:
    return {path.suffix: path.read_bytes() for path in (home.folder / "logs").iterdir()}


def test_a_step_writes_what_is_new(home: Home, log: Log) -> None:
    log.follow(home, 10)
    before = files(home)
    log.follow(home, 11)
    log.follow(home, 11)
    after = files(home)
    assert after[".json"] == before[".json"]
    assert after[".lines"].count(b"\n") == 1
    assert len(after[".lines"]) < len(log.entries[10].data) + 600
    log.follow(home, 12)
    assert files(home)[".lines"].startswith(after[".lines"])


def test_whatever_the_steps_the_fold_is_the_same(home: Home, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed_file, "MOST_LINES", 2000)
    written = 0
    for size in range(1, 31):
        stepwise = log.follow(home, size)
        written += ".lines" not in files(home)
    assert 2 <= written < 15, "the fold is written anew when the lines have outgrown it"
    assert stepwise == log.follow(Home.create(tmp_path / "other", "clinic", "Clinic", "http://host.test"))
    assert stepwise.total("insurer", "people").amount == sum(number + 1 for number in range(30) if number % 2)


def test_a_line_cut_at_any_byte_is_a_step_that_was_not_made(home: Home, log: Log) -> None:
    log.follow(home, 10)
    log.follow(home, 11)
    log.follow(home, 13)
    whole = next((home.folder / "logs").glob("*.lines"))
    data = whole.read_bytes()
    first = data.index(b"\n") + 1
    for end in [*range(first, len(data), 37), len(data) - 1]:
        for tail in (b"", b"\0" * 8, b"\n"):
            whole.write_bytes(data[:end] + tail)
            assert log.follow(home, 13).total("insurer", "people").amount == sum((2, 4, 6, 8, 10, 12))
            assert whole.read_bytes() == data, (end, tail)


def test_lines_of_before_the_file_was_written_anew_count_no_more(home: Home, log: Log) -> None:
    """A crash between writing the file and removing the lines leaves both."""
    log.follow(home, 10)
    log.follow(home, 13)
    twin = Home.create(home.folder.parent / "twin", "insurer", "First Insurance", "http://host.test")
    log.follow(twin, 13)
    name = next((home.folder / "logs").glob("*.json")).name
    (home.folder / "logs" / name).write_bytes((twin.folder / "logs" / name).read_bytes())
    assert ".lines" in files(home)
    for size in (13, 20, 21):
        assert log.follow(home, size) == log.follow(twin, size)


def test_a_full_disk_is_typed_and_loses_nothing(home: Home, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.follow(home, 10)
    log.follow(home, 11)
    before = files(home)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lines.os, "fsync", full)
    with pytest.raises(Unavailable) as caught:
        log.follow(home, 13)
    assert caught.value.code == "home"
    monkeypatch.undo()
    assert files(home) == before
    assert log.follow(home, 13).frontier.size == 13

"""A home's files are there whole or as they were, and open to their owner only."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from enclaves.kit.measure import checkout_root
from policies.errors import Conflict, Malformed, NotFound, Unavailable
from sandbox.party.home import SECRET_FILES, Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "deep" / "home", "insurer", "First Insurance", "http://host.test")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_everything_below_a_home_is_its_owners_alone(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        home = Home.create(tmp_path / "home", "insurer", "First Insurance", "http://host.test")
        home.write_bytes("credential", b"secret")
        home.write("keys/insurer.plans/1.json", {"a": 1})
        home.write("broker/job-1.nonce.json", {"a": 1})
        home.note("released", job="job-1")
        home.note("refused", job="job-2")
    finally:
        os.umask(before)
    found = [home.folder, *home.folder.rglob("*")]
    assert {path.name for path in found} >= {*SECRET_FILES, "identity.json", "journal.jsonl", "insurer.plans"}
    assert {path.name: oct(mode(path)) for path in found if mode(path) != (0o700 if path.is_dir() else 0o600)} == {}


def test_a_folder_that_was_open_is_closed_when_it_becomes_a_home(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    assert mode(Home.create(folder, "insurer", "First Insurance", "http://host.test").folder) == 0o700


def test_keys_are_fresh_and_survive_reopening(home: Home, tmp_path: Path) -> None:
    again, other = Home.open(home.folder), Home.create(tmp_path / "other", "clinic", "Clinic", "http://host.test")
    assert (again.participant, again.url) == ("insurer", "http://host.test")
    assert again.signing.public == home.signing.public
    assert again.sealing.public == home.sealing.public
    assert again.wrapping == home.wrapping
    assert len(home.wrapping) == 32
    assert len({home.signing.public, home.sealing.public, other.signing.public, other.sealing.public}) == 4
    assert home.wrapping != other.wrapping


def test_a_home_is_never_made_over_another(home: Home) -> None:
    keys = {name: home.read_bytes(name) for name in ("signing.key", "sealing.key", "wrapping.key")}
    with pytest.raises(Conflict):
        Home.create(home.folder, "insurer", "First Insurance", "http://host.test")
    assert {name: home.read_bytes(name) for name in keys} == keys


def test_a_home_whose_making_was_cut_short_is_no_home_and_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def power_cut(self: Home, name: str, value: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Home, "write", power_cut)
        with pytest.raises(KeyboardInterrupt):
            Home.create(tmp_path / "home", "insurer", "First Insurance", "http://host.test")
    with pytest.raises(NotFound):
        Home.open(tmp_path / "home")
    assert Home.create(tmp_path / "home", "insurer", "First Insurance", "http://host.test").participant == "insurer"


@pytest.mark.parametrize("failing", ["os.replace", "os.fsync"])
def test_a_write_that_fails_leaves_the_old_contents_and_no_draft(home: Home, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write("agreements/a.json", {"old": True})
    before = sorted(home.folder.rglob("*"))

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(failing, fail)
        with pytest.raises(Unavailable, match="disk full"):
            home.write("agreements/a.json", {"new": True})
    assert home.read("agreements/a.json") == {"old": True}
    assert sorted(home.folder.rglob("*")) == before


@pytest.mark.parametrize("step", ["before replace", "after replace"])
def test_a_process_killed_while_writing_leaves_a_whole_file(home: Home, step: str) -> None:
    home.write("state.json", {"value": "old" * 1000})
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    lines = [kill, "real(*a)"] if step == "before replace" else ["real(*a)", kill]
    script = (
        f"import os, signal, sys; sys.path.insert(0, {str(checkout_root())!r})\n"
        "from pathlib import Path\nfrom sandbox.party.home import Home\nreal = os.replace\n"
        f"def replace(*a):\n    {lines[0]}\n    {lines[1]}\n"
        f"os.replace = replace\nHome.open(Path({str(home.folder)!r})).write('state.json', {{'value': 'new' * 1000}})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert home.read("state.json") == {"value": ("old" if step == "before replace" else "new") * 1000}
    home.write("state.json", {"value": "later"})
    assert home.read("state.json") == {"value": "later"}


def test_the_order_of_a_write_is_contents_then_name_then_folder(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that points to bytes not yet on disk would be an empty file after a power cut."""
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        steps.append("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
        real_fsync(handle)

    def replace(draft: str, path: Path) -> None:
        steps.append("replace")
        real_replace(draft, path)

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr("os.replace", replace)
    home.write("state.json", {"a": 1})
    assert steps == ["sync file", "replace", "sync folder"]


def test_missing_and_broken_files_are_told_apart(home: Home) -> None:
    with pytest.raises(NotFound):
        home.read("nothing.json")
    with pytest.raises(NotFound):
        _ = home.credential
    assert home.read_or("nothing.json", 7) == 7
    home.write_bytes("broken.json", b"{")
    with pytest.raises(Malformed):
        home.read_or("broken.json", 7)


def test_the_journal_keeps_one_line_per_event(home: Home) -> None:
    home.note("refused", job="job-1", message="two\nlines and ä")
    home.note("released", job="job-2")
    lines = (home.folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["refused", "released"]
    assert json.loads(lines[0])["message"] == "two\nlines and ä"


def test_no_secret_is_shown_by_a_home(home: Home) -> None:
    shown = repr(home) + repr(home.signing) + repr(home.sealing)
    for name in ("signing.key", "sealing.key", "wrapping.key"):
        assert home.read_bytes(name).hex() not in shown

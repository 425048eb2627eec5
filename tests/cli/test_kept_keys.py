"""What a provider decides of its keys at home, on the command line; no service is needed for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from policies.errors import NotFound, SandboxError, Unauthenticated
from sandbox.cli import cli
from sandbox.party.approvals import hold
from sandbox.party.home import PROTECTED, WRAPPING, Home
from sandbox.party.publish import column_keys, keep_keys

FILE = "sha256:" + "11" * 32
GRANT = "sha256:" + "22" * 32
JOB = "job-" + "0" * 20


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home.create(tmp_path / "home", "insurer", "The insurer", "http://host.test")
    keep_keys(made, "insurer.plans", 1, FILE, {"_footer": b"f" * 32, "age": b"a" * 32})
    return made


def party(home: Home, *arguments: str, env: dict[str, str] | None = None) -> Any:
    """A `sandbox party` command's JSON answer. Raises what it raises."""
    done = CliRunner().invoke(cli, ["party", *arguments, "--home", str(home.folder), "--json"], env=env)
    if done.exception is not None:
        raise done.exception
    return json.loads(done.stdout)


def test_keys_are_listed_withdrawn_and_restored(home: Home) -> None:
    assert party(home, "keys", "list")[0]["state"] == "kept"
    party(home, "keys", "withdraw", "insurer.plans", "--version", "1")
    assert party(home, "keys", "list", "--dataset", "insurer.plans")[0]["state"] == "withdrawn"
    party(home, "keys", "restore", "insurer.plans")
    assert party(home, "keys", "list")[0]["state"] == "kept"
    with pytest.raises(NotFound):
        party(home, "keys", "withdraw", "insurer.none")


def test_destruction_wants_a_yes(home: Home) -> None:
    with pytest.raises(SandboxError) as caught:
        party(home, "keys", "destroy", "insurer.plans", "--version", "1")
    assert caught.value.where == "--yes"
    assert column_keys(home, "insurer.plans", 1, FILE, ("age",))["age"] == b"a" * 32


def test_a_passphrase_comes_from_a_file_and_is_asked_for_nowhere_else(home: Home, tmp_path: Path) -> None:
    first, second, wrong = (tmp_path / name for name in ("first", "second", "wrong"))
    first.write_text("a long passphrase\nand a second line\n")
    second.write_text("a longer passphrase")
    wrong.write_text("another passphrase")
    party(home, "keys", "protect", "--passphrase-file", str(first))
    assert not (home.folder / WRAPPING).exists()
    assert (home.folder / PROTECTED).exists()
    for env in ({}, {"SANDBOX_PASSPHRASE_FILE": str(wrong)}, {"SANDBOX_PASSPHRASE_FILE": str(tmp_path / "absent")}):
        with pytest.raises(Unauthenticated) as caught:
            party(home, "keys", "rewrap", env=env)
        assert caught.value.code == "passphrase"
    known = {"SANDBOX_PASSPHRASE_FILE": str(first)}
    assert party(home, "keys", "rewrap", env=known) == {"files": 1}
    party(home, "keys", "protect", "--passphrase-file", str(second), env=known)
    party(home, "keys", "unprotect", env={"SANDBOX_PASSPHRASE_FILE": str(second)})
    assert column_keys(Home.open(home.folder), "insurer.plans", 1, FILE, ("age",))["age"] == b"a" * 32


def test_held_requests_are_listed_and_answered(home: Home) -> None:
    hold(home, JOB, GRANT, {"consumer": "institute", "purpose": "research", "sql": "SELECT 1", "loss": "epsilon 1", "columns": {}})
    assert [item["job"] for item in party(home, "requests")] == [JOB]
    shown = CliRunner().invoke(cli, ["party", "requests", "--home", str(home.folder)]).stdout
    assert "institute" in shown
    party(home, "approve", JOB)
    assert party(home, "requests") == []
    assert party(home, "requests", "--all")[0]["answer"] == "approved"
    with pytest.raises(SandboxError) as caught:
        party(home, "refuse", JOB)
    assert caught.value.code == "answered"


def test_standing_approvals_are_kept_listed_and_taken_back(home: Home) -> None:
    added = party(home, "approvals", "add", "--consumer", "institute", "--epsilon", "0.5", "--until", "2030-01-01T00:00:00Z")
    assert party(home, "approvals", "list") == [added]
    assert "until 2030-01-01T00:00:00Z" in CliRunner().invoke(cli, ["party", "approvals", "list", "--home", str(home.folder)]).stdout
    party(home, "approvals", "remove", added["id"])
    assert party(home, "approvals", "list") == []
    for wrong in (("--epsilon", "1", "--rho", "1"), ("--epsilon", "much"), ("--until", "soon"), ("--agreement", "x"), ("--dataset", "X")):
        with pytest.raises(SandboxError):
            party(home, "approvals", "add", *wrong)
    assert party(home, "approvals", "list") == []


def test_measurements_are_pinned_and_unpinned(home: Home) -> None:
    assert party(home, "pins") == []
    assert party(home, "pins", "--add", GRANT) == [GRANT] == party(home, "pins", "--add", GRANT)
    assert party(home, "pins", "--remove", GRANT) == []
    with pytest.raises(SandboxError):
        party(home, "pins", "--add", "sha256:short")

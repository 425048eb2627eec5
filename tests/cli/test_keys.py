"""Keys, recovery and epochs on the command line, against a real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.store.database import Store
from tests.cli.test_cli import FIX_IT, SUCCESS, Terminal
from tests.support.service import running


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A service with two participants."""
    folder = tmp_path_factory.mktemp("keys-cli")
    with running(folder / "service") as service:
        found = Terminal(service=service, folder=folder)
        for name in ("insurer", "clinic"):
            join(found, name)
        yield found


def join(terminal: Terminal, name: str) -> None:
    arguments = ("--home", terminal.home(name), "--name", name, "--title", name, "--url", terminal.service.url)
    terminal.run("party", "init", *arguments, "--code", terminal.service.code(name))


def test_keys_are_replaced_revoked_and_replaced_by_a_readmission(terminal: Terminal) -> None:
    first = terminal.json("party", "rotate-keys", "--home", terminal.home("insurer"))
    second = terminal.json("party", "rotate-keys", "--home", terminal.home("insurer"))
    assert (first["rotation"], second["rotation"]) == (1, 2)
    assert first["fingerprints"] != second["fingerprints"]
    assert "new keys" in terminal.run("party", "rotate-keys", "--home", terminal.home("insurer")).stdout
    terminal.fails(FIX_IT, "malformed", "party", "revoke-keys", "--home", terminal.home("insurer"))
    terminal.run("party", "revoke-keys", "--home", terminal.home("insurer"), "--yes")
    terminal.fails(FIX_IT, "revoked", "party", "inbox", "--home", terminal.home("insurer"))
    code = terminal.json("admin", "admit", "insurer")["code"]
    terminal.json("party", "rejoin", "--home", terminal.home("insurer"), "--code", code)
    assert "nothing waits" in terminal.run("party", "inbox", "--home", terminal.home("insurer")).stdout
    assert terminal.json("party", "rotate-keys", "--home", terminal.home("insurer"))["rotation"] == 1
    terminal.fails(FIX_IT, "malformed", "admin", "participant", "revoke", "clinic")
    assert terminal.json("admin", "participant", "revoke", "clinic", "--yes")["revoked"] is True
    terminal.fails(FIX_IT, "revoked", "party", "inbox", "--home", terminal.home("clinic"))
    terminal.fails(FIX_IT, "not-found", "admin", "participant", "revoke", "nobody", "--yes")


def test_the_operator_restores_recovers_rotates_the_log_key_and_begins_anew(terminal: Terminal, tmp_path: Path) -> None:
    terminal.run("admin", "backup", str(tmp_path / "backup"))
    join(terminal, "auditor")
    exported = str(tmp_path / "export")
    terminal.run("log", "export", "--home", terminal.home("auditor"), exported)
    size = len(terminal.service.headers())
    elsewhere = {"SANDBOX_DATA": str(tmp_path / "data"), "SANDBOX_DATABASE": ""}
    key = str(terminal.service.config.data / "log.key")
    kept = str(Path(exported) / "checkpoint")
    terminal.run(
        "admin", "restore", str(tmp_path / "backup"), "--log-key", key, "--newest-checkpoint", kept, "--accept-rewind", **elsewhere
    )
    done = json.loads(terminal.run("admin", "recover", "--from", exported, "--json", **elsewhere).stdout)
    assert done["entries"] == 1
    assert done["unopened"] == 0
    store = Store(f"sqlite:///{tmp_path / 'data' / 'sandbox.sqlite3'}")
    with store.reading() as tx:
        assert tx.log_size() == size
        found = tx.participant("auditor")
    assert found is not None
    rotated = json.loads(terminal.run("admin", "rotate-log-key", "--json", **elsewhere).stdout)
    assert rotated["vkey"] != terminal.service.host.log_identity.vkey
    assert len(list((tmp_path / "data").glob("log.key*"))) == 2
    terminal.run("admin", "epoch", "open", exits=FIX_IT, **elsewhere)
    total = ("--total", "insurer/people=1.25")
    opened = json.loads(terminal.run("admin", "epoch", "open", "--new-key", *total, "--yes", "--json", **elsewhere).stdout)
    assert opened["origin"] == f"{terminal.service.config.origin}/epoch-2"
    assert opened["waits_for"] == []
    with store.reading() as tx:
        assert tx.spent()["insurer", "people"].amount == 1_250_000_000
        assert [link.kind for link in tx.log_links()] == ["signed-log-rotation/1", "signed-epoch/1"]
    store.close()
    terminal.run("admin", "backup", str(tmp_path / "again"), exits=SUCCESS, **elsewhere)

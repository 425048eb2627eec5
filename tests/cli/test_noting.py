"""`sandbox admin note-log` on a service of its own: what it prints, what it refuses, and that a refusal enters nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app import compose
from enclaves.kit.signatures import SigningKey
from policies.errors import Conflict, Malformed, SandboxError, Tampered, outcome
from sandbox.audit.checkpoint import LogKey
from sandbox.cli import cli
from sandbox.config import Config
from tests.support.forge import fresh, sealed

OTHER, STRANGER = SigningKey.generate(), SigningKey.generate()
KEY = LogKey(name="other.example/log", public=OTHER.public)
ENTRIES = [fresh("running", at, {"job": f"job-{at}", "agreement": "a"}, {}) for at in range(9)]


def exported(folder: Path, size: int, key: SigningKey = OTHER) -> str:
    """An export of another log of so many entries, as files."""
    for path, data in sealed(ENTRIES[:size], key, KEY.name).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return str(folder)


def test_another_log_is_noted_by_command_and_what_does_not_follow_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("SANDBOX_DATABASE", raising=False)

    def note(folder: str, vkey: str = KEY.vkey, *words: str) -> Result:
        return CliRunner().invoke(cli, ["admin", "note-log", "--vkey", vkey, folder, *words])

    def refused(done: Result, kind: type[SandboxError], code: str) -> None:
        assert isinstance(done.exception, kind), (done.output, done.exception)
        assert (done.exception.code, outcome(done.exception)[1] != 0) == (code, True)

    three, seven = exported(tmp_path / "three", 3), exported(tmp_path / "seven", 7)
    assert note(three).output == "noted as entry 0\n"
    assert note(three).output == "that checkpoint is noted already\n"
    assert json.loads(note(three, KEY.vkey, "--json").output) == {"index": None}
    assert json.loads(note(seven, KEY.vkey, "--json").output) == {"index": 1}
    refused(note(three), Tampered, "rolled-back")
    refused(note(exported(tmp_path / "forged", 9, STRANGER)), Tampered, "checkpoint-signature")
    refused(note(seven, "no verifier key"), Malformed, "log-key")
    host = compose(Config(data=tmp_path / "data"))
    refused(note(seven, host.log_identity.vkey), Conflict, "own-log")
    (tmp_path / "seven" / "checkpoint").unlink()
    refused(note(seven), Tampered, "log-file-missing")
    with host.store.reading() as tx:
        assert tx.log_size() == 2
    host.store.close()

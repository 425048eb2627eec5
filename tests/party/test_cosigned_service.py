"""Witnesses cosign a service's checkpoints: it keeps, serves and exports what they give, and refuses by name what is false or foreign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from app import compose
from enclaves.kit.signatures import SigningKey
from policies.errors import Conflict, Forbidden, Malformed, NotFound, Tampered
from sandbox.audit.checkpoint import Checkpoint, open_checkpoint, sign
from sandbox.audit.cosignature import WitnessKey, cosign
from sandbox.audit.witness import Submission
from sandbox.audit.witness_policy import parse_policy
from sandbox.cli import cli
from sandbox.exchange.cosigning import add_cosignatures, set_witnesses
from sandbox.party.exporting import export_log
from sandbox.party.witness import Witness
from sandbox.party.witnessing import submit
from tests.party.test_witness_server import policy_of, served
from tests.support.runs import Town

NAMES = ("wa", "wb", "wc")


@pytest.fixture
def witnesses(tmp_path: Path, town: Town) -> list[Witness]:
    return [Witness.create(tmp_path / name, f"{name}.example", [town.host.log_identity]) for name in NAMES]


def text_of(note: str) -> str:
    return note.partition("\n\n")[0] + "\n"


def grow(town: Town) -> None:
    with town.host.store.transaction() as tx:
        tx.append("log_noted", at=1, ids={"origin": "x", "key": "x", "note": "x", "proof": ""}, body={})
    town.host.publish()


def cosigned(town: Town) -> str:
    return town.clients["auditor"].log_text("checkpoint/cosigned")


def test_two_of_three_are_served_exported_and_replayed(town: Town, witnesses: list[Witness], tmp_path: Path) -> None:
    auditor, insurer = town.clients["auditor"], town.clients["insurer"]
    with pytest.raises(Conflict) as caught:
        submit(witnesses[0], insurer)
    assert caught.value.code == "no-witnesses"
    text = policy_of(witnesses, [""] * 3)
    policy = set_witnesses(town.host, text)
    first = submit(witnesses[0], insurer)
    assert (first["witnesses"], first["quorum"]) == (["wa"], False)
    assert set(policy.cosigned(auditor.checkpoint())) == {"wa"}
    with pytest.raises(NotFound):
        cosigned(town)
    second = submit(witnesses[1], town.clients["clinic"])
    assert (second["witnesses"], second["quorum"]) == (["wa", "wb"], True)
    assert submit(witnesses[1], town.clients["clinic"])["note"] == second["note"], "the first cosignature of a checkpoint is kept"
    assert cosigned(town) == auditor.checkpoint() == second["note"]

    folder, file = tmp_path / "out", tmp_path / "trusted.policy"
    file.write_text(text)
    assert town.composed is not None
    export_log(auditor, folder, town.composed.log)
    done = CliRunner().invoke(cli, ["audit", "replay", str(folder), "--witnesses", str(file), "--processes", "1", "--json"])
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.output)["witnesses"]) == {"wa", "wb"}


def test_a_log_that_grows_keeps_the_older_cosigned_checkpoint_and_witnesses_go_on_with_a_proof(
    town: Town, witnesses: list[Witness]
) -> None:
    set_witnesses(town.host, policy_of(witnesses, [""] * 3))
    for witness in witnesses[:2]:
        submit(witness, town.clients["insurer"])
    before = cosigned(town)
    grow(town)
    newest = town.clients["auditor"].checkpoint()
    assert text_of(newest) != text_of(before)
    assert newest.count("\u2014") == 1, "nobody has cosigned it yet"
    assert cosigned(town) == before
    for witness in witnesses[:2]:
        submit(witness, town.clients["insurer"])
    assert text_of(cosigned(town)) == text_of(newest)
    set_witnesses(town.host, policy_of(witnesses[2:], [""], quorum="quorum wc\n"))
    with pytest.raises(NotFound):
        cosigned(town)


def test_what_is_false_or_foreign_is_refused_by_name_and_nothing_is_kept(town: Town, witnesses: list[Witness]) -> None:
    set_witnesses(town.host, policy_of(witnesses, [""] * 3))
    note = town.host.publish()
    text, key = text_of(note), SigningKey.generate()
    good = witnesses[0].add_checkpoint(Submission(old=0, proof=(), note=note).render()).body
    wrong = _resigned(text, witnesses[1])
    foreign = cosign(text, "mallory.example", key, 9)
    impostor = cosign(text, "wb.example", key, 9)
    other = sign(Checkpoint(origin="other/log", size=1, root=bytes(32)), key)
    size = open_checkpoint(note, town.host.log_identity).size
    forked = sign(Checkpoint(origin=town.host.config.origin, size=size, root=bytes(range(32))), key)
    ahead = sign(Checkpoint(origin=town.host.config.origin, size=size + 9, root=bytes(range(32))), key)
    cases: list[tuple[str, type[Exception], str, str]] = [
        (note + good + wrong, Forbidden, "bad-cosignature", "wb.example"),
        (note + good + foreign, Forbidden, "unknown-witness", "mallory.example"),
        (note + good + impostor, Forbidden, "unknown-witness", "wb.example"),
        (note, Malformed, "note", "no cosignature"),
        ("no note", Malformed, "note", "note"),
        (other, NotFound, "not-found", "another log"),
        (forked + good, NotFound, "not-found", "no such checkpoint"),
        (ahead + good, NotFound, "not-found", "no such checkpoint"),
    ]
    for sent, kind, code, named in cases:
        with pytest.raises(kind) as caught:
            town.clients["insurer"].add_cosignatures(sent)
        error: Any = caught.value
        assert (error.code, named in error.message) == (code, True), (sent, error)
    assert town.clients["auditor"].checkpoint() == note
    assert add_cosignatures(town.host, note + good).witnesses == ("wa",)


def _resigned(text: str, witness: Witness) -> str:
    """A line in the name and with the id of a witness, over another text."""
    key = SigningKey.from_bytes((witness.folder / "witness.key").read_bytes())
    return cosign(text.replace("\n", "x\n", 1), witness.key.name, key, 9)


def test_a_witness_that_was_shown_another_history_gives_nothing(town: Town, witnesses: list[Witness]) -> None:
    set_witnesses(town.host, policy_of(witnesses, [""] * 3))
    shown = sign(Checkpoint(origin=town.host.config.origin, size=2, root=bytes(range(32))), town.host.log_key)
    assert witnesses[0].add_checkpoint(Submission(old=0, proof=(), note=shown).render()).status == 200
    with pytest.raises(Tampered) as caught:
        submit(witnesses[0], town.clients["insurer"])
    assert caught.value.code == "split-view"
    assert len(witnesses[0].conflicts()) == 1
    stranger = Witness.create(witnesses[0].folder.parent / "stranger", "stranger.example", [town.host.log_identity])
    with pytest.raises(Forbidden, match=r"stranger\.example"):
        submit(stranger, town.clients["insurer"])
    unaware = Witness.create(witnesses[0].folder.parent / "unaware", "wa.example", [])
    with pytest.raises(NotFound):
        submit(unaware, town.clients["insurer"])


def test_the_operator_asks_the_witnesses_itself(
    town: Town, witnesses: list[Witness], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.cli.cosigning.composed", lambda: compose(town.host.config))
    file = tmp_path / "witnesses.policy"

    def run(*words: str, code: int = 0) -> Any:
        done = CliRunner().invoke(cli, ["admin", *words, "--json"])
        assert done.exit_code == code, (done.output, done.exception)
        return json.loads(done.output)

    missing = CliRunner().invoke(cli, ["admin", "cosign"])
    assert isinstance(missing.exception, Conflict)
    with served(witnesses[0]) as one:
        file.write_text(policy_of(witnesses, [one, "http://127.0.0.1:9", ""]))
        assert run("witnesses", str(file))["quorum"] == "2 of wa, wb, wc"
        alone = run("cosign", code=4)
        assert (alone["witnesses"], alone["quorum"], list(alone["refused"])) == (["wa"], False, ["wb"])
        with served(witnesses[1]) as two:
            file.write_text(policy_of(witnesses, [one, two, ""]))
            run("witnesses", str(file))
            both = run("cosign")
    assert both["witnesses"] == ["wa", "wb"]
    assert set(parse_policy(file.read_text()).require(cosigned(town))) == {"wa", "wb"}
    assert WitnessKey.parse(run("witnesses")["witnesses"][2]["vkey"]) == witnesses[2].key

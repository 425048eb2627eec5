"""The auditor's commands on a made history: fixed names, exit codes, the page to print, witnesses and candidates."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks import _history
from policies.canonical import canonical, parse_json
from policies.errors import Malformed
from sandbox.audit.checkpoint import LogKey, open_checkpoint
from sandbox.audit.cosignature import add_lines
from sandbox.audit.export import Export
from sandbox.audit.merkle import inclusion_proof
from sandbox.audit.witness import Submission
from sandbox.cli import cli
from sandbox.party.witness import Witness
from tests.support.vectors import PUBLISHED, needs

VECTORS = PUBLISHED / "tlog/proofs"


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    _history.write(folder, 260)
    return folder


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    _history.write(folder, 240, plant="unpaid-release")
    return folder


def test_an_honest_log_replays_on_all_cores_and_answers_with_the_fixed_names(folder: Path) -> None:
    done = run("audit", "replay", folder, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0
    assert found["ok"]
    assert found["mismatches"] == []
    assert found["entries"] >= 260
    assert set(found["promises"].values()) == {"ok"}


def test_a_planted_violation_is_named_by_entry_and_the_page_says_so(planted: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = run("audit", "replay", planted, "--json", "--html", page)
    found = json.loads(done.stdout)
    assert done.exit_code == 5
    first = found["mismatches"][0]
    assert {"index", "kind", "what"} <= first.keys()
    assert (first["kind"], first["promise"]) == ("granted", "order")
    text = page.read_text()
    assert f"<td>{first['index']}</td><td>granted</td>" in text
    assert "The log does not replay" in text
    assert not re.search(r"<script|https?://|src=|@import", text), "nothing is loaded from elsewhere"
    assert Balanced.of(text) == []
    shown = run("audit", "replay", planted)
    assert "THE LOG DOES NOT REPLAY" in shown.stdout


class Balanced(HTMLParser):
    """Tags that are open at the end."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    @classmethod
    def of(cls, text: str) -> list[str]:
        parser = cls()
        parser.feed(text)
        return parser.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_candidate_lists_every_decision_that_would_differ(folder: Path, tmp_path: Path) -> None:
    document = next(
        opening.body["signed"]["body"]
        for _, data, opening in Export(read=lambda path: (folder / path).read_bytes()).entries(256)
        if b'"kind":"proposed"' in data and opening is not None
    )
    candidate = tmp_path / "candidate.json"
    candidate.write_bytes(canonical(document))
    same = json.loads(run("audit", "replay", folder, "--json", "--policy", candidate).stdout)
    assert (same["ok"], same["differences"]) == (True, [])
    for constraint in (c for permission in document["permission"] for c in permission["constraint"]):
        if constraint["leftOperand"] == "sb:jobLoss":
            constraint["rightOperand"]["sb:epsilon"] = "0.0001"
    candidate.write_bytes(canonical(document))
    found = json.loads(run("audit", "replay", folder, "--json", "--policy", candidate).stdout)
    assert found["ok"], "a candidate judges nobody's honesty"
    assert found["differences"]
    for difference in found["differences"]:
        assert (difference["logged"], difference["candidate"]) == (True, False)
        assert any("job_loss" in why for why in difference["why"])
    with pytest.raises(Malformed):
        run("audit", "replay", folder, "--policy", VECTORS / "inclusion.json")


def test_witnesses_must_have_cosigned_and_two_exports_are_compared(folder: Path, tmp_path: Path) -> None:
    key = LogKey.parse((folder / "log.vkey").read_text().strip())
    made = run("witness", "init", tmp_path / "w", "--name", "witness.example", "--log", key.vkey)
    line = made.stdout.strip()
    assert line.startswith("witness witness.example ")
    policy = tmp_path / "trusted.policy"
    policy.write_text(f"{line}\nquorum witness.example\n")
    assert run("audit", "replay", folder, "--witnesses", policy, "--json").exit_code == 5
    note = (folder / "checkpoint").read_text()
    answer = Witness(folder=tmp_path / "w").add_checkpoint(Submission(old=0, proof=(), note=note).render())
    (folder / "checkpoint").write_text(add_lines(note, answer.body))
    try:
        done = run("audit", "replay", folder, "--witnesses", policy, "--json")
        assert list(json.loads(done.stdout)["witnesses"]) == ["witness.example"]
        assert done.exit_code == 0
        shown = json.loads(run("witness", "show", tmp_path / "w", "--json").stdout)
        assert shown["newest"][key.name]["size"] == open_checkpoint(note, key).size
        fork = tmp_path / "fork"
        _history.write(fork, 200, plant="hidden-charge")
        same, other = run("audit", "compare", folder, folder, "--json"), run("audit", "compare", folder, fork, "--json")
        assert (same.exit_code, other.exit_code) == (0, 5)
        assert json.loads(other.stdout)["mismatches"][0]["kind"] == "split-view"
        cut = run("audit", "replay", folder, "--since", fork / "checkpoint", "--json")
        assert [m["kind"] for m in json.loads(cut.stdout)["mismatches"]] == ["split-view"]
    finally:
        (folder / "checkpoint").write_text(note)


@needs("tlog/proofs")
@pytest.mark.parametrize("name", ["inclusion", "consistency"])
def test_published_vectors_pass_and_spoiled_ones_are_failures(name: str, tmp_path: Path) -> None:
    path = VECTORS / f"{name}.json"
    found = json.loads(run("log", "verify-vectors", path, "--json").stdout)
    cases = json.loads(path.read_text())
    assert found == {"cases": len(cases), "ok": len(cases), "failures": []}
    spoiled = tmp_path / "spoiled.json"
    spoiled.write_text(json.dumps([case | {"wantErr": not case["wantErr"]} for case in cases]))
    done = run("log", "verify-vectors", spoiled, "--json")
    assert done.exit_code == 5
    found = json.loads(done.stdout)
    degenerate = sum(
        not all(case[n] for n in ("size1", "size2", "root1", "root2", "treeSize", "root", "leafHash") if n in case) for case in cases
    )
    assert found["cases"] - found["ok"] == len(found["failures"]) == len(cases) - degenerate


def test_empty_trees_and_hashes_are_errors_whatever_a_vector_says(tmp_path: Path) -> None:
    empty = {"size1": 0, "size2": 3, "root1": "", "root2": "AA==", "proof": [], "wantErr": False, "name": "empty"}
    (tmp_path / "v.json").write_text(json.dumps([empty]))
    assert json.loads(run("log", "verify-vectors", tmp_path / "v.json", "--json").stdout)["ok"] == 1
    for broken in ("{}", "[]", "[1]", '[{"size1": 1}]', "no"):
        (tmp_path / "v.json").write_text(broken)
        assert CliRunner().invoke(cli, ["log", "verify-vectors", str(tmp_path / "v.json")]).exit_code != 0


def test_a_proof_file_is_verified_by_command(folder: Path, tmp_path: Path) -> None:
    from sandbox.audit.merkle import completed_nodes, leaf_hash
    from sandbox.audit.tlog_proof import TlogProof

    note, nodes = (folder / "checkpoint").read_text(), {}
    key = LogKey.parse((folder / "log.vkey").read_text().strip())
    size = open_checkpoint(note, key).size
    entries = [data for _, data, _ in Export(read=lambda path: (folder / path).read_bytes()).entries(size)]
    for at, entry in enumerate(entries):
        for level, position, value in completed_nodes(at, leaf_hash(entry), lambda *place: nodes[place]):
            nodes[level, position] = value
    proof = TlogProof(index=100, proof=inclusion_proof(100, size, lambda *place: nodes[place]), note=note)
    (tmp_path / "x.tlog-proof").write_text(proof.render())
    (tmp_path / "x.entry").write_bytes(entries[100])
    command = ("receipt", "verify-proof", tmp_path / "x.tlog-proof", "--entry", tmp_path / "x.entry", "--vkey", key.vkey, "--json")
    assert parse_json(run(*command).stdout.encode())["entry"] == 100
    (tmp_path / "x.entry").write_bytes(entries[101])
    assert CliRunner().invoke(cli, [str(part) for part in command]).exit_code != 0

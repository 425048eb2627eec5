"""Go's original implementation of signed notes and tiled logs accepts this project's checkpoints and proofs, and no tampered one."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from enclaves.kit.signatures import SigningKey
from sandbox.audit.checkpoint import Checkpoint, LogKey, sign
from sandbox.audit.cosignature import add_lines, cosign
from sandbox.audit.merkle import completed_nodes, consistency_proof, inclusion_proof, leaf_hash, root_from_nodes

SOURCE = Path(__file__).resolve().parents[1] / "support" / "verify.go"
LIBRARY = Path("/usr/share/gocode/src/golang.org/x/mod/sumdb/tlog")
ORIGIN = "log.example/sandbox"
KEY = SigningKey.from_bytes(bytes(range(32)))

pytestmark = pytest.mark.skipif(
    shutil.which("go") is None or not LIBRARY.is_dir(), reason="install golang-go and golang-golang-x-mod-dev (Debian)"
)


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Case]], list[str]]:
    """The Go program, built once."""
    folder = tmp_path_factory.mktemp("go")
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(folder / "cache"), "GOFLAGS": ""}
    command = ["go", "build", "-o", str(folder / "verify"), str(SOURCE)]
    subprocess.run(command, env=environment, check=True, timeout=300, capture_output=True)

    def judge(cases: list[Case]) -> list[str]:
        lines = "".join(json.dumps(case.document()) + "\n" for case in cases)
        done = subprocess.run([str(folder / "verify")], input=lines, capture_output=True, text=True, check=True, timeout=300)
        return done.stdout.splitlines()

    return judge


@dataclass(frozen=True, kw_only=True)
class Case:
    """A checkpoint, an entry with its inclusion proof, and a smaller tree with its consistency proof."""

    note: str
    entry: bytes
    index: int
    proof: tuple[bytes, ...]
    old_size: int
    old_root: bytes
    consistency: tuple[bytes, ...]
    key: LogKey = field(default=LogKey(name=ORIGIN, public=KEY.public))

    def document(self) -> dict[str, object]:
        """As the program reads it."""
        return {
            "Vkey": self.key.vkey,
            "Note": self.note,
            "Entry": _text(self.entry),
            "Index": self.index,
            "Proof": [_text(item) for item in self.proof],
            "OldSize": self.old_size,
            "OldRoot": _text(self.old_root),
            "Consistency": [_text(item) for item in self.consistency],
        }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def cases(size: int) -> list[Case]:
    """One honest case per leaf of a tree; the note carries a cosignature too."""
    entries = [b'{"entry":%d}' % at for at in range(size)]
    nodes: dict[tuple[int, int], bytes] = {}
    for at, entry in enumerate(entries):
        for level, position, value in completed_nodes(at, leaf_hash(entry), lambda *place: nodes[place]):
            nodes[level, position] = value

    def node(level: int, index: int) -> bytes:
        return nodes[level, index]

    root = root_from_nodes(size, node)
    note = sign(Checkpoint(origin=ORIGIN, size=size, root=root), KEY)
    note = add_lines(note, cosign(note.partition("\n\n")[0] + "\n", "witness.example", SigningKey.generate(), 1_780_000_000))
    return [
        Case(
            note=note,
            entry=entries[at],
            index=at,
            proof=inclusion_proof(at, size, node),
            old_size=at + 1,
            old_root=root_from_nodes(at + 1, node),
            consistency=consistency_proof(at + 1, size, node),
        )
        for at in range(size)
    ]


def test_honest_checkpoints_and_proofs_are_accepted(verifier: Callable[[list[Case]], list[str]]) -> None:
    honest = [case for size in (1, 2, 7, 8, 255, 256, 300) for case in cases(size)]
    assert set(verifier(honest)) == {"ok"}


def test_tampered_ones_are_rejected(verifier: Callable[[list[Case]], list[str]]) -> None:
    honest = cases(300)
    good = honest[77]
    forged = sign(Checkpoint(origin=ORIGIN, size=300, root=bytes(32)), KEY)
    tampered = {
        "another entry": replace(good, entry=good.entry + b" "),
        "another place": replace(good, index=78),
        "a flipped proof": replace(good, proof=(bytes(32), *good.proof[1:])),
        "a shorter proof": replace(good, proof=good.proof[:-1]),
        "a longer proof": replace(good, proof=(*good.proof, bytes(32))),
        "another old root": replace(good, old_root=honest[78].old_root),
        "a flipped consistency proof": replace(good, consistency=(bytes(32), *good.consistency[1:])),
        "a larger size": replace(good, note=good.note.replace("\n300\n", "\n301\n", 1)),
        "another root": replace(good, note=forged),
        "another key": replace(good, key=LogKey(name=ORIGIN, public=SigningKey.generate().public)),
        "another origin": replace(good, key=LogKey(name="log.example/other", public=KEY.public)),
    }
    answers = dict(zip(tampered, verifier(list(tampered.values())), strict=True))
    assert all(answer != "ok" and not answer.startswith("unreadable") for answer in answers.values()), answers

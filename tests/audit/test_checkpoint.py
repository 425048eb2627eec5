"""Signed notes and checkpoints against published examples, a published log, and forgeries."""

from __future__ import annotations

import base64
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclaves.kit.signatures import SigningKey
from policies.errors import Malformed, Tampered
from sandbox.audit.checkpoint import Checkpoint, LogKey, open_checkpoint, open_note, sign
from sandbox.audit.export import Export
from sandbox.audit.merkle import (
    EMPTY_ROOT,
    completed_nodes,
    consistency_proof,
    leaf_hash,
    root_from_nodes,
    verify_consistency,
)
from sandbox.audit.tiles import tile_hashes, tile_path
from tests.support.vectors import PUBLISHED, needs

LOG = PUBLISHED / "tlog/tessera"
LOG_VKEY = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
LOG_SIZE = 15

# The worked example of C2SP signed-note, and the one of golang.org/x/mod/sumdb/note.
PUBLISHED_NOTES = {
    "c2sp": (
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "This is an example message.\n",
        "\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n",
    ),
    "sumdb": (
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n",
        "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n",
    ),
}

KEY = SigningKey.from_bytes(bytes(range(32)))
OTHER = SigningKey.from_bytes(bytes(range(1, 33)))
ORIGIN = "log.example/sandbox"
LOG_KEY = LogKey(name=ORIGIN, public=KEY.public)
ROOT = leaf_hash(b"root")
CHECKPOINT = Checkpoint(origin=ORIGIN, size=42, root=ROOT)


def _line(text: str, key: SigningKey, name: str) -> str:
    key_id = LogKey(name=name, public=key.public).key_id
    return f"\u2014 {name} {base64.b64encode(key_id + key.sign_raw(text.encode())).decode()}\n"


def _note(text: str, key: SigningKey = KEY, name: str = ORIGIN) -> str:
    return f"{text}\n{_line(text, key, name)}"


def _published_checkpoints() -> dict[int, Checkpoint]:
    key = LogKey.parse(LOG_VKEY)
    return {size: open_checkpoint((LOG / f"checkpoint.{size}").read_text(), key) for size in range(LOG_SIZE + 1)}


def _published_nodes() -> dict[tuple[int, int], bytes]:
    nodes: dict[tuple[int, int], bytes] = {}
    entries = (entry for bundle in Export(read=lambda path: (LOG / path).read_bytes()).bundles(LOG_SIZE) for entry in bundle.entries)
    for index, entry in enumerate(entries):
        for level, position, value in completed_nodes(index, leaf_hash(entry), lambda *at: nodes[at]):
            nodes[level, position] = value
    return nodes


@needs("tlog/tessera")
def test_every_checkpoint_of_a_published_log_follows_from_its_entries() -> None:
    checkpoints, nodes = _published_checkpoints(), _published_nodes()
    assert len(checkpoints) == 16
    for size, checkpoint in checkpoints.items():
        assert checkpoint.size == size
        assert checkpoint.root == root_from_nodes(size, lambda *at: nodes[at])
        entries = [entry for bundle in Export(read=lambda path: (LOG / path).read_bytes()).bundles(size) for entry in bundle.entries]
        assert [leaf_hash(entry) for entry in entries] == [nodes[0, i] for i in range(size)]


@needs("tlog/tessera")
def test_all_pairs_of_published_checkpoints_are_consistent() -> None:
    checkpoints, nodes = _published_checkpoints(), _published_nodes()
    pairs = list(itertools.combinations_with_replacement(range(1, LOG_SIZE + 1), 2))
    assert len(pairs) == 120
    for old, new in pairs:
        proof = consistency_proof(old, new, lambda *at: nodes[at])
        verify_consistency(old, checkpoints[old].root, new, checkpoints[new].root, proof)
        if old < new:
            with pytest.raises(Tampered):
                verify_consistency(old, checkpoints[new].root, new, checkpoints[old].root, proof)
    with pytest.raises(Tampered):
        verify_consistency(0, checkpoints[0].root, LOG_SIZE, checkpoints[LOG_SIZE].root, [])


@needs("tlog/tessera")
def test_published_level_0_tiles_are_reproduced() -> None:
    nodes = _published_nodes()
    for width in range(1, LOG_SIZE + 1):
        expected = (LOG / tile_path(0, 0, width)).read_bytes()
        assert tile_hashes(0, 0, width, lambda *at: nodes[at]) == expected


@needs("tlog/tessera")
def test_a_published_checkpoint_with_another_size_is_rejected() -> None:
    note = (LOG / "checkpoint").read_text()
    assert "\n15\n" in note
    with pytest.raises(Tampered):
        open_checkpoint(note.replace("\n15\n", "\n14\n"), LogKey.parse(LOG_VKEY))


@pytest.mark.parametrize("example", PUBLISHED_NOTES)
def test_published_note_examples_open_and_no_changed_text_does(example: str) -> None:
    vkey, text, line = PUBLISHED_NOTES[example]
    key = LogKey.parse(vkey)
    assert key.vkey == vkey
    assert open_note(f"{text}\n{line}", key) == text
    with pytest.raises(Tampered):
        open_note(f"{text.replace('is', 'was')}\n{line}", key)


@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_signed_checkpoints_open_to_what_was_signed(size: int, root: bytes) -> None:
    checkpoint = Checkpoint(origin=ORIGIN, size=size, root=root if size else EMPTY_ROOT)
    note = sign(checkpoint, KEY)
    assert open_checkpoint(note, LOG_KEY) == checkpoint
    assert open_note(note, LOG_KEY) == checkpoint.text()


@given(st.data())
def test_no_changed_character_of_a_note_goes_unnoticed(data: st.DataObject) -> None:
    note = sign(CHECKPOINT, KEY)
    at = data.draw(st.integers(0, len(note) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != note[at]))
    with pytest.raises((Tampered, Malformed)):
        open_checkpoint(note[:at] + other + note[at + 1 :], LOG_KEY)


@given(st.data())
def test_no_cut_note_goes_unnoticed(data: st.DataObject) -> None:
    note = sign(CHECKPOINT, KEY)
    with pytest.raises((Tampered, Malformed)):
        open_checkpoint(note[: data.draw(st.integers(0, len(note) - 1))], LOG_KEY)


@given(st.text(max_size=200))
def test_any_other_text_is_refused_with_a_typed_error(note: str) -> None:
    with pytest.raises((Tampered, Malformed)):
        open_checkpoint(note, LOG_KEY)


def test_a_checkpoint_signed_by_another_key_is_rejected() -> None:
    with pytest.raises(Tampered) as caught:
        open_checkpoint(sign(CHECKPOINT, OTHER), LOG_KEY)
    assert caught.value.code == "checkpoint-signature"


def test_a_checkpoint_of_another_log_under_the_same_key_is_rejected() -> None:
    text = Checkpoint(origin="log.example/other", size=42, root=ROOT).text()
    with pytest.raises(Tampered) as caught:
        open_checkpoint(_note(text), LOG_KEY)
    assert caught.value.code == "checkpoint-origin"


def test_a_forged_line_with_the_known_name_and_id_fails_beside_a_good_one() -> None:
    good = sign(CHECKPOINT, KEY)
    forged = base64.b64encode(LOG_KEY.key_id + bytes(64)).decode()
    short = base64.b64encode(LOG_KEY.key_id + b"short").decode()
    text, _, line = good.rpartition("\n\n")
    for bad in (forged, short):
        for lines in (f"{line}\u2014 {ORIGIN} {bad}\n", f"\u2014 {ORIGIN} {bad}\n{line}"):
            with pytest.raises(Tampered) as caught:
                open_checkpoint(f"{text}\n\n{lines}", LOG_KEY)
            assert caught.value.code == "checkpoint-signature"


def test_lines_of_unknown_signers_are_ignored_but_never_suffice() -> None:
    text = CHECKPOINT.text()
    unknown = [
        _line(text, OTHER, "witness.example"),
        _line(text, OTHER, ORIGIN),
        f"\u2014 witness.example {base64.b64encode(LOG_KEY.key_id + bytes(72)).decode()}\n",
    ]
    assert open_checkpoint(f"{text}\n{''.join(unknown)}{_line(text, KEY, ORIGIN)}", LOG_KEY) == CHECKPOINT
    with pytest.raises(Tampered):
        open_checkpoint(f"{text}\n{''.join(unknown)}", LOG_KEY)


def test_signed_extension_lines_are_allowed_and_dropped() -> None:
    text = CHECKPOINT.text() + "extension one\nextension two\n"
    assert open_checkpoint(_note(text), LOG_KEY) == CHECKPOINT
    with pytest.raises(Tampered):
        open_checkpoint(_note(CHECKPOINT.text()).replace("\n\n", "\nextension\n\n"), LOG_KEY)


B64 = base64.b64encode(ROOT).decode()
EMPTY_B64 = base64.b64encode(EMPTY_ROOT).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n042\n{B64}\n",
        f"{ORIGIN}\n00\n{EMPTY_B64}\n",
        f"{ORIGIN}\n+42\n{B64}\n",
        f"{ORIGIN}\n-1\n{B64}\n",
        f"{ORIGIN}\n 42\n{B64}\n",
        f"{ORIGIN}\n\u0664\u0662\n{B64}\n",
        f"{ORIGIN}\n{2**63}\n{B64}\n",
        f"{ORIGIN}\n{'9' * 5000}\n{B64}\n",
        f"{ORIGIN}\n\n{B64}\n",
        f"{ORIGIN}\n0\n{B64}\n",
        f"{ORIGIN}\n42\n{EMPTY_B64}\n",
        f"{ORIGIN}\n42\n{B64[:-1]}\n",
        f"{ORIGIN}\n42\n{B64[:-4]}\n",
        f"{ORIGIN}\n42\n{B64[:-2]}B=\n",
        f"{ORIGIN}\n42\n{B64[:8]} {B64[8:]}\n",
        f"{ORIGIN}\n42\n!{B64[1:]}\n",
        f"{ORIGIN}\n42\n{ROOT.hex()}\n",
        f"{ORIGIN}\n42\n",
        f"{ORIGIN}\n",
        f"{ORIGIN}\n42\n{B64}\n\nextension\n",
        f"\n{ORIGIN}\n42\n{B64}\n",
    ],
)
def test_badly_shaped_checkpoints_are_malformed_even_when_signed(text: str) -> None:
    with pytest.raises((Malformed, Tampered)) as caught:
        open_checkpoint(_note(text), LOG_KEY)
    assert (type(caught.value), caught.value.code) == (Malformed, "checkpoint")


@pytest.mark.parametrize(
    "damage",
    [
        lambda n: n[:-1],
        lambda n: n + "\n",
        lambda n: n + "\n\n",
        lambda n: n.replace("\n\n", "\n"),
        lambda n: n.replace("\n", "\r\n"),
        lambda n: n.replace("\u2014 ", "- "),
        lambda n: n.replace("\u2014 ", "\u2014  "),
        lambda n: n.replace("\u2014 ", "\u2014"),
        lambda n: n[:-2] + "!\n",
        lambda n: n[:-2] + "\n",
        lambda n: n + "\u2014 witness.example\n",
        lambda n: n + "\u2014 witness.example AAAAAA==\n",
        lambda n: n + "\u2014 wit+ness AAAAAAA=\n",
        lambda n: n + "\u2014 wit\u00a0ness AAAAAAA=\n",
        lambda n: n + "trailing text\n",
        lambda n: "\x00" + n,
        lambda n: "\ud800" + n,
        lambda n: n.partition("\n\n")[0] + "\n\n",
        lambda n: "",
    ],
)
def test_badly_shaped_notes_are_malformed(damage: object) -> None:
    assert callable(damage)
    with pytest.raises((Malformed, Tampered)) as caught:
        open_checkpoint(damage(sign(CHECKPOINT, KEY)), LOG_KEY)
    assert (type(caught.value), caught.value.code) == (Malformed, "note")


def test_notes_are_limited_in_bytes_and_signatures() -> None:
    text, good = CHECKPOINT.text(), _line(CHECKPOINT.text(), KEY, ORIGIN)
    witness = "\u2014 witness.example AAAAAAA=\n"
    assert open_checkpoint(f"{text}\n{witness * 99}{good}", LOG_KEY) == CHECKPOINT
    with pytest.raises(Malformed):
        open_checkpoint(f"{text}\n{witness * 100}{good}", LOG_KEY)

    room = 64 * 1024 - len(_note(text + "x\n").encode())
    exact = _note(text + "x" * (room + 1) + "\n")
    assert len(exact.encode()) == 64 * 1024
    assert open_checkpoint(exact, LOG_KEY) == CHECKPOINT
    for longer in ("x" * (room + 2), "\u00e9" * (room // 2 + 2)):
        with pytest.raises(Malformed):
            open_checkpoint(_note(text + longer + "\n"), LOG_KEY)


def test_verifier_keys_survive_their_text_form() -> None:
    assert LogKey.parse(LOG_KEY.vkey) == LOG_KEY
    assert LogKey.parse(LOG_VKEY).vkey == LOG_VKEY
    assert LogKey.parse(LOG_VKEY).name == "example.com/log/testdata"


NAME, KEY_ID, MATERIAL = LOG_VKEY.split("+", 2)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        NAME,
        f"{NAME}+{KEY_ID}",
        f"{NAME}x+{KEY_ID}+{MATERIAL}",
        f"{NAME}+33d7b497+{MATERIAL}",
        f"{NAME}+{KEY_ID.upper()}+{MATERIAL}",
        f"{NAME}+{KEY_ID}+{MATERIAL[:-4]}",
        f"{NAME}+{KEY_ID}+{MATERIAL}AAAA",
        f"{NAME}+{KEY_ID}+B{MATERIAL[1:]}",
        f"{NAME}+{KEY_ID}+!{MATERIAL[1:]}",
        f"+{KEY_ID}+{MATERIAL}",
        f"{NAME} x+{KEY_ID}+{MATERIAL}",
        f"{NAME}+{KEY_ID}+{MATERIAL}\n",
    ],
)
def test_damaged_verifier_keys_are_malformed(vkey: str) -> None:
    with pytest.raises(Malformed) as caught:
        LogKey.parse(vkey)
    assert caught.value.code == "log-key"


@pytest.mark.parametrize("origin", ["", "two words", "plus+plus", "line\nline", "nul\x00", "\u2003", "\ud800"])
def test_names_that_could_be_mistaken_for_note_syntax_are_malformed(origin: str) -> None:
    with pytest.raises(Malformed):
        Checkpoint(origin=origin, size=42, root=ROOT)
    with pytest.raises(Malformed):
        LogKey(name=origin, public=KEY.public)

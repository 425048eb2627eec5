"""Cosignatures, policies of k of n, what a witness decides, proofs as files, and two auditors who compare what they were shown."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.kit.signatures import SigningKey
from policies.errors import Malformed, SandboxError, Tampered
from sandbox.audit.checkpoint import Checkpoint, LogKey, open_checkpoint, sign
from sandbox.audit.comparing import compare
from sandbox.audit.cosignature import WitnessKey, add_lines, cosign, cosignatures
from sandbox.audit.export import Export
from sandbox.audit.merkle import completed_nodes, consistency_proof, inclusion_proof, leaf_hash, root_from_nodes
from sandbox.audit.replay import Known, replay
from sandbox.audit.tlog_proof import TlogProof, parse_proof, verify_proof
from sandbox.audit.witness import MAX_PROOF, Submission, judge_submission, parse_submission
from sandbox.audit.witness_policy import parse_policy
from tests.support.forge import Draft, sealed
from tests.support.story import Story

ORIGIN, AT = "log.example/one", 1_780_000_000
LOG = SigningKey.from_bytes(bytes(range(32)))
LOG_KEY = LogKey(name=ORIGIN, public=LOG.public)
NAMES = ("a", "b", "c", "d", "e")
SIGNERS = {name: SigningKey.from_bytes(hashlib.sha256(name.encode()).digest()) for name in NAMES}
KEYS = {name: WitnessKey(name=f"{name}.witness.example", public=key.public) for name, key in SIGNERS.items()}
ENTRIES = [b"entry %d" % at for at in range(40)]


def nodes_of(entries: Sequence[bytes]) -> dict[tuple[int, int], bytes]:
    nodes: dict[tuple[int, int], bytes] = {}
    for at, entry in enumerate(entries):
        for level, position, value in completed_nodes(at, leaf_hash(entry), lambda *place: nodes[place]):
            nodes[level, position] = value
    return nodes


NODES = nodes_of(ENTRIES)
FORKED = nodes_of([*ENTRIES[:9], b"another entry", *ENTRIES[10:]])


def head(size: int, nodes: dict[tuple[int, int], bytes] = NODES) -> Checkpoint:
    return Checkpoint(origin=ORIGIN, size=size, root=root_from_nodes(size, lambda *place: nodes[place]))


def note_of(size: int, nodes: dict[tuple[int, int], bytes] = NODES) -> str:
    return sign(head(size, nodes), LOG)


def cosigned(note: str, *names: str, at: int = AT) -> str:
    for name in names:
        note = add_lines(note, cosign(note.partition("\n\n")[0] + "\n", KEYS[name].name, SIGNERS[name], at))
    return note


def policy_text(quorum: str) -> str:
    return "".join(f"witness {name} {key.vkey}\n" for name, key in KEYS.items()) + quorum


# Cosignatures


def test_the_signed_bytes_and_the_key_id_are_those_of_the_specification() -> None:
    """C2SP tlog-cosignature, by hand: the header lines, the key id of type 0x04, the time before the signature."""
    note = note_of(7)
    text, line = note.partition("\n\n")[0] + "\n", cosign(note.partition("\n\n")[0] + "\n", "w.example", SIGNERS["a"], AT)
    _, name, encoded = line.rstrip("\n").split(" ")
    blob, public = base64.b64decode(encoded), SIGNERS["a"].public
    assert (name, line[:2]) == ("w.example", "\u2014 ")
    assert blob[:4] == hashlib.sha256(b"w.example\n\x04" + public).digest()[:4]
    assert int.from_bytes(blob[4:12], "big") == AT
    Ed25519PublicKey.from_public_bytes(public).verify(blob[12:], f"cosignature/v1\ntime {AT}\n{text}".encode())


def test_a_cosigned_note_is_still_the_logs_and_names_its_witnesses() -> None:
    note = cosigned(note_of(7), "a", "c")
    assert open_checkpoint(note, LOG_KEY) == head(7)
    assert cosignatures(note, KEYS.values()) == {KEYS["a"]: AT, KEYS["c"]: AT}
    assert cosignatures(note, [KEYS["b"]]) == {}
    assert add_lines(note, note.partition("\n\n")[2]) == note, "no line comes twice"


def test_a_cosignature_of_another_head_or_time_is_refused() -> None:
    line = cosigned(note_of(7), "a").splitlines(keepends=True)[-1]
    blob = bytearray(base64.b64decode(line.split(" ")[2]))
    blob[11] ^= 1
    later = f"\u2014 {KEYS['a'].name} {base64.b64encode(bytes(blob)).decode()}\n"
    short = f"\u2014 {KEYS['a'].name} {base64.b64encode(bytes(blob[:40])).decode()}\n"
    for note in (note_of(8) + line, note_of(7) + later, note_of(7) + short):
        with pytest.raises(Tampered) as caught:
            cosignatures(note, KEYS.values())
        assert caught.value.code == "cosignature"


def test_a_logs_signature_is_no_cosignature_though_the_key_is_the_same() -> None:
    twin = WitnessKey(name=ORIGIN, public=LOG.public)
    assert twin.key_id != LOG_KEY.key_id
    assert cosignatures(note_of(7), [twin]) == {}
    assert WitnessKey.parse(KEYS["a"].vkey) == KEYS["a"]
    with pytest.raises(Malformed):
        WitnessKey.parse(LOG_KEY.vkey)


# Policies


@given(cosigners=st.sets(st.sampled_from(NAMES)))
@settings(max_examples=32, deadline=None)
def test_nested_groups_count_as_written(cosigners: set[str]) -> None:
    policy = parse_policy(policy_text("group left 2 a b c\ngroup right any d e\ngroup both all left right\nquorum both\n"))
    assert policy.is_met_by(cosigners) == (len(cosigners & {"a", "b", "c"}) >= 2 and bool(cosigners & {"d", "e"}))
    assert policy.describe() == "2 of (2 of a, b, c), (1 of d, e)"


def test_a_quorum_is_required_and_named() -> None:
    policy = parse_policy(policy_text("group all 2 a b c\nquorum all\n"))
    assert policy.require(cosigned(note_of(7), "a", "c")) == {"a": AT, "c": AT}
    for few in (note_of(7), cosigned(note_of(7), "b"), cosigned(note_of(7), "b", "d", "e")):
        with pytest.raises(Tampered) as caught:
            policy.require(few)
        assert caught.value.code == "witness-quorum"
        assert "2 of a, b, c" in caught.value.message
    assert parse_policy("quorum none\n").require(note_of(7)) == {}


@pytest.mark.parametrize(
    ("tail", "line"),
    [
        ("", None),
        ("quorum f\n", 6),
        ("quorum a\nquorum b\n", 7),
        ("group g 0 a b\nquorum g\n", 6),
        ("group g 3 a b\nquorum g\n", 6),
        ("group g 1 a a\nquorum g\n", 6),
        ("group g 01 a b\nquorum g\n", 6),
        ("group g 1\nquorum g\n", 6),
        ("group g any h\ngroup h any a\nquorum g\n", 6),
        ("group g any a\ngroup h any a\nquorum g\n", 7),
        ("group a any b\nquorum a\n", 6),
        ("group none any b\nquorum none\n", 6),
        ("group g any none\nquorum g\n", 6),
        (f"witness again {KEYS['a'].vkey}\nquorum a\n", 6),
        (f"witness log {LOG_KEY.vkey}\nquorum a\n", 6),
        ("threshold 1\nquorum a\n", 6),
        ("quorum a \x0c\n", None),
    ],
)
def test_a_policy_that_is_none_is_refused_by_its_line(tail: str, line: int | None) -> None:
    with pytest.raises(Malformed) as caught:
        parse_policy(policy_text(tail))
    assert caught.value.code == "witness-policy"
    assert caught.value.where == (None if line is None else f"line {line}")


def test_comments_blanks_logs_and_addresses_are_read() -> None:
    text = f" # trusted\n\n\tlog {LOG_KEY.vkey} https://log.example \nwitness a\t{KEYS['a'].vkey} https://a.example/\nquorum a\n"
    policy = parse_policy(text)
    assert policy.logs == (LOG_KEY,)
    assert policy.witnesses["a"].url == "https://a.example"


# What a witness decides


def submission(old: int, new: int, *, proof: tuple[bytes, ...] | None = None, note: str | None = None) -> str:
    own = consistency_proof(old, new, lambda *place: NODES[place]) if proof is None and 0 < old <= new else proof or ()
    return Submission(old=old, proof=own, note=note or note_of(new)).render()


KNOWN = {ORIGIN: [LOG_KEY]}


@pytest.mark.parametrize(("old", "new"), [(0, 1), (0, 17), (1, 1), (5, 5), (5, 17), (16, 40)])
def test_what_extends_the_newest_checkpoint_is_cosigned(old: int, new: int) -> None:
    newest = {ORIGIN: head(old)} if old else {}
    answer = judge_submission(submission(old, new), KNOWN, newest)
    assert (answer.status, answer.checkpoint, answer.conflict) == (200, head(new), False)
    assert parse_submission(submission(old, new)).note == note_of(new)


def test_every_refusal_has_the_status_of_the_specification() -> None:
    newest = {ORIGIN: head(9)}
    good = consistency_proof(9, 17, lambda *place: NODES[place])
    stranger = sign(Checkpoint(origin="log.example/two", size=1, root=bytes(32)), LOG)
    forked = note_of(17, FORKED)
    cases = {
        "garbage": ("old nine\n\n" + note_of(17), 400),
        "leading zero": ("old 09\n\n" + note_of(17), 400),
        "no empty line": ("old 9\n" + note_of(17).replace("\n\n", "\n"), 400),
        "a short hash": (f"old 9\n{base64.b64encode(b'short').decode()}\n\n{note_of(17)}", 400),
        "too many hashes": (submission(9, 17, proof=(bytes(32),) * (MAX_PROOF + 1)), 400),
        "old above the checkpoint": (submission(18, 17), 400),
        "unknown log": (submission(0, 1, note=stranger), 404),
        "another key": (submission(9, 17, note=sign(head(17), SIGNERS["a"])), 403),
        "another old size": (submission(5, 17), 409),
        "nothing seen yet, it thinks": (submission(0, 17), 409),
        "same size, another root": (submission(9, 9, note=note_of(9, nodes_of([*ENTRIES[:3], b"x", *ENTRIES[4:]])), proof=()), 409),
        "a flipped proof": (submission(9, 17, proof=(bytes(32), *good[1:])), 422),
        "no proof": (submission(9, 17, proof=()), 422),
        "a fork": (submission(9, 17, note=forked), 422),
    }
    answers = {what: judge_submission(body, KNOWN, newest) for what, (body, _) in cases.items()}
    assert {what: answer.status for what, answer in answers.items()} == {what: status for what, (_, status) in cases.items()}
    assert {answers[what].body for what in ("another old size", "nothing seen yet, it thinks", "same size, another root")} == {"9\n"}
    assert answers["same size, another root"].conflict
    assert answers["a fork"].conflict
    assert all(answer.checkpoint is None for answer in answers.values())
    assert judge_submission(submission(0, 17, proof=(bytes(32),)), KNOWN, {}).status == 422


@given(steps=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40), st.booleans()), max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_witness_never_cosigns_two_histories(steps: list[tuple[int, int, bool]]) -> None:
    newest: dict[str, Checkpoint] = {}
    for old, new, fork in steps:
        nodes = FORKED if fork else NODES
        old = newest[ORIGIN].size if ORIGIN in newest and old % 2 else old
        proof = consistency_proof(old, new, lambda *place, nodes=nodes: nodes[place]) if 0 < old <= new else ()
        answer = judge_submission(Submission(old=old, proof=proof, note=note_of(new, nodes)).render(), KNOWN, newest)
        if answer.checkpoint is not None:
            before = newest.get(ORIGIN)
            assert before is None or before.size <= answer.checkpoint.size
            newest[ORIGIN] = answer.checkpoint
            history = {size: root_from_nodes(size, lambda *place, nodes=nodes: nodes[place]) for size in range(1, new + 1)}
            assert before is None or history[before.size] == before.root


# Proofs as files


def test_a_proof_file_is_read_and_verified_with_its_witnesses() -> None:
    proof = TlogProof(
        index=9, proof=inclusion_proof(9, 40, lambda *place: NODES[place]), note=cosigned(note_of(40), "a", "b"), extra=b"why"
    )
    again = parse_proof(proof.render())
    assert again == proof
    assert proof.render().startswith("c2sp.org/tlog-proof@v1\nextra d2h5\nindex 9\n")
    policy = parse_policy(policy_text("group all 2 a b c\nquorum all\n"))
    assert verify_proof(again, ENTRIES[9], LOG_KEY, policy) == head(40)
    wrong = [
        (replace(proof, index=10), ENTRIES[9], LOG_KEY, "inclusion-proof"),
        (proof, ENTRIES[10], LOG_KEY, "inclusion-proof"),
        (replace(proof, proof=proof.proof[:-1]), ENTRIES[9], LOG_KEY, "inclusion-proof"),
        (replace(proof, note=note_of(40)), ENTRIES[9], LOG_KEY, "witness-quorum"),
        (proof, ENTRIES[9], LogKey(name=ORIGIN, public=SIGNERS["a"].public), "checkpoint-signature"),
    ]
    for tampered, entry, key, code in wrong:
        with pytest.raises(Tampered) as caught:
            verify_proof(tampered, entry, key, policy)
        assert caught.value.code == code


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_proof_file_is_an_error_and_never_accepted(data: st.DataObject) -> None:
    text = TlogProof(index=9, proof=inclusion_proof(9, 40, lambda *place: NODES[place]), note=note_of(40)).render()
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.characters(codec="utf-8")) + text[at + data.draw(st.integers(0, 2)) :]
    if damaged != text:
        with pytest.raises(SandboxError):
            verify_proof(parse_proof(damaged), ENTRIES[9], LOG_KEY)


# Two auditors


def cosign_export(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return files | {"checkpoint": cosigned(files["checkpoint"].decode(), *names).encode()}


def views(story: Story, history: list[Draft]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What two auditors are shown by an operator that tells two histories from entry 20 on, each consistent in itself."""
    key, origin = story.host.log_key, story.host.config.origin
    other = [*history]
    other[20] = other[20].edited(at=other[20].header.at + 1)
    return sealed(history, key, origin), sealed(other[:40], key, origin)


def test_a_split_view_is_found_with_its_first_entry_and_the_witness_that_signed_both(story: Story, history: list[Draft]) -> None:
    left, right = views(story, history)
    left, right = cosign_export(left, "a", "b"), cosign_export(right, "b", "c")
    policy = parse_policy(policy_text("group some 2 a b c\nquorum some\n"))
    exports = [Export(read=left.__getitem__), Export(read=right.__getitem__)]
    for one, two in (exports, exports[::-1]):
        found = compare(one, two, story.host.log_identity, policy)
        assert [(m.kind, m.index) for m in found] == [("split-view", 20), ("witness", None)]
        assert "`b`" in found[1].what
    assert replay(left.__getitem__, story.host.log_identity, known=Known(witnesses=policy)).ok
    assert compare(exports[0], Export(read=sealed(history[:40], story.host.log_key, story.host.config.origin).__getitem__),
                   story.host.log_identity, policy) == ()  # fmt: skip


def test_an_earlier_checkpoint_of_another_history_names_the_witnesses_of_both(story: Story, history: list[Draft]) -> None:
    left, right = views(story, history)
    note = cosigned(right["checkpoint"].decode(), "a", "b")
    seen = open_checkpoint(note, story.host.log_identity)
    policy = parse_policy(policy_text("quorum a\n"))
    verdict = replay(
        cosign_export(left, "a").__getitem__, story.host.log_identity, known=Known(since=seen, since_note=note, witnesses=policy)
    )
    assert [(m.kind, m.promise) for m in verdict.mismatches] == [("split-view", "log"), ("witness", "log")]
    assert "`a` cosigned both" in verdict.mismatches[1].what


def test_a_replay_asks_for_its_quorum(story: Story, history: list[Draft]) -> None:
    files = sealed(history, story.host.log_key, story.host.config.origin)
    policy = parse_policy(policy_text("group all 2 a b c\nquorum all\n"))
    verdict = replay(cosign_export(files, "a", "d").__getitem__, story.host.log_identity, known=Known(witnesses=policy))
    assert [(m.kind, m.index, m.promise) for m in verdict.mismatches] == [("witness", None, "log")]
    assert set(verdict.witnesses) == {"a", "d"}
    forged = files["checkpoint"].decode() + cosigned(note_of(7), "b").splitlines(keepends=True)[-1]
    verdict = replay((files | {"checkpoint": forged.encode()}).__getitem__, story.host.log_identity, known=Known(witnesses=policy))
    assert "does not verify" in verdict.mismatches[0].what
    assert json.dumps(dict(verdict.witnesses)) == "{}"

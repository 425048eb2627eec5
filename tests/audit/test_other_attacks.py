"""Attacks from outside one history: revoked keys, entries and receipts of other logs and releases, entries that are too large."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from policies.codec import decode, encode
from policies.entries import MAX_ENTRY, parse_header
from policies.errors import Malformed, SandboxError, Tampered
from sandbox.audit.checkpoint import open_checkpoint, sign
from sandbox.audit.export import Export
from sandbox.audit.keyring import OPERATOR
from sandbox.audit.receipt import Receipt, verify_receipt
from sandbox.audit.replay import replay
from sandbox.audit.verdict import Promise
from sandbox.jobs import handout
from tests.support.forge import Draft, find, forged, fresh, replayed, require_named, sealed
from tests.support.story import Story, export

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "law2" / "export"


def elsewhere(kind: str) -> Draft:
    """The first entry of a kind in the log of another deployment, with its opening."""
    for _, data, opening in Export(read=lambda path: (GOLDEN / path).read_bytes()).entries(69):
        header = parse_header(data)
        if header.kind == kind and opening is not None:
            return Draft(header=header, salt=bytes.fromhex(opening.salt), body=opening.body)
    raise AssertionError(kind)


@pytest.mark.parametrize("party", ["insurer", "institute"])
def test_a_release_after_a_party_revoked_its_keys_is_named(story: Story, history: list[Draft], party: str) -> None:
    """An operator that revokes and then goes on under the agreement: the decision does not stand any more."""

    def forge(story: Story, history: list[Draft]) -> int:
        at = find(history, "decided", job=story.jobs["counted"].id)
        ids = {"participant": party, "key": story.firms[party].signing.public.hex(), "by": OPERATOR, "signature": ""}
        history.insert(at, fresh("revoked", history[at].header.at, ids, {}))
        return at + 1

    require_named(story, history, forge, "signatures")


ELSEWHERE: list[tuple[str, Promise]] = [
    ("decided", "order"),
    ("charged", "order"),
    ("granted", "order"),
    ("attested", "order"),
    ("key_released", "order"),
    ("released", "order"),
    ("repeated", "order"),
    ("signed", "order"),
    ("agreed", "order"),
    ("admitted", "signatures"),
    ("declared", "signatures"),
    ("published", "signatures"),
    ("proposed", "signatures"),
    ("rotated", "signatures"),
]


@pytest.mark.parametrize(("kind", "promise"), ELSEWHERE)
def test_an_entry_of_another_deployment_is_named(story: Story, history: list[Draft], kind: str, promise: Promise) -> None:
    def forge(story: Story, history: list[Draft]) -> int:
        history.append(elsewhere(kind))
        return len(history) - 1

    require_named(story, history, forge, promise)


def test_the_checkpoint_of_another_deployment_is_refused(story: Story) -> None:
    files = export(story.host, "auditor")
    verdict = replayed(files | {"checkpoint": (GOLDEN / "checkpoint").read_bytes()}, story)
    assert (verdict.ok, verdict.mismatches[0].kind, verdict.mismatches[0].promise) == (False, "checkpoint", "log")


def test_a_stale_checkpoint_over_a_longer_log_shows_no_more_than_it_covers(story: Story, history: list[Draft]) -> None:
    stale = sealed(history[:30], story.host.log_key, story.host.config.origin)
    files = export(story.host, "auditor") | {"checkpoint": stale["checkpoint"]}
    verdict = replayed(files, story)
    assert not verdict.ok, "the files of the longer log are not those of the checkpoint"
    assert verdict.size == 30
    assert verdict.mismatches[0].kind == "tile"


def receipts(story: Story) -> dict[str, tuple[Receipt, bytes]]:
    found = {}
    for label in ("released", "counted"):
        with story.host.store.reading() as tx:
            given, release = handout.release(tx, story.jobs[label], story.clock.at)
        found[label] = decode(Receipt, encode(given)), release
    return found


def test_a_receipt_proves_no_other_release(story: Story) -> None:
    assert story.agreement is not None
    held = receipts(story)
    (receipt, release), (other, other_release) = held["released"], held["counted"]
    assert verify_receipt(receipt, story.agreement, release).job == story.jobs["released"].id
    with pytest.raises(Tampered) as caught:
        verify_receipt(receipt, story.agreement, other_release)
    assert caught.value.code == "receipt-sealed"
    for field in ("grant", "evidence", "statement", "entry", "index", "proof"):
        swapped = replace(receipt, **{field: getattr(other, field)})
        with pytest.raises(SandboxError):
            verify_receipt(swapped, story.agreement, release)
    placed = replace(receipt, entry=other.entry, index=other.index, proof=other.proof, checkpoint=other.checkpoint)
    with pytest.raises(Tampered) as caught:
        verify_receipt(placed, story.agreement, release)
    assert caught.value.code == "receipt-entry"


def test_an_entry_above_64_kib_is_not_appended_and_not_replayed(story: Story, history: list[Draft]) -> None:
    many = {"dataset": "a" * MAX_ENTRY}
    size = len(history)
    with pytest.raises(Malformed) as caught, story.host.store.transaction() as tx:
        tx.append("declared", at=1, ids=many, body={})
    assert caught.value.code == "too-large"
    with story.host.store.reading() as tx:
        assert tx.log_size() == size
    with pytest.raises(Malformed):
        parse_header(fresh("declared", 1, many, {}).data)


def test_a_replay_tells_every_attack_in_the_shape_that_programs_read(story: Story, history: list[Draft]) -> None:
    del history[find(history, "charged", job=story.jobs["released"].id)]
    verdict = forged(history, story)
    assert {type(m.index) for m in verdict.mismatches} <= {int, type(None)}
    assert all(m.kind and m.what and m.promise in verdict.promises for m in verdict.mismatches)


def test_unreadable_garbage_in_place_of_any_file_is_a_verdict_and_no_crash(story: Story) -> None:
    files = export(story.host, "auditor")
    for path in files:
        for garbage in (b"", b"\0" * 100, os.urandom(300), b"{" * 5000, files[path][: len(files[path]) // 2]):
            verdict = replay((files | {path: garbage}).__getitem__, story.host.log_identity)
            assert not verdict.ok or path == "log.vkey"


def test_a_second_signature_of_the_log_under_the_same_note_changes_nothing(story: Story, history: list[Draft]) -> None:
    files = sealed(history, story.host.log_key, story.host.config.origin)
    note = files["checkpoint"].decode()
    again = sign(open_checkpoint(note, story.host.log_identity), story.host.log_key).splitlines(keepends=True)[-1]
    assert replayed(files | {"checkpoint": (note + again).encode()}, story).ok

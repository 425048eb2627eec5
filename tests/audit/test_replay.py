"""The auditor replays an honest history, and sees what was rewritten, removed, repeated or erased."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from enclaves.kit.envelope import sign_document
from enclaves.kit.signatures import SigningKey
from policies.codec import encode
from policies.errors import Malformed
from sandbox.audit.checkpoint import Checkpoint, LogKey, open_checkpoint
from sandbox.audit.export import Export, openings_path, parse_openings
from sandbox.audit.replay import replay
from sandbox.audit.verdict import PROMISES
from tests.support import terms
from tests.support.forge import Draft, drafts, find, forged, fresh, replayed, sealed
from tests.support.story import Story, export


def test_honest_export_replays_for_an_auditor(story: Story) -> None:
    seen: list[tuple[int, int]] = []
    verdict = replayed(export(story.host, "auditor"), story, progress=lambda done, size: seen.append((done, size)))
    assert verdict.mismatches == ()
    assert verdict.ok
    assert set(verdict.promises.values()) == {"ok"}
    assert verdict.promises.keys() == PROMISES.keys()
    assert verdict.entries == verdict.size == len(drafts(story.host))
    assert (verdict.unopened, verdict.not_reparsed) == (0, 0)
    assert seen == [(verdict.size, verdict.size)]
    assert any("simulated" in note for note in verdict.notes)


def test_the_story_has_every_outcome(story: Story) -> None:
    assert {label: job.state for label, job in story.jobs.items()} == {
        "released": "released", "denied": "denied", "withheld": "withheld", "failed": "failed", "counted": "released"
    }  # fmt: skip


def test_a_stranger_sees_no_agreement_and_still_sums_the_charges(story: Story) -> None:
    verdict = replayed(export(story.host, "stranger"), story)
    assert verdict.mismatches == ()
    assert not verdict.ok
    assert {promise for promise, found in verdict.promises.items() if found == "ok"} == {"log", "order"}
    assert set(verdict.promises.values()) == {"ok", "unopened"}
    assert verdict.ledgers == {"clinic/rand-hie": 1_000_000_000, "insurer/rand-hie": 1_125_000_000}


def test_ledgers_are_those_of_the_host(story: Story) -> None:
    with story.host.store.reading() as tx:
        held = {f"{provider}/{space}": loss.amount for (provider, space), loss in tx.spent().items()}
    assert replayed(export(story.host, "auditor"), story).ledgers == held


def test_forging_nothing_changes_nothing(story: Story, history: list[Draft]) -> None:
    """The forge makes the very tree of the host, so what later tests find is due to their change."""
    own, honest = sealed(history, story.host.log_key, story.host.config.origin), export(story.host, "auditor")
    assert {path: data for path, data in honest.items() if path != "log.vkey"} == own
    assert Export(read=honest.__getitem__).log_key() == story.host.log_identity


def test_a_log_of_several_bundles_replays_and_its_tiles_are_compared(story: Story, history: list[Draft]) -> None:
    """With more than 512 entries there are full tiles, a second level and several openings files."""
    for number in range(520 - len(history)):
        history.append(_admission(f"member_{number}", story.clock.at))
    assert forged(history[:512], story).ok
    files = sealed(history, story.host.log_key, story.host.config.origin)
    seen: list[int] = []
    assert replayed(files, story, progress=lambda done, size: seen.append(done)).ok
    assert seen == [256, 512, 520]
    assert [index for index, _, opening in Export(read=files.__getitem__).entries(520) if opening] == list(range(520))
    for path, index in (("tile/0/001", 256), ("tile/1/000.p/2", None)):
        verdict = replayed(files | {path: bytes(32) + files[path][32:]}, story)
        assert [(m.kind, m.index) for m in verdict.mismatches] == [("tile", index)]


def _admission(name: str, at: int) -> Draft:
    key = SigningKey.generate()
    admission = {
        "participant": name,
        "title": name,
        "signing_key": key.public.hex(),
        "sealing_key": terms.key_of(name),
        "code_digest": terms.digest_of(name),
        "credential_digest": terms.digest_of(f"credential of {name}"),
    }
    return fresh("admitted", at, {"participant": name}, {"signed": encode(sign_document("admission", name, admission, key))})


# What was erased or never given is never ok


def test_an_erased_opening_is_unopened_and_never_ok(story: Story, history: list[Draft]) -> None:
    at = find(history, "decided", job=story.jobs["released"].id)
    history[at] = replace(history[at], salt=None)
    verdict = forged(history, story)
    assert verdict.mismatches == ()
    assert verdict.unopened == 1
    assert {p for p, found in verdict.promises.items() if found == "unopened"} == {"signatures", "decisions", "budgets", "grants"}
    assert not verdict.ok


def test_every_erased_opening_is_unopened_and_contradicts_nothing(story: Story, history: list[Draft]) -> None:
    for at in _one_of_each_kind(history):
        erased = [*history[:at], replace(history[at], salt=None), *history[at + 1 :]]
        verdict = forged(erased, story)
        assert verdict.mismatches == (), history[at].header.kind
        assert (verdict.ok, verdict.unopened) == (False, 1)


def _one_of_each_kind(history: list[Draft]) -> list[int]:
    return [find(history, kind) for kind in dict.fromkeys(draft.header.kind for draft in history)]


def test_another_parser_is_counted_and_the_plan_still_decides(story: Story, history: list[Draft]) -> None:
    at = find(history, "decided", job=story.jobs["released"].id)
    history[at] = history[at].edited(lambda body: body.update(parser="sqlglot/1.0"))
    verdict = forged(history, story)
    assert verdict.ok
    assert verdict.not_reparsed == 1
    assert any("parsed" in note for note in verdict.notes)


# The log itself


@settings(max_examples=60, deadline=None)
@given(choice=st.data())
def test_no_flipped_byte_goes_unseen(story: Story, choice: st.DataObject) -> None:
    files = export(story.host, "auditor")
    path = choice.draw(st.sampled_from(sorted(files.keys() - {"log.vkey"})))
    at = choice.draw(st.integers(0, len(files[path]) - 1))
    flipped = bytearray(files[path])
    flipped[at] ^= choice.draw(st.integers(1, 255))
    if path.startswith("openings/"):
        assume(not _same_openings(files[path], bytes(flipped)))
    verdict = replayed(files | {path: bytes(flipped)}, story)
    assert not verdict.ok
    assert verdict.promises["log"] == "broken"


def _same_openings(left: bytes, right: bytes) -> bool:
    try:
        return parse_openings(left) == parse_openings(right)
    except Malformed:
        return False


def test_a_flipped_byte_in_an_entry_is_named(story: Story, history: list[Draft]) -> None:
    files = export(story.host, "auditor")
    path = f"tile/entries/000.p/{len(history)}"
    at = find(history, "charged")
    place = files[path].index(history[at].data) + history[at].data.index(b'"amount":') + len(b'"amount":')
    flipped = bytearray(files[path])
    flipped[place] ^= 1
    verdict = replayed(files | {path: bytes(flipped)}, story)
    found = [(m.index, m.kind) for m in verdict.mismatches if m.promise == "log"]
    assert found == [(at, "tile"), (None, "checkpoint")]
    assert any(m.index == at and m.promise == "budgets" for m in verdict.mismatches)


@pytest.mark.parametrize("path", ["checkpoint", "tile/entries/000.p/{size}", "tile/0/000.p/{size}"])
def test_a_missing_file_is_named_and_nothing_is_ok_without_entries(story: Story, history: list[Draft], path: str) -> None:
    files = export(story.host, "auditor")
    name = path.format(size=len(history))
    del files[name]
    verdict = replayed(files, story)
    assert verdict.promises["log"] == "broken"
    assert name in verdict.mismatches[0].what
    if verdict.entries == 0:
        assert {found for promise, found in verdict.promises.items() if promise != "log"} == {"unopened"}


def test_another_logs_key_is_not_accepted(story: Story) -> None:
    stranger = LogKey(name=story.host.config.origin, public=SigningKey.generate().public)
    verdict = replay(export(story.host, "auditor").__getitem__, stranger)
    assert not verdict.ok
    assert verdict.mismatches[0].promise == "log"
    assert verdict.size == 0


def test_an_opening_that_does_not_match_is_named(story: Story, history: list[Draft]) -> None:
    files = export(story.host, "auditor")
    at = find(history, "running")
    lines = files[openings_path(0)].split(b"\n")
    lines[at] = lines[at].replace(b'"worker-', b'"broker-')
    verdict = replayed(files | {openings_path(0): b"\n".join(lines)}, story)
    assert [(m.index, m.kind, m.promise) for m in verdict.mismatches] == [(at, "running", "log")]


def test_openings_that_cannot_be_read_are_named(story: Story) -> None:
    files = export(story.host, "auditor")
    verdict = replayed(files | {openings_path(0): b"{}\n" + files[openings_path(0)]}, story)
    assert verdict.mismatches[0].kind == "openings"
    assert "line 1" in verdict.mismatches[0].what
    assert verdict.unopened == verdict.size


def test_a_rewound_log_is_caught_by_a_checkpoint_seen_before(story: Story, history: list[Draft]) -> None:
    seen = open_checkpoint(export(story.host, "auditor")["checkpoint"].decode(), story.host.log_identity)
    end = find(history, "decided", job=story.jobs["counted"].id)
    assert forged(history[:end], story).ok
    verdict = forged(history[:end], story, since=seen)
    assert [(m.promise, m.index) for m in verdict.mismatches] == [("log", None)]
    assert "rewound" in verdict.mismatches[0].what


def test_a_checkpoint_of_another_log_is_not_compared(story: Story, history: list[Draft]) -> None:
    seen = Checkpoint(origin="elsewhere.example/log", size=1, root=bytes(32))
    verdict = forged(history, story, since=seen)
    assert "another log" in verdict.mismatches[0].what
    assert [m.promise for m in verdict.mismatches if "another log" in m.what] == ["log"]


@pytest.mark.parametrize("seen_at", [3, 20, 48])
def test_a_rewritten_log_is_caught_by_a_checkpoint_seen_before(story: Story, history: list[Draft], seen_at: int) -> None:
    old = sealed(history[:seen_at], story.host.log_key, story.host.config.origin)["checkpoint"].decode()
    seen = open_checkpoint(old, story.host.log_identity)
    assert forged(history, story, since=seen).ok
    history[2] = history[2].edited(at=history[2].header.at + 1)
    assert forged(history, story).ok
    verdict = forged(history, story, since=seen)
    assert ["rewritten" in m.what for m in verdict.mismatches] == [True]


# A consistent tree over a forged history


REMOVABLE = {"offered", "key_refused", "failed", "withheld", "released"}
"""Kinds on which nothing later rests: without them a run is still under way. Only an earlier checkpoint shows that they are gone."""


def test_a_removed_entry_is_caught_where_anything_rests_on_it(story: Story, history: list[Draft]) -> None:
    stranger = {"participant": "stranger"}
    answered = {"job": story.jobs["failed"].id, "provider": "clinic"}
    for at, draft in enumerate(history):
        verdict = forged(history[:at] + history[at + 1 :], story)
        kind, ids = draft.header.kind, draft.header.ids
        alone = kind in REMOVABLE or ids == stranger or ids.get("allowed") == "no" or answered.items() <= ids.items()
        assert verdict.ok == alone, (at, draft.header.kind, verdict.mismatches)
        if not alone:
            first = verdict.mismatches[0].index
            assert first is not None
            assert first >= at


def test_a_repeated_entry_is_caught_and_named(story: Story, history: list[Draft]) -> None:
    for at in _one_of_each_kind(history):
        verdict = forged([*history[: at + 1], history[at], *history[at + 1 :]], story)
        assert verdict.mismatches, history[at].header.kind
        assert verdict.mismatches[0].index == at + 1


def test_steps_of_one_job_cannot_change_places(story: Story, history: list[Draft]) -> None:
    job = story.jobs["counted"].id
    steps = [at for at, draft in enumerate(history) if draft.header.ids.get("job") == job]
    assert [history[at].header.kind for at in steps] == [
        "decided", "charged", "granted", "running", "attested", "key_released", "released"
    ]  # fmt: skip
    for first, second in pairwise(steps):
        changed = list(history)
        changed[first], changed[second] = changed[second], changed[first]
        verdict = forged(changed, story)
        assert any(m.promise == "order" and m.index in (first, second) for m in verdict.mismatches)

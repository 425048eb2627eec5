"""Checkpoints of other logs in this one: the operator enters what fits, and a replay names what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enclaves.kit.signatures import SigningKey
from policies.errors import Conflict, Tampered
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.export import Export
from sandbox.audit.noted import Noted, require_following
from sandbox.exchange.noting import note_log
from tests.support.forge import Draft, drafts, find, forged, fresh, replayed, sealed
from tests.support.story import Story, begin, export

OTHER, STRANGER = SigningKey.generate(), SigningKey.generate()
ORIGIN = "other.example/log"
HISTORIES = {
    marked: [fresh("running", at, {"job": f"job-{marked}{at}", "agreement": "a"}, {}) for at in range(400)] for marked in ("", "x")
}
KEY = LogKey(name=ORIGIN, public=OTHER.public)


def another_log(size: int, marked: str = "", key: SigningKey = OTHER) -> Export:
    """An export of another log of so many entries; `marked` makes them another history."""
    return Export(read=sealed(HISTORIES[marked][:size], key, ORIGIN).__getitem__)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A log that noted another one at sizes 3, 7 and 300."""
    story = begin(tmp_path_factory.mktemp("noted"))
    for size in (3, 7, 300):
        assert note_log(story.host, another_log(size), KEY) is not None
    return story


@pytest.fixture
def told(house: Story) -> list[Draft]:
    return drafts(house.host)


def test_noted_checkpoints_replay_and_the_same_again_appends_nothing(house: Story, told: list[Draft]) -> None:
    assert [draft.header.kind for draft in told].count("log_noted") == 3
    assert note_log(house.host, another_log(300), KEY) is None
    verdict = replayed(export(house.host, "insurer"), house)
    assert verdict.ok, verdict.mismatches


@pytest.mark.parametrize(
    ("found", "key", "code"),
    [
        pytest.param(another_log(200), KEY, "rolled-back", id="a smaller tree"),
        pytest.param(another_log(300, "x"), KEY, "other-history", id="another tree of the same size"),
        pytest.param(another_log(400, "x"), KEY, "other-history", id="a larger tree of another history"),
        pytest.param(another_log(400, key=STRANGER), KEY, "checkpoint-signature", id="signed by somebody else"),
        pytest.param(another_log(400, key=STRANGER), LogKey(name=ORIGIN, public=STRANGER.public), "other-key", id="another key"),
    ],
)
def test_what_does_not_follow_is_refused_and_leaves_nothing(house: Story, found: Export, key: LogKey, code: str) -> None:
    before = len(drafts(house.host))
    with pytest.raises(Tampered) as refused:
        note_log(house.host, found, key)
    assert refused.value.code == code
    assert len(drafts(house.host)) == before


def test_an_export_whose_entries_do_not_lead_to_its_checkpoint_is_refused(house: Story) -> None:
    honest, other = another_log(310), another_log(310, "x")
    mixed = Export(read=lambda path: (honest if path == "checkpoint" else other).read(path))
    with pytest.raises(Tampered) as refused:
        note_log(house.host, mixed, KEY)
    assert refused.value.code == "rewritten"


def test_a_log_does_not_note_itself(house: Story) -> None:
    own = Export(read=export(house.host, "insurer").__getitem__)
    with pytest.raises(Conflict) as refused:
        note_log(house.host, own, house.host.log_identity)
    assert refused.value.code == "own-log"


def _noted(told: list[Draft]) -> list[int]:
    return [index for index, draft in enumerate(told) if draft.header.kind == "log_noted"]


def test_a_rolled_back_a_repeated_and_a_foreign_checkpoint_are_named_by_replay(house: Story, told: list[Draft]) -> None:
    first, second, third = _noted(told)
    back, swapped = list(told), list(told)
    back[third] = told[first]
    swapped[second], swapped[third] = swapped[third], swapped[second]
    repeated = [*told[: second + 1], told[second], *told[second + 1 :]]
    item = Noted.from_ids(told[second].header.ids)
    stranger = replace(item, key=STRANGER.public.hex(), note=another_log(7, key=STRANGER).checkpoint())
    foreign = list(told)
    foreign[second] = fresh("log_noted", told[second].header.at, stranger.to_ids(), {})
    for history, at, what in (
        (back, third, "had 7 entries before and has 3 now"),
        (swapped, second, "does not extend what was noted before"),
        (repeated, second + 1, "is noted with 7 entries already"),
        (foreign, second, "under another key before"),
    ):
        named = {m.index: m.what for m in forged(history, house).mismatches if m.promise == "log"}
        assert what in named[at]


@pytest.mark.parametrize(
    "ids", [{"proof": ""}, {"proof": "00" * 32}, {"proof": "no proof"}, {"note": "no note"}, {"key": "00"}, {"origin": "third.example/log"}]
)
def test_an_edited_entry_of_another_log_is_named(house: Story, told: list[Draft], ids: dict[str, str]) -> None:
    at = _noted(told)[1]
    told[at] = fresh("log_noted", told[at].header.at, told[at].header.ids | ids, {})
    assert at in {m.index for m in forged(told, house).mismatches if m.promise == "log"}


def test_a_checkpoint_of_an_empty_log_may_come_first() -> None:
    empty = Noted(origin=ORIGIN, key=OTHER.public.hex(), note=another_log(0).checkpoint())
    larger = replace(empty, note=another_log(2).checkpoint())
    assert require_following(empty, None).size == 0
    assert require_following(larger, empty).size == 2


def test_the_entry_says_all_of_it(told: list[Draft]) -> None:
    header = told[find(told, "log_noted")].header
    assert Noted.from_ids(header.ids).to_ids() == header.ids

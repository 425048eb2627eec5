"""A home signs no epoch that names exchanges otherwise than they stood, by its own fold of the log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app import compose
from policies.codec import encode
from policies.errors import Refused
from policies.escrow import Course
from policies.exchange import Exchange, exchange_digest
from policies.lineage import CarriedExchange, Epoch
from policies.odrl import agreement_document
from sandbox.audit.merkle import Frontier, leaf_hash
from sandbox.exchange import escrow
from sandbox.exchange.epochs import open_epoch
from sandbox.party.courses import exchange_file, misnamed
from sandbox.party.epochs import misnamed_exchanges, sign_epoch
from sandbox.party.followed import Followed
from sandbox.party.home import Home
from sandbox.web.application import make_app
from tests.support import exchanges as ex
from tests.support.forge import drafts
from tests.support.runs import Town, found_town
from tests.support.story import begin

MADE_UP = "sha256:" + "e" * 64


class Seen:
    """Exchanges at every stage, what homes followed of the log, and the epoch with which it ends."""

    def __init__(self, folder: Path) -> None:
        self.story = story = begin(folder / "host")
        name = ex.agreed(story, "many")
        now = story.clock.at // 1000
        self.proposed = ex.exchange(ex.data_leg(name), ex.order_leg(), uid="proposed", accept_by=now + 86_400, deadline=now + 30 * 86_400)
        ex.propose(story, self.proposed)
        self.half = ex.begun(story, name, uid="half")
        ex.delivered(story, self.half, 1, "half")
        self.gone = ex.begun(story, name, uid="gone")
        ex.did(story, "clinic", self.gone, "withdraw")
        self.right = ex.begun(story, name, second=ex.scenario_leg(name), uid="right")
        ex.delivered(story, self.right, 1, "right")
        ex.did(story, "insurer", self.right, "give", 2, name)
        ex.did(story, "insurer", self.right, "acknowledge", 1, ex.sealed_of(story, self.right, 1))
        ex.did(story, "clinic", self.right, "acknowledge", 2, name)
        ex.delivered(story, self.right, 2, "use-1")
        self.log = [draft.data for draft in drafts(story.host)]
        self.part, self.whole = self.folded(len(self.log) - 4), self.folded(len(self.log))
        self.homes = {kind: self.home(folder / kind, name, kind == "party") for kind in ("party", "stranger")}
        story.host, self.epoch = open_epoch(story.host, {})

    def folded(self, size: int) -> Followed:
        followed = Followed()
        for index, draft in enumerate(drafts(self.story.host)[:size]):
            followed = followed.noted(draft.header, index)
        return replace(followed, frontier=Frontier().extend([leaf_hash(data) for data in self.log[:size]]))

    def home(self, folder: Path, agreement: str, takes_part: bool) -> Home:
        home = Home.create(folder, "insurer", "Insurer", "http://host.test")
        with self.story.host.store.reading() as tx:
            stored = tx.agreement(agreement)
        assert stored is not None
        home.write(f"agreements/{agreement.removeprefix('sha256:')}.json", agreement_document(stored.agreement))
        for document in (self.proposed, self.half, self.gone, self.right) if takes_part else ():
            home.write(exchange_file(exchange_digest(document)), encode(document))
        return home

    def wrong(self, epoch: Epoch, kind: str = "party", former: Followed | None = None) -> list[str]:
        """Digests of the exchanges that a home says are misnamed."""
        now = self.story.clock.at // 1000
        return [item.exchange for item in misnamed(self.homes[kind], epoch, former or self.whole, {}, now)]

    def naming(self, document: Exchange | str, course: Course | None) -> Epoch:
        """The epoch with another course of an exchange, or without it."""
        name = document if isinstance(document, str) else exchange_digest(document)
        named = {item.exchange: item for item in self.epoch.exchanges if item.exchange != name}
        if course is not None:
            named[name] = CarriedExchange(exchange=name, course=course)
        return replace(self.epoch, exchanges=tuple(item for _, item in sorted(named.items())))

    def course(self, document: Exchange) -> Course:
        return next(item.course for item in self.epoch.exchanges if item.exchange == exchange_digest(document))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    found = Seen(tmp_path_factory.mktemp("seen"))
    yield found
    found.story.host.store.close()


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    found = found_town(tmp_path / "town")
    yield found
    found.close()


@pytest.mark.parametrize("kind", ["party", "stranger"])
def test_an_honest_epoch_is_right_for_whoever_saw_all_or_part_of_the_log(seen: Seen, kind: str) -> None:
    assert {item.course.stage for item in seen.epoch.exchanges} == {"expired", "returned", "handed_over"}
    for former in (seen.whole, seen.part, Followed(), replace(seen.whole, partial=True)):
        assert seen.wrong(seen.epoch, kind, former) == []


def test_a_right_is_neither_lost_nor_given_back_jobs_nor_turned_into_a_return(seen: Seen) -> None:
    course = seen.course(seen.right)
    back = replace(course, second=replace(course.second, charged=0))
    other = replace(course, first=replace(course.first, given=MADE_UP))
    for changed in (None, replace(course, stage="returned"), back, other):
        assert seen.wrong(seen.naming(seen.right, changed)) == [exchange_digest(seen.right)]
    more = replace(course, second=replace(course.second, charged=2))
    assert seen.wrong(seen.naming(seen.right, more), former=seen.part) == [], "jobs may have followed behind what this home saw"


def test_what_was_handed_over_stays_so_for_a_home_that_saw_no_more_of_the_log(seen: Seen) -> None:
    returned = seen.naming(seen.right, replace(seen.course(seen.right), stage="returned"))
    for kind in ("party", "stranger"):
        assert seen.wrong(returned, kind, replace(seen.whole, frontier=seen.part.frontier)) == [exchange_digest(seen.right)]


def test_what_was_under_way_returns_and_is_not_left_out_or_handed_over(seen: Seen) -> None:
    over = seen.course(seen.right)
    for document in (seen.half, seen.proposed):
        for changed in (None, over, replace(seen.course(document), stage="withdrawn")):
            assert seen.wrong(seen.naming(document, changed)) == [exchange_digest(document)]
    assert seen.wrong(seen.naming(seen.gone, seen.course(seen.half))) == [exchange_digest(seen.gone)]


def test_who_takes_no_part_refuses_rights_that_the_log_never_handed_over(seen: Seen) -> None:
    over = seen.course(seen.right)
    for document in (seen.half, seen.gone, MADE_UP):
        name = document if isinstance(document, str) else exchange_digest(document)
        assert seen.wrong(seen.naming(document, over), "stranger") == [name]
        assert seen.wrong(seen.naming(document, over), "stranger", Followed()) == [], "whoever saw nothing knows nothing"


def test_acts_that_nobody_signed_move_nothing_at_home(seen: Seen) -> None:
    name = exchange_digest(seen.half)
    rows = [dict(row) for row in seen.whole.exchanges[name]]
    acted = next(row for row in rows if row["kind"] == "exchange_act")
    false = {**acted, "ids": {**acted["ids"], "act": "withdraw", "participant": "clinic", "about": "", "leg": "0"}}
    former = replace(seen.whole, exchanges={**seen.whole.exchanges, name: [*rows, false]})
    assert seen.wrong(seen.epoch, former=former) == []


def test_the_home_refuses_by_name_and_signs_only_what_its_owner_accepts(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    insurer = town.clients["insurer"]
    insurer.followed_agreement(town.agreement)
    made_up = CarriedExchange(exchange=MADE_UP, course=Course(stage="returned", proposer="clinic"))
    monkeypatch.setattr(escrow, "at_end_of_log", lambda tx, now: (made_up,))
    open_epoch(town.host, {})
    town.host.store.close()
    town.host = compose(replace(town.host.config, origin="town.test/log"))
    town.app = make_app(town.host)
    insurer = town.client(insurer.home)
    with pytest.raises(Refused, match=MADE_UP) as caught:
        sign_epoch(insurer)
    assert caught.value.code == "epoch-exchanges"
    assert [item.exchange for item in misnamed_exchanges(insurer, sign_epoch(insurer, [MADE_UP]))] == [MADE_UP]

"""Following a log: history is neither rewound nor rewritten unseen, and the totals are one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.kit.signatures import SigningKey
from policies.agreement import LogIdentity
from policies.canonical import canonical
from policies.entries import LedgerCharge
from policies.errors import SandboxError, Tampered, Unavailable
from sandbox.audit.checkpoint import Checkpoint, sign
from sandbox.audit.merkle import Frontier, leaf_hash
from sandbox.party import following
from sandbox.party.following import Followed, Follower
from sandbox.party.home import Home
from tests.support.forge import Draft, fresh

ORIGIN = "log.test/one"


@dataclass
class Log:
    """A log whose operator may do with it what it likes; it owns the key."""

    entries: list[Draft] = field(default_factory=list)
    key: SigningKey = field(default_factory=SigningKey.generate)
    origin: str = ORIGIN
    fetched: list[str] = field(default_factory=list)

    @property
    def identity(self) -> LogIdentity:
        return LogIdentity(origin=self.origin, key=self.key.public.hex())

    def note(self, size: int | None = None) -> str:
        """A well signed checkpoint over the first `size` entries."""
        leaves = [leaf_hash(draft.data) for draft in self.entries[:size]]
        return sign(Checkpoint(origin=self.origin, size=len(leaves), root=Frontier().extend(leaves).root()), self.key)

    def fetch(self, path: str) -> str:
        self.fetched.append(path)
        first, end = (int(part.partition("=")[2]) for part in path.partition("?")[2].split("&"))
        return canonical({"entries": [draft.data.decode() for draft in self.entries[first:end]]}).decode()

    def follow(self, home: Home, size: int | None = None) -> Followed:
        return Follower(home=home, fetch=self.fetch).follow(self.note(size), self.identity)


def charge(job: str, amount: int = 100, provider: str = "insurer", id_space: str = "people") -> Draft:
    return fresh("charged", 1, {"job": job}, {"job": job}, (LedgerCharge(provider=provider, id_space=id_space, amount=amount),))


def filler(number: int) -> Draft:
    return fresh("declared", number, {"dataset": f"a.d{number}"}, {"number": number})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", "insurer", "First Insurance", "http://host.test")


@pytest.fixture
def log() -> Log:
    return Log(entries=[filler(0), charge("job-1"), filler(1), charge("job-2", 40), filler(2)])


def test_totals_count_what_stands_before_a_charge_on_its_ledger(home: Home, log: Log) -> None:
    log.entries += [charge("job-3", 7, provider="clinic"), charge("job-4", 9, id_space="others"), charge("job-5", 1)]
    followed = log.follow(home)
    spent = {job: followed.spent_before(job, "insurer", "people").amount for job in ("job-1", "job-2", "job-5", "job-unknown")}
    assert spent == {"job-1": 0, "job-2": 100, "job-5": 140, "job-unknown": 141}
    assert followed.spent_before("job-5", "clinic", "people").amount == 7


def test_only_new_entries_are_fetched_and_the_result_is_the_same(home: Home, log: Log, tmp_path: Path) -> None:
    for size in (1, 2, 2, 5):
        stepwise = log.follow(home, size)
    assert log.fetched == ["entries?from=0&to=1", "entries?from=1&to=2", "entries?from=2&to=5"]
    assert stepwise == log.follow(Home.create(tmp_path / "other", "clinic", "Clinic", "http://host.test"))


def test_long_logs_come_in_pages(home: Home, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAGE", 2)
    assert log.follow(home).frontier.size == 5
    assert log.fetched == ["entries?from=0&to=2", "entries?from=2&to=4", "entries?from=4&to=5"]


FORGERIES: dict[str, Callable[[Log], str]] = {
    "rewound": lambda log: log.note(3),
    "rewound to nothing": lambda log: log.note(0),
    "rewritten at the same size": lambda log: _edit(log).note(),
    "rewritten and longer": lambda log: _edit(log, grow=True).note(),
    "an entry dropped and one added": lambda log: _drop(log).note(),
    "signed with another key": lambda log: replace(log, key=SigningKey.generate()).note(),
    "of another origin": lambda log: replace(log, origin="log.test/two").note(),
}
CODES = ["rolled-back", "rolled-back", "rewritten", "rewritten", "rewritten", "checkpoint-signature", "checkpoint-signature"]


def _edit(log: Log, *, grow: bool = False) -> Log:
    log.entries[1] = log.entries[1].edited(at=999)
    log.entries += [filler(9)] if grow else []
    return log


def _drop(log: Log) -> Log:
    log.entries = [*log.entries[:1], *log.entries[2:], filler(8), filler(9)]
    return log


@pytest.mark.parametrize(("how", "code"), list(zip(FORGERIES, CODES, strict=True)))
def test_a_changed_history_is_noticed_and_what_was_seen_is_kept(home: Home, log: Log, how: str, code: str) -> None:
    honest = Log(entries=list(log.entries), key=log.key)
    seen, identity = honest.follow(home), honest.identity
    kept = sorted((path, path.read_bytes()) for path in (home.folder / "logs").iterdir())
    note = FORGERIES[how](log)
    with pytest.raises(SandboxError) as caught:
        Follower(home=home, fetch=log.fetch).follow(note, identity)
    assert isinstance(caught.value, Tampered)
    assert caught.value.code == code
    assert sorted((path, path.read_bytes()) for path in (home.folder / "logs").iterdir()) == kept
    honest.entries.append(charge("job-9"))
    assert honest.follow(home).spent_before("job-9", "insurer", "people") == seen.spent_before("job-9", "insurer", "people")


def test_a_job_charged_twice_is_noticed(home: Home, log: Log) -> None:
    log.entries.append(charge("job-1", 1))
    with pytest.raises(Tampered) as caught:
        log.follow(home)
    assert caught.value.code == "charged-twice"


def test_a_page_that_is_too_short_or_too_long_is_noticed(home: Home, log: Log) -> None:
    for fetch in (lambda path: '{"entries":[]}', lambda path: canonical({"entries": [d.data.decode() for d in log.entries] * 2}).decode()):
        with pytest.raises(Tampered) as caught:
            Follower(home=home, fetch=fetch).follow(log.note(), log.identity)
        assert caught.value.code == "rewritten"


def test_logs_of_two_origins_are_followed_apart(home: Home, log: Log) -> None:
    other = Log(entries=[charge("job-1", 5)], origin="log.test/two")
    assert log.follow(home).frontier.size == 5
    assert other.follow(home).spent_before("none", "insurer", "people").amount == 5
    assert log.follow(home).spent_before("none", "insurer", "people").amount == 140


def test_a_second_tree_under_the_same_origin_and_another_key_is_refused(home: Home, log: Log) -> None:
    log.follow(home)
    longer = Log(entries=[*log.entries, charge("job-9", 5)])  # its totals would be paid from a second time
    for other in (Log(entries=[charge("job-1", 5)]), Log(entries=list(log.entries)), longer):
        with pytest.raises(Tampered):
            other.follow(home)
    assert log.follow(home).spent_before("none", "insurer", "people").amount == 140


def test_nothing_is_kept_of_a_log_whose_fetching_broke_off(home: Home, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAGE", 2)

    def fetch(path: str) -> str:
        if "from=2" in path:
            raise Unavailable("gone", code="unreachable")
        return log.fetch(path)

    with pytest.raises(Unavailable):
        Follower(home=home, fetch=fetch).follow(log.note(), log.identity)
    assert not (home.folder / "logs").exists()
    assert log.follow(home).frontier.size == 5


@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=5), edited=st.integers(0, 11))
@settings(max_examples=40, deadline=None)
def test_whatever_sizes_were_seen_an_edit_below_the_largest_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], edited: int
) -> None:
    folder = tmp_path_factory.mktemp("follow")
    log = Log(entries=[filler(number) for number in range(12)])
    largest = 0
    for size in sizes:
        if size < largest:
            with pytest.raises(Tampered):
                log.follow(Home(folder=folder), size)
            continue
        largest = log.follow(Home(folder=folder), size).frontier.size
    log.entries[edited] = log.entries[edited].edited(at=12345)
    if edited < largest:
        with pytest.raises(Tampered):
            log.follow(Home(folder=folder), 12)
    else:
        assert log.follow(Home(folder=folder), 12).frontier.size == 12

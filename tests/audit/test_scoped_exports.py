"""An auditor's credential opens what its scopes give, and the replay of such an export says exactly what was closed and why."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app import compose
from enclaves.kit.signatures import SigningKey
from policies.agreement import MAX_TIME
from policies.audit_scope import OPENABLE, AuditScope, SignedAuditScope
from policies.canonical import canonical
from policies.codec import encode
from policies.entries import parse_header
from policies.errors import Forbidden, Malformed, NotFound
from sandbox.audit.export import READER_PATH, openings_path, parse_openings, render_openings
from sandbox.audit.reading import Reader
from sandbox.audit.replay import replay
from sandbox.audit.verdict import Verdict
from sandbox.config import Config
from sandbox.exchange.scopes import decided_openings, give_scope, scopes_of
from tests.support.acts import sign_audit_scope
from tests.support.forge import drafts, find, forged, fresh
from tests.support.story import Clock, Story, begin, export, signed_terms

EXAMINER = "stranger"
"""Admitted, and no party of any agreement."""

OTHER = SigningKey.generate()


class Told:
    """A history with one agreement, a released job, a denied one, and what providers give to the examiner."""

    def __init__(self, story: Story, agreement: str) -> None:
        self.story, self.agreement = story, agreement
        self.sequence = dict.fromkeys([(owner, who) for owner in ("insurer", "clinic") for who in (EXAMINER, "auditor")], 0)

    def give(self, owner: str, auditor: str = EXAMINER, by: str = "", **change: Any) -> SignedAuditScope:
        """The next scope of an owner, or one bent by `change`, sent by `by`."""
        self.sequence[owner, auditor] = sequence = self.sequence.get((owner, auditor), 0) + 1
        values = {"agreement": self.agreement, "owner": owner, "auditor": auditor, "sequence": sequence, "openings": OPENABLE}
        scope = AuditScope(**(values | {"not_before": 0, "not_after": MAX_TIME} | change))
        by = by or owner
        try:
            return give_scope(self.story.host, self.story.member(by), self.story.firms[by].sign("audit-scope", scope))
        except Exception:
            self.sequence[owner, auditor] -= 1
            raise

    def export(self, who: str = EXAMINER, **reader: Any) -> dict[str, bytes]:
        """What that participant exports now."""
        found = export(self.story.host, who)
        made = Reader(**({"participant": who, "at": self.story.clock.at // 1000} | reader))
        return found | {READER_PATH: canonical(encode(made))}

    def verdict(self, who: str = EXAMINER, **options: Any) -> Verdict:
        """The replay of that export."""
        return replay(self.export(who).__getitem__, self.story.host.log_identity, **options)

    def opened(self, who: str = EXAMINER) -> set[str]:
        """Kinds of entries under the agreement of which that participant reads an opening."""
        files = self.export(who)
        found = set()
        with self.story.host.store.reading() as tx:
            for opening in parse_openings(files[openings_path(0)]):
                kind = parse_header(tx.entries(opening.index, opening.index + 1)[0]).kind
                found |= {kind} & set(OPENABLE)
        return found


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Story, str]:
    """A history that every test goes on from in a copy."""
    folder = tmp_path_factory.mktemp("scoped")
    story = begin(folder / "story")
    agreement = story.agree(signed_terms(story))
    story.ask("released", epsilon="0.5", agreement=agreement)
    story.ask("denied", epsilon="2", agreement=agreement)
    story.host.store.close()
    return folder / "story", story, agreement


@pytest.fixture
def told(history: tuple[Path, Story, str], tmp_path: Path) -> Iterator[Told]:
    folder, story, agreement = history
    clock = Clock(at=story.clock.at)
    host = replace(compose(Config(data=shutil.copytree(folder, tmp_path / "story"))), now=clock)
    yield Told(replace(story, host=host, clock=clock, firms=dict(story.firms)), agreement)
    host.store.close()


def test_scopes_open_narrow_and_close_and_every_export_replays(told: Told) -> None:
    """One history, step by step: nothing, one of two owners, both, fewer kinds, a window that ends, taken back."""
    story = told.story
    assert told.opened() == set()
    before = told.verdict()
    assert before.mismatches == ()
    assert before.reading is not None
    assert before.reading.scopes == ()

    told.give("insurer")
    assert told.opened() == {"key_released"}, "what the insurer alone has signed, and nothing that is the clinic's, too"
    told.give("clinic")
    assert told.opened() == {
        "proposed", "signed", "agreed", "decided", "charged", "granted", "running", "attested", "key_released", "released"
    }  # fmt: skip
    whole = told.verdict()
    assert whole.ok, whole
    assert whole.reading is not None
    assert whole.reading.closed == ()
    assert [scope.owner for scope in whole.reading.scopes] == ["clinic", "insurer"]

    told.give("clinic", openings=("proposed", "signed", "agreed", "charged", "key_released"))
    assert told.opened() == {"proposed", "signed", "agreed", "charged", "key_released"}
    narrowed = told.verdict(processes=1)
    assert narrowed.mismatches == ()
    assert not narrowed.ok
    assert narrowed.promises["decisions"] == "unopened"
    assert narrowed.promises["budgets"] == "unopened"
    assert narrowed.reading is not None
    said = {(item.kind, item.entries): item.why for item in narrowed.reading.closed}
    assert said[("decided", 2)] == ("scope 2 of `clinic` does not open `decided`",)
    assert {kind for kind, _ in said} == {"decided", "granted", "running", "attested", "released"}

    now = story.clock.at // 1000
    told.give("insurer", not_after=now + 1000)
    assert "charged" in told.opened()
    story.clock.at += 2_000_000
    assert told.opened() == {"key_released"}, "the insurer's window has ended, the clinic's has not"
    ended = told.verdict()
    assert ended.mismatches == ()
    assert ended.reading is not None
    assert any("ended at" in why for item in ended.reading.closed for why in item.why)

    told.give("insurer", openings=())
    told.give("clinic", openings=())
    assert told.opened() == set()
    assert told.verdict("institute").ok, "what auditors may open changes nothing for the parties"
    assert told.verdict("auditor").ok


def test_what_may_be_given_by_whom_for_whom(told: Told) -> None:
    """Everything that is refused leaves the log as it was."""
    story = told.story
    with story.host.store.reading() as tx:
        size = tx.log_size()
    with pytest.raises(Forbidden):
        told.give("insurer", by="clinic")
    with pytest.raises(NotFound):
        told.give("stranger", "auditor")
    with pytest.raises(Malformed, match="provides nothing"):
        told.give("institute")
    with pytest.raises(Malformed, match="takes part"):
        told.give("insurer", "clinic")
    with pytest.raises(NotFound):
        told.give("insurer", "nobody")
    with pytest.raises(NotFound):
        told.give("insurer", agreement="sha256:" + "0" * 64)
    with pytest.raises(Malformed) as caught:
        told.give("insurer", sequence=2)
    assert caught.value.code == "audit-scope-sequence"
    unknown = {**encode(_scope(told.agreement)), "columns": ["plans"]}
    with pytest.raises(Malformed):
        give_scope(story.host, story.member("insurer"), story.firms["insurer"].sign("audit-scope", unknown))
    with story.host.store.reading() as tx:
        assert tx.log_size() == size
    given = told.give("insurer")
    again = give_scope(story.host, story.member("insurer"), story.firms["insurer"].sign("audit-scope", given.scope))
    assert again == given
    with story.host.store.reading() as tx:
        assert tx.log_size() == size + 1
    assert scopes_of(story.host, story.member("institute"), told.agreement) == (given,)
    assert scopes_of(story.host, story.member(EXAMINER), told.agreement) == (given,)
    story.admit("passer_by")
    with pytest.raises(NotFound):
        scopes_of(story.host, story.member("passer_by"), told.agreement)


def test_a_denial_is_explained_and_says_nothing_of_other_agreements(told: Told) -> None:
    story = told.story
    assert decided_openings(story.host, story.member(EXAMINER), 0, 100) == ()
    told.give("insurer", openings=("decided",))
    found = decided_openings(story.host, story.member(EXAMINER), 0, 100)
    decided = [item for item in found if item.kind == "decided"]
    assert decided
    assert not any(item.decision.allowed for item in decided)
    findings = {item.owner: item for item in decided[0].decision.findings}
    assert findings["insurer"].allowed
    assert findings["clinic"].remedy == "`clinic` signs a scope with `decided`"
    charged = next(item for item in found if item.kind == "charged")
    assert [item.rule for item in charged.decision.findings] == ["scope", "openings"]


def test_an_auditor_of_the_agreement_is_narrowed_by_an_owner_alone(told: Told) -> None:
    assert told.verdict("auditor").ok
    told.give("clinic", "auditor", openings=("proposed", "signed", "agreed"))
    assert told.opened("auditor") == {"proposed", "signed", "agreed", "key_released"}
    narrowed = told.verdict("auditor")
    assert narrowed.mismatches == ()
    assert not narrowed.ok


def _scope(agreement: str, **change: Any) -> AuditScope:
    values = {"agreement": agreement, "owner": "insurer", "auditor": EXAMINER, "sequence": 1, "openings": OPENABLE}
    return AuditScope(**(values | {"not_before": 0, "not_after": MAX_TIME} | change))


def test_a_host_that_widens_is_caught(told: Told) -> None:
    """It hands out openings that nobody gave, writes scopes that nobody signed, or signed for something else."""
    story = told.story
    told.give("insurer")
    told.give("clinic", openings=("proposed", "signed", "agreed", "charged"))
    more = told.export()
    with story.host.store.reading() as tx:
        more[openings_path(0)] = render_openings(tx.openings(0, tx.log_size(), None))
    widened = replay(more.__getitem__, story.host.log_identity)
    assert {mismatch.kind for mismatch in widened.mismatches} == {"openings"}
    assert any("`decided`" in mismatch.what and EXAMINER in mismatch.what for mismatch in widened.mismatches)

    entries = drafts(story.host)
    at = find(entries, "audit_scoped", participant="clinic")
    time, ids = entries[at].header.at, entries[at].header.ids

    def verdict_of(new: dict[str, str], *, instead: bool = True) -> Verdict:
        entry = fresh("audit_scoped", time, new, {})
        return forged([*entries[:at], entry, *entries[at + 1 if instead else at :]], story)

    def caught(found: Verdict) -> bool:
        return any(item.index == at and item.promise == "signatures" for item in found.mismatches)

    wide = _scope(told.agreement, owner="clinic")
    assert caught(verdict_of(sign_audit_scope(wide, OTHER).to_ids())), "signed by a key of the host's"
    assert caught(verdict_of(ids | {"scope": canonical(encode(wide)).decode()})), "another scope over an old signature"
    assert caught(verdict_of(ids | {"signature": "00" * 64})), "no signature"
    assert verdict_of(ids, instead=False).mismatches, "a scope stands twice"
    by_consumer = sign_audit_scope(_scope(told.agreement, owner="institute"), story.firms["institute"].signing)
    assert caught(verdict_of(by_consumer.to_ids())), "a consumer gives nothing away"
    later = canonical(encode(_scope(told.agreement, owner="clinic")) | {"columns": []}).decode()
    assert caught(verdict_of(ids | {"scope": later})), "a term that the law does not know"


def test_openings_that_were_given_and_are_not_there_are_named(told: Told) -> None:
    told.give("insurer")
    told.give("clinic")
    files = told.export()
    kept = [opening for opening in parse_openings(files[openings_path(0)]) if "decision" not in opening.body]
    verdict = replay((files | {openings_path(0): render_openings(kept)}).__getitem__, told.story.host.log_identity)
    assert verdict.mismatches == ()
    assert verdict.reading is not None
    assert [(item.kind, item.entries) for item in verdict.reading.closed] == [("decided", 2)]
    assert "erased or kept back" in verdict.reading.closed[0].why[0]


@pytest.mark.parametrize("reader", [b"", b"{}", b'{"at":1,"kind":"reader/2","participant":"x"}'])
def test_a_reader_that_cannot_be_read_is_a_mismatch(told: Told, reader: bytes) -> None:
    verdict = replay((told.export() | {READER_PATH: reader}).__getitem__, told.story.host.log_identity)
    assert [mismatch.kind for mismatch in verdict.mismatches] == ["openings"]

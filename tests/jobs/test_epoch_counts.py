"""What consumers used up counts on in a log that begins anew: for the service, for brokers at home, and in the replay of the new log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from policies.acts import DutyDone, JobApproval
from policies.canonical import canonical
from policies.codec import encode
from policies.conditions import DAY_S, Approvals, Payment, RowQuota
from policies.counts import Counts, Used
from policies.errors import Conflict
from policies.lineage import Epoch
from policies.plan import parse_plan
from policies.privacy import parse_epsilon
from policies.request import ScoredFact, UsesFact
from sandbox.audit.export import LINEAGE_PATH
from sandbox.audit.merkle import Frontier, leaf_hash
from sandbox.audit.replay import replay
from sandbox.exchange import epochs
from sandbox.exchange.epochs import epoch_state, open_epoch, sign_epoch
from sandbox.jobs import handout
from sandbox.jobs.approve import approve
from sandbox.jobs.duties import is_over, report_duty
from sandbox.jobs.states import Job
from sandbox.party.acts import scored_before, uses_before
from sandbox.party.followed import Followed
from sandbox.store.schema import former_entries, former_receipts
from tests.audit.test_scored_calls import told_story
from tests.support import terms
from tests.support.forge import drafts
from tests.support.scoring import MODEL, NOTHING, SQL, call
from tests.support.service import DATABASES, fresh_database
from tests.support.story import Story, begin, export


@pytest.fixture(params=DATABASES if os.environ.get("SANDBOX_FULL") else DATABASES[:1])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Everybody is admitted; in the end the log in force replays."""
    with fresh_database(str(request.param)) as url:
        found = begin(tmp_path_factory.mktemp("counts"), url)
        yield found
        assert mismatches(found) == []
        found.host.store.close()


def mismatches(story: Story) -> list[str]:
    """What a replay of the log in force finds wrong."""
    files = dict(export(story.host, "insurer"))
    with story.host.store.reading() as tx:
        files[LINEAGE_PATH] = canonical({"links": encode(tx.log_links())})
    return [item.what for item in replay(files.__getitem__, story.host.log_identity).mismatches]


def begin_anew(story: Story, *counts: Counts, signed: bool = True) -> Epoch:
    """Open an epoch and have it signed."""
    story.host, epoch = open_epoch(story.host, {}, counts)
    for name in epoch.providers if signed else ():
        sign_epoch(story.host, story.member(name), story.firms[name].sign("epoch", epoch))
    assert not signed or epoch_state(story.host).complete
    return epoch


def followed(story: Story, epoch: Epoch | None = None) -> Followed:
    """What a home folds of the log in force."""
    found = Followed() if epoch is None else Followed(opening=epoch.counts or Counts())
    data = drafts(story.host)
    for index, draft in enumerate(data):
        found = found.noted(draft.header, index)
    return replace(found, frontier=Frontier().extend([leaf_hash(draft.data) for draft in data]))


def agreed(story: Story, uid: str, **insurer: Any) -> str:
    """The digest of an agreement with changed terms of the insurer."""
    budget = {"total_loss": parse_epsilon("50")}
    story.agreement = story.sealed_agreement(terms=(terms.terms_insurer(**budget, **insurer), terms.terms_clinic(**budget)), uid=uid)
    return story.agree(story.agreement)


def ask(story: Story, label: str, agreement: str, epsilon: str) -> Job:
    return story.ask(label, epsilon=epsilon, agreement=agreement, sql=terms.COUNT_SQL)


def rules(job: Job) -> list[str]:
    return [finding.rule for finding in job.decision.findings if not finding.allowed]


def paid(story: Story, agreement: str, number: int) -> None:
    done = DutyDone(agreement=agreement, duty="payment", about="institute", number=number)
    report_duty(story.host, story.member("insurer"), story.firms["insurer"].sign("duty-done", done))


def at_home(story: Story, name: str, epoch: Epoch) -> UsesFact:
    """What the insurer's broker counts by its own copy of the new log."""
    agreement = story.agreement
    assert agreement is not None
    plan = parse_plan(terms.COUNT_SQL, agreement.by_dataset)
    (found,) = uses_before(followed(story, epoch), "", name, agreement, plan, "institute")
    return found


def test_uses_count_on_at_the_service_at_home_and_in_the_replay(story: Story) -> None:
    name = agreed(story, "three", uses=3)
    for epsilon in ("0.1", "0.2"):
        assert ask(story, f"u-{epsilon[2:]}", name, epsilon).state == "released"
    epoch = begin_anew(story)
    assert epoch.counts is not None
    assert epoch.counts.uses == (Used(agreement=name, provider="insurer", consumer="institute", jobs=2),)
    assert at_home(story, name, epoch) == UsesFact(provider="insurer", jobs=2, own=2)
    third = ask(story, "third", name, "0.3")
    assert third.facts.uses == (UsesFact(provider="insurer", jobs=2, own=2),)
    assert third.state == "released"
    assert at_home(story, name, epoch) == UsesFact(provider="insurer", jobs=3, own=3)
    assert rules(ask(story, "fourth", name, "0.4")) == ["uses"]
    assert mismatches(story) == []
    again = begin_anew(story)
    assert at_home(story, name, again) == UsesFact(provider="insurer", jobs=3, own=3)
    assert rules(ask(story, "fifth", name, "0.5")) == ["uses"]


def test_what_waits_for_approvals_ends_with_the_log_and_may_be_asked_anew(story: Story) -> None:
    name = agreed(story, "approved", approvals=Approvals(need=2, of=("insurer", "clinic", "institute")))
    waiting = ask(story, "waits", name, "0.1")
    assert waiting.state == "awaiting_approval"
    begin_anew(story)
    approval = JobApproval(agreement=name, job=waiting.id, request=waiting.request_digest)
    signed = story.firms["clinic"].sign("job-approval", approval)
    with pytest.raises(Conflict) as ended:
        approve(story.host, story.member("clinic"), signed)
    assert ended.value.code == "job-state"
    with story.host.store.reading() as tx:
        known = tx.job(waiting.id)
    assert known is not None
    assert (known.state, known.code) == ("expired", "log-ended")
    assert ask(story, "asks-anew", name, "0.2").state == "awaiting_approval"
    assert mismatches(story) == []


def test_payments_go_on_with_their_number_and_count(story: Story) -> None:
    name = agreed(story, "paid", payment=Payment(amount="10", currency="CNY", per="job"))
    paid(story, name, 1)
    paid(story, name, 2)
    assert ask(story, "p1", name, "0.1").state == "released"
    epoch = begin_anew(story)
    assert at_home(story, name, epoch) == UsesFact(provider="insurer", jobs=1, own=1, paid=2)
    assert ask(story, "p2", name, "0.2").state == "released"
    assert rules(ask(story, "p3", name, "0.3")) == ["payment"]
    with pytest.raises(Conflict):
        paid(story, name, 2 + 2)
    paid(story, name, 3)
    assert at_home(story, name, epoch).paid == 3
    assert ask(story, "p4", name, "0.4").state == "released"


def test_reports_of_deletion_stay_with_the_log_of_their_job_and_releases_go_in_time(story: Story) -> None:
    name = agreed(story, "deleted", delete_after=30)
    first, second = (ask(story, f"d-{epsilon[2:]}", name, epsilon) for epsilon in ("0.1", "0.2"))
    done = DutyDone(agreement=name, duty="deletion", about=first.id, number=1)
    report_duty(story.host, story.member("institute"), story.firms["institute"].sign("duty-done", done))
    begin_anew(story)
    assert not [draft for draft in drafts(story.host) if draft.header.kind == "duty_done"]
    with story.host.store.reading() as tx:
        assert handout.release(tx, second, story.host.now())
        with pytest.raises(Exception, match="deleted"):
            handout.release(tx, second, story.host.now() + 31 * DAY_S * 1000)
    assert ask(story, "d-after", name, "0.3").state == "released"


def test_without_a_receipt_a_release_of_a_former_log_goes_by_its_own_entry(story: Story) -> None:
    name = agreed(story, "unkept", delete_after=30)
    job = ask(story, "u-1", name, "0.1")
    begin_anew(story)
    now = story.host.now()
    with story.host.store.transaction() as tx:
        agreement = tx.terms(name)
        assert agreement is not None
        tx.connection.execute(delete(former_receipts))
        assert [is_over(tx, job, agreement, now + days * DAY_S * 1000) for days in (0, 29, 31)] == [False, False, True]
        tx.connection.execute(delete(former_entries))
        assert is_over(tx, job, agreement, now), "nothing records it"


def test_what_homes_saw_and_the_log_lost_is_raised_and_nothing_is_lowered(story: Story) -> None:
    name = agreed(story, "raised", uses=3)
    assert ask(story, "r1", name, "0.1").state == "released"
    seen = Used(agreement=name, provider="insurer", consumer="institute", jobs=3)
    fewer = Used(agreement=name, provider="clinic", consumer="institute", jobs=0)
    epoch = begin_anew(story, Counts(uses=(seen,)), Counts(uses=(fewer, replace(seen, jobs=0))))
    assert at_home(story, name, epoch).jobs == 3
    assert rules(ask(story, "r2", name, "0.2")) == ["uses"]


def test_an_epoch_that_nobody_signed_is_replaced_by_one_that_counts_the_same(story: Story) -> None:
    name = agreed(story, "replaced", uses=2)
    assert ask(story, "e1", name, "0.1").state == "released"
    first, second = begin_anew(story, signed=False), begin_anew(story)
    assert first.counts == second.counts != Counts()
    assert ask(story, "e2", name, "0.2").state == "released"
    assert rules(ask(story, "e3", name, "0.3")) == ["uses"]


def test_a_log_that_began_with_an_epoch_without_counts_replays_and_the_next_epoch_counts_everything(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As deployments have it whose epoch was opened before epochs had counts: the service counted on from its tables."""
    name = agreed(story, "old", uses=3)
    assert ask(story, "o1", name, "0.1").state == "released"
    with monkeypatch.context() as patch:
        patch.setattr(epochs, "_counted", lambda tx, known: None)
        assert begin_anew(story).counts is None
    second = ask(story, "o2", name, "0.2")
    assert second.facts.uses == (UsesFact(provider="insurer", jobs=1, own=1),)
    assert mismatches(story) == []
    epoch = begin_anew(story)
    assert at_home(story, name, epoch) == UsesFact(provider="insurer", jobs=2, own=2)
    assert ask(story, "o3", name, "0.3").state == "released"
    assert rules(ask(story, "o4", name, "0.4")) == ["uses"]


def test_scored_rows_count_on_until_their_days_are_over(tmp_path: Path) -> None:
    story, name = told_story(tmp_path, scored_rows=RowQuota(rows=20, days=7), score_decimals=3)

    def score(label: str, rows: int) -> Job:
        sql = f"{SQL} WHERE visits < {100 + rows}"
        return story.ask(label, agreement=name, sql=sql, loss=NOTHING, scoring=call(rows=rows))

    assert score("first", 12).state == "released"
    epoch = begin_anew(story)
    agreement = story.agreement
    assert agreement is not None
    denied = score("beyond", 9)
    assert rules(denied) == ["scored_rows"]
    assert denied.facts.scored == (ScoredFact(dataset=MODEL, rows=12),)
    home = scored_before(followed(story, epoch), "", name, agreement, denied.plan, "institute", story.clock.at // 1000)
    assert home == denied.facts.scored
    assert score("fits", 8).state == "released"
    story.clock.at += 8 * DAY_S * 1000
    assert score("later", 12).state == "released"
    assert mismatches(story) == []
    story.host.store.close()

"""What parties do under an agreement in force: tighten, approve, pay, delete. The host obeys, and a replay judges all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from policies.acts import DutyDone, JobApproval, JobCancellation, attributions_of
from policies.conditions import DAY_S, Approvals, Payment
from policies.errors import Conflict, Forbidden, Malformed, NotFound
from policies.privacy import parse_epsilon
from policies.tightening import Tightening
from sandbox.audit.replay import replay
from sandbox.cli.releases import show_duties
from sandbox.exchange.paging import Page
from sandbox.exchange.tightening import tighten, tightenings_of
from sandbox.jobs import handout
from sandbox.jobs.approve import WAIT_MS, approve, cancel, expire
from sandbox.jobs.duties import report_duty
from sandbox.jobs.record import record_failure
from sandbox.jobs.states import Job
from tests.support import terms
from tests.support.acts import sign_approval
from tests.support.service import DATABASES, fresh_database
from tests.support.story import Story, begin, export

TWO = Approvals(need=2, of=("insurer", "clinic", "institute"))


@pytest.fixture(scope="module", params=DATABASES if os.environ.get("SANDBOX_FULL") else DATABASES[:1])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Everybody is admitted; each test makes agreements of its own."""
    with fresh_database(str(request.param)) as url:
        found = begin(tmp_path_factory.mktemp("acts"), url)
        yield found
        found.host.store.close()


def agreed(story: Story, uid: str, **insurer: Any) -> str:
    """The digest of an agreement with changed terms of the insurer."""
    budget = {"total_loss": parse_epsilon("50")}
    held = (terms.terms_insurer(**{**budget, **insurer}), terms.terms_clinic(**budget))
    return story.agree(story.sealed_agreement(terms=held, uid=uid))


def ask(story: Story, label: str, agreement: str, **request: Any) -> Job:
    return story.ask(label, **{"epsilon": "0.1", "agreement": agreement, "sql": terms.COUNT_SQL, **request})


def tightened(story: Story, agreement: str, sequence: int = 1, by: str = "insurer", **change: Any) -> None:
    change = {"dataset": "insurer.plans", **change}
    tightening = Tightening(agreement=agreement, sequence=sequence, **change)
    tighten(story.host, story.member(by), story.firms[by].sign("tightening", tightening))


def approval(story: Story, job: Job, by: str) -> Job:
    document = JobApproval(agreement=job.request.agreement, job=job.id, request=job.request_digest)
    return approve(story.host, story.member(by), story.firms[by].sign("job-approval", document))


def did(story: Story, by: str, agreement: str, **done: Any) -> None:
    document = DutyDone(agreement=agreement, **{"number": 1, **done})
    report_duty(story.host, story.member(by), story.firms[by].sign("duty-done", document))


def rules(job: Job) -> list[str]:
    return [finding.rule for finding in job.decision.findings if not finding.allowed]


def test_a_tightening_counts_from_the_next_decision_on(story: Story) -> None:
    name = agreed(story, "tightened")
    assert ask(story, "t1", name).state == "released"
    tightened(story, name, job_loss=parse_epsilon("0.05"))
    assert rules(ask(story, "t2", name, epsilon="0.09")) == ["job_loss"]
    assert ask(story, "t3", name, epsilon="0.04").state == "released"
    tightened(story, name, 2, minimum_group=40)
    raised = ask(story, "t4", name, epsilon="0.03")
    assert raised.grant is not None
    assert (raised.state, raised.grant.minimum_group) == ("released", 40)
    tightened(story, name, 3, revoked=True)
    assert rules(ask(story, "t5", name, epsilon="0.03")) == ["standing"]
    assert len(tightenings_of(story.host, story.member("clinic"), name)) == 3


def test_a_provider_tightens_its_own_terms_only_and_in_order(story: Story) -> None:
    name = agreed(story, "order")
    with pytest.raises(Forbidden):
        tightened(story, name, by="clinic", revoked=True)
    with pytest.raises(Malformed):
        tightened(story, name, 2, revoked=True)
    with pytest.raises(Malformed):
        tightened(story, name)
    tightened(story, name, suspended_until=terms.NOW * 2)
    tightened(story, name, suspended_until=terms.NOW * 2)
    with pytest.raises(NotFound):
        tightenings_of(story.host, story.member("stranger"), name)
    assert len(tightenings_of(story.host, story.member("insurer"), name)) == 1


def test_a_run_under_way_is_not_released_once_the_terms_are_revoked(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    name = agreed(story, "under-way")
    tell = story.on_step

    def revoke_after_the_keys(step: str) -> None:
        tell(step)
        if step == "attested":
            tightened(story, name, revoked=True)

    monkeypatch.setattr(story, "on_step", revoke_after_the_keys)
    job = ask(story, "under-way", name)
    assert (job.state, job.code) == ("failed", "tightened")


def test_keys_are_not_accepted_once_the_terms_are_suspended(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    name = agreed(story, "before-keys")
    tell = story.on_step

    def suspend_before_the_keys(step: str) -> None:
        if step == "attested":
            tightened(story, name, suspended_until=terms.NOW * 2)
        tell(step)

    monkeypatch.setattr(story, "on_step", suspend_before_the_keys)
    with pytest.raises(Conflict, match="suspended"):
        ask(story, "before-keys", name)
    with story.host.store.reading() as tx:
        (waiting,) = tx.jobs("institute", Page(limit=10), state="running").items
    record_failure(story.host, waiting.id, "keys-refused")


def test_a_job_waits_until_enough_have_approved_and_is_charged_then(story: Story) -> None:
    name = agreed(story, "approvals", approvals=TWO)
    job = ask(story, "waits", name)
    assert (job.state, rules(job), job.grant) == ("awaiting_approval", ["approvals"], None)
    assert approval(story, job, "institute").state == "awaiting_approval"
    assert approval(story, job, "institute").state == "awaiting_approval"
    with pytest.raises(Forbidden):
        approval(story, job, "auditor")
    with pytest.raises(NotFound):
        approval(story, job, "stranger")
    with pytest.raises(Conflict):
        approval(story, replace(job, request_digest=terms.digest_of("another")), "clinic")
    done = approval(story, job, "clinic")
    assert done.state == "charged"
    assert done.facts.approved_by == ("clinic", "institute")
    assert approval(story, job, "clinic").state == "charged"
    with pytest.raises(Conflict):
        approval(story, job, "insurer")
    story.work()
    assert approval(story, job, "clinic").state == "released"


def test_a_job_that_is_denied_otherwise_does_not_wait(story: Story) -> None:
    name = agreed(story, "denied", approvals=TWO)
    assert ask(story, "denied", name, epsilon="2").state == "denied"
    waiting = ask(story, "tightened-meanwhile", name)
    tightened(story, name, job_loss=parse_epsilon("0.01"))
    assert approval(story, waiting, "clinic").state == "denied"


def cancellation(story: Story, job: Job, by: str = "institute") -> Job:
    document = JobCancellation(agreement=job.request.agreement, job=job.id, request=job.request_digest)
    return cancel(story.host, story.member(by), story.firms[by].sign("job-cancellation", document))


def test_a_consumer_takes_a_waiting_job_back_and_nobody_else_does(story: Story) -> None:
    name = agreed(story, "cancelled", approvals=TWO)
    job = ask(story, "taken-back", name)
    for who in ("insurer", "stranger"):
        with pytest.raises(NotFound):
            cancellation(story, job, who)
    with pytest.raises(Conflict) as other:
        cancellation(story, replace(job, request_digest=terms.digest_of("another")))
    assert other.value.code == "cancellation-binding"
    before = story.host.store
    with before.reading() as tx:
        spent = tx.spent()
    assert cancellation(story, job).state == "cancelled"
    assert cancellation(story, job).state == "cancelled", "the same again is the same"
    with before.reading() as tx:
        assert tx.spent() == spent
    with pytest.raises(Conflict):
        approval(story, job, "clinic")


def test_a_charged_job_is_not_taken_back(story: Story) -> None:
    name = agreed(story, "too-late", approvals=TWO)
    job = ask(story, "too-late", name)
    approval(story, job, "insurer")
    assert approval(story, job, "clinic").state == "charged"
    with pytest.raises(Conflict) as charged:
        cancellation(story, job)
    assert charged.value.code == "job-charged"
    story.work()
    with pytest.raises(Conflict) as released:
        cancellation(story, job)
    assert released.value.code == "job-charged"
    denied = ask(story, "never-waited", name, epsilon="2")
    with pytest.raises(Conflict) as decided:
        cancellation(story, denied)
    assert decided.value.code == "job-state"


def test_a_job_that_nobody_approves_expires_without_a_charge(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    name = agreed(story, "expires", approvals=TWO)
    job = ask(story, "expires", name)
    monkeypatch.setattr(story.clock, "at", story.clock.at + WAIT_MS + 1)
    assert expire(story.host) >= 1
    assert expire(story.host) == 0
    with pytest.raises(Conflict):
        approval(story, job, "clinic")
    monkeypatch.undo()


def test_uses_are_counted_by_charge_and_a_payment_pays_for_one(story: Story) -> None:
    name = agreed(story, "uses", uses=2, payment=Payment(amount="9.50", currency="CNY", per="job"))
    assert rules(ask(story, "unpaid", name)) == ["payment"]
    with pytest.raises(Forbidden):
        did(story, "clinic", name, duty="payment", about="institute")
    with pytest.raises(Conflict):
        did(story, "insurer", name, duty="payment", about="institute", number=2)
    did(story, "insurer", name, duty="payment", about="institute")
    assert ask(story, "paid", name).state == "released"
    assert rules(ask(story, "paid-once", name, epsilon="0.11")) == ["payment"]
    did(story, "insurer", name, duty="payment", about="institute", number=2)
    did(story, "insurer", name, duty="payment", about="institute", number=3)
    assert ask(story, "paid-twice", name, epsilon="0.12").state == "released"
    assert rules(ask(story, "used-up", name, epsilon="0.13")) == ["uses"]


def test_a_release_is_handed_out_until_it_is_to_be_deleted_and_late_consumers_get_no_other(story: Story) -> None:
    name = agreed(story, "deletion", delete_after=1)
    job = ask(story, "kept", name)
    with story.host.store.reading() as tx:
        assert handout.release(tx, job, story.host.now())[1]
        with pytest.raises(NotFound):
            handout.release(tx, job, story.host.now() + 2 * DAY_S * 1000)
    story.clock.at += 2 * DAY_S * 1000
    late = ask(story, "late", name, epsilon="0.11")
    assert (rules(late), late.facts.overdue) == (["delete_after"], (job.id,))
    with pytest.raises(NotFound):
        did(story, "insurer", name, duty="deletion", about=job.id)
    did(story, "institute", name, duty="deletion", about=job.id)
    with story.host.store.reading() as tx:
        stored = tx.release(job.id)
        assert stored is not None
        assert stored.sealed == b""
        assert handout.receipt(tx, job)
        with pytest.raises(NotFound):
            handout.release(tx, job, 0)
    assert ask(story, "again", name, epsilon="0.11").state == "released"


def test_parties_to_be_informed_get_notice_of_a_release(story: Story) -> None:
    with story.host.store.transaction() as tx:
        for name in ("auditor", "clinic", "insurer"):
            tx.set_webhook(name, "https://example.org/hook", story.host.now())
    job = ask(story, "informed", agreed(story, "informed", notify=("auditor",)))
    with story.host.store.reading() as tx:
        told = {name: [(n.kind, n.subject) for n in tx.notices(name, Page(limit=50)).items] for name in ("auditor", "clinic")}
    assert ("use", job.id) in told["auditor"]
    assert ("use", job.id) not in told["clinic"]


def test_the_words_of_the_provider_are_shown_with_the_release(capsys: pytest.CaptureFixture[str]) -> None:
    signed = terms.agreement(terms=(terms.terms_insurer(attribution="Data: Insurer", delete_after=9), terms.terms_clinic()))
    assert attributions_of(signed, ("insurer.plans", "clinic.care")) == ("Data: Insurer",)
    assert attributions_of(signed, ("clinic.care",)) == ()
    show_duties({"attribution": ["Data: Insurer"], "delete_after_days": 9})
    shown = capsys.readouterr().out
    assert "attribution: Data: Insurer" in shown
    assert "within 9 days" in shown


def test_the_whole_history_replays(story: Story) -> None:
    for reader in ("insurer", "stranger"):
        files = export(story.host, reader)
        verdict = replay(files.__getitem__, story.host.log_identity)
        assert verdict.mismatches == ()
        assert verdict.ok is (reader == "insurer") or reader == "stranger"


def test_an_approval_is_of_one_request_by_one_party() -> None:
    from enclaves.kit.acts import verify_approval
    from enclaves.kit.signatures import SigningKey
    from policies.errors import Tampered

    key, other = SigningKey.generate(), SigningKey.generate()
    document = JobApproval(agreement=terms.digest_of("a"), job="job-1", request=terms.digest_of("r"))
    signed = sign_approval(document, "clinic", key)
    assert verify_approval(signed, key.public.hex()) == document
    for forged in (replace(signed, by="insurer"), replace(signed, approval=replace(document, job="job-2"))):
        with pytest.raises(Tampered):
            verify_approval(forged, key.public.hex())
    with pytest.raises(Tampered):
        verify_approval(signed, other.public.hex())

"""Exchanges at the host: what is in escrow is handed out to nobody, and then to both or never. Each history replays."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from policies.acts import JobApproval
from policies.conditions import DAY_S, Approvals
from policies.errors import Conflict, Forbidden, Malformed, NotFound, SandboxError
from policies.escrow import FINAL
from policies.exchange import Exchange, Leg
from policies.privacy import parse_epsilon
from policies.tightening import Tightening
from sandbox.audit.replay import replay
from sandbox.exchange import escrow
from sandbox.exchange.paging import Page
from sandbox.exchange.tightening import tighten
from sandbox.jobs.approve import approve
from sandbox.jobs.record import record_failure
from tests.support import exchanges as ex
from tests.support import terms
from tests.support.service import DATABASES, fresh_database
from tests.support.story import Story, begin, export


@pytest.fixture(scope="module", params=DATABASES if os.environ.get("SANDBOX_FULL") else DATABASES[:1])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Everybody is admitted; each test makes agreements of its own. In the end all of it replays."""
    with fresh_database(str(request.param)) as url:
        found = begin(tmp_path_factory.mktemp("escrow"), url)
        yield found
        verdict = replay(export(found.host, "insurer").__getitem__, found.host.log_identity)
        assert not verdict.mismatches
        found.host.store.close()


def code_of(act: Callable[[], Any]) -> str:
    """The code with which something is refused."""
    with pytest.raises(SandboxError) as refused:
        act()
    return refused.value.code


def test_a_release_for_an_order_is_handed_over_with_it_and_not_before(story: Story) -> None:
    document = ex.begun(story, ex.agreed(story, "honest"), uid="honest")
    job = ex.delivered(story, document, 1, "honest")
    assert (job.state, ex.stage(story, document)) == ("released", "one_in_escrow")
    assert code_of(lambda: ex.handed(story, job)) == "in-escrow"
    ex.did(story, "insurer", document, "give", 2, ex.ORDER)
    ex.did(story, "clinic", document, "acknowledge", 2, ex.ORDER)
    assert code_of(lambda: ex.handed(story, job)) == "in-escrow"
    shown = ex.did(story, "insurer", document, "acknowledge", 1, ex.sealed_of(story, document, 1))
    assert shown.stored.course.stage == "handed_over"
    assert len(ex.handed(story, job)) > 4096
    again = ex.did(story, "insurer", document, "acknowledge", 1, ex.sealed_of(story, document, 1))
    assert again == shown
    assert ex.did(story, "insurer", document, "received", 1, ex.sealed_of(story, document, 1)).stored.course.first.received


def test_two_jobs_in_escrow_are_handed_over_together(story: Story) -> None:
    name = ex.agreed(story, "two-jobs")
    document = ex.begun(story, name, second=ex.back_leg(name), uid="two-jobs")
    first, second = (ex.delivered(story, document, leg, f"two-jobs-{leg}") for leg in (1, 2))
    ex.did(story, "insurer", document, "acknowledge", 1, ex.sealed_of(story, document, 1))
    assert {code_of(lambda job=job: ex.handed(story, job)) for job in (first, second)} == {"in-escrow"}  # type: ignore[misc]
    ex.did(story, "clinic", document, "acknowledge", 2, ex.sealed_of(story, document, 2))
    assert ex.handed(story, first)
    assert ex.handed(story, second)


def test_what_returns_is_gone_for_both_and_stays_charged(story: Story) -> None:
    name = ex.agreed(story, "withdrawn")
    document = ex.begun(story, name, second=ex.back_leg(name), uid="withdrawn")
    first, second = (ex.delivered(story, document, leg, f"withdrawn-{leg}") for leg in (1, 2))
    with story.host.store.reading() as tx:
        before = tx.spent()
    assert ex.did(story, "clinic", document, "withdraw").stored.course.stage == "returned"
    for job in (first, second):
        assert code_of(lambda job=job: ex.handed(story, job)) == "returned"  # type: ignore[misc]
        with story.host.store.reading() as tx:
            release = tx.release(job.id)
            assert release is not None
            assert release.sealed == b""
            assert tx.spent() == before


def test_a_job_that_ends_after_its_exchange_returned_gives_nothing(story: Story) -> None:
    document = ex.begun(story, ex.agreed(story, "late-job"), uid="late-job")
    job = ex.charged(story, document, 1, "late-job")
    ex.did(story, "insurer", document, "withdraw")
    story.work()
    assert ex.stored(story, job.id).state == "released"
    assert code_of(lambda: ex.handed(story, job)) == "returned"


@pytest.mark.parametrize("state", ["awaiting_approval", "charged", "running", "attested", "in dispute"])
def test_a_participant_that_withdraws_at_each_step_of_a_job_leaves_nothing_behind(
    story: Story, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Queued, granted, running, with its evidence, or frozen by a dispute: the job gives nothing, and what was charged stays."""
    approvals = {"approvals": Approvals(need=1, of=("auditor",))} if state == "awaiting_approval" else {}
    label = state.replace("_", "-").replace(" ", "-")
    document = ex.begun(story, ex.agreed(story, label, **approvals), uid=label)
    job = ex.charged(story, document, 1, label)
    assert job.state == ("awaiting_approval" if approvals else "charged")

    def withdrawn() -> None:
        if ex.stage(story, document) not in FINAL:
            ex.did(story, "clinic", document, "withdraw")

    if state == "awaiting_approval":
        withdrawn()
        approval = JobApproval(job=job.id, agreement=job.request.agreement, request=job.request_digest)
        ended = approve(story.host, story.member("auditor"), story.firms["auditor"].sign("job-approval", approval))
        assert {finding.rule for finding in ended.decision.findings if not finding.allowed} == {"exchange_only"}
        assert (ended.state, ended.positions.charged) == ("denied", -1)
        return
    if state == "in dispute":
        ex.did(story, "insurer", document, "dispute", about=terms.digest_of("doubts"))
        story.work()
        assert ex.stage(story, document) == "disputed"
    if state in ("running", "attested"):
        answers = Story.on_step

        def on_step(self: Story, step: str) -> None:
            if step == state:
                withdrawn()
            answers(self, step)

        monkeypatch.setattr(Story, "on_step", on_step)
    else:
        withdrawn()
    if state != "in dispute":
        story.work()
    assert ex.stage(story, document) == ("returned" if state == "in dispute" else "withdrawn")
    with story.host.store.reading() as tx:
        release = tx.release(job.id)
    assert release is not None
    assert release.sealed == b""
    assert code_of(lambda: ex.handed(story, job)) == "returned"
    assert ex.charged(story, document, 1, f"{label}-again").state == "denied"


def test_no_job_outside_of_the_exchange_gets_what_is_in_escrow(story: Story) -> None:
    name = ex.agreed(story, "outside")
    document = ex.begun(story, name, uid="outside")
    ex.delivered(story, document, 1, "outside")
    unbound = ex.charged(story, document, 1, "outside-unbound", exchange=None)
    second = ex.charged(story, document, 1, "outside-second")
    other = ex.charged(story, document, 1, "outside-other", sql="SELECT COUNT(*) AS n FROM clinic.care")
    for job in (unbound, second, other):
        assert job.state == "denied"
        assert {finding.rule for finding in job.decision.findings if not finding.allowed} == {"exchange_only"}


def test_failed_jobs_count_and_when_none_is_left_everything_returns(story: Story) -> None:
    document = ex.begun(story, ex.agreed(story, "attempts"), uid="attempts")
    for attempt in (1, 2):
        job = ex.charged(story, document, 1, f"attempts-{attempt}")
        assert job.state == "charged"
        story.work(refuse=False, spoil=True)
        assert ex.stored(story, job.id).state == "withheld"
    assert ex.stage(story, document) == "returned"
    assert code_of(lambda: ex.did(story, "insurer", document, "give", 2, ex.ORDER)) == "exchange-state"


def test_a_run_whose_worker_died_frees_the_leg_for_another_job(story: Story) -> None:
    document = ex.begun(story, ex.agreed(story, "died"), uid="died")
    job = ex.charged(story, document, 1, "died-1")
    with story.host.store.transaction() as tx:
        held = tx.claim_charged("worker", 0.0)
        assert held is not None
        tx.append("running", at=story.host.now(), ids={"job": job.id, "agreement": job.request.agreement}, body={"worker": "worker"})
        tx.move_job(held, "running")
    record_failure(story.host, job.id, "worker-died")
    assert ex.stage(story, document) == "open"
    ex.completed(story, document, "died-2")
    assert ex.stage(story, document) == "handed_over"


@pytest.mark.parametrize(("change", "wanted"), [({"revoked": True}, "returned"), ({"suspended_until": None}, "accepted")])
def test_terms_that_are_revoked_return_everything_and_suspended_ones_hold_it(story: Story, change: dict[str, Any], wanted: str) -> None:
    name = ex.agreed(story, f"terms-{wanted}")
    document = ex.begun(story, name, uid=f"terms-{wanted}")
    job = ex.delivered(story, document, 1, f"terms-{wanted}")
    until = story.clock.at // 1000 + 3 * DAY_S
    change = {key: until if value is None else value for key, value in change.items()}
    tightening = Tightening(agreement=name, dataset="clinic.care", sequence=1, **change)
    tighten(story.host, story.member("clinic"), story.firms["clinic"].sign("tightening", tightening))
    escrow.sweep(story.host)
    if wanted == "accepted":
        ex.did(story, "insurer", document, "give", 2, ex.ORDER)
        ex.did(story, "insurer", document, "acknowledge", 1, ex.sealed_of(story, document, 1))
        ex.did(story, "clinic", document, "acknowledge", 2, ex.ORDER)
    assert ex.stage(story, document) == wanted
    assert code_of(lambda: ex.handed(story, job)) == ("in-escrow" if wanted == "accepted" else "returned")
    if wanted == "accepted":
        assert escrow.sweep(story.host) == 0
        story.clock.at = (until + 1) * 1000
        assert escrow.sweep(story.host) == 1
        assert ex.handed(story, job)


def test_deadlines_end_what_nobody_accepted_and_return_what_nobody_acknowledged(story: Story) -> None:
    name = ex.agreed(story, "deadlines")
    document = ex.begun(story, name, uid="deadlines")
    job = ex.delivered(story, document, 1, "deadlines")
    now = story.clock.at // 1000
    proposal = ex.exchange(ex.data_leg(name), ex.order_leg(), uid="never-accepted", accept_by=now + 60, deadline=now + DAY_S)
    ex.propose(story, proposal)
    story.clock.at = (document.deadline) * 1000
    assert escrow.sweep(story.host) >= 2
    assert (ex.stage(story, document), ex.stage(story, proposal)) == ("returned", "expired")
    assert code_of(lambda: ex.handed(story, job)) == "returned"
    assert code_of(lambda: ex.did(story, "insurer", proposal, "accept")) == "exchange-state"


def test_a_dispute_holds_everything_until_the_arbiter_has_decided(story: Story) -> None:
    document = ex.begun(story, ex.agreed(story, "dispute"), uid="dispute")
    job = ex.delivered(story, document, 1, "dispute")
    ex.did(story, "insurer", document, "give", 2, ex.ORDER)
    ex.did(story, "clinic", document, "dispute", about=terms.digest_of("the order is not signed"))
    assert code_of(lambda: ex.did(story, "insurer", document, "acknowledge", 1, ex.sealed_of(story, document, 1))) == "exchange-state"
    ex.did(story, "auditor", document, "resolve", about="continue")
    ex.did(story, "insurer", document, "acknowledge", 1, ex.sealed_of(story, document, 1))
    ex.did(story, "clinic", document, "acknowledge", 2, ex.ORDER)
    assert ex.handed(story, job)


def test_a_right_begins_with_the_hand_over(story: Story) -> None:
    name = ex.agreed(story, "right")
    until = story.clock.at // 1000 + 90 * DAY_S
    document = ex.begun(story, name, second=ex.scenario_leg(name, until=until), uid="right")
    ex.delivered(story, document, 1, "right")
    assert ex.charged(story, document, 2, "right-early").state == "denied"
    ex.did(story, "insurer", document, "give", 2, name)
    ex.did(story, "insurer", document, "acknowledge", 1, ex.sealed_of(story, document, 1))
    ex.did(story, "clinic", document, "acknowledge", 2, name)
    used = ex.delivered(story, document, 2, "right-1")
    assert ex.handed(story, used)
    ex.delivered(story, document, 2, "right-2")
    assert ex.charged(story, document, 2, "right-3").state == "denied"


def test_a_scenario_for_money_takes_no_job_before_the_hand_over_and_none_if_nobody_pays(story: Story) -> None:
    name = ex.agreed(story, "paid-right")
    until = story.clock.at // 1000 + 90 * DAY_S
    price = terms.digest_of("invoice for two looks")
    money = Leg(kind="money", giver="clinic", receiver="insurer", document=price)
    for uid, paid in (("paid-right", True), ("unpaid-right", False)):
        document = ex.begun(story, name, first=ex.scenario_leg(name, until=until), second=money, uid=uid)
        ex.did(story, "insurer", document, "give", 1, name)
        assert ex.charged(story, document, 1, f"{uid}-early").state == "denied"
        if not paid:
            assert code_of(lambda found=document: ex.did(story, "insurer", found, "acknowledge", 2, price)) == "exchange-state"  # type: ignore[misc]
            story.clock.at = document.deadline * 1000
            escrow.sweep(story.host)
            assert ex.stage(story, document) == "returned"
            assert ex.charged(story, document, 1, f"{uid}-late").state == "denied"
            continue
        ex.did(story, "clinic", document, "give", 2, price)
        ex.did(story, "clinic", document, "acknowledge", 1, name)
        ex.did(story, "insurer", document, "acknowledge", 2, price)
        assert ex.handed(story, ex.delivered(story, document, 1, f"{uid}-1"))


def test_what_cannot_be_an_exchange_is_refused_before_anything_is_stored(story: Story) -> None:
    name = ex.agreed(story, "refused")
    loose = ex.agreed(story, "loose", exchange_only=False)
    now = story.clock.at // 1000

    def document(**overrides: Any) -> Exchange:
        legs = (overrides.pop("first", ex.data_leg(name)), overrides.pop("second", ex.order_leg()))
        return ex.exchange(*legs, **{"accept_by": now + DAY_S, "deadline": now + 2 * DAY_S, **overrides})

    def refused(found: Exchange, by: str = "clinic") -> tuple[type[SandboxError], str]:
        with pytest.raises(SandboxError) as error:
            ex.propose(story, found, by)
        with story.host.store.reading() as tx:
            assert not [item for item in tx.running_exchanges() if item.exchange == found]
        return type(error.value), error.value.code

    assert refused(document(first=ex.data_leg(loose))) == (Conflict, "not-exchange-only")
    assert refused(document(first=ex.data_leg(terms.digest_of("none")))) == (NotFound, "not-found")
    assert refused(document(accept_by=1)) == (Conflict, "exchange-late")
    assert refused(document(arbiter="stranger")) == (Malformed, "unknown-party")
    assert refused(document(), by="auditor") == (Forbidden, "forbidden")
    with pytest.raises(Forbidden):
        escrow.propose(story.host, story.member("insurer"), story.firms["clinic"].sign("exchange", document()))


def test_strangers_learn_of_no_exchange(story: Story) -> None:
    document = ex.begun(story, ex.agreed(story, "strangers"), uid="strangers")
    name = ex.act(document, "accept").exchange
    for who in ("institute", "stranger"):
        with pytest.raises(NotFound):
            escrow.read(story.host, story.member(who), name)
        with pytest.raises(NotFound):
            ex.did(story, who, document, "withdraw")
        assert escrow.listed(story.host, story.member(who), Page(limit=9)).items == ()
    assert escrow.read(story.host, story.member("auditor"), name).stored.exchange == document
    assert document in [found.stored.exchange for found in escrow.listed(story.host, story.member("insurer"), Page(limit=200)).items]
    assert parse_epsilon("0.25") == ex.data_leg(name).ask.loss  # type: ignore[union-attr]

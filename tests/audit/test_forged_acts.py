"""An operator that forges tightenings, approvals, payments and deletions, or keeps them out of decisions, is caught and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enclaves.kit.acts import sign_tightening
from enclaves.kit.envelope import sign_document
from enclaves.kit.signatures import SigningKey
from policies.acts import DutyDone, JobApproval, JobCancellation, SignedCancellation
from policies.conditions import Approvals, Payment
from policies.privacy import parse_epsilon
from policies.tightening import Tightening
from sandbox.audit.verdict import Promise
from sandbox.exchange.tightening import tighten
from sandbox.jobs.approve import approve, cancel
from sandbox.jobs.duties import report_duty
from tests.support import terms
from tests.support.acts import sign_approval
from tests.support.forge import Draft, drafts, find, forged, fresh
from tests.support.story import Story, begin

OTHER = SigningKey.generate()


@pytest.fixture(scope="module")
def acted(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A payment, an approved and released job, its deletion, then a tightening and a job that it denies."""
    folder: Path = tmp_path_factory.mktemp("acted")
    story = begin(folder)
    paid, two = Payment(amount="1", currency="CNY", per="job"), Approvals(need=2, of=("insurer", "clinic"))
    insurer = terms.terms_insurer(payment=paid, approvals=two, delete_after=30, uses=2)
    name = story.agree(story.sealed_agreement(terms=(insurer, terms.terms_clinic())))
    _did(story, "insurer", DutyDone(agreement=name, duty="payment", about="institute", number=1))
    job = story.ask("approved", agreement=name, sql=terms.COUNT_SQL, epsilon="0.1")
    for who in ("insurer", "clinic"):
        document = JobApproval(agreement=name, job=job.id, request=job.request_digest)
        approve(story.host, story.member(who), story.firms[who].sign("job-approval", document))
    story.work()
    _did(story, "insurer", DutyDone(agreement=name, duty="payment", about="institute", number=2))
    back = story.ask("cancelled", agreement=name, sql=terms.COUNT_SQL, epsilon="0.2")
    taken = JobCancellation(agreement=name, job=back.id, request=back.request_digest)
    cancel(story.host, story.member("institute"), story.firms["institute"].sign("job-cancellation", taken))
    _did(story, "institute", DutyDone(agreement=name, duty="deletion", about=job.id, number=1))
    tightening = Tightening(agreement=name, dataset="insurer.plans", sequence=1, job_loss=parse_epsilon("0.01"))
    tighten(story.host, story.member("insurer"), story.firms["insurer"].sign("tightening", tightening))
    story.ask("denied", agreement=name, sql=terms.COUNT_SQL, epsilon="0.2")
    return story


def _did(story: Story, by: str, done: DutyDone) -> None:
    report_duty(story.host, story.member(by), story.firms[by].sign("duty-done", done))


Change = Callable[[Story, list[Draft]], int]


def _without(kind: Any, then: Any) -> Change:
    """Leave an entry out; the next of kind `then` no longer follows."""

    def change(_: Story, found: list[Draft]) -> int:
        at = find(found, kind)
        del found[at]
        return next(index for index, draft in enumerate(found) if index >= at and draft.header.kind == then)

    return change


def _edited(kind: Any, **ids: str) -> Change:
    def change(_: Story, found: list[Draft]) -> int:
        at = find(found, kind)
        found[at] = found[at].edited(**ids)
        return at

    return change


def _twice(kind: Any) -> Change:
    def change(_: Story, found: list[Draft]) -> int:
        at = find(found, kind)
        found.insert(at + 1, found[at])
        return at + 1

    return change


def _looser_tightening(_: Story, found: list[Draft]) -> int:
    """The provider never signed this one."""
    at = find(found, "tightened")
    item = Tightening(agreement=found[at].header.ids["agreement"], dataset="insurer.plans", sequence=1, uses=9)
    found[at] = fresh("tightened", found[at].header.at, sign_tightening(item, OTHER).to_ids(), {})
    return at


def _approval_of_another(_: Story, found: list[Draft]) -> int:
    at = find(found, "approved")
    ids = found[at].header.ids
    item = JobApproval(agreement=ids["agreement"], job=ids["job"], request=ids["request"])
    found[at] = fresh("approved", found[at].header.at, sign_approval(item, ids["participant"], OTHER).to_ids(), {})
    return at


def _cancelled_by_its_provider(story: Story, found: list[Draft]) -> int:
    """A party signs that a request is taken back which another party made."""
    at = find(found, "cancelled")
    item = SignedCancellation.from_ids(found[at].header.ids).cancellation
    signed = sign_document("job-cancellation", "insurer", item, story.firms["insurer"].signing)
    ids = SignedCancellation(cancellation=item, by="insurer", signature=signed.signature).to_ids()
    found[at] = fresh("cancelled", found[at].header.at, ids, {})
    return at


def _decided_after_its_cancellation(_: Story, found: list[Draft]) -> int:
    """A request that was taken back is decided and charged nevertheless: its cancellation is moved before the decision of another job."""
    at, decided = find(found, "cancelled"), find(found, "decided")
    item, ids = found[decided].header, found[at].header.ids
    found[at] = found[at].edited(job=item.ids["job"], request=item.ids["request"], agreement=ids["agreement"])
    found.insert(decided, found.pop(at))
    return decided + 1


def _released_after_revocation(story: Story, found: list[Draft]) -> int:
    """A revocation that stands before the release, which the host should not have made."""
    at = find(found, "released")
    item = Tightening(agreement=found[at].header.ids["agreement"], dataset="insurer.plans", sequence=1, revoked=True)
    found.insert(at, fresh("tightened", found[at].header.at, sign_tightening(item, story.firms["insurer"].signing).to_ids(), {}))
    del found[next(i for i in range(at + 1, len(found)) if found[i].header.kind == "tightened")]
    return at + 1


def test_the_honest_history_replays(acted: Story) -> None:
    verdict = forged(drafts(acted.host), acted)
    assert verdict.mismatches == ()
    assert verdict.ok


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        pytest.param(_without("tightened", "decided"), "decisions", id="a tightening is left out"),
        pytest.param(_without("approved", "decided"), "decisions", id="an approval is left out"),
        pytest.param(_without("duty_done", "decided"), "decisions", id="a payment is left out"),
        pytest.param(_without("awaiting", "approved"), "order", id="an approval of what does not wait"),
        pytest.param(_edited("tightened", signature="00" * 64), "signatures", id="a tightening is not signed"),
        pytest.param(_edited("approved", participant="auditor"), "signatures", id="an approval in another name"),
        pytest.param(_edited("duty_done", number="2"), "signatures", id="a payment is counted up"),
        pytest.param(_twice("tightened"), "signatures", id="a tightening stands twice"),
        pytest.param(_edited("cancelled", signature="00" * 64), "signatures", id="a cancellation is not signed"),
        pytest.param(_cancelled_by_its_provider, "signatures", id="a cancellation by another than the consumer"),
        pytest.param(_twice("cancelled"), "order", id="a cancellation stands twice"),
        pytest.param(_decided_after_its_cancellation, "order", id="a decision after the cancellation"),
        pytest.param(_twice("approved"), "order", id="an approval stands twice"),
        pytest.param(_twice("duty_done"), "order", id="a payment stands twice"),
        pytest.param(_twice("awaiting"), "order", id="a request waits twice"),
        pytest.param(_looser_tightening, "signatures", id="a tightening by another key"),
        pytest.param(_approval_of_another, "signatures", id="an approval by another key"),
        pytest.param(_released_after_revocation, "releases", id="a release under revoked terms"),
    ],
)
def test_a_forged_act_is_caught_and_named(acted: Story, change: Change, promise: Promise) -> None:
    found = drafts(acted.host)
    at = change(acted, found)
    verdict = forged(found, acted)
    assert not verdict.ok
    assert promise in {mismatch.promise for mismatch in verdict.mismatches if mismatch.index == at}, verdict.mismatches

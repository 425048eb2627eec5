"""The same question twice is one answer and one charge; nobody can opt for fresh noise, and no forged repetition replays."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from enclaves.kit.appraisal import release_info
from policies.codec import decode, encode
from policies.errors import Malformed, Tampered
from policies.grant import grant_digest
from policies.odrl import agreement_digest
from policies.privacy import Loss, parse_epsilon
from policies.request import JobRequest
from sandbox.audit.receipt import Receipt, verify_receipt
from sandbox.jobs import handout
from sandbox.jobs.preview import check
from sandbox.jobs.states import Job
from sandbox.party.verify import require_same_question, verify_release
from tests.support import terms
from tests.support.forge import Draft, drafts, find, forged, replayed, require_named
from tests.support.story import Story, begin, export, tables

COUNT = "SELECT COUNT(*) AS people FROM insurer.plans"
TWICE = 20


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """One question, asked twenty times by the institute and once by the bureau, and questions that differ from it in one thing."""
    story = begin(tmp_path_factory.mktemp("house"), others=("bureau",))
    asking = ("institute", "bureau")
    story.agreement = story.sealed_agreement(
        parties={"insurer": ("provider",), "clinic": ("provider",), "institute": ("consumer",), "bureau": ("consumer",)},
        terms=(
            terms.terms_insurer(assignees=asking, recipients=asking, consumer_loss=parse_epsilon("1.5")),
            terms.terms_clinic(assignees=asking, recipients=asking),
        ),
    )
    agreement = story.agree(story.agreement)
    common: dict[str, Any] = {"agreement": agreement, "sql": COUNT, "epsilon": "0.25"}
    story.ask("other", **common | {"sql": "SELECT COUNT(*) AS people FROM insurer.plans WHERE female = 1"})
    for number in range(TWICE):
        story.ask(f"again-{number}", **common)
    story.ask("spelled", **common | {"sql": "select count( * ) as people\nfrom insurer.plans as p  -- the same"})
    story.ask("dearer", **common | {"epsilon": "0.375"})
    story.ask("purpose", **common | {"purpose": "actuarial-review"})
    story.ask("bureau", consumer="bureau", **common)
    return story


@pytest.fixture
def told(house: Story) -> list[Draft]:
    return drafts(house.host)


def spent(story: Story) -> Loss:
    with story.host.store.reading() as tx:
        return tx.spent()["insurer", "rand-hie"]


def answer(story: Story, job: Job) -> tuple[Receipt, bytes]:
    with story.host.store.reading() as tx:
        given, sealed = handout.release(tx, job, 0)
    return decode(Receipt, encode(given)), sealed


def test_asking_twenty_times_gives_identical_bytes_for_one_charge(house: Story) -> None:
    jobs = [house.jobs[f"again-{number}"] for number in range(TWICE)]
    assert {job.state for job in jobs} == {"released"}
    assert len({job.id for job in jobs}) == TWICE
    assert len({answer(house, job)[1] for job in jobs}) == 1
    assert [job.facts.repeats for job in jobs] == [None] + [jobs[0].id] * (TWICE - 1)
    charged = [draft for draft in drafts(house.host) if draft.header.kind == "charged"]
    assert [draft.header.ids["job"] for draft in charged if draft.header.ids["job"] in {job.id for job in jobs}] == [jobs[0].id]


def test_only_the_spelling_may_differ(house: Story) -> None:
    first = house.jobs["again-0"]
    assert house.jobs["spelled"].facts.repeats == first.id
    for other in ("other", "dearer", "purpose", "bureau"):
        assert house.jobs[other].facts.repeats is None
        assert answer(house, house.jobs[other])[1] != answer(house, first)[1]
    assert spent(house).amount == 4 * 250_000_000 + 375_000_000


def test_another_consumers_identical_question_is_a_new_run(house: Story) -> None:
    job = house.jobs["bureau"]
    assert job.grant is not None
    assert job.grant.recipient.id == "bureau"


def test_the_receipt_of_a_repetition_verifies_and_opens(house: Story) -> None:
    again, first = house.jobs["again-7"], house.jobs["again-0"]
    receipt, sealed = answer(house, again)
    assert house.agreement is not None
    verified = verify_receipt(receipt, house.agreement, sealed)
    assert (verified.job, receipt.grant.job) == (again.id, first.id)
    key = house.firms["institute"].sealing
    opened = verify_release(receipt, sealed, house.agreement, first.request, lambda public: key, job=again.id)
    assert opened.grant == grant_digest(receipt.grant)
    assert key.open(sealed, release_info(opened.grant))
    with pytest.raises(Tampered):
        verify_release(receipt, sealed, house.agreement, first.request, lambda public: key, job=house.jobs["again-8"].id)


def test_a_receipt_without_its_repetition_or_with_another_entry_is_refused(house: Story) -> None:
    again, other = house.jobs["again-7"], house.jobs["other"]
    receipt, _ = answer(house, again)
    assert receipt.repeated is not None
    assert house.agreement is not None
    elsewhere, _ = answer(house, other)
    wrong = replace(receipt, repeated=replace(receipt.repeated, entry=elsewhere.entry))
    with pytest.raises((Tampered, Malformed)):
        verify_receipt(wrong, house.agreement)


@pytest.mark.parametrize("change", [{"sql": terms.COUNT_SQL + " WHERE female = 1"}, {"loss": parse_epsilon("1")}, {"purpose": "another"}])
def test_a_client_does_not_take_the_answer_to_another_question(house: Story, change: dict[str, Any]) -> None:
    assert house.agreement is not None
    asked: JobRequest = house.jobs["again-0"].request
    require_same_question(replace(asked, request_id="another-id"), asked, house.agreement)
    with pytest.raises(Tampered):
        require_same_question(replace(asked, **change), asked, house.agreement)


def test_a_check_says_that_asking_again_is_free(house: Story) -> None:
    asked = house.jobs["again-0"].request
    preview = check(house.host, house.member("institute"), asked)
    assert preview.decision.allowed
    assert preview.grant is None
    assert preview.facts.repeats == house.jobs["again-0"].id


def test_the_log_of_repetitions_replays(house: Story) -> None:
    verdict = replayed(export(house.host, "institute"), house)
    assert verdict.ok, verdict.mismatches
    assert verdict.ledgers == {"insurer/rand-hie": spent(house).amount}


def test_without_openings_nothing_contradicts_a_repetition(house: Story) -> None:
    verdict = replayed(export(house.host, "stranger"), house)
    assert verdict.mismatches == ()
    assert not verdict.ok


def _repeat_another(story: Story, history: list[Draft]) -> int:
    """The decision names a job that asked something else."""
    at = find(history, "decided", job=story.jobs["again-3"].id)
    history[at] = history[at].edited(lambda body: body["facts"].update(repeats=story.jobs["other"].id))
    return at


def _repeat_what_was_denied(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["again-3"].id)
    history[at] = history[at].edited(lambda body: body["facts"].update(repeats="job-00000000000000000000"))
    return at


@pytest.mark.parametrize("forge", [_repeat_another, _repeat_what_was_denied])
def test_a_decision_that_repeats_another_question_is_named(house: Story, told: list[Draft], forge: Any) -> None:
    require_named(house, told, forge, "decisions")


def test_handing_out_another_release_than_was_decided_is_named(house: Story, told: list[Draft]) -> None:
    at = find(told, "repeated", job=house.jobs["again-3"].id)
    other = house.jobs["other"].id
    told[at] = told[at].edited(lambda body: body.update(of=other), of=other)
    verdict = forged(told, house)
    assert [(m.index, m.promise) for m in verdict.mismatches] == [(at, "releases")]


def test_a_charge_for_what_is_repeated_is_named(house: Story, told: list[Draft]) -> None:
    at = find(told, "repeated", job=house.jobs["again-3"].id)
    like = told[find(told, "charged", job=house.jobs["again-0"].id)]
    told[at] = like.edited(lambda body: body.update(job=house.jobs["again-3"].id), job=house.jobs["again-3"].id)
    verdict = forged(told, house)
    assert at in {m.index for m in verdict.mismatches if m.promise == "budgets"}


def test_a_new_version_is_another_question(tmp_path_factory: pytest.TempPathFactory) -> None:
    story = begin(tmp_path_factory.mktemp("versions"))
    story.agreement = story.sealed_agreement()
    agreement = story.agree(story.agreement)
    common: dict[str, Any] = {"agreement": agreement, "sql": COUNT, "epsilon": "0.25"}
    story.ask("spoiled", spoil=True, **common)
    story.ask("first", **common)
    story.publish(terms.declaration_insurer(), tables(random.Random(1))[0], 2)
    story.ask("second", **common)
    story.ask("third", **common)
    labels = ("spoiled", "first", "second", "third")
    assert [story.jobs[label].state for label in labels] == ["withheld", "released", "released", "released"]
    assert [story.jobs[label].facts.repeats for label in ("first", "second", "third")] == [None, None, story.jobs["second"].id]
    verdict = replayed(export(story.host, "auditor"), story)
    assert verdict.ok, verdict.mismatches
    assert agreement == agreement_digest(story.agreement)

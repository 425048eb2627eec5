"""A training that divides its worth is a job like any other; and a firm that withdraws in any state of a training gets its way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enclaves.kit.appraisal import release_info
from policies.canonical import parse_json
from policies.codec import decode
from policies.conditions import Division
from policies.division import verify_contribution
from policies.errors import Conflict
from policies.grant import Grant, grant_digest
from policies.privacy import parse_loss
from policies.statement import Release
from policies.tightening import Tightening
from policies.training import Input, Linear, Training
from sandbox.exchange.paging import Page
from sandbox.exchange.tightening import tighten
from sandbox.jobs.states import Job
from tests.support import terms
from tests.support.forge import drafts, find, forged, replayed
from tests.support.story import Story, begin, export

SQL = (
    "SELECT p.coinsurance AS plan, c.doctor_visits AS visits, p.medical_spend AS spend "
    "FROM insurer.plans AS p JOIN clinic.care AS c USING (person_id, year)"
)
DIVISION = Division(method="shapley", amount=10_000)
WITHOUT = Division(method="leave-one-out", amount=10_000)
TRAINING = Training(
    learner=Linear(),
    features=(Input(column="plan", encoding="categories"), Input(column="visits", encoding="log")),
    label=Input(column="spend", encoding="log"),
    held_out=30,
    division=DIVISION,
)
RHO = parse_loss("zcdp", "0.5")


def agreed(story: Story, uid: str, division: Division | None = DIVISION) -> str:
    """An agreement in rho that opens every column to training and says how a worth is divided."""
    bounds: dict[str, Any] = {"job_loss": RHO, "total_loss": parse_loss("zcdp", "50"), "division": division}
    held = (terms.terms_open(terms.declaration_insurer(), **bounds), terms.terms_open(terms.declaration_clinic(), **bounds))
    story.agreement = story.sealed_agreement(terms=held, uid=uid)
    return story.agree(story.agreement)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """One agreement; a training that divides as agreed, one that divides otherwise, one that divides nothing."""
    found = begin(tmp_path_factory.mktemp("divided"))
    agreement = agreed(found, "divided")
    found.ask("divided", agreement=agreement, sql=SQL, loss=RHO, training=TRAINING)
    found.ask("otherwise", agreement=agreement, sql=SQL, loss=RHO, training=replace(TRAINING, division=replace(DIVISION, amount=1)))
    found.ask("by-leaving", agreement=agreement, sql=SQL, loss=RHO, training=replace(TRAINING, division=WITHOUT))
    found.ask("undivided", agreement=agreement, sql=SQL, loss=RHO, training=replace(TRAINING, division=None))
    return found


def released(story: Story, job: Job) -> Release:
    assert isinstance(job.grant, Grant)
    with story.host.store.reading() as tx:
        found = tx.release(job.id)
    assert found is not None
    opened = story.firms["institute"].sealing.open(found.sealed, release_info(grant_digest(job.grant)))
    return decode(Release, parse_json(opened[4 : 4 + int.from_bytes(opened[:4], "big")]))


def failed(job: Job) -> set[str]:
    return {finding.rule for finding in job.decision.findings if not finding.allowed}


def test_the_report_is_released_with_the_model_and_adds_up(story: Story) -> None:
    job = story.jobs["divided"]
    model = released(story, job).model
    assert model is not None
    assert model.contribution is not None
    assert isinstance(job.grant, Grant)
    found = verify_contribution(model.contribution, job.grant.plan)
    assert [share.organisation for share in found.shares] == ["clinic", "insurer"]
    assert sum(share.amount for share in found.shares) == DIVISION.amount
    undivided = released(story, story.jobs["undivided"]).model
    assert undivided is not None
    assert undivided.contribution is None


def test_a_worth_is_divided_as_agreed_or_not_at_all(story: Story) -> None:
    states = {label: job.state for label, job in story.jobs.items()}
    assert states == {"divided": "released", "otherwise": "denied", "by-leaving": "denied", "undivided": "released"}
    assert failed(story.jobs["otherwise"]) == failed(story.jobs["by-leaving"]) == {"division"}


def test_the_report_costs_no_loss_beyond_the_training(story: Story) -> None:
    with story.host.store.reading() as tx:
        assert {loss.amount for loss in tx.spent().values()} == {2 * RHO.amount}


def test_the_log_replays_and_a_division_rewritten_in_it_is_found(story: Story) -> None:
    assert replayed(export(story.host, "auditor"), story).ok
    told = drafts(story.host)
    at = find(told, "decided")
    told[at] = told[at].edited(lambda body: body["plan"]["training"].update(division={"amount": 9, "method": "shapley"}))
    assert forged(told, story).mismatches[0].index == at


# A contributor withdraws


def withdraw(story: Story, agreement: str) -> None:
    done = Tightening(agreement=agreement, sequence=1, dataset="clinic.care", revoked=True)
    tighten(story.host, story.member("clinic"), story.firms["clinic"].sign("tightening", done))


@pytest.fixture
def withdrawing(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Story, str]:
    """A market with an agreement from which the clinic withdraws at a step of a run, before or after brokers answer at that step."""
    step, after = request.param
    story = begin(tmp_path / "market")
    agreement, tell = agreed(story, "withdrawn", division=None), story.on_step

    def on_step(reached: str) -> None:
        if reached == step and not after:
            withdraw(story, agreement)
        tell(reached)
        if reached == step and after:
            withdraw(story, agreement)

    monkeypatch.setattr(story, "on_step", on_step)
    return story, agreement


def undivided(story: Story, label: str, agreement: str) -> Job:
    asked = replace(TRAINING, held_out=0, division=None)
    return story.ask(label, agreement=agreement, sql=SQL, loss=RHO, training=asked)


def test_who_withdrew_before_the_request_is_not_learned_from(story: Story) -> None:
    agreement = agreed(story, "gone-at-first", division=None)
    withdraw(story, agreement)
    job = undivided(story, "gone-at-first", agreement)
    assert (job.state, failed(job)) == ("denied", {"standing"})


@pytest.mark.parametrize("withdrawing", [("attested", True)], indirect=True)
def test_who_withdraws_once_keys_are_released_stops_the_release(withdrawing: tuple[Story, str]) -> None:
    story, agreement = withdrawing
    job = undivided(story, "withdrawn", agreement)
    assert (job.state, job.code) == ("failed", "tightened")
    with story.host.store.reading() as tx:
        assert tx.release(job.id) is None


@pytest.mark.parametrize("withdrawing", [("charged", True), ("attested", False)], indirect=True)
def test_who_withdraws_before_keys_are_released_gives_none(withdrawing: tuple[Story, str]) -> None:
    story, agreement = withdrawing
    with pytest.raises(Conflict, match="revoked"):
        undivided(story, "withdrawn", agreement)
    with story.host.store.reading() as tx:
        (waiting,) = tx.jobs("institute", Page(limit=10), state="running").items
        assert [r.provider for r in tx.key_requests(waiting.id) if r.state == "released"] == []
        assert tx.release(waiting.id) is None


@pytest.mark.parametrize("withdrawing", [("stored-published", True)], indirect=True)
def test_who_withdraws_after_the_release_stops_only_what_follows(withdrawing: tuple[Story, str]) -> None:
    story, agreement = withdrawing
    job = undivided(story, "withdrawn", agreement)
    assert job.state == "released"
    assert released(story, job).model is not None
    assert failed(undivided(story, "gone-later", agreement)) == {"standing"}
    assert replayed(export(story.host, "auditor"), story).ok

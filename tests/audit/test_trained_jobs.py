"""A training is a job like any other: decided, charged, run under its grant, released with a receipt, and replayed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.agreement import ColumnTerm
from policies.codec import encode
from policies.privacy import Loss, parse_loss
from policies.training import Input, Logistic, Training
from tests.support import terms
from tests.support.forge import Draft, drafts, find, forged, replayed
from tests.support.story import Story, begin, export

SQL = (
    "SELECT p.coinsurance AS plan, c.doctor_visits AS visits, c.admissions > 0 AS admitted "
    "FROM insurer.plans AS p JOIN clinic.care AS c USING (person_id, year)"
)
TRAINING = Training(
    learner=Logistic(steps=2),
    features=(Input(column="plan", encoding="categories"), Input(column="visits", encoding="log")),
    label=Input(column="admitted", encoding="categories"),
    held_out=30,
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """An agreement in rho that allows training; one training is released, one that wants the label as a feature is denied."""
    story = begin(tmp_path_factory.mktemp("trained"))
    bounds: dict[str, Any] = {"job_loss": parse_loss("zcdp", "0.5"), "total_loss": parse_loss("zcdp", "1")}
    insurer, clinic = terms.terms_insurer(**bounds), terms.terms_clinic(**bounds)
    story.agreement = story.sealed_agreement(
        parties={"insurer": ("provider",), "clinic": ("provider",), "institute": ("consumer",), "auditor": ("auditor",)},
        declarations=(terms.declaration_insurer(), terms.declaration_clinic()),
        terms=tuple(replace(t, columns=tuple(map(_taught, t.columns))) for t in (insurer, clinic)),
    )
    agreement = story.agree(story.agreement)
    rho = parse_loss("zcdp", "0.5")
    story.ask("trained", agreement=agreement, sql=SQL, loss=rho, training=TRAINING)
    story.ask("repeated", agreement=agreement, sql=SQL.replace("p.coinsurance", "coinsurance"), loss=rho, training=TRAINING)
    admitted = Input(column="admitted", encoding="categories")
    visits = Input(column="visits", encoding="categories", categories=(0, 1))
    swapped = replace(TRAINING, features=(TRAINING.features[0], admitted), label=visits)
    story.ask("swapped", agreement=agreement, sql=SQL, loss=rho, training=swapped)
    return story


def _taught(term: ColumnTerm) -> ColumnTerm:
    also: dict[str, Any] = {"coinsurance": "feature", "doctor_visits": "feature", "admissions": "label"}
    return replace(term, operations=(*term.operations, also[term.column])) if term.column in also else term


@pytest.fixture
def told(house: Story) -> list[Draft]:
    return drafts(house.host)


def test_a_training_is_charged_once_and_the_log_replays(house: Story) -> None:
    assert {label: job.state for label, job in house.jobs.items()} == {"trained": "released", "repeated": "released", "swapped": "denied"}
    with house.host.store.reading() as tx:
        assert set(tx.spent().values()) == {Loss(measure="zcdp", amount=500_000_000)}
    verdict = replayed(export(house.host, "auditor"), house)
    assert verdict.ok, verdict.mismatches


def test_a_column_that_may_be_a_label_may_not_be_a_feature(house: Story) -> None:
    denied = {(f.column, f.rule) for f in house.jobs["swapped"].decision.findings if not f.allowed}
    assert denied == {("clinic.care.admissions", "columns"), ("clinic.care.doctor_visits", "columns")}


@pytest.mark.parametrize("change", [{"held_out": 20}, {"learner": Logistic(steps=3)}])
def test_a_decision_rewritten_to_another_training_is_found(house: Story, told: list[Draft], change: dict[str, Any]) -> None:
    """The plan in the log must be the one that the signed request means, training included."""
    at = find(told, "decided")
    told[at] = told[at].edited(lambda body: body["plan"].update(training=encode(replace(TRAINING, **change))))
    verdict = forged(told, house)
    assert not verdict.ok
    assert verdict.mismatches[0].index == at


def test_a_grant_with_less_noise_for_the_gradients_is_found(house: Story, told: list[Draft]) -> None:
    def weaken(body: dict[str, Any]) -> None:
        gradients = next(s for s in body["grant"]["statistics"] if s["name"] == "gradients")
        gradients["scale"] //= 2

    at = find(told, "granted")
    told[at] = told[at].edited(weaken)
    assert not forged(told, house).ok

"""Training in the law: what a request may ask to learn, what of it is charged, and which uses of columns it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.acceptance import Acceptance
from policies.codec import decode, encode
from policies.conditions import Division
from policies.decide import decide
from policies.derive import derive
from policies.errors import Malformed
from policies.odrl import agreement_digest
from policies.plan import parse_plan
from policies.privacy import Loss, parse_loss
from policies.query import Plan, columns_read
from policies.schedule import TRAINED, schedule, task_of
from policies.shape import require_sound
from policies.task import needs_of
from policies.training import Input, Linear, Logistic, Means, Training, Trees
from tests.support import terms

SQL = (
    "SELECT p.coinsurance AS plan, p.female, c.doctor_visits AS visits, c.admissions > 0 AS admitted "
    "FROM insurer.plans AS p JOIN clinic.care AS c USING (person_id, year)"
)
PLAN = Input(column="plan", encoding="categories")
FEMALE = Input(column="female", encoding="categories")
VISITS = Input(column="visits", encoding="log", centre="2")
ADMITTED = Input(column="admitted", encoding="categories")
TRAINING = Training(learner=Logistic(steps=4, clip="1.5"), features=(PLAN, FEMALE, VISITS), label=ADMITTED, held_out=30)
RHO = parse_loss("zcdp", "0.1")


def planned(training: Training = TRAINING, sql: str = SQL) -> Plan:
    return parse_plan(sql, terms.agreement().by_dataset, training)


def test_a_training_is_part_of_the_plan_and_survives_the_codec() -> None:
    plan = planned()
    assert decode(Plan, encode(plan)) == plan
    assert plan.training == TRAINING
    assert [item.name for item in plan.inputs] == ["admitted", "female", "plan", "visits"]
    assert columns_read(plan, terms.agreement().by_dataset) == {
        "insurer.plans": ("coinsurance", "female", "person_id", "year"),
        "clinic.care": ("admissions", "doctor_visits", "person_id", "year"),
    }


def test_plans_and_requests_without_a_training_do_not_mention_it() -> None:
    plan = parse_plan(terms.COUNT_SQL, terms.agreement().by_dataset)
    assert {"training", "inputs"}.isdisjoint(encode(plan))
    assert "training" not in encode(terms.request())


def test_the_order_of_columns_and_aliases_do_not_change_the_plan() -> None:
    other = (
        "SELECT (admissions > 0) AS admitted, doctor_visits AS visits, x.female AS female, x.coinsurance AS plan "
        "FROM insurer.plans AS x JOIN clinic.care USING (year, person_id)"
    )
    assert planned(sql=other) == planned()


def test_every_input_is_a_use_that_terms_must_allow() -> None:
    uses = {(str(use.column), use.operation) for use in derive(planned()) if use.operation in ("feature", "label")}
    assert uses == {
        ("insurer.plans.coinsurance", "feature"),
        ("insurer.plans.female", "feature"),
        ("clinic.care.doctor_visits", "feature"),
        ("clinic.care.admissions", "label"),
    }


def test_a_condition_inside_an_input_is_a_use_of_the_input() -> None:
    """What only a CASE reads decides the model all the same."""
    sql = SQL.replace("c.doctor_visits AS visits", "CASE WHEN c.admissions > 1 THEN c.doctor_visits ELSE 0 END AS visits")
    uses = {(str(use.column), use.operation) for use in derive(planned(sql=sql))}
    assert ("clinic.care.admissions", "feature") in uses


def allowing(**changes: Any) -> Any:
    """An agreement in rho whose columns may be learned from."""
    bounds = {"job_loss": parse_loss("zcdp", "0.2"), "total_loss": parse_loss("zcdp", "1"), **changes}
    insurer, clinic = terms.terms_insurer(**bounds), terms.terms_clinic(**bounds)
    return terms.agreement(terms=tuple(replace(t, columns=tuple(_also(c) for c in t.columns)) for t in (insurer, clinic)))


def _also(term: Any) -> Any:
    return replace(term, operations=(*term.operations, "label" if term.column == "admissions" else "feature"))


def asked(agreement: Any, training: Training = TRAINING, loss: Loss = RHO) -> Any:
    request = replace(terms.request(agreement=agreement_digest(agreement)), sql=SQL, training=training, loss=loss)
    return decide(request, agreement, parse_plan(SQL, agreement.by_dataset, training), terms.facts())


def test_terms_that_allow_features_and_label_allow_the_training() -> None:
    decision = asked(allowing())
    assert decision.allowed, [f for f in decision.findings if not f.allowed]


def test_terms_that_allow_only_aggregates_deny_the_training_and_name_the_column() -> None:
    agreement = terms.agreement(
        terms=tuple(replace(t, job_loss=parse_loss("zcdp", "0.2"), total_loss=parse_loss("zcdp", "1")) for t in terms.agreement().terms)
    )
    decision = asked(agreement)
    denied = {finding.column for finding in decision.findings if finding.rule == "columns" and not finding.allowed}
    assert not decision.allowed
    assert {"insurer.plans.female", "clinic.care.doctor_visits", "clinic.care.admissions"} <= denied


def test_a_training_in_epsilon_is_denied() -> None:
    pure = terms.agreement(terms=tuple(replace(t, columns=tuple(_also(c) for c in t.columns)) for t in terms.agreement().terms))
    decision = asked(pure, loss=parse_loss("pure", "1"))
    assert next(f.message for f in decision.findings if f.rule == "schedule").startswith("training draws many vectors")
    assert not decision.allowed


@pytest.mark.parametrize(
    "learner",
    [Logistic(), Logistic(steps=50, clip="0.7"), Trees(), Trees(splits="random", rounds=100)],
)
@given(rho=st.integers(10**6, 10**10))
def test_the_amounts_of_all_draws_stay_within_the_loss(learner: Any, rho: int) -> None:
    declarations = terms.agreement().by_dataset
    loss = Loss(measure="zcdp", amount=rho)
    statistics = schedule(planned(replace(TRAINING, learner=learner)), declarations, loss, 10)
    assert statistics[0].name == "units"
    assert sum(s.amount for s in statistics) <= loss.amount
    assert {s.measured.quantity for s in statistics[1:]} <= TRAINED
    for s in statistics:
        # What a discrete Gaussian of this sigma costs, times the number of draws.
        assert s.sensitivity * 2**40 / (2 * s.scale**2) * s.draws * 10**9 <= s.amount


def test_a_loss_too_small_for_so_many_draws_is_refused_before_anything_is_charged() -> None:
    with pytest.raises(Malformed) as refused:
        schedule(
            planned(replace(TRAINING, learner=Trees(rounds=200, depth=6))), terms.agreement().by_dataset, Loss(measure="zcdp", amount=50), 1
        )
    assert refused.value.code == "loss-too-small"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"features": (PLAN, FEMALE, VISITS, Input(column="nothing", encoding="scaled"))}, "unknown-column"),
        ({"features": (PLAN, FEMALE)}, "unknown-column"),
        ({"features": (PLAN, FEMALE, replace(VISITS, centre="21"))}, "malformed"),
        ({"features": (PLAN, FEMALE, replace(VISITS, lower="3", upper="3", centre=None))}, "constant-input"),
        ({"features": (replace(PLAN, categories=(0, 33)), FEMALE, VISITS)}, "unknown-category"),
        ({"features": (replace(PLAN, categories=(0,)), FEMALE, VISITS)}, "constant-input"),
        ({"label": replace(ADMITTED, categories=(1,))}, "constant-input"),
    ],
)
def test_features_and_labels_that_teach_nothing_are_refused(change: dict[str, Any], code: str) -> None:
    with pytest.raises(Malformed) as refused:
        planned(replace(TRAINING, **change))
    assert refused.value.code == code


@pytest.mark.parametrize(
    "sql",
    [
        SQL.replace("p.female", "p.person_id AS female"),
        SQL.replace("p.female", "c.person_id AS female"),
        SQL.replace("p.female", "COUNT(*) AS female"),
        SQL.replace("p.coinsurance AS plan, p.female", "*"),
        SQL + " ORDER BY plan",
        SQL + " GROUP BY plan",
        SQL.replace("p.coinsurance AS plan", "p.coinsurance + 1"),
    ],
)
def test_a_query_of_rows_takes_columns_only_and_never_the_person(sql: str) -> None:
    with pytest.raises(Malformed):
        planned(sql=sql)


def test_a_column_without_bounds_cannot_be_scaled() -> None:
    declarations = terms.agreement().by_dataset
    care = declarations["clinic.care"]
    columns = tuple(replace(c, lower=None, upper=None) if c.name == "doctor_visits" else c for c in care.columns)
    with pytest.raises(Malformed) as refused:
        parse_plan(SQL, {**declarations, "clinic.care": replace(care, columns=columns)}, TRAINING)
    assert refused.value.code == "bounds-missing"


@pytest.mark.parametrize(
    "wrong",
    [
        {"learner": Linear()},
        {"learner": Means(clusters=2)},
        {"label": None},
        {"label": replace(VISITS, column="admitted")},
        {"held_out": 51},
        {"features": ()},
        {"features": (PLAN, PLAN)},
    ],
)
def test_shapes_that_fit_no_learner_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        replace(TRAINING, **wrong)


POOLED = Training(learner=Linear(), features=(VISITS,), label=Input(column="stays", encoding="scaled"))


def pooled(training: Training) -> Plan:
    declarations = terms.agreement().by_dataset
    known = {**declarations, "pool.care": replace(declarations["clinic.care"], dataset="pool.care")}
    return parse_plan("SELECT doctor_visits AS visits, admissions AS stays FROM pool.care", known, training)


def test_a_pool_is_trained_on_by_linear_regression() -> None:
    assert pooled(POOLED).training == POOLED


@pytest.mark.parametrize(
    "change",
    [
        {"learner": Logistic(), "label": replace(ADMITTED, column="stays", categories=(0, 1))},
        {"learner": Trees()},
        {"learner": Means(clusters=2), "label": None, "features": (VISITS, Input(column="stays", encoding="scaled"))},
        {"held_out": 30},
        {"held_out": 30, "test": Acceptance(metric="r2", least="0.1")},
        {"division": Division(method="shapley", amount=100)},
    ],
    ids=["logistic", "trees", "k-means", "held out", "test", "division"],
)
def test_what_one_sum_over_a_pool_does_not_answer_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as refused:
        pooled(replace(POOLED, **change))
    assert refused.value.code == "joint-plan"


@pytest.mark.parametrize("ridge", ["-1", "1000000001", "0.0000001", "1e3", ""])
def test_a_ridge_is_a_plain_number_of_rows(ridge: str) -> None:
    with pytest.raises(Malformed):
        Linear(ridge=ridge)
    assert "ridge" not in encode(Linear())


def test_more_rows_per_person_cost_more_noise() -> None:
    """The bound of one person grows with the rows that it may have, so that a person is protected and not a row."""
    declarations = terms.agreement().by_dataset
    found = require_sound(planned(), declarations)
    task = task_of(planned(), found)
    moments = {rows: needs_of(replace(task, rows=rows))[0].sensitivity for rows in (1, 5)}
    assert moments[5] == 5 * moments[1]

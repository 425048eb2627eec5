"""What firms contributed to a model: worths from noised moments or from models that do without a firm, and amounts that lose nothing."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.dp import LossExceeded
from enclaves.learn.contribution import explained, learn_divided
from enclaves.learn.linear import Coefficients
from enclaves.learn.rows import Rows, grouped
from policies.conditions import Division
from policies.contribution import WORTH
from policies.division import contribution_of, feature_owners, organisations_of, verify_contribution
from policies.errors import Malformed, Tampered
from policies.model import ModelRelease
from policies.plan import parse_plan
from policies.privacy import SCALE_UNIT, parse_loss
from policies.schedule import Measured, Statistic, schedule
from policies.shares import Moments, moment_worth
from policies.task import Task, needs_of
from policies.training import UNIT, Encoded, Input, Learner, Linear, Logistic, Means, Training, Trees
from tests.support import terms

SQL = (
    "SELECT coinsurance AS plan, medical_spend AS spend, doctor_visits AS visits, admissions > 0 AS admitted "
    "FROM insurer.plans JOIN clinic.care USING (person_id, year)"
)
SHAPLEY, WITHOUT = Division(method="shapley", amount=1_000), Division(method="leave-one-out", amount=999)


def training(division: Division | None, learner: Learner | None = None, **changes: Any) -> Training:
    """Who was admitted, or with `Linear` how much was spent, from columns of both firms."""
    number = isinstance(learner, Linear)
    label = Input(column="spend", encoding="scaled") if number else Input(column="admitted", encoding="categories")
    other = Input(column="admitted", encoding="categories") if number else Input(column="spend", encoding="scaled")
    features = (Input(column="plan", encoding="categories"), Input(column="visits", encoding="scaled"), other)
    asked = Training(learner=learner or Logistic(steps=4), features=features, label=label, held_out=30, division=division)
    return replace(asked, **changes)


def people(count: int, seed: int = 1) -> tuple[Rows, Any]:
    """One row for each person: a and b matter for y, a twice as much, c does not."""
    draw = np.random.default_rng(seed)
    x = draw.integers(-UNIT, UNIT + 1, (count, 3))
    y = np.clip((2 * x[:, 0] + x[:, 1]) // 4 + draw.integers(-100, 101, count), -UNIT, UNIT)
    z = np.column_stack([np.full(count, UNIT), x]).astype(np.int16)
    return grouped(z, y.astype(np.int16), np.arange(count)), np.arange(count) % 4 == 0


FEATURES = tuple(Encoded(column=name, encoding="scaled", lower=-10, upper=10) for name in "abc")
LABEL = Encoded(column="y", encoding="scaled", lower=-10, upper=10)
TASK = Task(learner=Linear(), features=FEATURES, label=LABEL, held_out=25, rows=1)


def statistics(task: Task) -> tuple[Statistic, ...]:
    """Statistics with next to no noise."""
    return tuple(
        Statistic(
            name=need.quantity,
            measured=Measured(quantity=need.quantity),
            mechanism="gaussian",
            sensitivity=need.sensitivity**2,
            amount=2**52,
            scale=round(need.sensitivity / 50 * SCALE_UNIT),
            draws=need.draws,
        )
        for need in needs_of(task)
    )


def divided(division: Division, rows: Rows, held: Any, task: Task, **owners: str) -> ModelRelease:
    return learn_divided(rows, held, task, statistics(task), division, owners)


def test_by_shapley_who_matters_twice_as_much_gets_about_four_times_as_much() -> None:
    found = divided(SHAPLEY, *people(4_000), TASK, a="one", b="two", c="three")
    assert found.contribution is not None
    shares = {share.organisation: share for share in found.contribution.shares}
    assert sum(share.amount for share in shares.values()) == SHAPLEY.amount
    assert shares["one"].value == pytest.approx(4 * shares["two"].value, rel=0.15)
    assert shares["three"].amount <= 5
    assert sum(share.value for share in shares.values()) == pytest.approx(found.contribution.worths[-1].value, abs=3)


@pytest.mark.parametrize("division", [SHAPLEY, WITHOUT])
def test_data_that_repeat_anothers_are_not_paid_twice(division: Division) -> None:
    rows, held = people(4_000)
    z = rows.z.copy()
    z[:, 3] = z[:, 1]
    task = replace(TASK, evaluations=1 if division is SHAPLEY else 4)
    found = divided(division, replace(rows, z=z), held, task, a="one", b="two", c="copy")
    assert found.contribution is not None
    value = {share.organisation: share.value for share in found.contribution.shares}
    if division is SHAPLEY:
        alone = divided(division, rows, held, task, a="one", b="two", c="three").contribution
        assert alone is not None
        assert value["one"] == pytest.approx(value["copy"], rel=0.01)
        assert value["one"] + value["copy"] == pytest.approx(alone.shares[0].value, rel=0.02)
    else:
        assert max(abs(value["one"]), abs(value["copy"])) < 0.02 * WORTH < value["two"]


def test_leaving_one_out_draws_for_every_model_and_no_more() -> None:
    task = replace(TASK, evaluations=4)
    needs = {need.quantity: need.draws for need in needs_of(task)}
    assert needs == {"moments": 4, "errors": 4}
    found = divided(WITHOUT, *people(2_000), task, a="one", b="two", c="three").contribution
    assert found is not None
    assert [len(worth.organisations) for worth in found.worths] == [2, 2, 2, 3]
    assert sum(share.amount for share in found.shares) == WITHOUT.amount
    with pytest.raises(LossExceeded):
        divided(WITHOUT, *people(2_000), replace(TASK, evaluations=3), a="one", b="two", c="three")


@given(
    cells=st.lists(st.lists(st.integers(-9, 9), min_size=5, max_size=5), min_size=8, max_size=12),
    ridge=st.integers(1, 40),
    firms=st.lists(st.sampled_from(["one", "two"]), min_size=3, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_worths_are_those_of_exact_arithmetic(cells: list[list[int]], ridge: int, firms: list[str]) -> None:
    rows = [[1, *row[1:]] for row in cells]
    exact = [[Fraction(sum(row[i] * row[j] for row in rows)) for j in range(5)] for i in range(5)]
    worth = moment_worth(Moments(matrix=tuple(map(tuple, exact)), ridge=Fraction(ridge), owners=tuple(firms)))
    found = Coefficients(weights=np.zeros((4, 1)), moments=np.array(exact, float), ridge=float(ridge))
    for coalition in ((), ("one",), ("two",), ("one", "two")):
        assert explained(found, TASK, firms, coalition) == pytest.approx(float(worth(frozenset(coalition))), abs=1e-9)


def test_moments_that_noise_made_impossible_are_worth_something_between_nothing_and_all() -> None:
    draw = np.random.default_rng(3)
    for _ in range(50):
        noise = draw.normal(size=(5, 5)) * 50
        found = Coefficients(weights=np.zeros((4, 1)), moments=noise + noise.T, ridge=0.0)
        assert 0.0 <= explained(found, TASK, ("one", "two", "two"), ("two",)) <= 1.0


def test_an_amount_is_shared_even_where_there_are_no_rows() -> None:
    rows, held = people(0)
    found = divided(SHAPLEY, rows, held, TASK, a="one", b="two", c="three").contribution
    assert found is not None
    assert sum(share.amount for share in found.shares) == SHAPLEY.amount


# The plan


def test_features_belong_to_the_firm_whose_columns_they_read() -> None:
    plan = parse_plan(SQL, terms.agreement().by_dataset, training(WITHOUT))
    assert feature_owners(plan) == {"plan": "insurer", "spend": "insurer", "visits": "clinic"}
    assert organisations_of(plan) == ("clinic", "insurer")


@pytest.mark.parametrize("learner", [Logistic(steps=3), Trees(rounds=2), Linear()])
def test_three_models_are_charged_where_two_firms_are_left_out_in_turn(learner: Learner) -> None:
    loss = parse_loss("zcdp", "0.5")
    plans = (parse_plan(SQL, terms.agreement().by_dataset, training(division, learner)) for division in (None, WITHOUT))
    plain, divided_ = (schedule(plan, terms.agreement().by_dataset, loss, 10) for plan in plans)
    drawn = {s.name: s.draws for s in plain if s.name != "units"}
    assert {s.name: s.draws for s in divided_ if s.name != "units"} == {name: 3 * draws for name, draws in drawn.items()}
    assert sum(s.amount for s in divided_) <= loss.amount


WRONG: dict[str, tuple[str, Training]] = {
    "one firm": (
        "SELECT coinsurance AS plan, female AS visits, medical_spend AS spend, year > 2 AS admitted FROM insurer.plans",
        training(WITHOUT),
    ),
    "a feature of two firms": (SQL.replace("doctor_visits AS", "doctor_visits + coinsurance AS"), training(WITHOUT)),
    "a feature of nobody": (SQL.replace("doctor_visits AS", "CAST(3 AS INTEGER) + 0 * 1 AS"), training(WITHOUT)),
    "all coalitions of another learner": (SQL, training(SHAPLEY)),
    "nobody held out": (SQL, training(WITHOUT, held_out=0)),
    "no label": (
        "SELECT coinsurance AS plan, doctor_visits AS visits FROM insurer.plans JOIN clinic.care USING (person_id, year)",
        Training(
            learner=Means(clusters=2),
            features=(Input(column="plan", encoding="categories"), Input(column="visits", encoding="scaled")),
            held_out=30,
            division=WITHOUT,
        ),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_worths_that_no_method_can_divide_are_refused_before_anything_is_charged(name: str) -> None:
    sql, asked = WRONG[name]
    with pytest.raises(Malformed):
        parse_plan(sql, terms.agreement().by_dataset, asked)


@pytest.mark.parametrize("amount", [-1, 10**15 + 1])
def test_amounts_out_of_range_are_refused(amount: int) -> None:
    with pytest.raises(Malformed):
        Division(method="shapley", amount=amount)


def test_a_report_whose_amounts_do_not_follow_from_its_worths_is_refused() -> None:
    plan = parse_plan(SQL, terms.agreement().by_dataset, training(SHAPLEY, Linear()))
    worths = {(): 0, ("clinic",): 300_000, ("insurer",): 100_000, ("clinic", "insurer"): 350_000}
    honest = contribution_of(SHAPLEY, ("clinic", "insurer"), worths)
    assert [(s.organisation, s.value, s.amount) for s in honest.shares] == [("clinic", 275_000, 786), ("insurer", 75_000, 214)]
    assert verify_contribution(honest, plan) == honest
    first, second = honest.shares
    forged = (
        replace(honest, shares=(replace(first, amount=700), replace(second, amount=300))),
        replace(honest, shares=(second, first)),
        replace(honest, worths=honest.worths[:-1]),
        replace(honest, division=replace(SHAPLEY, amount=10)),
    )
    for report in forged:
        with pytest.raises(Tampered):
            verify_contribution(report, plan)

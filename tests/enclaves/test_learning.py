"""Learners see persons only through sums in which no person counts for more than its bound, and learn well from those."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import enclaves.learn.linear
from enclaves.dp import LossExceeded
from enclaves.learn.fit import fit, measure, predict, train
from enclaves.learn.linear import fit_logistic
from enclaves.learn.noise import Purse
from enclaves.learn.rows import BLOCK, MISSING, Array, Rows, encode_rows, factors, shrunk, sum_of_products
from enclaves.learn.trees import bins_of
from policies.privacy import Loss, sigma_for
from policies.schedule import Measured, Statistic
from policies.task import Task, needs_of
from policies.training import UNIT, Encoded, Linear, Logistic, Means, Trees
from tests.support.chance import NORMAL, least_covered, near

NUMBER = Encoded(column="number", encoding="scaled", lower=-50, upper=100, centre=0)
AMOUNT = Encoded(column="amount", encoding="log", decimals=2, lower=0, upper=100_000, centre=500)
PLACE = Encoded(column="place", encoding="categories", categories=(10, 20, 30))
BINARY = Encoded(column="y", encoding="categories", categories=(0, 1))
THREE = Encoded(column="y", encoding="categories", categories=("a", "b", "c"))
VALUE = Encoded(column="y", encoding="scaled", lower=-100, upper=100, centre=0)
FEATURES = (NUMBER, AMOUNT, PLACE)
MOST_ROWS = 4


def task(learner: Any, label: Encoded | None, *, held_out: int = 25) -> Task:
    return Task(learner=learner, features=FEATURES, label=label, held_out=held_out, rows=MOST_ROWS)


TASKS: dict[str, Task] = {
    "linear": task(Linear(), VALUE),
    "linear, clipped": task(Linear(clip="1.3"), VALUE),
    "logistic": task(Logistic(steps=3), BINARY),
    "logistic, clipped": task(Logistic(steps=3, clip="0.4"), BINARY),
    "multinomial": task(Logistic(steps=3, clip="1.1"), THREE),
    "trees": task(Trees(rounds=2, depth=2, bins=5, clip="0.8"), BINARY),
    "trees of numbers": task(Trees(rounds=2, depth=2, bins=5), VALUE),
    "random trees": task(Trees(rounds=3, depth=2, bins=5, splits="random"), BINARY),
    "k-means": task(Means(clusters=3, steps=3), None),
    "k-means, clipped": task(Means(clusters=3, steps=3, clip="0.7"), None),
}


def statistics_of(wanted: Task, amount: int = 10**9) -> tuple[Statistic, ...]:
    """The statistics that the law schedules for a task, with `amount` nano-rho for each need."""
    return tuple(
        Statistic(
            name=need.quantity,
            measured=Measured(quantity=need.quantity),
            mechanism="gaussian",
            sensitivity=need.sensitivity**2,
            amount=amount,
            scale=sigma_for(need.sensitivity**2, amount // need.draws),
            draws=need.draws,
        )
        for need in needs_of(wanted)
    )


@dataclass(slots=True)
class Recorder(Purse):
    """A purse that keeps the exact vectors, and answers with those of `script`, so that two runs see the same noised values."""

    script: Sequence[Array] = ()
    seen: list[tuple[str, Array]] = field(default_factory=list)

    def draw(self, quantity: str, exact: Array) -> Array:
        self.seen.append((quantity, exact.copy()))
        if self.script:
            return np.asarray(self.script[len(self.seen) - 1], np.float64)
        noised = Purse.draw(self, quantity, exact)
        self.answers.append(noised)
        return noised

    answers: list[Array] = field(default_factory=list)


def run(wanted: Task, rows: Rows, held: Array, script: Sequence[Array] = ()) -> Recorder:
    purse = Recorder(statistics=Purse.of(statistics_of(wanted)).statistics, script=script)
    model = fit(rows.only(~held), wanted, purse)
    measure(model, rows.only(held), wanted, purse)
    return purse


def table(wanted: Task, cells: Sequence[tuple[int, int, int, int]], persons: Sequence[int]) -> Rows:
    """Rows from (number, amount, place, label) as the database gives them."""
    read = np.array(cells, np.int64).reshape(-1, 4)
    columns = dict(zip(("number", "amount", "place", "y"), read.T, strict=True))
    return encode_rows(columns, np.array(persons, np.int64), wanted)


EXTREME = st.sampled_from([MISSING, -(2**62), -50, 0, 99, 100, 2**62, 100_000])
ROW = st.tuples(EXTREME | st.integers(-60, 110), EXTREME | st.integers(-10, 110_000), st.integers(-1, 2), st.integers(-1, 2))


@pytest.mark.parametrize("name", TASKS)
@given(
    own=st.lists(ROW, min_size=1, max_size=MOST_ROWS),
    others=st.lists(st.tuples(st.integers(0, 12), ROW), min_size=1, max_size=30),
    in_test=st.booleans(),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_one_person_moves_no_vector_by_more_than_its_sensitivity(name: str, own: Any, others: Any, in_test: bool) -> None:
    """All rows of one person present or absent, whatever they hold, at the same noised history."""
    wanted = TASKS[name]
    cut: list[tuple[int, Any]] = []
    for person, row in others:
        if sum(p == person for p, _ in cut) < MOST_ROWS:
            cut.append((person, row))
    label = (lambda rows: [(a, b, c, min(d, 1) if wanted.classes == 2 else d) for a, b, c, d in rows]) if wanted.classes else list
    without = table(wanted, label([row for _, row in cut]), [person for person, _ in cut])
    whole = table(wanted, label([*(row for _, row in cut), *own]), [*(person for person, _ in cut), *[99] * len(own)])

    def held(rows: Rows, ids: Sequence[int]) -> Array:
        known = np.unique(ids)
        chosen = (known % 3 == 0) & (known != 99) | ((known == 99) & in_test)
        return np.asarray(chosen[rows.persons]) if len(rows) else np.zeros(0, bool)

    ids_without = _kept(wanted, label([row for _, row in cut]), [person for person, _ in cut])
    ids_whole = _kept(wanted, label([*(row for _, row in cut), *own]), [*(person for person, _ in cut), *[99] * len(own)])
    first = run(wanted, without, held(without, ids_without))
    second = run(wanted, whole, held(whole, ids_whole), script=first.answers)
    allowed = {s.measured.quantity: s.sensitivity for s in statistics_of(wanted)}
    assert [quantity for quantity, _ in first.seen] == [quantity for quantity, _ in second.seen]
    for (quantity, a), (_, b) in zip(first.seen, second.seen, strict=True):
        moved = [int(x) - int(y) for x, y in zip(a.ravel(), b.ravel(), strict=True)]
        assert sum(value * value for value in moved) <= allowed[quantity], quantity


def _kept(wanted: Task, rows: Sequence[tuple[int, int, int, int]], persons: Sequence[int]) -> list[int]:
    """Persons of the rows whose label is known."""
    if wanted.label is None:
        return list(persons)
    return [p for p, row in zip(persons, rows, strict=True) if (row[3] >= 0 if wanted.classes else row[3] != MISSING)]


@given(sizes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**33)), min_size=1, max_size=40), most=st.integers(1, 2**30))
def test_factors_bound_every_person_and_leave_small_ones_alone(sizes: list[tuple[int, int]], most: int) -> None:
    sizes = sorted(sizes)
    persons = np.unique([person for person, _ in sizes], return_index=True, return_inverse=True)
    rows = Rows(z=np.zeros((len(sizes), 1), np.int16), y=np.zeros(0), starts=persons[1], persons=persons[2])
    values = np.array([size for _, size in sizes], np.int64)
    by = factors(rows, values, most)
    total = np.add.reduceat(values, rows.starts)
    held = np.add.reduceat(shrunk(values, by), rows.starts)
    assert np.all(held <= most)
    assert np.all(by[(total <= most)[rows.persons]] == UNIT)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_sums_of_products_are_exact_over_block_borders(seed: int) -> None:
    chance = np.random.default_rng(seed)
    left = chance.integers(-UNIT, UNIT + 1, (BLOCK + 3, 2))
    right = chance.integers(-(2**20), 2**20, (BLOCK + 3, 1))
    exact = [sum(int(a) * int(b) for a, b in zip(column, right[:, 0], strict=True)) for column in left.T]
    assert sum_of_products(left, right)[:, 0].tolist() == exact
    with pytest.raises(OverflowError):
        sum_of_products(left, right << 20)


@given(values=st.lists(EXTREME | st.integers(-100, 200_000), min_size=1, max_size=20))
def test_numbers_are_scaled_into_the_unit_interval_and_null_is_the_centre(values: list[int]) -> None:
    rows = table(task(Means(clusters=2), None), [(v, v, 0, 0) for v in values], range(len(values)))
    assert np.abs(rows.z).max() <= UNIT
    assert all(rows.z[i, 1] == 0 for i, v in enumerate(values) if v == MISSING)
    assert all(rows.z[i, 1] == UNIT for i, v in enumerate(values) if v >= 100)


def test_rows_beyond_the_bound_of_a_person_do_not_take_part() -> None:
    rows = table(TASKS["logistic"], [(1, 1, 0, 1)] * 9 + [(2, 2, 1, 0)], [5] * 9 + [7])
    assert np.bincount(rows.persons).tolist() == [MOST_ROWS, 1]


@pytest.mark.parametrize("bins", [2, 3, 5, 16, 64])
def test_the_threshold_of_a_split_divides_rows_as_its_histogram_did(bins: int) -> None:
    z = np.column_stack([np.full(2 * UNIT + 1, UNIT), np.arange(-UNIT, UNIT + 1)]).astype(np.int16)
    (found,) = bins_of((NUMBER,), bins)
    codes = found.codes(z)
    assert codes.min() == 0
    assert codes.max() == bins - 1
    for index in range(bins - 1):
        coordinate, threshold = found.split(index)
        assert np.array_equal(z[:, coordinate] > threshold, codes > index)


def test_more_draws_than_the_schedule_pays_for_are_refused() -> None:
    wanted = TASKS["logistic"]
    rows = table(wanted, [(1, 1, 0, 1), (2, 2, 1, 0)], [0, 1])
    statistics = [replace(s, draws=s.draws - 1) if s.name == "gradients" else s for s in statistics_of(wanted)]
    with pytest.raises(LossExceeded):
        fit_logistic(rows, wanted, Purse.of(statistics))


def test_less_noise_than_the_amount_pays_for_is_refused() -> None:
    wanted = TASKS["linear"]
    rows = table(wanted, [(1, 1, 0, 1), (2, 2, 1, 0)], [0, 1])
    weak = [replace(s, scale=s.scale // 2) for s in statistics_of(wanted)]
    with pytest.raises(LossExceeded):
        fit(rows, wanted, Purse.of(weak))


@pytest.mark.parametrize("name", TASKS)
def test_no_rows_one_class_and_constant_features_train_like_any_other_rows(name: str) -> None:
    """What the data lack must not show as an error: it would tell about them for nothing."""
    wanted = TASKS[name]
    for rows in (table(wanted, [], []), table(wanted, [(7, 7, 0, 0)] * 9, range(9)), table(wanted, [(MISSING, MISSING, -1, -1)], [0])):
        train(rows, np.zeros(len(rows), bool), wanted, statistics_of(wanted))


# What is learned


def population(kind: str, people: int = 6000) -> tuple[Task, Rows, Array]:
    """Two rows a person, of which the label depends on number and place, or on their disagreement (`either`), which is not linear."""
    chance = np.random.default_rng(11)
    persons = np.repeat(np.arange(people), 2)
    number, amount, place = (
        chance.integers(-50, 101, 2 * people),
        chance.integers(0, 100_000, 2 * people),
        chance.integers(0, 3, 2 * people),
    )
    signal = {
        "value": number + 20 * (place == 2),
        "class": number + 40 * (place == 2) - 40,
        "either": np.where(place == 0, 1, -1) * (number - 25),
    }
    noisy = signal["value" if kind == "value" else kind] + chance.normal(0, 15, 2 * people)
    label = np.rint(noisy).astype(np.int64) if kind == "value" else (noisy > 0).astype(np.int64)
    wanted = task(Linear() if kind == "value" else Logistic(clip="3"), VALUE if kind == "value" else BINARY)
    rows = encode_rows({"number": number, "amount": amount, "place": place, "y": label}, persons, wanted)
    return wanted, rows, np.asarray(rows.persons % 4 == 0)


def rank(scores: Array, positive: Array) -> float:
    """Area under the ROC curve by ranks."""
    order = scores.argsort().argsort() + 1.0
    count = positive.sum()
    return float((order[positive].sum() - count * (count + 1) / 2) / (count * (len(scores) - count)))


def test_linear_regression_finds_the_slope_and_its_metric_says_so() -> None:
    wanted, rows, held = population("value")
    model, metrics = train(rows, held, wanted, statistics_of(wanted, 10**9))
    test = rows.only(held)
    error = predict(model, test.z) - test.y / UNIT
    exact = 1 - (error**2).mean() / (test.y / UNIT).var()
    assert exact > 0.85
    assert float(metrics[0].low) <= float(metrics[0].value) <= float(metrics[0].high)
    assert near(metrics[0], exact, 2 * NORMAL)


def test_intervals_of_metrics_cover_their_exact_value_about_as_often_as_they_say() -> None:
    wanted, rows, held = population("value", 2000)
    statistics = statistics_of(wanted, 10**8)
    model, _ = train(rows, held, wanted, statistics)
    test = rows.only(held)
    error = np.clip(predict(model, test.z) - test.y / UNIT, -2, 2)
    exact = float(np.sqrt((error**2).mean()))
    found = [measure(model, test, wanted, Purse.of(statistics))[1] for _ in range(1000)]
    covered = sum(float(m.low) <= exact <= float(m.high) for m in found)
    assert covered >= least_covered(len(found))


def test_trees_learn_what_a_line_cannot() -> None:
    wanted, rows, held = population("either", 20_000)
    boosted = replace(wanted, learner=Trees(rounds=6, depth=2, bins=12, clip="2"))
    flat, _ = train(rows, held, wanted, statistics_of(wanted, 10**8))
    grown, metrics = train(rows, held, boosted, statistics_of(boosted, 10**8))
    test = rows.only(held)
    linear, curved = (rank(predict(model, test.z), test.y == 1) for model in (flat, grown))
    assert curved > linear + 0.1
    assert abs(float(metrics[0].value) - curved) < 0.1


def test_logistic_regression_ranks_and_several_classes_are_told_apart() -> None:
    wanted, rows, held = population("class")
    model, _ = train(rows, held, wanted, statistics_of(wanted, 10**8))
    test = rows.only(held)
    assert rank(predict(model, test.z), test.y == 1) > 0.95
    several = replace(wanted, label=THREE, learner=Logistic(clip="4"))
    three = replace(rows, y=np.digitize(rows.z[:, 1], [-100, 400]).astype(np.int16))
    model, metrics = train(three, held, several, statistics_of(several, 10**8))
    assert (predict(model, three.z).argmax(axis=1) == three.y).mean() > 0.8
    assert float(metrics[0].value) > 0.75


def test_clusters_are_found() -> None:
    chance = np.random.default_rng(3)
    middle = np.repeat([-40, 90], 4500)
    number = middle + chance.integers(-5, 6, 9000)
    wanted = replace(task(Means(clusters=2), None), features=(NUMBER, AMOUNT))
    rows = encode_rows({"number": number, "amount": np.full(9000, 500)}, np.arange(9000), wanted)
    model, _ = train(rows, np.zeros(9000, bool), wanted, statistics_of(wanted, 10**9))
    found = sorted(round(centre[0] / 2**20 * 100) for centre in model.weights)
    assert np.allclose(found, [-40, 90], atol=8)


# Membership inference


def advantage(with_person: list[float], without: list[float]) -> float:
    """Largest difference of true and false positive rates over all thresholds and both directions, on the second half of each sample."""
    half = len(with_person) // 2
    tuned = sorted({*with_person[:half], *without[:half]})

    def rates(threshold: float, part: slice) -> float:
        a, b = np.array(with_person[part]), np.array(without[part])
        return float((a > threshold).mean() - (b > threshold).mean())

    best = max(tuned, key=lambda threshold: abs(rates(threshold, slice(0, half))))
    return abs(rates(best, slice(half, None)))


def attacked(runs: int, wanted: Task, statistics: Sequence[Statistic]) -> float:
    """Advantage of one who knows all rows but the target's and looks at the weights along the target's direction."""
    cells = [(20, 500, 0, index % 2) for index in range(100)]
    target = [(100, 100_000, 2, 1)] * MOST_ROWS
    absent = table(wanted, cells, range(100))
    present = table(wanted, [*cells, *target], [*range(100), *[100] * MOST_ROWS])
    direction = present.z[-1].astype(np.float64) / UNIT

    def score(rows: Rows) -> float:
        model = fit(rows, wanted, Purse.of(statistics))
        return float(direction @ np.array(model.weights[0], np.float64))

    return advantage([score(present) for _ in range(runs)], [score(absent) for _ in range(runs)])


def permitted(rho: float, runs: int) -> float:
    """What rho-zCDP lets an attacker gain, and seven standard errors of the estimate: by Hoeffding exceeded once in 10^10 runs.

    Pinsker's inequality with the Kullback-Leibler divergence that rho-zCDP bounds (alpha to 1): advantage <= sqrt(rho / 2).
    """
    return float(np.sqrt(rho / 2) + 7 * np.sqrt(2 * 0.25 / (runs / 2)))


RUNS = 1000 if os.environ.get("SANDBOX_FULL") else 300
RHO = 0.02


def leaking() -> tuple[Task, tuple[Statistic, ...]]:
    wanted = replace(TASKS["logistic, clipped"], learner=Logistic(steps=2, clip="0.05"), held_out=0)
    return wanted, statistics_of(wanted, int(RHO / 2 * 10**9))


def test_membership_inference_gains_no_more_than_the_declared_loss_permits() -> None:
    assert attacked(RUNS, *leaking()) <= permitted(RHO, RUNS)


def test_the_same_attack_catches_a_learner_that_does_not_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enclaves.learn.linear, "factors", lambda rows, sizes, most: np.full(len(rows), UNIT, np.int64))
    assert attacked(RUNS, *leaking()) > permitted(RHO, RUNS)


def test_the_loss_of_the_attack_is_the_one_that_is_charged() -> None:
    _, statistics = leaking()
    assert Loss(measure="zcdp", amount=sum(s.amount for s in statistics)).amount == int(RHO * 10**9)

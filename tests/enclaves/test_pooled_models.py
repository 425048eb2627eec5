"""Linear regression over a pool: least squares without noise, intervals that cover with it, and persons who move no sum too far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclaves import joint, joint_sum
from enclaves.kit import he
from enclaves.learn.moments import symmetric, upper
from enclaves.learn.release import from_moments, moments_at_home
from policies.errors import Malformed
from policies.joint import Pool
from policies.joint_documents import JointRelease
from policies.joint_grant import as_read_by, numbers_of, value_count
from policies.model import WEIGHT_BITS, ModelRelease
from policies.plan import parse_plan
from policies.query import columns_read
from policies.schedule import task_of
from policies.scoring import encoded
from policies.shape import shape
from policies.task import Task, moment_count
from policies.training import UNIT, Encoded, Input, Linear, Training
from tests.support.attempt import Attempt
from tests.support.chance import NORMAL
from tests.support.pool import (
    MODEL_SQL,
    TRAINING,
    agreement_of,
    claims_declaration,
    claims_pool,
    claims_table,
    distributed,
    insurers,
    teaching,
)

NAMES = insurers(3)
TABLES = {name: claims_table(300, seed=index, first_person=index * 1000) for index, name in enumerate(NAMES)}
POOL = claims_pool(NAMES)


def attempt(
    training: Training = TRAINING,
    sql: str = MODEL_SQL,
    pool: Pool = POOL,
    rho: str = "2",
    tables: Mapping[str, pa.Table] = TABLES,
    **terms: Any,
) -> Attempt:
    return Attempt(pool, tables, sql, rho, training, terms=tuple(teaching(name, **terms) for name in NAMES))


def opened(found: Attempt) -> ModelRelease:
    release = found.open(found.total(found.contributions()))
    assert isinstance(release, JointRelease)
    assert release.model is not None
    return release.model


def weights_of(found: ModelRelease) -> Any:
    return np.array(found.model.weights[0]) / 2.0**WEIGHT_BITS


def pooled_rows(found: ModelRelease, tables: Mapping[str, pa.Table] = TABLES) -> tuple[Any, Any, Any]:
    """Features, label and person of all rows in real numbers, encoded by what the law says a model means, value by value."""
    assert found.model.label is not None
    x, y, who = [], [], []
    for row in (row for table in tables.values() for row in table.to_pylist()):
        x.append([part for feature in found.model.features for part in encoded(row[feature.column], feature)])
        y.append(encoded(float(row["amount"]), found.model.label)[0])
        who.append(row["person"])
    return np.array(x) / UNIT, np.array(y) / UNIT, np.array(who)


def least_squares(x: Any, y: Any) -> tuple[Any, float, float]:
    """Weights by an orthogonal decomposition of the rows themselves, R2 and mean squared error."""
    z = np.column_stack([np.ones(len(x)), x])
    weights = np.linalg.lstsq(z, y, rcond=None)[0]
    square = float(np.mean((z @ weights - y) ** 2))
    return weights, 1 - square / float(np.var(y)), square


@pytest.fixture
def _without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything as it is but for the noise, which is zero, and of which the model is told so."""
    for module in (joint, joint_sum):
        monkeypatch.setattr(module, "add_noise", lambda values, statistic: [int(v) for v in values])
    monkeypatch.setattr(joint, "draw_share", lambda count, scale: [0] * count)
    monkeypatch.setattr(joint, "from_moments", lambda task, noised, sigma: from_moments(task, noised, 0.0))


@pytest.mark.usefixtures("_without_noise")
@pytest.mark.parametrize("pool", [POOL, distributed(NAMES)], ids=["two-sided", "distributed"])
def test_without_noise_the_model_is_least_squares_on_the_rows_of_all(pool: Pool) -> None:
    found = opened(attempt(pool=pool))
    x, y, _ = pooled_rows(found)
    weights, r2, square = least_squares(x, y)
    assert weights_of(found) == pytest.approx(weights, abs=1e-5)
    metrics = {metric.name: metric for metric in found.metrics}
    assert float(metrics["r2"].value) == pytest.approx(r2, abs=1e-4)
    assert float(metrics["rmse"].value) == pytest.approx(np.sqrt(square), abs=1e-4)
    assert metrics["r2"].low == metrics["r2"].high
    assert [(i.low, i.high) for i in found.intervals] == [pytest.approx((w, w), abs=3) for w in found.model.weights[0]]


@pytest.mark.usefixtures("_without_noise")
def test_an_agreed_ridge_and_a_clip_are_those_of_weighted_ridge_regression() -> None:
    """Rows of a person whose squared norms add up to more than the clip are scaled down together; the constant is not shrunk."""
    clip, ridge = 4.0, 50.0
    found = opened(attempt(replace(TRAINING, learner=Linear(clip=str(clip), ridge=str(ridge)))))
    x, y, who = pooled_rows(found)
    wide = np.column_stack([np.ones(len(x)), x, y])
    total = np.bincount(who, (wide**2).sum(axis=1))
    wide *= np.sqrt(np.minimum(1.0, clip / np.maximum(total, 1e-9)))[who][:, None]
    z, target = wide[:, :-1], wide[:, -1]
    penalty = ridge * np.diag([0.0] + [1.0] * (z.shape[1] - 1))
    assert (total > clip).any()
    assert weights_of(found) == pytest.approx(np.linalg.solve(z.T @ z + penalty, z.T @ target), abs=2e-3)


def test_with_noise_the_released_intervals_hold_what_is_without() -> None:
    """End to end, with noise of both parties. How often the intervals themselves do is simulated below."""
    found = opened(attempt(replace(TRAINING, learner=Linear(clip="8"))))
    x, y, _ = pooled_rows(found)
    exact = least_squares(x, y)[0] * 2.0**WEIGHT_BITS
    halves = [(interval.high - interval.low) / 2 for interval in found.intervals]
    middles = [(interval.high + interval.low) / 2 for interval in found.intervals]
    assert all(abs(m - w) <= NORMAL * half for m, w, half in zip(middles, exact, halves, strict=True))
    assert all(i.low < w < i.high for i, w in zip(found.intervals, found.model.weights[0], strict=True))
    metric = next(m for m in found.metrics if m.name == "r2")
    assert float(metric.low) < float(metric.value) < float(metric.high)


def designed(x: Any, y: Any) -> tuple[Task, Any]:
    """A task of as many scaled features, and its exact moments in 2^-20."""
    features = tuple(Encoded(column=f"x{i}", encoding="scaled", lower=-1, upper=1, decimals=0) for i in range(x.shape[1]))
    label = Encoded(column="y", encoding="scaled", lower=-1, upper=1)
    wide = np.rint(np.column_stack([np.ones(len(x)), x, y]) * UNIT)
    return Task(learner=Linear(), features=features, label=label, held_out=0, rows=1), wide.T @ wide


def random_design(kind: str, rows: int = 4000) -> tuple[Any, Any]:
    draw = np.random.default_rng(7)
    x = draw.uniform(-1, 1, (rows, 4))
    if kind == "collinear":
        x[:, 3] = x[:, 2]
    elif kind == "constant":
        x[:, 3] = 0.0
    elif kind == "correlated":
        x[:, 3] = np.clip(x[:, 2] + draw.normal(0, 0.4, rows), -1, 1)
    y = np.clip(x @ [0.3, -0.2, 0.1, 0.15] + 0.1 + draw.normal(0, 0.2, rows), -1, 1)
    return x, y


@pytest.mark.parametrize("kind", ["plain", "correlated", "collinear", "constant"])
def test_intervals_cover_what_the_sums_give_without_noise(kind: str) -> None:
    """Ridge regression of the same ridge always; least squares wherever it has one answer; and what the weights really explain."""
    x, y = random_design(kind)
    task, exact = designed(x, y)
    sigma, draw = 12.0 * UNIT * UNIT, np.random.default_rng(1)
    width = len(exact)
    squares = least_squares(x, y)[0]
    # With 150 draws 0.9 is three standard deviations below 95 %.
    same, least, well, times = np.zeros(width - 1), np.zeros(width - 1), 0, 150
    for _ in range(times):
        noised = upper(exact) + np.rint(draw.normal(0, sigma, moment_count(task)))
        found = from_moments(task, noised.tolist(), sigma)
        weights = weights_of(found)
        ridge = 2 * sigma * np.sqrt(width - 1) * np.diag([0.0] + [1.0] * (width - 2))
        truth = np.linalg.solve(exact[:-1, :-1] + ridge, exact[:-1, -1])
        low, high = (np.array([getattr(i, end) for i in found.intervals]) / 2.0**WEIGHT_BITS for end in ("low", "high"))
        same += (low <= truth) & (truth <= high)
        least += (low <= squares) & (squares <= high)
        along = np.append(-weights, 1.0)
        r2 = 1 - along @ exact @ along / (exact[-1, -1] - exact[0, -1] ** 2 / exact[0, 0])
        metric = next(m for m in found.metrics if m.name == "r2")
        well += float(metric.low) - 1e-4 <= r2 <= float(metric.high) + 1e-4
    assert same.min() >= 0.9 * times
    if kind in ("plain", "correlated"):
        assert least.min() >= 0.9 * times
    assert well >= 0.9 * times


def test_intervals_are_no_wider_than_the_noise_makes_estimates_scatter() -> None:
    x, y = random_design("plain")
    task, exact = designed(x, y)
    sigma, draw = 2.0 * UNIT * UNIT, np.random.default_rng(2)
    found = [from_moments(task, (upper(exact) + np.rint(draw.normal(0, sigma, moment_count(task)))).tolist(), sigma) for _ in range(100)]
    scatter = np.std([weights_of(each) for each in found], axis=0)
    half = np.mean([[(i.high - i.low) / 2 for i in each.intervals] for each in found], axis=0) / 2.0**WEIGHT_BITS
    assert (half < 4.5 * scatter).all()  # 1.96 sigmas and the shift by the ridge


# --- persons


ROW = st.tuples(
    st.sampled_from(["north", "south", "elsewhere"]),
    st.sampled_from(["0-39", "65+"]),
    st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 5000)),
    st.one_of(st.none(), st.integers(-(2**40), 2**40), st.integers(0, 60)),
)


def table_of(rows: list[tuple[int, tuple[Any, ...]]]) -> pa.Table:
    return pa.table(
        {
            "person": pa.array([person for person, _ in rows], pa.int64()),
            "claim": pa.array(range(len(rows)), pa.int64()),
            "region": pa.array([row[0] for _, row in rows], pa.string()),
            "age_band": pa.array([row[1] for _, row in rows], pa.string()),
            "amount": pa.array([row[2] for _, row in rows], pa.float64()),
            "days": pa.array([row[3] for _, row in rows], pa.int64()),
        }
    )


@given(own=st.lists(ROW, min_size=1, max_size=6), others=st.lists(st.tuples(st.integers(1, 4), ROW), max_size=8))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("clip", [None, "2.5"])
def test_one_person_at_home_moves_the_moments_by_no_more_than_is_charged(clip: str | None, own: Any, others: Any) -> None:
    """All rows of one person, whatever they hold: out of range, infinite, no number, missing, more than the contribution bound."""
    agreement = agreement_of(NAMES, POOL, terms=tuple(teaching(name) for name in NAMES))
    training = replace(TRAINING, learner=Linear(clip=clip))
    plan = as_read_by(parse_plan(MODEL_SQL, agreement.by_dataset, training), POOL, POOL.members[0])
    task = task_of(plan, shape(plan.source, agreement.by_dataset))
    columns = columns_read(plan, agreement.by_dataset)

    def moments(rows: list[tuple[int, Any]]) -> Any:
        return moments_at_home(plan, agreement.by_dataset, columns, {POOL.members[0]: table_of(rows)}, memory_mib=256)

    without, whole = moments(others), moments([*others, *((9, row) for row in own)])
    assert sum((int(a) - int(b)) ** 2 for a, b in zip(whole, without, strict=True)) <= task.clip**2


# --- data that hold little


@pytest.mark.parametrize(
    ("sql", "features"),
    [
        ("SELECT days, days * 2 AS twice, amount FROM pool.claims", ("days", "twice")),
        ("SELECT days, CASE WHEN amount > 4999.99 THEN 1 ELSE 0 END AS never, amount FROM pool.claims", ("days", "never")),
    ],
    ids=["collinear", "constant"],
)
def test_collinear_and_constant_columns_train_like_any_others(sql: str, features: tuple[str, ...]) -> None:
    training = replace(TRAINING, features=tuple(Input(column=name, encoding="scaled") for name in features))
    found = opened(attempt(training, sql))
    assert np.abs(weights_of(found)).max() < 4


def test_more_features_than_rows_and_no_rows_at_all_train_like_any_others() -> None:
    names = [f"d{number}" for number in range(12)]
    sql = f"SELECT {', '.join(f'days + {number} AS {name}' for number, name in enumerate(names))}, amount FROM pool.claims"
    training = replace(TRAINING, features=tuple(Input(column=name, encoding="scaled") for name in names))
    for rows in (2, 0):
        tables = {name: TABLES[name].slice(0, rows) for name in NAMES}
        assert len(weights_of(opened(attempt(training, sql, tables=tables, minimum_group=1)))) == 13


def test_what_is_no_number_counts_as_missing_and_what_is_out_of_range_as_its_bound() -> None:
    rows = [(1, ("north", "0-39", 100.0, 10)), (2, ("south", "65+", float("nan"), 20)), (3, ("north", "65+", 1e12, 10**9))]
    held = [(1, ("north", "0-39", 100.0, 10)), (2, ("south", "65+", 0.0, 20)), (3, ("north", "65+", 5000.0, 60))]
    task, found = attempt(), []
    for table in (table_of(rows), table_of(held)):
        found.append(
            joint._exact(task.grant, as_read_by(task.grant.plan, POOL, POOL.members[0]), task.declarations, POOL.members[0], table)
        )
    assert (found[0]["moments"] == found[1]["moments"]).all()


def test_below_the_minimum_group_nothing_is_trained() -> None:
    few = {name: TABLES[name].slice(0, 0) for name in NAMES}
    found = attempt(tables=few, minimum_group=500)
    release = found.open(found.total(found.contributions()))
    assert isinstance(release, JointRelease)
    assert (release.model, release.cells[0].suppressed) == (None, True)


# --- who does not keep to it


def test_a_contributor_with_more_rows_or_larger_sums_than_agreed_is_refused_at_home() -> None:
    small = attempt(pool=claims_pool(NAMES, rows=100))
    with pytest.raises(Malformed) as refused:
        small.contribution(NAMES[0])
    assert refused.value.code == "pool-rows"
    found = attempt()
    found.grant = replace(found.grant, bounds=tuple(UNIT for _ in found.grant.bounds))
    with pytest.raises(Malformed) as beyond:
        found.contribution(NAMES[0])
    assert beyond.value.code == "pool-rows"


def test_poisoned_moments_are_not_released() -> None:
    found = attempt()
    grant, parts = found.grant, found.contributions()
    values = np.zeros(value_count(grant, found.declarations), np.int64)
    values[-1] = grant.scheme.largest
    extra = he.encrypt(grant.parameters, found.pair.public, he.pack(grant.parameters, values, grant.scheme.largest))
    base = he.read_ciphertexts(grant.parameters, parts[NAMES[0]], len(extra)).copy()
    he.add_into(grant.parameters, base, extra)
    assert found.open(found.total(parts | {NAMES[0]: he.write_ciphertexts(base)})) == "aborted"


def test_a_total_holds_the_number_of_persons_and_every_moment_once() -> None:
    found = attempt()
    task = task_of(found.grant.plan, shape(found.grant.plan.source, found.declarations))
    assert [numbers_of(s, found.grant.plan, found.declarations) for s in found.grant.statistics] == [1, 21]
    assert value_count(found.grant, found.declarations) == 1 + moment_count(task)
    assert symmetric(np.arange(3), 2).tolist() == [[0, 1], [1, 2]]
    assert claims_declaration(NAMES[0]).rows_per_unit == task.rows

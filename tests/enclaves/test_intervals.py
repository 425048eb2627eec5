"""Intervals hold what they say for both noises: exact for counts and sums, simulated for all else."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.figures import figures_of
from enclaves.intervals import Noise, half_width, half_width_of, quantile, ratio, tail, tail_of_difference
from policies.declaration import Column, Declaration
from policies.expression import Ref
from policies.privacy import NANO, SCALE_UNIT, Loss
from policies.query import AggregateOutput, Plan, Table
from policies.schedule import schedule
from policies.shape import shape
from tests.support.queries import LEFT

SEED = 20_260_601
DRAWS = 2_000
SLACK = 4 * math.sqrt(0.05 * 0.95 / DRAWS)
"""Four standard deviations of a simulated coverage of 95 %."""


def drawn(draw: np.random.Generator, noise: Noise, count: int) -> np.ndarray:
    """Draws of the same distributions: a difference of two geometric variables, a rounded normal one (for sigma well above 1)."""
    if noise.mechanism == "gaussian":
        return np.rint(draw.normal(0.0, noise.scale, count)).astype(np.int64)
    p = 1.0 - math.exp(-1.0 / noise.scale)
    return draw.geometric(p, count) - draw.geometric(p, count)


def outside(t: int, noise: Noise) -> float:
    """P(|X| > t), by summing probabilities."""
    reach = t + int(40 * noise.scale) + 40
    if noise.mechanism == "laplace":
        weights = [math.exp(-x / noise.scale) for x in range(reach)]
    else:
        weights = [math.exp(-(x * x) / (2 * noise.scale**2)) for x in range(reach)]
    return 2 * sum(weights[t + 1 :]) / (2 * sum(weights) - weights[0])


MECHANISMS: Any = st.sampled_from(["laplace", "gaussian"])


@given(scale=st.floats(0.05, 200.0), mechanism=MECHANISMS)
@settings(max_examples=120, deadline=None)
def test_half_width_is_the_smallest_that_keeps_95_percent(scale: float, mechanism: Any) -> None:
    noise = Noise(mechanism=mechanism, scale=scale)
    half = half_width(noise)
    assert outside(half, noise) <= 0.05 + 1e-6
    assert half == 0 or outside(half - 1, noise) > 0.05 - 1e-6


def test_half_width_known_answers() -> None:
    """Laplace at scale 1, p = 1/e: P(|X| > t) = 2 p^(t+1) / (1 + p). Gaussian: 1.96 sigma, rounded."""
    assert [half_width(Noise(mechanism="laplace", scale=scale)) for scale in (2.0**-20, 0.1, 1.0)] == [0, 0, 3]
    assert half_width(Noise(mechanism="gaussian", scale=10.0)) == 20


@given(t=st.floats(0.0, 200.0), first=st.floats(0.1, 30.0), second=st.floats(0.05, 30.0))
@settings(max_examples=40, deadline=None)
def test_tail_of_a_difference_equals_its_integral(t: float, first: float, second: float) -> None:
    """P(|X - Y| > t) by integrating the tail of X over the density of Y."""
    grid = np.linspace(-40 * second, 40 * second, 40_001)
    density = np.exp(-np.abs(grid) / second) / (2 * second)
    above = np.exp(-np.abs(t + grid) / first) / 2
    above = np.where(t + grid > 0, above, 1 - above)
    assert tail_of_difference(t, first, second) == pytest.approx(2 * float(np.trapezoid(density * above, grid)), abs=2e-4)


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (5.0, 1.0, 0.2), (3.0, 2.99, 1.0, 1.0, 1.0), (7.0,), (2.0, 2.0)])
@pytest.mark.parametrize("mechanism", ["laplace", "gaussian"])
def test_the_half_width_of_a_sum_of_noises_is_that_of_a_simulation(scales: tuple[float, ...], mechanism: Any) -> None:
    draw = np.random.default_rng(SEED)
    sample = draw.laplace if mechanism == "laplace" else draw.normal
    total = sum(sample(0.0, scale, 400_000) for scale in scales)
    noises = [Noise(mechanism=mechanism, scale=scale) for scale in scales]
    assert half_width_of(noises) == pytest.approx(float(np.quantile(np.abs(total), 0.95)), rel=0.03)
    assert tail(half_width_of(noises), noises) == pytest.approx(0.05, abs=1e-6)


# Averages


@pytest.mark.parametrize("mechanism", ["laplace", "gaussian"])
@pytest.mark.parametrize(
    ("average", "count", "total_scale", "count_scale", "lower", "upper"),
    [(5.0, 4_000, 200.0, 10.0, 0, 20), (300.0, 5_000, 400_000.0, 20.0, 0, 200_000), (-7.0, 900, 300.0, 15.0, -20, 20)],
)
def test_intervals_of_averages_cover_and_are_as_narrow_as_the_estimate_scatters(
    mechanism: Any, average: float, count: int, total_scale: float, count_scale: float, lower: int, upper: int
) -> None:
    draw = np.random.default_rng(SEED)
    noises = Noise(mechanism=mechanism, scale=total_scale), Noise(mechanism=mechanism, scale=count_scale)
    total, true = round(average * count), round(average * count) / count
    totals, counts = total + drawn(draw, noises[0], DRAWS), count + drawn(draw, noises[1], DRAWS)
    found = np.array([ratio(int(s), int(c), *noises, lower, upper) for s, c in zip(totals, counts, strict=True)])
    assert 0.94 - SLACK <= float(np.mean((found[:, 1] <= true) & (true <= found[:, 2]))) <= 0.98
    low, high = np.quantile(np.clip(totals / counts, lower, upper), [0.025, 0.975])
    assert float(np.median(found[:, 2] - found[:, 1])) <= 1.15 * (high - low)


@pytest.mark.parametrize("mechanism", ["laplace", "gaussian"])
@pytest.mark.parametrize("count", [0, 1, 10, 60, 120])
def test_intervals_of_averages_over_few_rows_cover_at_least_as_often(mechanism: Any, count: int) -> None:
    draw = np.random.default_rng(SEED)
    noises = Noise(mechanism=mechanism, scale=200.0), Noise(mechanism=mechanism, scale=20.0)
    totals, counts = 5 * count + drawn(draw, noises[0], DRAWS), count + drawn(draw, noises[1], DRAWS)
    found = np.array([ratio(int(s), int(c), *noises, 0, 20) for s, c in zip(totals, counts, strict=True)])
    assert float(np.mean((found[:, 1] <= 5.0) & (found[:, 2] >= 5.0))) >= 0.94 - SLACK


@given(
    total=st.integers(-(2**62), 2**62), count=st.integers(-100, 2**40), scales=st.tuples(st.floats(0.01, 1e9), st.floats(0.01, 1e6)),
    mechanism=MECHANISMS, bounds=st.tuples(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40)).map(sorted),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_an_average_and_its_interval_lie_within_the_declared_bounds(
    total: int, count: int, scales: tuple[float, float], mechanism: Any, bounds: list[int]
) -> None:
    lower, upper = bounds
    value, low, high = ratio(total, count, *(Noise(mechanism=mechanism, scale=scale) for scale in scales), lower, upper)
    assert lower <= low <= value <= high <= upper


# Whole outputs, from exact vectors and simulated noise of the schedule's own scales


def truth(name: str, x: np.ndarray, y: np.ndarray) -> float:
    """An aggregate of the rows themselves."""
    plain: dict[str, Callable[[], float]] = {
        "COUNT": lambda: float(len(x)),
        "COUNT_UNITS": lambda: float(len(x)),
        "SUM": lambda: float(x.sum()),
        "AVG": lambda: float(x.mean()),
        "VAR_POP": lambda: float(x.var()),
        "VAR_SAMP": lambda: float(x.var(ddof=1)),
        "STDDEV_POP": lambda: float(x.std()),
        "STDDEV_SAMP": lambda: float(x.std(ddof=1)),
        "COVAR_POP": lambda: float(np.cov(x, y, ddof=0)[0, 1]),
        "COVAR_SAMP": lambda: float(np.cov(x, y)[0, 1]),
        "CORR": lambda: float(np.corrcoef(x, y)[0, 1]),
        "REGR_SLOPE": lambda: float(np.polyfit(y, x, 1)[0]),
        "REGR_INTERCEPT": lambda: float(np.polyfit(y, x, 1)[1]),
        "QUANTILE": lambda: float(np.sort(x)[math.ceil(0.25 * len(x)) - 1]),
        "MIN": lambda: float(np.sort(x)[math.ceil(0.005 * len(x)) - 1]),
        "MAX": lambda: float(np.sort(x)[math.ceil(0.995 * len(x)) - 1]),
    }
    return plain[name]()


def vector(measured: Any, x: np.ndarray, y: np.ndarray) -> list[int]:
    """A statistic of the rows themselves, with the bins of whole numbers from 0 to 99."""
    columns = [x if argument.column == "x" else y for argument in measured.arguments]
    if measured.quantity in ("rows", "units"):
        return [len(x)]
    if measured.quantity == "bins":
        return [int(n) for n in np.bincount(columns[0], minlength=measured.bins)]
    near = [column - centre for column, centre in zip(columns, measured.centres, strict=False)]
    amounts = {"sum": near[0], "squares": near[0] ** 2, "product": near[0] * near[-1]}[measured.quantity]
    return [int(np.trunc(amounts / measured.step).sum())]


FUNCTIONS = (
    "COUNT", "COUNT_UNITS", "SUM", "AVG", "VAR_POP", "VAR_SAMP", "STDDEV_POP", "STDDEV_SAMP", "COVAR_POP", "COVAR_SAMP", "CORR",
    "REGR_SLOPE", "REGR_INTERCEPT", "QUANTILE", "MIN", "MAX",
)  # fmt: skip
SITUATIONS = tuple(itertools.product((150, 20_000), ("pure", "zcdp")))
CASES = [
    (function, *situation)
    for at, function in enumerate(FUNCTIONS)
    for number, situation in enumerate(SITUATIONS)
    if os.environ.get("SANDBOX_FULL") or number in ((0, 3), (1, 2))[at % 2]
]
"""Every aggregate with few rows and with many, with either noise; all four combinations with SANDBOX_FULL=1."""


@pytest.mark.parametrize(("function", "rows", "measure"), CASES)
def test_intervals_of_every_aggregate_cover(function: Any, rows: int, measure: Any) -> None:
    """Of 2,000 noised answers 94 to 98 % cover with many rows, with few never fewer. Intervals of quantiles are whole bins."""
    draw = np.random.default_rng(SEED)
    x = np.minimum(draw.poisson(30, rows), 99)
    y = np.clip(x + draw.integers(-40, 40, rows), 0, 99)
    bounds = {"lower": "0", "upper": "99"}
    declaration = Declaration(
        dataset=LEFT, title="Rows", unit="pid", id_space="people", rows_per_unit=1, unique_key=("pid",),
        columns=(Column(name="pid", type="integer"), *(Column(name=name, type="integer", **bounds) for name in ("x", "y"))),
    )  # fmt: skip
    taken = 0 if function.startswith("COUNT") else 2 if function.startswith(("CO", "REGR")) else 1
    arguments = tuple(Ref(table="t", column=c) for c in ("x", "y")[:taken])
    output = AggregateOutput(name="o", function=function, arguments=arguments, fraction="0.25" if function == "QUANTILE" else None)
    plan = Plan(source=Table(alias="t", dataset=LEFT), outputs=(output,))
    # The interval of a count has whole numbers: where its noise is that of a few, it covers more often than it has to.
    loss = Loss(measure=measure, amount=(NANO if measure == "pure" else NANO // 4) // (1 if taken else 100))
    statistics = schedule(plan, {LEFT: declaration}, loss, 1)
    noised: dict[str, list[int]] = {}
    for s in statistics:
        exact = vector(s.measured, x, y)
        noise = drawn(draw, Noise(mechanism=s.mechanism, scale=s.scale / SCALE_UNIT), DRAWS * len(exact))
        noised[s.name] = [int(v) for v in np.tile(exact, DRAWS) + noise]
    figure = figures_of(output, plan, shape(plan.source, {LEFT: declaration}), statistics, noised)
    true = truth(function, x, y)
    figures = [figure(cell) for cell in range(DRAWS)]
    assert all(float(f.low) <= float(f.value) <= float(f.high) for f in figures)
    coverage = sum(float(f.low) - 1e-9 <= true <= float(f.high) + 1e-9 for f in figures) / DRAWS
    assert coverage >= 0.94 - SLACK
    if rows > 1000 and function not in ("QUANTILE", "MIN", "MAX"):
        assert coverage <= 0.98
        widths = np.array([float(f.high) - float(f.low) for f in figures])
        values = np.array([float(f.value) for f in figures])
        reference = np.quantile(np.abs(values - true), 0.95) * 2
        assert np.median(widths) <= 1.15 * reference, "as narrow as this very noise allows, simulated"


@given(
    counts=st.lists(st.integers(-50, 10_000), min_size=1, max_size=30), fraction=st.floats(0, 1),
    scale=st.floats(0.1, 500), mechanism=MECHANISMS,
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_quantile_and_its_interval_are_in_order_and_inside_the_bounds(
    counts: list[int], fraction: float, scale: float, mechanism: Any
) -> None:
    edges = [3 * index for index in range(len(counts) + 1)]
    value, low, high = quantile(counts, Noise(mechanism=mechanism, scale=scale), edges, fraction)
    assert edges[0] <= low <= value <= high <= edges[-1] - 1


@given(
    counts=st.lists(st.integers(0, 1000), min_size=2, max_size=20).filter(any),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
@settings(max_examples=150, deadline=None)
def test_a_larger_fraction_never_has_a_smaller_quantile(counts: list[int], shares: list[float]) -> None:
    edges = [5 * index for index in range(len(counts) + 1)]
    less, more = (quantile(counts, Noise(mechanism="gaussian", scale=2.0), edges, share)[0] for share in shares)
    assert less <= more + 1e-6

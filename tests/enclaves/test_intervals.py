"""Intervals hold what they say: exact for counts and sums, simulated for averages, and never wider than they need to be."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.intervals import half_width, half_width_of_difference, ratio, tail_of_difference

SEED = 20_260_601
DRAWS = 3_000
SLACK = 4 * math.sqrt(0.05 * 0.95 / DRAWS)
"""Four standard deviations of a simulated coverage of 95 %."""


def noise(draw: np.random.Generator, scale: float, count: int) -> np.ndarray:
    """Discrete Laplace draws: the difference of two geometric variables with success probability 1 - exp(-1 / scale)."""
    p = 1.0 - math.exp(-1.0 / scale)
    return draw.geometric(p, count) - draw.geometric(p, count)


def outside(t: int, scale: float) -> float:
    """P(|X| > t) for discrete Laplace X, by summing its probabilities."""
    p = math.exp(-1.0 / scale)
    return 1.0 - sum((1.0 - p) / (1.0 + p) * p ** abs(value) for value in range(-t, t + 1))


# Counts and sums


@given(scale=st.floats(0.05, 400.0))
@settings(max_examples=150, deadline=None)
def test_half_width_is_the_smallest_that_keeps_95_percent(scale: float) -> None:
    half = half_width(scale)
    assert outside(half, scale) <= 0.05 + 1e-9
    assert half == 0 or outside(half - 1, scale) > 0.05 - 1e-9


def test_half_width_known_answers() -> None:
    """At scale 1, p = 1/e: P(|X| > t) = 2 p^(t+1) / (1 + p) is 0.073 at t = 2 and 0.027 at t = 3."""
    assert [half_width(scale) for scale in (2.0**-20, 0.1, 1.0)] == [0, 0, 3]


@given(exponent=st.floats(2.0, 33.0))
@settings(max_examples=100, deadline=None)
def test_half_width_of_wide_noise_equals_a_computation_with_fifty_digits(exponent: float) -> None:
    """The smallest integer t with 2 p^(t+1) / (1 + p) <= 1/20, solved for t."""
    scale = round(2.0**exponent * 2**20) / 2**20
    with localcontext() as context:
        context.prec = 50
        p = (Decimal(-1) / Decimal(scale)).exp()
        exact = (Decimal(scale) * (2 / (Decimal("0.05") * (1 + p))).ln()).to_integral_value(ROUND_CEILING) - 1
    assert abs(half_width(scale) - int(exact)) <= (1 if exact > 2**30 else 0)


@given(st.floats(0.01, 1e6), st.floats(0.01, 1e6))
@settings(max_examples=100, deadline=None)
def test_more_noise_never_makes_a_narrower_interval(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert half_width(low) <= half_width(high)
    assert half_width_of_difference(low, 7.0) <= half_width_of_difference(high, 7.0) * (1 + 1e-9)
    assert tail_of_difference(half_width_of_difference(low, high), low, high) == pytest.approx(0.05)


@pytest.mark.parametrize("scale", [5.0, 33.3, 2_000.0])
@pytest.mark.parametrize("true", [0, 3, 10_000])
def test_intervals_of_counts_and_sums_cover(scale: float, true: int) -> None:
    drawn = true + noise(np.random.default_rng(SEED), scale, DRAWS)
    half = half_width(scale)
    coverage = float(np.mean((drawn - half <= true) & (true <= drawn + half)))
    assert 0.94 - SLACK <= coverage <= 0.98


# Averages


@given(t=st.floats(0.0, 200.0), first=st.floats(0.1, 30.0), second=st.floats(0.0, 30.0))
@settings(max_examples=60, deadline=None)
def test_tail_of_a_difference_equals_its_integral(t: float, first: float, second: float) -> None:
    """P(|X - Y| > t) by integrating the tail of X over the density of Y."""
    if second < 0.05:
        assert tail_of_difference(t, first, 0.0) == pytest.approx(math.exp(-t / first))
        return
    grid = np.linspace(-40 * second, 40 * second, 40_001)
    density = np.exp(-np.abs(grid) / second) / (2 * second)

    def above(x: np.ndarray) -> np.ndarray:
        small = np.exp(-np.abs(x) / first) / 2
        return np.asarray(np.where(x > 0, small, 1 - small))

    integral = 2 * float(np.trapezoid(density * above(t + grid), grid))
    assert tail_of_difference(t, first, second) == pytest.approx(integral, abs=2e-4)


def simulate(
    average: float, count: int, total_scale: float, count_scale: float, lower: int, upper: int, draws: int = DRAWS
) -> tuple[np.ndarray, np.ndarray]:
    """Return ((value, low, high) per draw, the noised ratio per draw) of a true average over `count` rows."""
    draw = np.random.default_rng(SEED)
    total = round(average * count)
    totals, counts = total + noise(draw, total_scale, draws), count + noise(draw, count_scale, draws)
    found = [ratio(int(s), int(c), total_scale, count_scale, lower, upper) for s, c in zip(totals, counts, strict=True)]
    return np.array(found), totals / np.where(counts == 0, 1, counts)


@pytest.mark.parametrize(
    ("average", "count", "total_scale", "count_scale", "lower", "upper"),
    [
        (5.0, 4_000, 200.0, 10.0, 0, 20),
        (5.0, 400, 200.0, 10.0, 0, 20),
        (300.0, 5_000, 400_000.0, 20.0, 0, 200_000),
        (-7.0, 900, 300.0, 15.0, -20, 20),
        (0.0, 900, 300.0, 15.0, -20, 20),
        (19.0, 600, 200.0, 10.0, 0, 20),
        (2.0, 100_000, 8.0, 1_000.0, 0, 10),
    ],
)
def test_intervals_of_averages_cover(average: float, count: int, total_scale: float, count_scale: float, lower: int, upper: int) -> None:
    found, _ = simulate(average, count, total_scale, count_scale, lower, upper)
    true = round(average * count) / count
    coverage = float(np.mean((found[:, 1] <= true) & (true <= found[:, 2])))
    assert 0.94 - SLACK <= coverage <= 0.98


@pytest.mark.parametrize("count", [0, 1, 3, 10, 30, 60, 120])
def test_intervals_of_averages_over_few_rows_cover_at_least_as_often(count: int) -> None:
    """Where the noised count says too little, the interval is all declared values, so it covers more often, never less."""
    found, _ = simulate(5.0, count, 200.0, 20.0, 0, 20)
    true = 5.0 if count == 0 else round(5.0 * count) / count
    assert float(np.mean((found[:, 1] <= true) & (true <= found[:, 2]))) >= 0.94 - SLACK


@pytest.mark.parametrize(
    ("average", "count", "total_scale", "count_scale", "lower", "upper"),
    [(5.0, 2_000, 200.0, 10.0, 0, 20), (3.0, 20_000, 2_000.0, 100.0, 0, 20), (300.0, 5_000, 40_000.0, 20.0, 0, 200_000)],
)
def test_intervals_of_averages_are_no_wider_than_the_estimate_scatters(
    average: float, count: int, total_scale: float, count_scale: float, lower: int, upper: int
) -> None:
    """Reference: the middle 95 % of the noised ratio itself, which only a simulation that knows the truth can tell."""
    found, ratios = simulate(average, count, total_scale, count_scale, lower, upper, draws=2_000)
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert float(np.median(found[:, 2] - found[:, 1])) <= 1.15 * (high - low)


@given(share=st.floats(0, 1), scales=st.floats(0.05, 400.0), total_scale=st.floats(1.0, 2_000.0))
@settings(max_examples=100, deadline=None)
def test_an_interval_is_exactly_the_averages_that_the_noise_does_not_rule_out(share: float, scales: float, total_scale: float) -> None:
    """Fieller's set {a : |S - a C| <= q(a)}, looked at on a grid; where the count is too small for it to be an interval, all values."""
    count, lower, upper = max(1, round(scales * 10.0)), -5, 20
    total = round((lower + share * (upper - lower)) * count)
    _, low, high = ratio(total, count, total_scale, 10.0, lower, upper)
    for a in np.linspace(lower, upper, 101):
        slack = abs(total - a * count) - half_width_of_difference(total_scale, abs(float(a)) * 10.0)
        if count < 40:
            assert (low, high) == (lower, upper)
        elif abs(slack) > 1e-6 * (abs(total) + count):
            assert (low <= a <= high) == (slack < 0)


WIDE = st.integers(-(2**62), 2**62)


@given(
    total=WIDE,
    count=st.one_of(st.integers(-100, 1_000), WIDE),
    total_scale=st.floats(2.0**-20, 2.0**33),
    count_scale=st.floats(2.0**-20, 2.0**20),
    bounds=st.tuples(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40)).map(sorted),
)
@settings(max_examples=300, deadline=None)
def test_an_average_and_its_interval_lie_within_the_declared_bounds(
    total: int, count: int, total_scale: float, count_scale: float, bounds: list[int]
) -> None:
    lower, upper = bounds
    value, low, high = ratio(total, count, total_scale, count_scale, lower, upper)
    assert lower <= low <= value <= high <= upper


@given(count=st.integers(1, 3_000), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
@settings(max_examples=150, deadline=None)
def test_of_two_possible_totals_the_larger_never_makes_a_smaller_average_or_limit(count: int, shares: list[float]) -> None:
    less, more = (ratio(int(share * 20 * count), count, 150.0, 10.0, 0, 20) for share in shares)
    assert all(a <= b + 1e-9 for a, b in zip(less, more, strict=True))


@given(share=st.floats(0, 1), count=st.integers(100, 3_000), scale=st.floats(1.0, 300.0), further=st.floats(1.0, 4.0))
@settings(max_examples=100, deadline=None)
def test_more_noise_on_the_total_never_narrows_an_average(share: float, count: int, scale: float, further: float) -> None:
    total = int(share * 20 * count)
    (_, low, high), (_, wider_low, wider_high) = (ratio(total, count, s, 10.0, 0, 20) for s in (scale, scale * further))
    assert wider_low <= low + 1e-9
    assert high <= wider_high + 1e-9

"""Noise of joint totals: what its shares cost is held against theorem and against the distributions themselves."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.errors import Malformed
from policies.joint import (
    NARROW,
    SMALLEST_SHARE,
    WIDE,
    Pool,
    distributed_loss,
    parameters_for,
    share_scale,
    total_scale,
    window,
)
from policies.privacy import NANO, SCALE_UNIT, sigma_for


@given(
    squared=st.integers(1, 10**12),
    amount=st.integers(1, 10**10),
    contributors=st.integers(2, 16),
    coalition=st.integers(0, 15),
    numbers=st.integers(1, 10**6),
)
def test_the_shares_outside_a_coalition_cost_no_more_than_is_charged(
    squared: int, amount: int, contributors: int, coalition: int, numbers: int
) -> None:
    assume(coalition < contributors)
    honest = contributors - coalition
    share = share_scale(sigma_for(squared, amount), honest) / SCALE_UNIT
    assert distributed_loss(squared, share, honest, numbers) <= amount / NANO * (1 + 1e-12)


@given(squared=st.integers(1, 10**9), amount=st.integers(10**3, 10**9), honest=st.integers(1, 16))
def test_the_price_of_sharing_is_below_a_millionth(squared: int, amount: int, honest: int) -> None:
    base = sigma_for(squared, amount)
    share = share_scale(base, honest)
    assume(share > SMALLEST_SHARE)
    assert honest * share * share <= base * base * (1 + 1e-6) + 4 * honest * share


def pmf(sigma: float, reach: int) -> list[float]:
    weights = [math.exp(-(x * x) / (2 * sigma * sigma)) for x in range(-reach, reach + 1)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def convolved(a: list[float], b: list[float]) -> list[float]:
    found = [0.0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            found[i + j] += x * y
    return found


@pytest.mark.parametrize(("sigma", "honest", "distance"), [(1.0, 2, 1), (1.0, 3, 2), (0.7, 2, 1), (4.0, 2, 3)])
def test_the_theorem_bounds_the_divergence_of_the_summed_noise(sigma: float, honest: int, distance: int) -> None:
    """Rényi divergences of the noise that is really drawn, summed exactly, at several orders."""
    noise = one = pmf(sigma, math.ceil(9 * sigma))
    for _ in range(honest - 1):
        noise = convolved(noise, one)
    rho = distributed_loss(distance**2, sigma, honest, 1)
    for order in (1.5, 2.0, 8.0):
        inside = range(distance, len(noise))
        total = math.fsum((noise[i] / noise[i - distance]) ** order * noise[i - distance] for i in inside if noise[i - distance] > 1e-290)
        assert math.log(total) / (order - 1) <= order * rho * (1 + 1e-9)


def test_a_share_is_never_so_small_that_the_sum_is_no_noise() -> None:
    assert share_scale(1, 16) == SMALLEST_SHARE
    tau = 10 * 16 * math.exp(-(math.pi**2) * (SMALLEST_SHARE / SCALE_UNIT) ** 2)
    assert tau < 1e-63
    with pytest.raises(Malformed):
        share_scale(10**6, 0)


def test_the_noise_of_a_release_is_what_everybody_drew() -> None:
    base = 100 * SCALE_UNIT
    assert total_scale(base, "two-sided", 4, 0) == math.isqrt(2 * base * base) + 1
    assert total_scale(base, "distributed", 4, 0) == pytest.approx(base, rel=1e-5)
    assert total_scale(base, "distributed", 4, 2) == pytest.approx(base * math.sqrt(2), rel=1e-5)


def test_bounds_choose_the_smallest_parameters_and_refuse_what_none_holds() -> None:
    assert parameters_for(2**38, 16) is NARROW
    assert parameters_for(2**38 + 1, 16) is WIDE
    assert parameters_for(2**57, 16) is WIDE
    with pytest.raises(Malformed) as refused:
        parameters_for(2**57 + 1, 2)
    assert refused.value.code == "pool-too-large"


def test_more_additions_than_the_noise_budget_allows_are_refused() -> None:
    assert parameters_for(1, NARROW.additions - 1) is NARROW
    assert parameters_for(1, NARROW.additions) is WIDE
    with pytest.raises(Malformed):
        parameters_for(1, WIDE.additions)


def test_a_window_holds_all_contributors_and_the_tail_of_the_noise() -> None:
    assert window(1000, 0, 3) == 3000
    assert window(1000, 10 * SCALE_UNIT, 3) == 3120


def pool(**changes: object) -> Pool:
    values = {
        "dataset": "pool.claims", "members": ("a.claims", "b.claims", "c.claims"), "key_holder": "notary", "rows": 1000,
        "noise": "two-sided", "coalition": 0, "dropout": "rerun", "fewest": 2,
    }  # fmt: skip
    return Pool(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "a.claims"},
        {"members": ("a.claims",)},
        {"members": ("a.claims", "a.more")},
        {"members": tuple(f"p{n}.claims" for n in range(17))},
        {"key_holder": "b"},
        {"rows": 0},
        {"rows": 10**9 + 1},
        {"fewest": 1},
        {"fewest": 4},
        {"coalition": 1},
        {"noise": "distributed", "dropout": "fail", "coalition": 3},
        {"noise": "distributed", "dropout": "fail", "coalition": -1},
        {"noise": "distributed", "dropout": "rerun"},
    ],
    ids=repr,
)
def test_a_pool_that_could_not_keep_its_promise_is_refused(changes: dict[str, object]) -> None:
    pool()
    with pytest.raises(Malformed):
        pool(**changes)

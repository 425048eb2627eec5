"""A zCDP ledger shown in epsilon and delta: OpenDP's conversion is the reference."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.conversion import DISPLAY_DELTA, approximate_delta, epsilon_at
from policies.errors import Malformed
from policies.privacy import Loss

dp = pytest.importorskip("opendp.prelude", reason="pip install opendp")


def reference(rho: float, delta: float) -> float:
    """OpenDP's map from rho to epsilon at delta, for a mechanism that costs exactly rho."""
    dp.enable_features("contrib")
    space = dp.atom_domain(T=int), dp.absolute_distance(T=float)
    scale = (1 / (2 * rho)) ** 0.5
    smoothed = dp.c.make_zCDP_to_approxDP(dp.m.make_gaussian(*space, scale=scale))
    return float(smoothed.map(1.0).epsilon(delta))


@pytest.mark.parametrize("rho", [0.0001, 0.001, 0.01, 0.1, 0.5, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("delta", [1_000_000, 1_000, 100_000_000])
def test_the_epsilon_shown_is_opendps(rho: float, delta: int) -> None:
    shown = float(epsilon_at(Loss(measure="zcdp", amount=round(rho * 1e9)), delta))
    wanted = reference(rho, delta / 1e12)
    assert wanted - 1e-6 <= shown <= wanted * (1 + 1e-4) + 2e-6


@given(st.integers(1, 20 * 10**9), st.integers(1, 10**11))
@settings(max_examples=50)
def test_more_spent_is_more_shown_and_the_bound_holds(amount: int, delta: int) -> None:
    shown = float(epsilon_at(Loss(measure="zcdp", amount=amount), delta))
    assert approximate_delta(amount / 1e9, shown) <= delta / 1e12 * (1 + 1e-9)
    assert shown <= float(epsilon_at(Loss(measure="zcdp", amount=amount + 10**7), delta))


def test_delta0_comes_off_delta() -> None:
    spent = Loss(measure="zcdp", amount=10**8, delta0=DISPLAY_DELTA // 2)
    assert float(epsilon_at(spent)) > float(epsilon_at(Loss(measure="zcdp", amount=10**8)))
    with pytest.raises(Malformed) as refused:
        epsilon_at(Loss(measure="zcdp", amount=10**8, delta0=DISPLAY_DELTA))
    assert refused.value.code == "delta-spent"


def test_a_pure_ledger_is_its_own_epsilon_and_nothing_spent_is_nothing() -> None:
    assert epsilon_at(Loss(amount=500_000_000), 0) == "0.5"
    assert epsilon_at(Loss(measure="zcdp", amount=0)) == "0"

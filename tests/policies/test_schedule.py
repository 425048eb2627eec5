"""Every schedule stays within the loss, is the same each time, and tells one unit's keys from many units' keys."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from policies.errors import Malformed
from policies.plan import parse_plan
from policies.privacy import NANO, PICO, SCALE_UNIT, Loss, parse_loss
from policies.schedule import schedule
from tests.policies.test_plan import ACCEPTED
from tests.support.sql import declarations

DECLARATIONS = declarations()


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(ACCEPTED),
    st.sampled_from(("pure", "zcdp")),
    st.integers(10**4, 10 * NANO),
    st.integers(1, PICO // 2),
    st.integers(1, 50),
)
def test_amounts_add_up_to_at_most_the_loss_and_noise_covers_each(sql: str, measure: str, amount: int, delta0: int, group: int) -> None:
    plan = parse_plan(sql, DECLARATIONS)
    loss = Loss(measure=measure, amount=amount, delta0=delta0 if plan.discovers else 0)  # type: ignore[arg-type]
    try:
        found = schedule(plan, DECLARATIONS, loss, group)
    except Malformed as error:
        assume(error.code != "loss-too-small")
        raise
    assert found == schedule(parse_plan(sql, DECLARATIONS), DECLARATIONS, loss, group)
    assert sum(s.amount for s in found) <= loss.amount
    assert len({s.name for s in found}) == len(found)
    for s in found:
        if measure == "pure":
            assert s.sensitivity * NANO * SCALE_UNIT <= s.amount * s.scale
        else:
            assert s.sensitivity * NANO * SCALE_UNIT**2 <= 2 * s.amount * s.scale**2
    assert any(s.measured.quantity == "units" for s in found) == (
        plan.discovers or group > 1 or any(o.function == "COUNT_UNITS" for o in plan.aggregates)
    )
    assert [s.name for s in found if s.threshold is not None] == (["units"] if plan.discovers else [])


@pytest.mark.parametrize("measure", ["pure", "zcdp"])
def test_keys_of_one_unit_pass_the_threshold_with_probability_delta0_at_most(measure: str) -> None:
    plan = parse_plan("SELECT region, COUNT(*) AS n FROM insurer.plans GROUP BY region", DECLARATIONS)
    loss = parse_loss(measure, "0.5", "0.000001")  # type: ignore[arg-type]
    units = next(s for s in schedule(plan, DECLARATIONS, loss, 1) if s.threshold is not None)
    scale, room = units.scale / SCALE_UNIT, units.threshold - 1
    if measure == "pure":
        # P(X >= k) = exp(-k / s) / (1 + exp(-1 / s)) for discrete Laplace noise X.
        tail = math.exp(-room / scale) / (1 + math.exp(-1 / scale))
    else:
        weights = [math.exp(-(k**2) / (2 * scale**2)) for k in range(int(40 * scale))]
        tail = sum(weights[room:]) / (2 * sum(weights) - 1)
    assert 5 * tail <= 1e-6


def test_discovery_is_paid_and_never_paid_for_nothing() -> None:
    found = parse_plan("SELECT region, COUNT(*) AS n FROM insurer.plans GROUP BY region", DECLARATIONS)
    with pytest.raises(Malformed) as refused:
        schedule(found, DECLARATIONS, parse_loss("pure", "1"), 1)
    assert refused.value.code == "delta0-missing"
    declared = parse_plan("SELECT year, COUNT(*) AS n FROM insurer.plans GROUP BY year", DECLARATIONS)
    with pytest.raises(Malformed) as refused:
        schedule(declared, DECLARATIONS, parse_loss("pure", "1", "0.001"), 1)
    assert refused.value.code == "delta0-unused"


def test_shared_statistics_are_paid_once() -> None:
    one = parse_plan("SELECT AVG(doctor_visits) AS a FROM clinic.care", DECLARATIONS)
    more = parse_plan("SELECT AVG(doctor_visits) AS a, COUNT(*) AS n, SUM(doctor_visits) AS s FROM clinic.care", DECLARATIONS)
    loss = parse_loss("pure", "1")
    assert schedule(one, DECLARATIONS, loss, 1) == schedule(more, DECLARATIONS, loss, 1)


def test_loss_that_cannot_be_split_is_refused() -> None:
    plan = parse_plan("SELECT SUM(medical_spend) AS s, COUNT(*) AS n FROM insurer.plans", DECLARATIONS)
    with pytest.raises(Malformed):
        schedule(replace(plan), DECLARATIONS, Loss(amount=1), 1)

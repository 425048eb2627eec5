"""What a check foretells: half-widths of known noise, and the loss that a wanted one needs."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.accuracy import expected, gaussian_half_width, laplace_half_width, needed_loss
from policies.errors import Malformed
from policies.expression import Ref
from policies.privacy import SCALE_UNIT, Loss, parse_epsilon, parse_loss
from policies.query import AggregateOutput, Plan, Table
from policies.schedule import schedule
from tests.support import terms

DECLARATIONS = terms.agreement().by_dataset
VISITS = Ref(table="t", column="doctor_visits")


def query(*outputs: AggregateOutput) -> Plan:
    return Plan(source=Table(alias="t", dataset="clinic.care"), outputs=outputs)


def aggregate(name: str, function: str, *arguments: Ref, fraction: str | None = None) -> AggregateOutput:
    return AggregateOutput(name=name, function=function, arguments=arguments, fraction=fraction)  # type: ignore[arg-type]


EVERYTHING = query(
    aggregate("n", "COUNT"),
    aggregate("people", "COUNT_UNITS"),
    aggregate("kinds", "COUNT_DISTINCT", VISITS),
    aggregate("total", "SUM", VISITS),
    aggregate("mean", "AVG", VISITS),
    aggregate("spread", "STDDEV_SAMP", VISITS),
    aggregate("variance", "VAR_POP", VISITS),
    aggregate("median", "QUANTILE", VISITS, fraction="0.5"),
    aggregate("least", "MIN", VISITS),
    aggregate("both", "COVAR_SAMP", VISITS, VISITS),
    aggregate("r", "CORR", VISITS, VISITS),
    aggregate("slope", "REGR_SLOPE", VISITS, VISITS),
)


@given(st.floats(0.3, 5000))
def test_laplace_half_width_is_the_smallest_that_holds(scale: float) -> None:
    p, t = math.exp(-1 / scale), laplace_half_width(scale)
    assert 2 * p ** (t + 1) / (1 + p) <= 0.05 * (1 + 1e-9)
    assert t == 0 or 2 * p**t / (1 + p) > 0.05 * (1 - 1e-9)


@given(st.floats(0.3, 400))
@settings(max_examples=30)
def test_gaussian_half_width_is_the_smallest_that_holds(sigma: float) -> None:
    t = gaussian_half_width(sigma)
    weights = {k: math.exp(-k * k / (2 * sigma**2)) for k in range(-math.ceil(12 * sigma) - 2, math.ceil(12 * sigma) + 3)}
    outside = {k: sum(w for at, w in weights.items() if abs(at) > k) / sum(weights.values()) for k in (t, t - 1)}
    assert outside[t] <= 0.05 + 1e-9
    assert t == 0 or outside[t - 1] > 0.05 - 1e-9


def test_exact_and_normal_gaussian_half_widths_meet() -> None:
    assert abs(gaussian_half_width(500.0) - gaussian_half_width(500.1)) <= 1


@pytest.mark.parametrize("loss", [parse_epsilon("1"), parse_loss("zcdp", "0.1")])
def test_every_aggregate_has_an_expected_half_width(loss: Loss) -> None:
    statistics = schedule(EVERYTHING, DECLARATIONS, loss, 25)
    found = expected(EVERYTHING, DECLARATIONS, statistics, 1000)
    assert [output.name for output in found] == [output.name for output in EVERYTHING.aggregates]
    assert all(Decimal(output.half_width) > 0 for output in found)
    assert {output.mechanism for output in found} == {"discrete-laplace" if loss.measure == "pure" else "discrete-gaussian"}
    assert {output.name for output in found if output.rows is None} == {"n", "people", "kinds", "total"}
    more = expected(EVERYTHING, DECLARATIONS, statistics, 100_000)
    assert all(Decimal(b.half_width) <= Decimal(a.half_width) for a, b in zip(found, more, strict=True))


def test_a_count_has_the_half_width_of_its_scale() -> None:
    plan = query(aggregate("n", "COUNT"))
    (statistic,) = schedule(plan, DECLARATIONS, parse_epsilon("0.5"), 1)
    (output,) = expected(plan, DECLARATIONS, (statistic,), 1)
    assert output.half_width == str(laplace_half_width(statistic.scale / SCALE_UNIT))
    assert abs(Decimal(output.scale) - 10) < Decimal("0.001")


def test_a_wanted_half_width_names_the_smallest_loss() -> None:
    plan, asked = query(aggregate("n", "COUNT"), aggregate("mean", "AVG", VISITS)), parse_epsilon("1")
    needed = needed_loss(plan, DECLARATIONS, asked, 25, 1000, {"n": "40", "mean": "0.5"})
    assert needed is not None

    def widths(amount: int) -> dict[str, Decimal]:
        statistics = schedule(plan, DECLARATIONS, replace(asked, amount=amount), 25)
        return {output.name: Decimal(output.half_width) for output in expected(plan, DECLARATIONS, statistics, 1000)}

    enough, short = widths(needed.amount), widths(needed.amount - 1000)
    assert enough["n"] <= 40
    assert enough["mean"] <= Decimal("0.5")
    assert short["n"] > 40 or short["mean"] > Decimal("0.5")


def test_a_half_width_that_no_loss_gives_is_said_to_have_none() -> None:
    plan = query(aggregate("median", "QUANTILE", VISITS, fraction="0.5"))
    assert needed_loss(plan, DECLARATIONS, parse_epsilon("1"), 1, 1000, {"median": "0.000001"}) is None


@pytest.mark.parametrize(
    "wanted", [{"absent": "1"}, {"n": "0"}, {"n": "-1"}, {"n": "1e3"}, {"n": "nan"}, {"n": "1/3"}, {"n": ""}, {"n": "²"}]
)
def test_half_widths_that_fit_nothing_are_refused(wanted: dict[str, str]) -> None:
    with pytest.raises(Malformed):
        needed_loss(query(aggregate("n", "COUNT")), DECLARATIONS, parse_epsilon("1"), 1, 1000, wanted)

"""Losses are exact integers, and a schedule never spends more than its loss: checked with exact fractions."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.canonical import MAX_INTEGER, canonical
from policies.codec import encode
from policies.errors import Malformed
from policies.law1.privacy import UNITS_SHARE, Statistic, split_loss
from policies.privacy import (
    MAX_EPSILON,
    NANO,
    SCALE_UNIT,
    Loss,
    Measure,
    decimal_to_units,
    parse_epsilon,
    parse_loss,
    scale_for,
    units_to_decimal,
)
from policies.schedule import schedule
from tests.support.terms import JOIN_SQL, agreement, plan

NOT_PLAIN_DECIMALS = [
    "",
    " ",
    "NaN",
    "nan",
    "sNaN",
    "-NaN123",
    "inf",
    "Infinity",
    "-inf",
    "1_0",
    " 1",
    "1 ",
    "1\n",
    "\t1",
    "+1",
    "--1",
    "1e3",
    "1E-9",
    "1e-30",
    "1e9",
    "1e999999999",
    "-1e999999999",
    "0x10",
    "0b1",
    "1,5",
    "1,000",
    "1.",
    ".5",
    ".",
    "-",
    "1.2.3",
    "1/2",
    "\u0661",  # Arabic digit one
    "\uff11",  # full-width digit one
    "\u00b2",
    "0.\u0665",
    "1\x00",
    "0" * 41,
    "9" * 20,
    "0." + "0" * 20,
    "1.00000000000000000000000000000001",
    "1" * 1_000_000,
    "\x1b[31m1",
]


def _split(loss: Loss, sensitivities: list[int], units: int | None) -> tuple[Statistic, ...]:
    return split_loss(loss, [("sum", f"a.b.c{i}", s) for i, s in enumerate(sensitivities)], with_units=units)


@pytest.mark.parametrize("text", NOT_PLAIN_DECIMALS, ids=lambda text: ascii(text[:16]))
def test_odd_spelling_of_a_number_is_refused_everywhere(text: str) -> None:
    for parse in (lambda: parse_epsilon(text, "loss"), lambda: decimal_to_units(text, 2, "loss")):
        with pytest.raises(Malformed) as refused:
            parse()
        assert refused.value.where == "loss"
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 200


@pytest.mark.parametrize("text", ["0", "-0", "0.0", "-1", "-0.000000001", "100.000000001", "101", "1000000000"])
def test_epsilon_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="above 0 and at most 100"):
        parse_epsilon(text)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1", NANO),
        ("0.5", NANO // 2),
        ("100", 100 * NANO),
        ("100.0000000000000000", 100 * NANO),
        ("0.000000001", 1),
        ("0.0000000001", 1),
        ("0.0000000000000000001", 1),
        ("1.0000000000000000001", NANO + 1),
        ("0.1234567891", 123_456_790),
        ("007", 7 * NANO),
    ],
)
def test_epsilon_is_rounded_up_to_a_nano_epsilon(text: str, amount: int) -> None:
    assert parse_epsilon(text).amount == amount


@given(st.integers(0, 100), st.text(alphabet="0123456789", min_size=1, max_size=19))
def test_epsilon_is_never_below_what_was_asked(whole: int, fraction: str) -> None:
    text = f"{whole}.{fraction}"
    exact = Fraction(text)
    if not 0 < exact <= MAX_EPSILON:
        with pytest.raises(Malformed):
            parse_epsilon(text)
    else:
        assert parse_epsilon(text).amount == ceil(exact * NANO)


@given(st.integers(1, MAX_EPSILON * NANO))
def test_epsilon_as_text_is_read_back_exactly(amount: int) -> None:
    loss = Loss(amount=amount)
    assert parse_epsilon(loss.epsilon) == loss
    assert Decimal(loss.epsilon) == Decimal(amount) / NANO


@given(st.integers(-MAX_INTEGER, MAX_INTEGER), st.integers(0, 9))
def test_units_and_decimal_text_are_inverse(units: int, decimals: int) -> None:
    text = units_to_decimal(units, decimals)
    assert decimal_to_units(text, decimals, "value") == units
    assert Fraction(text) == Fraction(units, 10**decimals)
    assert text == text.strip("+ ")
    assert "." not in text or not text.endswith(("0", "."))


@given(st.from_regex(r"-?[0-9]{1,18}(\.[0-9]{1,12})?", fullmatch=True), st.integers(0, 6))
def test_decimal_is_exact_or_refused(text: str, decimals: int) -> None:
    exact = Fraction(text) * 10**decimals
    if exact.denominator == 1 and abs(exact) <= MAX_INTEGER:
        assert decimal_to_units(text, decimals, "value") == exact
    else:
        with pytest.raises(Malformed):
            decimal_to_units(text, decimals, "value")


def test_every_accepted_number_has_a_canonical_form() -> None:
    assert canonical(decimal_to_units(str(MAX_INTEGER), 0, "value"))
    for text in (str(MAX_INTEGER + 1), str(-MAX_INTEGER - 1)):
        with pytest.raises(Malformed, match="too large"):
            decimal_to_units(text, 0, "value")


@pytest.mark.parametrize(("amount", "delta0"), [(-1, 0), (MAX_EPSILON * NANO + 1, 0), (1, 10**12), (1, -1)])
def test_loss_out_of_range_is_refused(amount: int, delta0: int) -> None:
    with pytest.raises(Malformed):
        Loss(amount=amount, delta0=delta0)


def test_losses_add_and_their_sum_keeps_the_bound() -> None:
    assert parse_epsilon("0.1") + parse_epsilon("0.2") == parse_epsilon("0.3")
    with pytest.raises(Malformed):
        parse_epsilon("60") + parse_epsilon("60")


@given(st.integers(1, 2**62), st.integers(1, MAX_EPSILON * NANO))
def test_scale_keeps_the_loss_within_with_room_for_rounding_and_wastes_nothing_else(sensitivity: int, amount: int) -> None:
    scale = scale_for(sensitivity, amount)
    limit = Fraction(amount, NANO)
    loss = Fraction(sensitivity * SCALE_UNIT, scale)
    assert loss < limit
    # A double rounds up by at most 2^-52 of the value.
    assert loss * (1 + Fraction(1, 2**52)) < limit
    smallest = sensitivity * NANO * SCALE_UNIT // amount + 1
    assert scale - smallest <= 1 + (smallest >> 50)


@pytest.mark.parametrize(("sensitivity", "amount"), [(0, 1), (-1, 1), (1, 0), (1, -5)])
def test_scale_of_nothing_is_refused(sensitivity: int, amount: int) -> None:
    with pytest.raises(Malformed) as refused:
        scale_for(sensitivity, amount)
    assert refused.value.code == "loss-too-small"


@given(st.integers(1, MAX_EPSILON * NANO), st.lists(st.integers(1, 2**42), min_size=1, max_size=20), st.none() | st.integers(1, 99))
def test_schedule_spends_at_most_the_loss(amount: int, sensitivities: list[int], units: int | None) -> None:
    assume(amount >= max(UNITS_SHARE, 2 * len(sensitivities)))
    statistics = _split(Loss(amount=amount), sensitivities, units)
    assert sum(statistic.amount for statistic in statistics) <= amount
    spent = sum(Fraction(statistic.sensitivity * SCALE_UNIT, statistic.scale) for statistic in statistics)
    assert spent < Fraction(amount, NANO)
    assert [s.sensitivity for s in statistics if s.quantity == "sum"] == sensitivities
    assert [s.sensitivity for s in statistics if s.quantity == "units"] == ([] if units is None else [units])


LOSSES = [parse_epsilon("1"), parse_epsilon("0.001234567"), parse_loss("zcdp", "0.1"), parse_loss("zcdp", "0.000123457")]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("minimum", [1, 25])
def test_schedule_of_a_join_spends_at_most_the_loss_and_splits_like_noise(loss: Loss, minimum: int) -> None:
    statistics = schedule(plan(JOIN_SQL), agreement().by_dataset, loss, minimum)
    assert 0 < sum(statistic.amount for statistic in statistics) <= loss.amount
    assert {statistic.mechanism for statistic in statistics} == {"laplace" if loss.measure == "pure" else "gaussian"}
    assert ("units" in {statistic.measured.quantity for statistic in statistics}) == (minimum > 1)
    for statistic in statistics:
        exact = Fraction(statistic.scale, SCALE_UNIT)
        if loss.measure == "pure":
            assert Fraction(statistic.sensitivity) / exact < Fraction(statistic.amount, NANO)
        else:
            assert Fraction(statistic.sensitivity) / (2 * exact**2) < Fraction(statistic.amount, NANO)


def test_schedule_has_a_canonical_form() -> None:
    for loss in LOSSES:
        canonical(encode(schedule(plan(JOIN_SQL), agreement().by_dataset, loss, 25)))


@pytest.mark.parametrize(("measure", "amount", "delta0"), [("pure", "0", "0"), ("zcdp", "0", "0"), ("zcdp", "101", "0"), ("zcdp", "1", "1"),
    ("zcdp", "1", "-0.1"), ("pure", "1", "1.5"), ("pure", "-1", "0"), ("zcdp", "1", "0.9999999999999")])  # fmt: skip
def test_loss_outside_its_range_is_refused(measure: Measure, amount: str, delta0: str) -> None:
    with pytest.raises(Malformed):
        parse_loss(measure, amount, delta0)


def test_losses_of_two_measures_never_add_or_compare() -> None:
    pure, zcdp = parse_epsilon("1"), parse_loss("zcdp", "1")
    with pytest.raises(Malformed):
        assert pure + zcdp
    assert not pure.within(zcdp)
    assert (zcdp + parse_loss("zcdp", "0.5", "0.000001")).text == "rho 1.5, delta0 0.000001"

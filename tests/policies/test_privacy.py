"""Losses are exact integers, and a schedule never spends more than its loss: checked with exact fractions."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.canonical import MAX_INTEGER, canonical
from policies.codec import encode
from policies.declaration import Column, Declaration
from policies.errors import Malformed
from policies.plan import parse_plan
from policies.privacy import (
    MAX_EPSILON,
    NANO,
    SCALE_UNIT,
    UNITS_SHARE,
    Loss,
    Statistic,
    decimal_to_units,
    parse_epsilon,
    scale_for,
    split_loss,
    units_to_decimal,
)
from policies.query import schedule
from tests.support.terms import JOIN_SQL, agreement, declaration_clinic, declaration_insurer, plan

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


@pytest.mark.parametrize(("amount", "delta0"), [(-1, 0), (MAX_EPSILON * NANO + 1, 0), (1, 1), (1, -1)])
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


def test_schedule_of_a_join_has_the_declared_sensitivities() -> None:
    statistics = schedule(plan(JOIN_SQL), agreement().by_dataset, parse_epsilon("1"), 25)
    # 5 rows per person; 20 visits and 2000.00 of spend are the largest values; a person reaches at most 5 of the 5 cells.
    assert {s.name: (s.sensitivity, s.amount) for s in statistics} == {
        "units": (5, 100_000_000),
        "rows": (5, 180_000_000),
        "sum:clinic.care.doctor_visits": (5 * 20, 360_000_000),
        "sum:insurer.plans.medical_spend": (5 * 200_000, 360_000_000),
    }


def test_schedule_shares_a_statistic_between_outputs_that_need_the_same() -> None:
    visits = "COUNT(doctor_visits) AS m, AVG(doctor_visits) AS a, SUM(doctor_visits) AS s"
    sql = f"SELECT COUNT(*) AS n, {visits}, AVG(admissions) AS d FROM clinic.care"
    statistics = schedule(plan(sql), agreement().by_dataset, parse_epsilon("1"), 1)
    assert [s.name for s in statistics] == [
        "rows",
        "sum:clinic.care.doctor_visits",
        "sum:clinic.care.admissions",
        "present:clinic.care.admissions",
    ]
    assert [s.amount for s in statistics] == [NANO // 6, 2 * NANO // 6, 2 * NANO // 6, NANO // 6]


@pytest.mark.parametrize(("rows", "reach"), [(1, 1), (2, 2), (5, 5), (50, 5)])
def test_distinct_units_move_by_the_cells_that_one_unit_can_reach(rows: int, reach: int) -> None:
    clinic = declaration_clinic(rows_per_unit=rows)
    by_year = parse_plan("SELECT year, COUNT(*) AS n FROM clinic.care GROUP BY year", {"clinic.care": clinic})
    statistics = schedule(by_year, {"clinic.care": clinic}, parse_epsilon("1"), 5)
    assert [(s.name, s.sensitivity) for s in statistics] == [("units", reach), ("rows", rows)]


def test_join_takes_the_smaller_contribution_bound() -> None:
    declarations = {"insurer.plans": declaration_insurer(rows_per_unit=2), "clinic.care": declaration_clinic(rows_per_unit=7)}
    rows = next(s for s in schedule(plan(), declarations, parse_epsilon("1"), 1) if s.quantity == "rows")
    assert rows.sensitivity == 2


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-(10**7), 10**7)), max_size=5))
def test_no_unit_moves_a_statistic_by_more_than_its_sensitivity(rows: list[tuple[int, int]]) -> None:
    """The L1 move of adding one unit, computed row by row, against the schedule: rows are (cell, cents)."""
    sql = "SELECT coinsurance, COUNT(*) AS n, SUM(medical_spend) AS s FROM insurer.plans GROUP BY coinsurance"
    statistics = {s.quantity: s for s in schedule(plan(sql), agreement().by_dataset, parse_epsilon("1"), 10)}
    sums = [0] * 5
    for cell, cents in rows:
        sums[cell] += min(max(cents, 0), 200_000)
    assert sum(map(abs, sums)) <= statistics["sum"].sensitivity
    assert len(rows) <= statistics["rows"].sensitivity
    assert len({cell for cell, _ in rows}) <= statistics["units"].sensitivity


def test_loss_too_small_to_split_is_refused() -> None:
    for epsilon in ("0.000000001", "0.00000001", "0.0000001"):
        with pytest.raises(Malformed) as refused:
            schedule(plan(), agreement().by_dataset, parse_epsilon(epsilon), 10)
        assert refused.value.code == "loss-too-small"


def _visits_up_to(largest: int) -> dict[str, Declaration]:
    visits = Column(name="doctor_visits", type="integer", lower="0", upper=str(largest))
    columns = tuple(visits if column.name == visits.name else column for column in declaration_clinic().columns)
    return {"clinic.care": declaration_clinic(columns=columns)}


SUM_SQL = "SELECT SUM(doctor_visits) AS visits FROM clinic.care"


def test_sum_that_could_overflow_64_bits_is_refused() -> None:
    declarations = _visits_up_to(2**40)
    with pytest.raises(Malformed) as refused:
        schedule(parse_plan(SUM_SQL, declarations), declarations, parse_epsilon("100"), 1)
    assert refused.value.code == "bounds-too-wide"


@given(st.integers(1, MAX_INTEGER), st.integers(1, MAX_EPSILON * NANO))
def test_every_admitted_schedule_has_a_canonical_form(largest: int, amount: int) -> None:
    declarations = _visits_up_to(largest)
    asked, loss = parse_plan(SUM_SQL, declarations), Loss(amount=amount)
    # The unit count takes a tenth and the sum the rest, with 5 rows per unit: the scale of the sum decides.
    exact = Fraction(5 * largest * SCALE_UNIT, 1) / Fraction(amount - amount // UNITS_SHARE, NANO)
    admissible = amount >= UNITS_SHARE**2 and 5 * largest <= 2**42 and exact < MAX_INTEGER
    statistics: tuple[Statistic, ...] = ()
    with contextlib.suppress(Malformed):
        statistics = schedule(asked, declarations, loss, 10)
    assert statistics or not admissible
    assert canonical([encode(statistic) for statistic in statistics])

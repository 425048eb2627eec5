"""Dates stay dates: quantiles of them and group keys are ISO days, with intervals in days, ordered and compared as days."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclaves.aggregate import aggregate
from enclaves.gate import pass_gate
from policies.declaration import Column, Declaration, day_text, parse_date
from policies.errors import Malformed
from policies.plan import parse_plan
from policies.privacy import Loss, parse_epsilon
from policies.statement import Cell
from tests.support.queries import grant_of

LOWER, UPPER = date(2020, 1, 1), date(2020, 12, 31)
DAYS = [LOWER + timedelta(days=index) for index in range(366)]


def declared(**changes: Any) -> dict[str, Declaration]:
    """A visit a person, on a day of 2020."""
    bounds = {"lower": LOWER.isoformat(), "upper": UPPER.isoformat(), **changes}
    columns = (Column(name="pid", type="integer"), Column(name="day", type="date", **bounds))
    made = Declaration(
        dataset="a.visits", title="Visits", unit="pid", id_space="people", rows_per_unit=1, unique_key=("pid",), columns=columns
    )
    return {"a.visits": made}


def cells(sql: str, days: list[Any], *, noise: bool = False, kind: pa.DataType | None = None, **changes: Any) -> tuple[Cell, ...]:
    """What is released of one visit a person, with or without noise."""
    known = declared(**changes)
    plan = parse_plan(sql, known)
    loss = Loss(amount=10**9, delta0=10**6 if plan.discovers else 0)
    grant = grant_of(plan, known, loss=parse_epsilon("1") if noise else loss)
    table = pa.table({"pid": pa.array(range(len(days)), pa.int64()), "day": pa.array(days, kind or pa.date32())})
    exact = aggregate(grant, known, {"a.visits": table}, memory_mib=256)
    if noise:
        return pass_gate(exact, grant, known).cells
    with patch("enclaves.gate.add_noise", lambda values, statistic: list(values)):
        return pass_gate(exact, grant, known).cells


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64(), pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("s", tz="UTC")])
def test_a_quantile_of_a_date_is_a_day_with_an_interval_of_days(kind: pa.DataType) -> None:
    given_days = [datetime(day.year, day.month, day.day, 23, 59) if pa.types.is_timestamp(kind) else day for day in DAYS]
    sql = "SELECT MEDIAN(day) AS m, QUANTILE(day, 0.25) AS q, MIN(day) AS lo, MAX(day) AS hi FROM a.visits"
    (cell,) = cells(sql, given_days, kind=kind)
    for figure, exact in zip(cell.figures, (DAYS[182], DAYS[91], DAYS[1], DAYS[364]), strict=True):
        assert date.fromisoformat(figure.low) <= exact <= date.fromisoformat(figure.high), figure
        assert figure.low <= figure.value <= figure.high
        assert abs((date.fromisoformat(figure.value) - exact).days) <= 4, "one bin of a hundred"


@pytest.mark.parametrize("days", [[], [None] * 5, [UPPER], [UPPER] * 300, [LOWER] * 300], ids=["none", "null", "one", "last", "first"])
@pytest.mark.parametrize("function", ["MEDIAN(day)", "QUANTILE(day, 0)", "QUANTILE(day, 1)", "MIN(day)", "MAX(day)"])
def test_whatever_the_noise_is_days_stay_within_the_bounds(function: str, days: list[Any]) -> None:
    (cell,) = cells(f"SELECT {function} AS d FROM a.visits", days, noise=True, nullable=True)
    (figure,) = cell.figures
    assert LOWER <= date.fromisoformat(figure.low) <= date.fromisoformat(figure.value) <= date.fromisoformat(figure.high) <= UPPER


@pytest.mark.parametrize(("fraction", "extreme"), [("0", "MIN"), ("0.001", "MIN"), ("1", "MAX"), ("1.0", "MAX")])
def test_quantiles_at_the_very_ends_are_those_of_minimum_and_maximum(fraction: str, extreme: str) -> None:
    """Without a row further out every value below the least one would do as the quantile 0."""
    days = [date(2020, 6, 1) + timedelta(days=index % 60) for index in range(3000)]
    (cell,) = cells(f"SELECT QUANTILE(day, {fraction}) AS q, {extreme}(day) AS e FROM a.visits", days)
    asked, end = cell.figures
    assert (asked.value, asked.low, asked.high) == (end.value, end.low, end.high)
    assert "2020-05-20" < asked.value < "2020-08-10"


def test_bounds_at_the_ends_of_the_calendar_are_days_like_others() -> None:
    (cell,) = cells("SELECT MAX(day) AS d FROM a.visits", [date.max] * 50, lower="0001-01-01", upper="9999-12-31")
    assert cell.figures[0].high == "9999-12-31"


def test_keys_that_are_dates_are_days_and_are_ordered_as_days() -> None:
    days = [date(2020, 11, 5)] * 30 + [date(2020, 2, 1)] * 10 + [date(2020, 3, 9)] * 20
    found = cells("SELECT DATE_TRUNC('month', day) AS month, COUNT(*) AS n FROM a.visits GROUP BY 1 ORDER BY month DESC LIMIT 3", days)
    assert [cell.keys for cell in found] == [("2020-12-01",), ("2020-11-01",), ("2020-10-01",)]


def test_released_days_are_ordered_and_compared_as_days() -> None:
    days = [date(2020, 1, 10)] * 100 + [date(2020, 6, 10)] * 100
    counted = "SELECT MONTH(day) AS m, MEDIAN(day) AS d, COUNT(*) AS n FROM a.visits GROUP BY m"
    ordered = cells(f"{counted} HAVING n > 50 ORDER BY d DESC", days)
    assert [cell.keys for cell in ordered] == [(6,), (1,)]
    for condition in ("d > DATE '2020-05-01'", "d > '2020-05-01'", "d BETWEEN DATE '2020-05-01' AND '2020-07-01'"):
        kept = cells(f"{counted} HAVING {condition} AND n > 50", days)
        assert [cell.keys for cell in kept] == [(6,)], condition


@pytest.mark.parametrize("function", ["AVG", "SUM", "STDDEV", "VAR_POP"])
def test_adding_up_days_is_refused_by_name_with_what_to_write(function: str) -> None:
    with pytest.raises(Malformed) as refused:
        parse_plan(f"SELECT COUNT(*) AS n, {function}(day) AS a FROM a.visits", declared())
    assert function in refused.value.message
    assert "DATE_DIFF('day', DATE '2000-01-01', day)" in refused.value.message
    assert refused.value.where == "line 1, column 23"
    parse_plan(f"SELECT {function}(DATE_DIFF('day', DATE '2000-01-01', day)) AS a FROM a.visits", declared())


@pytest.mark.parametrize("text", ["abc", "2020-13-01", "20200101", ""])
def test_a_text_beside_a_date_that_is_no_day_is_refused_in_its_place(text: str) -> None:
    for sql in (
        f"SELECT MEDIAN(day) AS d FROM a.visits HAVING d > '{text}'",
        f"SELECT COUNT(*) AS n FROM a.visits WHERE day > '{text}'",
    ):
        with pytest.raises(Malformed) as refused:
            parse_plan(sql, declared())
        assert "2026-01-31" in refused.value.message
        assert str(refused.value.where).startswith("line 1, column")


@given(st.integers(-(2**63), 2**63))
def test_every_number_of_days_has_its_day_or_none(days: int) -> None:
    text = day_text(days)
    assert text is None or parse_date(text, "") == days


@given(st.dates())
def test_every_day_is_written_as_it_is_read(day: date) -> None:
    assert day_text(parse_date(day.isoformat(), "")) == day.isoformat()

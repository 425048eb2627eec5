"""Attacks by query and by data: each must tell nothing but noised, charged values."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date
from typing import Any, cast

import duckdb
import pyarrow as pa
import pytest

import enclaves.gate
from enclaves.aggregate import Exact, aggregate
from enclaves.gate import pass_gate
from policies.codec import decode, encode
from policies.declaration import Column, Declaration
from policies.errors import Malformed
from policies.plan import parse_plan
from policies.privacy import SCALE_UNIT, Loss, decimal_to_units
from policies.query import Plan
from policies.schedule import Statistic
from policies.statement import Release
from tests.support.queries import grant_of

VICTIM = 77


def declaration(name: str, **changes: Any) -> Declaration:
    """One row per person and turn, of people 0 to 99."""
    made = Declaration(
        dataset=name, title="Rows", unit="pid", id_space="people", rows_per_unit=3, unique_key=("pid", "turn"),
        columns=(
            Column(name="pid", type="integer"),
            Column(name="turn", type="integer", domain=(0, 1, 2), lower="0", upper="2"),
            Column(name="x", type="integer", lower="-100", upper="100", nullable=True),
            Column(name="amount", type="decimal", decimals=2, lower="0", upper="1000"),
            Column(name="word", type="text", nullable=True),
        ),
    )  # fmt: skip
    return replace(made, **changes)


DECLARED = {name: declaration(name) for name in ("a.rows", "b.rows")}


def table(victim: dict[str, Any] | None = None, *, copies: int = 1) -> pa.Table:
    """A row per person; the victim's own is as bad as somebody likes, or missing."""
    rows = [{"pid": p, "turn": 0, "x": p % 50, "amount": p * 1.5, "word": "abc"[p % 3]} for p in range(100) if p != VICTIM]
    if victim is not None:
        rows += [{"pid": VICTIM, "turn": 0, "x": 1, "amount": 1.0, "word": "a"} | victim for _ in range(copies)]
    return pa.table({name: pa.array([row[name] for row in rows], from_pandas=False) for name in rows[0]})


def exact(sql: str, tables: dict[str, pa.Table], loss: Loss | None = None) -> tuple[Any, Exact]:
    """The exact vectors of a query."""
    plan: Plan = parse_plan(sql, DECLARED)
    grant = grant_of(plan, DECLARED, loss=loss or Loss(amount=10**9))
    return grant, aggregate(grant, DECLARED, {name: tables[name] for name in plan.sources}, memory_mib=256, threads=1)


def apart(sql: str, victim: dict[str, Any], copies: int = 1) -> None:
    """Assert that a run ends the same way with and without the victim, and moves within its sensitivity."""
    grant, without = exact(sql, {name: table() for name in DECLARED})
    _, present = exact(sql, {name: table(victim, copies=copies) for name in DECLARED})
    assert without.keys == present.keys
    for statistic in grant.statistics:
        moved = sum(abs(a - b) for a, b in zip(without.vectors[statistic.name], present.vectors[statistic.name], strict=True))
        assert moved <= statistic.sensitivity


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT SUM(100 / x) AS s FROM a.rows",
        "SELECT COUNT(*) AS n FROM a.rows WHERE 10 % x = 1",
        "SELECT SUM(x * x * x * x * x) AS s FROM a.rows",
        "SELECT SUM(CASE WHEN pid = 77 THEN 100 / (x - x) ELSE 1 END) AS s FROM a.rows",
        "SELECT COUNT(CAST(word AS INTEGER)) AS n FROM a.rows",
        "SELECT COUNT(*) AS n FROM a.rows WHERE CAST(word AS DATE) > DATE '2020-01-01'",
        "SELECT AVG(amount) AS a, STDDEV(amount) AS d FROM a.rows",
    ],
)
@pytest.mark.parametrize(
    "victim",
    [
        {"x": 0}, {"x": None}, {"x": 2**62}, {"amount": math.nan}, {"amount": -math.inf}, {"amount": 1e308}, {"word": "1e400"},
        {"word": "infinity"},
    ],
)  # fmt: skip
def test_no_cell_of_one_person_makes_a_query_fail_or_move_too_far(sql: str, victim: dict[str, Any]) -> None:
    try:
        parse_plan(sql, DECLARED)
    except Malformed:
        pytest.skip("the language refuses it before any data are seen")
    apart(sql, victim)


@pytest.mark.parametrize(
    "sql", ["SELECT sleep_ms(1000) AS s FROM a.rows", "SELECT error('x') AS s FROM a.rows", "SELECT RANDOM() AS s FROM a.rows"]
)
def test_functions_with_side_effects_are_no_functions(sql: str) -> None:
    with pytest.raises(Malformed):
        parse_plan(sql, DECLARED)


def test_a_provider_that_repeats_unique_keys_multiplies_nobody() -> None:
    """A thousand copies of the victim's row on both sides of a join count as one."""
    apart("SELECT COUNT(*) AS n, SUM(a.x) AS s FROM a.rows AS a JOIN b.rows AS b USING (pid, turn)", {"x": 100}, copies=1000)


def test_a_key_that_one_person_holds_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT word, COUNT(*) AS n FROM a.rows GROUP BY word"
    loss = Loss(amount=10**9, delta0=1)
    shown = []
    for victim in (None, {"word": "the victim's own word"}):
        grant, found = exact(sql, {"a.rows": table(victim)}, loss)
        release = pass_gate(found, grant, DECLARED)
        shown.append([cell.keys for cell in release.cells])
    assert shown[0] == shown[1]
    assert ("the victim's own word",) in found.keys, "it was there to be found"


def test_how_large_a_release_is_does_not_depend_on_keys_that_one_person_holds() -> None:
    """A hundred people with a word of 5,000 characters each: were they counted, the size of the release would tell of each."""
    rows = [{"pid": p, "turn": 0, "x": 1, "amount": 1.0, "word": f"{p:03d}" + "w" * 5_000} for p in range(100)]
    held = pa.table({name: pa.array([row[name] for row in rows]) for name in rows[0]})
    grant, found = exact("SELECT word, COUNT(*) AS n FROM a.rows GROUP BY word", {"a.rows": held}, Loss(amount=10**9, delta0=1))
    assert len(found.keys) == 100
    assert pass_gate(found, grant, DECLARED).cells == ()


def test_every_released_number_lies_on_the_grid_of_its_type() -> None:
    """Floating-point low bits tell nothing: sums are whole cents, whatever the doubles in the file were."""
    grant, found = exact("SELECT SUM(amount) AS s, AVG(amount) AS a, COUNT(*) AS n FROM a.rows", {"a.rows": table({"amount": 1 / 3})})
    for cell in pass_gate(found, grant, DECLARED).cells:
        total, average, count = cell.figures
        decimal_to_units(total.value, 2, "s")
        decimal_to_units(average.value, 6, "a")
        decimal_to_units(count.value, 0, "n")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT COUNT(*) AS n, SUM(x) AS s, AVG(amount) AS a FROM a.rows",
        "SELECT turn, COUNT(*) AS n, SUM(amount * 2 - x) AS s FROM a.rows WHERE x BETWEEN 3 AND 40 GROUP BY turn",
        "SELECT COUNT(DISTINCT pid) AS n, SUM(CASE WHEN word = 'a' THEN x ELSE 0 END) AS s FROM a.rows",
        "SELECT AVG(t) AS a FROM (SELECT pid, SUM(x) AS t FROM a.rows GROUP BY pid) AS q",
        "SELECT VAR_POP(x) AS v, STDDEV_SAMP(x) AS d, CORR(x, amount) AS c FROM a.rows",
        "SELECT COUNT(*) AS n FROM a.rows AS a JOIN b.rows AS b USING (pid, turn) WHERE a.x = b.x",
    ],
)
def test_without_noise_and_within_bounds_answers_are_those_of_plain_duckdb(sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def exactly(values: Any, statistic: Statistic) -> list[int]:
        return list(values)

    monkeypatch.setattr(enclaves.gate, "add_noise", exactly)
    tables = {name: table({"x": 7}) for name in DECLARED}
    grant, found = exact(sql, tables)
    quiet = replace(grant, statistics=tuple(replace(s, scale=max(1, SCALE_UNIT // 2**19)) for s in grant.statistics))
    cells = pass_gate(found, quiet, DECLARED).cells
    with duckdb.connect() as connection:
        for name, data in tables.items():
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name.partition('.')[0]}")
            connection.register("data", data)
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM data")
        plain = connection.execute(sql).fetchall()
    answered = {tuple(cell.keys): [float(figure.value) for figure in cell.figures] for cell in cells}
    keys = len(cells[0].keys)
    for row in plain:
        wanted = [float(value or 0) for value in cast(tuple[Any, ...], row)[keys:]]
        assert answered[tuple(row[:keys])] == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize("by_unit", [True, False])
@pytest.mark.parametrize("word", ["a\0b", "\x1b[2J", "c\x85d", "e\x7f", "x" * 10_001, "\r"])
def test_a_key_that_no_document_can_hold_is_nobodys_key_and_ends_nothing(word: str, by_unit: bool) -> None:
    """A release with it could not be opened by its consumer; who hid one among many rows would learn that these passed the threshold."""
    rows = [{"pid": p, "turn": 0, "x": 1, "amount": 1.0, "word": word if p % 2 else "plain\ttext"} for p in range(100)]
    held = pa.table({name: pa.array([row[name] for row in rows]) for name in rows[0]})
    counted = ", COUNT(DISTINCT pid) AS people" if by_unit else ""
    sql = f"SELECT word, COUNT(*) AS n{counted} FROM a.rows GROUP BY word"
    grant, found = exact(sql, {"a.rows": held}, Loss(amount=10**9, delta0=10**6))
    assert found.keys == (("plain\ttext",),)
    decode(Release, encode(pass_gate(found, grant, DECLARED)))


def test_quantiles_of_days_are_days_within_the_bounds() -> None:
    """Days in ISO form outside, days since 1970-01-01 inside; nobody's own day."""
    declared = replace(
        DECLARED["a.rows"], columns=(*DECLARED["a.rows"].columns, Column(name="born", type="date", lower="1950-01-01", upper="2010-12-31"))
    )
    days = [-5000 + 37 * p for p in range(400)]
    held = pa.table(
        {
            "pid": range(400),
            "turn": [0] * 400,
            "x": [1] * 400,
            "amount": [1.0] * 400,
            "word": ["a"] * 400,
            "born": pa.array(days, pa.int32()).cast(pa.date32()),
        }
    )
    width = (14_974 + 7_305) // 100 + 1
    for asked, true in (("MEDIAN(born)", days[200]), ("QUANTILE(born, 0.9)", days[360]), ("MIN(born)", days[2]), ("MAX(born)", days[397])):
        plan = parse_plan(f"SELECT {asked} AS day FROM a.rows", {"a.rows": declared})
        # One question at the largest loss has noise in none of its bins, but once in 10^10 runs.
        grant = grant_of(plan, {"a.rows": declared}, loss=Loss(amount=100 * 10**9))
        exact_bins = aggregate(grant, {"a.rows": declared}, {"a.rows": held}, memory_mib=256, threads=1)
        (cell,) = pass_gate(exact_bins, grant, {"a.rows": declared}).cells
        (figure,) = cell.figures
        value, low, high = ((date.fromisoformat(str(shown)) - date(1970, 1, 1)).days for shown in (figure.value, figure.low, figure.high))
        assert abs(value - true) <= width
        assert -7_305 <= low <= true <= high <= 14_975

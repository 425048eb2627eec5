"""Without noise and within wide bounds, every accepted query of the corpus is answered as plain DuckDB answers it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
import pyarrow as pa
import pytest

from enclaves.aggregate import aggregate
from enclaves.gate import pass_gate
from policies.plan import parse_plan
from policies.privacy import Loss
from policies.statement import Cell, Figure
from sandbox.party.checking import statements
from tests.support.queries import grant_of
from tests.support.sql import declarations

CORPUS = Path(__file__).parents[1] / "policies" / "corpus" / "accepted.sql"
ACCEPTED = [statement.strip() for statement in statements(CORPUS.read_text())]
PEOPLE = 240
REGIONS = ("north", "nether", "south", "x", "y", "5", " nook ")

DECLARED = {
    name: declared if declared.public else replace(declared, rows_per_unit=5)
    for name, declared in declarations().items()
    if declared.dataset != "clinic.trial"
}


def rows() -> dict[str, list[dict[str, Any]]]:
    """Tables that keep to their declarations, so that no bound changes them."""
    draw = random.Random(41)
    plans, care = [], []
    for person in range(PEOPLE):
        coinsurance, female = draw.choice((0, 25, 50, 95, 100)), draw.randint(0, 1)
        region, born = draw.choice(REGIONS), date(1900, 1, 1) + timedelta(days=draw.randint(0, 36_000))
        for year in range(1, draw.randint(1, 5) + 1):
            spend = round(draw.expovariate(1 / 300), 2)
            known = {"person_id": person, "year": year}
            plans.append(
                known
                | {"coinsurance": coinsurance, "female": female, "medical_spend": min(spend, 2000.0), "region": region, "born": born}
                | {"postcode": draw.randrange(2500)}
            )
            care.append(known | {"doctor_visits": draw.randint(0, 12), "admissions": draw.choice((0, 0, 1, 2, None))})
    regions = [{"region": region, "area": "up" if region.strip().startswith("n") else "down"} for region in REGIONS[:-1]]
    return {"insurer.plans": plans, "clinic.care": care, "ref.regions": regions}


def table(name: str, held: list[dict[str, Any]]) -> pa.Table:
    """Rows as a provider's file has them."""
    kinds = {"integer": pa.int64(), "decimal": pa.float64(), "text": pa.string(), "date": pa.date32()}
    columns = {column.name: kinds[column.type] for column in DECLARED[name].columns}
    return pa.table({column: pa.array([row[column] for row in held], kind) for column, kind in columns.items()})


@pytest.fixture(scope="module")
def tables() -> dict[str, pa.Table]:
    return {name: table(name, held) for name, held in rows().items()}


@pytest.fixture(scope="module")
def plain(tables: dict[str, pa.Table]) -> Iterator[duckdb.DuckDBPyConnection]:
    """The same tables in plain DuckDB, amounts in the fixed point that is declared of them."""
    with duckdb.connect() as connection:
        for name, held in tables.items():
            decimals = {column.name: column.decimals for column in DECLARED[name].columns if column.type == "decimal"}
            chosen = ", ".join(f"CAST({c} AS DECIMAL(18, {decimals[c]})) AS {c}" if c in decimals else c for c in held.column_names)
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name.partition('.')[0]}")
            connection.register("held", held)
            connection.execute(f"CREATE TABLE {name} AS SELECT {chosen} FROM held")
        # Plain DuckDB has neither name; both mean here what the language says of them.
        connection.execute(
            "CREATE MACRO WIDTH_BUCKET(x, low, high, n) AS "
            "CASE WHEN x < low THEN 0 WHEN x >= high THEN n + 1 ELSE CAST(FLOOR((x - low) * n / (high - low)) AS INTEGER) + 1 END"
        )
        yield connection


def released(sql: str, tables: dict[str, pa.Table]) -> tuple[tuple[str, ...], tuple[Cell, ...]]:
    """Names of the keys and the cells of a release whose noise is left out."""
    plan = parse_plan(sql, DECLARED)
    known = {name: DECLARED[name] for name in plan.sources}
    grant = grant_of(plan, known, loss=Loss(amount=50 * 10**9, delta0=10**9 if plan.discovers else 0))
    with patch("enclaves.gate.add_noise", lambda values, statistic: list(values)):
        exact = aggregate(grant, known, {name: tables[name] for name in plan.sources}, memory_mib=512, threads=1)
        release = pass_gate(exact, grant, known)
    return release.key_names, release.cells


def comparable(value: Any) -> Any:
    """A key as cells hold it: ISO days for dates, integers for whole numbers and for truth."""
    if isinstance(value, datetime):
        value = value.date()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (bool, str)) or value is None:
        return value
    return int(value) if float(value).is_integer() else value


def as_released(sql: str) -> str:
    """What is said to be a least or largest value is a quantile near it: an extreme value is one person's."""
    selected, rest = sql.split("FROM", 1)
    for function, fraction in (("MIN", "0.005"), ("MAX", "0.995")):
        selected = re.sub(rf"\b{function}\((\w+)\)", rf"QUANTILE_CONT(\1, {fraction})", selected)
    return f"{selected}FROM{rest}"


def matches(figure: Figure, exact: Any, ranked: bool) -> bool:
    """Whether a figure is the exact one: to the last decimal that it shows, or, read off bins, within the interval of whole bins."""
    if ranked and isinstance(exact, date):
        return figure.low <= figure.value <= figure.high and figure.low <= comparable(exact) <= figure.high
    if ranked:
        low, high = float(figure.low), float(figure.high)
        return low - 1e-6 <= float(comparable(exact)) <= high + 1e-6
    return float(figure.value) == pytest.approx(float(exact or 0), rel=1e-9, abs=2e-4)


@pytest.mark.parametrize("sql", ACCEPTED)
def test_every_accepted_query_without_noise_equals_plain_duckdb(
    sql: str, tables: dict[str, pa.Table], plain: duckdb.DuckDBPyConnection
) -> None:
    keys, cells = released(sql, tables)
    plan = parse_plan(sql, DECLARED)
    ranked = {o.name for o in plan.outputs if o.kind == "aggregate" and o.function in ("QUANTILE", "MIN", "MAX")}
    found = plain.execute(as_released(sql) if ranked else sql)
    names = [column[0].lower() for column in found.description or []]
    lines = [dict(zip(names, line, strict=True)) for line in found.fetchall()]
    outputs = [output.name for output in plan.outputs]
    named = [dict(zip(outputs, line.values(), strict=True)) for line in lines]
    expected = {tuple(comparable(line[name]) for name in keys): line for line in named}
    assert len(expected) == len(lines)
    for cell in cells:
        line = expected.pop(tuple(comparable(key) for key in cell.keys), None)
        if line is None:
            assert all(float(figure.value) == 0 for figure in cell.figures if figure.name.startswith("n")), "an empty cell counts nobody"
            continue
        for figure in cell.figures:
            assert matches(figure, line[figure.name], figure.name in ranked), (figure, line[figure.name])
    assert not {key for key in expected if None not in key}, "every group of plain DuckDB is a cell"

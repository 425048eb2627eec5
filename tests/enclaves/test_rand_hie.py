"""The worked example of the RAND Health Insurance Experiment: without noise every figure is that of plain DuckDB, and with it close."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from enclaves.aggregate import aggregate
from enclaves.gate import pass_gate
from enclaves.kit.prepared import prepared
from policies.declaration import Column, Declaration
from policies.plan import parse_plan
from policies.privacy import Loss
from policies.statement import Release
from sandbox.party.checking import check_statement, statements
from sandbox.party.forms import declaration_of, read_form
from tests.support.chance import near
from tests.support.queries import grant_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUERIES = list(statements((EXAMPLES / "rand_hie" / "queries.sql").read_text()))
FIRMS = ("insurer", "clinic")

DECLARED: dict[str, Declaration] = {
    declared.dataset: declared
    for declared in (declaration_of(read_form(EXAMPLES / "rand_hie" / f"{firm}.declaration.yaml")) for firm in FIRMS)
}
NAMES = {"insurer": "insurer.plans", "clinic": "clinic.care"}
PUBLISHED = {0: (10997, 3.1236), 25: (4065, 2.7875), 50: (1401, 2.5610), 95: (2653, 2.1116), 100: (1074, 2.6825)}
"""Person-years and mean visits by coinsurance, of all rows and without bounds."""


def of_people(firm: str, every: int) -> pa.Table:
    """The declared columns of every so manieth person."""
    table = pq.read_table(EXAMPLES / "data" / f"{firm}.parquet", columns=[c.name for c in DECLARED[NAMES[firm]].columns])
    # pyarrow has no modulo: what is left after the whole multiples.
    left = pc.subtract(table["person_id"], pc.multiply(pc.divide(table["person_id"], every), every))
    return table.filter(pc.equal(left, 0))


@pytest.fixture(scope="module")
def tenth() -> dict[str, pa.Table]:
    return {NAMES[firm]: of_people(firm, 10) for firm in FIRMS}


def bounded(column: Column) -> str:
    """A column in SQL, in its fixed point and within its bounds."""
    value = f"ROUND({column.name}, {column.decimals})::DECIMAL(18, {column.decimals})" if column.type == "decimal" else column.name
    if column.lower is None:
        return value
    return f"CASE WHEN {value} IS NOT NULL THEN GREATEST(LEAST({value}, {column.upper}), {column.lower}) END"


@pytest.fixture(scope="module")
def plain(tenth: dict[str, pa.Table]) -> Iterator[duckdb.DuckDBPyConnection]:
    """The same rows in plain DuckDB, in the fixed point and within the bounds that are declared of them."""
    with duckdb.connect() as connection:
        for name, table in tenth.items():
            chosen = ", ".join(f"{bounded(column)} AS {column.name}" for column in DECLARED[name].columns)
            connection.execute(f"CREATE SCHEMA {name.partition('.')[0]}")
            connection.register("held", table)
            connection.execute(f"CREATE TABLE {name} AS SELECT {chosen} FROM held")
        yield connection


def answer(sql: str, tables: dict[str, pa.Table], *, loss: int, noise: bool) -> Release:
    """The release, with the noise of its grant or without any."""
    plan = parse_plan(sql, DECLARED)
    known = {name: DECLARED[name] for name in plan.sources}
    grant = grant_of(plan, known, loss=Loss(amount=loss))
    exact = aggregate(grant, known, {name: prepared(tables[name], known[name]) for name in plan.sources}, memory_mib=512, threads=1)
    if noise:
        return pass_gate(exact, grant, known)
    with patch("enclaves.gate.add_noise", lambda values, statistic: list(values)):
        return pass_gate(exact, grant, known)


@pytest.mark.parametrize("sql", QUERIES, ids=[re.sub(r"\W+", " ", q.strip("\n -").partition("\n")[0])[:40] for q in QUERIES])
def test_every_question_of_the_experiment_is_answered_as_plain_duckdb_answers_it(
    sql: str, tenth: dict[str, pa.Table], plain: duckdb.DuckDBPyConnection
) -> None:
    assert check_statement(sql, DECLARED, Loss(amount=10**9), 20).accepted
    found = answer(sql, tenth, loss=10**9, noise=False)
    said = plain.execute(sql)
    names = [column[0] for column in said.description or []]
    lines: list[dict[str, Any]] = [dict(zip(names, line, strict=True)) for line in said.fetchall()]
    by_key = {tuple(int(line[name]) for name in found.key_names): line for line in lines}
    assert len(by_key) == len(lines) > 0
    for cell in found.cells:
        line = by_key.pop(tuple(int(key) for key in cell.keys if key is not None), None)
        for figure in cell.figures if line is not None else ():
            assert line is not None
            steps = (float(figure.high) - float(figure.low)) * 1e-6
            assert float(figure.value) == pytest.approx(float(line[figure.name] or 0), rel=1e-6, abs=1e-3 + steps), figure
    assert not by_key, "every group of plain DuckDB is a cell"


def test_with_noise_the_answer_lies_near_the_published_one() -> None:
    """Of all people, at epsilon 1: counts within their noise, means within noise and what the bound of 20 visits cuts off."""
    release = answer(QUERIES[0], {NAMES[firm]: of_people(firm, 1) for firm in FIRMS}, loss=10**9, noise=True)
    cells = {int(cell.keys[0]): cell.figures for cell in release.cells if cell.keys[0] is not None}
    assert set(cells) == set(PUBLISHED)
    for coinsurance, (rows, mean) in PUBLISHED.items():
        counted, visits = cells[coinsurance]
        assert near(counted, rows)
        assert near(visits, mean, also=0.4)
        assert math.isfinite(float(visits.value))

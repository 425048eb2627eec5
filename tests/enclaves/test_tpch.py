"""The worked example of TPC-H: without noise every figure is that of plain DuckDB."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enclaves.aggregate import aggregate
from enclaves.gate import pass_gate
from enclaves.kit.prepared import prepared
from policies.declaration import Declaration
from policies.plan import parse_plan
from policies.privacy import Loss
from policies.statement import Release
from sandbox.party.checking import read_schema, statements
from tests.support.queries import grant_of

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "tpch"
QUERIES = list(statements((EXAMPLE / "queries.sql").read_text()))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    make: Any = runpy.run_path(str(EXAMPLE / "make_tables.py"))["make_tables"]
    try:
        return dict(make(tmp_path_factory.mktemp("tpch"), 0.005))
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def declared() -> dict[str, Declaration]:
    return dict(read_schema(EXAMPLE / "schema.yaml"))


@pytest.fixture(scope="module")
def tables(files: dict[str, Path], declared: dict[str, Declaration]) -> dict[str, pa.Table]:
    return {name: prepared(pq.read_table(path), declared[name]) for name, path in files.items()}


def plain(files: dict[str, Path], sql: str) -> list[dict[str, Any]]:
    """What DuckDB says, by name."""
    with duckdb.connect() as connection:
        for name, path in files.items():
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name.partition('.')[0]}")
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM '{path}'")
        found = connection.execute(sql)
        names = [column[0] for column in found.description or []]
        return [dict(zip(names, line, strict=True)) for line in found.fetchall()]


def released(sql: str, declared: dict[str, Declaration], tables: dict[str, pa.Table]) -> Release:
    """A release whose noise is left out: what is compared is everything else."""
    plan = parse_plan(sql, declared)
    known = {name: declared[name] for name in plan.sources}
    grant = grant_of(plan, known, loss=Loss(amount=10**9))
    with patch("enclaves.gate.add_noise", lambda values, statistic: list(values)):
        return pass_gate(aggregate(grant, known, {name: tables[name] for name in plan.sources}, memory_mib=1024), grant, known)


@pytest.mark.parametrize("sql", QUERIES, ids=[re.sub(r"\W+", " ", q.strip("\n -").partition("\n")[0])[:40] for q in QUERIES])
def test_every_figure_is_that_of_plain_duckdb(
    sql: str, files: dict[str, Path], declared: dict[str, Declaration], tables: dict[str, pa.Table]
) -> None:
    found, expected = released(sql, declared, tables), plain(files, sql)
    by_key = {tuple(line[name] for name in found.key_names): line for line in expected}
    assert len(by_key) == len(expected) > 0
    for cell in found.cells:
        line = by_key.pop(cell.keys, None)
        if line is None:
            continue
        for figure in cell.figures:
            exact = float(line[figure.name] or 0)
            # Sums whose noise is wide are counted in steps far below it.
            steps = (float(figure.high) - float(figure.low)) * 1e-6
            assert float(figure.value) == pytest.approx(exact, rel=1e-9, abs=1e-4 + steps), figure
    assert not by_key, "every group of plain DuckDB is a cell"

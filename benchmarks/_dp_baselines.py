"""What the benchmark compares with, as SQL that somebody would write by hand for DuckDB. One thread, tables in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa

from benchmarks._dp_data import AMOUNT_LIMIT, COST_LIMIT, GROUPS, GROUPS_PER_PERSON, ROWS_PER_GROUP
from policies.statement import Release

_AMOUNT = f"CASE WHEN amount > {AMOUNT_LIMIT} THEN {AMOUNT_LIMIT} WHEN amount < 0 THEN 0 ELSE amount END"
_COST = (
    f"CASE WHEN cost IS NULL OR isnan(cost) OR cost <= 0 THEN 0 WHEN cost >= {COST_LIMIT} THEN {COST_LIMIT * 100}"
    " ELSE round(cost * 100)::BIGINT END"
)

PLAIN = "SELECT region, count(*), sum(amount), sum(cost) FROM visits GROUP BY region"

JOINED = "SELECT region, count(*), sum(amount), sum(cost) FROM visits JOIN people USING (person) WHERE plan < 10 GROUP BY region"

BOUNDED = f"""
SELECT region, sum(least(n, {ROWS_PER_GROUP})), sum(CASE WHEN n > {ROWS_PER_GROUP} THEN a * {ROWS_PER_GROUP} // n ELSE a END),
    sum(CASE WHEN n > {ROWS_PER_GROUP} THEN c * {ROWS_PER_GROUP} // n ELSE c END)
FROM (SELECT * FROM (
        SELECT person, region, count(*) AS n, sum({_AMOUNT})::BIGINT AS a, sum({_COST})::BIGINT AS c
        FROM visits WHERE region BETWEEN 0 AND {GROUPS - 1} GROUP BY person, region)
    QUALIFY row_number() OVER (PARTITION BY person ORDER BY hash(person, region), region) <= {GROUPS_PER_PERSON})
GROUP BY region
"""
"""The product's own bounding: 3 regions that only the person's rows decide, and in each the weight of 5 rows at most."""

BOUNDED_ROWS = f"""
SELECT region, count(*), sum({_AMOUNT}), sum({_COST}) FROM (
    SELECT region, amount, cost,
        dense_rank() OVER (PARTITION BY person ORDER BY hash(person, region), region) AS cell,
        row_number() OVER (PARTITION BY person, region ORDER BY hash(visit, amount, cost), visit, amount, cost) AS place
    FROM visits)
WHERE cell <= {GROUPS_PER_PERSON} AND place <= {ROWS_PER_GROUP} GROUP BY region
"""
"""What is often done instead: rows beyond the fifth are dropped. Equally private."""

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Least processor seconds of several runs, in all threads of this process, and the least time on the clock."""

    cpu: float
    wall: float


def best_of(times: int, of: Callable[[], Result]) -> tuple[Cost, Result]:
    """(Cost, last result). On one core processor time is what the clock would show if nothing else ran there."""
    cpu, wall = [], []
    for _ in range(times):
        started = time.process_time(), time.perf_counter()
        result = of()
        cpu.append(time.process_time() - started[0])
        wall.append(time.perf_counter() - started[1])
    return Cost(cpu=min(cpu), wall=min(wall)), result


class Duck:
    """DuckDB with one thread over the same Arrow tables as the product, or over tables of its own made of them."""

    def __init__(self, tables: dict[str, pa.Table], *, own: bool) -> None:
        self.connection = duckdb.connect(":memory:", config={"threads": "1"})
        for name, table in tables.items():
            self.connection.register(f"{name}_arrow" if own else name, table)
            if own:
                self.connection.execute(f"CREATE TABLE {name} AS SELECT * FROM {name}_arrow")
                self.connection.unregister(f"{name}_arrow")

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows."""
        return self.connection.execute(sql).fetchall()

    def over_parquet(self, path: Path, times: int = 1) -> list[tuple[Any, ...]]:
        """The plain query, reading a plain Parquet file some times over."""
        return self.ask(PLAIN.replace("FROM visits", f"FROM read_parquet({[str(path)] * times})"))

    def close(self) -> None:
        """Free the tables."""
        self.connection.close()


def errors(found: list[tuple[Any, ...]], exact: list[tuple[Any, ...]]) -> list[float]:
    """Per statistic the median over regions of |found / exact - 1|; of rows (region, count, amount, cost); a missing region is 0."""
    dense = []
    for rows in (found, exact):
        values = np.zeros((GROUPS, 3))
        for region, *statistics in rows:
            values[region] = [float(value or 0) for value in statistics]
        dense.append(values)
    return [float(e) for e in np.median(np.abs(dense[0] / np.maximum(dense[1], 1) - 1), axis=0)]


def figures(release: Release) -> list[tuple[Any, ...]]:
    """(region, count, amount, cost) of every released cell."""
    return [(*cell.keys, *(figure.value for figure in cell.figures)) for cell in release.cells if not cell.suppressed]

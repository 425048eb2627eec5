"""The workload that every peer answers, and how it is timed. Run inside a peer's own environment: imports nothing of the product.

Counts, sum of `amount` and sum of `cost` per region of 1000 known regions, epsilon 1 in all, a person in at most 3 regions with 5 rows
each, `amount` in [0, 100], `cost` in [0, 200] with two decimals.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

GROUPS = 1000
GROUPS_PER_PERSON, ROWS_PER_GROUP = 3, 5
EPSILON, DELTA = 1.0, 1e-6
AMOUNT_LIMIT, COST_LIMIT = 100, 200
STATISTICS = ("count", "amount", "cost")
COLUMNS = ["person", "region", "amount", "cost"]
PATIENCE_S = 20.0
"""A run that took longer is not repeated."""

Answer = tuple[Sequence[float], Sequence[float], Sequence[float]]
"""Counts, sums of amount, sums of cost, each by region."""


def by_region(regions: Sequence[int], *columns: Sequence[float]) -> Answer:
    """Columns of a result as arrays indexed by region; 0 where there is none."""
    found = []
    for column in columns:
        values = np.zeros(GROUPS)
        values[np.asarray(regions, dtype=np.int64)] = np.asarray(column, dtype=np.float64)
        found.append(values)
    return tuple(found)


def truth(path: Path) -> Answer:
    """The exact answer: no bound, no clamp, no noise."""
    table = pq.read_table(path, columns=["region", "amount", "cost"])
    regions = table.column("region").to_numpy()
    weights = (table.column(name).to_numpy().astype(np.float64) for name in ("amount", "cost"))
    return (np.bincount(regions, minlength=GROUPS), *(np.bincount(regions, weight, minlength=GROUPS) for weight in weights))


def errors(answer: Answer, exact: Answer) -> dict[str, float]:
    """Per statistic the median over regions of |answer / exact - 1|."""
    pairs = zip(STATISTICS, answer, exact, strict=True)
    return {name: float(np.median(np.abs(np.asarray(a, float) / np.maximum(np.asarray(e, float), 1) - 1))) for name, a, e in pairs}


def timed(query: Callable[[], Answer], repeats: int) -> tuple[float, float, Answer]:
    """(Least seconds, least processor seconds, last answer) of the runs after a first; one beyond `PATIENCE_S` is the only one."""
    seconds, cpu = [], []
    for _ in range(repeats + 1):
        started, worked = time.perf_counter(), time.process_time()
        answer = query()
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - worked)
        if seconds[0] > PATIENCE_S:
            return seconds[0], cpu[0], answer
    return min(seconds[1:]), min(cpu[1:]), answer


def main(engine: str, load: Callable[[Path], Callable[[], Answer]]) -> None:
    """Load PARQUET into the engine's own form (untimed beside `load_s`), run the query, print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parquet", type=Path)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    started = time.perf_counter()
    query = load(arguments.parquet)
    loaded = time.perf_counter() - started
    seconds, cpu, answer = timed(query, arguments.repeats)
    found = errors(answer, truth(arguments.parquet))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert all(math.isfinite(value) for value in found.values())
    print(json.dumps({"engine": engine, "seconds": seconds, "cpu_s": cpu, "load_s": loaded, "errors": found, "peak_gib": round(peak, 2)}))

"""Private logistic regression beside scikit-learn's plain fit on one core: `python -m benchmarks.train_speed [--quick] [--install]`.

Generated rows, one a person. Ours is everything from raw 64-bit columns to coefficients: encoding, bounding, sums and noise. scikit-learn
gets encoded rows as floating-point numbers and converges by its own rule; it runs in an environment of its own, on the same core, and
its figure is null without that.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers.environments import install, measure
from enclaves.learn.linear import fit_logistic
from enclaves.learn.noise import Purse
from enclaves.learn.rows import Array, encode_rows
from policies.privacy import sigma_for
from policies.schedule import Measured, Statistic
from policies.task import Task, needs_of
from policies.training import Encoded, Logistic

RHO = 185_000_000
STEPS = 6


def generated(rows: int, width: int) -> dict[str, Array]:
    """Integer columns in [-1000, 1000], and a label that follows their weighted sum."""
    chance = np.random.default_rng(7)
    columns = {f"x{index}": chance.integers(-1000, 1001, rows) for index in range(width)}
    slopes = chance.normal(0, 1, width) / np.sqrt(width)
    score = sum(slope * columns[f"x{index}"] for index, slope in enumerate(slopes)) / 300
    return columns | {"y": (chance.random(rows) < 1 / (1 + np.exp(-score))).astype(np.int64)}


def task_of_width(width: int) -> Task:
    """Logistic regression on so many numbers, one row a person."""
    features = tuple(Encoded(column=f"x{index}", encoding="scaled", lower=-1000, upper=1000) for index in range(width))
    label = Encoded(column="y", encoding="categories", categories=(0, 1))
    return Task(learner=Logistic(steps=STEPS, clip="4"), features=features, label=label, held_out=0, rows=1)


def statistics_of(task: Task) -> list[Statistic]:
    """What the task draws for `RHO`."""
    needs = needs_of(task)
    whole, found = sum(need.share for need in needs), []
    for need in needs:
        amount, squared = RHO * need.share // whole, need.sensitivity**2
        scale = sigma_for(squared, amount // need.draws)
        measured = Measured(quantity=need.quantity)
        found.append(
            Statistic(
                name=need.quantity,
                measured=measured,
                mechanism="gaussian",
                sensitivity=squared,
                amount=amount,
                scale=scale,
                draws=need.draws,
            )
        )
    return found


def main() -> None:
    """Measure, and print one JSON object last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 rows")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--install", action="store_true", help="build the peers' environment first")
    arguments = parser.parse_args()
    if arguments.install and (failed := install("learners")):
        parser.error(failed)
    rows = 20_000 if arguments.quick else arguments.rows
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    columns, task, seconds = generated(rows, arguments.width), task_of_width(arguments.width), []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights: Any = None
    for _ in range(arguments.repeats):
        begun = time.process_time()
        weights = fit_logistic(encode_rows(columns, np.arange(rows), task), task, Purse.of(statistics_of(task))).weights
        seconds.append(time.process_time() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scaled = {name: values / 1000 if name != "y" else values for name, values in columns.items()}
    with tempfile.TemporaryDirectory(prefix="train-") as folder:
        pq.write_table(pa.table(scaled), path := Path(folder) / "rows.parquet")
        del scaled
        beside = measure("learners", path, core=core)
    theirs = beside.get("seconds")
    found = {
        "rows": rows,
        "width": arguments.width,
        "seconds": round(min(seconds), 3),
        "sklearn_seconds": theirs and round(theirs, 3),
        "ratio_to_sklearn": theirs and round(min(seconds) / theirs, 3),
        "peak_mib": round(peak / 1024),
        "grown_mib": round((peak - before) / 1024),
        "largest_weight": round(float(np.abs(weights).max()), 3),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

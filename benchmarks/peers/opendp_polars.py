"""OpenDP's Polars context, Laplace.

`truncate_num_groups` of OpenDP 0.16 keeps one group fewer than it is told and pays for all of them, and its default choice fails under
Polars 1.36.1; so rows per person are bounded instead: 15 rows, which is the same L1 bound. `cost` becomes whole hundredths after its clamp.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import _workload as work
import opendp.prelude as dp
import polars as pl

dp.enable_features("contrib")


def load(path: Path):
    """A query over a resident Polars frame."""
    frame = pl.read_parquet(path, columns=work.COLUMNS)
    regions = pl.LazyFrame({"region": pl.Series(range(work.GROUPS), dtype=frame.schema["region"])})
    amount = pl.col("amount").cast(pl.Int64).fill_null(0).dp.sum((0, work.AMOUNT_LIMIT)).alias("amount")
    hundredths = (pl.col("cost").fill_nan(0.0).fill_null(0.0).clip(0.0, float(work.COST_LIMIT)) * 100).cast(pl.Int64)
    cost = hundredths.dp.sum((0, work.COST_LIMIT * 100)).alias("cost")

    def query() -> work.Answer:
        context = dp.Context.compositor(
            data=frame.lazy(),
            privacy_unit=dp.unit_of(contributions=1, identifier="person"),
            privacy_loss=dp.loss_of(epsilon=work.EPSILON),
            split_evenly_over=1,
            margins=[dp.polars.Margin(by=["region"], max_length=frame.height)],
        )
        bounded = context.query().truncate_per_group(work.GROUPS_PER_PERSON * work.ROWS_PER_GROUP)
        grouped = bounded.group_by("region").agg(dp.len(signed=True), amount, cost)
        found = grouped.with_keys(regions).release().collect()
        count, amounts, costs = work.by_region(found["region"], found["len"], found["amount"], found["cost"])
        return count, amounts, costs / 100

    return query


if __name__ == "__main__":
    work.main("opendp 0.16.0 Polars context", load)

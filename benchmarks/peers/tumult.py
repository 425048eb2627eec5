"""Tumult Analytics on Spark with one local core and pure differential privacy: three queries, a third of the budget each. Needs Java 17."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable

import _workload as work
from pyspark.sql import SparkSession
from tmlt.analytics import AddRowsWithID, KeySet, MaxGroupsPerID, MaxRowsPerGroupPerID, PureDPBudget, QueryBuilder, Session


def load(path: Path):
    """A query over a cached Spark frame. Starting Spark is not part of it."""
    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").config("spark.driver.memory", "8g")
    builder = builder.config("spark.ui.showConsoleProgress", "false").config("spark.sql.shuffle.partitions", "4")
    builder = builder.config("spark.driver.extraJavaOptions", "-Djava.security.manager=allow -XX:+UseSerialGC")
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    frame = spark.read.parquet(str(path)).select(*work.COLUMNS).cache()
    frame.count()
    regions = KeySet.from_dict({"region": list(range(work.GROUPS))})

    def query() -> work.Answer:
        session = (
            Session.Builder()
            .with_privacy_budget(PureDPBudget(work.EPSILON))
            .with_id_space("people")
            .with_private_dataframe("visits", frame, protected_change=AddRowsWithID("person", "people"))
            .build()
        )
        bounded = QueryBuilder("visits").enforce(MaxGroupsPerID("region", work.GROUPS_PER_PERSON))
        grouped = bounded.enforce(MaxRowsPerGroupPerID("region", work.ROWS_PER_GROUP)).groupby(regions)
        asked = [grouped.count("x"), grouped.sum("amount", 0, work.AMOUNT_LIMIT, "x"), grouped.sum("cost", 0, work.COST_LIMIT, "x")]
        answers = [session.evaluate(one, PureDPBudget(work.EPSILON / len(asked))).toPandas() for one in asked]
        return tuple(work.by_region(found["region"], found["x"])[0] for found in answers)

    return query


if __name__ == "__main__":
    work.main("tmlt.analytics 0.21.0 on Spark", load)

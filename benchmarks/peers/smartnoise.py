"""SmartNoise SQL on DuckDB.

It bounds rows per person, not regions and rows in each: 15 rows, which is the same L1 bound. Its epsilon is per statistic. Regions are
known, so `censor_dims` is off. It orders rows by RANDOM(), which DuckDB refuses in a window, so a hash of the row takes its place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import _workload as work
import duckdb
import snsql
from snsql.sql.private_reader import PrivateReader
from snsql.sql.reader.base import SqlReader

METADATA = {
    "": {
        "BENCH": {
            "visits": {
                "max_ids": work.GROUPS_PER_PERSON * work.ROWS_PER_GROUP,
                "censor_dims": False,
                "rows": 1000,
                "person": {"type": "int", "private_id": True},
                "region": {"type": "int", "lower": 0, "upper": work.GROUPS - 1},
                "amount": {"type": "int", "lower": 0, "upper": work.AMOUNT_LIMIT},
                "cost": {"type": "float", "lower": 0.0, "upper": float(work.COST_LIMIT)},
            }
        }
    }
}
QUERY = "SELECT region, COUNT(*) AS n, SUM(amount) AS amount, SUM(cost) AS cost FROM BENCH.visits GROUP BY region"


class DuckReader(SqlReader):
    """Runs what SmartNoise rewrote on a DuckDB connection."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        super().__init__("sqlite")
        self.connection = connection

    def execute(self, query: Any, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        sql = re.sub(r"RANDOM *\( *\)", "hash(person, amount, cost)", str(query)).replace("BENCH.", "")
        cursor = self.connection.execute(sql)
        return [tuple(column[0] for column in cursor.description), *cursor.fetchall()]


def load(path: Path):
    """A query over a DuckDB table of the file."""
    connection = duckdb.connect(":memory:", config={"threads": "1"})
    connection.execute(f"CREATE TABLE visits AS SELECT {', '.join(work.COLUMNS)} FROM read_parquet('{path}')")
    privacy = snsql.Privacy(epsilon=work.EPSILON / len(work.STATISTICS), delta=work.DELTA)
    reader = PrivateReader(DuckReader(connection), METADATA, privacy)
    return lambda: work.by_region(*zip(*reader.execute(QUERY)[1:], strict=True))


if __name__ == "__main__":
    work.main("smartnoise-sql 1.0.10 on DuckDB", load)

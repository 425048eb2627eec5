"""Data of the SQL benchmarks: ten visits each of many people, and one row per person of another provider. The same every time.

`clustered`: a person's visits fall on at most three home groups. `uniform`: on any group, which is the worst case for bounding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import duckdb
import pyarrow as pa

from policies.declaration import Column, Declaration

Layout = Literal["clustered", "uniform"]

ROWS_PER_PERSON = 10
GROUPS = 1000
PLANS = 20
GROUPS_PER_PERSON, ROWS_PER_GROUP = 3, 5
"""Contribution bounds: cells that one person reaches, rows in each."""

AMOUNT_LIMIT, COST_LIMIT = 100, 200
"""Upper bounds of `amount` (whole) and `cost` (two decimals, stored as doubles). About one value in six and one in ninety is above."""

STRIDE = 7_368_787
"""A prime: row i is person (i * STRIDE mod rows) / 10, so that neighbouring rows belong to different people."""

_GROUP = {
    "clustered": f"(hash(person * 3 + hash(person, visit, 1) % {GROUPS_PER_PERSON}) % {GROUPS})::INTEGER",
    "uniform": f"(hash(person, visit, 2) % {GROUPS})::INTEGER",
}


_UNIFORM = "(hash(person, visit, {}) % 1000003) / 1000003.0"


def visits(rows: int, layout: Layout) -> pa.Table:
    """`rows` visits (a multiple of ten): person, visit (0 to 9), region (0 to 999), amount (integer), cost (double)."""
    assert rows % ROWS_PER_PERSON == 0
    assert rows % STRIDE
    with duckdb.connect(":memory:", config={"threads": "1"}) as connection:
        return connection.sql(
            f"""
            SELECT person, visit, {_GROUP[layout]} AS region, (hash(person, visit, 3) % 120)::INTEGER AS amount,
                round(250.0 * pow({_UNIFORM.format(4)}, 2) * {_UNIFORM.format(5)}, 2) AS cost
            FROM (SELECT (place // {ROWS_PER_PERSON})::BIGINT AS person, (place % {ROWS_PER_PERSON})::INTEGER AS visit
                FROM (SELECT (range * {STRIDE}) % {rows} AS place FROM range({rows})))
            """
        ).to_arrow_table()


def people(count: int) -> pa.Table:
    """One row per person: person, plan (0 to 19)."""
    with duckdb.connect(":memory:", config={"threads": "1"}) as connection:
        return connection.sql(
            f"SELECT place AS person, (hash(place, 6) % {PLANS})::INTEGER AS plan"
            f" FROM (SELECT ((range * {STRIDE}) % {count})::BIGINT AS place FROM range({count}))"
        ).to_arrow_table()


VISITS = Declaration(
    dataset="north.visits",
    title="Visits",
    unit="person",
    id_space="bench",
    rows_per_unit=GROUPS_PER_PERSON * ROWS_PER_GROUP,
    groups_per_unit=GROUPS_PER_PERSON,
    rows_per_group=ROWS_PER_GROUP,
    unique_key=("person", "visit"),
    columns=(
        Column(name="person", type="integer"),
        Column(name="visit", type="integer"),
        Column(name="region", type="integer", domain=tuple(range(GROUPS))),
        Column(name="amount", type="integer", lower="0", upper=str(AMOUNT_LIMIT)),
        Column(name="cost", type="decimal", decimals=2, lower="0", upper=str(COST_LIMIT)),
    ),
)

VISITS_BY_ROWS = replace(VISITS, groups_per_unit=None, rows_per_group=None)
"""Bounded by 15 rows per person alone, which costs as much noise of the Laplace kind and drops nothing here."""

PEOPLE = Declaration(
    dataset="south.people",
    title="People",
    unit="person",
    id_space="bench",
    rows_per_unit=1,
    unique_key=("person",),
    columns=(Column(name="person", type="integer"), Column(name="plan", type="integer", domain=tuple(range(PLANS)))),
)

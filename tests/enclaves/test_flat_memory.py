"""A prepared file is answered without ever being decrypted as a whole."""

from __future__ import annotations

import io
import os

import pyarrow as pa
import pytest

from enclaves import lines
from enclaves.aggregate import aggregate
from enclaves.kit.columns import FOOTER, StoredColumns, encrypt_table
from enclaves.kit.prepared import prepared
from policies.declaration import Column, Declaration
from policies.plan import parse_plan
from tests.support.queries import grant_of

ROWS = Declaration(
    dataset="a.rows", title="Rows", unit="pid", id_space="people", rows_per_unit=6, groups_per_unit=3, rows_per_group=2,
    unique_key=("pid", "turn"),
    columns=(
        Column(name="pid", type="integer"),
        Column(name="turn", type="integer"),
        Column(name="place", type="integer", domain=tuple(range(5))),
        Column(name="cost", type="decimal", decimals=2, lower="0", upper="10"),
    ),
)  # fmt: skip


def test_a_prepared_file_is_read_in_parts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 20_000
    table = pa.table(
        {
            "pid": pa.array([n * 7919 % (count // 4) for n in range(count)], pa.int64()),
            "turn": pa.array(range(count), pa.int64()),
            "place": pa.array([n % 7 for n in range(count)], pa.int32()),
            "cost": pa.array([n % 1300 / 100 for n in range(count)], pa.float64()),
        }
    )
    keys = {name: os.urandom(32) for name in (FOOTER, *table.column_names)}
    file = io.BytesIO()
    encrypt_table(prepared(table, ROWS), file, dataset="a.rows", version=1, keys=keys)
    grant = grant_of(
        parse_plan("SELECT place, COUNT(*) AS n, SUM(cost) AS c FROM a.rows GROUP BY place", {"a.rows": ROWS}), {"a.rows": ROWS}
    )
    stored = StoredColumns(file.getvalue(), dataset="a.rows", version=1, keys=keys, columns=grant.reads[0].columns)
    expected = aggregate(grant, {"a.rows": ROWS}, {"a.rows": table}, memory_mib=256)
    monkeypatch.setattr(lines, "BLOCK", 1000)
    monkeypatch.setattr(StoredColumns, "table", lambda self: pytest.fail("the whole file was decrypted"))
    assert aggregate(grant, {"a.rows": ROWS}, {"a.rows": stored}, memory_mib=256) == expected

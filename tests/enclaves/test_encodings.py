"""How published columns are stored changes the time to read them and nothing that is read."""

from __future__ import annotations

import io
import os
import random
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from enclaves.kit import columns
from enclaves.kit.columns import FOOTER, StoredColumns, encrypt_table
from enclaves.kit.encodings import MANY, encodings
from enclaves.kit.prepared import prepared
from policies.declaration import Column, Declaration

DICE = np.random.default_rng(5)
MANY_ROWS = 3 * MANY
NUMBERS = DICE.permutation(MANY_ROWS) - MANY_ROWS // 2


def stored(table: pa.Table) -> StoredColumns:
    """The table as it is published."""
    keys = {name: os.urandom(32) for name in (FOOTER, *table.column_names)}
    sink = io.BytesIO()
    encrypt_table(table, sink, dataset="left.rows", version=1, keys=keys)
    return StoredColumns(sink.getvalue(), dataset="left.rows", version=1, keys=keys, columns=table.column_names)


def cells(kind: pa.DataType, values: Any, missing: bool) -> pa.Array:
    """Values as a type, every fifth NULL if `missing`."""
    mask = np.arange(len(values)) % 5 == 0 if missing else None
    if pa.types.is_decimal(kind):
        whole = [None if mask is not None and mask[i] else Decimal(int(v)).scaleb(-kind.scale) for i, v in enumerate(values)]
        return pa.array(whole, kind)
    if pa.types.is_date(kind):
        return pa.array(np.asarray(values, np.int32), pa.int32(), mask=mask).cast(kind)
    return pa.array(values, pa.int64(), mask=mask).cast(kind, safe=False)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("order", ["mixed", "ascending", "few"])
def test_whole_numbers_of_every_width_and_order_come_back_as_they_were(order: str, missing: bool) -> None:
    values = {"mixed": NUMBERS, "ascending": np.sort(NUMBERS), "few": NUMBERS % 7}[order]
    kinds = [
        pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint32(), pa.uint64(), pa.date32(),
        pa.decimal32(9, 2), pa.decimal64(18, 4), pa.decimal128(9, 0), pa.decimal128(18, 2), pa.decimal128(38, 3),
    ]  # fmt: skip
    table = pa.table({f"c{index}": cells(kind, values, missing) for index, kind in enumerate(kinds)})
    held = stored(table)
    assert held.table().equals(table)
    assert pa.concat_tables(list(held.parts(1000))).equals(table)


def test_text_and_doubles_come_back_and_are_compressed_as_much_as_can_be() -> None:
    draw = random.Random(1)
    table = pa.table({"text": [draw.choice(["a", "bb", None]) for _ in range(500)], "double": [draw.random() for _ in range(500)]})
    assert stored(table).table().equals(table)
    assert encodings(table)["compression"] == {"text": "zstd", "double": "zstd"}


def test_whole_numbers_are_compressed_where_it_is_worth_the_time() -> None:
    table = pa.table(
        {
            "alike": pa.array(np.arange(MANY_ROWS) // 1024, pa.int64()),
            "drawn": pa.array(DICE.integers(0, 128, MANY_ROWS), pa.int32()),
            "counted": pa.array(np.arange(MANY_ROWS), pa.int64()),
        }
    )
    assert encodings(table)["compression"] == {"alike": "none", "drawn": "none", "counted": "lz4"}


def test_files_of_other_pages_compression_and_encodings_are_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those that were published before these were chosen."""
    table = pa.table({"many": pa.array(NUMBERS, pa.int32()), "few": pa.array(NUMBERS % 7, pa.int64())})
    for other in (
        {"compression": "lz4", "max_rows_per_page": 20_000},
        {"compression": "zstd", "max_rows_per_page": 1000, "row_group_size": 3000, "use_dictionary": False},
    ):
        monkeypatch.setattr(columns, "encodings", lambda _, other=other: other)
        held = stored(table)
        assert held.table().equals(table)
        assert pa.concat_tables(list(held.parts(1024))).equals(table)


DECLARED = Declaration(
    dataset="left.rows", title="Rows", unit="pid", id_space="people", rows_per_unit=9, unique_key=("pid", "turn"),
    columns=(
        Column(name="pid", type="integer"),
        Column(name="turn", type="integer", nullable=True),
        Column(name="broken", type="integer"),
        Column(name="short", type="decimal", decimals=2, lower="-9999999.99", upper="9999999.99"),
        Column(name="long", type="decimal", decimals=2, lower="0", upper="10000000.00", nullable=True),
    ),
)  # fmt: skip


def test_a_prepared_column_is_without_null_where_it_is_declared_so_and_keeps_to_it() -> None:
    table = pa.table(
        {
            "pid": pa.array([2, 1]),
            "turn": pa.array([1, 1]),
            "broken": pa.array([None, 7]),
            "short": pa.array([1e9, -0.005]),
            "long": pa.array([1e9, None]),
        }
    )
    ready = prepared(table, DECLARED)
    assert [field.nullable for field in ready.schema] == [False, True, True, False, True]
    assert (ready.schema.field("short").type, ready.schema.field("long").type) == (pa.decimal32(9, 2), pa.decimal64(18, 2))
    assert ready.column("short").to_pylist() == [Decimal("-0.01"), Decimal("9999999.99")]
    assert ready.column("long").to_pylist() == [None, Decimal("10000000.00")]
    assert stored(ready).table().equals(ready)

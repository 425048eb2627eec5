"""Of each unit's rows the same few are kept, whatever else is in the table, and however they are found."""

from __future__ import annotations

from collections import defaultdict

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import enclaves.kit.tables
from enclaves.kit.expressions import Fragment
from enclaves.kit.tables import keep_at_most, open_database, rows

Row = tuple[int | None, int | None, str]

MAYBE = st.one_of(st.none(), st.integers(0, 5))
ROWS = st.lists(st.tuples(MAYBE, MAYBE, st.sampled_from(["", "a", "b"])), max_size=40)


def kept(table: list[Row], most: int) -> list[Row]:
    """What stays of a table of (unit, value, label) rows."""
    with open_database(memory_mib=256, threads=1) as connection:
        unit, value, label = zip(*table, strict=True) if table else ((), (), ())
        arrow = pa.table({"u": pa.array(unit, pa.int64()), "x": pa.array(value, pa.int64()), "y": pa.array(label, pa.string())})
        connection.register("arrow", arrow)
        connection.execute("CREATE TABLE t AS SELECT * FROM arrow")
        keep_at_most(connection, "t", by=("u",), most=most, order=("u", "x", "y"))
        return sorted(rows(connection, Fragment(sql="SELECT * FROM t")), key=repr)


def by_unit(table: list[Row]) -> dict[int | None, list[Row]]:
    found: dict[int | None, list[Row]] = defaultdict(list)
    for row in table:
        found[row[0]].append(row)
    return found


@settings(max_examples=25, deadline=None)
@given(table=ROWS, most=st.integers(1, 6))
def test_a_unit_keeps_as_many_of_its_own_rows_as_it_may_and_no_others(table: list[Row], most: int) -> None:
    found = by_unit(kept(table, most))
    for unit, own in by_unit(table).items():
        assert len(found[unit]) == min(most, len(own))
        for row in found[unit]:
            own.remove(row)


@settings(max_examples=15, deadline=None)
@given(table=ROWS, most=st.integers(1, 6), gone=st.integers(0, 3))
def test_a_unit_that_leaves_changes_nobody_elses_rows(table: list[Row], most: int, gone: int) -> None:
    without = [row for row in table if row[0] != gone]
    assert kept(without, most) == [row for row in kept(table, most) if row[0] != gone]


@settings(max_examples=15, deadline=None)
@given(table=ROWS, most=st.integers(1, 6), seed=st.randoms())
def test_the_order_of_rows_decides_nothing(table: list[Row], most: int, seed: object) -> None:
    turned = list(table)
    seed.shuffle(turned)  # type: ignore[attr-defined]
    assert kept(turned, most) == kept(table, most)


@settings(max_examples=15, deadline=None)
@given(table=ROWS, most=st.integers(1, 6))
def test_smallest_hashes_and_sorting_keep_the_same_rows(table: list[Row], most: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        quick = kept(table, most)
        patched.setattr(enclaves.kit.tables, "FEW_KEPT", 0)
        assert kept(table, most) == quick


def test_rows_that_are_equal_have_equal_hashes_and_are_still_bounded() -> None:
    assert kept([(1, 7, "a")] * 50 + [(2, 7, "a")], 3) == [(1, 7, "a")] * 3 + [(2, 7, "a")]

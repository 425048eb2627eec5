"""Adding rows up per unit and cell as arrays: the same as a straightforward computation, whatever order, kinds and blocks rows come in."""

from __future__ import annotations

import io
import os
import random
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclaves import bounded, lines, pairs
from enclaves.aggregate import Exact, aggregate
from enclaves.bounded import Sums, first_cells, hashes
from enclaves.kit.arrays import is_within, whole_numbers
from enclaves.kit.columns import FOOTER, StoredColumns, encrypt_table
from enclaves.kit.expressions import Fragment
from enclaves.kit.prepared import prepared
from enclaves.kit.tables import open_database, row
from enclaves.pairs import Codes, Lines, pairs_of, sorted_pairs
from policies.declaration import Column, Declaration
from policies.expression import Call, Constant, Ref
from policies.grant import Grant
from policies.privacy import Loss
from policies.query import AggregateOutput, Equality, Join, Key, KeyOutput, Plan, Table
from tests.support.queries import LEFT, RIGHT, grant_of

RUNS = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))

VISITS = Declaration(
    dataset=LEFT, title="Visits", unit="pid", id_space="people", rows_per_unit=50, groups_per_unit=3, rows_per_group=4,
    unique_key=("pid", "turn"),
    columns=(
        Column(name="pid", type="integer"),
        Column(name="turn", type="integer"),
        Column(name="place", type="integer", domain=(0, 1, 2, 3, 5, 6, 7, 9), nullable=True),
        Column(name="kind", type="text", domain=("a", "b", "c", "ä")),
        Column(name="free", type="text", nullable=True),
        Column(name="amount", type="integer", lower="-5", upper="20"),
        Column(name="cost", type="decimal", decimals=2, lower="0", upper="100", nullable=True),
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows fill many blocks and pieces."""
    for module in (lines, pairs):
        monkeypatch.setattr(module, "BLOCK", 16)
    monkeypatch.setattr(pairs, "PIECE", 3)


def visits(seed: int, *, units: int = 9, rows: int = 80, far: bool = False) -> pa.Table:
    """Rows that keep to no bound."""
    dice = random.Random(seed)
    ids = [dice.choice([-(2**62), 2**62, 5, 6, -1]) if far else dice.randrange(units) for _ in range(rows)]
    return pa.table(
        {
            "pid": pa.array(ids, pa.int64()),
            "turn": pa.array(range(rows), pa.int64()),
            "place": pa.array([dice.choice([None, *range(12)]) for _ in ids], pa.int32()),
            "kind": pa.array([dice.choice([None, "a", "b", "c", "d", "ä"]) for _ in ids], pa.string()),
            "free": pa.array([dice.choice([None, "x", "y", "zz"]) for _ in ids], pa.string()),
            "amount": pa.array([dice.choice([None, dice.randint(-9, 30)]) for _ in ids], pa.int16()),
            "cost": pa.array([dice.choice([None, float("nan"), 0.285, 1.005, dice.uniform(-5, 120)]) for _ in ids], pa.float64()),
        }
    )


def asked(*keys: str, declaration: Declaration = VISITS, where: Any = None, measure: str = "pure") -> Grant:
    """COUNT(*), COUNT(cost), SUM(amount), SUM(cost), VAR_POP(amount) and the units, by some keys."""
    refs = {column.name: Ref(table="v", column=column.name) for column in declaration.columns}
    outputs = [
        ("n", "COUNT", ()), ("m", "COUNT", ("cost",)), ("a", "SUM", ("amount",)), ("c", "SUM", ("cost",)), ("v", "VAR_POP", ("amount",)),
        ("u", "COUNT_UNITS", ()),
    ]  # fmt: skip
    plan = Plan(
        source=Table(alias="v", dataset=LEFT),
        where=where,
        group_by=tuple(Key(expression=refs[k], source="discovered" if k == "free" else "declared") for k in keys),
        outputs=(
            *(KeyOutput(name=key, key=index) for index, key in enumerate(keys)),
            *(AggregateOutput(name=n, function=cast(Any, f), arguments=tuple(refs[x] for x in xs)) for n, f, xs in outputs),
        ),
    )
    loss = Loss(measure=cast(Any, measure), amount=10**9, delta0=10**6 if "free" in keys else 0)
    return grant_of(plan, {LEFT: declaration}, loss=loss)


def exact(grant: Grant, table: Any, declaration: Declaration = VISITS) -> Exact:
    """The exact vectors."""
    return aggregate(grant, {LEFT: declaration}, {LEFT: table}, memory_mib=256, threads=1)


ALWAYS = Call(
    function="or", arguments=(Call(function="is_null", arguments=(Ref(table="v", column="pid"),)), Constant(value=1, type="boolean"))
)
"""A condition that holds for every row, so that the database computes the rows."""


@given(
    seed=st.integers(0, 2**32), keys=st.sampled_from([(), ("place",), ("kind", "place"), ("free",), ("free", "place")]), far=st.booleans()
)
@RUNS
def test_files_the_database_and_every_order_of_rows_give_the_same_vectors(seed: int, keys: tuple[str, ...], far: bool) -> None:
    table = visits(seed, far=far)
    found = exact(asked(*keys), table)
    assert found == exact(asked(*keys, where=ALWAYS), table)
    assert found == exact(asked(*keys), table.take(pa.array(np.random.default_rng(seed).permutation(table.num_rows))))
    assert found == exact(asked(*keys), table.sort_by([("pid", "ascending")]))
    ready = prepared(table, VISITS)
    assert found == exact(asked(*keys), ready)
    data_keys = {name: os.urandom(32) for name in (FOOTER, *ready.column_names)}
    file = io.BytesIO()
    encrypt_table(ready, file, dataset=LEFT, version=1, keys=data_keys)
    read = asked(*keys).reads[0].columns
    stored = StoredColumns(file.getvalue(), dataset=LEFT, version=1, keys=data_keys, columns=read)
    assert found == exact(asked(*keys), stored)


@given(
    seed=st.integers(0, 2**32),
    measure=st.sampled_from(["pure", "zcdp"]),
    keys=st.sampled_from([("place",), ("free", "kind")]),
    far=st.booleans(),
)
@RUNS
def test_one_unit_moves_no_vector_of_a_prepared_file_beyond_its_sensitivity(
    seed: int, measure: str, keys: tuple[str, ...], far: bool
) -> None:
    table, grant = visits(seed, far=far), asked(*keys, measure=measure)
    unit = table.column("pid")[seed % table.num_rows].as_py()
    neighbour = table.filter(pa.array([pid != unit for pid in table.column("pid").to_pylist()]))
    both = [exact(grant, prepared(held, VISITS)) for held in (table, neighbour)]
    for statistic in grant.statistics:
        sides = [dict(zip(run.keys, run.vectors[statistic.name], strict=True)) for run in both]
        by = [sides[0].get(key, 0) - sides[1].get(key, 0) for key in {**sides[0], **sides[1]}]
        assert (sum(x * x for x in by) if measure == "zcdp" else sum(map(abs, by))) <= statistic.sensitivity


def test_units_within_their_bounds_count_exactly() -> None:
    table = visits(3, units=60, rows=90)
    wide = replace(VISITS, groups_per_unit=50, rows_per_group=50)
    grant = asked("place", declaration=wide)
    found = exact(grant, table, wide)
    expected: dict[Any, list[int]] = defaultdict(lambda: [0, 0, 0])
    people: dict[Any, set[int]] = defaultdict(set)
    for line in table.to_pylist():
        if line["place"] in VISITS.column("place").domain or line["place"] is None:  # type: ignore[operator]
            amount = -5 if line["amount"] is None else min(20, max(-5, line["amount"]))
            expected[line["place"],][0] += 1
            expected[line["place"],][1] += amount - 7
            expected[line["place"],][2] += (amount - 7) ** 2
            people[line["place"],].add(line["pid"])
    for index, key in enumerate(found.keys):
        assert [found.vectors[name][index] for name in ("rows", "sum:a", "squares:v")] == expected[key]
        assert found.vectors["units"][index] == len(people[key])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([None, 2.5, -0.125, 0.285, 1.005, 2.675, 100.0049, 1e300, -1e300, float("nan"), 7.0], pa.float64()),
        pa.array(
            [None, Decimal("2.50"), Decimal("-3.01"), Decimal("99.99"), Decimal("100.01"), Decimal("9999999999999999.99")],
            pa.decimal128(18, 2),
        ),
        pa.array([None, Decimal("2.50"), Decimal("-3.01"), Decimal("9999999.99")], pa.decimal32(9, 2)),
        pa.array([None, Decimal("2.50"), Decimal("100.01"), Decimal("-9999999999999999.99")], pa.decimal64(18, 2)),
    ],
)
@pytest.mark.parametrize("nullable", [True, False])
def test_arrays_read_cells_as_the_database_does(column: pa.Array, nullable: bool) -> None:
    from enclaves.kit.tables import _normalised

    declared = replace(VISITS, columns=tuple(replace(c, nullable=nullable) if c.name == "cost" else c for c in VISITS.columns))
    table = pa.table({"cost": column})
    read = whole_numbers(table, declared, "cost", clamp=True)
    assert read is not None
    values = [None if read[1] is not None and read[1][i] else int(v) for i, v in enumerate(read[0])]
    with open_database(memory_mib=64, threads=1) as connection:
        connection.register("t", table)
        sql = f"SELECT list({_normalised(declared, table.schema.field('cost'))}) FROM t"
        assert list(row(connection, Fragment(sql=sql))[0]) == values  # type: ignore[call-overload]


def test_which_cells_a_unit_keeps_depends_on_no_numbering_of_keys() -> None:
    """The same key among fewer or more others, and with or without NULL, has the same hash."""
    few = Codes(values=np.zeros(0, np.int64), size=2, labels=("x", "y"))
    many = Codes(values=np.zeros(0, np.int64), size=4, labels=("a", "x", "y"), missing=True)
    units = np.asarray([11, 12])
    assert (hashes(units, np.asarray([0, 1]), (few,), 0) == hashes(units, np.asarray([1, 2]), (many,), 0)).all()
    consecutive = Codes(values=np.zeros(0, np.int64), size=3, labels=40)
    listed = Codes(values=np.zeros(0, np.int64), size=2, labels=(41, 1000))
    pair = Codes(values=np.zeros(0, np.int64), size=2, labels=[("x", 41), ("y", 41)])
    assert (hashes(units, np.asarray([1, 1]), (consecutive,), 0) == hashes(units, np.asarray([0, 0]), (listed,), 0)).all()
    assert (hashes(units, np.asarray([0, 2]), (few, listed), 1) == hashes(units, np.asarray([0, 1]), (pair,), 1)).all()


def test_a_unit_keeps_its_first_cells_by_the_hash_whichever_way_they_are_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(1)
    key = Codes(values=dice.integers(0, 40, 600), size=40, labels=0)
    found = pairs_of(Lines(units=dice.integers(0, 20, 600), keys=(key,), amounts={}))
    keep = first_cells(found, (key,), 3)
    assert np.bincount(found.units[keep]).tolist() == [3] * 20
    assert len(np.unique(found.cells[keep])) > 20, "every cell has its turn"
    # So many bits that ranks do not fit beside places.
    monkeypatch.setattr(bounded, "KEPT_BITS", 60)
    assert (first_cells(found, (key,), 3) == keep).all()


@given(
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([1, 10**6, 2**61]),
    amounts=st.integers(0, 3),
    wide=st.sampled_from([4, 2**20, 2**40]),
)
@RUNS
def test_packing_sorting_and_numbering_find_the_same_pairs(seed: int, spread: int, amounts: int, wide: int) -> None:
    dice = np.random.default_rng(seed)
    held = Lines(
        units=dice.integers(-5, 6, 80) * spread,
        keys=(Codes(values=dice.integers(0, 4, 80), size=4, labels=0),),
        amounts={f"a{index}": dice.integers(-wide, wide, 80) for index in range(amounts)},
    )
    expected: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0] * (amounts + 1))
    for place, (unit, cell) in enumerate(zip(held.units.tolist(), held.keys[0].values.tolist(), strict=True)):
        line = expected[unit, cell]
        line[0] += 1
        for index in range(amounts):
            line[index + 1] += int(held.amounts[f"a{index}"][place])
    blocks = [held.chosen(slice(start, start + 9)) for start in range(0, 80, 9)]
    for parts in ([pairs_of(held)], list(sorted_pairs(blocks, dict.fromkeys(held.amounts, wide)))):
        got = {}
        for part in parts:
            totals = [part.rows, *(part.totals[name] for name in held.amounts)]
            for index, pair in enumerate(zip(part.units.tolist(), part.cells.tolist(), strict=True)):
                assert pair not in got, "a unit lies in one part"
                got[pair] = [int(total[index]) for total in totals]
        assert got == expected


@given(
    runs=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    largest=st.sampled_from([3, 2**26, 2**31 - 1]),
    signs=st.sampled_from([(0, 1), (-1, 0), (-1, 1)]),
    first=st.sampled_from([0, 2**31 - 2, -(2**62)]),
)
@RUNS
def test_amounts_of_32_bits_add_up_as_those_of_64_also_where_their_sums_pass_32(
    runs: list[int], largest: int, signs: tuple[int, int], first: int
) -> None:
    dice = np.random.default_rng(sum(runs))
    units = first + np.repeat(np.arange(len(runs)), runs)
    amounts = dice.integers(signs[0] * largest, signs[1] * largest, len(units), endpoint=True)
    held = Lines(units=units, keys=(), amounts={"a": amounts.astype(np.int32)}, largest={"a": largest})
    expected = [int(part.sum()) for part in np.split(amounts, np.cumsum(runs)[:-1])]
    for found in ([pairs_of(held, in_order=True)], [pairs_of(held)], list(sorted_pairs([held], held.largest))):
        assert [total for part in found for total in part.totals["a"].tolist()] == expected
        assert [unit for part in found for unit in part.units.tolist()] == sorted(set(units.tolist()))
        assert [count for part in found for count in part.rows.tolist()] == runs


@given(
    lines=st.lists(
        st.tuples(st.integers(-(2**62), 2**62), st.sampled_from([2, 7, 2**31]), st.floats(0, 0.999)) | st.tuples(
            st.integers(-(2**20), 2**20), st.integers(2, 50), st.floats(0, 0.999)
        ),
        min_size=1,
        max_size=8,
    ),
    most=st.integers(1, 4),
)  # fmt: skip
@RUNS
def test_a_weighed_total_is_the_exact_quotient_rounded_down(lines: list[tuple[int, int, float]], most: int) -> None:
    # A pair of n rows has at most n times the largest amount, which `fits` bounds.
    chosen = [(max(-n * 2**31, min(n * 2**31, total)), n, int(n * share)) for total, n, share in lines if n > most]
    for one in ([(2**52 // most, 2**31, 2**31 - 1)] if most < 2**31 else [], [(-(2**52) // most + 7, 13, 12)], chosen):
        totals, rows_, turns = (np.asarray([line[index] for line in one], np.int64) for index in range(3))
        if len(one):
            found = bounded._weighed(totals, np.arange(len(one)), rows_, most, turns)
            assert found.tolist() == [(total * most + turn) // n for total, n, turn in one]


@given(values=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), lower=st.integers(-3, 3), upper=st.integers(-3, 2**31))
@RUNS
def test_values_within_bounds_are_told_from_others(values: list[int], lower: int, upper: int) -> None:
    for kind in (np.int32, np.int64):
        assert is_within(np.asarray(values, kind), lower, upper) == all(lower <= value <= upper for value in values)


def test_sums_beyond_what_doubles_hold_stay_exact() -> None:
    values = np.asarray([2**61, 1, 2**61 - 7, -(2**60)])
    assert bounded.summed(np.asarray([0, 0, 1, 1]), values, 2).tolist() == [2**61 + 1, 2**61 - 7 - 2**60]
    assert Sums(statistics=(), bound=cast(Any, None), every=False).by_key() == {}


# A provider that lies


def test_a_provider_gains_nothing_by_lying_about_keys_or_order_in_a_join() -> None:
    """One side repeats its unique key a thousand times and claims an order that it has not; the other side's people count once each."""
    people = Declaration(
        dataset=RIGHT, title="People", unit="pid", id_space="people", rows_per_unit=1, unique_key=("pid",),
        columns=(Column(name="pid", type="integer"), Column(name="plan", type="integer", domain=(0, 1))),
    )  # fmt: skip
    table = prepared(visits(5), VISITS)
    plan = Plan(
        source=Join(
            left=Table(alias="v", dataset=LEFT),
            right=Table(alias="p", dataset=RIGHT),
            on=(Equality(left=Ref(table="v", column="pid"), right=Ref(table="p", column="pid")),),
        ),
        group_by=(Key(expression=Ref(table="v", column="place"), source="declared"),),
        outputs=(
            AggregateOutput(name="n", function="COUNT"),
            AggregateOutput(name="s", function="SUM", arguments=(Ref(table="v", column="amount"),)),
        ),
    )
    grant = grant_of(plan, {LEFT: VISITS, RIGHT: people})

    def joined(lies: list[tuple[int, int]], without: int | None) -> Exact:
        ids = [(pid, plan) for pid, plan in lies if pid != without]
        right = pa.table({"pid": pa.array([pid for pid, _ in ids], pa.int64()), "plan": pa.array([plan for _, plan in ids], pa.int64())})
        left = table.filter(pa.array([pid != without for pid in table.column("pid").to_pylist()]))
        return aggregate(grant, {LEFT: VISITS, RIGHT: people}, {LEFT: left, RIGHT: right}, memory_mib=256, threads=1)

    honest = [(pid, pid % 2) for pid in range(9)]
    for lies in (honest, honest + [(4, 0)] * 1000, [*reversed(honest), *[(2, 1), (7, 0)] * 500]):
        for victim in (2, 4):
            sides = [joined(lies, None), joined(lies, victim)]
            for statistic in grant.statistics:
                by = [a - b for a, b in zip(*(side.vectors[statistic.name] for side in sides), strict=True)]
                assert sum(map(abs, by)) <= statistic.sensitivity


def test_a_file_whose_order_breaks_after_many_rows_is_answered_as_any_other() -> None:
    ready = prepared(visits(8), VISITS)
    broken = pa.concat_tables([ready.slice(20), ready.slice(0, 20)])
    assert exact(asked("place"), broken) == exact(asked("place"), ready)

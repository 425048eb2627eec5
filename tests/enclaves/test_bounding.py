"""One privacy unit moves every exact statistic by at most its declared sensitivity, whatever anybody's cells hold."""

from __future__ import annotations

import math
import os
import random
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from enclaves.aggregate import Exact, aggregate
from enclaves.kit.tables import OutOfMemory, open_database
from policies.declaration import Column, Declaration
from policies.errors import Malformed
from policies.expression import Ref
from policies.grant import Grant
from policies.privacy import Loss
from policies.query import AggregateOutput, Equality, Join, Key, KeyOutput, Plan, Table
from policies.schedule import Statistic
from tests.support.queries import LEFT, PLACES, RIGHT, UNITS, WORDS, Source, cases, grant_of, plans
from tests.support.straight import Straight

RUNS = settings(max_examples=100 if os.environ.get("SANDBOX_FULL") else 15, deadline=None, suppress_health_check=list(HealthCheck))


def exact(grant: Grant, held: Mapping[str, Source], tables: Mapping[str, pa.Table]) -> Exact:
    """The exact vectors over `tables`, through the code that an enclave runs."""
    return aggregate(grant, {name: source.declaration for name, source in held.items()}, tables, memory_mib=256, threads=1)


def moved(statistic: Statistic, one: Exact, other: Exact) -> int:
    """By how much a vector differs between two runs, in the norm of its sensitivity; a key that only one run has counts from 0."""
    width = max(1, statistic.measured.bins)
    first, second = (
        {key: run.vectors[statistic.name][i * width : (i + 1) * width] for i, key in enumerate(run.keys)} for run in (one, other)
    )
    nothing = (0,) * width
    by = [a - b for key in {**first, **second} for a, b in zip(first.get(key, nothing), second.get(key, nothing), strict=True)]
    return sum(x * x for x in by) if statistic.mechanism == "gaussian" else sum(map(abs, by))


@given(case=cases(), rank=st.sampled_from([0, 0, 0, 1, 2, UNITS - 1]), seed=st.integers(0, 2**32))
@RUNS
def test_one_unit_moves_no_statistic_beyond_its_sensitivity_and_row_order_moves_none(
    case: tuple[Grant, dict[str, Source]], rank: int, seed: int
) -> None:
    """The unit is the one with the most rows, or another by rank. Public tables stay as they are."""
    grant, held = case
    rows = Counter(owner for source in held.values() for owner in source.units if owner is not None)
    unit = sorted(range(UNITS), key=lambda owner: -rows[owner])[rank]
    whole = exact(grant, held, {name: source.table for name, source in held.items()})
    neighbour = exact(grant, held, {name: source.table if name == PLACES else source.without(unit) for name, source in held.items()})
    if not grant.plan.discovers:
        assert whole.keys == neighbour.keys
    for statistic in grant.statistics:
        assert moved(statistic, whole, neighbour) <= statistic.sensitivity
    draw = random.Random(seed)
    assert exact(grant, held, {name: source.shuffled(draw) for name, source in held.items()}) == whole


# Against an independent computation


def orderly(dataset: str, dice: random.Random, *, nullable: bool) -> tuple[Source, list[dict[str, Any]]]:
    """A table that keeps to its declaration, and its rows as values."""
    wide = dice.choice([None, 50])
    declaration = Declaration(
        dataset=dataset, title="Rows", unit="pid", id_space="people", rows_per_unit=4, unique_key=("pid", "turn"),
        groups_per_unit=wide, rows_per_group=wide,
        columns=(
            Column(name="pid", type="integer"),
            Column(name="turn", type="integer", domain=(0, 1, 2), lower="-100", upper="100"),
            Column(name="kind", type="text", domain=WORDS[:4], nullable=nullable),
            Column(name="whole", type="integer", lower="-1000", upper="1000", nullable=nullable),
            Column(name="exact", type="decimal", decimals=2, lower="-100", upper="100", nullable=nullable),
            Column(name="day", type="date", lower="2019-12-31", upper="2021-01-01", nullable=nullable),
            Column(name="free", type="text", nullable=True),
            Column(name="loose", type="integer", nullable=True),
        ),
    )  # fmt: skip
    keys = dice.sample([(unit, turn) for unit in range(7) for turn in range(4)], dice.randint(0, 20))

    def cells(draw: Any, empty: Any) -> list[Any]:
        return [(None if nullable else empty) if dice.random() < 0.2 else draw() for _ in keys]

    columns: dict[str, list[Any]] = {
        "pid": [unit for unit, _ in keys],
        "turn": [turn for _, turn in keys],
        "kind": cells(lambda: dice.choice(WORDS), ""),
        "whole": cells(lambda: dice.randint(-1000, 1000), -1000),
        "exact": cells(lambda: Decimal(dice.randint(-10_000, 10_000)) / 100, Decimal(-100)),
        "day": cells(lambda: date(2020, 1, 1) + timedelta(days=dice.randint(0, 365)), date(2019, 12, 31)),
        "free": [dice.choice([None, *WORDS]) for _ in keys],
        "loose": [dice.choice([None, 0, 5, -(2**60)]) for _ in keys],
    }
    types = {"kind": pa.string(), "exact": pa.decimal128(9, 2), "day": pa.date32(), "free": pa.string()}
    table = pa.table({name: pa.array(values, types.get(name, pa.int64())) for name, values in columns.items()})
    rows = [{name: as_value(cell) for name, cell in zip(columns, line, strict=True)} for line in zip(*columns.values(), strict=True)]
    return Source(declaration=declaration, table=table, units=tuple(columns["pid"])), rows


def as_value(cell: Any) -> Any:
    """A cell as `Straight` has it."""
    if isinstance(cell, date):
        return cell.toordinal() - date(1970, 1, 1).toordinal()
    return Fraction(cell) if isinstance(cell, (int, Decimal)) else cell


@given(data=st.data(), seed=st.integers(0, 2**32), nullable=st.booleans())
@settings(RUNS, max_examples=200 if os.environ.get("SANDBOX_FULL") else 25)
def test_within_wide_bounds_every_vector_equals_a_straightforward_computation(data: st.DataObject, seed: int, nullable: bool) -> None:
    dice = random.Random(seed)
    drawn = {name: orderly(name, dice, nullable=nullable) for name in (LEFT, RIGHT)}
    held = {name: source for name, (source, _) in drawn.items()}
    places = Source(
        declaration=Declaration(
            dataset=PLACES, title="Places", unit="", id_space="", rows_per_unit=1, unique_key=("code",), public=True,
            columns=(Column(name="code", type="integer"), Column(name="region", type="text"),
                     Column(name="height", type="integer", lower="0", upper="9")),
        ),
        table=pa.table({"code": [0, 1, 3], "region": ["n", "s", "n"], "height": [1, 2, 3]}),
        units=(None, None, None),
    )  # fmt: skip
    held[PLACES] = places
    plan = data.draw(plans(held, discover=False))
    assume(all(key.source == "declared" for key in plan.group_by))
    try:
        grant = grant_of(plan, {n: s.declaration for n, s in held.items()}, loss=Loss(amount=100 * 10**9), minimum_group=5)
    except Malformed:
        assume(False)
    rows = {name: lines for name, (_, lines) in drawn.items()}
    rows[PLACES] = [{name: as_value(cell) for name, cell in row.items()} for row in places.table.to_pylist()]
    straight = Straight(declarations={n: s.declaration for n, s in held.items()}, tables=rows)
    found = exact(grant, {n: held[n] for n in plan.sources}, {n: held[n].table for n in plan.sources})
    assert found.vectors == straight.vectors(plan, grant.statistics)


# Single traps


def one_table(rows: dict[str, pa.Array], *, rows_per_unit: int = 2, unique_key: tuple[str, ...] = ("pid", "turn"), **column: Any) -> Source:
    """A table `left.rows` with the columns pid, turn, and x declared as `column`."""
    declaration = Declaration(
        dataset=LEFT,
        title="Rows",
        unit="pid",
        id_space="people",
        rows_per_unit=rows_per_unit,
        unique_key=unique_key,
        columns=(
            Column(name="pid", type="integer"),
            Column(name="turn", type="integer", domain=(0, 1, 2), lower="0", upper="2"),
            Column(name="x", **{"type": "integer", "lower": "0", "upper": "10", **column}),
        ),
    )
    return Source(declaration=declaration, table=pa.table(rows), units=tuple(rows["pid"].to_pylist()))


def asked(source: Source, function: str, column: str | None, *, group: bool = False, minimum_group: int = 1) -> Grant:
    """The grant of one aggregate over one table."""
    arguments = () if column is None else (Ref(table="t", column=column),)
    keys = (Key(expression=Ref(table="t", column="turn"), source="declared"),) if group else ()
    output = AggregateOutput(name="out", function=cast(Any, function), arguments=arguments)
    shown = tuple(KeyOutput(name="turn", key=index) for index in range(len(keys)))
    plan = Plan(source=Table(alias="t", dataset=LEFT), group_by=keys, outputs=(*shown, output))
    return grant_of(plan, {LEFT: source.declaration}, minimum_group=minimum_group)


def of(source: Source, grant: Grant, table: pa.Table | None = None) -> dict[str, tuple[int, ...]]:
    """Exact vectors of one table."""
    return exact(grant, {LEFT: source}, {LEFT: source.table if table is None else table}).vectors


def test_a_sum_over_a_key_column_keeps_to_its_declared_bounds() -> None:
    source = one_table({"pid": pa.array([1, 1, 2]), "turn": pa.array([2**62, 1, -(2**40)]), "x": pa.array([1, 1, 1])})
    assert of(source, asked(source, "SUM", "turn"))["sum:out"] == (2 + 1 + 0,)


def test_a_unit_with_a_flood_of_rows_changes_nothing_for_others() -> None:
    draw = random.Random(7)
    rows = [(unit, turn, draw.randint(0, 10)) for unit in range(200) for turn in range(3)]
    flood = [(999, turn, draw.randint(0, 10)) for turn in range(5000)]
    columns = {name: pa.array([row[i] for row in rows + flood]) for i, name in enumerate(("pid", "turn", "x"))}
    source = one_table(columns)
    grant = asked(source, "SUM", "x", group=True, minimum_group=5)
    with_flood, without = (exact(grant, {LEFT: source}, {LEFT: table}) for table in (source.table, source.without(999)))
    for statistic in grant.statistics:
        assert moved(statistic, with_flood, without) <= statistic.sensitivity
    assert sum(without.vectors["units"]) == 400


def test_rows_that_repeat_the_unique_key_match_once_in_a_join_on_it() -> None:
    rows = {"pid": pa.array([1] * 5), "turn": pa.array([0] * 5), "x": pa.array([3, 4, 3, 5, 3])}
    left = one_table(rows, rows_per_unit=4)
    right = replace(left, declaration=replace(left.declaration, dataset=RIGHT))
    on = tuple(Equality(left=Ref(table="a", column=name), right=Ref(table="b", column=name)) for name in ("pid", "turn"))
    plan = Plan(
        source=Join(left=Table(alias="a", dataset=LEFT), right=Table(alias="b", dataset=RIGHT), on=on),
        outputs=(AggregateOutput(name="n", function="COUNT"),),
    )
    grant = grant_of(plan, {LEFT: left.declaration, RIGHT: right.declaration})
    assert exact(grant, {LEFT: left, RIGHT: right}, {LEFT: left.table, RIGHT: right.table}).vectors["rows"] == (1,)


def test_rows_that_repeat_the_unique_key_are_rows_of_their_unit_where_nothing_is_joined() -> None:
    source = one_table({"pid": pa.array([1] * 5), "turn": pa.array([0] * 5), "x": pa.array([3, 4, 3, 5, 3])}, rows_per_unit=4)
    assert of(source, asked(source, "COUNT", None))["rows"] == (4,)


def test_bounds_by_cell_of_one_row_replace_bounds_by_row_and_are_enforced() -> None:
    source = one_table({"pid": pa.array([1] * 50), "turn": pa.array([0] * 50), "x": pa.array([10] * 50)}, rows_per_unit=1)
    source = replace(source, declaration=replace(source.declaration, groups_per_unit=1, rows_per_group=1))
    assert of(source, asked(source, "SUM", "x", group=True))["sum:out"] == (10, 0, 0)


def test_a_unit_with_too_many_rows_in_a_cell_counts_as_its_average_row() -> None:
    source = one_table({"pid": pa.array([1] * 8), "turn": pa.array([0] * 8), "x": pa.array([2, 4] * 4)}, rows_per_unit=100)
    source = replace(source, declaration=replace(source.declaration, groups_per_unit=3, rows_per_group=4))
    outputs = tuple(
        AggregateOutput(name=name, function=cast(Any, function), arguments=(Ref(table="t", column="x"),) * count, fraction=fraction)
        for name, function, count, fraction in (("n", "COUNT", 0, None), ("s", "SUM", 1, None), ("q", "QUANTILE", 1, "0.5"))
    )
    plan = Plan(source=Table(alias="t", dataset=LEFT), outputs=outputs)
    found = of(source, grant_of(plan, {LEFT: source.declaration}))
    assert found["rows"] == (4,)
    assert found["sum:s"] == ((3 - 5) * 4,), "four rows of 3, around the centre 5"
    assert [(value, count) for value, count in enumerate(found["bins:q"]) if count] == [(2, 2), (4, 2)]


@pytest.mark.parametrize(
    ("cells", "kind", "total"),
    [
        ([math.nan, math.inf, -math.inf], pa.float64(), 0 + 10 + 0),
        ([2**63 - 1, -(2**63), None], pa.int64(), 10 + 0 + 0),
        ([2**64 - 1, 0, 5], pa.uint64(), 10 + 0 + 5),
        (["1e400", "abc", "7"], pa.string(), 10 + 0 + 7),
        ([Decimal(10**34), Decimal("-0.001"), Decimal(4)], pa.decimal128(38, 3), 10 + 0 + 4),
        ([True, False, None], pa.bool_(), 1 + 0 + 0),
    ],
)
def test_cells_out_of_bounds_are_clamped_and_cells_that_are_no_number_are_the_lower_bound(
    cells: list[Any], kind: pa.DataType, total: int
) -> None:
    source = one_table({"pid": pa.array([1, 2, 3]), "turn": pa.array([0, 0, 0]), "x": pa.array(cells, kind, from_pandas=False)})
    assert of(source, asked(source, "SUM", "x"))["sum:out"] == (total,)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([date(2020, 1, 2), date(1969, 12, 31)], pa.date32()),
        ([date(2020, 1, 2), date(1969, 12, 31)], pa.date64()),
        ([1_577_923_200_000_000 + 7, -1], pa.timestamp("us")),
        (["2020-01-02", "1969-12-31"], pa.string()),
        ([18_263, -1], pa.int32()),
    ],
)
def test_dates_of_every_kind_are_days(cells: list[Any], kind: pa.DataType) -> None:
    """Time of day is cut towards the past; what is no day is NULL."""
    source = one_table(
        {"pid": pa.array([1, 2, 3]), "turn": pa.array([0, 0, 0]), "x": pa.array([*cells, None], kind)},
        type="date", lower="1969-12-01", upper="2020-01-31", nullable=True,
    )  # fmt: skip
    plan = Plan(
        source=Table(alias="t", dataset=LEFT),
        group_by=(Key(expression=Ref(table="t", column="x"), source="discovered"),),
        outputs=(AggregateOutput(name="n", function="COUNT"),),
    )
    grant = grant_of(plan, {LEFT: source.declaration}, loss=Loss(amount=10**9, delta0=10**6))
    assert exact(grant, {LEFT: source}, {LEFT: source.table}).keys == ((-1,), (18_263,), (None,))


def test_text_that_is_not_utf8_counts_as_missing_and_raises_nothing() -> None:
    offsets, letters = pa.py_buffer(struct.pack("<4i", 0, 1, 3, 4)), pa.py_buffer(b"a\xff\xfeb")
    source = one_table(
        {"pid": pa.array([1, 2, 3]), "turn": pa.array([0, 0, 0]), "x": pa.StringArray.from_buffers(3, offsets, letters)},
        type="text", lower=None, upper=None, nullable=True,
    )  # fmt: skip
    assert of(source, asked(source, "COUNT", "x"))["rows:out"] == (2,)


@pytest.mark.parametrize("alias", ['A"; DROP TABLE d0; --', "select", "rows_", "t0"])
def test_names_of_a_plan_never_reach_the_database(alias: str) -> None:
    """The law refuses an alias that is no name; words of SQL and names that the engine uses itself are aliases like others."""
    source = one_table({"pid": pa.array([1, 2]), "turn": pa.array([0, 0]), "x": pa.array([3, 4])})
    other = replace(source, declaration=replace(source.declaration, dataset=RIGHT))
    on = tuple(Equality(left=Ref(table=alias, column=name), right=Ref(table="d0", column=name)) for name in ("pid", "turn"))
    plan = Plan(
        source=Join(left=Table(alias=alias, dataset=LEFT), right=Table(alias="d0", dataset=RIGHT), on=on),
        outputs=(
            AggregateOutput(name="n", function="COUNT"),
            AggregateOutput(name="s", function="SUM", arguments=(Ref(table="d0", column="x"),)),
        ),
    )
    held = {LEFT: source, RIGHT: other}
    declarations = {name: s.declaration for name, s in held.items()}
    if ";" in alias:
        with pytest.raises(Malformed):
            grant_of(plan, declarations)
        return
    found = exact(grant_of(plan, declarations), held, {name: s.table for name, s in held.items()}).vectors
    assert found == {"rows": (2,), "sum:s": (7 - 2 * 5,)}


# The locked database


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM read_parquet('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM glob('{folder}/*')",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "EXPORT DATABASE '{folder}/out'",
        "ATTACH '{folder}/other.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT getenv('PATH')",
        "SET memory_limit='100GB'",
        "SET threads=64",
        "SET temp_directory='{folder}'",
        "SET enable_external_access=true",
        "SET lock_configuration=false",
        "RESET lock_configuration",
        "PRAGMA enable_profiling='json'",
        "SELECT * FROM visible_from_python",
    ],
)
def test_the_database_reaches_nothing_outside_itself(sql: str, tmp_path: Path) -> None:
    visible_from_python = pa.table({"a": [1]})
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with open_database(memory_mib=64, threads=1) as connection, pytest.raises(duckdb.Error):
        connection.execute(sql.format(file=tmp_path / "secret.csv", folder=tmp_path)).fetchall()
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert visible_from_python.num_rows == 1


def test_a_database_that_needs_more_memory_gives_up_and_never_spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_database(memory_mib=32, threads=1) as connection, pytest.raises(OutOfMemory):
        connection.execute("SELECT count(*) FROM (SELECT md5(range::VARCHAR) AS m FROM range(3000000) ORDER BY m)").fetchall()
    assert list(tmp_path.iterdir()) == []

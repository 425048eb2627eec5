"""One privacy unit moves every exact statistic by at most its declared sensitivity, whatever anybody's cells hold."""

from __future__ import annotations

import itertools
import math
import random
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from enclaves.aggregate import Exact, aggregate
from enclaves.kit.tables import OutOfMemory, load_bounded, open_database
from policies.declaration import Column, Declaration
from policies.errors import Malformed
from policies.grant import Grant
from policies.privacy import Statistic, parse_epsilon
from policies.query import (
    AggregateOutput,
    AllOf,
    AnyOf,
    ColumnRef,
    Compare,
    Condition,
    IsNull,
    KeyOutput,
    Not,
    OneOf,
    Plan,
)
from tests.support.runs import grant_for

LEFT, RIGHT = "left.rows", "right.rows"
UNITS = 5
WORDS = ("", "a", "b", "ä", "NULL", "1", "a'b\"c", "x" * 300)
NUMBER_TYPES = (pa.int32(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.decimal128(38, 3), pa.string(), pa.bool_())
TEXT_TYPES = (pa.string(), pa.large_string(), pa.int64(), pa.float64(), pa.bool_())
UNIT_TYPES = (pa.int32(), pa.int64(), pa.uint64(), pa.decimal128(38, 3), pa.string())

Cells = list[Any]
Cell = Callable[[pa.DataType, random.Random], Any]
RUNS = settings(max_examples=45, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@dataclass(frozen=True)
class Source:
    """One provider's table; `units` tells for every row whose it is (None: nobody's)."""

    declaration: Declaration
    table: pa.Table
    units: tuple[int | None, ...]

    def without(self, unit: int) -> pa.Table:
        """The table if that unit had never taken part."""
        return self.table.filter(pa.array([owner != unit for owner in self.units], pa.bool_()))

    def shuffled(self, draw: random.Random) -> pa.Table:
        """The same rows in another order."""
        order = list(range(self.table.num_rows))
        draw.shuffle(order)
        return self.table.take(pa.array(order, pa.int64()))


# Tables and plans of every kind


def odd_number(kind: pa.DataType, draw: random.Random) -> Any:
    """A cell of a numeric column as badly behaved as its type allows."""
    if pa.types.is_boolean(kind):
        return draw.random() < 0.5
    if pa.types.is_floating(kind):
        return draw.choice([math.nan, math.inf, -math.inf, -0.0, 2.5, 0.285, 1e38, -1e-30, draw.uniform(-1e6, 1e6)])
    if pa.types.is_decimal(kind):
        return draw.choice([Decimal(10**34), Decimal(-(10**34)), Decimal(2**63), Decimal(draw.randint(-(10**9), 10**9)) / 1000])
    if pa.types.is_string(kind):
        return draw.choice(["", "nan", "inf", "1e400", "-1e400", " 7 ", "0x10", "7.5", "9" * 40, "abc", "\0", "ä"])
    lowest, highest = {pa.int32(): (-(2**31), 2**31 - 1), pa.int64(): (-(2**63), 2**63 - 1), pa.uint64(): (0, 2**64 - 1)}[kind]
    edges = [n for n in (lowest, highest, 2**53 + 1, -(2**53) - 1, draw.randint(lowest, highest)) if lowest <= n <= highest]
    return draw.choice(edges)


def tame_number(kind: pa.DataType, draw: random.Random) -> Any:
    """A small number as that type holds it."""
    value = draw.choice([0, 0, 1, 1, 2, 3, 5, 40])
    if pa.types.is_decimal(kind):
        return Decimal(value)
    return (
        str(value) if pa.types.is_string(kind) else bool(value % 2) if pa.types.is_boolean(kind) else kind.to_pandas_dtype()(value).item()
    )


def odd_word(kind: pa.DataType, draw: random.Random) -> Any:
    """A cell of a text column."""
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return draw.choice([*WORDS, chr(draw.randint(1, 0xD7FF))]) if text else odd_number(kind, draw)


def tame_word(kind: pa.DataType, draw: random.Random) -> Any:
    """A word of the declared domain, where the type holds words."""
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return draw.choice(WORDS[:3]) if text else tame_number(kind, draw)


def column(count: int, draw: random.Random, types: tuple[pa.DataType, ...], tame: Cell, odd: Cell) -> pa.Array:
    """`count` cells of one drawn type, with a drawn share of NULL and odd ones."""
    kind, oddness = draw.choice(types), draw.choice([0.0, 0.1, 0.5, 1.0])
    cells = [(None if draw.random() < 0.3 else odd(kind, draw)) if draw.random() < oddness else tame(kind, draw) for _ in range(count)]
    return pa.array(cells, kind, from_pandas=False)


def unit_column(owners: tuple[int | None, ...], draw: random.Random, *, text: bool) -> pa.Array:
    """The privacy unit's column: every owner spelled one way, nobody as NULL or as something that is no id."""
    if text:
        return pa.array([None if owner is None else f"person {owner}" for owner in owners], pa.string())
    kind = draw.choice(UNIT_TYPES)
    known: dict[pa.DataType, list[Any]] = {pa.uint64(): [2**64 - 1], pa.string(): ["nobody"], pa.decimal128(38, 3): [Decimal(10**30)]}
    nobody = [None, *known.get(kind, [])]
    spelled = str if pa.types.is_string(kind) else Decimal if pa.types.is_decimal(kind) else int
    return pa.array([draw.choice(nobody) if owner is None else spelled(owner) for owner in owners], kind)


@st.composite
def sources(draw: st.DrawFn, dataset: str, *, text_unit: bool, two_keys: bool) -> Source:
    """A declaration, and up to 60 rows of few units that keep to none of its promises."""
    dice = random.Random(draw(st.integers(0, 2**64 - 1)))
    owners = tuple(dice.choice([None, *range(UNITS), 0, 1, 1]) for _ in range(draw(st.integers(0, 60))))
    low = draw(st.integers(-(2**20), 2**20))
    high = draw(st.integers(low, 2**20).filter(lambda high: (low, high) != (0, 0)))
    declaration = Declaration(
        dataset=dataset,
        title="Rows",
        unit="pid",
        id_space="people",
        rows_per_unit=draw(st.integers(1, 4)),
        unique_key=("pid", "turn") if two_keys else ("pid",),
        columns=(
            Column(name="pid", type="text" if text_unit else "integer"),
            Column(name="turn", type="integer", domain=(0, 1, 2), lower="-3", upper="7"),
            Column(name="kind", type="text", domain=WORDS, nullable=draw(st.booleans())),
            Column(name="whole", type="integer", lower=str(low), upper=str(high), nullable=draw(st.booleans())),
            Column(name="exact", type="decimal", decimals=2, lower="-12.5", upper="99.75", nullable=draw(st.booleans())),
        ),
    )
    numbers = {name: column(len(owners), dice, NUMBER_TYPES, tame_number, odd_number) for name in ("turn", "whole", "exact")}
    kind = column(len(owners), dice, TEXT_TYPES, tame_word, odd_word)
    table = pa.table({"pid": unit_column(owners, dice, text=text_unit), "kind": kind, **numbers})
    return Source(declaration=declaration, table=table, units=owners)


def conditions(references: list[ColumnRef]) -> st.SearchStrategy[Condition]:
    """WHERE trees over columns, with constants of the columns' types."""

    def leaf(reference: ColumnRef) -> st.SearchStrategy[Condition]:
        text = reference.column == "kind"
        constant: st.SearchStrategy[Any] = st.sampled_from(WORDS) if text else st.integers(-30, 30) | st.integers(-(2**53) + 1, 2**53 - 1)
        operators = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
        return st.one_of(
            st.builds(Compare, column=st.just(reference), operator=operators, value=constant),
            st.builds(OneOf, column=st.just(reference), values=st.lists(constant, min_size=1, max_size=3).map(tuple)),
            st.builds(IsNull, column=st.just(reference)),
        )

    def branch(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
        several = st.lists(inner, min_size=1, max_size=3).map(tuple)
        return st.one_of(st.builds(AllOf, terms=several), st.builds(AnyOf, terms=several), st.builds(Not, term=inner))

    return st.recursive(st.sampled_from(references).flatmap(leaf), branch, max_leaves=5)


@st.composite
def plans(draw: st.DrawFn, datasets: tuple[str, ...], unique_key: tuple[str, ...]) -> Plan:
    """An accepted plan over one table, or over both joined on the whole unique key."""
    columns = [ColumnRef(dataset=dataset, column=name) for dataset in datasets for name in ("turn", "kind", "whole", "exact")]
    keys = [reference for reference in columns if reference.column in ("turn", "kind")]
    group_by = tuple(draw(st.lists(st.sampled_from(keys), unique=True, max_size=2)))
    outputs: list[KeyOutput | AggregateOutput] = [KeyOutput(name=f"key{i}", column=reference) for i, reference in enumerate(group_by)]
    for index in range(draw(st.integers(1, 3))):
        function = draw(st.sampled_from(["COUNT", "SUM", "AVG"]))
        wanted = [None, *columns] if function == "COUNT" else [reference for reference in columns if reference.column != "kind"]
        outputs.append(AggregateOutput(name=f"out{index}", function=function, column=draw(st.sampled_from(wanted))))  # type: ignore[arg-type]
    return Plan(
        sources=datasets,
        join=tuple(sorted(unique_key)) if len(datasets) == 2 else (),
        where=draw(st.none() | st.none() | conditions(columns)),
        group_by=group_by,
        outputs=tuple(outputs),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Grant, dict[str, Source]]:
    """Two tables and the grant of a plan over one or both."""
    text_unit, two_keys = draw(st.booleans()), draw(st.booleans())
    held = {name: draw(sources(name, text_unit=text_unit, two_keys=two_keys)) for name in (LEFT, RIGHT)}
    datasets = draw(st.sampled_from([(LEFT,), (LEFT, RIGHT), (RIGHT, LEFT)]))
    plan = draw(plans(datasets, held[LEFT].declaration.unique_key))
    minimum_group = draw(st.sampled_from([1, 5]))
    try:
        grant = grant_for(plan, {n: s.declaration for n, s in held.items()}, loss=parse_epsilon("10"), minimum_group=minimum_group)
    except Malformed:
        assume(False)
    return grant, {name: held[name] for name in datasets}


def exact(grant: Grant, held: dict[str, Source], tables: dict[str, pa.Table]) -> Exact:
    """The exact vectors over `tables`, through the code that an enclave runs."""
    return aggregate(grant, {name: source.declaration for name, source in held.items()}, tables, memory_mib=256)


def distance(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """L1 distance of two vectors over the same cells."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))


# The promises


@given(case=cases(), rank=st.sampled_from([0, 0, 0, 1, 2, UNITS - 1]), seed=st.integers(0, 2**32))
@RUNS
def test_one_unit_moves_no_statistic_beyond_its_sensitivity_and_row_order_moves_none(
    case: tuple[Grant, dict[str, Source]], rank: int, seed: int
) -> None:
    """The unit is the one with the most rows, or another by rank."""
    grant, held = case
    draw = random.Random(seed)
    rows = Counter(owner for source in held.values() for owner in source.units if owner is not None)
    unit = sorted(range(UNITS), key=lambda owner: -rows[owner])[rank]
    whole = exact(grant, held, {name: source.table for name, source in held.items()})
    neighbour = exact(grant, held, {name: source.without(unit) for name, source in held.items()})
    assert whole.keys == neighbour.keys
    for statistic in grant.statistics:
        assert distance(whole.vectors[statistic.name], neighbour.vectors[statistic.name]) <= statistic.sensitivity
    assert exact(grant, held, {name: source.shuffled(draw) for name, source in held.items()}) == whole


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
    reference = None if column is None else ColumnRef(dataset=LEFT, column=column)
    keys = (ColumnRef(dataset=LEFT, column="turn"),) if group else ()
    output = AggregateOutput(name="out", function=cast(Any, function), column=reference)
    shown = tuple(KeyOutput(name="turn", column=key) for key in keys)
    return grant_for(
        Plan(sources=(LEFT,), group_by=keys, outputs=(*shown, output)), {LEFT: source.declaration}, minimum_group=minimum_group
    )


def of(source: Source, grant: Grant, table: pa.Table | None = None) -> dict[str, tuple[int, ...]]:
    """Exact vectors of one table."""
    return exact(grant, {LEFT: source}, {LEFT: source.table if table is None else table}).vectors


def test_a_sum_over_a_key_column_keeps_to_its_declared_bounds() -> None:
    source = one_table({"pid": pa.array([1, 1, 2]), "turn": pa.array([2**62, 1, -(2**40)]), "x": pa.array([1, 1, 1])})
    assert of(source, asked(source, "SUM", "turn"))["sum:left.rows.turn"] == (2 + 1 + 0,)


def test_a_unit_with_a_flood_of_rows_changes_nothing_for_others() -> None:
    draw = random.Random(7)
    rows = [(unit, turn, draw.randint(0, 10)) for unit in range(200) for turn in range(3)]
    flood = [(999, turn, draw.randint(0, 10)) for turn in range(5000)]
    columns = {name: pa.array([row[i] for row in rows + flood]) for i, name in enumerate(("pid", "turn", "x"))}
    source = one_table(columns)
    grant = asked(source, "SUM", "x", group=True, minimum_group=5)
    with_flood, without = of(source, grant), of(source, grant, source.without(999))
    for statistic in grant.statistics:
        assert distance(with_flood[statistic.name], without[statistic.name]) <= statistic.sensitivity
    assert sum(without["units"]) == 400


def test_rows_that_repeat_the_unique_key_count_once() -> None:
    source = one_table({"pid": pa.array([1] * 5), "turn": pa.array([0] * 5), "x": pa.array([3, 4, 3, 5, 3])}, rows_per_unit=4)
    assert of(source, asked(source, "COUNT", None))["rows"] == (1,)


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
    cells: Cells, kind: pa.DataType, total: int
) -> None:
    source = one_table({"pid": pa.array([1, 2, 3]), "turn": pa.array([0, 0, 0]), "x": pa.array(cells, kind, from_pandas=False)})
    assert of(source, asked(source, "SUM", "x"))["sum:left.rows.x"] == (total,)


def test_text_that_is_not_utf8_counts_as_missing_and_raises_nothing() -> None:
    offsets, letters = pa.py_buffer(struct.pack("<4i", 0, 1, 3, 4)), pa.py_buffer(b"a\xff\xfeb")
    source = one_table(
        {"pid": pa.array([1, 2, 3]), "turn": pa.array([0, 0, 0]), "x": pa.StringArray.from_buffers(3, offsets, letters)},
        type="text", lower=None, upper=None, nullable=True,
    )  # fmt: skip
    assert of(source, asked(source, "COUNT", "x"))["present:left.rows.x"] == (2,)


def test_keys_of_different_types_join_by_their_spelling_one_to_one() -> None:
    """Were text read as a number, "1" and "01" would both meet 1, and "x" would end the query."""
    left = one_table({"pid": pa.array([1, 2]), "turn": pa.array([0, 0]), "x": pa.array([1, 1])}, unique_key=("pid",), rows_per_unit=1)
    columns = (Column(name="pid", type="text"), *left.declaration.columns[1:])
    right = Source(
        declaration=replace(left.declaration, dataset=RIGHT, columns=columns),
        table=pa.table({"pid": pa.array(["1", "01", " 1", "x"]), "turn": pa.array([0] * 4), "x": pa.array([5] * 4)}),
        units=(1, 2, 3, 4),
    )
    plan = Plan(sources=(LEFT, RIGHT), join=("pid",), outputs=(AggregateOutput(name="n", function="COUNT"),))
    try:
        grant = grant_for(plan, {LEFT: left.declaration, RIGHT: right.declaration})
    except Malformed:
        return  # the law may refuse such a join before any enclave sees it
    assert exact(grant, {LEFT: left, RIGHT: right}, {LEFT: left.table, RIGHT: right.table}).vectors == {"rows": (1,)}


# Against an independent computation


@dataclass(frozen=True)
class Straight:
    """Aggregation in plain Python over dictionaries, by the definitions: three-valued logic, inner join, declared cells."""

    plan: Plan
    held: dict[str, Source]

    def vector(self, statistic: Statistic) -> tuple[int, ...]:
        """The value of a statistic in every cell."""
        domains = [self._column(reference).domain or () for reference in self.plan.group_by]
        found: dict[tuple[Any, ...], list[dict[ColumnRef, Any]]] = {key: [] for key in itertools.product(*domains)}
        for row in self._rows():
            key = tuple(row[reference] for reference in self.plan.group_by)
            if key in found and (self.plan.where is None or self._truth(self.plan.where, row) is True):
                found[key].append(row)
        return tuple(self._value(statistic, rows) for rows in found.values())

    def _value(self, statistic: Statistic, rows: list[dict[ColumnRef, Any]]) -> int:
        if statistic.quantity == "units":
            return len({row[ColumnRef(dataset=self.plan.sources[0], column="pid")] for row in rows})
        if statistic.column is None:
            return len(rows)
        dataset, _, name = statistic.column.rpartition(".")
        cells = [row[ColumnRef(dataset=dataset, column=name)] for row in rows]
        present = [cell for cell in cells if cell is not None]
        return len(present) if statistic.quantity == "present" else sum(present)

    def _rows(self) -> list[dict[ColumnRef, Any]]:
        first, *others = ([self._read(row, name) for row in self.held[name].table.to_pylist()] for name in self.plan.sources)
        if not others:
            return first
        left, right = self.plan.sources

        def key(row: dict[ColumnRef, Any], dataset: str) -> tuple[Any, ...]:
            return tuple(row[ColumnRef(dataset=dataset, column=name)] for name in self.plan.join)

        by_key = {key(row, right): row for row in others[0]}
        return [{**row, **by_key[key(row, left)]} for row in first if key(row, left) in by_key]

    def _read(self, row: dict[str, Any], dataset: str) -> dict[ColumnRef, Any]:
        return {ColumnRef(dataset=dataset, column=c.name): self._cell(row[c.name], c) for c in self.held[dataset].declaration.columns}

    @staticmethod
    def _cell(cell: Any, column: Column) -> Any:
        if cell is None:
            return None if column.nullable else column.bounds[0] if column.lower is not None else "" if column.type == "text" else 0
        if column.type != "decimal":
            return cell
        return int(Decimal(float(cell) * 10**column.decimals).quantize(Decimal(1), ROUND_HALF_UP))

    def _column(self, reference: ColumnRef) -> Column:
        return self.held[reference.dataset].declaration.column(reference.column)

    def _truth(self, condition: Condition, row: dict[ColumnRef, Any]) -> bool | None:
        if isinstance(condition, Not):
            inner = self._truth(condition.term, row)
            return None if inner is None else not inner
        if isinstance(condition, (AllOf, AnyOf)):
            truths = [self._truth(term, row) for term in condition.terms]
            decisive = isinstance(condition, AnyOf)
            return decisive if decisive in truths else None if None in truths else not decisive
        cell = row[condition.column]
        if isinstance(condition, IsNull):
            return cell is None
        if cell is None:
            return None
        if isinstance(condition, OneOf):
            return cell in condition.values
        value: Any = condition.value
        if isinstance(cell, str):
            cell, value = cell.encode(), value.encode()
        return bool(
            {"=": cell == value, "<>": cell != value, "<": cell < value, "<=": cell <= value, ">": cell > value, ">=": cell >= value}[
                condition.operator
            ]
        )


@st.composite
def orderly(draw: st.DrawFn, dataset: str) -> Source:
    """A table that keeps to its declaration: unique keys, values within bounds."""
    keys = draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), unique=True, max_size=25))
    nullable = draw(st.booleans())
    count = len(keys)

    def cells(kind: st.SearchStrategy[Any]) -> Cells:
        return draw(st.lists(st.none() | kind, min_size=count, max_size=count))

    declaration = Declaration(
        dataset=dataset, title="Rows", unit="pid", id_space="people", rows_per_unit=4, unique_key=("pid", "turn"),
        columns=(
            Column(name="pid", type="integer"),
            Column(name="turn", type="integer", domain=(0, 1, 2), lower="-100", upper="100"),
            Column(name="kind", type="text", domain=WORDS[:4], nullable=nullable),
            Column(name="whole", type="integer", lower=str(-(2**30)), upper=str(2**30), nullable=nullable),
            Column(name="exact", type="decimal", decimals=2, lower="-1000000", upper="1000000", nullable=nullable),
        ),
    )  # fmt: skip
    table = pa.table(
        {
            "pid": pa.array([unit for unit, _ in keys], pa.int64()),
            "turn": pa.array([turn for _, turn in keys], pa.int32()),
            "kind": pa.array(cells(st.sampled_from(WORDS)), pa.string()),
            "whole": pa.array(cells(st.integers(-(2**30), 2**30)), pa.int64()),
            "exact": pa.array(cells(st.floats(-999_999, 999_999)), pa.float64()),
        }
    )
    return Source(declaration=declaration, table=table, units=tuple(unit for unit, _ in keys))


@given(data=st.data(), datasets=st.sampled_from([(LEFT,), (LEFT, RIGHT)]), minimum_group=st.sampled_from([1, 5]))
@settings(RUNS, max_examples=60)
def test_within_wide_bounds_every_vector_equals_a_straightforward_computation(
    data: st.DataObject, datasets: tuple[str, ...], minimum_group: int
) -> None:
    held = {name: data.draw(orderly(name)) for name in datasets}
    plan = data.draw(plans(datasets, ("pid", "turn")))
    grant = grant_for(plan, {n: s.declaration for n, s in held.items()}, loss=parse_epsilon("100"), minimum_group=minimum_group)
    found = exact(grant, held, {name: source.table for name, source in held.items()})
    straight = Straight(plan=plan, held=held)
    assert found.vectors == {statistic.name: straight.vector(statistic) for statistic in grant.statistics}


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


def test_a_name_with_quotes_stays_a_name() -> None:
    declaration = one_table({"pid": pa.array([1]), "turn": pa.array([0]), "x": pa.array([1])}).declaration
    with open_database(memory_mib=64, threads=1) as connection:
        load_bounded(connection, 'a"; DROP TABLE b; --', pa.table({"pid": [1], "turn": [0]}), declaration, ("pid", "turn"))
        assert connection.execute('SELECT count(*) FROM "a""; DROP TABLE b; --"').fetchone() == (1,)

"""Joins with a side that has one row per unit: looking units up gives what the joined rows give, whatever either provider's rows hold."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enclaves import aggregate as aggregation
from enclaves import lines, lookups, pairs
from enclaves.aggregate import Exact, aggregate
from enclaves.kit.columns import FOOTER, StoredColumns, encrypt_table
from enclaves.kit.prepared import prepared
from enclaves.lookups import places
from policies.declaration import Column, Declaration
from policies.errors import Malformed
from policies.expression import Call, Constant, Expression, Ref
from policies.grant import Grant
from policies.query import AggregateOutput, Equality, Join, Key, KeyOutput, PerUnit, Plan, Relation, Table, UnitColumn
from tests.support.queries import LEFT, RIGHT, grant_of

RUNS = settings(max_examples=100 if os.environ.get("SANDBOX_FULL") else 5, deadline=None, suppress_health_check=list(HealthCheck))
UNITS = 9

VISITS = Declaration(
    dataset=LEFT, title="Visits", unit="pid", id_space="people", rows_per_unit=12, groups_per_unit=2, rows_per_group=3,
    unique_key=("pid", "turn"),
    columns=(
        Column(name="pid", type="integer"),
        Column(name="turn", type="integer"),
        Column(name="place", type="integer", domain=(0, 1, 2, 5), nullable=True),
        Column(name="amount", type="integer", lower="-5", upper="20", nullable=True),
    ),
)  # fmt: skip

PEOPLE = Declaration(
    dataset=RIGHT, title="People", unit="pid", id_space="people", rows_per_unit=1, unique_key=("pid",),
    columns=(
        Column(name="pid", type="integer"),
        Column(name="plan", type="integer", domain=(0, 7, 9), nullable=True),
        Column(name="kind", type="text", domain=("a", "b", "ä")),
        Column(name="age", type="integer", lower="0", upper="90"),
    ),
)  # fmt: skip

DECLARED = {LEFT: VISITS, RIGHT: PEOPLE}
PLACE, AMOUNT = Ref(table="v", column="place"), Ref(table="v", column="amount")
PLAN, KIND, AGE = (Ref(table="p", column=name) for name in ("plan", "kind", "age"))
OLD = Call(function=">", arguments=(AGE, Constant(value=40, type="integer")))


def visits(dice: random.Random, *, most: int) -> pa.Table:
    """Up to `most` rows of each of some units."""
    ids = [pid for pid in range(UNITS) for _ in range(dice.randint(0, most))]
    return pa.table(
        {
            "pid": pa.array(ids, pa.int64()),
            "turn": pa.array(range(len(ids)), pa.int64()),
            "place": pa.array([dice.choice([None, *range(7)]) for _ in ids], pa.int32()),
            "amount": pa.array([dice.choice([None, dice.randint(-9, 30)]) for _ in ids], pa.int64()),
        }
    )


def people(dice: random.Random, *, repeated: bool) -> pa.Table:
    """Some units in no order, of which some may have several rows."""
    ids = [pid for pid in range(-1, UNITS + 1) if dice.random() < 0.7 for _ in range(dice.choice([1, 3]) if repeated else 1)]
    dice.shuffle(ids)
    return pa.table(
        {
            "pid": pa.array(ids, pa.int64()),
            "plan": pa.array([dice.choice([None, 0, 7, 8, 9]) for _ in ids], pa.int16()),
            "kind": pa.array([dice.choice(["a", "b", "c", "ä", None]) for _ in ids], pa.string()),
            "age": pa.array([dice.randint(-5, 99) for _ in ids], pa.int32()),
        }
    )


def side(kind: str) -> Relation:
    """The people as they are, or what a subquery says of each."""
    table = Table(alias="p", dataset=RIGHT)
    if kind == "table":
        return table
    return PerUnit(
        alias="q",
        source=table,
        by=Ref(table="p", column="pid"),
        unit="pid",
        where=OLD,
        columns=(UnitColumn(name="age", function="MAX", argument=AGE),),
    )


def asked(*keys: Ref, where: Expression | None = OLD, of: str = "table", turned: bool = False) -> Grant:
    """COUNT(*), COUNT(amount), SUM(amount) and the units of visits joined with people."""
    right = side(of)
    left: Relation = Table(alias="v", dataset=LEFT)
    named = "p" if of == "table" else "q"
    on = Equality(left=Ref(table="v", column="pid"), right=Ref(table=named, column="pid"))
    joined = Join(left=left, right=cast(Any, right), on=(on,))
    if turned:
        joined = Join(left=right, right=Table(alias="v", dataset=LEFT), on=(Equality(left=on.right, right=on.left),))
    outputs = (("n", "COUNT", ()), ("m", "COUNT", (AMOUNT,)), ("s", "SUM", (AMOUNT,)), ("u", "COUNT_UNITS", ()))
    plan = Plan(
        source=joined,
        where=where,
        group_by=tuple(Key(expression=key, source="declared") for key in keys),
        outputs=(
            *(KeyOutput(name=f"k{index}", key=index) for index in range(len(keys))),
            *(AggregateOutput(name=name, function=cast(Any, function), arguments=arguments) for name, function, arguments in outputs),
        ),
    )
    return grant_of(plan, DECLARED)


def exact(grant: Grant, left: Any, right: Any, declared: dict[str, Declaration] | None = None) -> Exact:
    """The exact vectors."""
    return aggregate(grant, declared or DECLARED, {LEFT: left, RIGHT: right}, memory_mib=256, threads=1)


@contextmanager
def _joining() -> Iterator[None]:
    """Joined rows are made, as for any other join."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregation, "split", lambda *_: None)
        yield


@contextmanager
def _counting() -> Iterator[list[int]]:
    """One number per block that was looked up."""
    found: list[int] = []
    of = lookups.LookUp.__call__

    def counted(self: Any, *arguments: Any) -> Any:
        found.append(1)
        return of(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookups.LookUp, "__call__", counted)
        yield found


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lines, pairs):
        monkeypatch.setattr(module, "BLOCK", 16)


def encrypted(table: pa.Table, dataset: str) -> StoredColumns:
    """The table as its home publishes it."""
    keys = {name: os.urandom(32) for name in (FOOTER, *table.column_names)}
    sink = io.BytesIO()
    encrypt_table(table, sink, dataset=dataset, version=1, keys=keys)
    return StoredColumns(sink.getvalue(), dataset=dataset, version=1, keys=keys, columns=table.column_names)


PLANS = [
    lambda: asked(PLACE),
    lambda: asked(PLACE, where=None, turned=True),
    lambda: asked(PLAN, PLACE, KIND),
    lambda: asked(PLACE, PLAN, turned=True),
    lambda: asked(KIND),
    lambda: asked(),
    lambda: asked(PLACE, of="subquery", where=None),
]


@given(seed=st.integers(0, 2**32), plan=st.sampled_from(PLANS), flood=st.booleans(), repeated=st.booleans())
@RUNS
def test_looked_up_units_count_as_their_joined_rows_do(seed: int, plan: Any, flood: bool, repeated: bool) -> None:
    """Also where one provider repeats its unique key and the other floods a unit with rows, whatever order rows come in."""
    dice, grant = random.Random(seed), plan()
    left, right = visits(dice, most=40 if flood else 12), people(dice, repeated=repeated)
    with _joining():
        found = exact(grant, left, right)
    shuffled = left.take(pa.array(np.random.default_rng(seed).permutation(left.num_rows)))
    ready = prepared(left, VISITS)
    for held in (left, shuffled, ready, encrypted(ready, LEFT)):
        assert exact(grant, held, right) == found
    assert exact(grant, ready, encrypted(prepared(right, PEOPLE), RIGHT)) == found


@pytest.mark.parametrize("plan", PLANS)
def test_no_joined_rows_are_made_where_units_can_be_looked_up(plan: Any) -> None:
    dice = random.Random(3)
    with _counting() as blocks:
        exact(plan(), visits(dice, most=12), people(dice, repeated=True))
    assert blocks


def test_plans_that_mix_both_sides_are_joined() -> None:
    mixed = Call(function=">", arguments=(AGE, AMOUNT))
    dice = random.Random(4)
    left, right = visits(dice, most=12), people(dice, repeated=False)
    many = replace(PEOPLE, unique_key=("pid", "age"), rows_per_unit=2)
    with _counting() as blocks:
        exact(asked(PLACE, where=mixed), left, right)
        with pytest.raises(Malformed):
            exact(asked(PLACE, where=Call(function=">", arguments=(Ref(table="x", column="y"), AMOUNT))), left, right)
        exact(grant_of(asked(PLACE).plan, {LEFT: VISITS, RIGHT: many}), left, right, {LEFT: VISITS, RIGHT: many})
    assert not blocks


@given(seed=st.integers(0, 2**32), plan=st.sampled_from(PLANS), victim=st.integers(0, UNITS - 1))
@RUNS
def test_one_unit_moves_no_vector_of_a_join_beyond_its_sensitivity(seed: int, plan: Any, victim: int) -> None:
    dice, grant = random.Random(seed), plan()
    tables = visits(dice, most=40), people(dice, repeated=True)
    without = [table.filter(pa.array([pid != victim for pid in table.column("pid").to_pylist()], pa.bool_())) for table in tables]
    whole, neighbour = exact(grant, *tables), exact(grant, *without)
    assert whole.keys == neighbour.keys
    for statistic in grant.statistics:
        by = [a - b for a, b in zip(whole.vectors[statistic.name], neighbour.vectors[statistic.name], strict=True)]
        assert sum(map(abs, by)) <= statistic.sensitivity


def test_a_unit_longer_than_many_blocks_and_those_around_it_are_each_whole() -> None:
    ids = np.repeat([1, 2, 3, 4, 5, 6, 7, 8], [3, 40, 1, 70, 15, 1, 1, 33])
    whole = pairs.Lines(units=ids, keys=(), amounts={"row": np.arange(len(ids))})
    parts = list(lines.whole_units(whole.chosen(slice(start, start + 16)) for start in range(0, len(ids), 16)))
    assert sorted(unit for part in parts for unit in set(part.units.tolist())) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all((np.diff(part.units) >= 0).all() for part in parts)
    assert sorted(np.concatenate([part.amounts["row"] for part in parts]).tolist()) == list(range(len(ids)))
    with pytest.raises(lines.OutOfOrder):
        list(lines.whole_units(whole.chosen(some) for some in (slice(16, 32), slice(0, 16))))


@given(
    units=st.lists(st.integers(-40, 40), unique=True, max_size=12),
    among=st.lists(st.integers(-40, 40), unique=True, max_size=12),
    factor=st.sampled_from([1, 1, 1000, 2**56]),
)
@settings(RUNS, max_examples=100)
def test_units_are_found_near_and_far(units: list[int], among: list[int], factor: int) -> None:
    ordered = sorted(among)
    expected = [ordered.index(unit) if unit in ordered else -1 for unit in sorted(units)]
    found = places(np.array(sorted(units), np.int64) * factor, np.array(ordered, np.int64) * factor)
    assert found.tolist() == expected

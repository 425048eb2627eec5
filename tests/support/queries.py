"""Random declarations, tables that keep to none of their promises, and random plans that the law accepts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, cast

import pyarrow as pa
from hypothesis import assume
from hypothesis import strategies as st

from policies.declaration import Column, Declaration
from policies.errors import Malformed
from policies.expression import Call, Constant, Expression, Function, Ref, Typed, typed
from policies.grant import Grant
from policies.granted import Read, Recipient
from policies.privacy import Loss, parse_epsilon
from policies.query import (
    AggregateOutput,
    Equality,
    Join,
    Key,
    KeyOutput,
    NamedExpression,
    PerUnit,
    Plan,
    Relation,
    Table,
    UnitColumn,
    columns_read,
)
from policies.schedule import schedule
from policies.shape import Name, shape

LEFT, RIGHT, PLACES = "left.rows", "right.rows", "left.places"
UNITS = 5
WORDS = ("", "a", "b", "ä", "NULL", "1", "a'b\"c", "x" * 300)
NUMBER_TYPES = (pa.int32(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.decimal128(38, 3), pa.string(), pa.bool_())
TEXT_TYPES = (pa.string(), pa.large_string(), pa.int64(), pa.float64(), pa.bool_())
DATE_TYPES = (pa.date32(), pa.date64(), pa.timestamp("us"), pa.timestamp("ns"), pa.string(), pa.int32())
UNIT_TYPES = (pa.int32(), pa.int64(), pa.uint64(), pa.decimal128(38, 3), pa.string())
NOBODY = "sha256:" + "0" * 64

Cell = Callable[[pa.DataType, random.Random], Any]


def grant_of(plan: Plan, declarations: Mapping[str, Declaration], *, loss: Loss | None = None, minimum_group: int = 1) -> Grant:
    """The grant that `plan` and `loss` entail, under no agreement: for code that looks at plan, statistics and reads only."""
    known, loss = dict(declarations), loss or parse_epsilon("1")
    columns = columns_read(plan, known)
    return Grant(
        job="job-1",
        agreement=NOBODY,
        request=NOBODY,
        plan=plan,
        reads=tuple(
            Read(dataset=name, provider=known[name].provider, version=1, file_digest=NOBODY, columns=columns[name]) for name in plan.sources
        ),
        statistics=schedule(plan, known, loss, minimum_group),
        loss=loss,
        minimum_group=minimum_group,
        recipient=Recipient(id="institute", sealing_key="0" * 64),
        enclave_kind="simulated",
        measurement=NOBODY,
    )


@dataclass(frozen=True)
class Source:
    """One table; `units` tells for every row whose it is (None: nobody's)."""

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


# Cells


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
    if pa.types.is_string(kind):
        return str(value)
    return bool(value % 2) if pa.types.is_boolean(kind) else kind.to_pandas_dtype()(value).item()


def odd_word(kind: pa.DataType, draw: random.Random) -> Any:
    """A cell of a text column."""
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return draw.choice([*WORDS, chr(draw.randint(1, 0xD7FF))]) if text else odd_number(kind, draw)


def tame_word(kind: pa.DataType, draw: random.Random) -> Any:
    """A word of the declared domain, where the type holds words."""
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return draw.choice(WORDS[:3]) if text else tame_number(kind, draw)


def odd_date(kind: pa.DataType, draw: random.Random) -> Any:
    """A cell of a date column far from any declared bound."""
    if pa.types.is_string(kind):
        return draw.choice(["infinity", "-infinity", "epoch", "2020-02-30", "99999-01-01", "x", "", "2020-1-1", "290000-12-31"])
    if pa.types.is_integer(kind):
        return draw.choice([2**31 - 1, -(2**31), 0])
    year = draw.choice([1, 9999, 1900]) if pa.types.is_date(kind) else draw.choice([1700, 2200, 1900])
    return date(year, 1, 1) if pa.types.is_date(kind) else datetime(year, 1, 1, 23)


def tame_date(kind: pa.DataType, draw: random.Random) -> Any:
    """A day of 2020."""
    day = date(2020, draw.randint(1, 12), draw.randint(1, 28))
    if pa.types.is_string(kind):
        return day.isoformat()
    if pa.types.is_integer(kind):
        return day.toordinal() - date(1970, 1, 1).toordinal()
    return day if pa.types.is_date(kind) else datetime(day.year, day.month, day.day, draw.randint(0, 23))


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


# Tables


@st.composite
def sources(draw: st.DrawFn, dataset: str, *, text_unit: bool, two_keys: bool) -> Source:
    """A declaration, and up to 60 rows of few units that keep to none of its promises."""
    dice = random.Random(draw(st.integers(0, 2**64 - 1)))
    owners = tuple(dice.choice([None, *range(UNITS), 0, 1, 1]) for _ in range(draw(st.integers(0, 60))))
    low = draw(st.integers(-(2**20), 2**20))
    high = draw(st.integers(low, 2**20).filter(lambda high: (low, high) != (0, 0)))
    by_group = draw(st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)))
    declaration = Declaration(
        dataset=dataset,
        title="Rows",
        unit="pid",
        id_space="people",
        rows_per_unit=draw(st.sampled_from([1, 2, 3, 4, 9])),
        unique_key=("pid", "turn") if two_keys else ("pid",),
        groups_per_unit=None if by_group is None else by_group[0],
        rows_per_group=None if by_group is None else by_group[1],
        columns=(
            Column(name="pid", type="text" if text_unit else "integer"),
            Column(name="turn", type="integer", domain=(0, 1, 2), lower="-3", upper="7"),
            Column(name="kind", type="text", domain=WORDS, nullable=draw(st.booleans())),
            Column(name="whole", type="integer", lower=str(low), upper=str(high), nullable=draw(st.booleans())),
            Column(name="exact", type="decimal", decimals=2, lower="-12.5", upper="99.75", nullable=draw(st.booleans())),
            Column(name="day", type="date", lower="2019-12-31", upper="2020-11-30", nullable=draw(st.booleans())),
            Column(name="free", type="text", nullable=True),
            Column(name="loose", type="integer", nullable=True),
        ),
    )
    numbers = {name: column(len(owners), dice, NUMBER_TYPES, tame_number, odd_number) for name in ("turn", "whole", "exact", "loose")}
    words = {name: column(len(owners), dice, TEXT_TYPES, tame_word, odd_word) for name in ("kind", "free")}
    day = column(len(owners), dice, DATE_TYPES, tame_date, odd_date)
    table = pa.table({"pid": unit_column(owners, dice, text=text_unit), "day": day, **words, **numbers})
    return Source(declaration=declaration, table=table, units=owners)


@st.composite
def places(draw: st.DrawFn) -> Source:
    """A public table whose unique key is repeated in its rows."""
    dice = random.Random(draw(st.integers(0, 2**64 - 1)))
    count = draw(st.integers(0, 8))
    declaration = Declaration(
        dataset=PLACES,
        title="Places",
        unit="",
        id_space="",
        rows_per_unit=1,
        unique_key=("code",),
        public=True,
        columns=(
            Column(name="code", type="integer"),
            Column(name="region", type="text"),
            Column(name="height", type="integer", lower="0", upper="9"),
        ),
    )
    table = pa.table(
        {
            "code": column(count, dice, (pa.int64(), pa.int32()), tame_number, odd_number),
            "region": column(count, dice, (pa.string(),), tame_word, odd_word),
            "height": column(count, dice, NUMBER_TYPES, tame_number, odd_number),
        }
    )
    return Source(declaration=declaration, table=table, units=(None,) * count)


# Expressions

Kind = Literal["number", "text", "date", "boolean"]
KINDS: dict[str, Kind] = {"integer": "number", "decimal": "number", "text": "text", "date": "date", "boolean": "boolean"}


def call(function: str, *arguments: Expression) -> Call:
    """A call."""
    return Call(function=cast(Function, function), arguments=arguments)


def integer(value: int) -> Constant:
    """An integer constant."""
    return Constant(value=value, type="integer")


CONSTANTS: dict[Kind, st.SearchStrategy[Expression]] = {
    "number": st.one_of(
        st.builds(lambda v: integer(v), st.integers(-3, 40)),
        st.builds(lambda v: Constant(value=v, type="decimal", decimals=2), st.integers(-300, 300)),
        st.just(Constant(value=None, type="integer")),
    ),
    "text": st.builds(lambda v: Constant(value=v, type="text"), st.sampled_from(WORDS)),
    "date": st.builds(lambda v: Constant(value=v, type="date"), st.integers(18_200, 18_700)),
    "boolean": st.builds(lambda v: Constant(value=v, type="boolean"), st.sampled_from([0, 1])),
}


@st.composite
def expressions(draw: st.DrawFn, scope: Mapping[Name, Typed], kind: Kind, depth: int = 2) -> Expression:
    """An expression of a kind over the columns of `scope`, which `typed` accepts."""
    columns = [Ref(table=a, column=c) for (a, c), t in scope.items() if KINDS[t.type] == kind]
    for _ in range(4):
        candidate = draw(_calls(scope, kind, depth)) if depth and draw(st.integers(0, 2)) else None
        if candidate is None and columns:
            candidate = draw(st.sampled_from(columns))
        if candidate is None:
            candidate = draw(CONSTANTS[kind])
        try:
            typed(candidate, scope)
        except Malformed:
            continue
        return candidate
    return draw(CONSTANTS[kind].filter(lambda c: isinstance(c, Constant) and c.value is not None))


@st.composite
def _calls(draw: st.DrawFn, scope: Mapping[Name, Typed], kind: Kind, depth: int) -> Expression:
    def one(kind: Kind) -> Expression:
        return draw(expressions(scope, kind, depth - 1))

    def any_kind() -> Kind:
        return draw(st.sampled_from(["number", "text", "date", "boolean"]))

    shared = ["coalesce", "nullif", "case"]
    own: dict[Kind, list[str]] = {
        "number": [
            "add", "subtract", "multiply", "divide", "modulo", "negate", "abs", "sign", "floor", "ceil", "round", "round2", "least",
            "greatest", "length", "year", "quarter", "month", "day", "day_of_week", "days", "to_integer", "spelled", "to_decimal", "truth",
        ],
        "text": ["lower", "upper", "trim", "substring"],
        "date": ["truncate_date", "least", "greatest", "to_date"],
        "boolean": ["and", "or", "not", "=", "<>", "<", "<=", ">", ">=", "in", "is_null", "like"],
    }  # fmt: skip
    function = draw(st.sampled_from([*shared, *own[kind], *own[kind]]))
    if function in ("coalesce", "nullif", "least", "greatest"):
        return call(function, one(kind), one(kind))
    if function == "case":
        return call("case", one("boolean"), one(kind), one(kind))
    if function in ("add", "subtract", "multiply", "divide", "modulo"):
        return call(function, one("number"), one("number"))
    if function in ("negate", "abs", "sign", "floor", "ceil", "round", "to_integer"):
        return call(function, one("number"))
    if function in ("round2", "to_decimal"):
        return call(function.removesuffix("2"), one("number"), integer(draw(st.integers(0, 3))))
    if function in ("spelled", "length"):
        return call("to_integer" if function == "spelled" else "length", one("text"))
    if function in ("year", "quarter", "month", "day", "day_of_week"):
        return call(function, one("date"))
    if function == "days":
        return call("subtract", one("date"), one("date"))
    if function == "truth":
        return call("to_integer", one("boolean"))
    if function in ("lower", "upper", "trim", "to_date"):
        return call(function, one("text"))
    if function == "substring":
        return call(function, one("text"), integer(draw(st.integers(1, 3))), integer(draw(st.integers(0, 3))))
    if function == "truncate_date":
        part = draw(st.sampled_from(["year", "quarter", "month", "week", "day"]))
        return call(function, Constant(value=part, type="text"), one("date"))
    if function in ("and", "or"):
        return call(function, one("boolean"), one("boolean"))
    if function == "not":
        return call(function, one("boolean"))
    if function == "is_null":
        return call(function, one(any_kind()))
    if function == "like":
        return call(function, one("text"), Constant(value=draw(st.sampled_from(["%", "a%", "_", "%a%b%c%", "x%x%x%x", ""])), type="text"))
    other = any_kind()
    if function == "in":
        return call(function, one(other), *draw(st.lists(CONSTANTS[other], min_size=1, max_size=3)))
    return call(function, one(other), one(other))


# Plans

FUNCTIONS = (
    "COUNT", "COUNT", "COUNT_UNITS", "COUNT_DISTINCT", "SUM", "SUM", "AVG", "VAR_POP", "VAR_SAMP", "STDDEV_POP", "STDDEV_SAMP",
    "QUANTILE", "MIN", "MAX", "COVAR_POP", "COVAR_SAMP", "CORR",
    "REGR_SLOPE", "REGR_INTERCEPT",
)  # fmt: skip


@st.composite
def outputs(draw: st.DrawFn, scope: Mapping[Name, Typed], index: int) -> AggregateOutput:
    """A random aggregate."""
    function = draw(st.sampled_from(FUNCTIONS))
    pair = function.startswith(("COVAR", "CORR", "REGR"))
    count = {"COUNT": draw(st.integers(0, 1)), "COUNT_UNITS": 0}.get(function, 2 if pair else 1)
    loose = function in ("COUNT", "COUNT_DISTINCT")
    kinds: st.SearchStrategy[Kind] = st.sampled_from(["number", "text", "date", "boolean"]) if loose else st.just("number")
    return AggregateOutput(
        name=f"out{index}",
        function=cast(Any, function),
        arguments=tuple(draw(expressions(scope, draw(kinds))) for _ in range(count)),
        filter=draw(st.none() | expressions(scope, "boolean")),
        fraction=draw(st.sampled_from(["0", "0.25", "0.5", "1"])) if function == "QUANTILE" else None,
    )


@st.composite
def relations(draw: st.DrawFn, held: Mapping[str, Source]) -> Relation:
    """One table, a subquery per unit, or joins of them, of public tables too."""
    form = draw(st.sampled_from(["table", "table", "unit", "join", "join on unit", "join unit", "place", "join place"]))
    left, right = Table(alias="a", dataset=LEFT), Table(alias="b", dataset=RIGHT)
    own = Equality(left=Ref(table="a", column="pid"), right=Ref(table="b", column="pid"))
    turn = Equality(left=Ref(table="a", column="turn"), right=Ref(table="b", column="turn"))
    if form == "table":
        return left
    if form == "unit":
        return draw(per_unit(left, "a", "q", held))
    if form == "join":
        return Join(left=left, right=right, on=(own, turn))
    if form == "join on unit":
        return Join(left=left, right=right, on=(own,))
    place = Equality(left=Ref(table="a", column="turn"), right=Ref(table="p", column="code"))
    with_place = Join(left=left, right=Table(alias="p", dataset=PLACES), on=(place,))
    if form == "place":
        return with_place
    if form == "join place":
        return Join(left=with_place, right=right, on=(own, turn))
    inner = draw(per_unit(right, "b", "q", held))
    return Join(left=left, right=inner, on=(Equality(left=Ref(table="a", column="pid"), right=Ref(table="q", column="who")),))


@st.composite
def per_unit(draw: st.DrawFn, source: Relation, by: str, alias: str, held: Mapping[str, Source]) -> PerUnit:
    """A subquery per unit over a relation."""
    scope = shape(source, {name: s.declaration for name, s in held.items()}).scope
    keys = draw(st.lists(st.sampled_from(["turn", "kind"]), max_size=1))
    columns = []
    for index in range(draw(st.integers(1, 2))):
        function = draw(st.sampled_from(["COUNT", "SUM", "AVG", "MIN", "MAX", "COUNT_DISTINCT"]))
        argument = None if function == "COUNT" and draw(st.booleans()) else draw(expressions(scope, "number", 1))
        columns.append(UnitColumn(name=f"v{index}", function=cast(Any, function), argument=argument))
    return PerUnit(
        alias=alias,
        source=source,
        by=Ref(table=by, column="pid"),
        where=draw(st.none() | expressions(scope, "boolean", 1)),
        unit="who",
        keys=tuple(NamedExpression(name=name, expression=Ref(table=by, column=name)) for name in keys),
        columns=tuple(columns),
    )


@st.composite
def plans(draw: st.DrawFn, held: Mapping[str, Source], *, discover: bool = True) -> Plan:
    """A plan over some of the tables, mostly sound."""
    declarations = {name: source.declaration for name, source in held.items()}
    try:
        source = draw(relations(held))
        scope = shape(source, declarations).scope
    except Malformed:
        assume(False)
    keys: dict[Expression, Key] = {}
    for _ in range(draw(st.integers(0, 2))):
        expression: Expression = draw(
            st.sampled_from([Ref(table=a, column=c) for a, c in scope if c in ("turn", "kind", "free", "region", "loose")])
            | expressions(scope, "boolean", 1)
            | expressions(scope, "number", 1)
        ) if any(c == "turn" or c == "kind" for _, c in scope) else draw(expressions(scope, "boolean", 1))  # fmt: skip
        known = typed(expression, scope)
        region = isinstance(expression, Ref) and expression.table == "p"
        wide = known.domain is None or len(known.domain) > 60
        if known.type == "decimal" or (wide and not region and not discover):
            continue
        keys[expression] = Key(expression=expression, source="public" if region else "discovered" if wide else "declared")
    shown = [KeyOutput(name=f"key{index}", key=index) for index in range(len(keys))]
    wanted = [draw(outputs(scope, index)) for index in range(draw(st.integers(1, 3)))]
    return Plan(
        source=source,
        where=draw(st.none() | expressions(scope, "boolean")),
        group_by=tuple(keys.values()),
        outputs=(*shown, *wanted),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Grant, dict[str, Source]]:
    """Tables and the grant of a plan over some of them."""
    text_unit, two_keys = draw(st.booleans()), draw(st.booleans())
    held = {name: draw(sources(name, text_unit=text_unit, two_keys=two_keys)) for name in (LEFT, RIGHT)} | {PLACES: draw(places())}
    plan = draw(plans(held))
    measure: Any = draw(st.sampled_from(["pure", "zcdp"]))
    loss = Loss(measure=measure, amount=10 * 10**9, delta0=10**6 if plan.discovers else 0)
    try:
        grant = grant_of(plan, {n: s.declaration for n, s in held.items()}, loss=loss, minimum_group=draw(st.sampled_from([1, 5])))
    except Malformed:
        assume(False)
    return grant, {name: held[name] for name in plan.sources}


def with_loss(grant: Grant, declarations: Mapping[str, Declaration], loss: Loss) -> Grant:
    """The same under another loss."""
    return replace(grant, loss=loss, statistics=schedule(grant.plan, dict(declarations), loss, grant.minimum_group))

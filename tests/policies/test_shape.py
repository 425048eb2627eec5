"""One unit never has more rows than a shape says, whatever the tables hold within their declarations."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.declaration import Column, Declaration
from policies.errors import Malformed
from policies.expression import Call, Constant, Ref
from policies.plan import parse_plan
from policies.query import Equality, Join, NamedExpression, PerUnit, Relation, Table, UnitColumn
from policies.shape import require_sound, shape

Row = dict[tuple[str, str], int]


def _declaration(dataset: str, rows: int, key: tuple[str, ...], public: bool = False) -> Declaration:
    return Declaration(
        dataset=dataset,
        title="t",
        unit="" if public else "u",
        id_space="" if public else "ids",
        rows_per_unit=1 if public else rows,
        unique_key=key,
        columns=tuple(Column(name=name, type="integer", lower="0", upper="3", domain=(1, 2)) for name in ("u", "k", "v")),
        public=public,
    )


@st.composite
def _tables(draw: st.DrawFn, declaration: Declaration) -> list[dict[str, int]]:
    """Rows within a declaration: unique keys, and at most `rows_per_unit` of a unit. Values may lie outside the declared domain."""
    rows = draw(st.lists(st.fixed_dictionaries({name: st.integers(0, 3) for name in ("u", "k", "v")}), max_size=12))
    seen: set[tuple[int, ...]] = set()
    count: Counter[int] = Counter()
    kept = []
    for row in rows:
        key = tuple(row[name] for name in declaration.unique_key)
        if key not in seen and (declaration.public or count[row["u"]] < declaration.rows_per_unit):
            seen.add(key)
            count[row["u"]] += 1
            kept.append(row)
    return kept


def rows_of(relation: Relation, data: dict[str, list[dict[str, int]]]) -> list[Row]:
    """The rows of a relation, by nested loops."""
    if isinstance(relation, Table):
        return [{(relation.alias, name): value for name, value in row.items()} for row in data[relation.dataset]]
    if isinstance(relation, PerUnit):
        names = [(relation.by.table, relation.by.column), *((k.expression.table, k.expression.column) for k in relation.keys)]  # type: ignore[union-attr]
        groups = {tuple(row[name] for name in names) for row in rows_of(relation.source, data)}
        own = [relation.unit, *(key.name for key in relation.keys)]
        return [{(relation.alias, name): value for name, value in zip(own, group, strict=True)} for group in groups]
    pairs = [((e.left.table, e.left.column), (e.right.table, e.right.column)) for e in relation.on]
    return [
        {**a, **b} for a, b in product(rows_of(relation.left, data), rows_of(relation.right, data)) if all(a[x] == b[y] for x, y in pairs)
    ]


def _equal(left: str, right: str, *columns: str) -> tuple[Equality, ...]:
    return tuple(Equality(left=Ref(table=left, column=c), right=Ref(table=right, column=c)) for c in columns)


_KEYS = st.sampled_from((("u",), ("u", "k"), ("u", "k", "v")))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 4), _KEYS, _KEYS, st.sampled_from(((), ("k",), ("k", "v"))), st.booleans())
def test_rows_of_a_unit_in_joins_and_subqueries_are_bounded(
    data: st.DataObject, m: int, n: int, left_key: tuple[str, ...], right_key: tuple[str, ...], also: tuple[str, ...], grouped: bool
) -> None:
    declarations = {
        "p.a": _declaration("p.a", m, left_key),
        "q.b": _declaration("q.b", n, right_key),
        "r.c": _declaration("r.c", 1, ("v",), public=True),
    }
    filled = {name: data.draw(_tables(declaration)) for name, declaration in declarations.items()}
    joined = Join(left=Table(alias="a", dataset="p.a"), right=Table(alias="b", dataset="q.b"), on=_equal("a", "b", "u", *also))
    relations: list[Relation] = [
        joined,
        Join(left=joined, right=Table(alias="c", dataset="r.c"), on=_equal("b", "c", "v")),
        Join(left=joined, right=Table(alias="d", dataset="p.a"), on=_equal("b", "d", "u")),
    ]
    keys = (NamedExpression(name="k", expression=Ref(table="a", column="k")),) if grouped else ()
    per_unit = PerUnit(alias="s", source=joined, by=Ref(table="a", column="u"), unit="u", keys=keys)
    relations += [
        per_unit,
        Join(left=Table(alias="e", dataset="q.b"), right=per_unit, on=_equal("e", "s", "u", *(("k",) if grouped else ()))),
    ]
    for relation in relations:
        found = shape(relation, declarations)
        rows = rows_of(relation, filled)
        for name in found.unit:
            assert max(Counter(row[name] for row in rows).values(), default=0) <= found.rows
        assert all(len({row[name] for name in found.unit}) == 1 for row in rows)
        for key in found.keys:
            assert len({tuple(row[name] for name in sorted(key)) for row in rows}) == len(rows)


DECLARATIONS = {"p.a": _declaration("p.a", 3, ("u", "k")), "r.c": _declaration("r.c", 1, ("v",), public=True)}
A = Table(alias="a", dataset="p.a")


@pytest.mark.parametrize(
    ("relation", "code"),
    [
        (Join(left=A, right=Table(alias="a", dataset="p.a"), on=_equal("a", "a", "u")), "sql"),
        (Join(left=A, right=Table(alias="b", dataset="p.a"), on=_equal("a", "b", "k")), "join-unit"),
        (Join(left=A, right=Table(alias="b", dataset="p.a"), on=()), "join-key"),
        (Join(left=A, right=Table(alias="c", dataset="r.c"), on=_equal("a", "c", "k")), "join-key"),
        (Join(left=Table(alias="c", dataset="r.c"), right=A, on=_equal("c", "a", "u")), "join-key"),
        (PerUnit(alias="s", source=A, by=Ref(table="a", column="k"), unit="u"), "unit-missing"),
        (Table(alias="x", dataset="p.x"), "unknown-dataset"),
    ],
)
def test_relation_that_would_have_no_bound_is_refused(relation: Relation, code: str) -> None:
    with pytest.raises(Malformed) as refused:
        shape(relation, DECLARATIONS)
    assert refused.value.code == code


def test_sum_per_unit_that_could_overflow_is_refused() -> None:
    big = Call(function="multiply", arguments=(Constant(value=2**53 - 1, type="integer"), Constant(value=500, type="integer")))
    columns = (UnitColumn(name="s", function="SUM", argument=big),)
    with pytest.raises(Malformed) as refused:
        shape(PerUnit(alias="s", source=A, by=Ref(table="a", column="u"), unit="u", columns=columns), DECLARATIONS)
    assert refused.value.code == "bounds-too-wide"


def test_one_plan_under_other_declarations_is_judged_anew() -> None:
    declared = {"firm.a": _declaration("firm.a", 2, ("u", "k")), "firm.b": _declaration("firm.b", 3, ("u", "k"))}
    plan = parse_plan("SELECT COUNT(*) AS n FROM firm.a JOIN firm.b USING (u, k)", declared)
    assert require_sound(plan, declared).rows == 2
    assert require_sound(plan, dict(declared)) is require_sound(plan, declared)
    assert require_sound(plan, declared | {"firm.a": _declaration("firm.a", 5, ("u", "k"))}).rows == 3
    assert require_sound(plan, {"firm.a": declared["firm.b"], "firm.b": declared["firm.a"]}).rows == 2
    with pytest.raises(Malformed):
        require_sound(plan, {"firm.a": declared["firm.a"]})
    with pytest.raises(Malformed):
        require_sound(plan, {name: _declaration(name, 2, ("u", "k"), public=True) for name in declared})

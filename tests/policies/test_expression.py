"""No value of an expression leaves what is known of it, and no step on the way passes 64 bits."""

from __future__ import annotations

from datetime import date, timedelta
from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from policies.errors import Malformed
from policies.expression import MAX_VALUE, Call, Constant, Expression, Ref, Typed, truncated_day, typed, year_of

COLUMNS = {
    "a": Typed(type="integer", lower=-7, upper=12, nullable=True),
    "b": Typed(type="integer", lower=0, upper=5),
    "c": Typed(type="decimal", decimals=2, lower=-350, upper=125),
    "d": Typed(type="integer", lower=1, upper=3, domain=(1, 2, 3)),
    "e": Typed(type="decimal", decimals=1, lower=2, upper=9, nullable=True),
}
SCOPE = {("t", name): kind for name, kind in COLUMNS.items()}


def _away(value: Fraction) -> int:
    return floor(abs(value) + Fraction(1, 2)) * (1 if value >= 0 else -1)


def _truncated(value: Fraction) -> int:
    return floor(value) if value >= 0 else ceil(value)


def evaluate(expression: Expression, row: dict[str, Fraction | None]) -> Fraction | None:
    """The exact value, NULL as None; truth is 1 or 0. An independent reading of the functions' definitions."""
    if isinstance(expression, Ref):
        return row[expression.column]
    if isinstance(expression, Constant):
        assert isinstance(expression.value, int)
        return Fraction(expression.value, 10**expression.decimals)
    function = expression.function
    values = [evaluate(argument, row) for argument in expression.arguments]
    if function == "case":
        for condition, value in zip(values[:-1:2], values[1:-1:2], strict=True):
            if condition:
                return value
        return values[-1]
    if function == "coalesce":
        return next((v for v in values if v is not None), None)
    if function in ("least", "greatest"):
        present = [v for v in values if v is not None]
        return (min if function == "least" else max)(present) if present else None
    if function == "is_null":
        return Fraction(values[0] is None)
    if None in values:
        return None
    x, y = values[0], values[-1]
    assert x is not None
    assert y is not None
    if function == "add":
        return sum((v for v in values if v is not None), Fraction(0))
    if function == "multiply":
        product = Fraction(1)
        for v in values:
            product *= v or 0
        return product
    if function == "divide":
        if not y:
            return None
        kept = 10 ** min(typed(expression.arguments[0], SCOPE).decimals + 6, 12)
        return Fraction(_truncated(x / y * kept), kept)
    if function == "modulo":
        return x - y * _truncated(x / y) if y else None
    simple = {
        "subtract": lambda: x - y, "negate": lambda: -x, "abs": lambda: abs(x), "sign": lambda: Fraction((x > 0) - (x < 0)),
        "floor": lambda: Fraction(floor(x)), "ceil": lambda: Fraction(ceil(x)), "to_integer": lambda: Fraction(_away(x)),
        "round": lambda: Fraction(_away(x)), "nullif": lambda: None if x == y else x,
        "<": lambda: Fraction(x < y), "=": lambda: Fraction(x == y),
    }  # fmt: skip
    return simple[function]()


def _call(function: str, *arguments: Expression) -> Call:
    return Call(function=function, arguments=arguments)  # type: ignore[arg-type]


def _expressions(depth: int) -> st.SearchStrategy[Expression]:
    leaf = st.sampled_from([Ref(table="t", column=name) for name in COLUMNS]) | st.integers(-30, 30).map(
        lambda v: Constant(value=v, type="integer")
    )
    if depth == 0:
        return leaf
    inner = _expressions(depth - 1)
    condition = st.tuples(st.sampled_from(("<", "=")), inner, inner).map(lambda t: _call(*t)) | inner.map(lambda v: _call("is_null", v))
    return st.one_of(
        leaf,
        st.tuples(st.sampled_from(("negate", "abs", "sign", "floor", "ceil", "round", "to_integer")), inner).map(lambda t: _call(*t)),
        st.tuples(
            st.sampled_from(("add", "subtract", "multiply", "divide", "modulo", "least", "greatest", "coalesce", "nullif")), inner, inner
        ).map(lambda t: _call(*t)),
        st.tuples(condition, inner, inner).map(lambda t: _call("case", *t)),
    )


def _row(draw: st.DataObject) -> dict[str, Fraction | None]:
    row: dict[str, Fraction | None] = {}
    for name, kind in COLUMNS.items():
        assert kind.lower is not None
        assert kind.upper is not None
        value = draw.draw(st.integers(kind.lower, kind.upper) | st.sampled_from((kind.lower, kind.upper)))
        row[name] = None if kind.nullable and draw.draw(st.booleans()) else Fraction(value, 10**kind.decimals)
    return row


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(_expressions(3), st.data())
def test_value_stays_within_its_bounds_domain_and_nullability(expression: Expression, data: st.DataObject) -> None:
    try:
        known = typed(expression, SCOPE)
    except Malformed:
        assume(False)
    for _ in range(4):
        value = evaluate(expression, _row(data))
        if value is None:
            assert known.nullable
            continue
        units = value * 10**known.decimals
        assert units.denominator == 1
        assert known.lower is not None
        assert known.upper is not None
        assert known.lower <= units <= known.upper
        assert known.domain is None or units in known.domain


@given(st.integers(-719_162, 2_932_896), st.sampled_from(("year", "quarter", "month", "week", "day")))
def test_days_fall_into_the_calendar_s_periods(day: int, unit: str) -> None:
    found = date(1970, 1, 1) + timedelta(days=day)
    first = date(1970, 1, 1) + timedelta(days=truncated_day(unit, day))
    assert year_of(day) == found.year
    assert first <= found
    assert {
        "year": (first.year, first.month, first.day) == (found.year, 1, 1),
        "quarter": (first.year, first.day) == (found.year, 1) and (first.month - 1) // 3 == (found.month - 1) // 3 and first.month % 3 == 1,
        "month": (first.year, first.month, first.day) == (found.year, found.month, 1),
        "week": first.weekday() == 0 and (found - first).days < 7,
        "day": first == found,
    }[unit]


@given(st.integers(0, 4000), st.integers(0, 300), st.sampled_from(("year", "quarter", "month", "week", "day")))
def test_domain_of_a_truncated_day_is_exact(low: int, span: int, unit: str) -> None:
    column = Typed(type="date", lower=low, upper=low + span)
    found = typed(_call("truncate_date", Constant(value=unit, type="text"), Ref(table="t", column="x")), {("t", "x"): column})
    assert found.domain == tuple(sorted({truncated_day(unit, day) for day in range(low, low + span + 1)}))


WIDE = Ref(table="t", column="wide")
FREE = Ref(table="t", column="free")
EDGES = {("t", "wide"): Typed(type="integer", lower=-(2**53), upper=2**53), ("t", "free"): Typed(type="integer")}
FINE = Constant(value=1, type="decimal", decimals=12)


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        (_call("multiply", WIDE, WIDE), "bounds-too-wide"),
        (_call("multiply", WIDE, WIDE, Constant(value=0, type="integer")), "bounds-too-wide"),
        (_call("add", WIDE, FINE), "bounds-too-wide"),
        (_call("=", WIDE, FINE), "bounds-too-wide"),
        (_call("case", _call("is_null", WIDE), WIDE, FINE), "bounds-too-wide"),
        (_call("=", FREE, FINE), "bounds-missing"),
        (_call("add", FREE, FREE), "bounds-missing"),
        (_call("divide", WIDE, Constant(value=0, type="integer")), "sql"),
        (_call("add", *[WIDE] * 501), "sql"),
        (Constant(value=2, type="boolean"), "sql"),
        (Constant(value=2**40, type="date"), "sql"),
        (Constant(value="1", type="integer"), "sql"),
        (_call("like", Constant(value="a", type="text"), FREE), "sql"),
        (_call("and", WIDE), "sql"),
    ],
)
def test_expression_whose_steps_could_overflow_or_that_has_no_type_is_refused(expression: Expression, code: str) -> None:
    with pytest.raises(Malformed) as refused:
        typed(expression, EDGES)
    assert refused.value.code == code


def test_no_known_bound_passes_the_limit() -> None:
    widest = Ref(table="t", column="x")
    scope = {("t", "x"): Typed(type="integer", lower=-MAX_VALUE, upper=MAX_VALUE)}
    assert typed(widest, scope).upper == MAX_VALUE
    with pytest.raises(Malformed, match="too large"):
        typed(_call("add", widest, Constant(value=1, type="integer")), scope)


def test_nesting_is_bounded() -> None:
    nested: Expression = Ref(table="t", column="a")
    for _ in range(20):
        nested = _call("negate", nested)
    with pytest.raises(Malformed, match="nests deeper"):
        typed(nested, SCOPE)

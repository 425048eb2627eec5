"""From typed expressions to SQL that no row can make fail.

Numbers are BIGINT in fixed point and dates BIGINT days, so all arithmetic is exact. Bounds of every value are known before (`typed`): where
an intermediate could pass 2^62 it is HUGEINT. Division is by NULLIF(x, 0), casts are TRY_CAST, and every function has a value for every
argument that its bounds allow. Text constants are parameters; integers stand in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from policies.expression import (
    MAX_TEXT,
    MAX_VALUE,
    Call,
    Constant,
    Expression,
    Ref,
    Typed,
    at_decimals,
    common,
    constant_integer,
    typed,
)

EPOCH = "DATE '1970-01-01'"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fragment:
    """A piece of SQL with its positional parameters."""

    sql: str
    parameters: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """The columns that an expression may read.

    Attributes:
        scope: what is known of each.
        sql: how each is written where an expression reads it: clamped into its bounds.
    """

    scope: Mapping[tuple[str, str], Typed]
    sql: Mapping[tuple[str, str], Fragment]


def joined(template: str, *parts: Fragment) -> Fragment:
    """`template` with each `{}` filled in turn, and the parameters in that order."""
    return Fragment(sql=template.format(*(part.sql for part in parts)), parameters=tuple(p for part in parts for p in part.parameters))


def listed(separator: str, parts: list[Fragment]) -> Fragment:
    """Fragments one after another."""
    return Fragment(sql=separator.join(part.sql for part in parts), parameters=tuple(p for part in parts for p in part.parameters))


def expression_sql(expression: Expression, columns: Columns) -> Fragment:
    """Return an expression that `typed` accepts as SQL: BOOLEAN, VARCHAR, or an integer in its fixed-point unit or in days."""
    if isinstance(expression, Ref):
        return columns.sql[expression.table, expression.column]
    if isinstance(expression, Constant):
        return constant_sql(expression)
    kinds = [typed(argument, columns.scope) for argument in expression.arguments]
    parts = [expression_sql(argument, columns) for argument in expression.arguments]
    found = _WRITERS[expression.function](expression, kinds, parts)
    return joined("({})", found)


def clamped(source: str, kind: Typed) -> str:
    """SQL of a raw column as an expression reads it: within the bounds, and not NULL where it is not nullable."""
    value = source
    if kind.lower is not None and kind.upper is not None and kind.type != "text":
        value = f"CASE WHEN {source} > {kind.upper} THEN {kind.upper} WHEN {source} < {kind.lower} THEN {kind.lower} ELSE {source} END"
    if kind.nullable:
        return f"({value})"
    return f"coalesce({value}, {empty(kind)})"


def empty(kind: Typed) -> str:
    """What a NULL is read as where there may be none."""
    if kind.type == "text":
        return "''"
    return str(kind.lower if kind.lower is not None else 0)


def constant_sql(constant: Constant) -> Fragment:
    """A constant of its type."""
    if constant.type == "text":
        return Fragment(sql="CAST(? AS VARCHAR)", parameters=(constant.value,))
    if constant.type == "boolean":
        return Fragment(sql="NULL::BOOLEAN" if constant.value is None else "true" if constant.value else "false")
    return Fragment(sql="NULL::BIGINT" if constant.value is None else f"({int(constant.value)})::BIGINT")


def _wide(kind: Typed, factor: int = 1) -> bool:
    """Whether a value times `factor` may leave 64 bits."""
    return kind.lower is None or kind.upper is None or max(abs(kind.lower), abs(kind.upper)) * factor > MAX_VALUE


def _scaled(part: Fragment, kind: Typed, decimals: int) -> Fragment:
    """The same number in units of 10^-decimals, at least as fine."""
    factor = 10 ** (decimals - kind.decimals)
    if factor == 1:
        return part
    return joined(f"({{}}{'::HUGEINT' if _wide(kind, factor) else ''} * {factor})", part)


def _narrow(part: Fragment, found: Typed) -> Fragment:
    """A value whose bounds fit 64 bits as such."""
    return part if _wide(found) else joined("({})::BIGINT", part)


def _aligned(call: Call, kinds: list[Typed], parts: list[Fragment]) -> list[Fragment]:
    """Arguments of one type in one fixed-point unit; a NULL constant of any type stays NULL."""
    numeric = [kind for kind in kinds if kind.numeric]
    if not numeric:
        return parts
    decimals = max(kind.decimals for kind in numeric)
    return [_scaled(part, kind, decimals) if kind.numeric else part for kind, part in zip(kinds, parts, strict=True)]


def _boolean(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    if call.function == "not":
        return joined("NOT {}", parts[0])
    return listed(f" {call.function.upper()} ", parts)


def _comparison(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    sides = _aligned(call, kinds, parts)
    if call.function == "in":
        return joined("{} IN ({})", sides[0], listed(", ", sides[1:]))
    return listed(f" {call.function} ", sides)


def _is_null(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    return joined("{} IS NULL", parts[0])


MAX_WILDCARDS = 2
"""More `%` than these may take a backtracking matcher time that grows with a power of the text's length."""


def _like(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    pattern = call.arguments[1]
    assert isinstance(pattern, Constant)
    if pattern.value is None or str(pattern.value).count("%") <= MAX_WILDCARDS:
        return joined("{} LIKE {}", *parts)
    written = "".join(".*" if c == "%" else "." if c == "_" else re.escape(c) for c in re.sub("%+", "%", str(pattern.value)))
    return joined("regexp_full_match({}, {}, 's')", parts[0], Fragment(sql="?", parameters=(written,)))


def _sum(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    sign = " - " if call.function == "subtract" else " + "
    if kinds[0].type == "date":
        return listed(sign, parts)
    decimals = max(kind.decimals for kind in kinds)
    fine = [at_decimals(kind, decimals) for kind in kinds]
    # Every partial sum stays below the sum of the largest absolute values.
    reach = sum(max(abs(kind.lower or 0), abs(kind.upper or 0)) for kind in fine)
    terms = [_scaled(part, kind, decimals) for part, kind in zip(parts, kinds, strict=True)]
    if reach <= MAX_VALUE:
        return listed(sign, terms)
    return joined("({})::BIGINT", listed(sign, [joined("{}::HUGEINT", term) for term in terms]))


def _product(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    # `typed` holds every partial product from the left within 64 bits.
    return listed(" * ", parts)


def _quotient(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    dividend, divisor = kinds
    found = typed_call(call, kinds)
    shift = 10 ** (found.decimals - dividend.decimals + divisor.decimals)
    above = joined(f"({{}}{'::HUGEINT' if _wide(dividend, shift) else ''} * {shift})", parts[0])
    return _narrow(joined("{} // nullif({}, 0)", above, parts[1]), found)


def typed_call(call: Call, kinds: list[Typed]) -> Typed:
    """What is known of a call whose arguments are known."""
    names = {("", str(index)): kind for index, kind in enumerate(kinds)}
    arguments = tuple(
        argument if isinstance(argument, Constant) else Ref(table="", column=str(index)) for index, argument in enumerate(call.arguments)
    )
    return typed(replace(call, arguments=arguments), names)


def _remainder(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    return joined("{} % nullif({}, 0)", *parts)


def _unary(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    return joined({"negate": "0 - {}", "abs": "abs({})", "sign": "sign({})::BIGINT"}[call.function], parts[0])


def _rounding(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    decimals = constant_integer(call, 1, 0, 12) if len(call.arguments) == 2 else 0
    kind, value = kinds[0], parts[0]
    if decimals >= kind.decimals:
        return value
    places = kind.decimals - decimals
    return _rounded(value, kind, places, call.function)


def _rounded(value: Fragment, kind: Typed, places: int, function: str) -> Fragment:
    """Drop `places` fractional digits of a bounded value, which is named once: nested calls do not multiply the text."""
    lower, upper = kind.bounds("rounding")
    factor = 10**places
    if function == "round":
        huge = "::HUGEINT" if max(abs(lower), abs(upper)) + factor > MAX_VALUE else ""
        return joined(f"(round({{}}{huge}, -{places}) // {factor})::BIGINT", value)
    # A multiple of the factor makes the dividend positive, where rounding towards zero is rounding down.
    shift = max(0, -(lower // factor))
    up = factor - 1 if function == "ceil" else 0
    huge = "::HUGEINT" if max(abs(lower), abs(upper)) + shift * factor + up > MAX_VALUE else ""
    return joined(f"(({{}}{huge} + {shift * factor + up}) // {factor} - {shift})::BIGINT", value)


def _choice(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    return joined(call.function + "({})", listed(", ", _aligned(call, kinds, parts)))


def _case(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    conditions, values = parts[:-1:2], _case_values(call, kinds, parts)
    arms = [joined("WHEN {} THEN {}", c, v) for c, v in zip(conditions, values[:-1], strict=True)]
    return joined("CASE {} ELSE {} END", listed(" ", arms), values[-1])


def _case_values(call: Call, kinds: list[Typed], parts: list[Fragment]) -> list[Fragment]:
    """The values of a CASE in one unit. NULL constants have no unit."""
    arguments = [*call.arguments[1:-1:2], call.arguments[-1]]
    chosen = [*zip(arguments, [*kinds[1:-1:2], kinds[-1]], [*parts[1:-1:2], parts[-1]], strict=True)]
    real = [kind for argument, kind, _ in chosen if not _is_nothing(argument)]
    decimals = common(call, real)[0].decimals
    return [
        Fragment(sql="NULL") if _is_nothing(argument) else _scaled(part, kind, decimals) if kind.numeric else part
        for argument, kind, part in chosen
    ]


def _is_nothing(argument: Expression) -> bool:
    return isinstance(argument, Constant) and argument.value is None


def _text(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    return joined(call.function + "({})", listed(", ", parts))


def _length(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    # LEAST would take the limit for the length of NULL.
    return joined(f"length(substring({{}}, 1, {MAX_TEXT}))", parts[0])


def _day(days: Fragment) -> Fragment:
    """Bounded days as a DATE."""
    return joined(f"({EPOCH} + ({{}})::INTEGER)", days)


def days_of(date: Fragment) -> Fragment:
    """A DATE as days since 1970-01-01; NULL for an infinite one."""
    return joined(f"date_diff('day', {EPOCH}, ({{}})::DATE)", date)


_PARTS = {"year": "year", "quarter": "quarter", "month": "month", "day": "day", "day_of_week": "dayofweek"}


def _date_part(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    return joined(_PARTS[call.function] + "({})::BIGINT", _day(parts[0]))


def _truncate_date(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    part = call.arguments[0]
    assert isinstance(part, Constant)
    return days_of(joined(f"date_trunc('{part.value}', {{}})", _day(parts[1])))


def _to_integer(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    if kinds[0].numeric:
        return _rounding(replace(call, function="round"), kinds, parts)
    return joined("TRY_CAST({} AS BIGINT)", parts[0])


def _to_decimal(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    decimals = constant_integer(call, 1, 0, 12)
    if decimals >= kinds[0].decimals:
        return _scaled(parts[0], kinds[0], decimals)
    return _rounding(replace(call, function="round"), kinds, parts)


def _to_date(call: Call, kinds: list[Typed], parts: list[Fragment]) -> Fragment:
    return parts[0] if kinds[0].type == "date" else days_of(joined("TRY_CAST({} AS DATE)", parts[0]))


_WRITERS: dict[str, Callable[[Call, list[Typed], list[Fragment]], Fragment]] = {
    **dict.fromkeys(("and", "or", "not"), _boolean),
    **dict.fromkeys(("=", "<>", "<", "<=", ">", ">=", "in"), _comparison),
    **dict.fromkeys(("add", "subtract"), _sum),
    **dict.fromkeys(("negate", "abs", "sign"), _unary),
    **dict.fromkeys(("floor", "ceil", "round"), _rounding),
    **dict.fromkeys(("least", "greatest", "coalesce", "nullif"), _choice),
    **dict.fromkeys(("lower", "upper", "trim", "substring"), _text),
    **dict.fromkeys(_PARTS, _date_part),
    "is_null": _is_null,
    "like": _like,
    "multiply": _product,
    "divide": _quotient,
    "modulo": _remainder,
    "case": _case,
    "length": _length,
    "truncate_date": _truncate_date,
    "to_integer": _to_integer,
    "to_decimal": _to_decimal,
    "to_date": _to_date,
}

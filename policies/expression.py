"""Expressions over columns as typed trees, and what is known of their values before any data are seen.

Numbers are integers in fixed point: a value of type `decimal` with d decimals counts 10^-d. Dates are days since 1970-01-01. Every node
that does arithmetic has bounds, found by interval arithmetic from the declared bounds of its columns, so that no value inside an enclave
can overflow and every sum has a sensitivity. Arithmetic never fails: a division by zero and a value that cannot be read are NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from functools import cache

from policies.arithmetic import (
    typed_choice,
    typed_product,
    typed_quotient,
    typed_remainder,
    typed_rounding,
    typed_sum,
    typed_to_decimal,
    typed_to_integer,
    typed_unary,
)
from policies.errors import Malformed
from policies.typed_values import (
    COMPARISONS,
    DIVISION_DECIMALS,
    FIRST_DAY,
    LAST_DAY,
    MAX_ARGUMENTS,
    MAX_DEPTH,
    MAX_DERIVED_DOMAIN,
    MAX_EXPRESSION_DECIMALS,
    MAX_VALUE,
    Call,
    Constant,
    Expression,
    Function,
    Ref,
    Scope,
    Typed,
    ValueType,
    any_nullable,
    at_decimals,
    common,
    constant_integer,
    listed,
    range_of,
    refused,
    require_count,
    typed_constant,
    union,
)

__all__ = [
    "DIVISION_DECIMALS",
    "FIRST_DAY",
    "LAST_DAY",
    "MAX_ARGUMENTS",
    "MAX_DEPTH",
    "MAX_DERIVED_DOMAIN",
    "MAX_EXPRESSION_DECIMALS",
    "MAX_TEXT",
    "MAX_VALUE",
    "Call",
    "Constant",
    "Expression",
    "Function",
    "Ref",
    "Scope",
    "Typed",
    "ValueType",
    "at_decimals",
    "common",
    "constant_integer",
    "refs",
    "truncated_day",
    "typed",
    "year_of",
]


MAX_TEXT = 10_000
"""Longest text whose length is told apart, characters."""

_DATE_PARTS = {"quarter": (1, 4), "month": (1, 12), "day": (1, 31), "day_of_week": (0, 6)}


def typed(expression: Expression, scope: Scope, depth: int = 0) -> Typed:
    """Return what is known of an expression over the columns of `scope`.

    Raises:
        Malformed: an unknown column, a wrong type or number of arguments, nesting beyond `MAX_DEPTH`, arithmetic on a column without
            bounds (`bounds-missing`), or a value that could pass `MAX_VALUE` (`bounds-too-wide`).
    """
    if depth > MAX_DEPTH:
        raise Malformed(f"an expression nests deeper than {MAX_DEPTH} levels", code="sql")
    if isinstance(expression, Ref):
        known = scope.get((expression.table, expression.column))
        if known is None:
            raise Malformed(f"there is no column `{expression}` here", code="unknown-column")
        return known
    if isinstance(expression, Constant):
        return typed_constant(expression)
    if not 1 <= len(expression.arguments) <= MAX_ARGUMENTS:
        raise Malformed(f"`{expression.function}` takes 1 to {MAX_ARGUMENTS} arguments", code="sql")
    arguments = [typed(argument, scope, depth + 1) for argument in expression.arguments]
    found = _RULES[expression.function](expression, arguments)
    if found.lower is not None and found.upper is not None and max(abs(found.lower), abs(found.upper)) > MAX_VALUE:
        raise Malformed(f"values of `{expression.function}` could be too large for exact arithmetic", code="bounds-too-wide")
    return found


def refs(expression: Expression | None) -> Iterator[Ref]:
    """Yield every column that an expression reads, from left to right, with repeats."""
    if isinstance(expression, Ref):
        yield expression
    elif isinstance(expression, Call):
        for argument in expression.arguments:
            yield from refs(argument)


def _boolean(call: Call, arguments: list[Typed]) -> Typed:
    if any(argument.type != "boolean" for argument in arguments):
        raise refused(call, "takes conditions")
    if call.function == "not":
        require_count(call, 1)
    return _truth(arguments)


def _truth(arguments: list[Typed]) -> Typed:
    return Typed(type="boolean", lower=0, upper=1, nullable=any_nullable(arguments), domain=(0, 1))


def _comparison(call: Call, arguments: list[Typed]) -> Typed:
    if call.function == "in":
        require_count(call, 2, MAX_ARGUMENTS)
        if not all(isinstance(argument, Constant) for argument in call.arguments[1:]):
            raise refused(call, "takes a value and constants")
    else:
        require_count(call, 2)
    return _truth(common(call, arguments))


def _is_null(call: Call, arguments: list[Typed]) -> Typed:
    require_count(call, 1)
    return Typed(type="boolean", lower=0, upper=1, domain=(0, 1))


def _like(call: Call, arguments: list[Typed]) -> Typed:
    require_count(call, 2)
    if any(argument.type != "text" for argument in arguments) or not isinstance(call.arguments[1], Constant):
        raise refused(call, "takes a text and a constant pattern")
    return _truth(arguments[:1])


def _coalesce(call: Call, arguments: list[Typed]) -> Typed:
    require_count(call, 2, MAX_ARGUMENTS)
    found = union(common(call, arguments))
    return replace(found, nullable=all(argument.nullable for argument in arguments))


def _nullif(call: Call, arguments: list[Typed]) -> Typed:
    require_count(call, 2)
    return replace(common(call, arguments)[0], nullable=True)


def _case(call: Call, arguments: list[Typed]) -> Typed:
    if len(arguments) < 3 or len(arguments) % 2 == 0:
        raise refused(call, "takes conditions with values and a last value")
    if any(argument.type != "boolean" for argument in arguments[:-1:2]):
        raise refused(call, "takes conditions after WHEN")
    values = [*arguments[1:-1:2], arguments[-1]]
    expressions = [*call.arguments[1:-1:2], call.arguments[-1]]
    chosen = [v for v, e in zip(values, expressions, strict=True) if not (isinstance(e, Constant) and e.value is None)]
    if not chosen:
        raise refused(call, "never has a value")
    found = union(common(call, chosen))
    return replace(found, nullable=any_nullable(values))


def _text(call: Call, arguments: list[Typed]) -> Typed:
    require_count(call, 3 if call.function == "substring" else 1)
    if arguments[0].type != "text":
        raise refused(call, "takes text")
    if call.function == "substring":
        constant_integer(call, 1, 1, 10_000)
        constant_integer(call, 2, 0, 10_000)
    return Typed(type="text", nullable=arguments[0].nullable)


def _length(call: Call, arguments: list[Typed]) -> Typed:
    require_count(call, 1)
    if arguments[0].type != "text":
        raise refused(call, "takes text")
    return Typed(type="integer", lower=0, upper=MAX_TEXT, nullable=arguments[0].nullable)


def _date_part(call: Call, arguments: list[Typed]) -> Typed:
    require_count(call, 1)
    if arguments[0].type != "date":
        raise refused(call, "takes a date")
    low, high = range_of(call, arguments[0])
    if call.function == "year":
        return listed(Typed(type="integer", lower=year_of(low), upper=year_of(high), nullable=arguments[0].nullable))
    low, high = _DATE_PARTS[call.function]
    return listed(Typed(type="integer", lower=low, upper=high, nullable=arguments[0].nullable))


def year_of(days: int) -> int:
    """Year of a day counted from 1970-01-01 in the proleptic Gregorian calendar (H. Hinnant, "Low-level date algorithms")."""
    shifted = days + 719_468
    era, of_era = divmod(shifted, 146_097)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    day = of_era - (365 * year + year // 4 - year // 100)
    return era * 400 + year + (1 if (5 * day + 2) // 153 >= 10 else 0)


def _truncate_date(call: Call, arguments: list[Typed]) -> Typed:
    require_count(call, 2)
    part = call.arguments[0]
    if not isinstance(part, Constant) or part.value not in ("year", "quarter", "month", "week", "day"):
        raise refused(call, "takes 'year', 'quarter', 'month', 'week' or 'day'")
    if arguments[1].type != "date":
        raise refused(call, "takes a date")
    low, high = (truncated_day(str(part.value), end) for end in range_of(call, arguments[1]))
    return replace(arguments[1], lower=low, upper=high, domain=_truncated_days(str(part.value), low, high))


def truncated_day(unit: str, day: int) -> int:
    """The first day of the year, quarter, month or week (from Monday) that holds a day, all counted from 1970-01-01."""
    if unit == "week":
        return day - (day + 3) % 7
    if unit == "day":
        return day
    found = _EPOCH + timedelta(days=day)
    month = {"year": 1, "quarter": 3 * ((found.month - 1) // 3) + 1, "month": found.month}[unit]
    return (date(found.year, month, 1) - _EPOCH).days


@cache
def _truncated_days(unit: str, low: int, high: int) -> tuple[int | str, ...] | None:
    """All values between two truncated days, where they are few."""
    found, longest = [low], {"year": 366, "quarter": 92, "month": 31, "week": 7, "day": 1}[unit]
    while found[-1] < high:
        if len(found) == MAX_DERIVED_DOMAIN:
            return None
        found.append(truncated_day(unit, found[-1] + longest))
    return tuple(found)


_EPOCH = date(1970, 1, 1)


def _to_date(call: Call, arguments: list[Typed]) -> Typed:
    require_count(call, 1)
    if arguments[0].type == "date":
        return arguments[0]
    if arguments[0].type != "text":
        raise refused(call, "takes a date or text")
    return Typed(type="date", nullable=True)


_RULES: dict[str, Callable[[Call, list[Typed]], Typed]] = {
    **dict.fromkeys(("and", "or", "not"), _boolean),
    **dict.fromkeys((*COMPARISONS, "in"), _comparison),
    **dict.fromkeys(("add", "subtract"), typed_sum),
    **dict.fromkeys(("negate", "abs", "sign"), typed_unary),
    **dict.fromkeys(("floor", "ceil", "round"), typed_rounding),
    **dict.fromkeys(("least", "greatest"), typed_choice),
    **dict.fromkeys(("lower", "upper", "trim", "substring"), _text),
    **dict.fromkeys(("year", "quarter", "month", "day", "day_of_week"), _date_part),
    "is_null": _is_null,
    "like": _like,
    "multiply": typed_product,
    "divide": typed_quotient,
    "modulo": typed_remainder,
    "coalesce": _coalesce,
    "nullif": _nullif,
    "case": _case,
    "length": _length,
    "truncate_date": _truncate_date,
    "to_integer": typed_to_integer,
    "to_decimal": typed_to_decimal,
    "to_date": _to_date,
}

"""What is known of the results of arithmetic: interval arithmetic, and finite domains where the arguments have few values."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace

from policies.typed_values import (
    DIVISION_DECIMALS,
    MAX_ARGUMENTS,
    MAX_EXPRESSION_DECIMALS,
    MAX_VALUE,
    Call,
    Function,
    Typed,
    any_nullable,
    at_decimals,
    common,
    constant_integer,
    extreme,
    image,
    listed,
    numeric,
    range_of,
    refused,
    require_count,
    union,
)


def typed_sum(call: Call, arguments: list[Typed]) -> Typed:
    """`add`, and `subtract` of numbers or of days. Raises Malformed, as all rules do."""
    if call.function == "subtract":
        require_count(call, 2)
        if [a.type for a in arguments] == ["date", "date"]:
            (a, b), (c, d) = (range_of(call, argument) for argument in arguments)
            return Typed(type="integer", lower=a - d, upper=b - c, nullable=any_nullable(arguments))
    values = common(call, numeric(call, arguments))
    ranges = [range_of(call, value) for value in values]
    if call.function == "subtract":
        ranges[1] = (-ranges[1][1], -ranges[1][0])
    if sum(max(abs(low), abs(high)) for low, high in ranges) > MAX_VALUE:
        # No partial sum may be too large, whatever the whole is.
        raise refused(call, "could pass values too large for exact arithmetic", code="bounds-too-wide")
    lower, upper = sum(low for low, _ in ranges), sum(high for _, high in ranges)
    domain = image(values, operator.sub if call.function == "subtract" else operator.add)
    return replace(values[0], lower=lower, upper=upper, nullable=any_nullable(arguments), domain=domain)


def typed_product(call: Call, arguments: list[Typed]) -> Typed:
    """`multiply`."""
    values = numeric(call, arguments)
    decimals = sum(value.decimals for value in values)
    if decimals > MAX_EXPRESSION_DECIMALS:
        raise refused(call, f"would need {decimals} decimals; {MAX_EXPRESSION_DECIMALS} are kept")
    lower, upper = range_of(call, values[0])
    for value in values[1:]:
        corners = [x * y for x in (lower, upper) for y in range_of(call, value)]
        lower, upper = min(corners), max(corners)
        # A later factor may be 0: no partial product may be too large, whatever the whole is.
        if max(abs(lower), abs(upper)) > MAX_VALUE:
            raise refused(call, "could pass values too large for exact arithmetic", code="bounds-too-wide")
    return Typed(
        type="decimal" if decimals else "integer",
        decimals=decimals,
        lower=lower,
        upper=upper,
        nullable=any_nullable(arguments),
        domain=image(values, operator.mul),
    )


def typed_quotient(call: Call, arguments: list[Typed]) -> Typed:
    """A quotient with `DIVISION_DECIMALS` more decimals, rounded towards zero; NULL where the divisor is 0."""
    require_count(call, 2)
    dividend, divisor = numeric(call, arguments)
    decimals = min(dividend.decimals + DIVISION_DECIMALS, MAX_EXPRESSION_DECIMALS)
    low, high = range_of(call, divisor)
    ends = {end for end in (low, high, -1 if low < 0 < high or high == 0 else 0, 1 if low < 0 < high or low == 0 else 0) if end}
    if low == high == 0:
        raise refused(call, "always divides by zero")
    shift = 10 ** (decimals - dividend.decimals + divisor.decimals)
    corners = [truncated(x * shift, end) for x in range_of(call, dividend) for end in ends]
    nullable = any_nullable(arguments) or low <= 0 <= high
    return Typed(type="decimal", decimals=decimals, lower=min(corners), upper=max(corners), nullable=nullable)


def truncated(dividend: int, divisor: int) -> int:
    """Quotient rounded towards zero."""
    quotient = abs(dividend) // abs(divisor)
    return quotient if (dividend < 0) == (divisor < 0) else -quotient


def typed_remainder(call: Call, arguments: list[Typed]) -> Typed:
    """Remainder of a division rounded towards zero, with the dividend's sign; NULL where the divisor is 0."""
    require_count(call, 2)
    dividend, divisor = numeric(call, arguments)
    if dividend.decimals or divisor.decimals:
        raise refused(call, "takes integers")
    (low, high), ends = range_of(call, dividend), range_of(call, divisor)
    most = max(abs(ends[0]), abs(ends[1])) - 1
    if most < 0:
        raise refused(call, "always divides by zero")
    nullable = any_nullable(arguments) or ends[0] <= 0 <= ends[1]
    return listed(Typed(type="integer", lower=max(-most, min(low, 0)), upper=min(most, max(high, 0)), nullable=nullable))


def typed_unary(call: Call, arguments: list[Typed]) -> Typed:
    """`negate`, `abs` and `sign`."""
    require_count(call, 1)
    value = numeric(call, arguments)[0]
    low, high = range_of(call, value)
    each: Callable[[int], int]
    if call.function == "negate":
        found, each = (-high, -low), operator.neg
    elif call.function == "abs":
        found = (0 if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high)))
        each = abs
    else:
        return listed(Typed(type="integer", lower=_sign(low), upper=_sign(high), nullable=value.nullable))
    domain = None if value.domain is None else tuple(sorted({each(v) for v in value.domain if isinstance(v, int)}))
    return replace(value, lower=found[0], upper=found[1], domain=domain)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def typed_rounding(call: Call, arguments: list[Typed]) -> Typed:
    """`floor` and `ceil` to integers; `round` to a constant number of decimals, half away from zero."""
    require_count(call, 1, 2 if call.function == "round" else 1)
    value = numeric(call, arguments[:1])[0]
    decimals = 0
    if len(arguments) == 2:
        decimals = constant_integer(call, 1, 0, MAX_EXPRESSION_DECIMALS)
    if decimals >= value.decimals:
        return value
    factor = 10 ** (value.decimals - decimals)
    low, high = range_of(call, value)
    step = {"floor": _floor, "ceil": _ceiling}.get(call.function, _half_away)
    found = Typed(
        type="decimal" if decimals else "integer",
        decimals=decimals,
        lower=step(low, factor),
        upper=step(high, factor),
        nullable=value.nullable,
    )
    return found if decimals else listed(found)


def typed_choice(call: Call, arguments: list[Typed]) -> Typed:
    """`least`, `greatest`: of the arguments that are not NULL, as in DuckDB and PostgreSQL."""
    require_count(call, 2, MAX_ARGUMENTS)
    values = common(call, arguments)
    if values[0].type not in ("integer", "decimal", "date"):
        raise refused(call, "takes numbers or dates")
    lowers, uppers = [v.lower for v in values], [v.upper for v in values]
    # An argument that is never NULL bounds the result on its side, whatever the others are.
    present = [v for v in values if not v.nullable]
    if call.function == "least":
        capped = [v.upper for v in present if v.upper is not None]
        lower, upper = extreme(min, lowers), min(capped) if capped else extreme(max, uppers)
    else:
        capped = [v.lower for v in present if v.lower is not None]
        lower, upper = max(capped) if capped else extreme(min, lowers), extreme(max, uppers)
    return replace(values[0], lower=lower, upper=upper, nullable=not present, domain=union(values).domain)


def typed_to_integer(call: Call, arguments: list[Typed]) -> Typed:
    """A number rounded half away from zero, or the integer that a text spells; NULL where it spells none."""
    require_count(call, 1)
    if arguments[0].numeric:
        return typed_rounding(replace_function(call, "round"), arguments)
    if arguments[0].type == "boolean":
        return replace(arguments[0], type="integer")
    if arguments[0].type != "text":
        raise refused(call, "takes a number, a condition or text")
    return Typed(type="integer", nullable=True)


def _floor(value: int, factor: int) -> int:
    return value // factor


def _ceiling(value: int, factor: int) -> int:
    return -(-value // factor)


def _half_away(value: int, factor: int) -> int:
    """Quotient rounded to the nearest integer, halves away from zero."""
    quotient = (abs(value) + factor // 2) // factor
    return quotient if value >= 0 else -quotient


def replace_function(call: Call, function: Function) -> Call:
    """The same arguments under another function."""
    return Call(function=function, arguments=call.arguments)


def typed_to_decimal(call: Call, arguments: list[Typed]) -> Typed:
    """A number with a constant number of decimals."""
    require_count(call, 2)
    decimals = constant_integer(call, 1, 0, MAX_EXPRESSION_DECIMALS)
    value = numeric(call, arguments[:1])[0]
    if decimals >= value.decimals:
        return at_decimals(value, decimals)
    return typed_rounding(replace_function(call, "round"), arguments)

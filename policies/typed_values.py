"""Expressions over columns as trees, and what can be known of a value before any data are seen. `policies.expression` types the former.

Numbers are integers in fixed point: a value of type `decimal` with d decimals counts 10^-d. Dates are days since 1970-01-01. Every node
that does arithmetic has bounds, found by interval arithmetic from the declared bounds of its columns, so that no value inside an enclave
can overflow and every sum has a sensitivity. Arithmetic never fails: a division by zero and a value that cannot be read are NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from policies.canonical import MAX_INTEGER
from policies.errors import Malformed

ValueType = Literal["integer", "decimal", "text", "date", "boolean"]

MAX_DEPTH = 9
"""Deepest nesting of calls. A level takes two of the 32 levels of canonical JSON."""

MAX_ARGUMENTS = 500
MAX_VALUE = 2**62
"""Bound on any intermediate value, in its fixed-point units."""

MAX_EXPRESSION_DECIMALS = 12
DIVISION_DECIMALS = 6
"""Fractional digits that a division adds to those of its dividend."""

MAX_DERIVED_DOMAIN = 10_000

Function = Literal[
    "and", "or", "not", "=", "<>", "<", "<=", ">", ">=", "in", "is_null", "like",
    "add", "subtract", "multiply", "divide", "modulo", "negate", "abs", "sign", "floor", "ceil", "round", "least", "greatest",
    "coalesce", "nullif", "case", "lower", "upper", "trim", "length", "substring",
    "year", "quarter", "month", "day", "day_of_week", "truncate_date", "to_integer", "to_decimal", "to_date",
]  # fmt: skip
"""All that an expression may call. `case` takes condition, value, condition, value, ..., otherwise."""

FIRST_DAY, LAST_DAY = -719_162, 2_932_896
"""0001-01-01 and 9999-12-31, in days since 1970-01-01."""

COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ref:
    """A column of a table or of a per-unit subquery, which `table` names by its alias inside the plan."""

    kind: Literal["ref"] = "ref"
    table: str
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """A constant: text, or an integer in units of 10^-decimals, days for a date, 0 or 1 for a boolean. `value` None is NULL."""

    kind: Literal["constant"] = "constant"
    value: int | str | None
    type: ValueType
    decimals: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A function of the allow-list applied to arguments."""

    kind: Literal["call"] = "call"
    function: Function
    arguments: tuple[Expression, ...]


Expression: TypeAlias = Ref | Constant | Call


@dataclass(frozen=True, kw_only=True, slots=True)
class Typed:
    """What is known of an expression's values.

    Attributes:
        decimals: of a `decimal`; 0 for every other type.
        lower, upper: bounds in the units of the type; None where none are known (always for text).
        domain: all values that it can take besides NULL, ascending, where they are known and few.
    """

    type: ValueType
    decimals: int = 0
    lower: int | None = None
    upper: int | None = None
    nullable: bool = False
    domain: tuple[int | str, ...] | None = None

    @property
    def numeric(self) -> bool:
        """Whether arithmetic applies."""
        return self.type in ("integer", "decimal")

    def bounds(self, what: str) -> tuple[int, int]:
        """(lower, upper). Raises Malformed (code `bounds-missing`)."""
        if self.lower is None or self.upper is None:
            why = f"{what} needs declared bounds, and there are none; LEAST(GREATEST(x, 0), 100) gives bounds to a number"
            raise Malformed(why, code="bounds-missing")
        return self.lower, self.upper


Scope: TypeAlias = Mapping[tuple[str, str], Typed]
"""What is known of every column, by (table alias, column)."""


def at_decimals(value: Typed, decimals: int) -> Typed:
    """The same values counted in units of 10^-decimals, which is at least as fine."""
    factor = 10 ** (decimals - value.decimals)
    return replace(
        value,
        type="decimal" if decimals else "integer",
        decimals=decimals,
        lower=None if value.lower is None else value.lower * factor,
        upper=None if value.upper is None else value.upper * factor,
        domain=None if value.domain is None else tuple(v * factor for v in value.domain if isinstance(v, int)),
    )


def typed_constant(constant: Constant) -> Typed:
    """What is known of a constant. Raises Malformed."""
    value = constant.value
    if value is None:
        return Typed(type=constant.type, decimals=constant.decimals, lower=0, upper=0, nullable=True, domain=())
    if constant.type == "text":
        if not isinstance(value, str):
            raise Malformed("a text constant must be a string", code="sql")
        return Typed(type="text", domain=(value,))
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_INTEGER:
        raise Malformed("a constant is not of its type", code="sql")
    if constant.type == "boolean" and value not in (0, 1):
        raise Malformed("a boolean constant is 0 or 1", code="sql")
    if constant.type == "date" and not FIRST_DAY <= value <= LAST_DAY:
        raise Malformed("a day lies between 0001-01-01 and 9999-12-31", code="sql")
    if constant.decimals and constant.type != "decimal":
        raise Malformed("only a decimal constant has decimals", code="sql")
    if not 0 <= constant.decimals <= MAX_EXPRESSION_DECIMALS:
        raise Malformed(f"a constant has at most {MAX_EXPRESSION_DECIMALS} decimals", code="sql")
    return Typed(type=constant.type, decimals=constant.decimals, lower=value, upper=value, domain=(value,))


def refused(call: Call, why: str, code: str = "sql") -> Malformed:
    """A refusal of a call, to raise."""
    return Malformed(f"`{call.function}` {why}", code=code)


def require_count(call: Call, least: int, most: int | None = None) -> None:
    """Raise Malformed unless a call has as many arguments."""
    if not least <= len(call.arguments) <= (least if most is None else most):
        raise refused(call, f"does not take {len(call.arguments)} arguments")


def numeric(call: Call, arguments: list[Typed]) -> list[Typed]:
    """The arguments, all of them numbers with bounds. Raises Malformed."""
    if any(not argument.numeric for argument in arguments):
        raise refused(call, "takes numbers")
    for argument in arguments:
        argument.bounds(f"`{call.function}` of a column")
    return arguments


def range_of(call: Call, value: Typed) -> tuple[int, int]:
    """Bounds of a value. Raises Malformed."""
    return value.bounds(f"`{call.function}` of a column")


def any_nullable(arguments: list[Typed]) -> bool:
    """Whether one of the values can be NULL."""
    return any(argument.nullable for argument in arguments)


def common(call: Call, arguments: list[Typed]) -> list[Typed]:
    """Bring values that are compared or chosen between to one type and one number of decimals.

    Raises:
        Malformed: different types, or a value that must be counted in finer units and could be too large for it, or has no bounds.
    """
    if all(argument.numeric for argument in arguments):
        decimals = max(argument.decimals for argument in arguments)
        scaled = [at_decimals(argument, decimals) for argument in arguments]
        if len({argument.decimals for argument in arguments}) == 1:
            return scaled
        for argument in scaled:
            low, high = argument.bounds(f"`{call.function}` of a column with a finer number")
            if max(abs(low), abs(high)) > MAX_VALUE:
                raise refused(call, "could pass values too large for exact arithmetic", code="bounds-too-wide")
        return scaled
    if len({argument.type for argument in arguments}) != 1:
        raise refused(call, "takes values of one type, not " + " and ".join(sorted({argument.type for argument in arguments})))
    return arguments


def listed(value: Typed) -> Typed:
    """The same with its domain, where an integer has few values."""
    if value.lower is None or value.upper is None or value.decimals or value.upper - value.lower >= MAX_DERIVED_DOMAIN:
        return value
    return replace(value, domain=tuple(range(value.lower, value.upper + 1)))


def constant_integer(call: Call, index: int, least: int, most: int) -> int:
    """Return the constant integer argument at `index`. Raises Malformed if it is none between `least` and `most`."""
    argument = call.arguments[index]
    if (
        isinstance(argument, Constant)
        and argument.type == "integer"
        and isinstance(argument.value, int)
        and least <= argument.value <= most
    ):
        return argument.value
    raise refused(call, f"takes a constant between {least} and {most} as argument {index + 1}")


def extreme(pick: Callable[[list[int]], int], ends: list[int | None]) -> int | None:
    """The least or greatest of all ends, None if one is unknown."""
    known = [end for end in ends if end is not None]
    return pick(known) if len(known) == len(ends) else None


def union(values: list[Typed]) -> Typed:
    """What is known of a value that is one of several of the same type."""
    lower, upper = extreme(min, [v.lower for v in values]), extreme(max, [v.upper for v in values])
    domains = [v.domain for v in values]
    domain: tuple[int | str, ...] | None = None
    if all(d is not None for d in domains):
        listed = {value for d in domains if d is not None for value in d}
        domain = tuple(sorted(listed, key=lambda v: (isinstance(v, str), v))) if len(listed) <= MAX_DERIVED_DOMAIN else None
    return replace(values[0], lower=lower, upper=upper, nullable=any_nullable(values), domain=domain)


def image(values: list[Typed], combine: Callable[[int, int], int]) -> tuple[int | str, ...] | None:
    """All values of an operation that combines arguments from left to right, where they are known and few."""
    found: set[int] | None = None
    for value in values:
        if value.domain is None or value.type == "text":
            return None
        listed_values = [v for v in value.domain if isinstance(v, int)]
        if found is None:
            found = set(listed_values)
        elif len(found) * len(listed_values) > MAX_DERIVED_DOMAIN:
            return None
        else:
            found = {combine(a, b) for a in found for b in listed_values}
    return None if found is None else tuple(sorted(found))

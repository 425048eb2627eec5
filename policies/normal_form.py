"""Builders of expressions in normal form: two ways of writing one condition or one sum become one expression.

Conjunctions, disjunctions, sums and products are flat and sorted, comparisons have their constant on the right, negations of comparisons
are comparisons. Every rewriting keeps the value for every row, NULL included.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from policies.canonical import MAX_INTEGER
from policies.errors import Malformed
from policies.expression import MAX_EXPRESSION_DECIMALS, Call, Constant, Expression, Function, ValueType

_MIRRORED: dict[str, Function] = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_NEGATED: dict[str, Function] = {"=": "<>", "<>": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def sort_key(expression: Expression) -> tuple[Any, ...]:
    """An order on expressions: calls first, then columns, then constants."""
    if isinstance(expression, Constant):
        return (2, expression.type, expression.decimals, str(expression.value))
    if isinstance(expression, Call):
        return (0, expression.function, tuple(sort_key(argument) for argument in expression.arguments))
    return (1, expression.table, expression.column)


def call(function: Function, *arguments: Expression) -> Call:
    """A call as it is."""
    return Call(function=function, arguments=arguments)


def integer(value: int) -> Constant:
    """An integer constant."""
    return Constant(value=value, type="integer")


def number(units: int, decimals: int) -> Constant:
    """A constant of `units` counts of 10^-decimals, without trailing zeros. Raises Malformed where it is too fine or too large."""
    while decimals and units % 10 == 0:
        units, decimals = units // 10, decimals - 1
    if decimals > MAX_EXPRESSION_DECIMALS or abs(units) > MAX_INTEGER:
        raise Malformed(f"a number has at most {MAX_EXPRESSION_DECIMALS} decimals and 2^53 - 1 units of its last digit", code="sql")
    return Constant(value=units, type="decimal" if decimals else "integer", decimals=decimals)


def null(kind: ValueType, decimals: int = 0) -> Constant:
    """NULL of a type."""
    return Constant(value=None, type=kind, decimals=decimals)


def all_of(terms: Iterable[Expression]) -> Expression | None:
    """Conjunction; None of nothing."""
    return _connected("and", terms)


def any_of(terms: Iterable[Expression]) -> Expression | None:
    """Disjunction; None of nothing."""
    return _connected("or", terms)


def _connected(function: Function, terms: Iterable[Expression]) -> Expression | None:
    flat = sorted(set(_flat(function, terms)), key=sort_key)
    return None if not flat else flat[0] if len(flat) == 1 else Call(function=function, arguments=tuple(flat))


def _flat(function: Function, terms: Iterable[Expression]) -> list[Expression]:
    found: list[Expression] = []
    for term in terms:
        found += term.arguments if isinstance(term, Call) and term.function == function else (term,)
    return found


def negation(term: Expression) -> Expression:
    """NOT, of three-valued logic: the negation of a comparison is the opposite comparison, and both are NULL together."""
    if isinstance(term, Call) and term.function == "not":
        return term.arguments[0]
    if isinstance(term, Call) and term.function in _NEGATED:
        return comparison(_NEGATED[term.function], *term.arguments)
    return call("not", term)


def comparison(operator: Function, left: Expression, right: Expression) -> Call:
    """`left operator right`."""
    constants = isinstance(left, Constant), isinstance(right, Constant)
    exchanged = constants == (True, False)
    if constants[0] == constants[1]:
        exchanged = sort_key(right) < sort_key(left) if operator in ("=", "<>") else operator in (">", ">=")
    return call(_MIRRORED[operator], right, left) if exchanged else call(operator, left, right)


def membership(value: Expression, constants: Sequence[Expression]) -> Expression:
    """`value IN (constants)`."""
    distinct = sorted(set(constants), key=sort_key)
    return comparison("=", value, distinct[0]) if len(distinct) == 1 else call("in", value, *distinct)


def sum_of(terms: Sequence[tuple[Expression, bool]]) -> Expression:
    """Sum of terms, of which those with True are subtracted."""
    if len(terms) == 2 and not terms[0][1] and terms[1][1]:
        return call("subtract", terms[0][0], terms[1][0])
    signed = [negative(term) if subtracted else term for term, subtracted in terms]
    return Call(function="add", arguments=tuple(sorted(_flat("add", signed), key=sort_key)))


def product_of(factors: Sequence[Expression]) -> Expression:
    """Product."""
    return Call(function="multiply", arguments=tuple(sorted(_flat("multiply", factors), key=sort_key)))


def negative(term: Expression) -> Expression:
    """`-term`."""
    if isinstance(term, Constant) and term.type in ("integer", "decimal") and isinstance(term.value, int):
        return Constant(value=-term.value, type=term.type, decimals=term.decimals)
    if isinstance(term, Call) and term.function == "negate":
        return term.arguments[0]
    return call("negate", term)


def choice(branches: Sequence[tuple[Expression, Expression]], otherwise: Expression) -> Call:
    """CASE WHEN condition THEN value ... ELSE otherwise END."""
    return call("case", *(part for branch in branches for part in branch), otherwise)

"""Aggregate calls of SQL: which function, of what, over which rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlglot.expressions as exp

from policies.expression import Constant, Expression, Typed
from policies.normal_form import all_of, choice, integer, null
from policies.privacy import units_to_decimal
from policies.query import FRACTION_DECIMALS, RANKED, AggregateFunction, UnitFunction
from policies.sql.expressions import Expressions
from policies.sql.functions import literal_number
from policies.sql.instead import instead_of
from policies.sql.text import bare, only, refuse

_SIMPLE: dict[type[exp.Expr], AggregateFunction] = {
    exp.Sum: "SUM", exp.Avg: "AVG", exp.Min: "MIN", exp.Max: "MAX", exp.Variance: "VAR_SAMP", exp.VariancePop: "VAR_POP",
    exp.Stddev: "STDDEV_SAMP", exp.StddevSamp: "STDDEV_SAMP", exp.StddevPop: "STDDEV_POP",
}  # fmt: skip
_PAIRS: dict[type[exp.Expr], AggregateFunction] = {
    exp.CovarPop: "COVAR_POP", exp.CovarSamp: "COVAR_SAMP", exp.Corr: "CORR",
    exp.RegrSlope: "REGR_SLOPE", exp.RegrIntercept: "REGR_INTERCEPT",
}  # fmt: skip
_QUANTILES = (exp.Quantile, exp.ApproxQuantile, exp.PercentileCont)
ACCEPTED = "COUNT, SUM, AVG, VARIANCE, STDDEV, MEDIAN, QUANTILE, MIN, MAX, COVAR_POP, COVAR_SAMP, CORR, REGR_SLOPE, REGR_INTERCEPT"
UNIT_FUNCTIONS: tuple[UnitFunction, ...] = ("COUNT", "SUM", "AVG", "MIN", "MAX", "COUNT_DISTINCT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregate:
    """An aggregate call without its name, as `policies.query.AggregateOutput` describes it."""

    function: AggregateFunction
    arguments: tuple[Expression, ...] = ()
    filter: Expression | None = None
    fraction: str | None = None


def is_aggregate(node: Any) -> bool:
    """Whether a node calls an aggregate, accepted or not, itself."""
    node = bare(node)
    if isinstance(node, (exp.IgnoreNulls, exp.RespectNulls)):
        node = node.this
    return isinstance(node, (exp.AggFunc, exp.Filter, exp.WithinGroup))


def holds_aggregate(node: exp.Expr) -> bool:
    """Whether an aggregate is called somewhere inside a node."""
    return node.find(exp.AggFunc, exp.Filter, exp.WithinGroup) is not None


def read_aggregate(node: exp.Expr, reader: Expressions, is_unit: Callable[[Expression], bool]) -> Aggregate:
    """Return the aggregate that a node calls. Raises Malformed.

    Args:
        is_unit: whether an expression is the privacy unit: the unit's distinct values are counted as units.
    """
    node = bare(node)
    if isinstance(node, exp.Filter):
        only(node, "FILTER", {"this", "expression"})
        inner = read_aggregate(node.this, reader, is_unit)
        only(node.expression, "FILTER", {"this"})
        condition = reader.within("in FILTER").condition(node.expression.this)
        terms = [condition, *([inner.filter] if inner.filter is not None else [])]
        return Aggregate(function=inner.function, arguments=inner.arguments, filter=all_of(terms), fraction=inner.fraction)
    name = type(node).__name__.upper()
    if isinstance(node, exp.Count):
        return _count(node, reader.within("inside COUNT"), is_unit)
    if isinstance(node, exp.CountIf):
        only(node, "COUNT_IF", {"this"})
        return Aggregate(function="COUNT", filter=reader.within("inside COUNT_IF").condition(node.this))
    if type(node) in _SIMPLE:
        only(node, name, {"this"})
        _require_plain(node, name)
        inside = reader.within(f"inside {name}")
        function, argument = _SIMPLE[type(node)], inside.read(node.this)
        (_require_ranked if function in RANKED else _require_number)(node, name, node.this, inside.kind(argument))
        return Aggregate(function=function, arguments=(argument,))
    if type(node) in _PAIRS:
        only(node, name, {"this", "expression"})
        inside = reader.within(f"inside {name}")
        arguments = inside.read(node.this), inside.read(node.expression)
        for written, argument in zip((node.this, node.expression), arguments, strict=True):
            _require_number(node, name, written, inside.kind(argument))
        return Aggregate(function=_PAIRS[type(node)], arguments=arguments)
    return _quantile(node, reader)


def _require_plain(node: exp.Expr, name: str) -> None:
    if isinstance(node.this, exp.Distinct):
        refuse(node, f"is not accepted: {name}(DISTINCT ...) has no bound per person; only COUNT takes DISTINCT")


_INSTEAD = {
    "date": "dates are ranked and not added up: write MEDIAN({x}), MIN({x}) or MAX({x}), or add up days since one of your choice, "
    "DATE_DIFF('day', DATE '2000-01-01', {x})",
    "boolean": "conditions are counted and not added up: write COUNT_IF({x})",
    "text": "texts are counted and not added up: write COUNT({x}), or add up TRY_CAST({x} AS INTEGER)",
}
_SHOWN = 60


def _require_number(node: exp.Expr, name: str, written: exp.Expr, kind: Typed) -> None:
    if kind.type in _INSTEAD:
        text = written.sql(dialect="duckdb")
        refuse(node, f"is not accepted: {name} of a {kind.type}; {_INSTEAD[kind.type].format(x=text if len(text) <= _SHOWN else 'x')}")


def _require_ranked(node: exp.Expr, name: str, written: exp.Expr, kind: Typed) -> None:
    if kind.type in ("text", "boolean"):
        refuse(
            node, f"is not accepted: {name} of a {kind.type}; numbers and dates are ranked between bounds: group by it and count instead"
        )


def _count(node: exp.Count, reader: Expressions, is_unit: Callable[[Expression], bool]) -> Aggregate:
    only(node, "COUNT", {"this", "big_int"})
    if isinstance(node.this, exp.Star):
        only(node.this, "*", set())
        return Aggregate(function="COUNT")
    if isinstance(node.this, exp.Distinct):
        only(node.this, "DISTINCT", {"expressions"})
        if len(node.this.expressions) != 1:
            refuse(node, "is not accepted: COUNT(DISTINCT ...) takes one expression")
        argument = reader.read(node.this.expressions[0])
        return Aggregate(function="COUNT_UNITS") if is_unit(argument) else Aggregate(function="COUNT_DISTINCT", arguments=(argument,))
    if node.this is None:
        refuse(node, "is not accepted inside COUNT; write COUNT(*)")
    argument = reader.read(node.this)
    # A value that is never NULL counts every row. Other columns are kept: a provider may allow to count them and not the rest.
    always = isinstance(argument, Constant) or (is_unit(argument) and not reader.kind(argument).nullable)
    return Aggregate(function="COUNT", arguments=() if always else (argument,))


def _quantile(node: exp.Expr, reader: Expressions) -> Aggregate:
    if isinstance(node, exp.Median):
        only(node, "MEDIAN", {"this"})
        _require_plain(node, "MEDIAN")
        inside = reader.within("inside MEDIAN")
        argument = inside.read(node.this)
        _require_ranked(node, "MEDIAN", node.this, inside.kind(argument))
        return Aggregate(function="QUANTILE", arguments=(argument,), fraction="0.5")
    if isinstance(node, exp.WithinGroup) and isinstance(node.this, exp.PercentileCont):
        only(node, "WITHIN GROUP", {"this", "expression"})
        only(node.this, "PERCENTILE_CONT", {"this"})
        ordered = node.expression.expressions
        if len(ordered) != 1 or ordered[0].args.get("desc") or ordered[0].args.get("nulls_first"):
            refuse(node, "is not accepted; write PERCENTILE_CONT(p) WITHIN GROUP (ORDER BY x)")
        return _at_fraction(node, ordered[0].this, node.this.this, reader)
    if isinstance(node, _QUANTILES):
        only(node, "QUANTILE", {"this", "expression", "quantile"})
        return _at_fraction(node, node.this, node.args.get("quantile") or node.args.get("expression"), reader)
    refuse(node, f"is not accepted{instead_of(node)}; aggregates are {ACCEPTED}")


def _at_fraction(node: exp.Expr, value: Any, fraction: Any, reader: Expressions) -> Aggregate:
    if not isinstance(fraction, exp.Literal) or fraction.is_string:
        refuse(node, "is not accepted; write QUANTILE(x, p) with a number p between 0 and 1")
    written = literal_number(fraction)
    if not isinstance(written.value, int) or written.decimals > FRACTION_DECIMALS or not 0 <= written.value <= 10**written.decimals:
        refuse(fraction, f"is no fraction between 0 and 1 with at most {FRACTION_DECIMALS} decimals")
    text = units_to_decimal(written.value, written.decimals)
    inside = reader.within("inside QUANTILE")
    argument = inside.read(value)
    _require_ranked(node, "QUANTILE", value, inside.kind(argument))
    return Aggregate(function="QUANTILE", arguments=(argument,), fraction=text)


def unit_aggregate(node: exp.Expr, found: Aggregate) -> tuple[UnitFunction, Expression | None]:
    """Return (function, argument) of an aggregate over one unit's rows; a FILTER becomes a CASE around the argument. Raises Malformed."""
    if found.function not in UNIT_FUNCTIONS:
        refuse(node, f"is not accepted in a subquery per privacy unit, which takes {', '.join(UNIT_FUNCTIONS)}")
    argument = found.arguments[0] if found.arguments else None
    if found.filter is not None:
        argument = choice([(found.filter, integer(1) if argument is None else argument)], null("integer"))
    return found.function, argument

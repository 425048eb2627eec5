"""A second implementation of plans, in plain Python over dictionaries and exact fractions, for tables that keep to their declarations.

It shares nothing with the enclave but the meaning of the plan: three-valued logic, inner joins, division rounded towards zero.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

from policies.declaration import Declaration
from policies.expression import Call, Constant, Expression, Ref, Typed, typed
from policies.query import Join, PerUnit, Plan, Relation, Table, UnitColumn
from policies.schedule import Measured, Statistic, bin_edges
from policies.shape import Name, domain_of, shape

Row = dict[Name, Any]
EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Straight:
    """Plans over rows: numbers as fractions, dates as days, text as it is, None as NULL."""

    declarations: Mapping[str, Declaration]
    tables: Mapping[str, list[dict[str, Any]]]

    def vectors(self, plan: Plan, statistics: tuple[Statistic, ...]) -> dict[str, tuple[int, ...]]:
        """The value of every statistic in every cell; keys are declared ones."""
        found = shape(plan.source, self.declarations)
        domains = [domain_of(key, found.scope) or () for key in plan.group_by]
        cells: dict[tuple[Any, ...], list[Row]] = {key: [] for key in itertools.product(*domains)}
        for row in self.rows(plan.source):
            key = tuple(self._key(k.expression, row, found.scope) for k in plan.group_by)
            if key in cells and (plan.where is None or self.value(plan.where, row, found.scope) is True):
                cells[key].append(row)
        unit = sorted(found.unit)[0]
        return {s.name: tuple(v for rows in cells.values() for v in self._measure(s.measured, rows, found.scope, unit)) for s in statistics}

    def _key(self, expression: Expression, row: Row, scope: Mapping[Name, Typed]) -> Any:
        value = self.value(expression, row, scope)
        return int(value) if isinstance(value, (Fraction, bool)) else value

    def rows(self, relation: Relation) -> list[Row]:
        """The rows of a relation."""
        if isinstance(relation, Table):
            return [{(relation.alias, name): cell for name, cell in row.items()} for row in self.tables[relation.dataset]]
        if isinstance(relation, Join):
            pairs = [((e.left.table, e.left.column), (e.right.table, e.right.column)) for e in relation.on]
            left, right = self.rows(relation.left), self.rows(relation.right)
            return [{**a, **b} for a in left for b in right if all(a[x] is not None and a[x] == b[y] for x, y in pairs)]
        return self._per_unit(relation)

    def _per_unit(self, relation: PerUnit) -> list[Row]:
        scope = shape(relation.source, self.declarations).scope
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in self.rows(relation.source):
            if relation.where is None or self.value(relation.where, row, scope) is True:
                keys = [self.value(key.expression, row, scope) for key in relation.keys]
                groups.setdefault((row[relation.by.table, relation.by.column], *keys), []).append(row)
        names = [relation.unit, *(key.name for key in relation.keys)]
        return [
            {(relation.alias, name): value for name, value in zip(names, group, strict=True)}
            | {(relation.alias, column.name): self._unit_value(column, rows, scope) for column in relation.columns}
            for group, rows in groups.items()
        ]

    def _unit_value(self, column: UnitColumn, rows: list[Row], scope: Mapping[Name, Typed]) -> Any:
        if column.argument is None:
            return Fraction(len(rows))
        values = [v for v in (self.value(column.argument, row, scope) for row in rows) if v is not None]
        if column.function == "COUNT":
            return Fraction(len(values))
        if column.function == "COUNT_DISTINCT":
            return Fraction(len(set(values)))
        if not values:
            return None
        if column.function in ("MIN", "MAX"):
            return min(values) if column.function == "MIN" else max(values)
        if column.function == "SUM":
            return sum(values)
        decimals = min(typed(column.argument, scope).decimals + 6, 12)
        return cut(sum(values) / len(values), decimals)

    def _measure(self, measured: Measured, rows: list[Row], scope: Mapping[Name, Typed], unit: Name) -> list[int]:
        kept = []
        for row in rows:
            values = [self.value(argument, row, scope) for argument in measured.arguments]
            if None not in values and (measured.filter is None or self.value(measured.filter, row, scope) is True):
                kept.append((row[unit], values))
        if measured.quantity == "units":
            return [len({owner for owner, _ in kept})]
        if measured.quantity == "rows":
            return [len(kept)]
        if measured.quantity == "distinct":
            return [len({values[0] for _, values in kept})]
        kinds = [typed(argument, scope) for argument in measured.arguments]
        whole = [[units(value, kind) for value, kind in zip(values, kinds, strict=True)] for _, values in kept]
        if measured.quantity == "bins":
            edges = bin_edges(measured, kinds[0])
            return [sum(edges[b] <= values[0] < edges[b + 1] for values in whole) for b in range(measured.bins)]
        total = 0
        for values in whole:
            near = [value - centre for value, centre in zip(values, measured.centres, strict=False)]
            amount = {"sum": near[0], "squares": near[0] ** 2, "product": near[0] * near[-1]}[measured.quantity]
            total += int(Fraction(amount, measured.step))
        return [total]

    def value(self, expression: Expression, row: Row, scope: Mapping[Name, Typed]) -> Any:
        """The value of an expression in a row."""
        if isinstance(expression, Ref):
            return row[expression.table, expression.column]
        if isinstance(expression, Constant):
            if expression.value is None or isinstance(expression.value, str):
                return expression.value
            if expression.type == "boolean":
                return bool(expression.value)
            return expression.value if expression.type == "date" else Fraction(expression.value, 10**expression.decimals)
        if expression.function == "case":
            arms = expression.arguments
            for condition, chosen in zip(arms[:-1:2], arms[1:-1:2], strict=True):
                if self.value(condition, row, scope) is True:
                    return self.value(chosen, row, scope)
            return self.value(arms[-1], row, scope)
        values = [self.value(argument, row, scope) for argument in expression.arguments]
        return apply(expression, values, scope)


def units(value: Any, kind: Typed) -> int:
    """A value as an integer in the unit of its type."""
    scaled = Fraction(value) * 10**kind.decimals
    assert scaled.denominator == 1
    return int(scaled)


def cut(value: Fraction, decimals: int) -> Fraction:
    """Rounded towards zero."""
    return Fraction(math.trunc(value * 10**decimals), 10**decimals)


def nearest(value: Fraction, decimals: int) -> Fraction:
    """Rounded half away from zero."""
    scaled = abs(value) * 10**decimals
    whole = math.floor(scaled + Fraction(1, 2))
    return Fraction(whole if value >= 0 else -whole, 10**decimals)


def ordered(value: Any) -> Any:
    """Text compares by its bytes."""
    return value.encode() if isinstance(value, str) else value


def day(value: int) -> date:
    """A day number as a date."""
    return EPOCH + timedelta(days=int(value))


def apply(call: Call, values: list[Any], scope: Mapping[Name, Typed]) -> Any:
    """A function of values."""
    function = call.function
    if function in ("and", "or"):
        decisive = function == "or"
        return decisive if decisive in values else None if None in values else not decisive
    if function == "is_null":
        return values[0] is None
    if function == "coalesce":
        return next((value for value in values if value is not None), None)
    if function in ("least", "greatest"):
        present = [value for value in values if value is not None]
        return None if not present else min(present) if function == "least" else max(present)
    if function == "nullif":
        return None if values[0] is not None and values[0] == values[1] else values[0]
    if values[0] is None:
        return None
    if function == "in":
        return True if values[0] in values[1:] else None if None in values else False
    if None in values:
        return None
    a, b = values[0], values[-1]
    if function in ("=", "<>", "<", "<=", ">", ">="):
        x, y = ordered(a), ordered(b)
        return {"=": x == y, "<>": x != y, "<": x < y, "<=": x <= y, ">": x > y, ">=": x >= y}[function]
    if function in _TEXTS:
        return _TEXTS[function](values)
    if function in _DATES:
        return _DATES[function](values)
    return number(call, values, scope)


def like(values: list[Any]) -> bool:
    """% is any text, _ one character."""
    pattern = "".join(".*" if c == "%" else "." if c == "_" else re.escape(c) for c in values[1])
    return re.fullmatch(pattern, values[0], re.DOTALL) is not None


_TEXTS: dict[str, Any] = {
    "not": lambda v: not v[0],
    "like": like,
    "lower": lambda v: v[0].lower(),
    "upper": lambda v: v[0].upper(),
    "trim": lambda v: v[0].strip(" "),
    "substring": lambda v: v[0][int(v[1]) - 1 : int(v[1]) - 1 + int(v[2])],
    "length": lambda v: Fraction(len(v[0])),
}


def truncated(values: list[Any]) -> int:
    """The first day of the year, quarter, month or (Monday) week."""
    part, when = values[0], day(values[1])
    first = {
        "day": when,
        "week": when - timedelta(days=when.weekday()),
        "month": when.replace(day=1),
        "quarter": when.replace(month=(when.month - 1) // 3 * 3 + 1, day=1),
        "year": when.replace(month=1, day=1),
    }[part]
    return (first - EPOCH).days


def read_date(text: Any) -> int | None:
    """A day that is written as 2020-01-31."""
    if isinstance(text, int):
        return text
    try:
        return (date.fromisoformat(text) - EPOCH).days
    except ValueError:
        return None


_DATES: dict[str, Any] = {
    "year": lambda v: Fraction(day(v[0]).year),
    "quarter": lambda v: Fraction((day(v[0]).month + 2) // 3),
    "month": lambda v: Fraction(day(v[0]).month),
    "day": lambda v: Fraction(day(v[0]).day),
    "day_of_week": lambda v: Fraction(day(v[0]).isoweekday() % 7),
    "truncate_date": truncated,
    "to_date": lambda v: read_date(v[0]),
}


def number(call: Call, values: list[Any], scope: Mapping[Name, Typed]) -> Any:
    """Arithmetic on fractions."""
    a, b, function = values[0], values[-1], call.function
    if function == "to_integer" and isinstance(a, (str, bool)):
        return Fraction(a) if isinstance(a, bool) else Fraction(int(a)) if re.fullmatch(r"-?[0-9]{1,15}", a) else None
    places = int(values[1]) if len(values) == 2 and function in ("round", "to_decimal") else 0
    if function in ("divide", "modulo") and b == 0:
        return None
    if function == "divide":
        return cut(a / b, min(typed(call.arguments[0], scope).decimals + 6, 12))
    if function == "modulo":
        return a - b * math.trunc(a / b)
    whole: dict[str, Any] = {
        "add": lambda: sum(values),
        "subtract": lambda: Fraction(a - b),
        "multiply": lambda: math.prod(values),
        "negate": lambda: -a,
        "abs": lambda: abs(a),
        "sign": lambda: Fraction((a > 0) - (a < 0)),
        "floor": lambda: Fraction(math.floor(a)),
        "ceil": lambda: Fraction(math.ceil(a)),
        "round": lambda: nearest(a, places),
        "to_integer": lambda: nearest(a, 0),
        "to_decimal": lambda: nearest(a, places),
    }
    return whole[function]()

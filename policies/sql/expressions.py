"""Scalar SQL expressions to typed expressions in normal form: an allow-list, walked without skipping any part of the syntax tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import sqlglot.expressions as exp

from policies.codec import decode
from policies.errors import Malformed
from policies.expression import MAX_ARGUMENTS, Call, Constant, Expression, Function, Scope, Typed, common, typed
from policies.normal_form import (
    all_of,
    any_of,
    call,
    choice,
    comparison,
    membership,
    negation,
    negative,
    null,
    product_of,
    sum_of,
)
from policies.sql.functions import FUNCTIONS, UNTYPED_NULL, Step, literal_number
from policies.sql.text import MAX_NESTING, at, bare, only, operands, refuse, refuse_construct

_COMPARISONS: dict[type[exp.Expr], Function] = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Expressions:
    """A reader of scalar expressions.

    Attributes:
        resolve: the expression that a column stands for.
        scope: what is known of the columns that those expressions read.
        special: asked first about every node; returns None where the ordinary reading applies.
        place: where in the query these expressions stand, for messages.
    """

    resolve: Callable[[exp.Column], Expression]
    scope: Scope
    special: Callable[[exp.Expr], Expression | None] | None = None
    place: str = "in an expression"

    def within(self, place: str) -> Expressions:
        """The same reader at another place."""
        return replace(self, place=place)

    def read(self, node: Any) -> Expression:
        """Return the expression that a node spells, well typed. Raises Malformed at the innermost construct that is not accepted."""
        return self._read(node)[0]

    def _read(self, node: Any) -> tuple[Expression, Typed]:
        if not isinstance(node, exp.Expr):
            refuse(node, f"is not accepted {self.place}")
        with at(node):
            found = self.build(node, 0)
            if found == UNTYPED_NULL:
                refuse_construct(bare(node), self.place)
            try:
                return found, typed(found, self.scope)
            except Malformed:
                self.build(node, 0, strict=True)
                raise

    def condition(self, node: Any) -> Expression:
        """Like `read`, of something that is true or false."""
        found, kind = self._read(node)
        if kind.type != "boolean":
            refuse(node, f"is no condition: it is not accepted {self.place}, which takes what is true or false")
        return found

    def kind(self, expression: Expression) -> Typed:
        """What is known of an expression."""
        return typed(expression, self.scope)

    def build(self, node: Any, depth: int, *, strict: bool = False) -> Expression:
        """Return the expression of a node. With `strict` every part is typed by itself, so that an error has the part's position."""
        node = bare(node)
        if depth > MAX_NESTING:
            raise Malformed(f"the query nests deeper than {MAX_NESTING} levels", code="sql")
        found = self.special(node) if self.special is not None and isinstance(node, exp.Expr) else None
        if found is None and isinstance(node, exp.Column):
            if isinstance(node.this, exp.Star):
                refuse_construct(node.this, self.place)
            found = self.resolve(node)
        if found is None:
            rule = _RULES.get(type(node))
            if rule is None:
                refuse_construct(node, self.place)

            def inner(part: Any) -> Expression:
                return self.build(part, depth + 1, strict=strict)

            with at(node):
                found = rule(Step(inner=inner, kind=self.kind, place=self.place), node)
        if strict and found != UNTYPED_NULL:
            with at(node):
                typed(found, self.scope)
        return found


def _literal(step: Step, node: exp.Literal) -> Expression:
    text = str(node.this)
    if node.is_string:
        return Constant(value=decode(str, text, "text constant"), type="text")
    return literal_number(node)


def _negative(step: Step, node: exp.Neg) -> Expression:
    only(node, "-", {"this"})
    return negative(step.value(node.this))


def _connective(step: Step, node: exp.Connector) -> Expression:
    kind = type(node)
    terms = [step.value(term) for term, _ in operands(node, (kind,))]
    found = all_of(terms) if isinstance(node, exp.And) else any_of(terms)
    assert found is not None
    return found


def _not(step: Step, node: exp.Not) -> Expression:
    only(node, "NOT", {"this"})
    return negation(step.value(node.this))


def _is(step: Step, node: exp.Is) -> Expression:
    only(node, "IS", {"this", "expression"})
    value = step.value(node.this)
    if isinstance(node.expression, exp.Boolean):
        # IS TRUE and IS FALSE are never NULL.
        truth = value if node.expression.this else negation(value)
        return call("coalesce", truth, Constant(value=0, type="boolean"))
    if not isinstance(node.expression, exp.Null):
        refuse(node, "is not accepted; only IS [NOT] NULL, IS [NOT] TRUE and IS [NOT] FALSE are")
    return call("is_null", value)


def _comparison(step: Step, node: exp.Binary) -> Expression:
    only(node, "a comparison", {"this", "expression"})
    left, right = step.alike([node.this, node.expression])
    if UNTYPED_NULL in (left, right):
        refuse(node, "compares with NULL, which is never true; write IS NULL or IS NOT NULL")
    return comparison(_COMPARISONS[type(node)], left, right)


def _between(step: Step, node: exp.Between) -> Expression:
    only(node, "BETWEEN", {"this", "low", "high"})
    value, low, high = step.alike([node.this, node.args["low"], node.args["high"]])
    if UNTYPED_NULL in (value, low, high):
        refuse(node, "compares with NULL, which is never true")
    found = all_of([comparison(">=", value, low), comparison("<=", value, high)])
    assert found is not None
    return found


def _in(step: Step, node: exp.In) -> Expression:
    if node.args.get("query") or node.args.get("unnest"):
        refuse(node, "is not accepted: IN takes constants; join the other table instead")
    only(node, "IN", {"this", "expressions"})
    if not 1 <= len(node.expressions) < MAX_ARGUMENTS:
        raise Malformed(f"IN needs 1 to {MAX_ARGUMENTS - 1} constants", code="sql")
    value, *listed = step.alike([node.this, *node.expressions])
    for written, constant in zip(node.expressions, listed, strict=True):
        if not isinstance(constant, Constant) or constant.value is None:
            refuse(written, "is not accepted: IN takes constants; write x = a OR x = b")
    return membership(value, listed)


def _like(step: Step, node: exp.Like) -> Expression:
    only(node, "LIKE", {"this", "expression", "negate"})
    found = call("like", step.value(node.this), step.value(node.expression))
    return negation(found) if node.args.get("negate") else found


def _sum(step: Step, node: exp.Binary) -> Expression:
    parts = operands(node, (exp.Add, exp.Sub))
    terms = step.alike([part for part, _ in parts])
    for (part, _), term in zip(parts, terms, strict=True):
        if term == UNTYPED_NULL:
            refuse_construct(bare(part), step.place)
    return sum_of([(term, operator is exp.Sub) for term, (_, operator) in zip(terms, parts, strict=True)])


def _product(step: Step, node: exp.Binary) -> Expression:
    return product_of([step.value(part) for part, _ in operands(node, (exp.Mul,))])


def _quotient(step: Step, node: exp.Binary) -> Expression:
    """A chain of divisions and remainders, from left to right, without recursion along the chain."""
    only(node, "division", {"this", "expression", "typed", "safe"})
    (first, _), *rest = operands(node, (exp.Div, exp.Mod, exp.IntDiv))
    if len(rest) > MAX_NESTING:
        raise Malformed(f"the query nests deeper than {MAX_NESTING} levels", code="sql")
    found = step.value(first)
    for part, operator in rest:
        other = step.value(part)
        if operator is exp.Div:
            found = call("divide", found, other)
        elif operator is exp.Mod:
            found = call("modulo", found, other)
        else:
            found = _whole_quotient(step, found, other)
    return found


def _whole_quotient(step: Step, dividend: Expression, divisor: Expression) -> Expression:
    """`//`: the quotient of integers, rounded towards zero; what is divided at last is a multiple."""
    first, second = step.kind(dividend), step.kind(divisor)
    if first.lower is not None and second.lower is not None and first.lower >= 0 and second.lower > 0 and not first.decimals:
        return call("floor", call("divide", dividend, divisor))
    return call("to_integer", call("divide", call("subtract", dividend, call("modulo", dividend, divisor)), divisor))


def _pick(step: Step, node: exp.Expr) -> Expression:
    """COALESCE, LEAST, GREATEST: NULL among the arguments changes nothing."""
    function: Function = "coalesce" if isinstance(node, exp.Coalesce) else "least" if isinstance(node, exp.Least) else "greatest"
    only(node, function.upper(), {"this", "expressions", "ignore_nulls"})
    values = [value for value in step.alike([node.this, *node.expressions]) if value != UNTYPED_NULL]
    if not values:
        refuse(node, "is always NULL")
    return values[0] if len(values) == 1 else call(function, *values)


def _nullif(step: Step, node: exp.Nullif) -> Expression:
    only(node, "NULLIF", {"this", "expression"})
    value, other = step.alike([node.this, node.expression])
    if UNTYPED_NULL in (value, other):
        refuse(node, "compares with NULL, which is never true")
    return call("nullif", value, other)


def _case(step: Step, node: exp.Case) -> Expression:
    only(node, "CASE", {"this", "ifs", "default"})
    conditions: list[Expression] = []
    for branch in node.args["ifs"]:
        only(branch, "WHEN", {"this", "true"})
        if node.this is None:
            conditions.append(step.value(branch.this))
            continue
        subject, value = step.alike([node.this, branch.this])
        if UNTYPED_NULL in (subject, value):
            refuse(branch.this, "compares with NULL, which is never true; write CASE WHEN x IS NULL THEN ...")
        conditions.append(comparison("=", subject, value))
    return _chosen(step, conditions, [branch.args["true"] for branch in node.args["ifs"]], node.args.get("default"))


def _if(step: Step, node: exp.If) -> Expression:
    only(node, "IF", {"this", "true", "false"})
    return _chosen(step, [step.value(node.this)], [node.args["true"]], node.args.get("false"))


def _chosen(step: Step, conditions: list[Expression], values: list[Any], default: Any) -> Expression:
    found = step.alike([*values, *([] if default is None else [default])])
    if default is None:
        found.append(UNTYPED_NULL)
    kinds = [step.kind(value) for value in found if value != UNTYPED_NULL]
    if not kinds:
        raise Malformed("a CASE needs a value that is not NULL", code="sql")
    kind = common(Call(function="case", arguments=(found[0],)), kinds)[0]
    found = [null(kind.type, kind.decimals) if value == UNTYPED_NULL else value for value in found]
    return choice(list(zip(conditions, found[:-1], strict=True)), found[-1])


def _boolean(step: Step, node: exp.Boolean) -> Expression:
    return Constant(value=int(bool(node.this)), type="boolean")


def _null(step: Step, node: exp.Null) -> Expression:
    return UNTYPED_NULL


_RULES: dict[type[Any], Callable[[Step, Any], Expression]] = {
    **FUNCTIONS,
    **dict.fromkeys(_COMPARISONS, _comparison),
    **dict.fromkeys((exp.And, exp.Or), _connective),
    **dict.fromkeys((exp.Add, exp.Sub), _sum),
    **dict.fromkeys((exp.Div, exp.Mod, exp.IntDiv), _quotient),
    **dict.fromkeys((exp.Coalesce, exp.Least, exp.Greatest), _pick),
    exp.Literal: _literal,
    exp.Neg: _negative,
    exp.Not: _not,
    exp.Is: _is,
    exp.Between: _between,
    exp.In: _in,
    exp.Like: _like,
    exp.Mul: _product,
    exp.Nullif: _nullif,
    exp.Case: _case,
    exp.If: _if,
    exp.Boolean: _boolean,
    exp.Null: _null,
}

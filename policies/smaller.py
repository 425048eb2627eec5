"""Smaller questions: a plan without one of its outputs, keys or conditions. Each is a plan again, or raises Malformed."""

from __future__ import annotations

from dataclasses import replace

from policies.derive import ColumnRef
from policies.errors import Malformed
from policies.expression import Call, Expression, refs
from policies.query import AggregateOutput, KeyOutput, Order, Plan, tables


def without_output(plan: Plan, name: str) -> Plan:
    """Return the plan without an output, and what orders or filters cells by it. Raises Malformed for the last aggregate."""
    return _selecting(plan, tuple(output for output in plan.outputs if output.name != name))


def without_keys(plan: Plan, column: ColumnRef | None = None, *, discovered: bool = False) -> Plan:
    """Return the plan without the group keys that read a column, or that are discovered, or without any. Raises Malformed."""
    kept = [
        index
        for index, key in enumerate(plan.group_by)
        if (column is not None and column not in _columns(plan, key.expression)) or (discovered and key.source != "discovered")
    ]
    place = {old: new for new, old in enumerate(kept)}
    outputs = tuple(
        replace(output, key=place[output.key]) if isinstance(output, KeyOutput) else output
        for output in plan.outputs
        if not isinstance(output, KeyOutput) or output.key in place
    )
    names = {output.name for output in outputs}
    return replace(
        plan,
        group_by=tuple(plan.group_by[index] for index in kept),
        outputs=outputs,
        having=tuple(rule for rule in plan.having if rule.output in names),
        order=tuple(order for order in plan.order if order.output in names),
        limit=plan.limit if kept else None,
    )


def without_condition(plan: Plan, column: ColumnRef) -> Plan:
    """Return the plan without the conditions of WHERE, joined by AND, that read a column. Raises Malformed if there is none."""
    if plan.where is None:
        raise Malformed("there is no condition to drop", where="where")
    kept = [part for part in _conjuncts(plan.where) if column not in _columns(plan, part)]
    if len(kept) == len(_conjuncts(plan.where)):
        raise Malformed(f"no condition reads `{column}`", where="where")
    where = None if not kept else kept[0] if len(kept) == 1 else Call(function="and", arguments=tuple(kept))
    return replace(plan, where=where)


def limited(plan: Plan, rows: int) -> Plan:
    """Return the plan with at most so many rows, ordered by its first output where nothing else orders them."""
    return replace(plan, limit=rows, order=plan.order or (Order(output=plan.outputs[0].name),))


def _selecting(plan: Plan, outputs: tuple[KeyOutput | AggregateOutput, ...]) -> Plan:
    names = {output.name for output in outputs}
    return replace(
        plan,
        outputs=outputs,
        having=tuple(rule for rule in plan.having if rule.output in names),
        order=tuple(order for order in plan.order if order.output in names),
        limit=plan.limit if not plan.order or any(order.output in names for order in plan.order) else None,
    )


def _conjuncts(condition: Expression) -> list[Expression]:
    if isinstance(condition, Call) and condition.function == "and":
        return [part for argument in condition.arguments for part in _conjuncts(argument)]
    return [condition]


def _columns(plan: Plan, expression: Expression) -> set[ColumnRef]:
    """Columns of tables that an expression names itself; those that a subquery computes it from are not among them."""
    aliases = {table.alias: table.dataset for table in tables(plan.source)}
    return {ColumnRef(dataset=aliases[ref.table], column=ref.column) for ref in refs(expression) if ref.table in aliases}

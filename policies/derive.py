"""What each output of a plan reveals about each input column, with the clause that causes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from policies.expression import Call, Expression, Ref, refs
from policies.query import AggregateOutput, Join, KeyOutput, PerUnit, Plan, Relation, relations, tables
from policies.recent import Recent
from policies.service import MODEL_COLUMN

Operation = Literal[
    "join_key", "group_by", "filter", "count", "sum", "avg", "output", "distinct", "variance", "quantile", "covariance", "discover",
    "feature", "label", "score",
]  # fmt: skip
"""How a plan uses a column. `output` means that values of a public domain label the cells of the release, `discover` that values which
only the data know do, where enough units share them; `feature` and `label` that a model is trained on it, or scores the asker's own rows;
`score` that it is a model whose rounded scores appear."""

OPERATIONS: tuple[Operation, ...] = (
    "join_key", "group_by", "filter", "count", "sum", "avg", "output", "distinct", "variance", "quantile", "covariance", "discover",
    "feature", "label", "score",
)  # fmt: skip

OPERATION_OF: dict[str, Operation] = {
    "COUNT": "count", "COUNT_UNITS": "count", "COUNT_DISTINCT": "distinct", "SUM": "sum", "AVG": "avg",
    "VAR_POP": "variance", "VAR_SAMP": "variance", "STDDEV_POP": "variance", "STDDEV_SAMP": "variance",
    "QUANTILE": "quantile", "MIN": "quantile", "MAX": "quantile",
    "COVAR_POP": "covariance", "COVAR_SAMP": "covariance", "CORR": "covariance",
    "REGR_SLOPE": "covariance", "REGR_INTERCEPT": "covariance",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnRef:
    """A column of a dataset."""

    dataset: str
    column: str

    def __str__(self) -> str:
        return f"{self.dataset}.{self.column}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """One use of one column.

    Attributes:
        reveals: `hidden` (only which rows take part depends on it), `domain` (public values appear, whatever the data), `noised` (a noised
            aggregate of it appears), `shared` (a value appears that enough units share, counted with noise) or `rounded` (rounded values
            computed from it appear, row by row).
        output: name of the output column that reveals it; None where every output depends on it.
        clause: the part of the query that caused the use, for people.
    """

    column: ColumnRef
    operation: Operation
    reveals: Literal["hidden", "domain", "noised", "shared", "rounded"]
    output: str | None
    clause: str


_CONDITIONS = frozenset({"and", "or", "not", "=", "<>", "<", "<=", ">", ">=", "in", "is_null", "like"})

Columns = dict[tuple[str, str], tuple[ColumnRef, ...]]
"""Columns of datasets, by (alias, column) of a relation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origins:
    """What a column of a relation is computed from.

    Attributes:
        reads: every column that it depends on.
        values: those whose values it computes with, without those that only conditions read.
    """

    reads: Columns
    values: Columns


def derive(plan: Plan) -> tuple[Use, ...]:
    """Return every use of every column, in the order JOIN, subqueries, WHERE, GROUP BY, SELECT.

    A column that a subquery aggregates per unit is used in the way in which the query around it uses the aggregate; what decides which of a
    unit's rows are aggregated is a filter. Conditions inside CASE and FILTER are filters, whatever is computed from them, and so are a
    comparison that is used as a value and everything that decides whether a counted expression is NULL. Rows on which a model is tested are
    used as those on which it is trained.
    """
    if plan.examined is not None:
        return tuple(use for part in plan.parts for use in derive(part))
    origins = _origins(plan.source)
    uses: dict[tuple[object, ...], Use] = {}

    def note(use: Use) -> None:
        uses.setdefault((use.column, use.operation, use.output), use)

    for use in [*_relation_uses(plan, origins), *_key_uses(plan, origins)]:
        note(use)
    for output in plan.outputs:
        for use in _output_uses(plan, output, origins):
            note(use)
    for use in _training_uses(plan, origins):
        note(use)
    return tuple(uses.values())


USES = Recent(derive)
"""The uses of a plan's columns, found once for every dataset that it reads."""


def _relation_uses(plan: Plan, origins: Origins) -> Iterator[Use]:
    conditions: list[tuple[Expression, str]] = []
    for relation in relations(plan.source):
        if isinstance(relation, Join):
            for equality in relation.on:
                for side in (equality.left, equality.right):
                    for key in _reads(side, origins):
                        yield Use(column=key, operation="join_key", reveals="hidden", output=None, clause=f"JOIN ... ON {key}")
        elif isinstance(relation, PerUnit):
            conditions += [(key.expression, f"GROUP BY ... AS {key.name}") for key in relation.keys]
            for column in relation.columns:
                found = _deciding(column.function, () if column.argument is None else (column.argument,))
                conditions += [(condition, f"{column.function}(...) AS {column.name}") for condition in found]
            if relation.where is not None:
                conditions.append((relation.where, "WHERE"))
    if plan.where is not None:
        conditions.append((plan.where, "WHERE"))
    for condition, clause in conditions:
        for read in _reads(condition, origins):
            yield Use(column=read, operation="filter", reveals="hidden", output=None, clause=f"{clause} ... {read} ...")


def _key_uses(plan: Plan, origins: Origins) -> Iterator[Use]:
    for key in plan.group_by:
        for column in _reads(key.expression, origins):
            if key.source == "discovered":
                clause = f"GROUP BY ... {column} ... (values found in the data)"
                yield Use(column=column, operation="discover", reveals="shared", output=None, clause=clause)
            yield Use(column=column, operation="group_by", reveals="domain", output=None, clause=f"GROUP BY {column}")


def _output_uses(plan: Plan, output: KeyOutput | AggregateOutput, origins: Origins) -> Iterator[Use]:
    if isinstance(output, KeyOutput):
        key = plan.group_by[output.key]
        reveals: Literal["domain", "shared"] = "shared" if key.source == "discovered" else "domain"
        for column in _reads(key.expression, origins):
            yield Use(column=column, operation="output", reveals=reveals, output=output.name, clause=f"SELECT {column} AS {output.name}")
        return
    for condition in [*([output.filter] if output.filter is not None else []), *_deciding(output.function, output.arguments)]:
        for column in _reads(condition, origins):
            yield Use(column=column, operation="filter", reveals="hidden", output=output.name, clause=f"{output.name}: ... {column} ...")
    operation = OPERATION_OF[output.function]
    for argument in output.arguments:
        for column in _values(argument, origins):
            clause = f"SELECT {output.function}({column}) AS {output.name}"
            yield Use(column=column, operation=operation, reveals="noised", output=output.name, clause=clause)


def _training_uses(plan: Plan, origins: Origins) -> Iterator[Use]:
    """A model reveals, with noise, whatever its inputs are computed from, also what only their conditions read."""
    if plan.scoring is not None:
        yield from _scoring_uses(plan, plan.scoring.model, origins)
        return
    for item in plan.inputs:
        label = plan.training is not None and plan.training.label is not None and plan.training.label.column == item.name
        operation: Operation = "label" if label else "feature"
        for column in _reads(item.expression, origins):
            clause = f"SELECT {column} AS {item.name} ({operation})"
            yield Use(column=column, operation=operation, reveals="noised", output=item.name, clause=clause)


def _scoring_uses(plan: Plan, model: str, origins: Origins) -> Iterator[Use]:
    """Scores reveal, rounded, the model and whatever the features are computed from; the latter to whom it belongs."""
    for item in plan.inputs:
        for column in _reads(item.expression, origins):
            yield Use(
                column=column, operation="feature", reveals="rounded", output=item.name, clause=f"SELECT {column} AS {item.name} (scored)"
            )
    column = ColumnRef(dataset=model, column=MODEL_COLUMN)
    yield Use(column=column, operation="score", reveals="rounded", output="score", clause=f"scored with {model}")


def _deciding(function: str, arguments: tuple[Expression, ...]) -> list[Expression]:
    """The conditions that decide what an aggregate adds up. A count tells how often what it counts is not NULL."""
    counted = [a for a in arguments if function == "COUNT" and not isinstance(a, Ref)]
    return [*counted, *(condition for argument in arguments for condition in _conditions(argument))]


def _conditions(expression: Expression) -> Iterator[Expression]:
    """The conditions of every CASE inside an expression, comparisons that it uses as values, and what NULLIF compares."""
    if not isinstance(expression, Call):
        return
    if expression.function in _CONDITIONS or expression.function == "nullif":
        yield expression
    elif expression.function == "case":
        yield from expression.arguments[:-1:2]
    for argument in expression.arguments:
        yield from _conditions(argument)


def _values(expression: Expression, origins: Origins) -> Iterator[ColumnRef]:
    """The columns whose values an expression computes with: not those that only its conditions read."""
    if isinstance(expression, Ref):
        yield from origins.values[expression.table, expression.column]
    elif isinstance(expression, Call) and expression.function not in _CONDITIONS:
        chosen = expression.arguments
        if expression.function == "case":
            chosen = (*chosen[1:-1:2], chosen[-1])
        elif expression.function == "nullif":
            chosen = chosen[:1]
        for argument in chosen:
            yield from _values(argument, origins)


def _reads(expression: Expression, origins: Origins) -> tuple[ColumnRef, ...]:
    found = [column for ref in refs(expression) for column in origins.reads[ref.table, ref.column]]
    return tuple(dict.fromkeys(found))


class _Tables(Columns):
    """Origins in which a column of a table is its own origin."""

    def __init__(self, aliases: dict[str, str]) -> None:
        super().__init__()
        self.aliases = aliases

    def __missing__(self, key: tuple[str, str]) -> tuple[ColumnRef, ...]:
        alias, column = key
        return (ColumnRef(dataset=self.aliases[alias], column=column),) if alias in self.aliases else ()


def _origins(relation: Relation) -> Origins:
    aliases = {table.alias: table.dataset for table in tables(relation)}
    found = Origins(reads=_Tables(aliases), values=_Tables(aliases))
    for inner in reversed(list(relations(relation))):
        if isinstance(inner, PerUnit):
            _add_subquery(inner, found)
    return found


def _add_subquery(inner: PerUnit, found: Origins) -> None:
    named = [(inner.unit, inner.by), *((key.name, key.expression) for key in inner.keys), *((c.name, c.argument) for c in inner.columns)]
    for name, expression in named:
        read = () if expression is None else _reads(expression, found)
        value = () if expression is None else tuple(dict.fromkeys(_values(expression, found)))
        found.reads[inner.alias, name], found.values[inner.alias, name] = read, value

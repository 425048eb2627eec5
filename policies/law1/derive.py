"""What each output of a plan reveals about each input column, with the clause that causes it (law/1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.law1.query import AggregateOutput, ColumnRef, KeyOutput, Plan, columns_of

Operation = Literal["join_key", "group_by", "filter", "count", "sum", "avg", "output"]
"""How a plan uses a column. `output` means that values of the declared domain label the cells of the release."""

OPERATIONS: tuple[Operation, ...] = ("join_key", "group_by", "filter", "count", "sum", "avg", "output")


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """One use of one column.

    Attributes:
        reveals: `hidden` (only which rows take part depends on it), `domain` (declared values appear, whatever the data) or
            `noised` (a noised aggregate of it appears).
        output: name of the output column that reveals it; None where every output depends on it.
        clause: the part of the query that caused the use, for people.
    """

    column: ColumnRef
    operation: Operation
    reveals: Literal["hidden", "domain", "noised"]
    output: str | None
    clause: str


def derive(plan: Plan) -> tuple[Use, ...]:
    """Return every use of every column, in the order JOIN, WHERE, GROUP BY, SELECT."""
    uses: dict[tuple[object, ...], Use] = {}

    def note(use: Use) -> None:
        uses.setdefault((use.column, use.operation, use.output), use)

    for source in plan.sources:
        for name in plan.join:
            key = ColumnRef(dataset=source, column=name)
            note(Use(column=key, operation="join_key", reveals="hidden", output=None, clause=f"JOIN ... USING ({name})"))
    for column in columns_of(plan.where):
        note(Use(column=column, operation="filter", reveals="hidden", output=None, clause=f"WHERE ... {column} ..."))
    for column in plan.group_by:
        note(Use(column=column, operation="group_by", reveals="domain", output=None, clause=f"GROUP BY {column}"))
    for output in plan.outputs:
        if isinstance(output, KeyOutput):
            clause = f"SELECT {output.column} AS {output.name}"
            note(Use(column=output.column, operation="output", reveals="domain", output=output.name, clause=clause))
        elif output.column is not None:
            note(_aggregate_use(output, output.column))
    return tuple(uses.values())


def _aggregate_use(output: AggregateOutput, column: ColumnRef) -> Use:
    operations: dict[str, Operation] = {"COUNT": "count", "SUM": "sum", "AVG": "avg"}
    clause = f"SELECT {output.function}({column}) AS {output.name}"
    return Use(column=column, operation=operations[output.function], reveals="noised", output=output.name, clause=clause)

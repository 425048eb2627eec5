"""The plan under law/1, its soundness and its schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from policies.canonical import MAX_INTEGER
from policies.declaration import Column, Declaration
from policies.errors import Malformed
from policies.law1.privacy import Statistic, split_loss
from policies.names import require_name
from policies.privacy import Loss

MAX_SQL = 20_000
"""Longest query text, characters."""

MAX_CELLS = 10_000
MAX_SUM = 2**62
"""Bound on any exact sum that a schedule admits; clamping there keeps the sensitivity and never overflows 64 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnRef:
    """A column of a dataset."""

    dataset: str
    column: str

    def __str__(self) -> str:
        return f"{self.dataset}.{self.column}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Compare:
    """`column operator value`; the value is in the column's fixed-point units, or text."""

    kind: Literal["compare"] = "compare"
    column: ColumnRef
    operator: Literal["=", "<>", "<", "<=", ">", ">="]
    value: int | str


@dataclass(frozen=True, kw_only=True, slots=True)
class OneOf:
    """`column IN (values)`."""

    kind: Literal["one_of"] = "one_of"
    column: ColumnRef
    values: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class IsNull:
    """`column IS NULL`."""

    kind: Literal["is_null"] = "is_null"
    column: ColumnRef


@dataclass(frozen=True, kw_only=True, slots=True)
class AllOf:
    """Conjunction."""

    kind: Literal["all_of"] = "all_of"
    terms: tuple[Condition, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AnyOf:
    """Disjunction."""

    kind: Literal["any_of"] = "any_of"
    terms: tuple[Condition, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Not:
    """Negation, three-valued as in SQL."""

    kind: Literal["not"] = "not"
    term: Condition


Condition: TypeAlias = Compare | OneOf | IsNull | AllOf | AnyOf | Not


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyOutput:
    """An output column that holds a group key."""

    kind: Literal["key"] = "key"
    name: str
    column: ColumnRef


@dataclass(frozen=True, kw_only=True, slots=True)
class AggregateOutput:
    """An output column that holds an aggregate; `column` is None for COUNT(*)."""

    kind: Literal["aggregate"] = "aggregate"
    name: str
    function: Literal["COUNT", "SUM", "AVG"]
    column: ColumnRef | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A query over one dataset, or over a one-to-one join of two on `join`, which is the unique key of both.

    Cells are the Cartesian product of the declared domains of `group_by`, in that order; one cell without GROUP BY.
    """

    kind: Literal["plan/1"] = "plan/1"
    sources: tuple[str, ...]
    join: tuple[str, ...] = ()
    where: Condition | None = None
    group_by: tuple[ColumnRef, ...] = ()
    outputs: tuple[KeyOutput | AggregateOutput, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.sources) <= 2 or len(set(self.sources)) != len(self.sources):
            raise Malformed("a plan reads one dataset or joins two different ones", where="sources")
        if (len(self.sources) == 2) != bool(self.join):
            raise Malformed("two datasets need a join, one has none", where="join")
        if not any(isinstance(output, AggregateOutput) for output in self.outputs):
            raise Malformed("a plan needs an aggregate", where="outputs")


def leaves(condition: Condition | None) -> Iterator[Compare | OneOf | IsNull]:
    """Yield the conditions on single columns that a condition is made of, from left to right."""
    if condition is None:
        return
    if isinstance(condition, (AllOf, AnyOf)):
        for term in condition.terms:
            yield from leaves(term)
    elif isinstance(condition, Not):
        yield from leaves(condition.term)
    else:
        yield condition


def columns_of(condition: Condition | None) -> Iterator[ColumnRef]:
    """Yield every column that a condition reads, with repeats."""
    for leaf in leaves(condition):
        yield leaf.column


def require_sound(plan: Plan, declarations: dict[str, Declaration]) -> None:
    """Hold a plan, whoever sent it, to what the sensitivities rely on and to the declared columns.

    Raises:
        Malformed: an unknown dataset or column, a column of a dataset that is not read, a join that is not on the whole unique key of both
            datasets or over different privacy units, an output of a column that is no group key, or a constant of the wrong type.
    """
    for reference in [*plan.group_by, *(o.column for o in plan.outputs if o.column is not None), *columns_of(plan.where)]:
        resolve(reference, declarations)
        if reference.dataset not in plan.sources:
            raise Malformed(f"`{reference}` belongs to a dataset that the plan does not read", code="unknown-column")
    _require_join(plan, declarations)
    names = [require_name(output.name, "outputs") for output in plan.outputs]
    if len(set(names)) != len(names) or len(set(plan.group_by)) != len(plan.group_by):
        raise Malformed("output names and group keys must be distinct", where="outputs")
    for output in plan.outputs:
        if isinstance(output, KeyOutput) and output.column not in plan.group_by:
            raise Malformed(f"`{output.column}` is put out but is no group key: raw values never leave", code="raw-column")
    for leaf in leaves(plan.where):
        wanted = str if resolve(leaf.column, declarations).type == "text" else int
        values = () if isinstance(leaf, IsNull) else leaf.values if isinstance(leaf, OneOf) else (leaf.value,)
        if any(type(value) is not wanted for value in values):
            raise Malformed(f"a constant for `{leaf.column}` is not of its type", where="where")


def _require_join(plan: Plan, declarations: dict[str, Declaration]) -> None:
    for source in plan.sources:
        if source not in declarations:
            raise Malformed(f"no dataset `{source[:81]}` in this agreement", code="unknown-dataset")
    if len(plan.sources) == 1:
        return
    left, right = (declarations[source] for source in plan.sources)
    if not plan.join == tuple(sorted(left.unique_key)) == tuple(sorted(right.unique_key)):
        raise Malformed(
            f"a join must use the whole unique key of both datasets: ({', '.join(left.unique_key)}) of {left.dataset} and "
            f"({', '.join(right.unique_key)}) of {right.dataset}",
            code="join-key",
        )
    if any(left.column(name).type != right.column(name).type for name in plan.join):
        raise Malformed(f"{left.dataset} and {right.dataset} declare different types for a join column", code="join-key")
    if left.id_space != right.id_space or left.unit != right.unit:
        raise Malformed(f"{left.dataset} and {right.dataset} do not identify the same privacy units", code="join-unit")


def columns_read(plan: Plan, declarations: dict[str, Declaration]) -> dict[str, tuple[str, ...]]:
    """Return, per source, the sorted names of the columns that a run of `plan` needs: those it names, the unit and the join keys."""
    needed: dict[str, set[str]] = {source: {declarations[source].unit, *plan.join} for source in plan.sources}
    for source in plan.sources:
        needed[source].update(declarations[source].unique_key)
    aggregated = [output.column for output in plan.outputs if output.column is not None]
    for reference in [*plan.group_by, *aggregated, *columns_of(plan.where)]:
        needed[reference.dataset].add(reference.column)
    return {source: tuple(sorted(names)) for source, names in needed.items()}


def cells(plan: Plan, declarations: dict[str, Declaration]) -> int:
    """Number of cells of the release.

    Raises:
        Malformed: a group key without a declared domain, or more than `MAX_CELLS` cells.
    """
    total = 1
    for reference in plan.group_by:
        column = declarations[reference.dataset].column(reference.column)
        if column.domain is None:
            raise Malformed(
                f"GROUP BY `{reference}` needs a declared domain; only columns with one may be group keys", code="domain-missing"
            )
        total *= len(column.domain)
        if total > MAX_CELLS:
            raise Malformed(f"the group keys have more than {MAX_CELLS} combinations", code="too-many-cells")
    return total


def rows_per_unit(plan: Plan, declarations: dict[str, Declaration]) -> int:
    """Most rows that one privacy unit contributes after bounding and a one-to-one join: the smaller of the bounds."""
    return min(declarations[source].rows_per_unit for source in plan.sources)


def schedule(plan: Plan, declarations: dict[str, Declaration], loss: Loss, minimum_group: int) -> tuple[Statistic, ...]:
    """Return the statistics that answer `plan` within `loss`, with their sensitivities and scales.

    One unit has at most `rows_per_unit` rows, each in one cell, so it moves the row counts by that many in L1, a sum by that many times
    the largest clamped value, and the distinct-unit counts by the number of cells it can reach.

    Raises:
        Malformed: an unsound plan, missing bounds or domains, a sum that could overflow, or a loss too small to split.
    """
    require_sound(plan, declarations)
    rows = rows_per_unit(plan, declarations)
    wanted: dict[tuple[str, str | None], int] = {}
    for output in plan.outputs:
        if not isinstance(output, AggregateOutput):
            continue
        for quantity, column in needs(output, declarations):
            wanted[quantity, column] = rows * (_largest(column, declarations) if quantity == "sum" else 1)
    reach = min(rows, cells(plan, declarations))
    statistics = split_loss(loss, [(q, c, s) for (q, c), s in wanted.items()], with_units=reach if minimum_group > 1 else None)
    if any(statistic.sensitivity * 2**20 > MAX_SUM for statistic in statistics):
        raise Malformed("the declared bounds are too wide for exact 64-bit sums", code="bounds-too-wide")
    if any(statistic.scale > MAX_INTEGER for statistic in statistics):
        raise Malformed("the loss is too small for the declared bounds: the noise would have no exact scale", code="loss-too-small")
    return statistics


def needs(output: AggregateOutput, declarations: dict[str, Declaration]) -> list[tuple[str, str | None]]:
    """Return the (quantity, column) pairs from which an aggregate is computed.

    COUNT(*) needs rows; COUNT(x) and AVG(x) need rows, or the non-null rows where `x` is nullable; SUM and AVG need the sum.
    """
    if output.column is None:
        return [("rows", None)]
    column = resolve(output.column, declarations)
    count: tuple[str, str | None] = ("present", str(output.column)) if column.nullable else ("rows", None)
    total: tuple[str, str | None] = ("sum", str(output.column))
    by_function: dict[str, list[tuple[str, str | None]]] = {"COUNT": [count], "SUM": [total], "AVG": [total, count]}
    return by_function[output.function]


def resolve(reference: ColumnRef, declarations: dict[str, Declaration]) -> Column:
    """Return the declared column of a reference. Raises Malformed."""
    if reference.dataset not in declarations:
        raise Malformed(f"no dataset `{reference.dataset}` in this agreement", code="unknown-dataset")
    return declarations[reference.dataset].column(reference.column)


def _largest(column: str | None, declarations: dict[str, Declaration]) -> int:
    assert column is not None
    dataset, _, name = column.rpartition(".")
    return resolve(ColumnRef(dataset=dataset, column=name), declarations).largest

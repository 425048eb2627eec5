"""What every output of a plan reveals about every input column to a recipient, with the way by which it got there.

The derivation goes bottom-up over the plan: a column starts as its own plain value, and every relation and expression above it takes away
from that. A join key or a condition leaves only which rows take part; an aggregate of one unit's rows stays inside; what leaves the enclave
is a key of a public domain, a key that enough units share, or a noised figure. What is left of a column at an output is a *set* of
constraints, one for each way that leads there, and a recipient may have the output if its terms allow all of them. The owner of a column
knows it plainly already.

`policies.derive` decides; this explains. Both find the same operations on the same columns (tests/policies/test_reveals.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from policies.derive import OPERATION_OF, OPERATIONS, ColumnRef, Operation
from policies.expression import Constant, Expression, Ref
from policies.query import AggregateOutput, Join, KeyOutput, PerUnit, Plan, Relation, Table, relations
from policies.sql.places import Place, Places

Level = Literal["hidden", "domain", "noised", "shared", "plain"]
"""From nothing but which rows take part, over public values, noised figures and values that enough units share, to what the owner knows."""

LEVELS: tuple[Level, ...] = ("hidden", "domain", "noised", "shared", "plain")

_LEVEL_OF: dict[Operation, Level] = {"join_key": "hidden", "filter": "hidden", "group_by": "domain", "discover": "shared"}

_COMPARISONS = frozenset({"and", "or", "not", "=", "<>", "<", "<=", ">", ">=", "in", "is_null", "like"})

Kind = Literal["value", "decides"]
"""Whether something is computed with a column's value, or only a condition reads it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One downgrade on the way of a column.

    Attributes:
        through: an aggregate, `CASE`, or a clause: `JOIN`, `WHERE`, `GROUP BY`, `FILTER`, `SELECT`.
        inside: whether it stands in a subquery, so that what it gives stays inside.
        place: line and column of the query's text, like `1:8`; None where the text does not name the column there.
    """

    through: str
    inside: bool
    place: Place | None = None

    @property
    def text(self) -> str:
        """The step in words."""
        return f"{self.through} at {self.place}" if self.place else self.through


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """One constraint on a column at an output, and the way that leads there, from the column on; `text` says it in words."""

    constraint: Operation
    path: tuple[Step, ...]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reveal:
    """What one output tells one recipient about one column.

    Attributes:
        output: name of the output; empty for what the whole release depends on.
        level: the most that it reveals: `plain` for the owner, whatever the output is.
        implied: whether the recipient is the owner, whom the constraints cannot bind.
        origins: one for each constraint, in the order of `OPERATIONS`.
    """

    column: ColumnRef
    output: str
    recipient: str
    level: Level
    implied: bool
    origins: tuple[Origin, ...]

    @property
    def constraints(self) -> tuple[Operation, ...]:
        """The set of operations that the terms on the column must allow the recipient."""
        return tuple(origin.constraint for origin in self.origins)


_Path = tuple[Step, ...]
_Flow = dict[tuple[ColumnRef, Kind], _Path]
"""What an expression depends on, with the first way that leads there."""

_Env = Mapping[tuple[str, str], _Flow]
_Found = dict[tuple[ColumnRef, str], dict[Operation, _Path]]


def reveals(plan: Plan, recipients: Iterable[str], sql: str = "") -> tuple[Reveal, ...]:
    """Return what every output reveals about every column to every recipient, sorted by column, output and recipient.

    Args:
        sql: the text that the plan was read from; without it, steps have no place.
    """
    found: _Found = {}
    for part in plan.parts:
        env = _Relations()
        env.take(part.source)
        for column, output, operation, path in (*_of_rows(part, env), *_of_outputs(part, env)):
            found.setdefault((column, output), {}).setdefault(operation, path)
    places = Places.of(sql)
    return tuple(
        _reveal(column, output, recipient, found[column, output], places)
        for column, output in sorted(found, key=lambda key: (str(key[0]), key[1]))
        for recipient in sorted(set(recipients))
    )


def _reveal(column: ColumnRef, output: str, recipient: str, ways: Mapping[Operation, _Path], places: Places) -> Reveal:
    owner = column.dataset.partition(".")[0] == recipient
    origins = tuple(
        _origin(column, output, operation, tuple(_placed(step, column, output, places) for step in ways[operation]))
        for operation in OPERATIONS
        if operation in ways
    )
    discovered = "discover" in ways or (output and any(step.through == "discovered GROUP BY" for path in ways.values() for step in path))
    levels = ["shared" if discovered and o.constraint == "output" else _level(o.constraint) for o in origins]
    level = "plain" if owner else max(levels, key=LEVELS.index)
    return Reveal(column=column, output=output, recipient=recipient, level=level, implied=owner, origins=origins)


def _origin(column: ColumnRef, output: str, constraint: Operation, path: _Path) -> Origin:
    if output:
        reached = f"decided what reaches output {output}" if constraint == "filter" else f"reached output {output}"
    else:
        reached = "reached the keys of the release" if constraint in ("group_by", "discover") else "decided which rows take part"
    text = f"column {column} {reached} through {', '.join(step.text for step in path)}"
    return Origin(constraint=constraint, path=path, text=text)


def origin_of(found: Iterable[Reveal], column: ColumnRef, operation: Operation, output: str | None) -> Origin | None:
    """Return how a column came to be used so at an output, or, for None, whatever the output."""
    for reveal in found:
        if reveal.column == column and (output is None or reveal.output == output):
            for origin in reveal.origins:
                if origin.constraint == operation:
                    return origin
    return None


def _level(operation: Operation) -> Level:
    return _LEVEL_OF.get(operation, "domain" if operation == "output" else "noised")


def _placed(step: Step, column: ColumnRef, output: str, places: Places) -> Step:
    return Step(through=step.through, inside=step.inside, place=places.find(step.through, step.inside, column.column, output))


class _Relations(dict[tuple[str, str], _Flow]):
    """Flows of the columns of all relations, by alias and name; those of tables are their own."""

    def __init__(self) -> None:
        super().__init__()
        self._datasets: dict[str, str] = {}

    def __missing__(self, key: tuple[str, str]) -> _Flow:
        alias, name = key
        return {(ColumnRef(dataset=self._datasets[alias], column=name), "value"): ()} if alias in self._datasets else {}

    def take(self, relation: Relation) -> None:
        """Add a relation, after everything that it reads."""
        if isinstance(relation, Table):
            self._datasets[relation.alias] = relation.dataset
        elif isinstance(relation, Join):
            self.take(relation.left)
            self.take(relation.right)
        else:
            self.take(relation.source)
            self[relation.alias, relation.unit] = _flow(relation.by, self, True)
            for key in relation.keys:
                self[relation.alias, key.name] = _after(_flow(key.expression, self, True), "GROUP BY", True)
            for column in relation.columns:
                argument = {} if column.argument is None else _aggregated(column.function, column.argument, self, True)
                self[relation.alias, column.name] = argument


def _of_rows(plan: Plan, env: _Env) -> Iterator[tuple[ColumnRef, str, Operation, _Path]]:
    """What decides which rows take part, and the keys of the cells."""
    for relation in relations(plan.source):
        if isinstance(relation, Join):
            for equality in relation.on:
                for side in (equality.left, equality.right):
                    yield from _all(_after(_flow(side, env, False), "JOIN", False), "join_key")
        elif isinstance(relation, PerUnit):
            conditions = [(key.expression, "GROUP BY") for key in relation.keys]
            conditions += [(relation.where, "WHERE")] if relation.where is not None else []
            for condition, clause in conditions:
                yield from _all(_after(_flow(condition, env, True), clause, True), "filter")
            for unit_column in relation.columns:
                decided = {key: path for key, path in env[relation.alias, unit_column.name].items() if key[1] == "decides"}
                yield from _all(decided, "filter")
    if plan.where is not None:
        yield from _all(_after(_flow(plan.where, env, False), "WHERE", False), "filter")
    for key in plan.group_by:
        flow = _after(_flow(key.expression, env, False), "GROUP BY", False)
        yield from _all(flow, "group_by")
        if key.source == "discovered":
            yield from _all(flow, "discover")


def _of_outputs(plan: Plan, env: _Env) -> Iterator[tuple[ColumnRef, str, Operation, _Path]]:
    for output in plan.outputs:
        if isinstance(output, KeyOutput):
            key = plan.group_by[output.key]
            clause = "discovered GROUP BY" if key.source == "discovered" else "GROUP BY"
            flow = _after(_flow(key.expression, env, False), clause, False)
            yield from ((column, output.name, "output", path) for (column, _), path in flow.items())
        else:
            yield from _of_aggregate(output, env)
    label = plan.training.label.column if plan.training is not None and plan.training.label is not None else None
    for item in plan.inputs:
        operation: Operation = "label" if item.name == label else "feature"
        for (column, _), path in _after(_flow(item.expression, env, False), "SELECT", False).items():
            yield column, item.name, operation, path


def _of_aggregate(output: AggregateOutput, env: _Env) -> Iterator[tuple[ColumnRef, str, Operation, _Path]]:
    if output.filter is not None:
        for (column, _), path in _after(_flow(output.filter, env, False), "FILTER", False).items():
            yield column, output.name, "filter", path
    for argument in output.arguments:
        for (column, kind), path in _aggregated(output.function, argument, env, False).items():
            yield column, output.name, OPERATION_OF[output.function] if kind == "value" else "filter", path


def _aggregated(function: str, argument: Expression, env: _Env, inside: bool) -> _Flow:
    """An aggregate of an expression. How often what is counted is not NULL tells of everything that it is computed from."""
    flow = _flow(argument, env, inside)
    if function == "COUNT" and not isinstance(argument, Ref):
        flow = {**{(column, "decides"): path for (column, _), path in flow.items()}, **flow}
    return _after(flow, function, inside)


def _flow(expression: Expression, env: _Env, inside: bool) -> _Flow:
    if isinstance(expression, Ref):
        return dict(env[expression.table, expression.column])
    if isinstance(expression, Constant):
        return {}
    arguments = [_flow(argument, env, inside) for argument in expression.arguments]
    if expression.function in _COMPARISONS:
        return _deciding(arguments, "")
    if expression.function == "nullif":
        return _merged([arguments[0], _deciding(arguments, "NULLIF", inside)])
    if expression.function == "case":
        return _merged([*arguments[1:-1:2], arguments[-1], _deciding(arguments[:-1:2], "CASE", inside)])
    return _merged(arguments)


def _deciding(flows: Iterable[_Flow], through: str, inside: bool = False) -> _Flow:
    found: _Flow = {}
    for flow in flows:
        for (column, _), path in (_after(flow, through, inside) if through else flow).items():
            found.setdefault((column, "decides"), path)
    return found


def _merged(flows: Iterable[_Flow]) -> _Flow:
    found: _Flow = {}
    for flow in flows:
        for key, path in flow.items():
            found.setdefault(key, path)
    return found


def _after(flow: _Flow, through: str, inside: bool) -> _Flow:
    step = Step(through=through, inside=inside)
    return {key: (*path, step) for key, path in flow.items()}


def _all(flow: _Flow, operation: Operation) -> Iterator[tuple[ColumnRef, str, Operation, _Path]]:
    return ((column, "", operation, path) for (column, _), path in flow.items())

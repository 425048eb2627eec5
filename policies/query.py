"""The typed canonical Plan: what a query means, with every name resolved. Policy, grants, enclaves and replay speak of this, not of SQL."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from policies.codec import omitted
from policies.declaration import Declaration
from policies.errors import Malformed
from policies.expression import Expression, Ref, refs
from policies.names import require_name
from policies.privacy import decimal_to_units
from policies.service import MODEL_COLUMN, Scoring
from policies.training import Training

MAX_SQL = 20_000
"""Longest query text, characters."""

MAX_CELLS = 10_000
"""Most cells with public keys, and most keys that a discovery may release."""

MAX_OUTPUTS = 100
MAX_KEYS = 16
MAX_SOURCES = 8
FRACTION_DECIMALS = 4

UnitFunction = Literal["COUNT", "SUM", "AVG", "MIN", "MAX", "COUNT_DISTINCT"]
"""Exact aggregates over one unit's own rows; their values stay inside."""

AggregateFunction = Literal[
    "COUNT", "COUNT_UNITS", "COUNT_DISTINCT", "SUM", "AVG", "VAR_POP", "VAR_SAMP", "STDDEV_POP", "STDDEV_SAMP",
    "QUANTILE", "MIN", "MAX", "COVAR_POP", "COVAR_SAMP", "CORR",
    "REGR_SLOPE", "REGR_INTERCEPT",
]  # fmt: skip
"""`COUNT` without an argument counts rows, `COUNT_UNITS` distinct privacy units. `MIN` and `MAX` are quantiles near 0 and 1.
`REGR_SLOPE` and `REGR_INTERCEPT` of y and x are those of the line through (x, y) with the least squares."""

RANKED: frozenset[AggregateFunction] = frozenset({"QUANTILE", "MIN", "MAX"})
"""Functions that tell a place among ordered values, which may be dates; all others but counts add up."""

ARGUMENTS: dict[str, tuple[int, int]] = {
    "COUNT": (0, 1), "COUNT_UNITS": (0, 0), "COVAR_POP": (2, 2), "COVAR_SAMP": (2, 2), "CORR": (2, 2),
    "REGR_SLOPE": (2, 2), "REGR_INTERCEPT": (2, 2),
}  # fmt: skip
"""Fewest and most arguments; one for every function that is not named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A dataset under an alias."""

    kind: Literal["table"] = "table"
    alias: str
    dataset: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Equality:
    """`left = right`, two columns of the same type on the two sides of a join."""

    left: Ref
    right: Ref


@dataclass(frozen=True, kw_only=True, slots=True)
class Join:
    """Inner join. Two protected sides are joined on their privacy unit at least; a public table on its whole unique key."""

    kind: Literal["join"] = "join"
    left: Relation
    right: Table | PerUnit
    on: tuple[Equality, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedExpression:
    """An expression that a subquery names."""

    name: str
    expression: Expression


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitColumn:
    """An aggregate over one unit's rows; without an argument the number of rows."""

    name: str
    function: UnitFunction
    argument: Expression | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PerUnit:
    """A subquery that aggregates per unit: one row per unit and combination of `keys`. Its columns are `unit`, keys and aggregates.

    Attributes:
        by: the column of the source that holds the privacy unit.
        unit: name under which the privacy unit goes on.
    """

    kind: Literal["per_unit"] = "per_unit"
    alias: str
    source: Relation
    by: Ref
    where: Expression | None = None
    unit: str
    keys: tuple[NamedExpression, ...] = ()
    columns: tuple[UnitColumn, ...] = ()


Relation: TypeAlias = Table | Join | PerUnit


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A group key.

    Attributes:
        source: where its values come from: `declared` (a domain that follows from the declarations), `public` (all values of a column of
            a public table) or `discovered` (what the data hold, of which values with enough units are released).
    """

    expression: Expression
    source: Literal["declared", "public", "discovered"]


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyOutput:
    """An output column that holds the group key at position `key`."""

    kind: Literal["key"] = "key"
    name: str
    key: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AggregateOutput:
    """An output column that holds a noised aggregate of the rows for which `filter` is true.

    Attributes:
        fraction: of `QUANTILE`: a decimal string between 0 and 1.
    """

    kind: Literal["aggregate"] = "aggregate"
    name: str
    function: AggregateFunction
    arguments: tuple[Expression, ...] = ()
    filter: Expression | None = None
    fraction: str | None = None

    def __post_init__(self) -> None:
        least, most = ARGUMENTS.get(self.function, (1, 1))
        if not least <= len(self.arguments) <= most:
            raise Malformed(f"{self.function} does not take {len(self.arguments)} arguments", where="arguments")
        if (self.fraction is not None) != (self.function == "QUANTILE"):
            raise Malformed("QUANTILE and only QUANTILE has a fraction", where="fraction")
        if self.fraction is not None and not 0 <= decimal_to_units(self.fraction, FRACTION_DECIMALS, "fraction") <= 10**FRACTION_DECIMALS:
            raise Malformed("must lie between 0 and 1", where="fraction")


_HAVING_VALUE = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,12})?\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Having:
    """A condition on a noised output: `output operator value`, the value a decimal string. Cells that fail it are left out."""

    output: str
    operator: Literal["=", "<>", "<", "<=", ">", ">="]
    value: str

    def __post_init__(self) -> None:
        if _HAVING_VALUE.match(self.value) is None:
            raise Malformed("HAVING compares with a decimal number of at most 15 digits and 12 decimals", where="having")


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """An output to order cells by."""

    output: str
    descending: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """Rows on which a trained model is tested, none of them of a table that it is trained on. Each input is one of the training's."""

    source: Relation
    where: Expression | None = None
    inputs: tuple[NamedExpression, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A query. Cells are the product of the public values of all keys, or the discovered combinations; one cell without keys.

    `having`, `order` and `limit` read noised outputs only, after the gate's noise.

    Attributes:
        training: what is learned from the rows besides; `inputs` are the columns that it names. Such a plan has one cell, whose figure is
            the number of its units.
        examined: the rows on which the trained model is tested, where they are others than held-out ones.
        scoring: which model scores the rows instead; `inputs` are the features and what tells rows apart. Such a plan has no outputs.
    """

    kind: Literal["plan/2"] = "plan/2"
    source: Relation
    where: Expression | None = None
    group_by: tuple[Key, ...] = ()
    outputs: tuple[KeyOutput | AggregateOutput, ...]
    having: tuple[Having, ...] = ()
    order: tuple[Order, ...] = ()
    limit: int | None = None
    training: Training | None = omitted(None)
    inputs: tuple[NamedExpression, ...] = omitted(())
    scoring: Scoring | None = omitted(None)
    examined: Examined | None = omitted(None)

    def __post_init__(self) -> None:
        names = [require_name(output.name, "outputs") for output in self.outputs]
        if len(set(names)) != len(names) or len(names) > MAX_OUTPUTS:
            raise Malformed(f"output names must be distinct, at most {MAX_OUTPUTS}", where="outputs")
        if bool(self.aggregates) != (self.scoring is None):
            raise Malformed("a plan needs an aggregate; one that scores rows has none", where="outputs")
        if len(self.group_by) > MAX_KEYS or len({key.expression for key in self.group_by}) != len(self.group_by):
            raise Malformed(f"group keys must be distinct, at most {MAX_KEYS}", where="group_by")
        if any(isinstance(output, KeyOutput) and not 0 <= output.key < len(self.group_by) for output in self.outputs):
            raise Malformed("an output names a group key that there is not", where="outputs")
        if {*(rule.output for rule in self.having), *(rule.output for rule in self.order)} - set(names):
            raise Malformed("HAVING and ORDER BY read outputs only", where="having")
        if self.limit is not None and not 0 <= self.limit <= MAX_CELLS:
            raise Malformed(f"must lie between 0 and {MAX_CELLS}", where="limit")
        self._require_rows()

    def _require_rows(self) -> None:
        names = [require_name(item.name, "inputs") for item in self.inputs]
        reads_rows = (self.training is not None) + (self.scoring is not None)
        if reads_rows > 1 or bool(reads_rows) != bool(names) or len(set(names)) != len(names):
            raise Malformed("a training, or a scoring, and its distinct inputs come together", where="inputs")
        if self.scoring is not None and (self.scoring.by not in names or len(names) < 2):
            raise Malformed("scored rows have a name, and a feature besides", where="inputs")
        if reads_rows and (self.group_by or self.having or self.order or self.limit is not None):
            raise Malformed("what reads rows has no groups and nothing to order", where="training")
        if (self.examined is not None) != (self.training is not None and self.training.examined):
            raise Malformed("a training whose test has rows of its own and those rows come together", where="examined")

    @property
    def aggregates(self) -> tuple[AggregateOutput, ...]:
        """The outputs that hold aggregates."""
        return tuple(output for output in self.outputs if isinstance(output, AggregateOutput))

    @property
    def sources(self) -> tuple[str, ...]:
        """The datasets that the plan reads, each once, in the order in which they appear; those of a test, or a model, come last."""
        model = () if self.scoring is None else (self.scoring.model,)
        return tuple(dict.fromkeys((*self.tables, *self.tested_tables, *model)))

    @property
    def tables(self) -> tuple[str, ...]:
        """The datasets whose rows the plan reads, without those of a test."""
        return tuple(dict.fromkeys(table.dataset for table in tables(self.source)))

    @property
    def tested_tables(self) -> tuple[str, ...]:
        """The datasets on whose rows a trained model is tested; none where persons are held out."""
        return () if self.examined is None else tuple(dict.fromkeys(table.dataset for table in tables(self.examined.source)))

    @property
    def parts(self) -> tuple[Plan, ...]:
        """The plan without its test and, where the test has rows of its own, a plan that trains on those instead."""
        if self.examined is None or self.training is None or self.training.test is None:
            return (self,)
        training = replace(self.training, test=None)
        rest = replace(self, training=training, examined=None)
        return (rest, replace(rest, source=self.examined.source, where=self.examined.where, inputs=self.examined.inputs))

    @property
    def discovers(self) -> bool:
        """Whether keys come from the data, for which delta0 is paid."""
        return any(key.source == "discovered" for key in self.group_by)


def tables(relation: Relation) -> Iterator[Table]:
    """Yield the tables of a relation from left to right."""
    if isinstance(relation, Table):
        yield relation
    elif isinstance(relation, Join):
        yield from tables(relation.left)
        yield from tables(relation.right)
    else:
        yield from tables(relation.source)


def relations(relation: Relation) -> Iterator[Relation]:
    """Yield a relation and every relation inside it, outermost first."""
    yield relation
    if isinstance(relation, Join):
        yield from relations(relation.left)
        yield from relations(relation.right)
    elif isinstance(relation, PerUnit):
        yield from relations(relation.source)


def expressions(plan: Plan) -> Iterator[Expression]:
    """Yield every expression of a plan, subqueries and joins included; of a test on other rows none."""
    for relation in relations(plan.source):
        if isinstance(relation, Join):
            for equality in relation.on:
                yield equality.left
                yield equality.right
        elif isinstance(relation, PerUnit):
            yield relation.by
            yield from (key.expression for key in relation.keys)
            yield from (column.argument for column in relation.columns if column.argument is not None)
            if relation.where is not None:
                yield relation.where
    if plan.where is not None:
        yield plan.where
    yield from (key.expression for key in plan.group_by)
    yield from (item.expression for item in plan.inputs)
    for output in plan.aggregates:
        yield from output.arguments
        if output.filter is not None:
            yield output.filter


def columns_read(plan: Plan, declarations: Mapping[str, Declaration]) -> dict[str, tuple[str, ...]]:
    """Return, per dataset, the sorted names of the columns that a run needs: those that the plan names, the unit and the unique key.

    Raises:
        Malformed: a dataset that is not declared.
    """
    needed: dict[str, set[str]] = {}
    for dataset in plan.sources:
        declaration = declared(dataset, declarations)
        needed[dataset] = {*declaration.unique_key, *([declaration.unit] if declaration.unit else [])}
    if plan.scoring is not None:
        needed[plan.scoring.model].add(MODEL_COLUMN)
    for part in plan.parts:  # an alias means another table in each
        by_alias = {table.alias: table.dataset for table in tables(part.source)}
        for expression in expressions(part):
            for ref in refs(expression):
                if ref.table in by_alias:
                    needed[by_alias[ref.table]].add(ref.column)
    return {dataset: tuple(sorted(names)) for dataset, names in needed.items()}


def declared(dataset: str, declarations: Mapping[str, Declaration]) -> Declaration:
    """Return the declaration of a dataset. Raises Malformed (code `unknown-dataset`)."""
    if dataset not in declarations:
        raise Malformed(f"no dataset `{dataset[:81]}` in this agreement", code="unknown-dataset")
    return declarations[dataset]

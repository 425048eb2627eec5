"""What is known of a relation before any data are seen: its columns, its privacy unit, and the most that one unit contributes to it.

Every sensitivity follows from here. One unit's rows in a table are at most `rows_per_unit`; a join multiplies them by the most partners
that a row can have, which is one where the partner's unique key is equated; a per-unit subquery has one row per unit and key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from policies.declaration import Column, Declaration
from policies.errors import Malformed
from policies.expression import DIVISION_DECIMALS, MAX_EXPRESSION_DECIMALS, MAX_VALUE, Expression, Ref, Typed, at_decimals, typed
from policies.names import require_name
from policies.query import MAX_CELLS, MAX_SOURCES, Join, Key, PerUnit, Plan, Relation, Table, UnitColumn, declared, relations, tables
from policies.recent import Recent
from policies.task import require_one_sum

POOLS = "pool."
"""Names of datasets begin so that are added up under encryption only (`policies.joint.Pool`)."""

MAX_ROWS = 10**9
"""Most rows of one unit in a relation."""

Name = tuple[str, str]
"""(table alias, column)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A relation.

    Attributes:
        scope: what is known of its columns.
        unit: the columns that hold the privacy unit, all equal in every row; none in a public relation.
        id_space: empty in a public relation.
        keys: sets of columns of which each identifies at most one row.
        rows: most rows of one unit.
    """

    scope: Mapping[Name, Typed]
    unit: frozenset[Name]
    id_space: str
    keys: tuple[frozenset[Name], ...]
    rows: int

    @property
    def public(self) -> bool:
        """Whether it protects nobody."""
        return not self.unit


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribution:
    """The most that one unit contributes to the cells of a plan.

    Attributes:
        cells: cells that it can reach.
        per_cell: rows in one cell.
        rows: rows over all cells.
        bounded_by_cell: whether the enclave bounds cells and rows per cell, because the declarations say so.
        bounded_by_rows: whether the enclave bounds rows at the tables. False where the bounds by cell are as strict.
    """

    cells: int
    per_cell: int
    rows: int
    bounded_by_cell: bool
    bounded_by_rows: bool

    @property
    def squared(self) -> int:
        """Square of the L2 norm of one unit's row counts over cells: sum c_i^2 <= max(c) * sum c_i."""
        return self.per_cell * self.rows


def column_type(column: Column) -> Typed:
    """What is known of a declared column as an expression reads it: clamped, also where it is a key, whose raw value joins use."""
    lower, upper = (None, None) if column.lower is None else column.bounds
    domain = tuple(sorted(column.domain, key=lambda v: (isinstance(v, str), v))) if column.domain else None
    return Typed(type=column.type, decimals=column.decimals, lower=lower, upper=upper, nullable=column.nullable, domain=domain)


def shape(relation: Relation, declarations: Mapping[str, Declaration]) -> Shape:
    """Return what is known of a relation.

    Raises:
        Malformed: an unknown dataset or column, a repeated alias, a join that its kind does not allow, or too many rows per unit.
    """
    if isinstance(relation, Table):
        return _TABLES(declared(relation.dataset, declarations), word=relation.alias)
    found = _join(relation, declarations) if isinstance(relation, Join) else _per_unit(relation, declarations)
    if found.rows > MAX_ROWS:
        raise Malformed(f"one unit could have more than {MAX_ROWS} rows in the join", code="join-too-wide")
    return found


def _table(declaration: Declaration, alias: str = "") -> Shape:
    scope = {(alias, column.name): column_type(column) for column in declaration.columns}
    key = frozenset((alias, name) for name in declaration.unique_key)
    unit = frozenset() if declaration.public else frozenset({(alias, declaration.unit)})
    return Shape(scope=MappingProxyType(scope), unit=unit, id_space=declaration.id_space, keys=(key,), rows=declaration.rows_per_unit)


_TABLES = Recent(_table)


def _join(join: Join, declarations: Mapping[str, Declaration]) -> Shape:
    left, right = shape(join.left, declarations), shape(join.right, declarations)
    if {alias for alias, _ in left.scope} & {alias for alias, _ in right.scope}:
        raise Malformed("two tables of the query have the same alias", code="sql")
    pairs = [((e.left.table, e.left.column), (e.right.table, e.right.column)) for e in join.on]
    _require_pairs(pairs, left, right)
    one_right = any(key <= {b for _, b in pairs} for key in right.keys)
    one_left = any(key <= {a for a, _ in pairs} for key in left.keys)
    both = not left.public and not right.public
    if both:
        _require_same_units(pairs, left, right)
    elif not (one_right if right.public else one_left):
        raise Malformed("a public table is joined on its whole unique key", code="join-key")
    rows = left.rows if right.public else right.rows
    if both:
        rows = min(left.rows * (1 if one_right else right.rows), right.rows * (1 if one_left else left.rows))
    keys = [*(left.keys if one_right else ()), *(right.keys if one_left else ())]
    return Shape(
        scope={**left.scope, **right.scope},
        unit=left.unit | right.unit,
        id_space=left.id_space or right.id_space,
        keys=tuple(keys) or tuple(a | b for a in left.keys for b in right.keys),
        rows=rows,
    )


def _require_pairs(pairs: list[tuple[Name, Name]], left: Shape, right: Shape) -> None:
    if not pairs:
        raise Malformed("a join needs an equality; cross joins are not accepted", code="join-key")
    for a, b in pairs:
        if a not in left.scope or b not in right.scope:
            raise Malformed(f"`{'.'.join(a)}` and `{'.'.join(b)}` are not columns of the two sides", code="unknown-column")
        if left.scope[a].type not in ("integer", "text", "date") or left.scope[a].type != right.scope[b].type:
            raise Malformed(f"`{a[1]}` and `{b[1]}` cannot be joined: keys have one type, not decimal", code="join-key")


def _require_same_units(pairs: list[tuple[Name, Name]], left: Shape, right: Shape) -> None:
    if left.id_space != right.id_space:
        why = f"the id spaces `{left.id_space}` and `{right.id_space}` do not identify the same privacy units; one id space is joined"
        raise Malformed(why, code="join-unit")
    if not any(a in left.unit and b in right.unit for a, b in pairs):
        # Aliases of a plan are not those of the text.
        units = ", ".join(sorted({column for _, column in left.unit | right.unit}))
        raise Malformed(f"protected tables are joined on their privacy unit ({units}), alone or with other columns", code="join-unit")


def _per_unit(relation: PerUnit, declarations: Mapping[str, Declaration]) -> Shape:
    source = shape(relation.source, declarations)
    if source.public:
        raise Malformed("a subquery per unit reads a protected table", code="sql")
    if relation.where is not None:
        require_condition(relation.where, source.scope)
    if (relation.by.table, relation.by.column) not in source.unit:
        raise Malformed(f"subquery `{relation.alias}` must group by the privacy unit, not by `{relation.by}`", code="unit-missing")
    unit_type = source.scope[relation.by.table, relation.by.column]
    scope: dict[Name, Typed] = {(relation.alias, relation.unit): unit_type}
    for key in relation.keys:
        scope[relation.alias, key.name] = typed(key.expression, source.scope)
    for column in relation.columns:
        scope[relation.alias, column.name] = _unit_column(column, source)
    if len(scope) != 1 + len(relation.keys) + len(relation.columns):
        raise Malformed(f"subquery `{relation.alias}` names a column twice", code="sql")
    names = (relation.unit, *(key.name for key in relation.keys))
    return Shape(
        scope=scope,
        unit=frozenset({(relation.alias, relation.unit)}),
        id_space=source.id_space,
        keys=(frozenset((relation.alias, name) for name in names),),
        # Not the number of declared key values: data may hold others.
        rows=source.rows if relation.keys else 1,
    )


def _unit_column(column: UnitColumn, source: Shape) -> Typed:
    found = _per_unit_value(column, source)
    if found.lower is not None and found.upper is not None and max(abs(found.lower), abs(found.upper)) > MAX_VALUE:
        raise Malformed(f"{column.function} per unit could be too large for exact arithmetic", code="bounds-too-wide")
    return found


def _per_unit_value(column: UnitColumn, source: Shape) -> Typed:
    rows = source.rows
    if column.argument is None:
        if column.function != "COUNT":
            raise Malformed(f"{column.function} takes an argument", code="sql")
        return Typed(type="integer", lower=1, upper=rows)
    value = typed(column.argument, source.scope)
    if column.function in ("COUNT", "COUNT_DISTINCT"):
        return Typed(type="integer", lower=0, upper=rows)
    if column.function in ("MIN", "MAX"):
        if value.type not in ("integer", "decimal", "date"):
            raise Malformed(f"{column.function} takes numbers or dates", code="sql")
        return replace(value, domain=None)
    if not value.numeric:
        raise Malformed(f"{column.function} takes numbers", code="sql")
    lower, upper = value.bounds(f"{column.function} of a column")
    if column.function == "SUM":
        return replace(value, lower=lower if lower > 0 else rows * lower, upper=upper if upper < 0 else rows * upper, domain=None)
    return replace(at_decimals(value, min(value.decimals + DIVISION_DECIMALS, MAX_EXPRESSION_DECIMALS)), domain=None, type="decimal")


def require_condition(condition: Expression, scope: Mapping[Name, Typed]) -> None:
    """Raise Malformed unless an expression is a condition."""
    if typed(condition, scope).type != "boolean":
        raise Malformed("a condition must be true or false", code="sql")


def require_sound(plan: Plan, declarations: Mapping[str, Declaration]) -> Shape:
    """Hold a plan, whoever sent it, to what the sensitivities rely on, and return the shape of its source; found once per plan.

    Raises:
        Malformed: whatever `shape` refuses; a plan without a protected table; too many tables; a key whose values do not come from where
            it says; HAVING values, filters or arguments of the wrong type.
    """
    read = [declarations[dataset] for dataset in plan.sources if dataset in declarations]
    if plan.sources != tuple(declaration.dataset for declaration in read):
        return _sound(plan, declarations)
    return _SOUND(plan, *read)


def _sound(plan: Plan, declarations: Mapping[str, Declaration]) -> Shape:
    if len(list(tables(plan.source))) > MAX_SOURCES:
        raise Malformed(f"at most {MAX_SOURCES} tables may be joined", code="sql")
    # Columns are looked up by alias wherever a plan is read: one alias for two relations would hide a use of one behind the other.
    aliases = [relation.alias for relation in relations(plan.source) if not isinstance(relation, Join)]
    if len(set(aliases)) != len(aliases):
        raise Malformed("two tables or subqueries of the plan have the same alias", code="sql")
    _require_names(plan)
    found = shape(plan.source, declarations)
    if found.public:
        raise Malformed("the query reads public tables only; it needs no privacy and no run", code="public-only")
    for condition in (plan.where, *(output.filter for output in plan.aggregates)):
        if condition is not None:
            require_condition(condition, found.scope)
    for key in plan.group_by:
        _require_key(key, plan, found, declarations)
    for output in plan.aggregates:
        for argument in output.arguments:
            typed(argument, found.scope)
    for item in plan.inputs:
        typed(item.expression, found.scope)
    if any(dataset.startswith(POOLS) for dataset in plan.sources):
        if plan.scoring is not None:
            raise Malformed("a model scores rows inside an enclave; the rows of a pool are in none", code="sql")
        if plan.training is not None:
            require_one_sum(plan.training)
    if plan.training is not None and [(o.function, o.filter) for o in plan.aggregates] != [("COUNT_UNITS", None)]:
        raise Malformed("a plan that trains counts its units, and nothing else", where="outputs")
    if plan.examined is not None:
        _require_like(plan, found, _sound(plan.parts[1], declarations))
    return found


def _require_like(plan: Plan, found: Shape, tested: Shape) -> None:
    """The rows of a test have the training's columns, of the same types, and come from other tables."""
    assert plan.examined is not None
    both = sorted({*plan.tables} & {*plan.tested_tables})
    if both:
        raise Malformed(f"`{both[0]}` takes part in the training; a test has other tables", where="test", code="test-table")
    here, there = ({item.name: item.expression for item in inputs} for inputs in (plan.inputs, plan.examined.inputs))
    if here.keys() != there.keys():
        name = min(here.keys() ^ there.keys())
        raise Malformed(f"training and test must have the same columns; `{name}` stands in one only", where="test", code="test-columns")
    for name, expression in here.items():
        trained, other = typed(expression, found.scope), typed(there[name], tested.scope)
        if (trained.type, trained.decimals) != (other.type, other.decimals):
            message = f"`{name}` is a {trained.type} of {trained.decimals} decimals in the training, and in the test a {other.type} of "
            raise Malformed(f"{message}{other.decimals}", where="test", code="test-columns")


_SOUND = Recent(lambda plan, *read: _sound(plan, {declaration.dataset: declaration for declaration in read}))


def _require_names(plan: Plan) -> None:
    """Names become identifiers of another language inside; HAVING reads noised outputs, never keys."""
    for relation in relations(plan.source):
        if not isinstance(relation, Join):
            require_name(relation.alias, "alias")
        if isinstance(relation, PerUnit):
            for name in (relation.unit, *(key.name for key in relation.keys), *(column.name for column in relation.columns)):
                require_name(name, "name")
    aggregates = {output.name for output in plan.aggregates}
    for rule in plan.having:
        if rule.output not in aggregates:
            raise Malformed(f"HAVING reads noised aggregates; `{rule.output}` is a group key", code="sql")


def _require_key(key: Key, plan: Plan, found: Shape, declarations: Mapping[str, Declaration]) -> None:
    known = typed(key.expression, found.scope)
    if known.type == "decimal":
        raise Malformed("a decimal is no group key; group by CAST(x AS INTEGER), FLOOR(x) or a CASE", code="decimal-key")
    if key.source == "declared" and known.domain is None:
        raise Malformed(
            f"GROUP BY `{key_name(key)}` needs a declared domain, a public table's column, or delta0 to discover it", code="domain-missing"
        )
    if key.source == "public" and not (isinstance(key.expression, Ref) and _is_public(key.expression, plan, declarations)):
        raise Malformed(f"`{key_name(key)}` is no column of a public table", code="domain-missing")


def _is_public(ref: Ref, plan: Plan, declarations: Mapping[str, Declaration]) -> bool:
    # A column of a public table inside a per-unit subquery belongs to the subquery, whose alias is another.
    return any(table.alias == ref.table and declared(table.dataset, declarations).public for table in tables(plan.source))


def key_name(key: Key) -> str:
    """A key for people: the column, or `expression`."""
    return str(key.expression) if isinstance(key.expression, Ref) else "expression"


def domain_of(key: Key, scope: Mapping[Name, Typed]) -> tuple[int | str | None, ...] | None:
    """All values of a declared key, NULL last where it can be; None where only a run knows them."""
    known = typed(key.expression, scope)
    if key.source != "declared" or known.domain is None:
        return None
    return (*known.domain, None) if known.nullable else known.domain


def public_cells(plan: Plan, scope: Mapping[Name, Typed]) -> int | None:
    """Number of cells, where all keys are declared; else None. Raises Malformed (code `too-many-cells`)."""
    total: int | None = 1
    known = 1
    for key in plan.group_by:
        domain = domain_of(key, scope)
        if domain is None:
            total = None
        else:
            known *= len(domain)
        if known > MAX_CELLS:
            raise Malformed(f"the group keys have more than {MAX_CELLS} combinations", code="too-many-cells")
    return None if total is None else known


def contribution(plan: Plan, declarations: Mapping[str, Declaration]) -> Contribution:
    """Return the most that one unit contributes to the cells of a plan. Raises Malformed."""
    found = require_sound(plan, declarations)
    reachable = public_cells(plan, found.scope)
    bounds = [declared(dataset, declarations) for dataset in plan.tables]
    groups = [b.groups_per_unit for b in bounds if b.groups_per_unit is not None]
    per_group = [b.rows_per_group for b in bounds if b.rows_per_group is not None]
    per_cell = min([found.rows, *per_group])
    cells = min([found.rows, *groups, *([] if reachable is None else [reachable])])
    rows = min(found.rows, cells * per_cell)
    # Bounds by cell may stand in for bounds by row; then they are enforced even where they say the same.
    instead = isinstance(plan.source, Table) and bool(groups) and cells * per_cell <= found.rows
    return Contribution(
        cells=cells,
        per_cell=per_cell,
        rows=rows,
        bounded_by_cell=instead or (bool(groups) and (cells < found.rows or per_cell < found.rows)),
        bounded_by_rows=not instead,
    )

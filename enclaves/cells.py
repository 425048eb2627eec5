"""The SQL of exact statistics: rows to (unit, cell) pairs, pairs to cells, and the two that need a look at values: bins and distinct."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enclaves.kit.expressions import Fragment, expression_sql, joined, listed
from enclaves.kit.relations import Rows
from policies.canonical import MAX_INTEGER
from policies.expression import MAX_TEXT, MAX_VALUE, Expression, Typed, typed
from policies.query import Plan
from policies.schedule import Measured, Statistic, bin_edges
from policies.shape import Contribution

Key = tuple[int | str | None, ...]

UNWRITABLE = r"[\x00-\x08\x0B-\x1F\x7F-\x{9F}]"
"""What no text of a release may hold (`policies.codec.is_printable`), for the database."""

FEW = 50
"""Values of a domain that are listed in the text of a query; longer ones travel as one parameter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How the rows of a plan are looked at.

    Attributes:
        base: SELECT of the unit `u`, the keys `g0`... and the values `e0`... of every row that counts.
        keys: names of the keys.
        totals: by statistic, how a sum over rows gives it, and the largest amount of one row.
        by_unit: whether rows are first added up per unit and cell.
        values: names and types of the expressions that statistics read.
        widest: most rows of one unit in one cell before it is bounded.
        unit: what is known of the privacy unit.
    """

    base: Fragment
    keys: tuple[str, ...]
    totals: dict[str, tuple[Measured, int]]
    by_unit: bool
    values: dict[Expression, tuple[str, Typed]]
    bound: Contribution
    widest: int
    unit: Typed


def layout(
    plan: Plan,
    statistics: Sequence[Statistic],
    source: Rows,
    bound: Contribution,
    domains: Sequence[tuple[int | str | None, ...] | None],
    widest: int,
) -> Layout:
    """Return how to compute `statistics` over the rows of `plan`, of which those with keys outside their domains take no part."""
    scope = source.columns.scope
    wanted = [e for s in statistics for e in (*s.measured.arguments, s.measured.filter) if e is not None]
    values = {e: (f"e{index}", typed(e, scope)) for index, e in enumerate(dict.fromkeys(wanted))}
    keys = [_key_value(expression_sql(key.expression, source.columns), typed(key.expression, scope)) for key in plan.group_by]
    assert source.unit is not None
    selected = [
        Fragment(sql=f"{source.unit} AS u"),
        *(joined(f"{{}} AS g{index}", key) for index, key in enumerate(keys)),
        *(joined(f"{{}} AS {name}", expression_sql(e, source.columns)) for e, (name, _) in values.items()),
    ]
    conditions = [] if plan.where is None else [expression_sql(plan.where, source.columns)]
    inner = joined("SELECT {} FROM {}", listed(", ", selected), source.source)
    if conditions:
        inner = joined("{} WHERE {}", inner, conditions[0])
    kept = [
        _within(f"g{index}", typed(key.expression, scope), domain)
        for index, (key, domain) in enumerate(zip(plan.group_by, domains, strict=True))
    ]
    outer = [fragment for fragment in kept if fragment is not None]
    base = joined("SELECT * FROM ({}) AS b WHERE {}", inner, listed(" AND ", outer)) if outer else inner
    plain = {s.name: (s.measured, _largest(s.measured, values)) for s in statistics if s.measured.quantity not in ("bins", "distinct")}
    # With at most one row of a unit in a cell, rows are units.
    counts_units = bound.per_cell > 1 and any(measured.quantity == "units" for measured, _ in plain.values())
    return Layout(
        base=base,
        keys=tuple(f"g{index}" for index in range(len(keys))),
        totals=plain,
        by_unit=bound.bounded_by_cell or counts_units,
        values=values,
        bound=bound,
        widest=widest,
        unit=next(scope[name] for name, raw in source.raw.items() if raw == source.unit),
    )


def _key_value(value: Fragment, kind: Typed) -> Fragment:
    return joined("({})::BIGINT", value) if kind.type == "boolean" else value


def _within(name: str, kind: Typed, domain: tuple[int | str | None, ...] | None) -> Fragment | None:
    """The condition that a key has a value of its domain; of a discovered key, that it can be written down."""
    if domain is None:
        if kind.type == "text":
            return Fragment(
                sql=f"(({name} IS NULL OR length({name}) <= {MAX_TEXT}) AND NOT coalesce(regexp_matches({name}, '{UNWRITABLE}'), false))"
            )
        return Fragment(sql=f"({name} BETWEEN {-MAX_INTEGER} AND {MAX_INTEGER} OR {name} IS NULL)")
    values = [value for value in domain if value is not None]
    whole = [value for value in values if isinstance(value, int)]
    if whole and len(whole) == len(values) and max(whole) - min(whole) + 1 == len(set(whole)):
        inside = Fragment(sql=f"{name} BETWEEN {min(whole)} AND {max(whole)}")
    elif not values:
        inside = Fragment(sql="false")
    elif len(values) <= FEW:
        inside = Fragment(sql=f"{name} IN ({', '.join('?' for _ in values)})", parameters=tuple(values))
    else:
        array = "VARCHAR" if kind.type == "text" else "BIGINT"
        inside = Fragment(sql=f"{name} IN (SELECT unnest(?::{array}[]))", parameters=(values,))
    return joined(f"({{}} OR {name} IS NULL)", inside) if None in domain else inside


def _largest(measured: Measured, values: dict[Expression, tuple[str, Typed]]) -> int:
    """Largest absolute amount that one row adds."""
    if measured.quantity not in ("sum", "squares", "product"):
        return 1
    reach = [_reach(measured, values, index) for index in range(len(measured.centres))]
    whole = {"sum": reach[0], "squares": reach[0] ** 2, "product": reach[0] * reach[-1]}[measured.quantity]
    return -(-whole // measured.step)


def _reach(measured: Measured, values: dict[Expression, tuple[str, Typed]], index: int) -> int:
    lower, upper = values[measured.arguments[index]][1].bounds("adding up")
    return max(upper - measured.centres[index], measured.centres[index] - lower, 1)


def _condition(measured: Measured, found: Layout) -> str:
    """Which rows count: the filter, and no argument NULL; empty where all do."""
    terms = [found.values[measured.filter][0]] if measured.filter is not None else []
    terms += [f"{name} IS NOT NULL" for name, kind in (found.values[a] for a in measured.arguments) if kind.nullable]
    return " AND ".join(terms)


def _amount(measured: Measured, found: Layout) -> str:
    """SQL of what one row adds to a sum, in 64 bits."""
    parts = []
    for index, centre in enumerate(measured.centres):
        name, reach = found.values[measured.arguments[index]][0], _reach(measured, found.values, index)
        huge = "::HUGEINT" if reach > MAX_VALUE or (measured.quantity != "sum" and reach**2 > MAX_VALUE) else ""
        huge = "::HUGEINT" if measured.quantity == "product" and _largest(measured, found.values) * measured.step > MAX_VALUE else huge
        parts.append(f"({name}{huge} - ({centre}))" if centre or huge else name)
    if measured.quantity == "squares":
        parts = [parts[0], parts[0]]
    product = " * ".join(parts)
    return product if measured.step == 1 else f"(({product}) // {measured.step})::BIGINT"


def _total(measured: Measured, found: Layout) -> str:
    """SQL of a statistic over a group of rows: not NULL."""
    condition = _condition(measured, found)
    only = f" FILTER (WHERE {condition})" if condition else ""
    if measured.quantity in ("rows", "units"):
        return f"count(*){only}"
    return f"coalesce(sum({_amount(measured, found)}){only}, 0)"


def added(found: Layout) -> tuple[str, ...]:
    """The statistics of `totals` to which rows add different amounts: not those that count every row or unit."""
    plain = ("rows", "units")
    return tuple(name for name, (measured, _) in found.totals.items() if measured.quantity not in plain or _condition(measured, found))


def row_query(found: Layout) -> Fragment:
    """SELECT of unit `u`, key and what the row adds to each statistic of `added`: `a0`..., in 64 bits."""
    amounts = []
    for index, name in enumerate(added(found)):
        measured = found.totals[name][0]
        condition = _condition(measured, found)
        value = "1" if measured.quantity in ("rows", "units") else f"coalesce({_amount(measured, found)}, 0)"
        amounts.append(f", ({f'CASE WHEN {condition} THEN {value} ELSE 0 END' if condition else value})::BIGINT AS a{index}")
    return joined(f"SELECT {', '.join(('u', *found.keys))}{''.join(amounts)} FROM ({{}}) AS rows_", found.base)  # noqa: S608


def pair_query(found: Layout) -> Fragment:
    """CREATE TABLE pairs: per unit `u` and key the number `n` of rows and every total `v0`..."""
    totals = []
    for index, (measured, largest) in enumerate(found.totals.values()):
        value = _total(measured, found)
        if measured.quantity not in ("rows", "units") and largest * found.widest <= MAX_VALUE:
            value = f"({value})::BIGINT"
        if measured.quantity == "units":
            condition = _condition(measured, found)
            value = f"coalesce(bool_or({condition}), false)::BIGINT" if condition else "1::BIGINT"
        totals.append(f", {value} AS v{index}")
    group = ", ".join(("u", *found.keys))
    added = "".join(totals)
    return joined(f"CREATE TABLE pairs AS SELECT {group}, count(*) AS n{added} FROM ({{}}) AS rows_ GROUP BY {group}", found.base)  # noqa: S608


def cell_query(found: Layout) -> Fragment:
    """SELECT of key and totals per cell, in the order of `totals`."""
    keys = "".join(f"{name}, " for name in found.keys)
    group = f" GROUP BY {', '.join(found.keys)}" if found.keys else ""
    items = list(found.totals.values())
    if found.by_unit:
        totals = [f"coalesce(sum({_weighted(f'v{i}', m, largest, found)}), 0)" for i, (m, largest) in enumerate(items)]
        return Fragment(sql=f"SELECT {keys}{', '.join([*totals, 'count(*)'])} FROM pairs{group}")  # noqa: S608
    totals = [_total(measured, found) for measured, _ in items]
    return joined(f"SELECT {keys}{', '.join([*totals, 'count(*)'])} FROM ({{}}) AS rows_{group}", found.base)  # noqa: S608


def _weighted(value: str, measured: Measured, largest: int, found: Layout) -> str:
    """A unit's total in a cell, as that of at most `per_cell` rows.

    floor((v * R + h) / n) for a remainder h that unit and key decide; since |v| <= n * largest it is at most R * largest in size.
    """
    most = found.bound.per_cell
    if not found.bound.bounded_by_cell or measured.quantity == "units":
        return value
    huge = "::HUGEINT" if (2 * largest * most + 1) * found.widest > MAX_VALUE else ""
    shifted = f"{value}{huge} * {most} + {_remainder(found)} + n{huge} * {largest * most}"
    return f"CASE WHEN n > {most} THEN ({shifted}) // n - {largest * most} ELSE {value} END"


def _remainder(found: Layout) -> str:
    """A number in [0, n) that only unit and key decide, spread evenly over units."""
    return f"(hash({', '.join(('u', *found.keys))}, 1) % n::UBIGINT)::BIGINT"


def _matched(found: Layout) -> str:
    return " AND ".join(["s.u = pairs.u", *(f"s.{name} IS NOT DISTINCT FROM pairs.{name}" for name in found.keys)])


def bin_query(found: Layout, measured: Measured) -> Fragment:
    """SELECT of key, bin and number of rows.

    Bin i holds lower + floor(width * i / bins) <= x, which is i <= ((x - lower + 1) * bins - 1) / width. Where a unit has too many rows,
    its rows up to and including each bin are weighted as one total, so that its bins add up to `per_cell` at most.
    """
    name, kind = found.values[measured.arguments[0]]
    edges = bin_edges(measured, kind)
    lower, width = edges[0], edges[-1] - edges[0]
    huge = "::HUGEINT" if (width + 1) * measured.bins + abs(lower) > MAX_VALUE else ""
    place = f"((({name}{huge} - ({lower}) + 1) * {measured.bins} - 1) // {width})::BIGINT"
    condition = _condition(measured, found) or "true"
    keys = "".join(f"{key}, " for key in found.keys)
    if not found.bound.bounded_by_cell:
        return joined(f"SELECT {keys}{place} AS b, count(*) FROM ({{}}) AS rows_ WHERE {condition} GROUP BY {keys}b", found.base)  # noqa: S608
    most = found.bound.per_cell
    counted = f"SELECT u, {keys}{place} AS b, count(*) AS c FROM ({{}}) AS rows_ WHERE {condition} GROUP BY u, {keys}b"  # noqa: S608
    owned = f"SELECT s.*, n, sum(c) OVER (PARTITION BY s.u{''.join(', s.' + key for key in found.keys)} ORDER BY b) AS upto"
    held = f"{owned} FROM ({counted}) AS s JOIN pairs ON {_matched(found)}"
    turn = _remainder(found)
    weight = f"CASE WHEN n > {most} THEN (upto * {most} + {turn}) // n - ((upto - c) * {most} + {turn}) // n ELSE c END"
    return joined(f"SELECT {keys}b, sum({weight}) FROM ({held}) AS weighed GROUP BY {keys}b", found.base)  # noqa: S608


def distinct_query(found: Layout, measured: Measured) -> Fragment:
    """SELECT of key and number of distinct values; of each unit at most `per_cell` values per cell count, the first by their hash."""
    name = found.values[measured.arguments[0]][0]
    condition = " AND ".join(filter(None, [_condition(measured, found), f"{name} IS NOT NULL"]))
    keys = "".join(f"{key}, " for key in found.keys)
    group = f" GROUP BY {', '.join(found.keys)}" if found.keys else ""
    if not found.bound.bounded_by_cell:
        return joined(f"SELECT {keys}count(DISTINCT {name}) FROM ({{}}) AS rows_ WHERE {condition}{group}", found.base)  # noqa: S608
    single = f"SELECT DISTINCT u, {keys}{name} AS x FROM ({{}}) AS rows_ WHERE {condition}"  # noqa: S608
    partition = ", ".join(("s.u", *(f"s.{key}" for key in found.keys)))
    held = (
        f"SELECT s.* FROM ({single}) AS s JOIN pairs ON {_matched(found)} "  # noqa: S608
        f"QUALIFY row_number() OVER (PARTITION BY {partition} ORDER BY hash(s.u, s.x), s.x) <= {found.bound.per_cell}"
    )
    return joined(f"SELECT {keys}count(DISTINCT x) FROM ({held}) AS chosen{group}", found.base)  # noqa: S608

"""From bounded tables to exact aggregates per cell. Exact values stay inside; only the gate sees them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from enclaves.kit.tables import condition_sql, load_bounded, open_database, quote
from policies.declaration import Declaration
from policies.grant import Grant
from policies.privacy import Statistic
from policies.query import MAX_SUM, Plan

Key = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exact:
    """Exact vectors, one per statistic, over `keys`: all combinations of the declared domains, whether or not the data have them."""

    keys: tuple[Key, ...]
    vectors: dict[str, tuple[int, ...]]


def aggregate(grant: Grant, declarations: Mapping[str, Declaration], tables: Mapping[str, pa.Table], *, memory_mib: int) -> Exact:
    """Return the exact value of every statistic of the grant for every cell.

    Raises:
        OutOfMemory: the tables need more than `memory_mib`; nothing that depends on single rows.
    """
    plan = grant.plan
    alias = {dataset: f"t{index}" for index, dataset in enumerate(plan.sources)}
    with open_database(memory_mib=memory_mib, threads=2) as connection:
        for read in grant.reads:
            load_bounded(connection, alias[read.dataset], tables[read.dataset], declarations[read.dataset], read.columns)
        sql, parameters = _query(plan, grant.statistics, declarations, alias)
        rows = connection.execute(sql, parameters).fetchall()
    return _scatter(rows, plan, grant.statistics, declarations)


def _query(
    plan: Plan, statistics: tuple[Statistic, ...], declarations: Mapping[str, Declaration], alias: dict[str, str]
) -> tuple[str, list[str | int]]:
    keys = [f"{quote(alias[k.dataset])}.{quote(k.column)}" for k in plan.group_by]
    first = plan.sources[0]
    unit = f"{quote(alias[first])}.{quote(declarations[first].unit)}"
    values = [_value(statistic, declarations, alias, unit) for statistic in statistics]
    source = quote(alias[first])
    if plan.join:
        source += f" JOIN {quote(alias[plan.sources[1]])} ON {_joined(plan, declarations, alias)}"
    conditions, parameters = [], []
    for key, reference in zip(keys, plan.group_by, strict=True):
        domain = declarations[reference.dataset].column(reference.column).domain or ()
        conditions.append(f"{key} IN ({', '.join('?' for _ in domain)})")
        parameters += list(domain)
    if plan.where is not None:
        fragment = condition_sql(plan.where, alias)
        conditions.append(fragment.sql)
        parameters += list(fragment.parameters)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    group = f" GROUP BY {', '.join(keys)}" if keys else ""
    return f"SELECT {', '.join(keys + values)} FROM {source}{where}{group}", parameters  # noqa: S608 - quoted names, parameters


def _joined(plan: Plan, declarations: Mapping[str, Declaration], alias: dict[str, str]) -> str:
    """Equality of the join columns that can neither fail on a row nor match one key with two of the other side.

    Left to itself, the database would read text as a number: it would fail at "x", and take "1" and "01" for one key.
    """
    left, right = plan.sources
    terms = []
    for name in plan.join:
        sides = [f"{quote(alias[dataset])}.{quote(name)}" for dataset in plan.sources]
        if declarations[left].column(name).type != declarations[right].column(name).type:
            sides = [f"{side}::VARCHAR" for side in sides]
        terms.append(" = ".join(sides))
    return " AND ".join(terms)


def _value(statistic: Statistic, declarations: Mapping[str, Declaration], alias: dict[str, str], unit: str) -> str:
    if statistic.quantity == "units":
        return f"count(DISTINCT {unit})"
    if statistic.column is None:
        return "count(*)"
    dataset, _, name = statistic.column.rpartition(".")
    column = f"{quote(alias[dataset])}.{quote(name)}"
    if statistic.quantity == "present":
        return f"count({column})"
    # Loading clamps every column but the keys, which would merge units; in a sum they are held to their bounds too.
    lower, upper = declarations[dataset].column(name).bounds
    cell = f"CASE WHEN {column} > {upper} THEN {upper} WHEN {column} < {lower} THEN {lower} ELSE {column} END"
    return f"coalesce(sum(({cell})::HUGEINT), 0)"


def _scatter(rows: list[tuple[int, ...]], plan: Plan, statistics: tuple[Statistic, ...], declarations: Mapping[str, Declaration]) -> Exact:
    width = len(plan.group_by)
    domains = [declarations[k.dataset].column(k.column).domain or () for k in plan.group_by]
    keys = tuple(itertools.product(*domains))
    found: dict[Key, tuple[int, ...]] = {tuple(row[:width]): row[width:] for row in rows}
    nothing = (0,) * len(statistics)
    vectors = {
        statistic.name: tuple(max(-MAX_SUM, min(MAX_SUM, int(found.get(key, nothing)[index]))) for key in keys)
        for index, statistic in enumerate(statistics)
    }
    return Exact(keys=keys, vectors=vectors)

"""From tables to exact, bounded aggregates per cell. Exact values stay inside; only the gate sees them.

Where the declarations bound what a unit adds to cells, rows are first added up per unit and cell. A unit keeps its first `cells` cells by a
hash of unit and key. Where it has n > `per_cell` rows in a cell, each of its totals v there counts as v * per_cell / n: as `per_cell` rows
like its average one. No row of anybody else takes part in either, and no order of rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from enclaves.cells import Key, Layout, bin_query, cell_query, distinct_query, layout, pair_query
from enclaves.kit.expressions import Fragment
from enclaves.kit.relations import rows_of
from enclaves.kit.tables import Connection, keep_at_most, load_table, open_database, rows
from policies.declaration import Declaration
from policies.grant import Grant
from policies.query import MAX_CELLS, Join, Plan, Table, relations, tables
from policies.schedule import Statistic
from policies.shape import contribution, domain_of, shape

MAX_SUM = 2**62
"""Exact values are cut here before noise, which leaves room for noise in 64 bits. Cutting moves two values no further apart."""

MAX_FOUND = 10_000_000
"""Most combinations of keys among which a discovery looks."""


class TooManyCells(Exception):
    """Public tables or the data hold more combinations of keys than a release may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exact:
    """Exact vectors, one per statistic, over `keys` in ascending order; `bins` numbers per key where a statistic has bins.

    Keys are all public combinations, whether or not the data have them; only where keys are discovered, those that the data have.
    """

    keys: tuple[Key, ...]
    vectors: dict[str, tuple[int, ...]]


def aggregate(
    grant: Grant, declarations: Mapping[str, Declaration], files: Mapping[str, pa.Table], *, memory_mib: int, threads: int = 2
) -> Exact:
    """Return the exact value of every statistic of the grant for every cell.

    Raises:
        OutOfMemory: the tables need more than `memory_mib`.
        TooManyCells: more combinations of keys than a release may have.
    """
    plan, bound = grant.plan, contribution(grant.plan, declarations)
    loaded = {dataset: f"d{index}" for index, dataset in enumerate(plan.sources)}
    with open_database(memory_mib=memory_mib, threads=threads) as connection:
        load_tables(grant, declarations, files, connection, loaded, bounded=bound.bounded_by_rows or not isinstance(plan.source, Table))
        names = (f"r{index}" for index in itertools.count())
        source = rows_of(plan.source, declarations, loaded, names)
        domains = [_domain(connection, plan, index, declarations, loaded) for index in range(len(plan.group_by))]
        widest = files[plan.source.dataset].num_rows if isinstance(plan.source, Table) else shape(plan.source, declarations).rows
        found = layout(plan, grant.aggregated, source, bound, domains, max(1, widest))
        return _vectors(grant.aggregated, found, domains, _computed(connection, found, grant.aggregated))


def load_tables(
    grant: Grant,
    declarations: Mapping[str, Declaration],
    files: Mapping[str, pa.Table],
    connection: Connection,
    loaded: Mapping[str, str],
    *,
    bounded: bool,
) -> None:
    """Make every table that a grant reads a table of the database, named by `loaded`. Raises OutOfMemory."""
    for read in grant.reads:
        declaration = declarations[read.dataset]
        unique = _joined_by_key(grant.plan, read.dataset, declaration)
        table = files[read.dataset]
        load_table(connection, loaded[read.dataset], table, declaration, read.columns, bounded=bounded, unique=unique)


def _joined_by_key(plan: Plan, dataset: str, declaration: Declaration) -> bool:
    """Whether joins may rely on the unique key of a dataset: its columns are all equated. Otherwise no bound of `shape` rests on it.

    Homes publish no table that repeats a key; a table that does, breaks its provider's word and adds rows of its own units only.
    """
    joins = [relation for relation in relations(plan.source) if isinstance(relation, Join)]
    equated = {(ref.table, ref.column) for join in joins for equality in join.on for ref in (equality.left, equality.right)}
    aliases = [table.alias for table in tables(plan.source) if table.dataset == dataset]
    return any(all((alias, name) in equated for name in declaration.unique_key) for alias in aliases)


Found = dict[str, dict[Key, tuple[int, ...]]]
"""By statistic, what the data hold per key; for bins, one number per bin."""


def _computed(connection: Connection, found: Layout, statistics: Sequence[Statistic]) -> Found:
    if found.by_unit:
        connection.execute(*_bound(pair_query(found)))
        if found.bound.bounded_by_cell and found.keys:
            keep_at_most(connection, "pairs", by=("u",), most=found.bound.cells, order=("u", *found.keys))
    width, plain = len(found.keys), [s.name for s in statistics if s.name in found.totals]
    listed = rows(connection, cell_query(found))
    cells = {_key(line[:width]): line[width:] for line in listed}
    if len(cells) > MAX_FOUND:
        raise TooManyCells
    totals: Found = {name: {key: (_whole(line[index]),) for key, line in cells.items()} for index, name in enumerate(plain)}
    for statistic in statistics:
        if statistic.name in totals:
            continue
        if statistic.measured.quantity == "distinct":
            totals[statistic.name] = {
                _key(line[:width]): (_whole(line[width]),) for line in rows(connection, distinct_query(found, statistic.measured))
            }
        else:
            totals[statistic.name] = _bins(rows(connection, bin_query(found, statistic.measured)), width, statistic.measured.bins)
    totals[""] = dict.fromkeys(cells, ())
    return totals


def _bound(query: Fragment) -> tuple[str, list[object]]:
    return query.sql, list(query.parameters)


def _bins(lines: list[tuple[int | str | None, ...]], width: int, bins: int) -> dict[Key, tuple[int, ...]]:
    counts: dict[Key, list[int]] = {}
    for line in lines:
        counts.setdefault(_key(line[:width]), [0] * bins)[_whole(line[width])] = _whole(line[width + 1])
    return {key: tuple(values) for key, values in counts.items()}


def _key(cells: Sequence[int | str | None]) -> Key:
    return tuple(cells)


def _whole(value: int | str | None) -> int:
    assert isinstance(value, int)
    return value


def _domain(
    connection: Connection, plan: Plan, index: int, declarations: Mapping[str, Declaration], loaded: Mapping[str, str]
) -> tuple[int | str | None, ...] | None:
    """All values of a public key, NULL last; None where they are discovered. Raises TooManyCells."""
    key = plan.group_by[index]
    if key.source == "discovered":
        return None
    if key.source == "declared":
        return domain_of(key, shape(plan.source, declarations).scope)
    ref = key.expression
    table = next(table for table in tables(plan.source) if table.alias == getattr(ref, "table", None))
    source = rows_of(table, declarations, loaded, iter(("p",)))
    value = source.columns.sql[table.alias, getattr(ref, "column", "")]
    listed = rows(
        connection,
        Fragment(sql=f"SELECT DISTINCT {value.sql} FROM {source.source.sql} LIMIT {MAX_CELLS + 1}", parameters=value.parameters),  # noqa: S608
    )
    if len(listed) > MAX_CELLS:
        raise TooManyCells
    return tuple(sorted((line[0] for line in listed), key=in_order))


def in_order(value: int | str | None) -> tuple[bool, bool, int | str]:
    """Sorts key values ascending, NULL last."""
    return value is None, isinstance(value, str), 0 if value is None else value


def _vectors(
    statistics: Sequence[Statistic], found: Layout, domains: Sequence[tuple[int | str | None, ...] | None], totals: Found
) -> Exact:
    keys = tuple(_public(domains)) if None not in domains else tuple(sorted(totals[""], key=lambda key: [in_order(v) for v in key]))
    vectors = {}
    for statistic in statistics:
        have = totals[statistic.name]
        nothing = (0,) * max(1, statistic.measured.bins)
        vectors[statistic.name] = tuple(max(-MAX_SUM, min(MAX_SUM, value)) for key in keys for value in have.get(key, nothing))
    return Exact(keys=keys, vectors=vectors)


def _public(domains: Sequence[tuple[int | str | None, ...] | None]) -> Iterator[Key]:
    listed = [domain for domain in domains if domain is not None]
    total = 1
    for domain in listed:
        total *= len(domain)
    if total > MAX_CELLS:
        raise TooManyCells
    return itertools.product(*listed)

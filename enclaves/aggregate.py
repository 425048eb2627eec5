"""From tables to exact, bounded aggregates per cell. Exact values stay inside; only the gate sees them.

Where the declarations bound what a unit adds to cells, rows are first added up per unit and cell. A unit keeps its first `cells` cells by a
hash of unit and key. Where it has n > `per_cell` rows in a cell, each of its totals v there counts as v * per_cell / n: as `per_cell` rows
like its average one. No row of anybody else takes part in either, and no order of rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import pyarrow as pa

from enclaves.bounded import Sums
from enclaves.cells import Key, Layout, bin_query, cell_query, distinct_query, layout, pair_query
from enclaves.kit.arrays import repeats_beyond
from enclaves.kit.columns import StoredColumns
from enclaves.kit.expressions import Fragment
from enclaves.kit.relations import Rows, rows_of
from enclaves.kit.tables import Connection, OutOfMemory, keep_at_most, load_table, open_database, readable, rows
from enclaves.lines import OutOfOrder, blocks_of, counted_lines, fits, is_stored, stored_blocks, whole_units
from enclaves.lookups import LookUp, side_of, split
from enclaves.pairs import MOST_ROWS, Lines, Pairs, pairs_of, sorted_pairs
from policies.declaration import Declaration
from policies.grant import Grant
from policies.query import MAX_CELLS, Join, Plan, Table, relations, tables
from policies.schedule import Statistic
from policies.shape import Contribution, contribution, domain_of, shape

MAX_SUM = 2**62
"""Exact values are cut here before noise, which leaves room for noise in 64 bits. Cutting moves two values no further apart."""

MAX_FOUND = 10_000_000
"""Most combinations of keys among which a discovery looks. How many the data hold is nobody's to know: more is no word of its own."""


class TooManyCells(Exception):
    """Public tables hold more combinations of keys than a release may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exact:
    """Exact vectors, one per statistic, over `keys` in ascending order; `bins` numbers per key where a statistic has bins.

    Keys are all public combinations, whether or not the data have them; only where keys are discovered, those that the data have.
    """

    keys: tuple[Key, ...]
    vectors: dict[str, tuple[int, ...]]


Stored: TypeAlias = "pa.Table | StoredColumns"
"""A dataset's columns: in memory, or encrypted and decrypted as they are needed."""


def aggregate(
    grant: Grant, declarations: Mapping[str, Declaration], files: Mapping[str, Stored], *, memory_mib: int, threads: int = 2
) -> Exact:
    """Return the exact value of every statistic of the grant for every cell. Raises as `aggregate_plan`."""
    columns = {read.dataset: read.columns for read in grant.reads}
    return aggregate_plan(grant.plan, grant.aggregated, columns, declarations, files, memory_mib=memory_mib, threads=threads)


def aggregate_plan(
    plan: Plan,
    statistics: Sequence[Statistic],
    columns: Mapping[str, tuple[str, ...]],
    declarations: Mapping[str, Declaration],
    files: Mapping[str, Stored],
    *,
    memory_mib: int,
    threads: int = 2,
) -> Exact:
    """Return the exact value of every statistic for every cell.

    Args:
        columns: that are read, by dataset.

    Raises:
        OutOfMemory: the tables need more than `memory_mib`, or hold more than `MAX_FOUND` combinations of keys.
        TooManyCells: public tables hold more combinations of keys than a release may have.
        Tampered: stored columns cannot be decrypted.
    """
    bound = contribution(plan, declarations)
    loaded = {dataset: f"d{index}" for index, dataset in enumerate(plan.sources)}
    source = rows_of(plan.source, declarations, loaded, (f"r{index}" for index in itertools.count()))
    if isinstance(plan.source, Table) and not bound.bounded_by_rows:
        found = _from_file(plan, statistics, declarations[plan.source.dataset], files[plan.source.dataset], source, bound)
        if found is not None:
            return found
    found = _from_lookup(plan, statistics, columns, declarations, files, memory_mib=memory_mib, threads=threads)
    if found is not None:
        return found
    whole = {dataset: readable(stored if isinstance(stored, pa.Table) else stored.table()) for dataset, stored in files.items()}
    with open_database(memory_mib=memory_mib, threads=threads) as connection:
        for dataset, names in columns.items():
            _load(connection, plan, loaded[dataset], whole[dataset], declarations[dataset], names, by_rows=bound.bounded_by_rows)
        domains = [_domain(connection, plan, index, declarations, loaded) for index in range(len(plan.group_by))]
        widest = whole[plan.source.dataset].num_rows if isinstance(plan.source, Table) else shape(plan.source, declarations).rows
        laid = layout(plan, statistics, source, bound, domains, max(1, widest))
        if laid.by_unit and fits(laid, statistics):
            totals = _by_pairs(laid, statistics, partial(blocks_of, counted_lines(connection, laid)), every=not plan.discovers)
        else:
            totals = _computed(connection, laid, statistics)
        return _vectors(statistics, domains, totals)


def aggregate_in_order(grant: Grant, declarations: Mapping[str, Declaration], files: Mapping[str, Stored]) -> Exact | None:
    """As `aggregate`, holding a part of one table at a time; None where the plan, or the order of the table's units, needs more."""
    plan, bound = grant.plan, contribution(grant.plan, declarations)
    if not isinstance(plan.source, Table) or bound.bounded_by_rows:
        return None
    dataset = plan.source.dataset
    source = rows_of(plan.source, declarations, {dataset: "d0"}, iter(("r0",)))
    try:
        return _from_file(plan, grant.aggregated, declarations[dataset], files[dataset], source, bound, sort=False)
    except OutOfOrder:
        return None


def _from_file(
    plan: Plan,
    statistics: Sequence[Statistic],
    declaration: Declaration,
    stored: Stored,
    source: Rows,
    bound: Contribution,
    *,
    sort: bool = True,
) -> Exact | None:
    """What the plan counts of one table, straight from its columns; None where the database has to compute something.

    Rows that are not in the order of units are all held and sorted, or else OutOfOrder is raised.
    """
    domains = [domain_of(key, source.columns.scope) for key in plan.group_by]
    laid = layout(plan, statistics, source, bound, domains, MOST_ROWS)
    if not laid.by_unit or not fits(laid, statistics) or not is_stored(plan, laid):
        return None
    blocks = stored_blocks(plan, laid, declaration, stored, domains)
    if blocks is None:
        return None
    return _vectors(statistics, domains, _by_pairs(laid, statistics, blocks, every=not plan.discovers, sort=sort))


def _load(
    connection: Connection,
    plan: Plan,
    name: str,
    table: pa.Table,
    declaration: Declaration,
    columns: Sequence[str],
    *,
    by_rows: bool,
) -> None:
    bounded = by_rows or not isinstance(plan.source, Table)
    unique = joined_by_key(plan, declaration.dataset, declaration)
    load_table(connection, name, table, declaration, columns, bounded=bounded, unique=unique)


def _from_lookup(
    plan: Plan,
    statistics: Sequence[Statistic],
    columns: Mapping[str, tuple[str, ...]],
    declarations: Mapping[str, Declaration],
    files: Mapping[str, Stored],
    *,
    memory_mib: int,
    threads: int,
) -> Exact | None:
    """What the plan counts of a join with a side that has one row per unit; None where the joined rows are needed.

    A table with more rows of a unit than it is declared to have needs the database, which finds the same of all other units.
    """
    parts = split(plan, statistics, declarations)
    if parts is None:
        return None
    (table,) = tables(parts.main.source)
    declaration, stored = declarations[table.dataset], files[table.dataset]
    loaded = {dataset: f"d{index}" for index, dataset in enumerate(plan.sources)}
    main, other = (
        rows_of(part.source, declarations, loaded, (f"r{index}" for index in itertools.count())) for part in (parts.main, parts.side)
    )
    bound, rows_ = contribution(plan, declarations), shape(plan.source, declarations).rows
    domains = [domain_of(key, main.columns.scope) for key in parts.main.group_by]
    laid = layout(parts.main, statistics, main, bound, domains, max(1, rows_))
    if not fits(laid, statistics) or not is_stored(parts.main, laid) or None in domains:
        return None
    blocks = stored_blocks(parts.main, laid, declaration, stored, domains)
    most = 1 if declaration.unique_key == (declaration.unit,) else declaration.rows_per_unit
    units = stored.select([declaration.unit]) if isinstance(stored, pa.Table) else stored.only([declaration.unit]).table()
    if blocks is None or repeats_beyond(units, declaration, [declaration.unit], most) is not False:
        return None
    with open_database(memory_mib=memory_mib, threads=threads) as connection:
        for dataset in parts.side.sources:
            held = files[dataset]
            cells = readable(held if isinstance(held, pa.Table) else held.table())
            _load(connection, plan, loaded[dataset], cells, declarations[dataset], columns[dataset], by_rows=True)
        of_side = [_domain(connection, parts.side, index, declarations, loaded) for index in range(len(parts.side.group_by))]
        side = side_of(connection, layout(parts.side, (), other, bound, of_side, 1), of_side)
    if side is None:
        return None
    totals = _by_pairs(laid, statistics, blocks, every=True, through=LookUp(side=side, of_side=parts.of_side))
    remaining = {False: iter(domains), True: iter(of_side)}
    return _vectors(statistics, [next(remaining[of]) for of in parts.of_side], totals)


def joined_by_key(plan: Plan, dataset: str, declaration: Declaration) -> bool:
    """Whether joins may rely on the unique key of a dataset: its columns are all equated. Otherwise no bound of `shape` rests on it.

    Homes publish no table that repeats a key; a table that does, breaks its provider's word and adds rows of its own units only.
    """
    joins = [relation for relation in relations(plan.source) if isinstance(relation, Join)]
    equated = {(ref.table, ref.column) for join in joins for equality in join.on for ref in (equality.left, equality.right)}
    aliases = [table.alias for table in tables(plan.source) if table.dataset == dataset]
    return any(all((alias, name) in equated for name in declaration.unique_key) for alias in aliases)


Found = dict[str, dict[Key, tuple[int, ...]]]
"""By statistic, what the data hold per key; for bins, one number per bin."""


def _by_pairs(
    found: Layout,
    statistics: Sequence[Statistic],
    blocks: Callable[[], Iterator[Lines]],
    *,
    every: bool,
    sort: bool = True,
    through: Callable[[Lines, Pairs], tuple[Lines, Pairs]] = lambda lines, pairs: (lines, pairs),
) -> Found:
    """What `_computed` finds, from rows as arrays. Raises OutOfOrder unless it may `sort`.

    Args:
        through: what becomes of each unit's pairs before they are bounded.
    """
    largest = {name: amount for name, (_, amount) in found.totals.items()}
    sums = Sums(statistics=statistics, bound=found.bound, every=every, largest=largest)
    try:
        for lines in whole_units(blocks()):
            sums.add(*through(lines, pairs_of(lines, in_order=True)))
    except OutOfOrder:
        if not sort:
            raise
        sums = Sums(statistics=statistics, bound=found.bound, every=every, largest=largest)
        kept = list(blocks())
        for pairs in sorted_pairs(kept, largest):
            sums.add(*through(kept[0], pairs))
    by_key = sums.by_key()
    if len(by_key) > MAX_FOUND:
        raise OutOfMemory
    totals: Found = {s.name: {key: (values[index],) for key, values in by_key.items()} for index, s in enumerate(statistics)}
    return totals | {"": dict.fromkeys(by_key, ())}


def _computed(connection: Connection, found: Layout, statistics: Sequence[Statistic]) -> Found:
    if found.by_unit:
        connection.execute(*_bound(pair_query(found)))
        if found.bound.bounded_by_cell and found.keys:
            keep_at_most(connection, "pairs", by=("u",), most=found.bound.cells, order=("u", *found.keys))
    width, plain = len(found.keys), [s.name for s in statistics if s.name in found.totals]
    listed = rows(connection, cell_query(found))
    cells = {_key(line[:width]): line[width:] for line in listed}
    if len(cells) > MAX_FOUND:
        raise OutOfMemory
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


def _vectors(statistics: Sequence[Statistic], domains: Sequence[tuple[int | str | None, ...] | None], totals: Found) -> Exact:
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

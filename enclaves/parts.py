"""Exact aggregates of tables larger than an enclave's memory: one part of the privacy units after another.

One table whose units are in order is read once, a part of its rows at a time (`aggregate_in_order`). What follows is for all else.

A unit is in one part, with all its rows of all tables, since protected tables are joined on the unit. What bounds a unit's contribution
looks at that unit's rows alone. So every part is aggregated as if it were all there is, and counts and sums over the parts add up to what
one pass would give. Only the number of distinct values of a column does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from enclaves.aggregate import MAX_FOUND, MAX_SUM, Exact, aggregate, aggregate_in_order, in_order
from enclaves.kit.columns import StoredColumns
from enclaves.kit.tables import OutOfMemory, open_database, rows_of_units
from policies.declaration import Declaration
from policies.grant import Grant

SHARE = 4
"""Tables take at most this part of the memory at a time; the rest is for decoding, hash tables, and copies that are bounded."""

MAX_PARTS = 256
ROWS = 1 << 18
"""Rows that are decoded at a time where tables are read in parts."""

_FILTER_MIB = 64


def aggregate_files(grant: Grant, declarations: Mapping[str, Declaration], files: Mapping[str, StoredColumns], *, memory_mib: int) -> Exact:
    """Return the exact value of every statistic of the grant for every cell, as `aggregate` does, within `memory_mib`.

    Raises:
        OutOfMemory, TooManyCells: as `aggregate`. Tampered: a file cannot be read.
    """
    share = (memory_mib << 20) // SHARE
    sizes = {dataset: file.decoded_bytes() for dataset, file in files.items()}
    protected = sum(size for dataset, size in sizes.items() if not declarations[dataset].public)
    public = sum(sizes.values()) - protected
    count = 1 if protected + public <= share else -(-protected // max(1, share - public))
    distinct = any(statistic.measured.quantity == "distinct" for statistic in grant.statistics)
    if count == 1 or (distinct and protected + public <= (memory_mib << 20) // 2):
        return aggregate(grant, declarations, files, memory_mib=memory_mib - (protected + public >> 20))
    found = aggregate_in_order(grant, declarations, files)
    if found is not None:
        return found
    if distinct or public >= share or count > MAX_PARTS:
        raise OutOfMemory
    return in_parts(grant, declarations, files, count, memory_mib=memory_mib)


def in_parts(
    grant: Grant, declarations: Mapping[str, Declaration], files: Mapping[str, StoredColumns], count: int, *, memory_mib: int
) -> Exact:
    """Return what `aggregate` gives of the whole tables, having held one of `count` parts of the units at a time. Raises like it."""
    public = {dataset: file.table() for dataset, file in files.items() if declarations[dataset].public}
    parts = []
    for part in range(count):
        tables = {
            dataset: public[dataset] if dataset in public else _part(file, declarations[dataset], part, count)
            for dataset, file in files.items()
        }
        parts.append(aggregate(grant, declarations, tables, memory_mib=max(1, memory_mib // 2)))
        del tables
        pa.default_memory_pool().release_unused()
    return merged(parts)


def _part(file: StoredColumns, declaration: Declaration, part: int, count: int) -> pa.Table:
    with open_database(memory_mib=_FILTER_MIB, threads=1) as connection:
        kept = [rows_of_units(connection, batch, declaration, part, count) for batch in file.parts(ROWS)]
    return pa.concat_tables(kept) if kept else file.table()


def merged(parts: Sequence[Exact]) -> Exact:
    """Return the sums over parts; a key that a part does not have counts nothing there. Raises OutOfMemory."""
    keys = parts[0].keys
    if any(part.keys != keys for part in parts):
        keys = tuple(sorted({key for part in parts for key in part.keys}, key=lambda key: [in_order(value) for value in key]))
    if len(keys) > MAX_FOUND:
        raise OutOfMemory
    vectors = {}
    for name in parts[0].vectors:
        width = next((len(part.vectors[name]) // len(part.keys) for part in parts if part.keys), 1)
        sums = {key: [0] * width for key in keys}
        for part in parts:
            for index, key in enumerate(part.keys):
                found = part.vectors[name][index * width : (index + 1) * width]
                sums[key] = [a + b for a, b in zip(sums[key], found, strict=True)]
        vectors[name] = tuple(max(-MAX_SUM, min(MAX_SUM, value)) for key in keys for value in sums[key])
    return Exact(keys=keys, vectors=vectors)

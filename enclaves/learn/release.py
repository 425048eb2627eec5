"""A training run's part of the release: rows from the locked database, the model and its metrics."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from enclaves.aggregate import Stored, joined_by_key
from enclaves.kit.expressions import Fragment, expression_sql, joined, listed
from enclaves.kit.relations import rows_of
from enclaves.kit.tables import Connection, columns_of, load_table, open_database, readable
from enclaves.learn.contribution import learn_divided
from enclaves.learn.fit import model_of_weights, train
from enclaves.learn.metrics import root, shown
from enclaves.learn.moments import bounded_moments, explained, intervals, regress, symmetric
from enclaves.learn.rows import MISSING, Array, Rows, encode_rows
from policies.canonical import MAX_INTEGER
from policies.declaration import Declaration
from policies.division import feature_owners
from policies.grant import Grant
from policies.model import WEIGHT_BITS, Interval, ModelRelease
from policies.query import Plan
from policies.schedule import task_of
from policies.shape import shape
from policies.task import Task
from policies.training import Encoded


def learn(grant: Grant, declarations: Mapping[str, Declaration], files: Mapping[str, Stored], *, memory_mib: int) -> ModelRelease:
    """Return the model that a grant's training asks for.

    Raises:
        LossExceeded: training costs more than granted.
        OutOfMemory, MemoryError: the tables need more than `memory_mib`; a training holds them as a whole.
        Tampered: stored columns cannot be decrypted.
    """
    plan = grant.plan
    task = task_of(plan, shape(plan.source, declarations))
    columns = {read.dataset: read.columns for read in grant.reads}
    tested = None
    for part in plan.parts[1:]:
        own = replace(task, rows=shape(part.source, declarations).rows)
        tested, _ = rows_of_files(part, own, _of(part, columns), declarations, files, memory_mib=memory_mib)
    rows, held = rows_of_files(plan.parts[0], task, _of(plan.parts[0], columns), declarations, files, memory_mib=memory_mib)
    division = plan.training.division if plan.training is not None else None
    if division is not None:
        return learn_divided(rows, held, task, grant.statistics, division, feature_owners(plan))
    model, metrics = train(rows, held, task, grant.statistics, tested, grant.minimum_group)
    return ModelRelease(model=model, metrics=metrics)


def _of(part: Plan, columns: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Those of the columns that a part of a plan reads, by dataset."""
    return {dataset: columns[dataset] for dataset in part.sources}


def moments_at_home(
    plan: Plan,
    declarations: Mapping[str, Declaration],
    columns: Mapping[str, tuple[str, ...]],
    files: Mapping[str, Stored],
    *,
    memory_mib: int,
) -> Array:
    """Return the exact second moments of one contributor's rows, persons bounded as an enclave would, in 2^-20.

    Raises:
        OutOfMemory, MemoryError: the table needs more than `memory_mib`.
    """
    task = task_of(plan, shape(plan.source, declarations))
    rows, _ = rows_of_files(plan, task, columns, declarations, files, memory_mib=memory_mib)
    return bounded_moments(rows, task)


def from_moments(task: Task, noised: Sequence[int], sigma: float) -> ModelRelease:
    """Return what a pool's noised second moments make: model, intervals of its weights, and what it explains of these very sums.

    Args:
        sigma: of all noise in one of them, in 2^-20.
    """
    found = regress(symmetric(np.array(noised, np.float64), task.width + 1), sigma, task)
    low, high = (np.clip(ends * 2.0**WEIGHT_BITS, -MAX_INTEGER, MAX_INTEGER) for ends in intervals(found, sigma))
    well = explained(found, sigma)
    return ModelRelease(
        model=model_of_weights(task, found.weights),
        metrics=(shown("r2", *well.r2), shown("rmse", *well.mean_square, root)),
        intervals=tuple(Interval(low=math.floor(a), high=math.ceil(b)) for a, b in zip(low, high, strict=True)),
    )


def rows_of_files(
    plan: Plan,
    task: Task,
    columns: Mapping[str, tuple[str, ...]],
    declarations: Mapping[str, Declaration],
    files: Mapping[str, Stored],
    *,
    memory_mib: int,
) -> tuple[Rows, Array]:
    """Return the encoded rows of a plan over files of the datasets that it reads, and which belong to persons who are held out."""
    loaded = {dataset: f"d{index}" for index, dataset in enumerate(plan.sources)}
    with open_database(memory_mib=memory_mib, threads=2) as connection:
        for dataset, names in columns.items():
            unique = joined_by_key(plan, dataset, declarations[dataset])
            load_table(connection, loaded[dataset], opened(files[dataset]), declarations[dataset], names, bounded=True, unique=unique)
        return read_rows(plan, task, declarations, connection, loaded)


def read_rows(
    plan: Plan, task: Task, declarations: Mapping[str, Declaration], connection: Connection, loaded: Mapping[str, str]
) -> tuple[Rows, Array]:
    """Return the encoded rows of a plan, and which of them belong to persons who are held out.

    Who is held out follows from a hash of the person's id alone, so nobody's presence moves anybody else to the other side.
    """
    source = rows_of(plan.source, declarations, loaded, (f"r{index}" for index in itertools.count()))
    encodings = {item.column: item for item in (*task.features, *([task.label] if task.label else []))}
    inputs = [
        joined(f"{{}} AS i{index}", input_sql(encodings[item.name], expression_sql(item.expression, source.columns)))
        for index, item in enumerate(plan.inputs)
    ]
    where = Fragment(sql="") if plan.where is None else joined(" WHERE {}", expression_sql(plan.where, source.columns))
    found = columns_of(
        connection,
        joined(
            f"SELECT dense_rank() OVER (ORDER BY {source.unit}) AS p, (hash({source.unit}) % 100)::BIGINT AS h, {{}} FROM {{}}{{}}",  # noqa: S608
            listed(", ", inputs),
            source.source,
            where,
        ),
    )
    columns = {item.name: found[f"i{index}"] for index, item in enumerate(plan.inputs)}
    label = task.label.column if task.label else None
    rows = encode_rows(columns, found["p"], task)
    known = np.ones(len(found["p"]), bool)
    if label is not None:
        known = columns[label] >= 0 if task.classes else columns[label] != MISSING
    ids, first = np.unique(found["p"][known], return_index=True)
    side = found["h"][known][first] < task.held_out
    return rows, np.asarray(side[rows.persons]) if len(ids) else np.zeros(0, bool)


def opened(stored: Stored) -> pa.Table:
    """All of a table in memory, with NULL for text that is not UTF-8. Raises Tampered."""
    return readable(stored if isinstance(stored, pa.Table) else stored.table())


def input_sql(item: Encoded, value: Fragment) -> Fragment:
    """An input as a 64-bit integer: the index of a category or -1, a number or `MISSING`."""
    if item.encoding != "categories":
        return joined("coalesce(CAST({} AS BIGINT), {})", value, Fragment(sql="CAST(? AS BIGINT)", parameters=(MISSING,)))
    kind = "VARCHAR" if isinstance(item.categories[0], str) else "BIGINT"
    cases = [Fragment(sql=f"WHEN CAST(? AS {kind}) THEN {index}", parameters=(name,)) for index, name in enumerate(item.categories)]
    return joined(f"CASE CAST({{}} AS {kind}) {{}} ELSE -1 END", value, listed(" ", cases))

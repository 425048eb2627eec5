"""The rows that a plan counts, as arrays: straight from the columns of one table, or from the database where it has to compute them.

Both ways give every row the same unit, keys and amounts. Which is taken depends on plan, schema and kinds of cells; what becomes of a
person's rows depends on none of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from enclaves.cells import Layout, added, row_query
from enclaves.kit.arrays import Array, whole_numbers
from enclaves.kit.tables import Connection, arrow
from enclaves.pairs import Codes, Lines, Pairs
from policies.canonical import MAX_INTEGER
from policies.declaration import Declaration
from policies.expression import MAX_VALUE, Expression, Ref
from policies.query import Plan, Table
from policies.schedule import Measured, Statistic

Domain = tuple[int | str | None, ...] | None

SPREAD = 1 << 24
"""Range of integers beyond which only those that occur are numbered."""


def fits(found: Layout, statistics: Sequence[Statistic]) -> bool:
    """Whether every statistic is a sum over rows in 64 bits, so that rows can be added up as arrays."""
    small = all(largest * found.widest <= MAX_VALUE for _, largest in found.totals.values())
    return small and len(found.totals) == len(statistics)


def counted_lines(connection: Connection, found: Layout) -> Lines | None:
    """The rows that the database computes; None where the unit is no integer."""
    if found.unit.type not in ("integer", "date"):
        return None
    table = arrow(connection, row_query(found))
    amounts = {name: _array(table.column(f"a{index}")) for index, name in enumerate(added(found))}
    keys = tuple(_codes(table.column(name)) for name in found.keys)
    return Lines(units=_array(table.column("u")), keys=keys, amounts=amounts, any_of=_any_of(found))


def stored_lines(plan: Plan, found: Layout, declaration: Declaration, table: pa.Table, domains: Sequence[Domain]) -> Lines | None:
    """The rows of one table as its file holds them, cut to no number of rows; None where the database has to compute them.

    Args:
        table: with readable text.
    """
    expressions = [*(key.expression for key in plan.group_by), *found.values]
    if not isinstance(plan.source, Table) or plan.where is not None or not all(isinstance(e, Ref) for e in expressions):
        return None
    units = whole_numbers(table, declaration, declaration.unit, clamp=False)
    if units is None or table.column(declaration.unit).null_count:
        return None
    columns: dict[Expression, tuple[Array, Array | None]] = {}
    for expression in found.values:
        assert isinstance(expression, Ref)
        read = whole_numbers(table, declaration, expression.column, clamp=True)
        if read is None:
            return None
        columns[expression] = read
    amounts = {name: _amount(found.totals[name][0], columns) for name in added(found)}
    coded = [_stored_codes(key.expression, declaration, table, domain) for key, domain in zip(plan.group_by, domains, strict=True)]
    known = {name: values for name, values in amounts.items() if values is not None}
    keys = [found_codes for found_codes in coded if found_codes is not None]
    if len(known) < len(amounts) or len(keys) < len(coded):
        return None
    return _kept(Lines(units=units[0], keys=tuple(codes for codes, _ in keys), amounts=known, any_of=_any_of(found)), [k for _, k in keys])


def _kept(lines: Lines, conditions: Sequence[Array | None]) -> Lines:
    """The rows for which all conditions hold (None: all rows)."""
    real = [condition for condition in conditions if condition is not None]
    if not real:
        return lines
    keep = np.logical_and.reduce(real)
    return Lines(
        units=lines.units[keep],
        keys=tuple(Codes(values=k.values[keep], size=k.size, labels=k.labels, missing=k.missing) for k in lines.keys),
        amounts={name: values[keep] for name, values in lines.amounts.items()},
        any_of=lines.any_of,
    )


def _any_of(found: Layout) -> frozenset[str]:
    return frozenset(name for name, (measured, _) in found.totals.items() if measured.quantity == "units")


def _amount(measured: Measured, columns: dict[Expression, tuple[Array, Array | None]]) -> Array | None:
    """What every row adds; None where it is not simple enough."""
    if measured.filter is not None or measured.step != 1:
        return None
    read = [columns[argument] for argument in measured.arguments]
    missing = [nothing for _, nothing in read if nothing is not None]
    if measured.quantity in ("rows", "units"):
        value = np.ones(len(read[0][0]), np.int64)
    else:
        # `fits` holds these products within 64 bits.
        parts = [values - centre if centre else values for (values, _), centre in zip(read, measured.centres, strict=False)]
        value = parts[0] if measured.quantity == "sum" else parts[0] * parts[-1]
    return np.where(np.logical_or.reduce(missing), np.int64(0), value) if missing else value


def _stored_codes(expression: Expression, declaration: Declaration, table: pa.Table, domain: Domain) -> tuple[Codes, Array | None] | None:
    """A key column's numbers, and which rows have a value that is a key (None: all)."""
    assert isinstance(expression, Ref)
    column = declaration.column(expression.column)
    if column.type == "text":
        return _stored_text(table.column(column.name), domain, nullable=column.nullable)
    read = whole_numbers(table, declaration, column.name, clamp=True)
    if read is None or not len(read[0]):
        return None
    values, missing = read
    known = [value for value in domain or () if isinstance(value, int)]
    low, high = (min(known), max(known)) if known else (int(values.min()), int(values.max()))
    if high - low >= SPREAD or (domain is not None and not known) or max(-low, high) > MAX_INTEGER:
        return None
    inside: Array | None = None
    if known and not (low <= int(values.min()) and int(values.max()) <= high):
        inside = (values >= low) & (values <= high)
        values = np.where(inside, values, low)
    numbers = values - low if low else values
    if known and high - low + 1 > len(known):
        listed = np.zeros(high - low + 1, np.bool_)
        listed[np.asarray(known) - low] = True
        inside = listed[numbers] if inside is None else inside & listed[numbers]
    if missing is None:
        return Codes(values=numbers, size=high - low + 1, labels=low), inside
    size = high - low + 2
    found = Codes(values=np.where(missing, size - 1, numbers), size=size, labels=low, missing=True)
    # A column that can be NULL has NULL in its domain.
    return found, None if inside is None else inside | missing


def _stored_text(cells: pa.ChunkedArray, domain: Domain, *, nullable: bool) -> tuple[Codes, Array | None] | None:
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        return None
    codes = _codes(cells if nullable else pc.fill_null(cells, ""))
    if domain is None:
        return codes, None
    assert not isinstance(codes.labels, int)
    known = np.asarray([codes.label(number) in domain for number in range(codes.size)], np.bool_)
    return codes, None if known.all() else known[codes.values]


def _codes(cells: pa.ChunkedArray) -> Codes:
    """Cells as numbers."""
    missing = np.asarray(cells.is_null()) if cells.null_count else None
    if pa.types.is_integer(cells.type) and cells.null_count < len(cells):
        low, high = (pc.min_max(cells)[side].as_py() for side in ("min", "max"))
        if high - low < SPREAD:
            numbers = _array(pc.fill_null(cells, low)) - low
            if missing is None:
                return Codes(values=numbers, size=high - low + 1, labels=low)
            return Codes(values=np.where(missing, high - low + 1, numbers), size=high - low + 2, labels=low, missing=True)
    listed = pc.dictionary_encode(cells).unify_dictionaries() if isinstance(cells, pa.ChunkedArray) else cells
    labels = listed.chunk(0).dictionary.to_pylist() if listed.num_chunks else []
    indices = pa.chunked_array([chunk.indices for chunk in listed.chunks], pa.int32())
    numbers = _array(pc.fill_null(indices, len(labels))).astype(np.int64)
    return Codes(values=numbers, size=len(labels) + (missing is not None), labels=labels, missing=missing is not None)


def _array(column: pa.ChunkedArray) -> Array:
    whole = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return np.asarray(whole)


def pair_table(lines: Lines, pairs: Pairs, totals: Sequence[Array], chosen: Array) -> pa.Table:
    """The chosen pairs as the table that `cell_query` reads: unit `u`, keys `g0`..., number of rows `n` and totals `v0`..."""
    cells, keys = pairs.cells[chosen], []
    for key in reversed(lines.keys):
        cells, numbers = np.divmod(cells, key.size)
        keys.append(_labels(key, numbers))
    columns = {"u": pa.array(pairs.units[chosen])}
    columns |= {f"g{index}": labels for index, labels in enumerate(reversed(keys))}
    columns |= {"n": pa.array(pairs.rows[chosen])} | {f"v{index}": pa.array(total[chosen]) for index, total in enumerate(totals)}
    return pa.table(columns)


def _labels(key: Codes, numbers: Array) -> pa.Array:
    missing = numbers == key.size - 1 if key.missing else None
    if isinstance(key.labels, int):
        return pa.array(numbers + key.labels, pa.int64(), mask=missing)
    kind = pa.int64() if key.labels and isinstance(key.labels[0], int) else pa.string()
    return pa.array(key.labels, kind).take(pa.array(numbers, pa.int64(), mask=missing))

"""The rows that a plan counts, as arrays: straight from the columns of one table, or from the database where it has to compute them.

Both ways give every row the same unit, keys and amounts. Which is taken depends on plan, schema and kinds of cells, and nothing that is
counted depends on which is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from enclaves.cells import Layout, added, row_query
from enclaves.kit.arrays import Array, as_array, is_ascending, is_within, whole_numbers
from enclaves.kit.columns import StoredColumns
from enclaves.kit.tables import Connection, arrow, readable
from enclaves.pairs import BLOCK, MOST_ROWS, Codes, Lines, in_a_row, in_one
from policies.canonical import MAX_INTEGER
from policies.codec import is_printable
from policies.declaration import Declaration
from policies.expression import MAX_TEXT, MAX_VALUE, Expression, Ref
from policies.query import Plan, Table
from policies.schedule import Measured, Statistic

Domain = tuple[int | str | None, ...] | None

SPREAD = 1 << 24
"""Range of integers beyond which only those that occur are numbered."""


class OutOfOrder(Exception):
    """Units do not come one after another in ascending order."""


def fits(found: Layout, statistics: Sequence[Statistic]) -> bool:
    """Whether units are numbers and every statistic is a sum over rows in 64 bits, so that rows can be added up as arrays."""
    small = all(largest * MOST_ROWS <= MAX_VALUE for _, largest in found.totals.values())
    return small and len(found.totals) == len(statistics) and found.unit.type in ("integer", "date")


def counted_lines(connection: Connection, found: Layout) -> Lines:
    """The rows that the database computes."""
    table = arrow(connection, row_query(found))
    amounts = {name: as_array(table.column(f"a{index}")) for index, name in enumerate(added(found))}
    keys = in_one(tuple(numbered(table.column(name)) for name in found.keys))
    return Lines(units=as_array(table.column("u")), keys=keys, amounts=amounts, any_of=_any_of(found), largest=_largest(found))


def stored_lines(plan: Plan, found: Layout, declaration: Declaration, table: pa.Table, domains: Sequence[Domain]) -> Lines | None:
    """The rows of one table as its file holds them, cut to no number of rows; None where the database has to compute them.

    Keys with a domain are numbered alike in every part of a table.
    """
    if not is_stored(plan, found):
        return None
    units = whole_numbers(table, declaration, declaration.unit, clamp=False)
    if units is None:
        return None
    columns: dict[Expression, tuple[Array, Array | None]] = {}
    for expression in found.values:
        assert isinstance(expression, Ref)
        read = whole_numbers(table, declaration, expression.column, clamp=True, widen=False)
        if read is None:
            return None
        columns[expression] = read
    amounts: dict[str, Array] = {}
    for name in added(found):
        amount = _amount(*found.totals[name], columns)
        if amount is None:
            return None
        amounts[name] = amount
    keys: list[Codes] = []
    owned = table.column(declaration.unit).is_valid()
    conditions = [as_array(owned)] if table.column(declaration.unit).null_count else []
    for key, domain in zip(plan.group_by, domains, strict=True):
        coded = _stored_codes(key.expression, declaration, table, domain)
        if coded is None:
            return None
        keys.append(coded[0])
        conditions += [] if coded[1] is None else [coded[1]]
    lines = Lines(units=units[0], keys=in_one(tuple(keys)), amounts=amounts, any_of=_any_of(found), largest=_largest(found))
    return lines.chosen(np.logical_and.reduce(conditions)) if conditions else lines


def stored_blocks(
    plan: Plan, found: Layout, declaration: Declaration, stored: pa.Table | StoredColumns, domains: Sequence[Domain]
) -> Callable[[], Iterator[Lines]] | None:
    """`stored_lines` a block at a time, as often as it is called; None where the database has to compute the rows."""
    if isinstance(stored, StoredColumns) and None not in domains:
        if is_stored(plan, found):
            stored = stored.only(_columns_of(plan, found, declaration))
        first = next(stored.parts(BLOCK), None)
        if first is None or not _is_read(plan, found, declaration, first, domains):
            return None
        return lambda: _read_parts(plan, found, declaration, stored.parts(BLOCK), domains)
    table = readable(stored if isinstance(stored, pa.Table) else stored.table())
    if None in domains:
        whole = stored_lines(plan, found, declaration, table, domains)
        return None if whole is None else partial(blocks_of, whole)
    if not _is_read(plan, found, declaration, table, domains):
        return None
    units = whole_numbers(table, declaration, declaration.unit, clamp=False)
    assert units is not None, "its type has been looked at"
    ends = list(_ends(units[0]))
    return lambda: _read_parts(plan, found, declaration, (table.slice(start, end - start) for start, end in ends), domains)


def _columns_of(plan: Plan, found: Layout, declaration: Declaration) -> list[str]:
    """The columns that `stored_lines` looks at."""
    named = [e.column for e in (*(key.expression for key in plan.group_by), *found.values) if isinstance(e, Ref)]
    return list(dict.fromkeys((declaration.unit, *named)))


def _is_read(plan: Plan, found: Layout, declaration: Declaration, table: pa.Table, domains: Sequence[Domain]) -> bool:
    """Whether `stored_lines` reads columns of these kinds."""
    return stored_lines(plan, found, declaration, table.slice(0, 0), domains) is not None


def _read_parts(
    plan: Plan, found: Layout, declaration: Declaration, tables: Iterable[pa.Table], domains: Sequence[Domain]
) -> Iterator[Lines]:
    for table in tables:
        lines = stored_lines(plan, found, declaration, readable(table), domains)
        assert lines is not None, "a part of a table is read as the whole is"
        yield lines


def is_stored(plan: Plan, found: Layout) -> bool:
    """Whether a plan reads nothing but columns of one table."""
    expressions = [*(key.expression for key in plan.group_by), *found.values]
    return isinstance(plan.source, Table) and plan.where is None and all(isinstance(e, Ref) for e in expressions)


def blocks_of(lines: Lines) -> Iterator[Lines]:
    """The same lines a block at a time, cut between units where these are in ascending order."""
    for start, end in _ends(lines.units):
        yield lines.chosen(slice(start, end))


def _ends(units: Array) -> Iterator[tuple[int, int]]:
    """Where blocks begin and end: between units where these are in ascending order."""
    cuts = list(range(0, len(units), BLOCK))
    if is_ascending(units):
        cuts = np.unique(np.searchsorted(units, units[::BLOCK])).tolist()
    yield from zip(cuts, [*cuts[1:], len(units)][: len(cuts)], strict=True)


def whole_units(blocks: Iterable[Lines]) -> Iterator[Lines]:
    """The same lines in parts of whole units, those within one block first. Raises OutOfOrder, which may be after others were yielded.

    Units that a block's end cuts are put together apart from the rest, so that no whole block is copied.
    """
    cut: list[Lines] = []
    count, last = 0, None
    for block in blocks:
        if not len(block.units):
            continue
        if not is_ascending(block.units) or (last is not None and last > block.units[0]):
            raise OutOfOrder
        begin = 0 if last is None else int(np.searchsorted(block.units, last, side="right"))
        last = int(block.units[-1])
        end = max(begin, int(np.searchsorted(block.units, last)))
        # Copies: slices would keep every block in memory.
        cut += [block.chosen(np.arange(*some)) for some in ((0, begin), (end, len(block.units))) if some[0] < some[1]]
        count += begin + len(block.units) - end
        if begin < end:
            if count > BLOCK:
                *whole, rest = _before_last(in_a_row(cut))
                yield from whole
                cut, count = [rest], len(rest.units)
            yield block.chosen(slice(begin, end))
    if cut:
        yield in_a_row(cut)


def _before_last(lines: Lines) -> list[Lines]:
    """The rows of all units but the last, if there are any, and those of the last."""
    start = int(np.searchsorted(lines.units, lines.units[-1]))
    return [lines.chosen(some) for some in ([slice(0, start)] if start else []) + [slice(start, None)]]


def _largest(found: Layout) -> dict[str, int]:
    return {name: largest for name, (_, largest) in found.totals.items()}


def _any_of(found: Layout) -> frozenset[str]:
    return frozenset(name for name, (measured, _) in found.totals.items() if measured.quantity == "units")


def _is_short(number: int) -> bool:
    return -(2**31) < number < 2**31


def _from(values: Array, centre: int) -> Array:
    return values - centre if centre else values


def _amount(measured: Measured, largest: int, columns: dict[Expression, tuple[Array, Array | None]]) -> Array | None:
    """What every row adds, at most `largest`; None where it is not simple enough."""
    if measured.filter is not None or measured.step != 1:
        return None
    read = [columns[argument] for argument in measured.arguments]
    missing = [nothing for _, nothing in read if nothing is not None]
    if measured.quantity in ("rows", "units"):
        value = np.ones(len(read[0][0]), np.int64)
    else:
        # `fits` holds products within 64 bits. A sum's own amounts, which are bounded by `largest`, may fit those that they are stored in.
        short = measured.quantity == "sum" and all(map(_is_short, (largest, *measured.centres)))
        factors = [
            _from(values if short and values.dtype == np.int32 else values.astype(np.int64, copy=False), centre)
            for (values, _), centre in zip(read, measured.centres, strict=False)
        ]
        value = factors[0] if measured.quantity == "sum" else factors[0] * factors[-1]
    return np.where(np.logical_or.reduce(missing), value.dtype.type(0), value) if missing else value


def _stored_codes(expression: Expression, declaration: Declaration, table: pa.Table, domain: Domain) -> tuple[Codes, Array | None] | None:
    """A key column's numbers, and which rows have a value that is a key (None: all)."""
    assert isinstance(expression, Ref)
    column = declaration.column(expression.column)
    if column.type == "text":
        cells = table.column(column.name)
        if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
            return None
        cells = cells if column.nullable else pc.fill_null(cells, "")
        return _found_text(cells) if domain is None else listed_text(cells, domain)
    read = whole_numbers(table, declaration, column.name, clamp=True, widen=domain is None)
    if read is None:
        return None
    values, missing = read
    if domain is not None:
        listed = _known(domain)
        return _listed(_places(values, listed), missing, listed)
    # What cannot be written down is no key.
    written = (values >= -MAX_INTEGER) & (values <= MAX_INTEGER)
    inside = None if written.all() else written if missing is None else written | missing
    codes = numbered(pa.chunked_array([pa.array(values, mask=missing)]))
    return codes, inside


def _found_text(cells: pa.ChunkedArray) -> tuple[Codes, Array | None]:
    """Text as numbers of what occurs, and which cells can be written into a release (None: all)."""
    codes = numbered(cells)
    labels = [codes.label(number) for number in range(codes.size)] if len(cells) else []
    written = np.asarray([label is None or (len(label) <= MAX_TEXT and is_printable(label)) for label in labels], np.bool_)
    return codes, None if written.all() else written[codes.values]


def listed_text(cells: pa.ChunkedArray, domain: tuple[int | str | None, ...]) -> tuple[Codes, Array | None]:
    """Text as numbers of a domain, and which cells have one (None: all)."""
    listed = _known(domain)
    places = as_array(pc.fill_null(pc.index_in(cells, value_set=pa.array(listed.values, cells.type)), -1))
    return _listed(places, as_array(pc.is_null(cells)) if cells.null_count else None, listed)


def coded(cells: pa.ChunkedArray, domain: Domain) -> Codes:
    """A key that the database has cut to a domain, as numbers of the domain."""
    assert domain is not None
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        return listed_text(cells, domain)[0]
    missing = as_array(cells.is_null()) if cells.null_count else None
    listed = _known(domain)
    return _listed(_places(as_array(pc.fill_null(cells, 0) if cells.null_count else cells), listed), missing, listed)[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """A domain: its values without NULL, as an array too where they are integers, and the first where they are consecutive."""

    values: tuple[int | str, ...]
    whole: Array
    first: int | None
    nullable: bool


@lru_cache(maxsize=64)
def _known(domain: tuple[int | str | None, ...]) -> _Known:
    values = tuple(value for value in domain if value is not None)
    whole = np.asarray([value for value in values if isinstance(value, int)], np.int64)
    consecutive = len(whole) > 0 and len(whole) == len(values) and int(whole[-1] - whole[0]) + 1 == len(values)
    return _Known(values=values, whole=whole, first=int(whole[0]) if consecutive else None, nullable=None in domain)


def _places(values: Array, known: _Known) -> Array:
    """Of every value the place in a domain, negative or beyond where it has none."""
    if known.first == 0:
        return values
    if known.first is not None:
        return values.astype(np.int64, copy=False) - known.first
    if not len(known.whole):
        return np.full(len(values), -1)
    place = np.searchsorted(known.whole, values).clip(max=len(known.whole) - 1)
    return np.where(known.whole[place] == values, place, -1)


def _listed(places: Array, missing: Array | None, known: _Known) -> tuple[Codes, Array | None]:
    """Numbers of a domain from places in it, and which rows have one (None: all)."""
    count = len(known.values)
    inside = None if is_within(places, 0, count - 1) else (places >= 0) & (places < count)
    numbers = places if inside is None else np.where(inside, places, 0)
    if missing is not None:
        numbers = np.where(missing, count, numbers)
        inside = None if inside is None else inside | missing
    labels = known.values if known.first is None else known.first
    size = count + known.nullable
    return Codes(values=numbers, size=max(1, size), labels=labels, missing=known.nullable), inside


def numbered(cells: pa.ChunkedArray) -> Codes:
    """Cells as numbers of the values that occur, in the order of the values."""
    missing = as_array(cells.is_null()) if cells.null_count else None
    if pa.types.is_integer(cells.type) and cells.null_count < len(cells):
        low, high = (pc.min_max(cells)[side].as_py() for side in ("min", "max"))
        if high - low < SPREAD:
            numbers = as_array(pc.fill_null(cells, low)) - low
            if missing is None:
                return Codes(values=numbers, size=high - low + 1, labels=low)
            return Codes(values=np.where(missing, high - low + 1, numbers), size=high - low + 2, labels=low, missing=True)
    encoded = cells.combine_chunks().dictionary_encode() if len(cells) else pa.array([], cells.type).dictionary_encode()
    values = encoded.dictionary.to_pylist()
    order = sorted(range(len(values)), key=values.__getitem__)
    rank = np.zeros(len(values) + 1, np.int64)
    rank[order] = np.arange(len(values))
    rank[len(values)] = len(values)
    numbers = rank[np.asarray(encoded.indices.fill_null(len(values)))]
    labels = [values[place] for place in order]
    return Codes(values=numbers, size=max(1, len(values) + (missing is not None)), labels=labels, missing=missing is not None)

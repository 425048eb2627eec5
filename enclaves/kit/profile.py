"""What a provider's own tool may read off a local table to draft a declaration: names, kinds, and which values are few. Never bounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from enclaves.kit.formats import LocalTable, open_local
from policies.declaration import MAX_DECIMALS
from policies.errors import Malformed

Kind: TypeAlias = Literal["integer", "decimal", "text", "date"]
FEW_VALUES = 20
"""A column with at most this many distinct values may be meant as a group key."""

_INTEGER = r"^ *(0|-?[1-9][0-9]{0,17}) *$"
_DECIMAL = r"^ *-?(0|[1-9][0-9]{0,17})(\.[0-9]+)? *$"
_DATE = r"^ *[0-9]{4}-[0-9]{2}-[0-9]{2} *$"


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnProfile:
    """One column of a local file.

    Attributes:
        source: its name in the file.
        kind: what it may be declared as; None if it holds something that no declaration takes.
        holds: the file's own name of the type.
        decimals: fractional digits that occur, not cut to what a declaration allows.
        nulls: whether a cell is empty.
        few: all distinct values if they are at most `FEW_VALUES` integers or texts, else None.
    """

    source: str
    kind: Kind | None
    holds: str
    decimals: int = 0
    nulls: bool = False
    few: tuple[int | str, ...] | None = None


def profile(path: Path, *, memory: int | None = None) -> tuple[ColumnProfile, ...]:
    """Return a profile of every column of a local Parquet, Arrow or CSV file. Raises Malformed (see `open_local`)."""
    local = open_local(path, memory=memory)
    return tuple(_profile(local, index) for index in range(local.table.num_columns))


def _profile(local: LocalTable, index: int) -> ColumnProfile:
    cells, field = local.table.column(index), local.table.schema.field(index)
    kind = _kind_of_text(cells) if local.format == "csv" else _kind_of(field.type)
    return ColumnProfile(
        source=field.name,
        kind=kind,
        holds="text" if local.format == "csv" else str(field.type),
        decimals=_decimals(cells) if kind == "decimal" else 0,
        nulls=cells.null_count > 0,
        few=_few(cells, kind),
    )


def _kind_of_text(cells: pa.ChunkedArray) -> Kind:
    """Numbers without leading zeros are numbers; `007` is text, since a postcode is not a quantity."""
    if cells.null_count == len(cells):
        return "text"
    for kind, pattern in (("integer", _INTEGER), ("decimal", _DECIMAL), ("date", _DATE)):
        if pc.all(pc.match_substring_regex(cells, pattern)).as_py() and (kind != "date" or _are_days(cells)):
            return kind  # type: ignore[return-value]
    return "text"


def _are_days(cells: pa.ChunkedArray) -> bool:
    try:
        pc.utf8_trim_whitespace(cells).cast(pa.date32())
    except pa.ArrowInvalid:
        return False
    return True


def _kind_of(kind: pa.DataType) -> Kind | None:
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return "integer"
    if pa.types.is_float32(kind) or pa.types.is_float64(kind) or (pa.types.is_decimal(kind) and kind.bit_width <= 128):
        return "decimal"
    if pa.types.is_date(kind):
        return "date"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def _decimals(cells: pa.ChunkedArray) -> int:
    """Fewest fractional digits that lose nothing; of binary numbers, at most what a declaration allows."""
    if pa.types.is_floating(cells.type):
        for decimals in range(MAX_DECIMALS):
            if pc.all(pc.equal(pc.round(cells, ndigits=decimals), cells)).as_py() in (True, None):
                return decimals
        return MAX_DECIMALS
    texts = pc.utf8_trim_whitespace(cells if pa.types.is_string(cells.type) else cells.cast(pa.string()))
    fraction = pc.replace_substring_regex(texts, r"^[^.]*\.?", "")
    return int(pc.max(pc.utf8_length(pc.utf8_rtrim(fraction, "0"))).as_py() or 0)


def _few(cells: pa.ChunkedArray, kind: Kind | None) -> tuple[int | str, ...] | None:
    if kind not in ("integer", "text"):
        return None
    values = pc.drop_null(pc.unique(cells))
    if not 1 <= len(values) <= FEW_VALUES or len(values) == len(cells):
        return None
    listed = values.to_pylist()
    return tuple(sorted((int(value) for value in listed) if kind == "integer" else listed))


def repeated_rows(path: Path, sources: tuple[str, ...], *, memory: int | None = None) -> int:
    """Return how many rows of a local file repeat an earlier row's cells in the columns `sources`. Raises Malformed."""
    local = open_local(path, memory=memory)
    for source in sources:
        if local.table.column_names.count(source) != 1:
            raise Malformed(f"{path.name} does not have exactly one column `{source}`", code="unknown-column")
    return int(local.table.num_rows - local.table.select(list(sources)).group_by(list(sources)).aggregate([]).num_rows)

"""Local tables as people have them: Parquet, Arrow (also called Feather) or CSV, told apart by their first bytes and not by their name.

CSV is RFC 4180 with a header line, comma-separated, UTF-8. A cell without quotes and without characters is NULL; `""` is empty text.
Cells stay text here; `typed_csv` turns them into what a declaration says. Numbers are read exactly.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from pyarrow import ipc

from policies.declaration import Column
from policies.errors import Malformed

Format: TypeAlias = Literal["parquet", "arrow", "csv"]
DECIMAL_PRECISION = 38
_CSV_GROWTH = 4
"""Bytes of memory that a byte of CSV takes at most while it is read: the file, its cells with offsets, and their typed copy."""
_BLOCK_BYTES = 8 << 20
_REFUSED = {
    b"PARE": "is encrypted already; publish the readable file",
    b"FEA1": "is Feather version 1; write it again as Feather version 2 or Parquet",
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"PK\x03\x04": "is a ZIP archive or a spreadsheet; export it as CSV",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldFile:
    """A file whose bytes are in memory, for a process that may open no path. Only its name is told in messages."""

    name: str
    content: bytes

    def __repr__(self) -> str:
        return f"HeldFile({self.name})"

    def open(self, _mode: Literal["rb"]) -> io.BytesIO:
        """Its bytes from the beginning."""
        return io.BytesIO(self.content)


AnyFile: TypeAlias = Path | HeldFile


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalTable:
    """A file's columns under their own names, in the file's order. In a CSV file all are text."""

    path: AnyFile
    format: Format
    table: pa.Table

    def place(self, row: int) -> str:
        """Where row number `row` (from 0) stands, for a message: the line of a CSV file, else the row counted from 1."""
        if self.format != "csv":
            return f"{self.path.name}, row {row + 1}"
        line = next((line for index, (line, _) in enumerate(_csv_rows(self.path)) if index == row + 1), None)
        return f"{self.path.name}, line {line}" if line else f"{self.path.name}, row {row + 1}"


def open_local(path: AnyFile, *, memory: int | None = None) -> LocalTable:
    """Read a whole local file.

    Args:
        memory: bytes that may be used; by default what the machine says is available.

    Raises:
        Malformed: code `unreadable` (no table in one of the formats; with the line where a CSV file breaks), `too-large` (does not fit in
            memory).
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
        kind = _format_of(head, path)
        room = _available() if memory is None else memory
        _require_room(path, kind, room)
        table = _read_csv(path) if kind == "csv" else _plain(_read_binary(path, kind, head), path, room)
        table.validate(full=True)
    except (pa.ArrowMemoryError, MemoryError) as error:
        raise Malformed(f"{path.name} does not fit in memory; split it or use a larger machine", code="too-large") from error
    except (OSError, pa.ArrowException, UnicodeError) as error:
        message = f"{path.name} is not a readable Parquet, Arrow or CSV file, or holds text that is not UTF-8"
        raise Malformed(message, code="unreadable") from error
    return LocalTable(path=path, format=kind, table=table)


def typed_csv(local: LocalTable, source: str, column: Column) -> pa.ChunkedArray:
    """Return the cells of text column `source` as what `column` declares.

    Integers become 64-bit, decimals exact decimals with `column.decimals` fractional digits. Blanks around a number do not count.

    Raises:
        Malformed: code `column-type`, with the line of the first cell that is something else.
    """
    cells = local.table.column(source)
    if column.type == "text":
        return cells
    trimmed = pc.utf8_trim_whitespace(cells)
    if column.type == "date":
        return _dates(local, source, column, trimmed)
    fraction = rf"(\.[0-9]{{1,{column.decimals}}}0*)?" if column.decimals else r"(\.0+)?"
    pattern = r"^-?[0-9]{1,19}$" if column.type == "integer" else rf"^-?[0-9]{{1,18}}{fraction}$"
    fits = pc.fill_null(pc.match_substring_regex(trimmed, pattern), True)
    wrong = pc.index(fits, False).as_py()
    if wrong >= 0:
        raise _misfit(local, source, column, wrong)
    if column.type == "decimal":
        short = pc.replace_substring_regex(trimmed, r"(\.[0-9]*?)0+$", r"\1")
        return pc.replace_substring_regex(short, r"\.$", "").cast(pa.decimal128(DECIMAL_PRECISION, column.decimals))
    try:
        return trimmed.cast(pa.int64())
    except pa.ArrowInvalid:
        texts = trimmed.to_pylist()
        row = next(row for row, text in enumerate(texts) if text is not None and not -(2**63) <= int(text) < 2**63)
        raise _misfit(local, source, column, row) from None


def _dates(local: LocalTable, source: str, column: Column, cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Days written as 2026-01-31, of the calendar: there is no 30th of February."""
    fits = pc.fill_null(pc.match_substring_regex(cells, r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), True)
    wrong = pc.index(fits, False).as_py()
    if wrong >= 0:
        raise _misfit(local, source, column, wrong)
    try:
        return cells.cast(pa.date32())
    except pa.ArrowInvalid:
        raise _misfit(local, source, column, next(row for row, text in enumerate(cells.to_pylist()) if not _is_day(text))) from None


def _is_day(text: str | None) -> bool:
    try:
        return text is None or date.fromisoformat(text) is not None
    except ValueError:
        return False


def _misfit(local: LocalTable, source: str, column: Column, row: int) -> Malformed:
    text = str(local.table.column(source)[row].as_py())
    shown = "".join(c if c.isprintable() else "?" for c in text[:40])
    declared = f"decimal with {column.decimals} fractional digits" if column.type == "decimal" else column.type
    declared += " (as 2026-01-31)" if column.type == "date" else ""
    return Malformed(f"{local.place(row)}: `{source}` holds `{shown}`, and is declared {declared}", where=column.name, code="column-type")


def _format_of(head: bytes, path: AnyFile) -> Format:
    for magic, why in _REFUSED.items():
        if head.startswith(magic):
            raise Malformed(f"{path.name} {why}", code="unreadable")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    if not head or b"\x00" in head:
        raise Malformed(f"{path.name} is {'empty' if not head else 'no Parquet, Arrow or CSV file'}", code="unreadable")
    return "csv"


def _read_binary(path: AnyFile, kind: Format, head: bytes) -> pa.Table:
    if kind == "parquet":
        schema = pq.read_schema(_native(path))
        texts = [name for name, held in zip(schema.names, schema.types, strict=True) if _is_text(held)]
        # As dictionaries: one long text that stands in every row takes room once until it is known that all of it fits.
        return pq.read_table(_native(path), partitioning=None, read_dictionary=texts)
    with pa.OSFile(os.fspath(path), "rb") if isinstance(path, Path) else pa.BufferReader(path.content) as file:
        return (ipc.open_file(file) if head.startswith(b"ARROW1") else ipc.open_stream(file)).read_all()


def _native(path: AnyFile) -> Path | pa.BufferReader:
    """What Arrow's readers take."""
    return path if isinstance(path, Path) else pa.BufferReader(path.content)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _plain(table: pa.Table, path: AnyFile, room: int) -> pa.Table:
    """`table` with dictionaries (pandas categories) and string views as their plain values. Raises Malformed without room for them."""
    _require(table.nbytes + sum(map(_spelled_out, table.columns)), room, path)
    for index, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        kind = pa.large_string() if pa.types.is_string_view(kind) else kind
        if kind != field.type:
            table = table.set_column(index, field.name, table.column(index).cast(kind))
    return table


def _spelled_out(column: pa.ChunkedArray) -> int:
    """Bytes of a dictionary column's texts once each row has its own; 0 for another column."""
    if not pa.types.is_dictionary(column.type) or not _is_text(column.type.value_type):
        return 0
    sizes = (pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0 for chunk in column.chunks)
    return int(sum(sizes))


def _read_csv(path: AnyFile) -> pa.Table:
    header = next(_csv_rows(path), (1, []))[1]
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        raise Malformed(f"{path.name}, line 1: the columns are not separated by commas; export the file with commas", code="unreadable")
    if _quotes(path) % 2:
        for _ in _csv_rows(path):  # a quote that is never closed would swallow the rest of the file as one cell
            pass
    try:
        return pacsv.read_csv(
            _native(path),
            read_options=pacsv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.string() for name in header},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        for line, row in _csv_rows(path):
            if len(row) != len(header):
                message = f"{path.name}, line {line}: {len(row)} cells, and the header has {len(header)} columns"
                raise Malformed(message, code="unreadable") from error
        raise


def _quotes(path: AnyFile) -> int:
    with path.open("rb") as file:
        return sum(block.count(b'"') for block in iter(lambda: file.read(_BLOCK_BYTES), b""))


def _csv_rows(path: AnyFile) -> Iterator[tuple[int, list[str]]]:
    """(first line counted from 1, cells) of the header and every row; empty lines are none. Raises Malformed with the line."""
    line = 0
    try:
        with path.open("rb") as file:
            reader = csv.reader(_lines(file, path), strict=True)
            while (row := next(reader, None)) is not None:
                if row:
                    yield line + 1, row
                line = reader.line_num
    except csv.Error as error:
        raise Malformed(f"{path.name}, line {line + 1}: {error}", code="unreadable") from error


def _lines(file: Iterator[bytes], path: AnyFile) -> Iterator[str]:
    for number, data in enumerate(file, 1):
        try:
            text = data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise Malformed(f"{path.name}, line {number}: not UTF-8 text", code="unreadable") from error
        if "\x00" in text:
            raise Malformed(f"{path.name}, line {number}: a NUL character; this is no CSV file", code="unreadable")
        yield text


def _require_room(path: AnyFile, kind: Format, memory: int) -> None:
    size = path.stat().st_size if isinstance(path, Path) else len(path.content)
    needed = size * (_CSV_GROWTH if kind == "csv" else 1)
    if kind == "parquet":
        needed = _decoded_size(pq.read_metadata(_native(path)))
    _require(needed, memory, path)


def _decoded_size(parts: pq.FileMetaData) -> int:
    """Bytes that a Parquet file takes at least once it is read: run lengths and dictionaries make a file far smaller than its rows."""
    encoded = sum(parts.row_group(index).total_byte_size for index in range(parts.num_row_groups))
    widths = [_WIDTHS.get(held.physical_type, max(4, held.length)) for held in map(parts.schema.column, range(parts.num_columns))]
    decoded = sum(
        parts.row_group(group).column(index).num_values * width
        for group in range(parts.num_row_groups)
        for index, width in enumerate(widths)
    )
    return int(max(encoded, decoded))


_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
"""Bytes of a value by physical type; of a text, those of its place among the others."""


def _require(needed: int, memory: int, path: AnyFile) -> None:
    if needed > memory:
        sizes = f"{needed / (1 << 20):.1f} MiB in memory, and {memory / (1 << 20):.1f} MiB are available"
        raise Malformed(f"{path.name} takes about {sizes}; split it or use a larger machine", code="too-large")


def _available() -> int:
    """Bytes of memory that the machine can still give: MemAvailable of Linux, elsewhere all there is."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def use_once() -> None:
    """Read a table of each format and count its keys, so that what pyarrow loads for it is loaded."""
    table = pa.table({"c": pa.array(["1", "2"])})
    for write in (pq.write_table, pacsv.write_csv, _write_arrow):
        file = io.BytesIO()
        write(table, file)
        read = open_local(HeldFile(name="preload", content=file.getvalue()))
        read.table.group_by("c").aggregate([])
        typed_csv(read, "c", Column(name="c", type="integer"))


def _write_arrow(table: pa.Table, file: io.BytesIO) -> None:
    with ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)

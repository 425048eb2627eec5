"""The log as static files: C2SP tlog-tiles paths, hash tiles and entry bundles. Pure: reading is passed in.

A tile is up to 256 consecutive hashes of perfect nodes at tree level 8 * `level`; a bundle is the same range
of entries at level 0. `width` is the number of hashes or entries, 1 to 256; below 256 the file is partial and
its path says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from policies.errors import Malformed, NotFound, Tampered
from sandbox.audit.merkle import HASH_BYTES, Node

TILE_WIDTH = 256
TILE_HEIGHT = 8
MAX_LEVEL = 63
MAX_ENTRY_BYTES = 65_535

Kind = Literal["tile", "entries"]

_PATH = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)"
    r"/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """One static file of a log: a hash tile, or an entry bundle (whose `level` is 0)."""

    kind: Kind
    level: int
    index: int
    width: int

    @property
    def path(self) -> str:
        """Its path below the log's prefix.

        Raises:
            Malformed: code "tile-path", as `tile_path` and `entries_path`.
        """
        if self.kind == "entries":
            return entries_path(self.index, self.width)
        return tile_path(self.level, self.index, self.width)


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Return the path of a hash tile, for example ``tile/1/x001/x234/067.p/8``.

    Raises:
        Malformed: code "tile-path", for a level outside 0 to 63, a negative index or a width outside 1 to
            256.
    """
    if not 0 <= level <= MAX_LEVEL:
        raise Malformed(f"a tile's level is from 0 to {MAX_LEVEL}", code="tile-path")
    return f"tile/{level}/{_index_and_width(index, width)}"


def entries_path(index: int, width: int = TILE_WIDTH) -> str:
    """Return the path of an entry bundle, for example ``tile/entries/000.p/15``.

    Raises:
        Malformed: code "tile-path", for a negative index or a width outside 1 to 256.
    """
    return f"tile/entries/{_index_and_width(index, width)}"


def parse_tile_path(path: str) -> LogFile:
    """Parse the path of a tile or a bundle, in exactly the spelling of `tile_path` and `entries_path`.

    Raises:
        Malformed: code "tile-path".
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise Malformed("a tile's path is tile/<level or entries>/<index>[.p/<width>]", code="tile-path")
    bundle = match["level"] == "entries"
    found = LogFile(
        kind="entries" if bundle else "tile",
        level=0 if bundle else int(match["level"]),
        index=int(match["index"].replace("x", "").replace("/", "")),
        width=int(match["width"] or TILE_WIDTH),
    )
    if found.path != path:
        raise Malformed(f"the tile's path is not canonical; it would be {found.path}", code="tile-path")
    return found


def layout(size: int) -> Iterator[LogFile]:
    """Yield every file of a tree with `size` leaves: bundles first, then tiles level by level, in order.

    The `checkpoint` file is not among them; an empty tree has none.

    Raises:
        Malformed: code "tree-range", for a negative size.
    """
    if size < 0:
        raise Malformed("a tree's size is not negative", code="tree-range")
    for index, width in _ranges(size):
        yield LogFile(kind="entries", level=0, index=index, width=width)
    level, hashes = 0, size
    while hashes:
        for index, width in _ranges(hashes):
            yield LogFile(kind="tile", level=level, index=index, width=width)
        level, hashes = level + 1, hashes // TILE_WIDTH


def tile_hashes(level: int, index: int, width: int, node: Node) -> bytes:
    """Return the contents of a hash tile: the hashes of `width` perfect nodes at tree level 8 * `level`.

    Raises:
        Malformed: code "tile-path", as `tile_path`.
    """
    tile_path(level, index, width)
    start = index * TILE_WIDTH
    return b"".join(node(level * TILE_HEIGHT, position) for position in range(start, start + width))


def unpack_hashes(contents: bytes, width: int) -> tuple[bytes, ...]:
    """Return the `width` hashes of a tile.

    Raises:
        Malformed: code "tile", when the length is not `width` times 32 bytes.
    """
    if len(contents) != width * HASH_BYTES:
        raise Malformed(f"a tile of width {width} has {width * HASH_BYTES} bytes", code="tile")
    return tuple(contents[at : at + HASH_BYTES] for at in range(0, len(contents), HASH_BYTES))


def pack_entries(entries: Iterable[bytes]) -> bytes:
    """Return an entry bundle: each entry after its length as a big-endian uint16.

    Raises:
        Malformed: code "entry-size", for an entry longer than 65,535 bytes; code "entry-bundle", unless 1 to
            256 entries.
    """
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise Malformed(f"an entry has at most {MAX_ENTRY_BYTES} bytes", code="entry-size")
        parts.append(len(entry).to_bytes(2, "big") + entry)
    if not 1 <= len(parts) <= TILE_WIDTH:
        raise Malformed(f"a bundle has 1 to {TILE_WIDTH} entries", code="entry-bundle")
    return b"".join(parts)


def unpack_entries(contents: bytes, width: int) -> tuple[bytes, ...]:
    """Return the `width` entries of a bundle.

    Raises:
        Malformed: code "entry-bundle", when the bundle is cut short or has anything after its last entry.
    """
    entries: list[bytes] = []
    at = 0
    for _ in range(width):
        start = at + 2
        end = start + int.from_bytes(contents[at:start], "big")
        if end > len(contents):
            raise Malformed(f"the bundle ends inside entry {len(entries)} of {width}", code="entry-bundle")
        entries.append(contents[start:end])
        at = end
    if at != len(contents):
        raise Malformed(f"the bundle goes on after its {width} entries", code="entry-bundle")
    return tuple(entries)


def read_bundle(read: Callable[[str], bytes], index: int, width: int) -> Sequence[bytes]:
    """Return the first `width` entries of bundle `index`.

    Args:
        read: path -> contents; raises NotFound, FileNotFoundError or LookupError for a file that is not
            there. Where a partial bundle is gone, the full one that replaced it is read (C2SP tlog-tiles,
            Partial Tiles).

    The entries are not authenticated: hash them and compare the root with the checkpoint.

    Raises:
        Tampered: code "log-file-missing".
        Malformed: code "entry-bundle", for a bundle that is cut short or too long; `where` is its path.
    """
    for stored in dict.fromkeys((width, TILE_WIDTH)):
        path = entries_path(index, stored)
        try:
            contents = read(path)
        except (NotFound, FileNotFoundError, LookupError):
            continue
        try:
            return unpack_entries(contents, stored)[:width]
        except Malformed as error:
            raise Malformed(error.message, code=error.code, where=path) from error
    raise Tampered("a file of the log is missing", code="log-file-missing", where=entries_path(index, width))


def _ranges(count: int) -> Iterator[tuple[int, int]]:
    """Yield (index, width) of the tiles that hold `count` hashes or entries."""
    for start in range(0, count, TILE_WIDTH):
        yield start // TILE_WIDTH, min(TILE_WIDTH, count - start)


def _index_and_width(index: int, width: int) -> str:
    if index < 0 or not 1 <= width <= TILE_WIDTH:
        raise Malformed(f"a tile has an index from 0 and a width from 1 to {TILE_WIDTH}", code="tile-path")
    digits = str(index)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    text = "/".join([f"x{group}" for group in groups[:-1]] + groups[-1:])
    return text if width == TILE_WIDTH else f"{text}.p/{width}"

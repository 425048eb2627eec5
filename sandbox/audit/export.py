"""An export: a log as a folder of static files with the openings that one participant may read. Pure: reading is passed in.

Layout: `checkpoint` (signed note), `tile/...` (exactly the files of `tiles.layout`), `openings/NNNNNN.jsonl` (one JSON opening per line,
ascending; file N holds the entries of bundle N; missing openings and missing files mean "not opened") and `log.vkey` (C2SP verifier key
of the log as the exporting participant knows it, one line); `lineage.json` only where the log has changed its key or is not the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from enclaves.kit.lineage import verify_log_rotation
from policies.canonical import canonical, parse_json
from policies.codec import decode, encode
from policies.entries import Opening
from policies.errors import Malformed, NotFound, Tampered
from policies.lineage import LogRotation, SignedLogRotation
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.tiles import TILE_WIDTH, LogFile, layout, unpack_entries

CHECKPOINT_PATH = "checkpoint"
KEY_PATH = "log.vkey"
LINEAGE_PATH = "lineage.json"
MAX_OPENING = 16 << 20
"""Largest line of an openings file, bytes."""

Read = Callable[[str], bytes]
"""Path -> contents; raises NotFound, FileNotFoundError or LookupError for a file that is not there."""

MISSING = (NotFound, FileNotFoundError, LookupError)


def openings_path(bundle: int) -> str:
    """Return the path of the openings of entries 256 * `bundle` to 256 * `bundle` + 255. Raises Malformed for a negative bundle."""
    if bundle < 0:
        raise Malformed("a bundle's index is not negative", where="bundle")
    return f"openings/{bundle:06d}.jsonl"


def render_openings(openings: Iterable[Opening]) -> bytes:
    """Return openings as lines of canonical JSON. Raises Malformed unless indices ascend."""
    found = list(openings)
    _require_ascending(found)
    return b"".join(canonical(encode(opening)) + b"\n" for opening in found)


def parse_openings(data: bytes) -> list[Opening]:
    """Return the openings that `render_openings` wrote. Raises Malformed naming the line."""
    found = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line:
            try:
                found.append(decode(Opening, parse_json(line, limit=MAX_OPENING)))
            except Malformed as error:
                raise Malformed(f"an opening is malformed: {error.message}", where=f"line {number}") from error
    _require_ascending(found)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """Up to 256 consecutive entries.

    Attributes:
        first: index of the first entry.
        openings: by entry index.
        problem: why the openings file could not be read; empty if it could, or if there is none.
    """

    first: int
    entries: tuple[bytes, ...]
    openings: Mapping[int, Opening]
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """Reads an export, one bundle at a time."""

    read: Read

    def checkpoint(self) -> str:
        """The signed note. Raises Tampered (code `log-file-missing`), Malformed."""
        return self._text(CHECKPOINT_PATH)

    def log_key(self) -> LogKey:
        """The log's key as the exporting participant knew it. Raises Tampered (code `log-file-missing`), Malformed."""
        return LogKey.parse(self._text(KEY_PATH).removesuffix("\n"))

    def log_keys(self, key: LogKey) -> list[LogKey]:
        """`key` and the keys of the same log that followed it, each signed for by the one before it. A missing or false file adds none."""
        found = [key]
        for rotation in self._log_rotations():
            if (rotation.origin, rotation.old_key) == (key.name, found[-1].public.hex()):
                found.append(LogKey(name=key.name, public=bytes.fromhex(rotation.key)))
        return found

    def former_keys(self, key: LogKey) -> list[LogKey]:
        """The keys of the same log before `key`, oldest first, each of which signed for the one after it."""
        found: list[LogKey] = []
        for rotation in reversed(self._log_rotations()):
            if (rotation.origin, rotation.key) == (key.name, (found[0] if found else key).public.hex()):
                found.insert(0, LogKey(name=key.name, public=bytes.fromhex(rotation.old_key)))
        return found

    def _log_rotations(self) -> list[LogRotation]:
        """The verified new keys that the export tells of, in order; none where the file is missing or false."""
        with suppress(*MISSING, Malformed, Tampered, AttributeError, KeyError, TypeError):
            links = parse_json(self.read(LINEAGE_PATH), limit=64 << 20)["links"]
            rotations = [item for item in links if item.get("kind") == "signed-log-rotation/1"]
            return [verify_log_rotation(decode(SignedLogRotation, item)) for item in rotations]
        return []

    def bundles(self, size: int) -> Iterator[Bundle]:
        """Yield the bundles of a log of `size` entries in order; nothing in them is authenticated.

        Raises:
            Tampered: code `log-file-missing`. Malformed: code `entry-bundle`, with `where`.
        """
        for file in layout(size):
            if file.kind != "entries":
                return
            try:
                entries = unpack_entries(self._required(file.path), file.width)
            except Malformed as error:
                raise Malformed(error.message, code=error.code, where=file.path) from error
            openings, problem = self._openings(file)
            yield Bundle(first=file.index * TILE_WIDTH, entries=entries, openings=openings, problem=problem)

    def entries(self, size: int) -> Iterator[tuple[int, bytes, Opening | None]]:
        """Yield (index, entry, its opening) in order. Raises as `bundles`, and Malformed for an openings file that cannot be read."""
        for bundle in self.bundles(size):
            if bundle.problem:
                raise Malformed(bundle.problem)
            for index, entry in enumerate(bundle.entries, start=bundle.first):
                yield index, entry, bundle.openings.get(index)

    def _openings(self, file: LogFile) -> tuple[dict[int, Opening], str]:
        path, first = openings_path(file.index), file.index * TILE_WIDTH
        try:
            found = parse_openings(self.read(path))
        except MISSING:
            return {}, ""
        except Malformed as error:
            return {}, f"{path}: {error}"
        strays = [o.index for o in found if not first <= o.index < first + file.width]
        problem = f"{path}: holds an opening of entry {strays[0]}, which is not of this bundle" if strays else ""
        return {opening.index: opening for opening in found if opening.index not in strays}, problem

    def _text(self, path: str) -> str:
        try:
            return self._required(path).decode()
        except UnicodeDecodeError as error:
            raise Malformed("the file is not UTF-8", where=path) from error

    def _required(self, path: str) -> bytes:
        try:
            return self.read(path)
        except MISSING as error:
            raise Tampered("a file of the log is missing", code="log-file-missing", where=path) from error


def _require_ascending(openings: list[Opening]) -> None:
    indices = [opening.index for opening in openings]
    if any(after <= before for before, after in zip([-1, *indices], indices, strict=False)):
        raise Malformed("openings must have ascending indices from 0", where="index")

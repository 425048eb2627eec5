"""An export: a log as a folder of static files with the openings that one participant may read. Pure: reading is passed in.

Layout: `checkpoint` (signed note), `tile/...` (exactly the files of `tiles.layout`), `openings/NNNNNN.jsonl` (one JSON opening per line,
ascending; file N holds the entries of bundle N; missing openings and missing files mean "not opened") and `log.vkey` (C2SP verifier key
of the log as the exporting participant knows it, one line); `lineage.json` only where the log has changed its key or is not the first;
`reader.json` says whose credential made the export (sandbox/audit/reading.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from enclaves.kit.lineage import verify_log_rotation
from policies.canonical import canonical, parse_json, parse_spelled
from policies.codec import decode, encode
from policies.entries import Opening, commit, commit_text
from policies.errors import Malformed, NotFound, Tampered
from policies.lineage import LogRotation, SignedLogRotation
from policies.names import require_key
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.tiles import TILE_WIDTH, LogFile, read_bundle

CHECKPOINT_PATH = "checkpoint"
KEY_PATH = "log.vkey"
LINEAGE_PATH = "lineage.json"
READER_PATH = "reader.json"
MAX_OPENING = 16 << 20
"""Largest line of an openings file, bytes."""

Read = Callable[[str], bytes]
"""Path -> contents; raises NotFound, FileNotFoundError or LookupError for a file that is not there."""

MISSING = (NotFound, FileNotFoundError, LookupError)


def bundle_count(size: int) -> int:
    """Number of bundles of a log of `size` entries."""
    return -(-size // TILE_WIDTH)


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
    return [opening for opening, _ in _openings_of(data)]


def _openings_of(data: bytes) -> list[tuple[Opening, str]]:
    """Every opening with the commitment that it opens; empty where its salt is none."""
    found = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line:
            try:
                value, own = parse_spelled(line, limit=MAX_OPENING)
                opening = decode(Opening, value)
            except Malformed as error:
                raise Malformed(f"an opening is malformed: {error.message}", where=f"line {number}") from error
            found.append((opening, _commitment_of(opening, line if own else b"")))
    _require_ascending([opening for opening, _ in found])
    return found


def _commitment_of(opening: Opening, line: bytes) -> str:
    """The commitment that an opening opens, from its canonical `line` if that is what was read: the body stands there as it is hashed."""
    try:
        salt = bytes.fromhex(require_key(opening.salt, "salt"))
    except Malformed:
        return ""
    return commit_text(salt, line[len(b'{"body":') : line.rindex(b',"index":')]) if line else commit(salt, opening.body)


@dataclass(frozen=True, slots=True)
class Opened:
    """The body that an opening reveals, and the commitment that it opens; empty where its salt is none."""

    body: dict[str, Any]
    commitment: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """Up to 256 consecutive entries.

    Attributes:
        first: index of the first entry.
        openings: by entry index; `commitments`: the ones that they open.
        problem: why the openings file could not be read; empty if it could, or if there is none.
    """

    first: int
    entries: tuple[bytes, ...]
    openings: Mapping[int, Opening]
    commitments: Mapping[int, str]
    problem: str

    def opened(self, index: int) -> Opened | None:
        """What is opened of an entry; None if nothing."""
        return Opened(self.openings[index].body, self.commitments[index]) if index in self.openings else None


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
        for number in range(bundle_count(size)):
            yield self.bundle(number, size)

    def bundle(self, number: int, size: int) -> Bundle:
        """One bundle of a log of `size` entries. Raises as `bundles`."""
        return self.opened(self.closed(number, size))

    def closed(self, number: int, size: int) -> Bundle:
        """The entries of one bundle of a log of `size` entries, without openings. Raises as `bundles`."""
        entries = tuple(read_bundle(self.read, number, min(TILE_WIDTH, size - number * TILE_WIDTH)))
        return Bundle(first=number * TILE_WIDTH, entries=entries, openings={}, commitments={}, problem="")

    def opened(self, bundle: Bundle) -> Bundle:
        """The same entries with their openings."""
        file = LogFile(kind="entries", level=0, index=bundle.first // TILE_WIDTH, width=len(bundle.entries))
        found, problem = self._openings(file)
        openings = {opening.index: opening for opening, _ in found}
        commitments = {opening.index: commitment for opening, commitment in found}
        return replace(bundle, openings=openings, commitments=commitments, problem=problem)

    def entries(self, size: int) -> Iterator[tuple[int, bytes, Opening | None]]:
        """Yield (index, entry, its opening) in order. Raises as `bundles`, and Malformed for an openings file that cannot be read."""
        for bundle in self.bundles(size):
            if bundle.problem:
                raise Malformed(bundle.problem)
            for index, entry in enumerate(bundle.entries, start=bundle.first):
                yield index, entry, bundle.openings.get(index)

    def _openings(self, file: LogFile) -> tuple[list[tuple[Opening, str]], str]:
        path, first = openings_path(file.index), file.index * TILE_WIDTH
        try:
            found = _openings_of(self.read(path))
        except MISSING:
            return [], ""
        except Malformed as error:
            return [], f"{path}: {error}"
        own = [item for item in found if first <= item[0].index < first + file.width]
        strays = [opening.index for opening, _ in found if not first <= opening.index < first + file.width]
        problem = f"{path}: holds an opening of entry {strays[0]}, which is not of this bundle" if strays else ""
        return own, problem

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

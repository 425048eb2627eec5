"""Putting together what several exports of one log hold beyond a known beginning. Pure: reading is passed in.

The entries are those of the longest export, whose checkpoint the log signed; every other export must be a beginning of it, and so must
the entries that are known already. Openings of all exports are put together, each held against its commitment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from policies.entries import Header, Opening, open_body, parse_header
from policies.errors import Tampered
from sandbox.audit.checkpoint import Checkpoint, LogKey, open_checkpoint
from sandbox.audit.export import Export
from sandbox.audit.merkle import Frontier, leaf_hash


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Entries beyond the known ones.

    Attributes:
        first: index of the first of `entries`, the number of known entries.
        headers: parsed, of the same entries.
        openings: by entry index; every one fits its commitment.
        size, note: of the newest checkpoint, which covers exactly these entries.
    """

    first: int
    entries: tuple[bytes, ...]
    headers: tuple[Header, ...]
    openings: Mapping[int, Opening]
    size: int
    note: str


def merge_exports(exports: Sequence[Export], keys: Sequence[LogKey], size: int, root: bytes) -> Found:
    """Return what the exports hold beyond the first `size` entries, whose tree has `root`.

    Args:
        keys: of the log, the present one and those before it; each checkpoint is signed with one of them.

    Raises:
        Tampered: a checkpoint is not signed by the log, an export's entries are not those under its checkpoint, or two exports, or an
            export and the known entries, are of different histories; code `other-history` for the last two.
        Malformed: an export cannot be read.
    """
    read = sorted((_read(export, keys, size, root) for export in exports), key=lambda found: found.size)
    longest = read[-1]
    openings: dict[int, Opening] = {}
    for found in read:
        if found.entries != longest.entries[: len(found.entries)]:
            raise Tampered("two exports are of different histories of the log", code="other-history")
        openings |= found.openings
    return Found(first=size, entries=longest.entries, headers=longest.headers, openings=openings, size=longest.size, note=longest.note)


def _read(export: Export, keys: Sequence[LogKey], size: int, root: bytes) -> Found:
    note = export.checkpoint()
    checkpoint, frontier = _opened(note, keys), Frontier()
    entries: list[bytes] = []
    headers: list[Header] = []
    openings: dict[int, Opening] = {}
    for index, data, opening in export.entries(checkpoint.size):
        frontier = frontier.append(leaf_hash(data))
        if frontier.size == size and frontier.root() != root:
            raise Tampered("the export and the known entries are of different histories of the log", code="other-history")
        if index < size:
            continue
        header = parse_header(data)
        entries.append(data)
        headers.append(header)
        if opening is not None:
            open_body(header, opening)
            openings[index] = opening
    if frontier.root() != checkpoint.root:
        raise Tampered("the export's entries do not lead to its checkpoint", code="rewritten")
    return Found(first=size, entries=tuple(entries), headers=tuple(headers), openings=openings, size=checkpoint.size, note=note)


def _opened(note: str, keys: Sequence[LogKey]) -> Checkpoint:
    for key in keys[:-1]:
        with suppress(Tampered):
            return open_checkpoint(note, key)
    return open_checkpoint(note, keys[-1])

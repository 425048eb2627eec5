"""Rebuilding the tree of an export: every tile, the root, and agreement with an earlier checkpoint, in memory that grows with log(size)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from policies.errors import Malformed
from sandbox.audit.checkpoint import Checkpoint
from sandbox.audit.export import MISSING, Read
from sandbox.audit.merkle import Frontier
from sandbox.audit.tiles import TILE_WIDTH, tile_path, unpack_hashes

Report = Callable[[int | None, str, str], None]
"""(entry index or None, kind of file, what) -> None."""


@dataclass(kw_only=True, slots=True)
class TreeCheck:
    """Takes the leaf hashes in order, bundle by bundle, and reports whatever differs.

    `rewritten` says whether the entries are not those of the checkpoint `since`, so that the log has signed two histories.

    Invariant: `pending[level]` holds the hashes that follow the `tiles_done[level]` full tiles of that level.
    """

    read: Read
    report: Report
    since: Checkpoint | None = None
    frontier: Frontier = field(default_factory=Frontier)
    pending: list[list[bytes]] = field(default_factory=list)
    tiles_done: list[int] = field(default_factory=list)
    rewritten: bool = False

    def add(self, leaves: Sequence[bytes]) -> None:
        """Append the leaf hashes of one bundle."""
        old, since = self.frontier.size, self.since
        if since is not None and old < since.size <= old + len(leaves):
            seen = self.frontier.extend(leaves[: since.size - old]).root()
            if seen != since.root:
                what = f"the first {since.size} entries are not those of the checkpoint seen before: the log was rewritten"
                self.report(None, "split-view", what)
                self.rewritten = True
        self.frontier = self.frontier.extend(leaves)
        self._push(0, leaves)

    def finish(self, checkpoint: Checkpoint) -> None:
        """Compare partial tiles and the root after the last bundle."""
        for level, hashes in enumerate(self.pending):
            if hashes:
                self._compare(level, hashes)
        if self.frontier.root() != checkpoint.root:
            self.report(None, "checkpoint", "the entries do not lead to the checkpoint's root")

    def _push(self, level: int, hashes: Sequence[bytes]) -> None:
        if level == len(self.pending):
            self.pending.append([])
            self.tiles_done.append(0)
        pending = self.pending[level]
        for item in hashes:
            pending.append(item)
            if len(pending) == TILE_WIDTH:
                self._compare(level, pending)
                self.tiles_done[level] += 1
                root = Frontier().extend(pending).root()
                pending.clear()
                self._push(level + 1, (root,))

    def _compare(self, level: int, hashes: Sequence[bytes]) -> None:
        index = self.tiles_done[level]
        path = tile_path(level, index, len(hashes))
        try:
            stored = unpack_hashes(self.read(path), len(hashes))
        except MISSING:
            self.report(None, "tile", f"{path} is missing")
            return
        except Malformed as error:
            self.report(None, "tile", f"{path}: {error.message}")
            return
        wrong = [at for at, (own, other) in enumerate(zip(hashes, stored, strict=True)) if own != other]
        if wrong:
            first = index * TILE_WIDTH + wrong[0] if level == 0 else None
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            self.report(first, "tile", f"{path}: hash {wrong[0]}{more} is not that of the entries")

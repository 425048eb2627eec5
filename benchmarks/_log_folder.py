"""A log as the folder of static files that an export is, written entry by entry in memory that does not grow with its length."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enclaves.kit.signatures import SigningKey
from policies.canonical import canonical
from policies.codec import encode
from policies.entries import EntryKind, Header, LedgerCharge, commit_text
from sandbox.audit.checkpoint import Checkpoint, LogKey, sign
from sandbox.audit.export import CHECKPOINT_PATH, KEY_PATH, openings_path
from sandbox.audit.merkle import Frontier, leaf_hash
from sandbox.audit.tiles import TILE_WIDTH, entries_path, pack_entries, tile_path


@dataclass(kw_only=True)
class LogFolder:
    """Writes entries and openings as static files, tile by tile.

    Attributes:
        origin: name of the log.
    """

    folder: Path
    origin: str
    size: int = 0
    entries: list[bytes] = field(default_factory=list)
    openings: list[bytes] = field(default_factory=list)
    pending: list[list[bytes]] = field(default_factory=lambda: [[]])
    done: list[int] = field(default_factory=lambda: [0])
    frontier: Frontier = field(default_factory=Frontier)

    def append(self, kind: EntryKind, at: int, ids: dict[str, str], body: dict[str, Any], losses: tuple[LedgerCharge, ...] = ()) -> int:
        """Append an entry and its opening; returns its index."""
        index, salt, text = self.size, hashlib.sha256(b"salt %d" % self.size).digest(), canonical(body)
        header = Header(kind=kind, at=at, ids=ids, losses=losses, commitment=commit_text(salt, text))
        self.entries.append(canonical(encode(header)))
        # The bytes that `render_openings` writes, around those that are committed to.
        self.openings.append(b'{"body":%b,"index":%d,"salt":"%b"}\n' % (text, index, salt.hex().encode()))
        self.size += 1
        if len(self.entries) == TILE_WIDTH:
            self._flush()
        return index

    def close(self, key: SigningKey) -> Checkpoint:
        """Write what is left, the key and the signed checkpoint."""
        if self.entries:
            self._flush()
        for level, hashes in enumerate(self.pending):
            if hashes:
                self._write(tile_path(level, self.done[level], len(hashes)), b"".join(hashes))
        checkpoint = Checkpoint(origin=self.origin, size=self.size, root=self.frontier.root())
        self._write(KEY_PATH, LogKey(name=self.origin, public=key.public).vkey.encode() + b"\n")
        self._write(CHECKPOINT_PATH, sign(checkpoint, key).encode())
        return checkpoint

    def _flush(self) -> None:
        bundle = (self.size - 1) // TILE_WIDTH
        self._write(entries_path(bundle, len(self.entries)), pack_entries(self.entries))
        self._write(openings_path(bundle), b"".join(self.openings))
        leaves = [leaf_hash(entry) for entry in self.entries]
        self.frontier = self.frontier.extend(leaves)
        for leaf in leaves:
            self._push(0, leaf)
        self.entries, self.openings = [], []

    def _push(self, level: int, item: bytes) -> None:
        if level == len(self.pending):
            self.pending.append([])
            self.done.append(0)
        hashes = self.pending[level]
        hashes.append(item)
        if len(hashes) == TILE_WIDTH:
            self._write(tile_path(level, self.done[level]), b"".join(hashes))
            self.done[level] += 1
            root = Frontier().extend(hashes).root()
            hashes.clear()
            self._push(level + 1, root)

    def _write(self, path: str, data: bytes) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

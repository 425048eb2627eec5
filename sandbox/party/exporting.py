"""Exporting the log to a folder of static files, checked against its checkpoint on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from policies.agreement import LogIdentity
from policies.canonical import canonical, parse_json
from policies.codec import decode, encode
from policies.entries import Opening
from sandbox.audit.checkpoint import LogKey, open_checkpoint
from sandbox.audit.export import LINEAGE_PATH, READER_PATH, openings_path, render_openings
from sandbox.audit.reading import Reader
from sandbox.audit.tiles import TILE_WIDTH, layout
from sandbox.party.client import Client
from sandbox.party.cosigning import cosigned_note, following
from sandbox.party.following import decode_links


def export_log(client: Client, folder: Path, log: LogIdentity, progress: Callable[[int, int], None] = lambda done, of: None) -> int:
    """Write checkpoint, tiles, entries and the openings that this participant may read to `folder`; return the number of entries.

    The log must be consistent with what this participant saw before.

    Raises:
        Tampered: the log was rewound or rewritten.
    """
    key = LogKey(name=log.origin, public=bytes.fromhex(log.key))
    note = client.checkpoint()
    size = open_checkpoint(note, key).size
    lineage = client.log_bytes("lineage")
    links = decode_links(parse_json(lineage, limit=64 << 20)["links"])
    following(client.home, client.log_text).follow_stated(note, log, links)
    reader = Reader(participant=client.home.participant, at=int(time.time()))
    files = list(layout(size))
    bundles = range(0, size, TILE_WIDTH)
    total = len(files) + len(bundles)
    for done, file in enumerate(files):
        _write(folder / file.path, client.log_bytes(file.path))
        progress(done + 1, total)
    for done, first in enumerate(bundles):
        answer = parse_json(client.log_bytes(f"openings?from={first}&to={min(first + TILE_WIDTH, size)}"), limit=256 << 20)
        openings = decode(tuple[Opening, ...], answer["openings"])
        _write(folder / openings_path(first // TILE_WIDTH), render_openings(list(openings)))
        progress(len(files) + done + 1, total)
    if links:
        _write(folder / LINEAGE_PATH, lineage)
    _write(folder / READER_PATH, canonical(encode(reader)) + b"\n")
    _write(folder / "log.vkey", key.vkey.encode() + b"\n")
    _write(folder / "checkpoint", cosigned_note(client.home, note).encode())
    return size


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

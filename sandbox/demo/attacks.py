"""What the demo does to the host's records to show that it is noticed."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from policies.canonical import parse_json
from policies.codec import decode
from policies.entries import Header
from sandbox.audit.tiles import layout, unpack_entries
from sandbox.party.home import Home
from sandbox.party.publish import column_keys, keys_file


def snapshot(database: Path, copy: Path) -> None:
    """Copy a running SQLite database."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def rewind(database: Path, copy: Path) -> None:
    """Put an older copy in the place of a stopped service's database."""
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(copy, database)


def flip_in_charge(export: Path, size: int) -> int:
    """Change one byte of the first charge in an exported log, and return the charge's index."""
    for file in layout(size):
        if file.kind != "entries":
            continue
        path = export / file.path
        data = bytearray(path.read_bytes())
        for offset, entry in enumerate(unpack_entries(bytes(data), file.width)):
            header = decode(Header, parse_json(entry))
            if header.kind == "charged":
                place = data.find(entry) + entry.index(b'"amount":') + len(b'"amount":')
                data[place] = ord("1") if data[place] != ord("1") else ord("2")
                path.write_bytes(bytes(data))
                return file.index * 256 + offset
    raise ValueError("the log holds no charge")


def secrets_of(home: Home, datasets: Iterable[tuple[str, str]]) -> list[bytes]:
    """Every secret of a home: private keys, wrapping key and the data keys of version 1 of (dataset, file digest)."""
    found = [home.signing.to_bytes(), home.sealing.to_bytes(), home.wrapping, home.credential.encode()]
    for dataset, file_digest in datasets:
        names = tuple(home.read(keys_file(dataset, file_digest))["keys"])
        found += column_keys(home, dataset, 1, file_digest, tuple(name for name in names if not name.startswith("_"))).values()
    return found


def leaks(folder: Path, secrets: Iterable[bytes], cells: Iterable[float]) -> list[str]:
    """Return the files below `folder` that hold a secret (raw or in hex) or three consecutive cells of a column as doubles."""
    needles = [needle for secret in secrets for needle in (secret, secret.hex().encode())]
    values = list(cells)
    needles += [struct.pack("<3d", *values[i : i + 3]) for i in range(0, len(values) - 3, 3)]
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            if any(needle in data for needle in needles):
                found.append(path.name)
    return found

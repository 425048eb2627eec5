"""A file of a home that only grows: one JSON value per line, each after the digest of its text. A line counts whole or not at all.

A line that a crash or a full disk cut short has no fitting digest; it and whatever follows it is overwritten by the next one.
"""

from __future__ import annotations

import os
from typing import Any

from policies.canonical import canonical, digest_bytes, parse_json
from policies.errors import Malformed
from sandbox.party.home import Home, writable

MAX_LINE = 256 << 20


def read_lines(home: Home, name: str) -> tuple[list[Any], int]:
    """The values of a file, none if there is no file, and how many bytes they take."""
    try:
        data = (home.folder / name).read_bytes()
    except FileNotFoundError:
        return [], 0
    found, end = [], 0
    for line in data.splitlines(keepends=True):
        digest, _, text = line.removesuffix(b"\n").partition(b" ")
        if not line.endswith(b"\n") or digest_bytes(text).encode() != digest:
            break
        try:
            found.append(parse_json(text, limit=MAX_LINE))
        except Malformed:
            break
        end += len(line)
    return found, end


def append_line(home: Home, name: str, value: Any, end: int) -> None:
    """Write a value after the first `end` bytes of a file, and sync it. The caller holds the lock of what the file is about.

    Raises:
        Unavailable: code `home`; the file counts as it was.
    """
    text = canonical(value)
    line = digest_bytes(text).encode() + b" " + text + b"\n"
    with writable(home.folder):
        path = home.folder / name
        fresh = not path.exists()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, end)
            with os.fdopen(os.dup(handle), "ab") as file:
                file.write(line)
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, end)
            raise
        finally:
            os.close(handle)
        if fresh:
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

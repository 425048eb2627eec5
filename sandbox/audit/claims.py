"""Which process of a replay judges which bundles."""

from __future__ import annotations

import fcntl
import os
import struct
import tempfile

_NEXT = struct.Struct("<Q")


class Claims:
    """The number of the first bundle that nobody has claimed, shared by a process and its forks: a file that has no name.

    Everybody goes over the bundles in order and claims, or finds claimed, what comes next; so all before that number is claimed, and nobody
    is ever beyond it. The system gives the lock back where a process dies that holds it.
    """

    def __enter__(self) -> Claims:
        self._file = tempfile.TemporaryFile()
        os.pwrite(self._file.fileno(), _NEXT.pack(0), 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def take(self, at: int, bundles: int) -> tuple[int, bool]:
        """Claim so many bundles from bundle `at` on, where the caller stands: (their end, True); or (the end of what is claimed, False)."""
        handle = self._file.fileno()
        fcntl.lockf(handle, fcntl.LOCK_EX)
        try:
            (free,) = _NEXT.unpack(os.pread(handle, _NEXT.size, 0))
            assert at <= free, "nobody passes what is not claimed"
            if at < free:
                return free, False
            os.pwrite(handle, _NEXT.pack(at + bundles), 0)
            return at + bundles, True
        finally:
            fcntl.lockf(handle, fcntl.LOCK_UN)

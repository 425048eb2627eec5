"""Encrypted uploads as files named by their digest. Nothing here parses them."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from policies.errors import NotFound, TooLarge, Unavailable
from policies.names import require_digest

PARTIAL, REMOVING, PROBE = ".upload-", ".remove-", ".probe-"
"""Prefixes of files that are no uploads yet, or no more."""


def _require_encrypted(head: bytes, tail: bytes, size: int) -> None:
    from enclaves.kit.columns import inspect_envelope  # loads pyarrow, which a process that stores no upload does without

    inspect_envelope(head, tail, size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Blobs:
    """A folder of uploads.

    Attributes:
        folder: created if missing.
        limit: largest upload in bytes.
    """

    folder: Path
    limit: int

    def add(self, chunks: Iterable[bytes], *, inspect: Callable[[bytes, bytes, int], None] = _require_encrypted) -> tuple[str, int]:
        """Stream an upload to disk and return (digest, size). It appears whole under its digest or not at all.

        Args:
            inspect: told the first 4 bytes, the last 8 and the size; raises Malformed for what is not kept.

        Raises:
            TooLarge: above `limit`.
            Malformed: empty, plaintext or not an encrypted Parquet file; nothing is kept.
            Unavailable: code `storage`, if the disk is full or cannot be written; nothing is kept.
        """
        try:
            return self._add(chunks, inspect)
        except OSError as error:
            raise Unavailable("uploads cannot be stored now; try again", code="storage") from error

    def _add(self, chunks: Iterable[bytes], inspect: Callable[[bytes, bytes, int], None]) -> tuple[str, int]:
        self.folder.mkdir(parents=True, exist_ok=True)
        hasher, size, head, tail = hashlib.sha256(), 0, b"", b""
        handle, name = tempfile.mkstemp(prefix=PARTIAL, dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    size += len(chunk)
                    if size > self.limit:
                        raise TooLarge(f"the upload is larger than {self.limit} bytes")
                    hasher.update(chunk)
                    head, tail = head + chunk[: 4 - len(head)], (tail + chunk)[-8:]
                    file.write(chunk)
                inspect(head, tail, size)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self.folder / hasher.hexdigest())
            self._sync_names()
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return "sha256:" + hasher.hexdigest(), size

    def _sync_names(self) -> None:
        """Make a new name durable: after a power cut a published version without its file would fail every run."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def scratch(self) -> Path:
        """A path inside the folder for a file that is no upload yet; what is left there is removed like an upload that broke off."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{PARTIAL}{secrets.token_hex(8)}"

    def path(self, digest: str) -> Path:
        """Where the upload of that digest is. Raises NotFound."""
        path = self.folder / require_digest(digest, "digest").removeprefix("sha256:")
        if not path.is_file():
            raise NotFound("there is no upload of that digest")
        return path

    def old_files(self, before: float) -> list[str]:
        """Names of files, also of uploads that broke off, that were last written before `before` (seconds since 1970)."""
        if not self.folder.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(self.folder) if entry.is_file() and entry.stat().st_mtime < before)

    def is_old(self, name: str, before: float) -> bool:
        """Whether a file is missing or was last written before `before` (seconds since 1970)."""
        try:
            return (self.folder / name).stat().st_mtime < before
        except FileNotFoundError:
            return True

    def remove(self, name: str, before: float) -> bool:
        """Remove a file unless it was written anew at or after `before`. Returns whether it is gone.

        It is moved aside before its age is looked at: an upload of the same content at this moment is then either seen, and put back, or
        comes after and stays.
        """
        aside = self.folder / f"{REMOVING}{name}"
        try:
            os.rename(self.folder / name, aside)
        except FileNotFoundError:
            return True
        fresh = aside.stat().st_mtime >= before
        if fresh:
            try:
                os.link(aside, self.folder / name)
            except FileExistsError:
                pass  # uploaded once more meanwhile: the same content
        aside.unlink()
        return not fresh

    def writable(self) -> bool:
        """Whether an upload could be stored now."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(prefix=PROBE, dir=self.folder):
                return True
        except OSError:
            return False

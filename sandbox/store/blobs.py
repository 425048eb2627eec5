"""Encrypted uploads as files named by their digest. Nothing here parses them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from enclaves.kit.columns import inspect_envelope
from policies.errors import NotFound, TooLarge
from policies.names import require_digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Blobs:
    """A folder of uploads.

    Attributes:
        folder: created if missing.
        limit: largest upload in bytes.
    """

    folder: Path
    limit: int

    def add(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Stream an upload to disk and return (digest, size). It appears whole under its digest or not at all.

        Raises:
            TooLarge: above `limit`.
            Malformed: empty, plaintext or not an encrypted Parquet file; nothing is kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        hasher, size, head, tail = hashlib.sha256(), 0, b"", b""
        handle, name = tempfile.mkstemp(prefix=".upload-", dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    size += len(chunk)
                    if size > self.limit:
                        raise TooLarge(f"the upload is larger than {self.limit} bytes")
                    hasher.update(chunk)
                    head, tail = head + chunk[: 4 - len(head)], (tail + chunk)[-8:]
                    file.write(chunk)
                inspect_envelope(head, tail, size)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self.folder / hasher.hexdigest())
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return "sha256:" + hasher.hexdigest(), size

    def path(self, digest: str) -> Path:
        """Where the upload of that digest is. Raises NotFound."""
        path = self.folder / require_digest(digest, "digest").removeprefix("sha256:")
        if not path.is_file():
            raise NotFound("there is no upload of that digest")
        return path

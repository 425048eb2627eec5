"""The measurement: a digest of everything that runs inside an enclave, computable from a checkout by anyone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import policies

MEASURED = ("enclaves", "policies")


def checkout_root() -> Path:
    """Return the folder that holds `policies/`, `enclaves/` and `requirements.txt`."""
    return Path(policies.__file__).resolve().parent.parent


def measurement(root: Path) -> str:
    """Return the digest of all source files of `enclaves/` and `policies/` and of the pinned `requirements.txt`.

    The digest is SHA-256 over one line per file, sorted by path: hex SHA-256 of the contents, two spaces, path with `/`. Byte code and
    hidden files are left out.

    Raises:
        OSError: a file cannot be read.
    """
    files = [root / "requirements.txt"]
    for folder in MEASURED:
        files += [p for p in (root / folder).rglob("*") if p.is_file() and p.suffix != ".pyc" and not p.name.startswith(".")]
    lines = sorted((path.relative_to(root).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files)
    text = "".join(f"{digest}  {name}\n" for name, digest in lines)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

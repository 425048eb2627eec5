"""The measurement: a digest of everything that runs inside an enclave, computable from a checkout by anyone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import policies
from policies.attestation import code_measurement

MEASURED = ("enclaves", "policies")


def checkout_root() -> Path:
    """Return the folder that holds `policies/`, `enclaves/` and `requirements.txt`."""
    return Path(policies.__file__).resolve().parent.parent


def measurement(root: Path) -> str:
    """Return the digest of all files of `enclaves/` and `policies/` and of the pinned `requirements.txt` (`code_measurement`).

    Raises:
        OSError: a file cannot be read.
    """
    return code_measurement(file_digests(root))


def file_digests(root: Path) -> dict[str, str]:
    """Return hex SHA-256 of every measured file by its path from `root`, sorted.

    Order, times and rights of the files do not count, and neither does whether lines end with LF or CRLF, which Python reads alike. Byte
    code and hidden files are left out.

    Raises:
        OSError: a file cannot be read.
    """
    files = [root / "requirements.txt"]
    for folder in MEASURED:
        files += [p for p in (root / folder).rglob("*") if p.is_file() and p.suffix != ".pyc" and not p.name.startswith(".")]
    found = {path.relative_to(root).as_posix(): path.read_bytes().replace(b"\r\n", b"\n") for path in files}
    return {name: hashlib.sha256(found[name]).hexdigest() for name in sorted(found)}

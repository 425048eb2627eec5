"""Publishing: a provider encrypts a table at home, one fresh key per column and version, and keeps the wrapped keys."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from enclaves.kit.columns import FOOTER, KEY_BYTES, encrypt_table, key_context
from enclaves.kit.sealing import unwrap_key, wrap_key
from enclaves.kit.sources import Table
from policies.declaration import Declaration
from policies.documents import VersionManifest
from policies.errors import NotFound
from sandbox.party.client import Client
from sandbox.party.home import Home


def publish(
    client: Client, declaration: Declaration, table: Table, progress: Callable[[str, int], None] = lambda step, n: None
) -> dict[str, Any]:
    """Declare the dataset if it is new, encrypt `table` as its next version, upload and publish it. Returns the version's record.

    The wrapped keys are on disk at home before anything is sent, so a published version can always be opened by its owner.
    """
    home = client.home
    newest = int(client.declare(declaration)["newest"])
    version = newest + 1
    progress("encrypting", 0)
    keys = {name: os.urandom(KEY_BYTES) for name in (FOOTER, *table.column_names)}
    handle, name = tempfile.mkstemp(prefix="publish-", suffix=".parquet", dir=home.folder)
    os.close(handle)
    encrypted = Path(name)
    try:
        encrypt_table(table, encrypted, dataset=declaration.dataset, version=version, keys=keys)
        size = encrypted.stat().st_size
        progress("uploading", size)
        uploaded = client.upload(encrypted, lambda sent: progress("sent", sent))
        _keep_keys(home, declaration.dataset, version, str(uploaded["digest"]), keys)
        manifest = VersionManifest(
            dataset=declaration.dataset,
            version=version,
            file_digest=uploaded["digest"],
            size=size,
            columns=tuple(table.column_names),
        )
        return client.publish_version(manifest)
    finally:
        encrypted.unlink(missing_ok=True)


def column_keys(home: Home, dataset: str, version: int, file_digest: str, columns: tuple[str, ...]) -> dict[str, bytes]:
    """Unwrap the keys of the footer and of `columns` of one published file. Raises NotFound for another file, Tampered."""
    kept = home.read(_keys_file(dataset, version))
    if kept["file"] != file_digest:
        raise NotFound(f"version {version} of {dataset} is another file here")
    wrapping = home.wrapping
    names = (FOOTER, *columns)
    if any(name not in kept["keys"] for name in names):
        raise NotFound(f"version {version} of {dataset} has no key for one of these columns")
    return {name: unwrap_key(wrapping, bytes.fromhex(kept["keys"][name]), key_context(dataset, version, name)) for name in names}


def _keep_keys(home: Home, dataset: str, version: int, file_digest: str, keys: dict[str, bytes]) -> None:
    wrapping = home.wrapping
    wrapped = {name: wrap_key(wrapping, key, key_context(dataset, version, name)).hex() for name, key in keys.items()}
    home.write(_keys_file(dataset, version), {"dataset": dataset, "version": version, "file": file_digest, "keys": wrapped})


def _keys_file(dataset: str, version: int) -> str:
    return f"keys/{dataset}/{version}.json"

"""Publishing: a provider encrypts a table at home, one fresh key per column and version, and keeps the wrapped keys."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from enclaves.kit.columns import FOOTER, KEY_BYTES, encrypt_table, key_context
from enclaves.kit.prepared import prepared
from enclaves.kit.sources import Table
from policies.declaration import Declaration
from policies.documents import VersionManifest
from policies.errors import NotFound, Tampered, Unavailable
from sandbox.party.client import Client
from sandbox.party.home import Home


def publish(
    client: Client, declaration: Declaration, table: Table, progress: Callable[[str, int], None] = lambda step, n: None
) -> dict[str, Any]:
    """Declare the dataset if it is new, encrypt `table` as its next version, upload and publish it. Returns the version's record.

    Rows are put in the order of units and doubles into fixed point, which makes runs faster and changes no answer.
    The wrapped keys are on disk at home before the file is sent, so a published version can always be opened by its owner. The digest
    that the provider signs is its own; what the service says of the upload must agree.

    Raises:
        Tampered: code `upload-digest`, if the service names another digest than the file's.
        Unavailable: code `home`, if the encrypted file does not fit into the home; nothing is published.
    """
    try:
        return _publish(client, declaration, table, progress)
    except OSError as error:
        raise Unavailable(f"{client.home.folder} cannot be written now: {error}", code="home") from error


def _publish(client: Client, declaration: Declaration, table: Table, progress: Callable[[str, int], None]) -> dict[str, Any]:
    home, table = client.home, prepared(table, declaration)
    newest = int(client.declare(declaration)["newest"])
    version = newest + 1
    progress("encrypting", 0)
    keys = {name: os.urandom(KEY_BYTES) for name in (FOOTER, *table.column_names)}
    handle, name = tempfile.mkstemp(prefix="publish-", suffix=".parquet", dir=home.folder)
    os.close(handle)
    encrypted = Path(name)
    try:
        encrypt_table(table, encrypted, dataset=declaration.dataset, version=version, keys=keys)
        size, digest = encrypted.stat().st_size, _file_digest(encrypted)
        keep_keys(home, declaration.dataset, version, digest, keys)
        progress("uploading", size)
        uploaded = client.upload(encrypted, lambda sent: progress("sent", sent))
        if uploaded["digest"] != digest:
            raise Tampered("the service received another file than was sent", code="upload-digest")
        manifest = VersionManifest(
            dataset=declaration.dataset,
            version=version,
            file_digest=digest,
            size=size,
            columns=tuple(table.column_names),
        )
        return client.publish_version(manifest)
    finally:
        encrypted.unlink(missing_ok=True)


def column_keys(home: Home, dataset: str, version: int, file_digest: str, columns: tuple[str, ...]) -> dict[str, bytes]:
    """Unwrap the keys of the footer and of `columns` of one published file. Raises NotFound for another file, Tampered."""
    kept = home.read(keys_file(dataset, file_digest))
    if kept["version"] != version:
        raise NotFound(f"version {version} of {dataset} is another file here")
    wrapping = home.wrapping_key()
    names = (FOOTER, *columns)
    if any(name not in kept["keys"] for name in names):
        raise NotFound(f"version {version} of {dataset} has no key for one of these columns")
    return {name: wrapping.unwrap(bytes.fromhex(kept["keys"][name]), key_context(dataset, version, name)) for name in names}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def keep_keys(home: Home, dataset: str, version: int, file_digest: str, keys: dict[str, bytes]) -> None:
    """Keep the wrapped keys of one encrypted file; they are on disk."""
    wrapping = home.wrapping_key()
    wrapped = {name: wrapping.wrap(key, key_context(dataset, version, name)).hex() for name, key in keys.items()}
    home.write(keys_file(dataset, file_digest), {"dataset": dataset, "version": version, "file": file_digest, "keys": wrapped})


def keys_file(dataset: str, file_digest: str) -> str:
    """Where the wrapped keys of one encrypted file are kept. Named by the file, so that a second try at publishing overwrites none."""
    return f"keys/{dataset}/{file_digest.removeprefix('sha256:')}.json"

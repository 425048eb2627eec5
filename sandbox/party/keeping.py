"""What becomes of a provider's data keys after publication: withdrawn, given free again, encrypted anew, destroyed.

Each is safe to interrupt and to repeat. The broker looks here before every release: what is withdrawn counts from the next run on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from enclaves.kit.columns import decrypt_columns
from policies.canonical import digest_bytes
from policies.codec import decode
from policies.declaration import Declaration
from policies.documents import KeyDestruction
from policies.errors import NotFound, PolicyRefused, Tampered
from sandbox.party.client import Client
from sandbox.party.home import Home
from sandbox.party.publish import column_keys, keys_file, publish

WITHDRAWN, DESTROYED = "withdrawn.json", "destroyed.json"

State = Literal["kept", "withdrawn", "destroying", "destroyed"]
"""`destroying`: the keys are gone, and the log does not say so yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptVersion:
    """One encrypted file whose keys are, or were, kept here."""

    dataset: str
    version: int
    file_digest: str
    state: State


def kept_versions(home: Home, dataset: str | None = None) -> list[KeptVersion]:
    """All files whose keys this home has or had, by dataset and version; also those that never became a version."""
    found = [
        KeptVersion(dataset=row["dataset"], version=row["version"], file_digest=file, state=row["state"])
        for file, row in _destroyed(home).items()
    ]
    for path in sorted((home.folder / "keys").glob("*/*.json")):
        kept = home.read(str(path.relative_to(home.folder)))
        if kept["file"] not in _destroyed(home):
            state: State = "withdrawn" if _is_withdrawn(home, kept["dataset"], kept["version"]) else "kept"
            found.append(KeptVersion(dataset=kept["dataset"], version=kept["version"], file_digest=kept["file"], state=state))
    wanted = [item for item in found if dataset in (None, item.dataset)]
    return sorted(wanted, key=lambda item: (item.dataset, item.version, item.file_digest))


def withdraw(home: Home, dataset: str, version: int | None = None) -> None:
    """Release no key of a dataset from the next run on, or of one version. Raises NotFound if this home keeps none."""
    if not any(version in (None, item.version) for item in kept_versions(home, dataset)):
        raise NotFound(f"this home has no keys of `{dataset}`" + ("" if version is None else f", version {version}"))
    with home.locked("release"):
        rows = home.read_or(WITHDRAWN, {"versions": []})["versions"]
        row = [dataset, version]
        home.write(WITHDRAWN, {"versions": rows if row in rows else [*rows, row]})
    home.note("withdrawn", dataset=dataset, version=version)


def restore(home: Home, dataset: str) -> None:
    """Release keys of all versions of a dataset again, as its agreements say. Raises NotFound if nothing of it is withdrawn."""
    with home.locked("release"):
        rows = home.read_or(WITHDRAWN, {"versions": []})["versions"]
        left = [row for row in rows if row[0] != dataset]
        if len(left) == len(rows):
            raise NotFound(f"nothing of `{dataset}` is withdrawn")
        home.write(WITHDRAWN, {"versions": left})
    home.note("restored", dataset=dataset)


def require_available(home: Home, dataset: str, version: int, file_digest: str) -> None:
    """Raise PolicyRefused (code `data-withdrawn` or `data-destroyed`) if no key of this file is to be released."""
    if file_digest in _destroyed(home):
        raise PolicyRefused(f"the keys of version {version} of `{dataset}` were destroyed", code="data-destroyed")
    if _is_withdrawn(home, dataset, version):
        raise PolicyRefused(f"`{dataset}` is withdrawn", code="data-withdrawn")


def destroy(client: Client, dataset: str, version: int) -> KeyDestruction:
    """Destroy the keys of one version, then state it, signed, in the log; the same again finishes what was begun.

    Files of attempts that never became this version lose their keys too.

    Raises:
        NotFound: this home has no such version, or the service has none (then the keys are gone all the same).
    """
    home = client.home
    files = [item for item in kept_versions(home, dataset) if item.version == version]
    if not files:
        raise NotFound(f"this home has no keys of version {version} of `{dataset}`")
    for item in files:
        with home.locked("release"):
            if item.state not in ("destroying", "destroyed"):
                _mark(home, item, "destroying")
            home.remove(keys_file(dataset, item.file_digest))
    stated = None
    for item in files:
        statement = KeyDestruction(dataset=dataset, version=version, file_digest=item.file_digest)
        try:
            client.state_destruction(statement)
        except NotFound:
            continue  # this file was never published
        stated = statement
        if item.state != "destroyed":
            home.note("destroyed", dataset=dataset, version=version, file=item.file_digest)
        _mark(home, item, "destroyed")
    if stated is None:
        raise NotFound(f"the keys are destroyed; the service knows no version {version} of `{dataset}`")
    return stated


def reencrypt(client: Client, dataset: str) -> dict[str, Any]:
    """Fetch the newest version's encrypted file, and publish its rows as the next version under fresh keys. Returns its record.

    The version before keeps its keys until they are destroyed: jobs that were granted it go on.

    Raises:
        NotFound: nothing is published, or its keys are not here. Tampered: the service sent another file.
        PolicyRefused: the keys are destroyed.
    """
    home, record = client.home, client.dataset(dataset)
    signed = record["signed"]
    declaration = decode(Declaration, signed["body"])
    newest = next((item for item in reversed(kept_versions(home, dataset)) if item.version == record["newest"]), None)
    if newest is None:
        raise NotFound(f"this home has no keys of version {record['newest']} of `{dataset}`")
    if newest.state in ("destroying", "destroyed"):
        raise PolicyRefused(f"the keys of version {newest.version} of `{dataset}` were destroyed", code="data-destroyed")
    path = home.folder / f"reencrypt-{newest.file_digest.removeprefix('sha256:')}.parquet"
    try:
        client.download(newest.file_digest, path)
        table = _opened(home, newest, path, declaration)
    finally:
        path.unlink(missing_ok=True)
    return publish(client, declaration, table)


def _opened(home: Home, version: KeptVersion, path: Path, declaration: Declaration) -> Any:
    columns = tuple(column.name for column in declaration.columns)
    file = path.read_bytes()
    if digest_bytes(file) != version.file_digest:
        raise Tampered("the service sent another file", code="upload-digest")
    keys = column_keys(home, version.dataset, version.version, version.file_digest, columns)
    return decrypt_columns(file, dataset=version.dataset, version=version.version, keys=keys, columns=columns)


def _destroyed(home: Home) -> dict[str, Any]:
    return dict(home.read_or(DESTROYED, {}))


def _mark(home: Home, item: KeptVersion, state: State) -> None:
    row = {"dataset": item.dataset, "version": item.version, "state": state}
    home.write(DESTROYED, _destroyed(home) | {item.file_digest: row})


def _is_withdrawn(home: Home, dataset: str, version: int) -> bool:
    rows = home.read_or(WITHDRAWN, {"versions": []})["versions"]
    return [dataset, None] in rows or [dataset, version] in rows

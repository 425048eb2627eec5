"""Backups: a consistent copy of database and uploads with a manifest of digests, its verification, and restoring it.

Restoring is a rewind of the log. Brokers and clients that saw more entries refuse the restored log until the missing entries are brought
back from participants' exports (`sandbox.jobs.recovery`) or a new epoch is signed (`sandbox.exchange.epochs`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from enclaves.kit.signatures import SigningKey
from policies.canonical import canonical, parse_json
from policies.codec import decode, encode
from policies.errors import Conflict, Malformed, Refused, SandboxError, Tampered
from sandbox.audit import merkle
from sandbox.audit.checkpoint import LogKey, open_checkpoint
from sandbox.store.blobs import Blobs
from sandbox.store.database import Store, hold_schema
from sandbox.store.dump import dump_table, load_database, read_rows, require_empty, tables_of
from sandbox.store.migrations import current

FORMAT = "backup/1"
MANIFEST, FILES, TABLES, UPLOADS, LOG_KEY = "manifest.json", "files", "tables", "uploads", "log.key"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a backup holds.

    Attributes:
        made_at: milliseconds since 1970.
        vkey: the log's verifier key.
        revision: of the database's schema.
        size, root: of the log's tree over all entries in the backup, published or not.
        checkpoint: newest published note in the backup, or empty.
        log_key: whether the log's signing key is in the backup.
        files: digest of the list of files, which has a line `<hex SHA-256>  <path>` for each.
    """

    format: str
    made_at: int
    vkey: str
    revision: str
    size: int
    root: str
    checkpoint: str
    log_key: bool
    files: str


def make_backup(
    store: Store, blobs: Blobs, log_key: SigningKey, identity: LogKey, folder: Path, *, now: int, with_log_key: bool = False
) -> Manifest:
    """Write a backup of a service, which may be running, to the empty `folder`.

    All tables are read in one snapshot. Uploads never change, so those that the snapshot names are copied after it.

    Raises:
        Conflict: the folder is not empty.
        Tampered: an upload that a version names is missing or not what its name says.
        Unavailable: the database cannot be reached.
    """
    _require_empty_folder(folder)
    (folder / TABLES).mkdir(parents=True, mode=0o700)
    (folder / UPLOADS).mkdir(mode=0o700)
    os.chmod(folder, 0o700)
    files: dict[str, str] = {}
    with store.reading() as tx:
        revision = current(tx.connection)
        size, newest = tx.log_size(), tx.newest_checkpoint()
        root = merkle.root_from_nodes(size, tx.node)
        for table in tables_of(tx.connection):
            path = f"{TABLES}/{table.name}.jsonl"
            files[path] = dump_table(tx.connection, table, folder / path)
    files |= _copy_uploads(blobs, folder)
    (folder / FILES).write_text("".join(f"{digest}  {path}\n" for path, digest in sorted(files.items())), encoding="utf-8")
    if with_log_key:
        _write_private(folder / LOG_KEY, log_key.to_bytes())
    manifest = Manifest(
        format=FORMAT,
        made_at=now,
        vkey=identity.vkey,
        revision=str(revision),
        size=size,
        root=root.hex(),
        checkpoint=newest[1] if newest else "",
        log_key=with_log_key,
        files=_digest(folder / FILES),
    )
    (folder / MANIFEST).write_bytes(canonical(encode(manifest)))
    return manifest


def verify_backup(folder: Path) -> Manifest:
    """Check every digest of a backup, rebuild the log's tree from its entries, and return the manifest.

    The manifest is not signed: who may write to the folder may replace backup and manifest together, but not the log under its checkpoint.

    Raises:
        Malformed: there is no manifest of a known format.
        Tampered: a file is missing, changed or superfluous, or the entries are not those under the checkpoint.
    """
    manifest = _read_manifest(folder)
    if not (folder / FILES).is_file() or _digest(folder / FILES) != manifest.files:
        raise Tampered("the list of files is missing or has changed since the backup", code="backup-digest", where=FILES)
    lines = (folder / FILES).read_text(encoding="utf-8").splitlines()
    files = {path: digest for digest, _, path in (line.partition("  ") for line in lines)}
    expected = set(files) | {MANIFEST, FILES} | ({LOG_KEY} if manifest.log_key else set())
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if present != expected:
        raise Tampered(f"files are missing or superfluous: {', '.join(sorted(present ^ expected)[:5])}", code="backup-files")
    for path, digest in files.items():
        if _digest(folder / path) != digest:
            raise Tampered("the file has changed since the backup", code="backup-digest", where=path)
    _require_complete(folder)
    key = LogKey.parse(manifest.vkey)
    if manifest.log_key:
        _require_key((folder / LOG_KEY).read_bytes(), key)
    _require_tree(manifest, _leaves(folder), key)
    return manifest


def restore_backup(
    folder: Path,
    store: Store,
    data: Path,
    *,
    origin: str,
    log_key: bytes | None = None,
    newest_checkpoint: str | None = None,
    accept_rewind: bool = False,
) -> Manifest:
    """Restore a backup into a new data folder and an empty database.

    Args:
        origin: of the log, as configured.
        log_key: the signing key, needed if it is not in the backup.
        newest_checkpoint: a note that a participant or the operator kept; tells how far the log had come.
        accept_rewind: restore although entries are lost that the checkpoint covers.

    Raises:
        Conflict: the data folder or the database is not empty.
        Refused: code `rewind`, if the backup has fewer entries than the checkpoint and that is not accepted.
        Tampered: as `verify_backup`, or the checkpoint is of another history.
        Malformed: no log key is given, or it or the origin are another log's.
    """
    require_empty_data(data)
    manifest = verify_backup(folder)
    key = LogKey.parse(manifest.vkey)
    if key.name != origin and not key.name.startswith(f"{origin}/epoch-"):
        raise Malformed(f"the backup is of the log `{key.name}`, the configuration names `{origin}`", where="origin")
    if newest_checkpoint is not None:
        _require_no_rewind(manifest, _leaves(folder), newest_checkpoint, key, accept_rewind)
    signing = (folder / LOG_KEY).read_bytes() if manifest.log_key else log_key
    if signing is None:
        raise Malformed("the backup does not hold the log's signing key; give the file that you kept apart", where="--log-key")
    _require_key(signing, key)
    with store.transaction() as tx:
        hold_schema(tx.connection)
        require_empty(tx.connection)
        load_database(tx.connection, folder / TABLES, manifest.revision)
        if tx.log_size() != manifest.size or merkle.root_from_nodes(tx.log_size(), tx.node).hex() != manifest.root:
            raise Tampered("the tree in the backup is not that of its entries", code="backup-tree")
        # The database is committed last: what was interrupted before leaves files, never a log without its key.
        data.mkdir(parents=True, exist_ok=True)
        os.chmod(data, 0o700)
        shutil.copytree(folder / UPLOADS, data / UPLOADS)
        _write_private(data / LOG_KEY, signing)
    return manifest


def _copy_uploads(blobs: Blobs, folder: Path) -> dict[str, str]:
    copied = {}
    published = {str(row["file_digest"]) for row in read_rows(folder / TABLES / "versions.jsonl")}
    uploaded = {str(row["digest"]) for row in read_rows(folder / TABLES / "uploads.jsonl")}
    lost = _lost(folder)
    for digest in sorted(published | uploaded):
        name = digest.removeprefix("sha256:")
        target = folder / UPLOADS / name
        try:
            shutil.copyfile(blobs.folder / name, target)
        except FileNotFoundError as error:
            if digest in published - lost:
                raise Tampered(f"the upload {digest} is missing", code="upload-missing") from error
            continue  # nothing names it, and it was removed meanwhile
        if _digest(target) != name:
            raise Tampered(f"the upload {digest} has other contents", code="upload-digest")
        copied[f"{UPLOADS}/{name}"] = name
    return copied


def _require_complete(folder: Path) -> None:
    lost = _lost(folder)
    for row in read_rows(folder / TABLES / "versions.jsonl"):
        if row["file_digest"] not in lost and not (folder / UPLOADS / str(row["file_digest"]).removeprefix("sha256:")).is_file():
            raise Tampered(f"the upload {row['file_digest']} is missing", code="upload-missing")


def _lost(folder: Path) -> set[str]:
    """Uploads that an earlier restore could not bring back."""
    path = folder / TABLES / "lost_uploads.jsonl"
    return {str(row["digest"]) for row in read_rows(path)} if path.is_file() else set()


def _leaves(folder: Path) -> list[bytes]:
    return [merkle.leaf_hash(row["data"]) for row in read_rows(folder / TABLES / "entries.jsonl")]


def _root(leaves: list[bytes]) -> bytes:
    return merkle.Frontier().extend(leaves).root()


def _require_tree(manifest: Manifest, leaves: list[bytes], key: LogKey) -> None:
    if len(leaves) != manifest.size or _root(leaves).hex() != manifest.root:
        raise Tampered("the entries are not those of the manifest", code="backup-tree")
    if manifest.checkpoint:
        checkpoint = open_checkpoint(manifest.checkpoint, key)
        if checkpoint.size > len(leaves) or _root(leaves[: checkpoint.size]) != checkpoint.root:
            raise Tampered("the entries are not those under the checkpoint", code="backup-tree")


def _require_no_rewind(manifest: Manifest, leaves: list[bytes], note: str, key: LogKey, accepted: bool) -> None:
    newest = open_checkpoint(note, key)
    if newest.size > manifest.size:
        lost = newest.size - manifest.size
        if not accepted:
            raise Refused(
                f"the log had {newest.size} entries and the backup has {manifest.size}: {lost} would be lost. Brokers and clients that saw "
                "them will refuse the log and release no keys. To restore nevertheless, give --accept-rewind",
                code="rewind",
            )
    elif _root(leaves[: newest.size]) != newest.root:
        raise Tampered("the checkpoint is of another history than the backup", code="rewritten")


def _require_key(signing: bytes, key: LogKey) -> None:
    try:
        public = SigningKey.from_bytes(signing).public
    except (SandboxError, ValueError) as error:
        raise Malformed("the log's signing key cannot be read", code="log-key") from error
    if public != key.public:
        raise Malformed("the signing key is another log's", code="log-key")


def require_empty_data(data: Path) -> None:
    """Raise Conflict (code `not-empty`) if a data folder holds uploads, a key or anything else but an empty SQLite database."""
    found = {path.name for path in data.iterdir()} if data.is_dir() else set()
    if any(not name.startswith("sandbox.sqlite3") for name in found):
        raise Conflict(f"the data folder {data} is not empty", code="not-empty")


def _require_empty_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} is not an empty folder", code="not-empty")


def _read_manifest(folder: Path) -> Manifest:
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise Malformed(f"{folder} is no backup: it has no readable {MANIFEST}", code="backup") from error
    manifest = decode(Manifest, parse_json(data))
    if manifest.format != FORMAT:
        raise Malformed(f"the backup has format `{manifest.format}`, not `{FORMAT}`", code="backup")
    return manifest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_private(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

"""The composition root: configuration -> store -> log -> host -> Flask application. `gunicorn "app:create_app()"`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from flask import Flask

from enclaves.kit.measure import checkout_root, measurement
from enclaves.kit.signatures import SigningKey
from policies.errors import SandboxError, Tampered
from sandbox.audit.checkpoint import LogKey
from sandbox.config import Config, read_config
from sandbox.host import Host
from sandbox.jobs.queue import open_hints
from sandbox.logs import write_logs
from sandbox.store.blobs import Blobs
from sandbox.store.database import Store
from sandbox.web.application import make_app

LOG_KEY_FILE = "log.key"


def compose(config: Config, on_step: Callable[[str], None] = lambda step: None) -> Host:
    """Build the host from its configuration; creates the data folder, the database and the log's key where missing.

    Raises:
        Tampered: the database belongs to another log, or the log's key is missing or another one.
        Conflict: code `newer-schema`, if newer code has migrated the database.
        Unavailable: the database cannot be reached.
    """
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = Store(config.database_url)
    store.prepare(config.origin)
    try:
        log_key = _fixed_log_key(store, config.data / LOG_KEY_FILE)
    except SandboxError:
        store.close()
        raise
    identity = LogKey(name=config.origin, public=log_key.public)
    return Host(
        config=config,
        store=store,
        blobs=Blobs(folder=config.data / "uploads", limit=config.upload_bytes),
        log_key=log_key,
        now=lambda: time.time_ns() // 1_000_000,
        measurement=measurement(checkout_root()),
        hints=open_hints(config.queue, config.data / "hints.sqlite3", f"sandbox{identity.key_id.hex()}"),
        on_step=on_step,
    )


def create_app(config: Config | None = None) -> Flask:
    """Return the WSGI application for the environment's configuration, or for the given one."""
    config = config or read_config()
    write_logs(config.log)
    return make_app(compose(config))


def _fixed_log_key(store: Store, path: Path) -> SigningKey:
    """The log's key, which never changes once the log has begun: a new one would sign a log that nobody accepts."""
    with store.reading() as tx:
        fixed, begun = tx.setting("log_key"), tx.newest_checkpoint() is not None
    if (fixed or begun) and not path.exists():
        raise Tampered(f"the log's key {path} is missing; restore it, a new one cannot take its place", code="log-key-missing")
    key = _log_key(path)
    if fixed is None:
        with store.transaction() as tx:
            fixed = tx.fix_setting("log_key", key.public.hex())
    if fixed != key.public.hex():
        raise Tampered("the log's key is not the one that this log began with", code="other-log-key")
    return key


def _log_key(path: Path) -> SigningKey:
    """The log's signing key; made at the first start, by exactly one of several processes."""
    if not path.exists():
        draft = path.with_suffix(f".{os.getpid()}")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(SigningKey.generate().to_bytes())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was first; its key counts
        draft.unlink()
    return SigningKey.from_bytes(path.read_bytes())

"""The composition root: configuration -> store -> log -> host -> Flask application. `gunicorn "app:create_app()"`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
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
WEBHOOK_KEY_FILE = "webhook.key"


def compose(config: Config, on_step: Callable[[str], None] = lambda step: None, *, lost_log_key: bool = False) -> Host:
    """Build the host from its configuration; creates the data folder, the database and the log's key where missing.

    Args:
        lost_log_key: build it with a key that is to be the next log's, in place of one that is lost.

    Raises:
        Tampered: the database belongs to another log, or the log's key is missing or another one.
        Conflict: code `newer-schema`, if newer code has migrated the database.
        Unavailable: the database cannot be reached.
    """
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = Store(config.database_url)
    store.prepare(config.origin)
    try:
        path = config.data / LOG_KEY_FILE
        log_key = _signing_key(next_key_file(path)) if lost_log_key else _fixed_log_key(store, path)
        with store.reading() as tx:  # a later epoch of the log has a name of its own
            config = replace(config, origin=tx.setting("log_origin") or config.origin)
    except SandboxError:
        store.close()
        raise
    identity = LogKey(name=config.origin, public=log_key.public)
    return Host(
        config=config,
        store=store,
        blobs=Blobs(folder=config.data / "uploads", limit=config.upload_bytes),
        log_key=log_key,
        webhook_key=_signing_key(config.data / WEBHOOK_KEY_FILE),
        now=lambda: time.time_ns() // 1_000_000,
        enclave_kind=config.enclave_kind,
        measurement=config.enclave_measurement or measurement(checkout_root()),
        hints=open_hints(config.queue, config.data / "hints.sqlite3", f"sandbox{identity.key_id.hex()}"),
        on_step=on_step,
    )


def create_app(config: Config | None = None) -> Flask:
    """Return the WSGI application for the environment's configuration, or for the given one."""
    config = config or read_config()
    write_logs(config.log)
    return make_app(compose(config))


def _fixed_log_key(store: Store, path: Path) -> SigningKey:
    """The log's key, which once the log has begun changes by `sandbox admin rotate-log-key` or a new epoch only."""
    _finish_replacing(store, path)
    with store.reading() as tx:
        fixed, begun = tx.setting("log_key"), tx.newest_checkpoint() is not None
    if (fixed or begun) and not path.exists():
        raise Tampered(f"the log's key {path} is missing; restore it, a new one cannot take its place", code="log-key-missing")
    key = _signing_key(path)
    if fixed is None:
        with store.transaction() as tx:
            fixed = tx.fix_setting("log_key", key.public.hex())
    if fixed != key.public.hex():
        raise Tampered("the log's key is not the one that this log began with", code="other-log-key")
    return key


def next_key_file(path: Path) -> Path:
    """Where the key is kept that is to replace the log's; on disk before the database names it."""
    return path.with_name(f"{path.name}.next")


def next_log_key(data: Path) -> SigningKey:
    """The key that is to replace the log's, made where there is none."""
    return _signing_key(next_key_file(data / LOG_KEY_FILE))


def _finish_replacing(store: Store, path: Path) -> None:
    """Once the database names the next key as the log's, put its file in place; the file of the key before stays beside it."""
    following = next_key_file(path)
    with store.reading() as tx:
        fixed = tx.setting("log_key")
    try:
        if fixed is None or SigningKey.from_bytes(following.read_bytes()).public.hex() != fixed:
            return
        if path.exists():
            former = SigningKey.from_bytes(path.read_bytes()).public.hex()
            if former != fixed:
                os.replace(path, path.with_name(f"{path.name}.{former[:16]}"))
        os.replace(following, path)
    except FileNotFoundError:
        return  # there is no next key, or another process was first


def _signing_key(path: Path) -> SigningKey:
    """A key of the service; made at the first start, by exactly one of several processes."""
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}")
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

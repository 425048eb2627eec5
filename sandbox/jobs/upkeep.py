"""What a worker does besides jobs: it says that it lives, and removes uploads that nothing names."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from policies.errors import SandboxError
from policies.isolation import Layer
from policies.names import require_digest
from sandbox.exchange import escrow
from sandbox.host import Host
from sandbox.jobs.approve import expire

SEEN_EVERY_S = 10.0

CLEAN_EVERY_S = 600.0
UNREFERENCED_FOR_S = 24 * 3600.0
FORGET_WORKER_MS = 24 * 3600 * 1000
FORGET_NOTICE_MS = 30 * 24 * 3600 * 1000

_log = logging.getLogger("sandbox.upkeep")


@dataclass
class Upkeep:
    """Upkeep by one worker, done when it is due."""

    host: Host
    worker: str
    layers: Callable[[], tuple[Layer, ...]] = lambda: ()
    _seen: float = float("-inf")
    _cleaned: float = float("-inf")

    def step(self) -> None:
        """Do what is due; cheap to call often. Raises Unavailable."""
        now = time.monotonic()
        if now - self._seen >= SEEN_EVERY_S:
            self._seen = now
            say_alive(self.host, self.worker, self.layers())
            escrow.sweep(self.host)
        if now - self._cleaned >= CLEAN_EVERY_S:
            self._cleaned = now
            remove_unreferenced(self.host)
            expire(self.host)
            with self.host.store.transaction() as tx:
                tx.forget_notices(self.host.now() - FORGET_NOTICE_MS)


def say_alive(host: Host, worker: str, layers: tuple[Layer, ...] = ()) -> None:
    """Note that a worker lives now, and which layers isolate its enclaves. Raises Unavailable."""
    now = time.time_ns() // 1_000_000
    with host.store.transaction() as tx:
        tx.see_worker(worker, now, now - FORGET_WORKER_MS, layers)


def remove_unreferenced(host: Host, age_s: float = UNREFERENCED_FOR_S) -> int:
    """Remove uploads that no version names, and remains of uploads that broke off, once they are `age_s` seconds old. Returns how many.

    Raises:
        Unavailable: the database cannot be reached.
    """
    before, removed = time.time() - age_s, 0
    for name in host.blobs.old_files(before):
        removed += _remove(host, name, before)
    if removed:
        _log.info("removed %d unreferenced uploads", removed)
    return removed


def _remove(host: Host, name: str, before: float) -> bool:
    if name.startswith("."):
        return host.blobs.remove(name, before)
    try:
        digest = require_digest(f"sha256:{name}", "digest")
    except SandboxError:
        return False  # whoever put it there may want it
    with host.store.reading() as tx:
        if tx.referenced([digest]):
            return False
    try:
        with host.store.transaction() as tx:
            tx.hold_log()
            if not tx.forget_upload(digest):
                return False
            if not host.blobs.is_old(name, before):
                raise _Fresh  # uploaded once more meanwhile: what was forgotten is remembered again
    except _Fresh:
        return False
    return host.blobs.remove(name, before)


class _Fresh(Exception):
    """Rolls a removal back."""

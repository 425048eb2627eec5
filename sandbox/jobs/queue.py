"""Queue hints: "look again", never what happened. The job table is the truth; a hint that is lost, doubled or late changes nothing.

A hint wakes a worker so that it need not poll often. Whatever breaks here is logged and left alone: no submission and no run fails for
it, and the workers' own look at the job table finds what no hint announced.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

from policies.errors import Malformed

RETRY_S = 5.0
"""How long a broken queue is left alone, so that it delays one submission at most every so often."""
CONNECT_S = 0.5
ANSWER_S = 2.0
BLOCK_S = 1
"""How long one blocking read of Redis or PostgreSQL lasts; a worker told to stop notices it after that at the latest."""
LOOK_S = 0.02
"""How often an empty embedded queue is looked at: one indexed read of a file that only holds hints."""

_log = logging.getLogger("sandbox.queue")


class Storage(Protocol):
    """What is used of a huey storage."""

    def enqueue(self, data: bytes) -> None:
        """Add a hint."""

    def dequeue(self) -> bytes | None:
        """Take a hint; None if there is none, at once or after blocking for a while."""

    def close(self) -> Any:
        """Close the connection."""


class Hints:
    """Hints about jobs to take. Safe to share between threads; each process opens its own.

    Args:
        connect: opens the storage at first use, and again after it broke; None switches hints off.
    """

    def __init__(self, connect: Callable[[], Storage] | None = None) -> None:
        self._connect = connect
        self._storage: Storage | None = None
        self._retry_at = 0.0

    @property
    def working(self) -> bool:
        """Whether hints are on and did not break lately. If not, a worker must look at the job table more often."""
        return self._connect is not None and time.monotonic() >= self._retry_at

    def give(self, job_id: str) -> None:
        """Announce a job, if possible. Never raises."""
        self._attempt(lambda storage: storage.enqueue(job_id.encode()))

    def wait(self, timeout: float) -> bool:
        """Return True as soon as there is a hint, or False: after about `timeout` seconds, or at once if the queue breaks. Never raises."""
        if not self.working:
            time.sleep(timeout)
            return False
        deadline = time.monotonic() + timeout
        while self.working:
            if self._attempt(lambda storage: storage.dequeue()) is not None:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(LOOK_S, left))
        return False

    def close(self) -> None:
        """Close the connections of this thread; the next use opens new ones. Never raises."""
        storage, self._storage = self._storage, None
        try:
            if storage is not None:
                storage.close()
        except Exception as error:  # noqa: BLE001 - what is broken already need not close well
            _log.debug("the queue did not close: %s", type(error).__name__)

    def _attempt(self, act: Callable[[Storage], Any]) -> Any:
        if not self.working:
            return None
        assert self._connect is not None
        try:
            if self._storage is None:
                self._storage = self._connect()
            return act(self._storage)
        except Exception as error:  # noqa: BLE001 - every storage has errors of its own, and none may reach a submission or a run
            self._retry_at = time.monotonic() + RETRY_S
            self.close()
            _log.warning("queue hints are broken (%s); workers look at the job table instead", type(error).__name__)
            return None


def open_hints(setting: str, file: Path, name: str) -> Hints:
    """Return the hints that a configuration spells. Nothing is opened before the first hint.

    Args:
        setting: `sqlite` (the embedded `file`), `redis://HOST:PORT/DB`, `postgresql://USER@HOST/DB` (needs psycopg) or `off`.
        name: of the queue, the same for all processes of one service.

    Raises:
        Malformed: another setting.
    """
    if setting == "off":
        return Hints()
    if setting == "sqlite":
        return Hints(lambda: _embedded(file, name))
    if setting.startswith(("redis://", "rediss://")):
        return Hints(lambda: _redis(setting, name))
    if setting.startswith("postgresql://"):
        return Hints(lambda: _postgresql(setting, name))
    raise Malformed("must be sqlite, redis://..., postgresql://... or off", where="SANDBOX_QUEUE")


def _embedded(file: Path, name: str) -> Storage:
    from huey.storage import SqliteStorage

    # Hints need not survive a power cut: no fsync.
    storage: Storage = SqliteStorage(name, filename=str(file), fsync=False, timeout=CONNECT_S, cache_mb=1)
    return storage


def _redis(url: str, name: str) -> Storage:
    from huey.storage import RedisStorage
    from redis import ConnectionPool
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # The client's own retries would hold up a submission for seconds.
    pool = ConnectionPool.from_url(url, socket_connect_timeout=CONNECT_S, socket_timeout=ANSWER_S, retry=Retry(NoBackoff(), 0))
    storage: Any = RedisStorage(name, connection_pool=pool, read_timeout=BLOCK_S)
    storage.close = pool.disconnect  # huey would leave the connections open
    return cast(Storage, storage)


def _postgresql(url: str, name: str) -> Storage:
    from huey.storage import PostgresStorage

    storage: Storage = PostgresStorage(name, dsn=url, read_timeout=BLOCK_S, connect_timeout=2)
    return storage

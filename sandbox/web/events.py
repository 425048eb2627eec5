"""Server-sent events that only say "look again": which job or key request of the caller's agreements has changed.

A stream reads the size of the log twice a second and looks at new entries only when it has grown. It ends after `STREAM_S`, well within the
time that a stopping server grants; the client connects again with `Last-Event-ID` and misses nothing.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from flask import Response, current_app, request

from policies.errors import SandboxError, Unavailable
from sandbox.host import Host
from sandbox.web.auth import host
from sandbox.web.models import Query
from sandbox.web.operation import Call

STREAM_S = 20.0
"""How long one stream lasts."""

POLL_S = 0.5
HEARTBEAT_S = 5.0
MAX_STREAMS = 4
"""Streams of one process; half of its threads stay free for everything else."""

MAX_STREAMS_EACH = 2
"""Streams of one participant in one process."""

BATCH = 500
"""Most entries that one look covers."""

ASKING = frozenset({"running", "attested"})
"""Kinds of entries after which a provider's broker has something to do."""


@dataclass
class Streams:
    """Counts the open streams of this process."""

    open: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, participant: str) -> None:
        """Count one more stream. Raises Unavailable (code `too-many-streams`) where there are as many as may be."""
        with self.lock:
            if self.open.total() >= MAX_STREAMS or self.open[participant] >= MAX_STREAMS_EACH:
                raise Unavailable("this process has as many event streams as it takes; poll, or try again", code="too-many-streams")
            self.open[participant] += 1

    def leave(self, participant: str) -> None:
        """Count one stream less."""
        with self.lock:
            self.open[participant] -= 1


def events(call: Call[Query, None]) -> Response:
    """Say "look again" whenever a job or a key request under an agreement of the caller's changes."""
    participant, service = call.who.id, host()
    with service.store.reading() as tx:
        size = tx.log_size()
    if request.method == "HEAD":
        return Response(mimetype="text/event-stream")
    streams: Streams = current_app.extensions["sandbox-streams"]
    streams.enter(participant)
    response = Response(_stream(service, participant, _start(size)), mimetype="text/event-stream")
    response.call_on_close(lambda: streams.leave(participant))
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _start(size: int) -> int:
    """Where to begin: behind the last event that the client saw, if it says so and the log is that long."""
    seen = request.headers.get("Last-Event-ID", "")
    return int(seen) if seen.isascii() and seen.isdigit() and len(seen) <= 16 and int(seen) <= size else size


def _stream(service: Host, participant: str, seen: int) -> Iterator[str]:
    deadline = time.monotonic() + STREAM_S
    spoke = time.monotonic()
    yield f"retry: 1000\nid: {seen}\n\n"
    while time.monotonic() < deadline:
        try:
            size, found = _look(service, participant, seen)
        except SandboxError:
            return  # the client connects again, and is told there what is wrong
        if found:
            yield "".join(f"event: {kind}\ndata: {name}\nid: {size}\n\n" for kind, name in found)
        elif time.monotonic() - spoke >= HEARTBEAT_S:
            yield f": heartbeat\nid: {size}\n\n"
        if found or time.monotonic() - spoke >= HEARTBEAT_S:
            spoke = time.monotonic()
        if size == seen:
            time.sleep(POLL_S)
        seen = size


def _look(service: Host, participant: str, seen: int) -> tuple[int, list[tuple[str, str]]]:
    """How far was looked, and (event, id) of what changed since, each once."""
    with service.store.reading() as tx:
        size = min(tx.log_size(), seen + BATCH)
        if size == seen:
            return seen, []
        found: dict[tuple[str, str], None] = {}
        for header in tx.headers_of(participant, seen, size):
            job = header["ids"].get("job")
            if job is None:
                continue
            found[("job", job)] = None
            if header["kind"] in ASKING and participant in {item.provider for item in tx.key_requests(job)}:
                found[("key-request", job)] = None
    return size, list(found)

"""Sending notices: from threads of a worker, past every transaction and every run.

Notices are taken by a compare-and-swap on the time of their next attempt, which is moved ahead before anything is sent. A process that
dies after sending and before noting it sends the notice again, under the same id.

Receivers that failed last time are served by threads of their own, so that a slow one delays no others, and each by one thread at a time.
"""

from __future__ import annotations

import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from policies.errors import SandboxError
from sandbox.host import Host
from sandbox.jobs.notices import Notice, Target, Webhook, choose, content, parse_target, pause_s, signed_headers

Outcome = Literal["delivered", "bad-url", "refused-address", "unreachable", "refused", "undecided"]
"""How an attempt ended; for the operator's log alone, since it would tell a participant what this service can reach."""

TIMEOUT_S = 5.0
"""For connecting, sending and the first line of the answer together, after the name was resolved."""

HELD_MS = 60_000
"""How long a notice that is being sent is left alone by others."""

LOOK_S = 0.5
LANES = 4
STATUS_LINE_BYTES = 256

_log = logging.getLogger("sandbox.notices")


@dataclass
class Deliverer:
    """Sends what waits in the outbox, from threads, between `start` and `stop`.

    Attributes:
        send: makes one attempt; replaced in tests.
    """

    host: Host
    send: Callable[[Host, Webhook, Notice], Outcome] | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _busy: set[str] = field(default_factory=set)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look for notices."""
        self._thread = threading.Thread(target=self._look_forever, daemon=True, name="notices")
        self._thread.start()

    def stop(self) -> None:
        """Let attempts under way end, and begin no other."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _look_forever(self) -> None:
        with ThreadPoolExecutor(LANES) as prompt, ThreadPoolExecutor(LANES) as slow:
            while not self._stopped.wait(LOOK_S):
                try:
                    self._look(prompt, slow)
                except SandboxError:
                    continue  # the database is away; nothing is lost

    def _look(self, prompt: ThreadPoolExecutor, slow: ThreadPoolExecutor) -> None:
        with self._lock:
            busy = set(self._busy)
        for webhook in due(self.host, busy, LANES * 4):
            with self._lock:
                self._busy.add(webhook.participant)
            lane = slow if webhook.failures else prompt
            lane.submit(self._serve, webhook)

    def _serve(self, webhook: Webhook) -> None:
        try:
            if not self._stopped.is_set():
                deliver_one(self.host, webhook, self.send or post)
        except SandboxError:
            return  # the database is away; the notice is tried again when its hold has run out
        finally:
            with self._lock:
                self._busy.discard(webhook.participant)


def due(host: Host, busy: set[str], most: int) -> list[Webhook]:
    """Webhooks for which a notice is due, those that wait longest first, without those of `busy` participants. Raises Unavailable."""
    with host.store.reading() as tx:
        return tx.due_webhooks(host.now(), most, sorted(busy))


def deliver_one(host: Host, webhook: Webhook, send: Callable[[Host, Webhook, Notice], Outcome]) -> Outcome | None:
    """Take the notice of a webhook that is due longest, make one attempt, and note how it ended. None if there is none to send.

    Raises:
        Unavailable: the database is away, before or after the attempt; the notice is tried again.
    """
    with host.store.transaction() as tx:
        notice = tx.take_notice(webhook.participant, host.now(), host.now() + HELD_MS)
    if notice is None:
        return None
    outcome = send(host, webhook, notice)
    _log.log(logging.INFO if outcome == "delivered" else logging.WARNING, "notice", extra={"code": outcome})
    host.on_step("notice-sent")
    with host.store.transaction() as tx:
        if outcome == "delivered":
            tx.end_notice(notice, "delivered")
        elif notice.attempts >= host.config.webhook_attempts:
            tx.end_notice(notice, "dead")
        else:
            wait = pause_s(notice.attempts, host.config.webhook_retry_s, random.random())
            tx.postpone_notice(notice, host.now() + int(wait * 1000))
    return outcome


def post(host: Host, webhook: Webhook, notice: Notice) -> Outcome:
    """One attempt: resolve once, connect to that address, POST, read the first line of the answer. Never raises.

    No redirect is followed, and nothing of the answer but its status is looked at.
    """
    config = host.config
    try:
        target = parse_target(webhook.url, plain=config.webhook_http, private=config.webhook_private)
    except SandboxError:
        return "bad-url"
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return "unreachable"
    address = choose([str(item[4][0]) for item in found], private=config.webhook_private)
    if address is None:
        return "refused-address"
    body = content(notice, config.origin)
    headers = signed_headers(notice.id, body, host.now() // 1000, host.webhook_key)
    try:
        status = _exchange(target, address, _request(target, body, headers))
    except (OSError, ValueError):
        return "undecided"
    return "delivered" if 200 <= status < 300 else "refused"


def _request(target: Target, body: bytes, headers: dict[str, str]) -> bytes:
    name = f"[{target.host}]" if ":" in target.host else target.host
    port = "" if target.port == (443 if target.tls else 80) else f":{target.port}"
    lines = [
        f"POST {target.path} HTTP/1.1",
        f"Host: {name}{port}",
        "User-Agent: data-collaboration-sandbox",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def _exchange(target: Target, address: str, request: bytes) -> int:
    """Send a request to an address and return the status. Raises OSError, also when time is up, and ValueError for what is no HTTP."""
    deadline = time.monotonic() + TIMEOUT_S
    with socket.create_connection((address, target.port), timeout=TIMEOUT_S) as plain:
        plain.settimeout(_left(deadline))
        # The name is verified against the certificate, although the connection goes to an address that was resolved before.
        with ssl.create_default_context().wrap_socket(plain, server_hostname=target.host) if target.tls else plain as connection:
            connection.settimeout(_left(deadline))
            connection.sendall(request)
            received = b""
            while b"\r\n" not in received and len(received) < STATUS_LINE_BYTES:
                connection.settimeout(_left(deadline))
                chunk = connection.recv(STATUS_LINE_BYTES - len(received))
                if not chunk:
                    break
                received += chunk
    version, _, rest = received.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        raise ValueError("this is no answer")
    return int(rest[:3])


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left

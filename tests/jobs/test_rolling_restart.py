"""Web processes are replaced while clients that retry nothing keep asking: no request fails."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.canonical import canonical
from policies.codec import encode
from tests.support.market import Market, open_market
from tests.support.service import Service, running

RESTARTS = 1
KEPT, FRESH = 2, 2


def children(pid: int) -> set[int]:
    """Processes that a process started."""
    return {int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()}


def web_processes(service: Service) -> set[int]:
    """Ids of the gunicorn workers below `sandbox serve`."""
    return {worker for master in children(service.processes["web"].pid) for worker in children(master)}


def ask(service: Service, market: Market, keep: bool, stop: threading.Event, seen: Counter[str]) -> None:
    """Ask in turn for a read and a decision until told to stop, over one kept connection or a new one each time. Nothing is retried."""
    credential = market.clients["institute"].home.credential
    headers = {"Authorization": f"Bearer {credential}", "Content-Type": "application/json"}
    check = canonical({"request": encode(market.request())})
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    while not stop.is_set():
        for method, path, body in (("GET", "/api/v1/me", None), ("POST", "/api/v1/jobs:check", check)):
            try:
                connection.request(method, path, body=body, headers=headers)
                answer = connection.getresponse()
                answer.read()
                seen[str(answer.status)] += 1
            except (OSError, http.client.HTTPException) as error:
                seen[f"{method} {type(error).__name__}"] += 1
                connection.close()
            if not keep:
                connection.close()
    connection.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service without a worker."""
    with running(tmp_path) as found:
        yield found


def test_a_rolling_restart_fails_no_request(service: Service) -> None:
    market = open_market(service)
    stop, seen = threading.Event(), Counter[str]()
    threads = [threading.Thread(target=ask, args=(service, market, n < KEPT, stop, seen)) for n in range(KEPT + FRESH)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(RESTARTS):
            before = web_processes(service)
            assert len(before) == 2
            service.processes["web"].send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 120
            while (now := web_processes(service)) & before or len(now) != 2:
                assert time.monotonic() < deadline, (before, now)
                time.sleep(0.1)
            asked = seen["200"]
            while seen["200"] < asked + 10:
                assert time.monotonic() < deadline + 120, seen
                time.sleep(0.05)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(seen) == {"200"}, seen

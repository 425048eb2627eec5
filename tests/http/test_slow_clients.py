"""Slow clients over TLS: the bounds of the web server's worker hold there too, also after a first request on the same connection."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import requests

from sandbox.config import Config
from tests.support.certificates import certificate
from tests.support.service import checkout, end, environment, free_port

HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
BODY = b"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
SLOW = [(None, False), (HEAD, False), (HEAD, True), (BODY, True)]
"""(what a client sends last, whether it was answered before on the same connection); None: not even a whole handshake."""


@pytest.fixture(scope="module")
def hasty_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """Port and certificate of a service behind TLS that has two threads and little patience."""
    folder = tmp_path_factory.mktemp("hasty-tls")
    cert, key = certificate(folder)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", "2"]
    command += ["--certfile", str(cert), "--keyfile", str(key)]
    command += ["--worker-class", "tests.support.hasty.Worker", "--no-control-socket", "app:create_app()"]
    with (folder / "web.log").open("ab") as log:
        settings = environment(Config(data=folder / "data", queue="off"))
        process = subprocess.Popen(command, env=settings, cwd=checkout(), stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not _healthy(port, str(cert)):
            assert time.monotonic() < deadline, (folder / "web.log").read_text()
            time.sleep(0.1)
        yield port, str(cert)
    finally:
        end(process)


def _healthy(port: int, cert: str) -> bool:
    try:
        return requests.get(f"https://127.0.0.1:{port}/healthz", verify=cert, timeout=5).ok
    except requests.RequestException:
        return False


def _hold(port: int, cert: str, late: bytes | None, *, first: bool, stop: threading.Event) -> None:
    """Open a connection, perhaps ask once, then send `late` and nothing more until told to stop."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            if late is None:
                plain.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
                stop.wait()
                return
            with ssl.create_default_context(cafile=cert).wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                if first:
                    connection.sendall(HEAD + b"\r\n")
                    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
                connection.sendall(late)
                stop.wait()
    except OSError:
        return


def test_slow_clients_over_tls_keep_nobody_else_out_for_long(hasty_tls: tuple[int, str]) -> None:
    """Four at two threads, none of which gives up."""
    port, cert = hasty_tls
    stop = threading.Event()
    threads = [
        threading.Thread(target=_hold, args=(port, cert, late), kwargs={"first": first, "stop": stop}, daemon=True) for late, first in SLOW
    ]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.3)
        deadline = time.monotonic() + 180
        while not _healthy(port, cert):
            assert time.monotonic() < deadline, "slow clients have taken the service"
    finally:
        stop.set()
        for thread in threads:
            thread.join()

"""Connections that nobody uses: neither side closes one as the other sends."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from sandbox.cli.service import KEPT_OPEN_S
from sandbox.party import connection
from sandbox.party.connection import IDLE_S, Session
from tests.support.service import Service


def test_clients_give_connections_up_before_the_service_does() -> None:
    assert IDLE_S + 10 < KEPT_OPEN_S


def test_the_service_leaves_connections_open_for_longer_than_clients_use_them(service: Service) -> None:
    parts = urlsplit(service.url)
    asked = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 0), timeout=60)
    try:
        asked.request("GET", "/healthz")
        assert asked.getresponse().read()
        own = asked.sock.getsockname()
        time.sleep(4.0)
        asked.request("GET", "/healthz")
        assert asked.getresponse().status == 200
        assert asked.sock.getsockname() == own, "the same connection"
    finally:
        asked.close()


@pytest.fixture
def counting() -> Iterator[tuple[str, list[int]]]:
    """A server's address, and the client's port of each request."""
    ports: list[int] = []

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            ports.append(self.client_address[1])
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", ports
        finally:
            server.shutdown()
            thread.join()


def test_a_connection_that_lay_idle_is_not_used_again(counting: tuple[str, list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    address, ports = counting
    with Session() as session:
        assert session.get(address).ok
        assert session.get(address).ok
        monkeypatch.setattr(connection, "IDLE_S", -1.0)
        assert session.get(address).ok
    assert ports[0] == ports[1] != ports[2]

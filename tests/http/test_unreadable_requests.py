"""Requests that the web server cannot pass on to the application: answered as the application answers, and logged without their text."""

from __future__ import annotations

import json
import socket

import pytest

from tests.support.service import ON_ONE_DATABASE, Service

MARK = "SECRET-IN-THE-REQUEST"
GET = b"GET /api/v1/me HTTP/1.1\r\nHost: sandbox\r\n"
UNREADABLE = {
    "a long request line": (b"GET /" + MARK.encode() * 400 + b" HTTP/1.1\r\nHost: sandbox\r\n\r\n", 414, "uri-too-long"),
    "a long header": (GET + b"X: " + MARK.encode() * 900 + b"\r\n\r\n", 431, "header-fields-too-large"),
    "many headers": (GET + b"".join(b"X-%d: a\r\n" % i for i in range(200)) + b"\r\n", 431, "header-fields-too-large"),
    "no request": (MARK.encode() + b"\r\n\r\n", 400, "unreadable-request"),
    "no version of HTTP": (b"GET / HTTP/9.9\r\nHost: sandbox\r\n\r\n", 400, "unreadable-request"),
    "a folded header": (GET + b"X: a\r\n  " + MARK.encode() + b"\r\n\r\n", 400, "unreadable-request"),
    "a header without a name": (GET + b": " + MARK.encode() + b"\r\n\r\n", 400, "unreadable-request"),
    "two lengths": (GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "unreadable-request"),
    "an unknown coding": (GET + b"Transfer-Encoding: " + MARK.encode() + b"\r\n\r\n", 400, "unreadable-request"),
    "an unknown expectation": (GET + b"Expect: " + MARK.encode() + b"\r\n\r\n", 400, "unreadable-request"),
}


@ON_ONE_DATABASE
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_the_server_cannot_read_is_answered_with_a_problem_document(service: Service, name: str) -> None:
    sent, status, code = UNREADABLE[name]
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert first.startswith(f"HTTP/1.1 {status} "), first
    assert headers["Content-Type"] == "application/problem+json"
    assert int(headers["Content-Length"]) == len(body)
    assert headers["X-Content-Type-Options"] == "nosniff"
    problem = json.loads(body)
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"urn:sandbox:problem:{code}")
    assert MARK.encode() not in received
    assert MARK not in (service.folder / "web.log").read_text(), "the log says that, not what"

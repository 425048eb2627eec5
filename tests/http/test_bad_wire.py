"""What is malformed below JSON: request lines, headers, lengths, chunks, encodings, and clients that send slowly or never to the end.

Each gets a refusal or a closed connection, changes nothing, and takes the service from nobody else.
"""

from __future__ import annotations

import gzip
import socket
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from policies.canonical import canonical
from tests.support.doors import DOORS, Door, expect_problem
from tests.support.market import Market, open_market
from tests.support.service import ON_ONE_DATABASE, Service, end, free_port, running, wait_until_up

REFUSED = {400, 401, 404, 405, 408, 411, 413, 414, 415, 417, 431, 501, 505}
NO_ANSWER = 0


def exchange(port: int, data: bytes | list[bytes], *, close: bool = True, timeout: float = 20.0) -> tuple[int, bytes]:
    """Send bytes as they are and return (status of the first answer, everything received); 0 if nothing was answered."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        try:
            for part in [data] if isinstance(data, bytes) else data:
                connection.sendall(part)
            if close:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1 << 16):
                received += part
        except OSError:
            pass  # it was closed or reset while something was still on its way
    words = received.split(b"\r\n", 1)[0].split()
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else NO_ANSWER), received


@dataclass(frozen=True)
class Wire:
    """A request that would be accepted, to be spelled by hand."""

    door: Door

    @property
    def body(self) -> bytes:
        return canonical(self.door.request())

    @property
    def credential(self) -> str:
        assert self.door.caller is not None
        return self.door.caller.home.credential

    def spell(self, *headers: str, line: str | None = None, body: bytes | None = None, length: bool = True, host: bool = True) -> bytes:
        """The request with more headers, another first line or another body."""
        body = self.body if body is None else body
        lines = [line or f"POST /api/v1{self.door.path} HTTP/1.1"]
        lines += ["Host: x"] if host else []
        lines += [f"Content-Length: {len(body)}"] if length else []
        lines += ["Content-Type: application/json", f"Authorization: Bearer {self.credential}", "Connection: close", *headers]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def bad(wire: Wire) -> dict[str, bytes]:
    """Requests by name; none may be accepted."""
    body, path = wire.body, f"/api/v1{wire.door.path}"
    size = len(body)
    chunked = wire.spell("Transfer-Encoding: chunked", length=False, body=b"")
    packed = gzip.compress(body)
    return {
        # The first line
        "no version": wire.spell(line=f"POST {path}"),
        "an unknown version": wire.spell(line=f"POST {path} HTTP/9.9"),
        "version 0.9": wire.spell(line=f"POST {path} HTTP/0.9"),
        "an unknown method": wire.spell(line=f"FROB {path} HTTP/1.1"),
        "a method in lower case": wire.spell(line=f"post {path} HTTP/1.1"),
        "a space too many": wire.spell(line=f"POST  {path} HTTP/1.1"),
        "a NUL in the path": wire.spell(line=f"POST {path}\x00 HTTP/1.1"),
        "bad UTF-8 in the path": wire.spell(line=f"POST {path}%ff%fe HTTP/1.1"),
        "a path above itself": wire.spell(line=f"POST /api/v1/../../../{path} HTTP/1.1"),
        "a backslash": wire.spell(line=f"POST {path}\\..\\x HTTP/1.1"),
        "a path of 100 KB": wire.spell(line=f"POST {path}{'a' * 100_000} HTTP/1.1"),
        "a query twice": wire.spell(line=f"POST {path}?a=1&a=2 HTTP/1.1"),
        "a query of bad UTF-8": wire.spell(line=f"POST {path}?%ff=%fe HTTP/1.1"),
        "an unknown parameter": wire.spell(line=f"POST {path}?debug=1 HTTP/1.1"),
        "CONNECT": wire.spell(line="CONNECT 127.0.0.1:5432 HTTP/1.1"),
        "only line feeds": b"\n" * 100,
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        "random bytes": bytes(range(256)) * 4,
        # Headers
        "a NUL in a header": wire.spell("X-A: a\x00b"),
        "a line break in a header": wire.spell("X-A: a\rb"),
        "a header without a colon": wire.spell("nothing"),
        "a space before the colon": wire.spell("X-A : b"),
        "a folded header": wire.spell("X-A: b\r\n c"),
        "an empty name": wire.spell(": b"),
        "a header of 100 KB": wire.spell("X-A: " + "a" * 100_000),
        "10,000 headers": wire.spell(*(f"X-{n}: a" for n in range(10_000))),
        "two credentials": wire.spell(f"Authorization: Bearer {'x' * 43}"),
        "the same credential twice": wire.spell(f"Authorization: Bearer {wire.credential}"),
        "two content types": wire.spell("Content-Type: text/plain"),
        # Lengths
        "no length": wire.spell(length=False),
        "a length short": wire.spell(f"Content-Length: {size - 1}", length=False),
        "a length long": wire.spell(f"Content-Length: {size + 1}", length=False),
        "two lengths": wire.spell(f"Content-Length: {size + 5}"),
        "a negative length": wire.spell("Content-Length: -1", length=False),
        "a length with a sign": wire.spell(f"Content-Length: +{size}", length=False),
        "a length with a space": wire.spell(f"Content-Length: {size} 1", length=False),
        "a length in hexadecimal": wire.spell(f"Content-Length: 0x{size:x}", length=False),
        "a length in other digits": wire.spell("Content-Length: \xb2", length=False),
        "a length of 5000 digits": wire.spell("Content-Length: " + "9" * 5000, length=False),
        "a list of lengths": wire.spell(f"Content-Length: {size}, {size + 1}", length=False),
        "a float as length": wire.spell(f"Content-Length: {size}.0", length=False),
        # Chunks
        "chunks and a length": wire.spell("Transfer-Encoding: chunked"),
        "chunks without end": chunked + f"{size:x}\r\n".encode() + body,
        "a chunk size that is no number": chunked + b"zz\r\n" + body,
        "a negative chunk": chunked + b"-1\r\n" + body,
        "a huge chunk": chunked + b"f" * 16 + b"\r\n" + body,
        "a chunk size of 100 KB": chunked + b"0" * 100_000 + b"1\r\nx",
        "a chunk without its line break": chunked + f"{size:x}\r\n".encode() + body + b"0\r\n\r\n",
        "a chunk size with a 0x": chunked + f"0x{size:x}\r\n".encode() + body + b"\r\n0\r\n\r\n",
        "a chunk of underscores": chunked + f"{size:x}_0\r\n".encode() + body + b"\r\n0\r\n\r\n",
        "chunked twice": wire.spell("Transfer-Encoding: chunked, chunked", length=False, body=b"0\r\n\r\n"),
        "an unknown transfer encoding": wire.spell("Transfer-Encoding: frob", length=False),
        "identity": wire.spell("Transfer-Encoding: identity"),
        "a transfer encoding with a tab": wire.spell("Transfer-Encoding:\x0bchunked", length=False, body=b"0\r\n\r\n"),
        "endless empty chunks": chunked + b"1\r\n \r\n" * 5000,
        # Encodings
        "gzip": wire.spell("Content-Encoding: gzip", body=packed),
        "deflate": wire.spell("Content-Encoding: deflate", body=zlib.compress(body)),
        "a bomb of zeros": wire.spell("Content-Encoding: gzip", body=gzip.compress(bytes(20 << 20))),
        "UTF-16 as announced": wire.spell("Content-Type: application/json; charset=utf-16", body=body.decode().encode("utf-16")),
        "UTF-7": wire.spell("Content-Type: application/json; charset=utf-7", body=b"+AHs-" + body),
        "Latin 1": wire.spell(body=body[:-1] + b',"x":"\xe9"}'),
        "an overlong spelling": wire.spell(body=body[:-1] + b',"x":"\xc0\xaf"}'),
        "a surrogate in UTF-8": wire.spell(body=body[:-1] + b',"x":"\xed\xa0\x80"}'),
        "NUL bytes": wire.spell(body=body + b"\x00"),
        "an expectation that nobody knows": wire.spell("Expect: 200-maybe", body=b""),
    }


@ON_ONE_DATABASE
def test_what_is_no_request_is_refused_or_dropped_and_changes_nothing(service: Service, market: Market) -> None:
    wire = Wire(DOORS["datasets"](market))
    wrong, before = [], service.state()
    for name, data in bad(wire).items():
        status, answer = exchange(service.port, data)
        if status not in REFUSED | {NO_ANSWER}:
            wrong.append(f"{name}: {status} {answer[:200]!r}")
        if b"Traceback" in answer or b".py" in answer:
            wrong.append(f"{name} tells of the program: {answer[:300]!r}")
    assert not wrong, "\n".join(wrong)
    assert service.state() == before
    assert wire.door.post(wire.door.request()).status_code == 201


@ON_ONE_DATABASE
def test_a_second_request_cannot_hide_in_the_first(service: Service, market: Market) -> None:
    """Request smuggling: however lengths and chunks contradict each other, what follows is not taken for another participant's request."""
    wire, hidden = Wire(DOORS["datasets"](market)), Wire(DOORS["jobs"](market))
    jobs = service.counts()["jobs"]
    inner = hidden.spell()
    chunked_end = b"0\r\n\r\n"
    tricks = {
        "length before chunks": wire.spell(
            "Transfer-Encoding: chunked", f"Content-Length: {len(chunked_end)}", length=False, body=chunked_end + inner
        ),
        "chunks before length": wire.spell(
            f"Content-Length: {len(inner) + 5}", "Transfer-Encoding: chunked", length=False, body=chunked_end + inner
        ),
        "a strange chunked": wire.spell("Transfer-Encoding: xchunked", "Content-Length: 5", length=False, body=chunked_end + inner),
        "a length of 0 and one more": wire.spell("Content-Length: 0", "Content-Length: 5", length=False, body=inner),
    }
    for name, data in tricks.items():
        _, answer = exchange(service.port, data.replace(b"Connection: close\r\n", b""))
        assert answer.count(b"HTTP/1.1 201") == 0, name
        assert service.counts()["jobs"] == jobs, name


@ON_ONE_DATABASE
@pytest.mark.parametrize(
    ("name", "values", "status"),
    [
        ("limit", ("0", "-1", "1e3", "9" * 30, "ten", "٣", "1\x00", "0x10", " 5", "", "201", "5.0", "NaN"), 400),
        ("cursor", ("x", "%00", "....", "W10", "A" * 401, "bnVsbA", "WzFd"), 400),
        ("provider", ("A", "a b", "..", "a\x00", "x" * 100), 400),
    ],
)
def test_a_bad_parameter_is_named(market: Market, name: str, values: tuple[str, ...], status: int) -> None:
    client = market.clients["institute"]
    for value in values:
        headers = {"Authorization": f"Bearer {client.home.credential}"}
        response = requests.get(f"{market.service.api}/datasets", params={name: value}, headers=headers, timeout=60)
        expect_problem(response, status)
        assert response.json()["where"] == name, value


@ON_ONE_DATABASE
@pytest.mark.parametrize("value", ["-1", "1e3", "9" * 17, "9" * 400, "x", "", "٣", "0x1", "1.0", "9007199254740993"])
def test_a_range_of_the_log_is_of_numbers(market: Market, value: str) -> None:
    client = market.clients["auditor"]
    for path in ("entries", "openings", "consistency"):
        for params in ({"from": value, "to": "1"}, {"from": "0", "to": value}):
            headers = {"Authorization": f"Bearer {client.home.credential}"}
            expect_problem(requests.get(f"{market.service.api}/log/{path}", params=params, headers=headers, timeout=60), 400)


# Slow clients


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """A market whose web server has two threads in one process and little patience; `service.port` is that server's."""
    import subprocess

    from tests.support.service import checkout

    folder: Path = tmp_path_factory.mktemp("hasty")
    with running(folder, "sqlite", queue="off") as service:
        market = open_market(service)
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", "2"]
        command += ["--worker-class", "tests.support.hasty.Worker", "--no-control-socket", "app:create_app()"]
        with (folder / "hasty.log").open("ab") as log:
            process = subprocess.Popen(command, env=service.environment, cwd=checkout(), stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until_up(f"http://127.0.0.1:{port}", process, folder / "hasty.log")
            service.port, real = port, service.port
            yield market
            service.port = real
        finally:
            end(process)


def slowly(wire: Wire) -> dict[str, tuple[bytes, bytes]]:
    """(what is sent at once, what is then sent byte by byte for ever) by name."""
    head = wire.spell(body=b"", length=False)[:-2]
    return {
        "a head that never ends": (head, b"X-A: " + b"a" * 1000),
        "a head that stops": (head, b""),
        "one byte of a head": (b"P", b""),
        "a body that never ends": (head + b"Content-Length: 100000\r\n\r\n{", b" " * 1000),
        "a body that stops": (head + b"Content-Length: 100000\r\n\r\n{", b""),
        "chunks that never end": (head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 200),
        "an upload that stops": (
            head.replace(wire.door.path.encode(), b"/uploads") + b"Content-Length: 100000\r\n\r\nPARE", b"",
        ),
        "an upload that never ends": (
            head.replace(wire.door.path.encode(), b"/uploads") + b"Content-Length: 100000\r\n\r\nPARE", b"x" * 1000,
        ),
        "a refused body that never ends": (
            head.replace(wire.credential.encode(), b"x" * 43) + b"Content-Length: 100000\r\n\r\n{", b" " * 1000,
        ),
        "a connection that says nothing": (b"", b""),
    }  # fmt: skip


def drip(port: int, first: bytes, rest: bytes, stop: threading.Event) -> None:
    """Send, and go on as slowly as one can until told to stop; whatever the service does about it."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(first)
            position = 0
            while not stop.wait(0.1):
                if rest:
                    connection.sendall(rest[position % len(rest) :][:1])
                    position += 1
    except OSError:
        return


def test_clients_that_send_slowly_keep_nobody_else_out_for_long(hasty: Market) -> None:
    """Ten at two threads, none of which gives up: without a bound on slowness nobody would ever be answered again."""
    service = hasty.service
    wire = Wire(DOORS["datasets"](hasty))
    before, stop, answered = service.counts(), threading.Event(), 0
    threads = [threading.Thread(target=drip, args=(service.port, *kind, stop), daemon=True) for kind in slowly(wire).values()]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        deadline = time.monotonic() + 180
        while answered < 3:
            assert time.monotonic() < deadline, "slow clients have taken the service"
            try:
                answered += requests.get(f"{service.url}/healthz", timeout=15).ok
            except requests.RequestException:
                continue
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wire.door.post(wire.door.request()).status_code == 201
    assert not [name for name in service.uploads() if name.startswith(".")]
    assert {name for name, count in service.counts().items() if count != before[name]} <= {
        "datasets", "entries", "openings", "tree_nodes", "checkpoints",
    }  # fmt: skip


def test_a_client_that_takes_its_time_within_bounds_is_served(hasty: Market) -> None:
    """The bounds here are of one second and two: where the machine itself is late, another client tries."""
    assert any(_in_pieces(hasty) for _ in range(10))


def _in_pieces(hasty: Market) -> bool:
    data = Wire(DOORS["datasets"](hasty)).spell()
    head, body = data.split(b"\r\n\r\n", 1)
    with socket.create_connection(("127.0.0.1", hasty.service.port), timeout=60) as connection:
        try:
            connection.sendall(head[:30])
            time.sleep(0.5)
            connection.sendall(head[30:] + b"\r\n\r\n" + body[:100])
            time.sleep(1.0)
            connection.sendall(body[100:])
            return connection.recv(100).startswith(b"HTTP/1.1 201")
        except OSError:
            return False

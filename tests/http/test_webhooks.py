"""Webhooks over HTTP: set by the participant for itself, told of what waits by a real worker, refused where they may not go."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from policies.errors import Malformed
from sandbox.exchange.rotation import revoke
from sandbox.jobs.notices import notice_id
from tests.support.market import Market, join, open_market
from tests.support.service import ON_ONE_DATABASE, Service, checkout, running


@pytest.fixture(scope="module")
def noticing(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a worker that may send notices to this machine."""
    settings = {"webhook_http": True, "webhook_private": True, "webhook_retry_s": 0.2}
    with running(tmp_path_factory.mktemp(f"webhooks-{database}"), database, worker=True, **settings) as found:
        yield found


@pytest.fixture
def posted() -> Iterator[tuple[str, list[bytes]]]:
    """A receiver that loses its first answer: its address, and every message that it got."""
    messages: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            messages.append("".join(f"{name}: {value}\r\n" for name, value in self.headers.items()).encode() + b"\r\n" + body)
            if len(messages) == 1:
                return
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook", messages
    server.shutdown()
    server.server_close()


def sandbox(home: Path, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "sandbox", "party", *arguments, "--home", str(home)]
    return subprocess.run(command, input=given, capture_output=True, check=False, cwd=checkout(), timeout=60)


@ON_ONE_DATABASE
def test_what_waits_is_told_signed_and_again_after_a_lost_answer(noticing: Service, posted: tuple[str, list[bytes]]) -> None:
    """What notices are, on both databases, is in tests/jobs/test_notices.py; this is the way over the network."""
    url, messages = posted
    market = open_market(noticing, sign=False)
    clinic, institute = market.clients["clinic"], market.clients["institute"]
    assert clinic.webhook() == {"url": None, "failing": False}
    assert clinic.set_webhook(url) == {"url": url, "failing": False} == clinic.webhook()
    institute.set_webhook(url)
    for client in market.clients.values():
        client.sign_agreement(market.agreement)
    job = institute.submit(market.request(market.join_sql, "0.5"))["id"]
    until(lambda: len(messages) >= 2)  # the first answer is lost
    with noticing.brokers(market.clients["insurer"], clinic):
        ended = institute.wait(job, 60)
        assert ended["state"] == "released", ended["code"]
        until(lambda: any(notice["state"] == "delivered" for notice in institute.notices()))
    asked, told = notice_id(market.name("clinic"), "key-request", job), notice_id(market.name("institute"), "release", job)
    heard = [json.loads(message.partition(b"\r\n\r\n")[2]) for message in messages]
    assert [item["id"] for item in heard] == [asked, asked, told]
    assert all(set(item) == {"type", "id", "participant", "subject", "at", "service"} for item in heard)
    (notice,) = clinic.notices()
    assert (notice["kind"], notice["subject"], notice["state"], notice["attempts"]) == ("key-request", job, "delivered", 2)
    first = sandbox(clinic.home.folder, "verify-webhook", "--json", given=messages[0])
    assert json.loads(first.stdout) == {"type": "key-request", "id": asked, "subject": job, "at": notice["at"], "repeated": False}
    again = sandbox(clinic.home.folder, "verify-webhook", given=messages[1])
    assert again.stdout.decode().strip() == f"key-request {job} (repeated)"
    forged = sandbox(clinic.home.folder, "verify-webhook", given=messages[1].replace(b"key-request", b"agreement"))
    assert forged.returncode == 5
    assert sandbox(institute.home.folder, "verify-webhook", given=messages[0]).returncode == 5, "it is for another participant"
    listed = sandbox(clinic.home.folder, "notices", "--json", "--state", "delivered")
    assert json.loads(listed.stdout) == [notice]
    assert b"failed" not in sandbox(clinic.home.folder, "webhook").stdout
    assert json.loads(sandbox(clinic.home.folder, "webhook", "--remove", "--json").stdout) == {"url": None, "failing": False}
    assert not (noticing.folder / "worker.log").read_text().count(url), "where notices go is not logged"


@ON_ONE_DATABASE
def test_a_webhook_at_a_private_address_or_without_tls_is_refused(market: Market) -> None:
    client = market.clients["auditor"]
    for url in ("http://hooks.example/", "https://127.0.0.1/", "https://localhost:8700/", "https://169.254.169.254/", "x", ""):
        with pytest.raises(Malformed) as refused:
            client.set_webhook(url)
        assert refused.value.code == "webhook-url"
    assert client.webhook()["url"] is None


@ON_ONE_DATABASE
def test_nobody_sees_anothers_webhook_or_notices(market: Market) -> None:
    market.clients["auditor"].set_webhook("https://hooks.example/auditor")
    other = market.clients["institute"]
    assert other.webhook()["url"] is None
    assert other.notices() == []
    market.clients["auditor"].set_webhook(None)


@ON_ONE_DATABASE
def test_revoked_keys_take_the_webhook_with_them(market: Market) -> None:
    service = market.service
    name = f"revoked_{service.next_tag()}"
    client = join(service, name, service.code(name))
    client.set_webhook("https://hooks.example/stolen")
    revoke(service.host, name)
    with service.host.store.reading() as tx:
        assert tx.webhook(name) is None


def until(condition: object, seconds: float = 40.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not come"
        time.sleep(0.05)

"""Notices to webhooks: put into the outbox with their cause, sent at least once under one id, and only where they may go."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from enclaves.kit.envelope import document_digest
from enclaves.kit.signatures import SigningKey
from policies.documents import AgreementSignature
from policies.errors import Conflict, Unavailable
from policies.odrl import agreement_digest, agreement_document
from sandbox.exchange import agreements
from sandbox.exchange.paging import Page
from sandbox.host import Host
from sandbox.jobs import delivery
from sandbox.jobs.delivery import Deliverer, Outcome, deliver_one, due, post
from sandbox.jobs.notices import Notice, Webhook, choose, is_public, notice_id, parse_target, pause_s, public_text
from sandbox.party.webhooks import Notice as Received
from sandbox.party.webhooks import verify_notice
from tests.support.service import DATABASES, fresh_database
from tests.support.story import Story, tell

ALL = Page(limit=100)
URL = "https://hooks.insurer.example/sandbox"


class Undo(Exception):
    """Ends a transaction without a trace."""


@pytest.fixture(scope="module", params=DATABASES)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A history with participants, an agreement and ended jobs."""
    with fresh_database(str(request.param)) as url:
        found = tell(tmp_path_factory.mktemp("story"), url)
        yield found
        found.host.store.close()


@pytest.fixture
def story(told: Story) -> Iterator[Story]:
    """The history, with nobody's webhook set and nothing in the outbox."""
    yield told
    with told.host.store.transaction() as tx:
        for name in ("insurer", "clinic", "institute"):
            tx.set_webhook(name, None, 0)
        tx.forget_notices(2**60)


@pytest.fixture
def host(story: Story) -> Host:
    """The service, allowed to send to this machine."""
    config = replace(story.host.config, webhook_http=True, webhook_private=True, webhook_attempts=3, webhook_retry_s=1.0)
    return replace(story.host, config=config)


def hook(story: Story, *names: str, url: str = URL) -> None:
    with story.host.store.transaction() as tx:
        for name in names:
            tx.set_webhook(name, url, story.host.now())


def propose(story: Story, uid: str) -> str:
    """Have another agreement proposed; returns its digest."""
    document = story.firms["insurer"].sign("agreement", agreement_document(replace(story.agreement, uid=uid)))
    agreements.propose(story.host, story.member("insurer"), document)
    return document_digest(document)


def outbox(story: Story, name: str = "insurer") -> list[Notice]:
    with story.host.store.reading() as tx:
        return list(tx.notices(name, ALL).items)


def sending(*outcomes: Outcome) -> tuple[list[str], Callable[[Host, Webhook, Notice], Outcome]]:
    """What was sent, and a way of sending that ends like this."""
    sent: list[str] = []
    left = list(outcomes)

    def send(host: Host, webhook: Webhook, notice: Notice) -> Outcome:
        sent.append(notice.id)
        return left.pop(0)

    return sent, send


# --- the outbox


def test_only_whoever_has_a_webhook_gets_notices_and_only_of_its_own(story: Story) -> None:
    hook(story, "insurer")
    digest = propose(story, "study-only-own")
    (notice,) = outbox(story)
    assert (notice.kind, notice.subject, notice.state, notice.attempts) == ("agreement", digest, "waiting", 0)
    assert notice.id == notice_id("insurer", "agreement", digest)
    assert outbox(story, "clinic") == [] == outbox(story, "stranger")


def test_a_run_asks_its_providers_and_its_release_its_recipient(story: Story) -> None:
    hook(story, "insurer", "clinic", "institute")
    label = f"asks-{os.urandom(4).hex()}"
    job = story.ask(label, epsilon="0.01", agreement=agreement_digest(story.agreement))
    if job.state != "released":
        pytest.fail(f"the job is {job.state}: {job.decision}")
    assert [(n.kind, n.subject) for n in outbox(story, "insurer")] == [("key-request", job.id)]
    assert [(n.kind, n.subject) for n in outbox(story, "clinic")] == [("key-request", job.id)]
    assert [(n.kind, n.subject) for n in outbox(story, "institute")] == [("release", job.id)]


def test_what_was_rolled_back_is_not_told(story: Story) -> None:
    hook(story, "insurer")
    try:
        with story.host.store.transaction() as tx:
            tx.add_notices("release", "job-x", ["insurer"], 1)
            raise Undo
    except Undo:
        pass
    assert outbox(story) == []


def test_the_same_cause_again_is_the_same_notice(story: Story) -> None:
    hook(story, "insurer")
    for _ in range(2):
        with story.host.store.transaction() as tx:
            tx.add_notices("release", "job-x", ["insurer", "insurer", "nobody"], 1)
    assert len(outbox(story)) == 1


def test_what_no_longer_waits_is_not_sent(story: Story, host: Host) -> None:
    hook(story, "insurer")
    digest = propose(story, "study-signed-meanwhile")
    signature = story.firms["insurer"].sign("agreement-signature", AgreementSignature(agreement=digest))
    agreements.sign(story.host, story.member("insurer"), signature)
    with host.store.transaction() as tx:
        tx.add_notices("key-request", story.jobs["released"].id, ["insurer"], 1)
    sent, send = sending()
    (webhook,) = due(host, set(), 10)
    assert deliver_one(host, webhook, send) is None
    assert sent == []
    assert {notice.state for notice in outbox(story)} == {"settled"}
    assert due(host, set(), 10) == []


def test_a_failed_notice_is_tried_again_under_one_id_until_it_is_dead_and_a_set_webhook_revives_it(story: Story, host: Host) -> None:
    hook(story, "insurer")
    propose(story, "study-refused")
    sent, send = sending("refused", "undecided", "unreachable", "delivered")
    for attempt in (1, 2, 3):
        (webhook,) = due(host, set(), 10)
        assert webhook.failures == attempt - 1
        before = story.clock.at
        assert deliver_one(host, webhook, send) != "delivered"
        (notice,) = outbox(story)
        assert notice.attempts == attempt
        if attempt < 3:
            pause = notice.next_at - before
            assert 0.8 * 1000 * 4 ** (attempt - 1) <= pause <= 1.2 * 1000 * 4 ** (attempt - 1) + 2000
            assert due(host, set(), 10) == []
            story.clock.at = notice.next_at
    assert notice.state == "dead"
    assert due(host, set(), 10) == []
    hook(story, "insurer")
    assert deliver_one(host, due(host, set(), 10)[0], send) == "delivered"
    assert len(sent) == 4
    assert len(set(sent)) == 1
    assert outbox(story)[0].state == "delivered"
    assert due(host, set(), 10) == []


@pytest.mark.parametrize("applied", [False, True], ids=["lost", "applied-then-lost"])
def test_a_process_that_dies_while_it_sends_leaves_the_notice_to_the_next(story: Story, host: Host, applied: bool) -> None:
    hook(story, "insurer")
    propose(story, f"study-dies-{str(applied).lower()}")
    received: list[str] = []

    def dying(host: Host, webhook: Webhook, notice: Notice) -> Outcome:
        if applied:
            received.append(notice.id)
        raise KeyboardInterrupt

    (webhook,) = due(host, set(), 10)
    with pytest.raises(KeyboardInterrupt):
        deliver_one(host, webhook, dying)
    assert due(host, set(), 10) == [], "while it may still be under way, nobody else sends it"
    story.clock.at += delivery.HELD_MS
    sent, send = sending("delivered")
    assert deliver_one(host, due(host, set(), 10)[0], send) == "delivered"
    assert set(received) <= set(sent)
    assert len(sent) == 1


def test_a_database_that_is_away_after_sending_makes_the_notice_go_out_again(story: Story, host: Host) -> None:
    hook(story, "insurer")
    propose(story, "study-database-away")
    sent, send = sending("delivered", "delivered")

    def away(step: str) -> None:
        raise Unavailable("the database is away")

    with pytest.raises(Unavailable):
        deliver_one(replace(host, on_step=away), due(host, set(), 10)[0], send)
    story.clock.at += delivery.HELD_MS
    deliver_one(host, due(host, set(), 10)[0], send)
    assert len(sent) == 2
    assert len(set(sent)) == 1


def test_of_many_senders_one_gets_a_notice(story: Story, host: Host) -> None:
    hook(story, "insurer")
    propose(story, "study-race")
    webhook, barrier = due(host, set(), 10)[0], threading.Barrier(4)
    taken: list[str] = []

    def send(host: Host, webhook: Webhook, notice: Notice) -> Outcome:
        taken.append(notice.id)
        return "delivered"

    def race() -> None:
        barrier.wait()
        try:
            deliver_one(host, webhook, send)
        except (Unavailable, Conflict):
            pass

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_without_a_webhook_nothing_is_kept_to_be_sent(story: Story) -> None:
    hook(story, "insurer")
    propose(story, "study-removed")
    with story.host.store.transaction() as tx:
        tx.set_webhook("insurer", None, 1)
    assert outbox(story) == []


# --- sending


@dataclass
class Receiver:
    """An HTTP server that keeps what it is sent and answers as told."""

    status: int = 204
    drip_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0
    cut_off: threading.Event = field(default_factory=threading.Event)


@contextmanager
def receiver(**settings: Any) -> Iterator[Receiver]:
    """A receiver on this machine."""
    state = Receiver(**settings)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            state.received.append((dict(self.headers), sent))
            try:
                for byte in b"HTTP/1.1" if state.drip_s else b"":
                    self.wfile.write(bytes([byte]))
                    time.sleep(state.drip_s)
                self.send_response(state.status)
                for name, value in state.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(state.body)
            except OSError:
                state.cut_off.set()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


NOTICE = Notice(
    id="notice_" + "ab" * 16,
    participant="insurer",
    kind="release",
    subject="job-0123456789abcdef0123",
    at=1,
    state="waiting",
    attempts=1,
    next_at=1,
)


def to(port: int, path: str = "/hook?a=b") -> Webhook:
    return Webhook(participant="insurer", url=f"http://127.0.0.1:{port}{path}", failures=0)


def test_a_notice_arrives_signed_with_ids_and_kind_and_nothing_else(host: Host) -> None:
    with receiver() as state:
        assert post(host, to(state.port), NOTICE) == "delivered"
    ((headers, body),) = state.received
    assert json.loads(body) == {
        "type": "release",
        "id": NOTICE.id,
        "participant": "insurer",
        "subject": NOTICE.subject,
        "at": 1,
        "service": host.config.origin,
    }
    now = int(headers["webhook-timestamp"])
    key = public_text(host.webhook_key.public)
    found = verify_notice(headers, body, key, now, "insurer")
    assert found == Received(**json.loads(body))
    assert headers["Host"] == f"127.0.0.1:{state.port}"


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 410, 500, 503])
def test_nothing_but_success_is_a_delivery_and_no_redirect_is_followed(host: Host, status: int) -> None:
    with receiver() as other, receiver(status=status, headers={"Location": f"http://127.0.0.1:{other.port}/"}) as state:
        assert post(host, to(state.port), NOTICE) == "refused"
        assert len(state.received) == 1
        assert other.received == []


def test_a_long_answer_is_not_read(host: Host) -> None:
    with receiver(status=200, body=b"x" * (32 << 20), headers={"Content-Length": str(32 << 20)}) as state:
        assert post(host, to(state.port), NOTICE) == "delivered"
        assert state.cut_off.wait(60), "the connection was closed before all of it was sent"


def test_a_receiver_that_drips_its_answer_is_given_up_in_time(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "TIMEOUT_S", 0.5)
    with receiver(drip_s=0.2) as state:
        assert post(host, to(state.port), NOTICE) == "undecided"


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n", b"x" * 4096])
def test_what_is_no_answer_is_no_delivery(host: Host, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=once)
        thread.start()
        assert post(host, to(server.getsockname()[1]), NOTICE) == "undecided"
        thread.join()


def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent(host: Host, tmp_path: Path) -> None:
    chain, key = certificate(tmp_path)
    received = tls_receiver_got(host, chain, key, trusted=None)
    assert received == b""


def test_a_notice_goes_over_tls_to_the_name_that_its_certificate_vouches_for(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    assert tls_receiver_got(host, chain, key, trusted=chain).startswith(b"POST / HTTP/1.1\r\nHost: localhost:")


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for `localhost` that signs itself, and its key."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return chain, key


def tls_receiver_got(host: Host, chain: Path, key: Path, trusted: Path | None) -> bytes:
    """What a TLS receiver on this machine reads of a notice to `https://localhost`."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def once() -> None:
            connection, _ = server.accept()
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    got.append(secure.recv(65536))
                    secure.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            except OSError:
                connection.close()

        thread = threading.Thread(target=once)
        thread.start()
        webhook = Webhook(participant="insurer", url=f"https://localhost:{server.getsockname()[1]}/", failures=0)
        assert post(host, webhook, NOTICE) == ("delivered" if trusted else "undecided")
        thread.join()
    return b"".join(got)


def test_a_name_that_resolves_to_this_machine_is_refused_unless_allowed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = replace(host, config=replace(host.config, webhook_private=False))
    for addresses in (["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["::1"], ["::ffff:169.254.169.254"]):
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, found=found, **__: found)
        monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("connected"))
        webhook = Webhook(participant="insurer", url="http://hooks.example/", failures=0)
        assert post(strict, webhook, NOTICE) == "refused-address"


def test_the_connection_goes_to_the_address_that_was_looked_at(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that answers otherwise the second time (DNS rebinding) gains nothing: it is asked once."""
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    connected: list[str] = []

    def resolve(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in answers.pop(0)]

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(address[0])
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    strict = replace(host, config=replace(host.config, webhook_private=False))
    assert post(strict, Webhook(participant="insurer", url="http://hooks.example/", failures=0), NOTICE) == "undecided"
    assert connected == ["93.184.216.34"]


def test_a_slow_receiver_delays_no_other(story: Story, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "LOOK_S", 0.02)
    hook(story, "insurer", "clinic")
    blocked, arrived = threading.Event(), threading.Event()
    order: list[str] = []

    def send(host: Host, webhook: Webhook, notice: Notice) -> Outcome:
        order.append(webhook.participant)
        if webhook.participant == "insurer":
            blocked.wait(20)
            return "undecided"
        if order.count("clinic") == 5:
            arrived.set()
        return "delivered"

    with host.store.transaction() as tx:
        for number in range(8):
            tx.add_notices("release", f"job-{number}", ["insurer"], 1)
        for number in range(5):
            tx.add_notices("release", f"job-{number}", ["clinic"], 2)
    deliverer = Deliverer(host=host, send=send)
    deliverer.start()
    try:
        assert arrived.wait(15), order
        assert order.count("insurer") == 1, "one thread at a time for a receiver"
    finally:
        blocked.set()
        deliverer.stop()


# --- where notices may go


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example", "ftp://hooks.example/", "http://hooks.example/", "HTTP://hooks.example", "https://", "https:///path",
        "https://user@hooks.example/", "https://user:secret@hooks.example/", "https://hooks.example/#x", "https://hooks.example/#",
        "https://hooks.example:99999/", "https://hooks.example:x/", "https://hooks.example/\r\nX: y", "https://hooks.example/ x",
        "https://hooks.example\\@evil.example/", "https://höks.example/", "https://hooks.example/" + "x" * 500,
        "https://localhost/", "https://LOCALHOST./", "https://api.localhost/", "https://127.0.0.1/", "https://[::1]/", "https://10.1.2.3/",
        "https://169.254.169.254/latest/meta-data", "https://[::ffff:10.0.0.1]/", "https://192.168.0.1/", "https://0.0.0.0/",
        "https://[fe80::1]/", "https://[fd00::1]/", "https://100.64.0.1/", "https://224.0.0.1/", "https://[64:ff9b::a00:1]/",
    ],
)  # fmt: skip
def test_a_url_that_is_no_public_https_address_is_refused(url: str) -> None:
    with pytest.raises(Exception, match="webhook's URL"):
        parse_target(url)


def test_a_url_is_taken_apart_as_it_is_meant() -> None:
    target = parse_target("https://hooks.example:8443/a/b?c=d")
    assert (target.tls, target.host, target.port, target.path) == (True, "hooks.example", 8443, "/a/b?c=d")
    assert parse_target("https://hooks.example").path == "/"
    assert parse_target("http://127.0.0.1:80", plain=True, private=True).tls is False


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


def test_a_name_with_one_private_address_is_refused_as_a_whole() -> None:
    assert choose(["8.8.8.8", "10.0.0.1"], private=False) is None
    assert choose(["8.8.8.8", "9.9.9.9"], private=False) == "8.8.8.8"
    assert choose([], private=True) is None


def test_pauses_grow_and_end_at_six_hours() -> None:
    assert [pause_s(attempt, 5.0, 0.5) for attempt in (1, 2, 3, 4)] == [5.0, 20.0, 80.0, 320.0]
    assert pause_s(50, 5.0, 0.5) == 6 * 3600


def test_a_stopped_worker_lets_an_attempt_end(story: Story, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "LOOK_S", 0.02)
    hook(story, "insurer")
    propose(story, "study-stopped")
    began, ended = threading.Event(), threading.Event()

    def send(host: Host, webhook: Webhook, notice: Notice) -> Outcome:
        began.set()
        time.sleep(0.3)
        ended.set()
        return "delivered"

    deliverer = Deliverer(host=host, send=send)
    deliverer.start()
    assert began.wait(60)
    deliverer.stop()
    assert ended.is_set()
    assert outbox(story)[0].state == "delivered"


def test_keys_of_the_service_are_made_once(story: Story) -> None:
    kept = (story.host.config.data / "webhook.key").read_bytes()
    assert SigningKey.from_bytes(kept).public == story.host.webhook_key.public
    assert (story.host.config.data / "webhook.key").stat().st_mode & 0o077 == 0
    assert kept != (story.host.config.data / "log.key").read_bytes()

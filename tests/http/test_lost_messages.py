"""A whole job over real sockets, with each message between client or broker and service lost, cut in half, or answered into the void.

The consumer and the brokers repeat what failed, as their own loops do. Every job is charged once, runs once and is released, and both ends
agree on the sealed bytes. With SANDBOX_FULL=1 every message is cut in every way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from sandbox.party.broker import Broker
from sandbox.party.client import Client
from sandbox.party.home import Home
from tests.support.market import Market, open_market
from tests.support.proxy import How, Proxy, proxied
from tests.support.service import running
from tests.support.steps import Line, again, require_sound

FULL = bool(os.environ.get("SANDBOX_FULL"))
HOWS: tuple[How, ...] = ("lost", "applied", "half-answer")


@dataclass
class Wired:
    """A market whose institute and insurer reach the service through a proxy, each message on a connection of its own."""

    market: Market
    proxy: Proxy
    line: Line
    institute: Client
    jobs: list[str] = field(default_factory=list)

    def through(self) -> str:
        """A job from submission to the opened release."""
        request = self.market.request(epsilon="0.05")
        job = str(again(lambda: self.institute.submit(request))["id"])
        self.line.finish(job)
        release, _ = again(lambda: self.institute.release(job))
        assert release.loss == request.loss
        self.jobs.append(job)
        return job


@dataclass(frozen=True, kw_only=True)
class HomeAt(Home):
    """A home whose service is on a port of this machine."""

    port: int

    @property
    def url(self) -> str:
        """Address of the service."""
        return f"http://127.0.0.1:{self.port}"


def client_through(home: Home, port: int) -> Client:
    """A client whose every message has a connection of its own."""
    client = Client(home=HomeAt(folder=home.folder, port=port))
    client.session.headers["Connection"] = "close"
    return client


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    with running(tmp_path_factory.mktemp("messages"), "sqlite", queue="off") as service, proxied("127.0.0.1", service.port) as proxy:
        market = open_market(service, total="100")
        broker = Broker(client=client_through(market.clients["insurer"].home, proxy.port))
        line = Line(host=service.host, brokers=[broker])
        yield Wired(market=market, proxy=proxy, line=line, institute=client_through(market.clients["institute"].home, proxy.port))


def names(turns: list[bytes]) -> list[str]:
    """First lines of requests, without what differs from job to job."""
    return [turn.split(b" HTTP/")[0].decode() for turn in turns]


@pytest.mark.parametrize("how", HOWS)
def test_any_message_of_a_job_may_be_lost(wired: Wired, how: How) -> None:
    wired.through()  # clients remember the agreement from their first job on
    wired.proxy.watch()
    wired.through()
    count = len(wired.proxy.turns)
    said = {line.split("/api/v1/")[1].split("/")[0].split("?")[0] for line in names(wired.proxy.turns)}
    assert said >= {"jobs", "key-requests", "log"}, "submission, brokering and following the log"
    for nth in range(0 if FULL else HOWS.index(how) % 2, count, 1 if FULL else 2):
        wired.proxy.cut(how, nth=nth)
        job = wired.through()
        assert wired.proxy.fired is not None, nth
        with wired.market.service.host.store.reading() as tx:
            found = tx.job(job)
        assert found is not None
        assert found.state == "released", (nth, names([wired.proxy.fired]), found.code)
    require_sound(wired.market.service.host, wired.market.name("auditor"))
    assert wired.market.service.spent(wired.market.name("insurer")) == len(wired.jobs) * 50_000_000


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("what", ["POST /api/v1/jobs ", "/challenge ", "POST /api/v1/key-requests/keys ", "/release "])
def test_the_messages_that_matter_are_lost_one_by_one(wired: Wired, how: How, what: str) -> None:
    wired.proxy.cut(how, lambda data: what.encode() in data)
    job = wired.through()
    assert wired.proxy.fired is not None
    with wired.market.service.host.store.reading() as tx:
        stored, requests = tx.release(job), tx.key_requests(job)
    assert stored is not None
    kept = wired.market.clients["insurer"].home.read(f"broker/{job}.release.json")
    assert [request.sealed for request in requests] == [kept["sealed"]], "the keys that were kept are the keys that were sent"
    answers = [wired.institute._get(f"/jobs/{job}/release")["sealed"] for _ in range(2)]
    assert answers == [stored.sealed.hex()] * 2


def test_a_refusal_whose_answer_was_lost_is_one_refusal(wired: Wired) -> None:
    """The run has ended, so nobody asks the broker for keys again: it renounces the grant, once, and nobody pays."""
    broker = wired.line.brokers[0]
    job = str(wired.market.clients["institute"].submit(wired.market.request(epsilon="0.05"))["id"])
    wired.jobs.append(job)
    broker.now = lambda: 1.0
    try:
        wired.proxy.cut("applied", lambda data: b"/refusals " in data)
        wired.line.finish(job)
        assert wired.proxy.fired is not None
        assert (broker.step(), broker.step()) == (1, 0)
    finally:
        broker.now = time.time
    kinds = [header["kind"] for header in wired.market.service.headers() if header["ids"].get("job") == job]
    assert kinds.count("key_refused") == 1
    assert kinds[-3:] == ["failed", "renounced", "voided"]
    require_sound(wired.market.service.host, wired.market.name("auditor"))

"""The service that the tests of this folder share, per database."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from policies.documents import KeyRefusalStatement
from policies.request import JobRequest
from tests.support.market import Market, open_market
from tests.support.service import DATABASES, Service, running


@pytest.fixture(scope="session", params=DATABASES)
def database(request: pytest.FixtureRequest) -> str:
    """Which database the services use."""
    return str(request.param)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A market whose jobs went as far as they can.

    Attributes:
        refused: job that ended because a broker refused keys.
        request, released: a request and the job that ended with its release.
        waiting: job that runs and waits for keys; evidence is there.
    """

    market: Market
    refused: str
    request: JobRequest
    released: str
    waiting: str


@dataclass
class Shops:
    """What was set up on each database; pytest would take it down at every change of database, and there are two in every file."""

    stack: ExitStack
    ran: dict[str, Ran] = field(default_factory=dict)
    markets: dict[tuple[str, str], Market] = field(default_factory=dict)


@pytest.fixture(scope="session")
def shops() -> Iterator[Shops]:
    """Everything that the tests of this process share."""
    with ExitStack() as stack:
        yield Shops(stack)


@pytest.fixture(scope="session")
def ran(database: str, shops: Shops, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A service on which one job was refused keys, one was released and one waits for keys.

    Brokers are gone and the worker is frozen afterwards: from here on a charged job stays charged, and nothing changes but by a request.
    """
    if database not in shops.ran:
        shops.ran[database] = shops.stack.enter_context(_ran(database, tmp_path_factory))
    return shops.ran[database]


@contextmanager
def _ran(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    with running(tmp_path_factory.mktemp(f"service-{database}"), database, worker=True) as found:
        market = open_market(found, persons=300)
        refused = _refuse(market)
        request = market.request(market.join_sql, "2", "r-full-job")
        with found.brokers(market.clients["insurer"], market.clients["clinic"]):
            released = market.clients["institute"].submit(request)["id"]
            assert market.clients["institute"].wait(released, 300)["state"] == "released"
        waiting = _attest(market)
        with found.host.store.transaction() as tx:
            tx.hold_log()  # so that the worker is not frozen amid a transaction that holds everybody up
            found.processes["worker"].send_signal(signal.SIGSTOP)
        yield Ran(market=market, refused=refused, request=request, released=released, waiting=waiting)


@pytest.fixture(scope="session")
def service(ran: Ran) -> Service:
    """The running service."""
    return ran.market.service


@pytest.fixture(scope="session")
def market(database: str, service: Service, shops: Shops) -> Market:
    """Participants and an active agreement of whom no job has run."""
    return _market("own", database, service, shops)


@pytest.fixture(scope="session")
def stranger(database: str, service: Service, shops: Shops) -> Market:
    """Participants of another agreement on the same service."""
    return _market("other", database, service, shops)


def _market(name: str, database: str, service: Service, shops: Shops) -> Market:
    if (name, database) not in shops.markets:
        shops.markets[name, database] = open_market(service)
    return shops.markets[name, database]


def _refuse(market: Market) -> str:
    job = market.clients["institute"].submit(market.request(market.join_sql, "0.5", "r-refused-keys"))
    _until(lambda: bool(market.clients["clinic"].key_requests()))
    market.clients["clinic"].send_refusal(KeyRefusalStatement(job=job["id"], grant=job["grant_digest"], reason="not-today"))
    assert market.clients["institute"].wait(job["id"], 240)["state"] == "failed"
    return str(job["id"])


def _attest(market: Market) -> str:
    job = str(market.clients["institute"].submit(market.request(market.join_sql, "0.5", "r-waits-for-keys"))["id"])
    for number, role in enumerate(("insurer", "clinic")):
        client = market.clients[role]
        _until(lambda client=client: bool(client.key_requests()))
        client.challenge(job, f"{number + 1:02x}" * 32)
    _until(lambda: [item["state"] for item in market.clients["insurer"].key_requests()] == ["attested"])
    return job


def _until(condition: object, seconds: float = 240.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not come"
        time.sleep(0.03)

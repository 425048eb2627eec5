"""Events say "look again", to whom it concerns, and can neither tell what happened nor use up the service."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from sandbox.party.client import Client
from sandbox.web import events
from tests.support.doors import expect_problem, get
from tests.support.market import open_market
from tests.support.service import Service, running


@pytest.fixture(scope="module")
def noticed(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a worker, whose streams no other test uses."""
    with running(tmp_path_factory.mktemp(f"noticed-{database}"), database, worker=True) as found:
        yield found


@contextmanager
def listening(client: Client) -> Iterator[list[tuple[str, str]]]:
    """What the client's `events` yields, from a moment when the stream is open, until the context ends."""
    heard: list[tuple[str, str]] = []
    done = threading.Event()

    def listen() -> None:
        for event in Client(home=client.home).events(done.is_set):
            heard.append(event)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    until(lambda: ("connected", "") in heard)
    yield heard
    done.set()
    thread.join(timeout=events.STREAM_S + 60)
    assert not thread.is_alive()


def until(condition: object, seconds: float = 90.0) -> None:
    """Wait for what must come."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not come"
        time.sleep(0.05)


def test_parties_hear_of_their_jobs_and_brokers_of_their_work_and_others_of_nothing(noticed: Service) -> None:
    market, stranger = open_market(noticed), open_market(noticed)
    insurer, outsider = market.clients["insurer"], stranger.clients["institute"]
    with listening(insurer) as heard, listening(outsider) as overheard:
        job = market.clients["institute"].submit(market.request())["id"]
        until(lambda: {("job", job), ("key-request", job)} <= set(heard))
        assert [item["job"]["id"] for item in insurer.key_requests()] == [job]
        time.sleep(2 * events.POLL_S)
    assert {name for _, name in overheard} == {""}
    assert {kind for kind, _ in heard} == {"connected", "job", "key-request"}


def test_a_stream_begins_behind_the_last_event_that_was_seen(noticed: Service) -> None:
    market = open_market(noticed)
    client = market.clients["institute"]
    before = len(noticed.headers())
    job = client.submit(market.request())["id"]
    until(lambda: client.job(job)["state"] == "running")  # from here on it waits for its brokers, and nothing new is told of it
    for seen, told in ((str(before), True), (str(len(noticed.headers()) + 5), False), ("-1", False), ("x", False)):
        headers = {"Authorization": f"Bearer {client.home.credential}", "Last-Event-ID": seen}
        with _opened(noticed, headers, 60.0 if told else 1.5) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            text = b""
            with suppress(requests.RequestException):
                for chunk in response.iter_content(64):
                    text += chunk
                    if job.encode() in text:
                        break
        assert (f"event: job\ndata: {job}".encode() in text) == told, seen


def test_a_participant_cannot_use_up_the_service_with_streams(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        market = open_market(service)
        client = market.clients["institute"]
        headers = {"Authorization": f"Bearer {client.home.credential}"}
        open_streams, refused = [], []
        for _ in range(12):
            response = requests.get(service.api + "/events", headers=headers, stream=True, timeout=60)
            (open_streams if response.status_code == 200 else refused).append(response)
        assert len(open_streams) <= 2 * events.MAX_STREAMS_EACH
        assert refused
        for response in refused:
            expect_problem(response, 503, "too-many-streams")
        started = time.monotonic()
        assert all(get(client, "/me").status_code == 200 for _ in range(20))
        assert time.monotonic() - started < events.STREAM_S - 5, "none waits until a stream ends"
        for response in open_streams:
            response.close()
        until(lambda: _opens(service, headers), 90)


def _opened(service: Service, headers: dict[str, str], silence_s: float) -> requests.Response:
    """A stream that is given up after so much silence; the place of one that a client left is free again at the next heartbeats."""
    found: list[requests.Response] = []

    def opened() -> bool:
        with suppress(requests.Timeout):
            found.append(requests.get(service.api + "/events", headers=headers, stream=True, timeout=(60, silence_s)))
        return bool(found) and found[-1].status_code == 200

    until(opened, 120)
    return found[-1]


def _opens(service: Service, headers: dict[str, str]) -> bool:
    with requests.get(service.api + "/events", headers=headers, stream=True, timeout=60) as response:
        return response.status_code == 200

"""Every operation that changes something, sent twice at once, twice in turn, too early, and over connections that break.

One table over `routes.OPERATIONS`: a new operation without a row fails here. Whatever happens on the way, a thing happens once, and
everybody who asks gets the same answer. With SANDBOX_FULL=1 on PostgreSQL, too.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests

from app import compose
from enclaves.evidence import attest_simulated
from enclaves.kit.appraisal import appraise
from policies.canonical import canonical
from policies.documents import KeyReleaseStatement
from policies.errors import NotFound, Unavailable
from policies.statement import Nonce
from sandbox.exchange.epochs import open_epoch
from sandbox.jobs.record import record_evidence, record_failure
from sandbox.jobs.worker import Worker
from sandbox.party.client import Client
from sandbox.store.schema import versions
from sandbox.web.application import make_app
from sandbox.web.routes import API, OPERATIONS
from tests.support import doors, steps
from tests.support.doors import Door, expect_problem, flaws
from tests.support.market import Market, fresh_home, open_market
from tests.support.proxy import How, Proxy, proxied
from tests.support.runs import found_town, network_down
from tests.support.service import DATABASES, running

HOWS: tuple[How, ...] = ("lost", "applied", "half-answer")


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One request as bytes on a way of its own, so that it can be sent again and elsewhere."""

    path: str
    headers: dict[str, str]
    body: bytes

    def to(self, base: str) -> requests.Response:
        """Send it over a new connection."""
        headers = self.headers | {"Connection": "close"}
        return requests.post(f"{base}/api/v1{self.path}", data=self.body, headers=headers, timeout=60)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One operation.

    Attributes:
        ready: a request whose preconditions are all met, made anew at every call.
        entries: the entries that it appends.
        early: the same kind of request with a precondition missing, and the (status, code) that it gets.
        accepted: its status.
        over: statuses that say that it is done already, where nothing else can be said: whoever revoked its keys has no credential.
    """

    ready: Callable[[Market], Sent]
    entries: dict[str, int]
    early: Callable[[Market], Sent]
    refused: tuple[int, str]
    accepted: int = 201
    over: tuple[int, ...] = ()


def sent(door: Door, document: dict[str, Any] | None = None, credential: str | None = None) -> Sent:
    """A door's request as bytes."""
    headers = {"Content-Type": "application/json"}
    if door.caller is not None:
        headers["Authorization"] = f"Bearer {credential or door.caller.home.credential}"
    return Sent(path=door.path, headers=headers, body=canonical(door.request(document)))


def early(market: Market, build: Callable[[Market], Door], *path: str | int, to: Any) -> Sent:
    """A door's request about something that is not there yet."""
    door = build(market)
    return sent(door, door.changed(*path, to=to))


def upload(market: Market, credential: str | None = None) -> Sent:
    """A file of its own bytes that the insurer encrypted."""
    digest = next(row for row in market.service.rows(versions) if row["dataset"] == market.plans)["file_digest"]
    data = (market.service.config.data / "uploads" / digest.removeprefix("sha256:")).read_bytes()
    fresh = data[:40] + os.urandom(8) + data[48:]  # the host looks at both ends only
    credential = credential or market.clients["insurer"].home.credential
    return Sent(path="/uploads", headers={"Authorization": f"Bearer {credential}"}, body=fresh)


def webhook(market: Market, credential: str | None = None) -> Sent:
    """A webhook of the auditor's."""
    credential = credential or market.clients["auditor"].home.credential
    headers = {"Authorization": f"Bearer {credential}", "Content-Type": "application/json"}
    return Sent(path="/webhook", headers=headers, body=canonical({"url": f"https://hooks.example/{market.service.next_tag()}"}))


def not_joined(market: Market) -> str:
    """The credential of somebody who has drafted one and was not admitted."""
    return fresh_home(market.service, f"later_{market.service.next_tag()}").drafted_credential()


def proposed_only(market: Market) -> str:
    """An agreement that not all have signed."""
    return str(doors.signature(market).document["agreement"])


def running_job(market: Market, *, attested: bool = False) -> str:
    """A job that a worker took; with `attested`, its enclave's evidence is there."""
    host = market.service.host
    job = str(market.clients["institute"].submit(market.request(epsilon="0.01"))["id"])
    taken = Worker(host=host)._take()
    assert taken is not None
    assert taken.id == job, "no other job waits here"
    if attested:
        nonce = Nonce(provider=market.name("insurer"), value=os.urandom(32).hex())
        market.clients["insurer"].challenge(job, nonce.value)
        grant = taken.grant
        assert grant is not None
        identity = attest_simulated(grant, (nonce,), host.measurement)
        judged = appraise(identity.evidence, grant=grant, kinds=["simulated"], measurements=[grant.measurement], nonce=None)
        record_evidence(host, taken, identity.evidence, judged)
    return job


def failed_job(market: Market) -> str:
    """A job whose run ended before anybody answered for keys."""
    job = running_job(market)
    record_failure(market.service.host, job, "keys-timeout")
    return job


def challenge(market: Market, job: str) -> Door:
    """A nonce for a run."""
    return Door(
        path=f"/key-requests/{job}/challenge",
        market=market,
        caller=market.clients["insurer"],
        document={"nonce": os.urandom(32).hex()},
        accepted=200,
    )


def keys_before_evidence(market: Market) -> Sent:
    """Keys for a run that was taken and shows no evidence yet."""
    attested = doors.keys(market, running_job(market, attested=True))
    return sent(attested, attested.document | {"job": running_job(market)})


def refusal_of(market: Market, job: str) -> Door:
    """A refusal."""
    return doors.refusal(market, job)


ROWS: dict[str, Row] = {
    "admit": Row(
        ready=lambda market: sent(doors.admission(market)),
        entries={"admitted": 1},
        early=lambda market: sent(replace(doors.admission(market), beside={"code": "a-code-that-is-not-issued-yet"})),
        refused=(403, "admission-code"),
    ),
    "rotate": Row(
        ready=lambda market: sent(doors.rotation(market)),
        entries={"rotated": 1},
        early=lambda market: sent(doors.rotation(market), credential=not_joined(market)),
        refused=(401, "unauthenticated"),
        accepted=200,
    ),
    "revoke": Row(
        ready=lambda market: sent(doors.revocation(market)),
        entries={"revoked": 1},
        early=lambda market: sent(doors.revocation(market), credential=not_joined(market)),
        refused=(401, "unauthenticated"),
        accepted=200,
        over=(401, 409),
    ),
    "set_webhook": Row(
        ready=webhook,
        entries={},
        early=lambda market: webhook(market, not_joined(market)),
        refused=(401, "unauthenticated"),
        accepted=200,
    ),
    "upload": Row(ready=upload, entries={}, early=lambda market: upload(market, not_joined(market)), refused=(401, "unauthenticated")),
    "declare": Row(
        ready=lambda market: sent(doors.declaration(market)),
        entries={"declared": 1},
        early=lambda market: sent(doors.declaration(market), credential=not_joined(market)),
        refused=(401, "unauthenticated"),
    ),
    "publish": Row(
        ready=lambda market: sent(doors.version(market)),
        entries={"published": 1},
        early=lambda market: early(market, doors.version, "file_digest", to="sha256:" + os.urandom(32).hex()),
        refused=(404, "not-found"),
    ),
    "offer": Row(
        ready=lambda market: sent(doors.offer(market)),
        entries={"offered": 1},
        early=lambda market: early(market, doors.offer, "sb:declaration", "title", to="Declared only later"),
        refused=(409, "offer-declaration"),
    ),
    "propose": Row(
        ready=lambda market: sent(doors.agreement(market)),
        entries={"proposed": 1},
        early=lambda market: early(market, doors.agreement, "sb:party", 0, "signing_key", to="ab" * 32),
        refused=(409, "other-keys"),
    ),
    "sign": Row(
        ready=lambda market: sent(doors.signature(market)),
        entries={"signed": 1},
        early=lambda market: early(market, doors.signature, "agreement", to="sha256:" + "7" * 64),
        refused=(404, "not-found"),
        accepted=200,
    ),
    "check": Row(
        ready=lambda market: sent(doors.check(market)),
        entries={},
        early=lambda market: early(market, doors.check, "request", "agreement", to=proposed_only(market)),
        refused=(409, "agreement-not-active"),
        accepted=200,
    ),
    "submit_job": Row(
        ready=lambda market: sent(doors.job(market)),
        entries={"decided": 1, "charged": 1, "granted": 1},
        early=lambda market: early(market, doors.job, "agreement", to=proposed_only(market)),
        refused=(409, "agreement-not-active"),
    ),
    "challenge": Row(
        ready=lambda market: sent(challenge(market, running_job(market))),
        entries={},
        early=lambda market: sent(challenge(market, str(market.clients["institute"].submit(market.request(epsilon="0.01"))["id"]))),
        refused=(404, "not-found"),
        accepted=200,
    ),
    "release_keys": Row(
        ready=lambda market: sent(doors.keys(market, running_job(market, attested=True))),
        entries={"key_released": 1},
        early=keys_before_evidence,
        refused=(409, "key-state"),
        accepted=200,
    ),
    "refuse_keys": Row(
        ready=lambda market: sent(doors.refusal(market, running_job(market))),
        entries={"key_refused": 1},
        early=lambda market: sent(doors.refusal(market, str(market.clients["institute"].submit(market.request(epsilon="0.01"))["id"]))),
        refused=(404, "not-found"),
        accepted=200,
    ),
    "renounce_grant": Row(
        ready=lambda market: sent(doors.renunciation(market, failed_job(market))),
        entries={"renounced": 1, "voided": 1},
        early=lambda market: sent(doors.renunciation(market, running_job(market))),
        refused=(409, "key-state"),
        accepted=200,
    ),
}


ACTS, JOINT = "tests/party/test_acting.py::test_acts_that_are_sent_twice_count_once", "tests/http/test_joint_jobs.py"
EXCHANGED = "tests/party/test_exchanging.py::test_figures_for_a_model_from_the_proposal_to_the_model"
SCORING = "tests/http/test_encrypted_scoring.py"
ON_ITS_OWN = {
    "sign_epoch": "below: an epoch begins a new log, so it has a town of its own",
    "tighten": ACTS,
    "give_scope": ACTS,
    "add_cosignatures": "tests/party/test_cosigned_service.py::test_two_of_three_are_served_exported_and_replayed",
    "approve_job": ACTS,
    "cancel_job": ACTS,
    "report_duty": ACTS,
    "destroy": ACTS,
    "propose_exchange": EXCHANGED,
    "act_on_exchange": EXCHANGED,
    "accept_joint_manifest": f"{JOINT}::test_what_is_sent_twice_counts_once",
    "add_joint_file": f"{JOINT}::test_what_is_sent_twice_counts_once",
    "accept_joint_contribution": f"{JOINT}::test_what_is_sent_twice_counts_once",
    "accept_joint_statement": f"{JOINT}::test_what_is_sent_twice_counts_once",
    "ask": f"{SCORING}::test_what_is_sent_twice_counts_once",
    "add_score_file": f"{SCORING}::test_what_is_sent_twice_counts_once",
    "accept_score_statement": f"{SCORING}::test_what_is_sent_twice_counts_once",
    "accept_score_return": "tests/jobs/test_returned_scorings.py::test_a_return_whose_answer_was_lost_is_sent_again_and_counts_once",
}
"""Operations that need more than a market, and where they are sent twice."""


@pytest.fixture(scope="module", params=DATABASES if os.environ.get("SANDBOX_FULL") else DATABASES[:1])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """A market of which only this module takes jobs."""
    with running(tmp_path_factory.mktemp(f"repeats-{request.param}"), request.param, queue="off") as service:
        yield open_market(service)


@pytest.fixture(scope="module")
def proxy(shop: Market) -> Iterator[Proxy]:
    """A proxy before the shop's service."""
    with proxied("127.0.0.1", shop.service.port) as found:
        yield found


@pytest.fixture(autouse=True)
def _leave_no_job(shop: Market) -> Iterator[None]:
    """Take what a test left, so that the next one takes its own."""
    yield
    while Worker(host=shop.service.host)._take() is not None:
        pass


def appended(market: Market, first: int) -> dict[str, int]:
    """Entries by kind from `first` on."""
    return dict(Counter(header["kind"] for header in market.service.headers()[first:]))


def test_every_operation_that_changes_something_has_a_row() -> None:
    assert {operation.name for operation in OPERATIONS if operation.method != "GET"} == {*ROWS, *ON_ITS_OWN}
    assert {operation.path for operation in OPERATIONS} >= {f"{API}/uploads", f"{API}/jobs"}


@pytest.mark.parametrize("name", ROWS)
def test_twice_in_turn_is_once(shop: Market, name: str) -> None:
    row = ROWS[name]
    request = row.ready(shop)
    first = len(shop.service.headers())
    answers = [request.to(shop.service.url) for _ in range(2)]
    require_one(name, answers)
    assert answers[0].status_code == row.accepted
    assert appended(shop, first) == row.entries
    before = shop.service.counts()
    assert request.to(shop.service.url).status_code in (row.over or (row.accepted,))
    assert shop.service.counts() == before


@pytest.mark.parametrize("name", ROWS)
def test_twice_at_once_is_once(shop: Market, name: str) -> None:
    row = ROWS[name]
    request = row.ready(shop)
    first, barrier = len(shop.service.headers()), threading.Barrier(2)

    def send(_: int) -> requests.Response:
        barrier.wait(timeout=120)
        return request.to(shop.service.url)

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(send, range(2)))
    require_one(name, answers)
    assert appended(shop, first) == row.entries


@pytest.mark.parametrize("name", ROWS)
def test_too_early_is_refused_changes_nothing_and_spoils_nothing(shop: Market, name: str) -> None:
    row = ROWS[name]
    request = row.early(shop)
    before = shop.service.state()
    for _ in range(2):
        expect_problem(request.to(shop.service.url), *row.refused)
    assert shop.service.state() == before
    _leave_no_other(shop, name)
    assert row.ready(shop).to(shop.service.url).status_code == row.accepted


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ROWS)
def test_a_connection_that_breaks_loses_nothing_and_doubles_nothing(shop: Market, proxy: Proxy, name: str, how: How) -> None:
    row = ROWS[name]
    request = row.ready(shop)
    first, before = len(shop.service.headers()), shop.service.counts()
    proxy.cut(how)
    with pytest.raises(requests.RequestException):
        request.to(f"http://127.0.0.1:{proxy.port}")
    assert proxy.fired is not None
    if how == "lost":
        assert shop.service.counts() == before
    else:
        assert appended(shop, first) == row.entries, "it was applied"
    answer = request.to(f"http://127.0.0.1:{proxy.port}")
    assert answer.status_code in ((row.accepted,) if how == "lost" else row.over or (row.accepted,)), answer.text
    assert appended(shop, first) == row.entries


def require_one(name: str, answers: list[requests.Response]) -> None:
    """Both answers are the same, or one says that it is done and the other that it was."""
    row = ROWS[name]
    statuses = [answer.status_code for answer in answers]
    assert row.accepted in statuses, [answer.text for answer in answers]
    assert set(statuses) <= {row.accepted, *row.over}, [answer.text for answer in answers]
    if statuses == [row.accepted] * 2:
        assert same(name, answers[0]) == same(name, answers[1])


def same(name: str, answer: requests.Response) -> Any:
    """The part of an answer that may not depend on when it is asked for: a check is decided at the time of asking."""
    body = answer.json()
    return body["plan"] if name == "check" else body


def _leave_no_other(shop: Market, name: str) -> None:
    if name in ("challenge", "refuse_keys"):
        assert Worker(host=shop.service.host)._take() is not None


# Orders of two different requests


def test_keys_after_a_refusal_and_a_refusal_after_keys_are_too_late(shop: Market) -> None:
    for first, second in (("refusal", "keys"), ("keys", "refusal")):
        job = running_job(shop, attested=True)
        made = {"refusal": doors.refusal(shop, job), "keys": doors.keys(shop, job)}
        assert sent(made[first]).to(shop.service.url).status_code == 200
        before = shop.service.state()
        expect_problem(sent(made[second]).to(shop.service.url), 409, "key-state")
        assert shop.service.state() == before


def test_keys_and_a_refusal_at_once_are_one_of_them(shop: Market) -> None:
    job = running_job(shop, attested=True)
    made = [sent(doors.refusal(shop, job)), sent(doors.keys(shop, job))]
    first, barrier = len(shop.service.headers()), threading.Barrier(2)

    def send(request: Sent) -> requests.Response:
        barrier.wait(timeout=120)
        return request.to(shop.service.url)

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(send, made))
    assert sorted(answer.status_code for answer in answers) == [200, 409], [answer.text for answer in answers]
    assert sum(appended(shop, first).values()) == 1


def test_keys_for_a_job_that_was_never_charged_are_for_nothing(shop: Market) -> None:
    door = doors.keys(shop, running_job(shop, attested=True))
    body = door.document | {"job": "job-" + "0" * 20}
    assert KeyReleaseStatement(**body)
    assert not flaws(sent(door, body).to(shop.service.url), 404, "not-found")


def test_a_manifest_before_its_upload_can_be_sent_again_after_it(shop: Market) -> None:
    from policies.canonical import digest_bytes

    file, door = upload(shop), doors.version(shop)
    manifest = sent(door, door.document | {"file_digest": digest_bytes(file.body), "size": len(file.body)})
    expect_problem(manifest.to(shop.service.url), 404, "not-found")
    assert file.to(shop.service.url).status_code == 201
    assert manifest.to(shop.service.url).status_code == 201


def test_a_client_that_lost_every_second_answer_gets_through_the_whole_exchange(shop: Market, proxy: Proxy) -> None:
    """The client's own verbs, each repeated as a person would: join, declare, offer, propose, sign, submit."""
    from tests.support.market import plans_declaration

    name = f"newcomer_{shop.service.next_tag()}"
    code, home = shop.service.code(name), fresh_home(shop.service, name)
    home.write("identity.json", home.read("identity.json") | {"url": f"http://127.0.0.1:{proxy.port}"})
    client = Client(home=home)
    client.session.headers["Connection"] = "close"
    first = len(shop.service.headers())
    for act in (lambda: client.join(code), lambda: client.declare(plans_declaration(name)), client.participants, client.checkpoint):
        proxy.cut("applied")
        with pytest.raises(Unavailable):
            act()
        act()
    assert appended(shop, first) == {"admitted": 1, "declared": 1}


@pytest.mark.parametrize("way", ["in turn", "at once", "lost answer"])
def test_a_signature_of_an_epoch_counts_once(tmp_path: Path, way: str) -> None:
    town = found_town(tmp_path / "town", persons=5, queue="off")
    with pytest.raises(NotFound):
        town.clients["insurer"].epoch()
    _, epoch = open_epoch(town.host, {})
    town.host.store.close()
    host = compose(town.host.config)
    app = make_app(host)
    client = town.clients["insurer"]
    body = {"signed": client._signed("epoch", epoch)}

    def send(_: int = 0) -> tuple[int, Any]:
        credential = {"Authorization": f"Bearer {client.home.credential}"}
        answer = app.test_client().post("/api/v1/epoch/signatures", json=body, headers=credential)
        return answer.status_code, answer.json

    if way == "at once":
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(send, range(2)))
    elif way == "in turn":
        answers = [send(), send()]
    else:
        session: Any = client.session
        session.app, session.doctor = app, network_down
        with pytest.raises(Unavailable):
            client.send_epoch_signature(epoch)
        answers = [send(), send()]
    assert answers[0] == answers[1]
    assert answers[0][0] == 200
    signed = [header for header in steps.headers(host) if header["kind"] == "epoch_signed"]
    assert [header["ids"]["participant"] for header in signed] == ["insurer"]
    host.store.close()

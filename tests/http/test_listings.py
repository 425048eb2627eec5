"""Listings come in bounded pages that lead to the end, each item once, and can be narrowed; reads are conditional."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest

from policies.canonical import canonical, digest
from policies.exchange import Exchange, Leg
from sandbox.party import exchanges
from tests.support.doors import DOORS, expect_problem, get
from tests.support.market import PURPOSE, Market

LISTINGS = ("participants", "datasets", "offers", "agreements", "jobs", "key-requests", "exchanges")


def pages(market: Market, role: str, path: str, limit: int, query: str = "") -> list[list[dict[str, Any]]]:
    """Items of every page, as `next` leads through them."""
    member, found, cursor = path.replace("-", "_"), [], ""
    while True:
        response = get(market.clients[role], f"/{path}?limit={limit}{query}{cursor}")
        assert response.status_code == 200, response.text
        body = response.json()
        assert set(body) == {member, "next"}
        found.append(body[member])
        if body["next"] is None:
            return found
        assert len(body[member]) == limit
        cursor = f"&cursor={body['next']}"


@pytest.fixture(scope="module")
def filled(market: Market) -> Market:
    """A market where every listing has several pages."""
    for name in ("participants", "datasets", "offers", "agreements", "jobs"):
        for _ in range(3):
            door = DOORS[name](market)
            assert door.post(door.request()).status_code == 201
    for number in range(3):
        exchanges.propose(market.clients["institute"], order_for_scenario(market, f"listed-{number}"))
    return market


def order_for_scenario(market: Market, uid: str) -> Exchange:
    """The institute orders something, and may evaluate on the insurer's table."""
    institute, insurer, now = market.name("institute"), market.name("insurer"), int(time.time())
    right = Leg(
        kind="scenario", giver=insurer, receiver=institute, agreement=market.agreement, purpose=PURPOSE, until=now + 9 * 86_400, jobs=2
    )
    order = Leg(kind="order", giver=institute, receiver=insurer, document=digest("order"))
    return Exchange(uid=uid, title="Listed", accept_by=now + 86_400, deadline=now + 8 * 86_400, dispute_days=7, legs=(right, order))


@pytest.mark.parametrize("path", ["participants", "datasets", "offers", "agreements", "jobs", "exchanges"])
def test_pages_of_any_length_lead_through_the_same_items_once(filled: Market, path: str) -> None:
    whole = [item for page in pages(filled, "insurer", path, 200) for item in page]
    assert len(whole) >= 3
    for limit in (1, 2, len(whole)):
        assert [item for page in pages(filled, "insurer", path, limit) for item in page] == whole
    keys = [canonical(item) for item in whole]
    assert len(set(keys)) == len(keys)


def test_exchanges_are_listed_newest_first_to_those_who_take_part(filled: Market, stranger: Market) -> None:
    whole = [item for page in pages(filled, "institute", "exchanges", 2) for item in page]
    assert [item["signed"]["body"]["uid"] for item in whole[:3]] == ["listed-2", "listed-1", "listed-0"]
    client = filled.clients["institute"]
    assert exchanges.listed(client, "proposed") == exchanges.listed(client) == whole
    assert exchanges.listed(client, "open") == []
    assert exchanges.listed(stranger.clients["institute"]) == []
    expect_problem(get(client, "/exchanges?stage=over"), 400)


def test_jobs_are_listed_newest_first(filled: Market) -> None:
    times = [job["created_at"] for page in pages(filled, "institute", "jobs", 2) for job in page]
    assert times == sorted(times, reverse=True)


def test_what_is_added_between_two_pages_neither_repeats_nor_hides_anything(filled: Market) -> None:
    before = [job["id"] for page in pages(filled, "institute", "jobs", 200) for job in page]
    first = get(filled.clients["institute"], "/jobs?limit=2").json()
    filled.clients["institute"].submit(filled.request())
    rest = [first]
    while rest[-1]["next"] is not None:
        rest.append(get(filled.clients["institute"], f"/jobs?limit=2&cursor={rest[-1]['next']}").json())
    assert [job["id"] for page in rest for job in page["jobs"]] == before


def test_the_client_reads_all_pages(filled: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    client = filled.clients["institute"]
    whole = client.jobs()
    answer, asked = client._answer, []

    def short(method: str, path: str, **arguments: Any) -> dict[str, Any]:
        asked.append(path)
        return answer(method, path, **{**arguments, "params": {**arguments["params"], "limit": "1"}})

    monkeypatch.setattr(client, "_answer", short)
    assert client.jobs() == whole
    assert len(asked) == len(whole)


def test_listings_can_be_narrowed(filled: Market, stranger: Market) -> None:
    client = filled.clients["institute"]
    jobs = client.jobs()
    assert client.jobs(state="charged") == [job for job in jobs if job["state"] == "charged"] != []
    assert client.jobs(state="expired") == []
    assert client.jobs(consumer=filled.name("institute")) == jobs
    assert client.jobs(consumer=filled.name("insurer")) == []
    assert client.jobs(agreement=filled.agreement) == [job for job in jobs if job["agreement"] == filled.agreement] != []
    assert client.jobs(agreement=stranger.agreement) == []
    agreements = client.agreements()
    assert {item["state"] for item in agreements} == {"proposed", "active"}
    for state in ("proposed", "active"):
        assert client.agreements(state=state) == [item for item in agreements if item["state"] == state]
    for listing, provider in ((client.offers, "signed"), (client.datasets, "signed")):
        name = filled.name("insurer")
        own = listing(provider=name)
        assert own == [item for item in listing() if item[provider]["by"] == name] != []
        assert listing(provider="nobody") == []


def test_filters_never_widen_what_one_may_see(filled: Market, stranger: Market) -> None:
    outsider = stranger.clients["institute"]
    seen = {job["agreement"] for job in outsider.jobs(consumer=filled.name("institute"))}
    assert filled.agreement not in seen
    assert outsider.jobs(agreement=filled.agreement) == []
    cursor = get(filled.clients["institute"], "/jobs?limit=1").json()["next"]
    foreign = get(outsider, f"/jobs?cursor={cursor}").json()["jobs"]
    assert filled.agreement not in {job["agreement"] for job in foreign}


def _cursor(value: Any) -> str:
    return base64.urlsafe_b64encode(canonical(value)).rstrip(b"=").decode()


@pytest.mark.parametrize("path", LISTINGS)
def test_a_wrong_page_is_refused(market: Market, path: str) -> None:
    wrong = (
        "limit=0", "limit=201", "limit=-1", "limit=", "limit=1.0", "limit=1e2", "limit=%201", "limit=1_0", "limit=\u0661", "limit=9" * 30,
        "limit=1&limit=2", "cursor=", "cursor=%00", "cursor=!", "cursor=" + "A" * 401, "cursor=AAAA", "unknown=1", "state=charging",
        *("cursor=" + _cursor(value) for value in ("x", {}, [], [None], [True, "x"], ["x"] * 3, [[1], "x"], ["\u0001", "\u0001"], [1, 2])),
    )  # fmt: skip
    for query in wrong:
        expect_problem(get(market.clients["insurer"], f"/{path}?{query}"), 400)


@pytest.mark.parametrize("path", ["/participants", "/jobs", "/me", "/service", "/openapi.json", "/docs", "/log/checkpoint"])
def test_who_has_an_answer_already_gets_304(market: Market, path: str) -> None:
    client = market.clients["insurer"]
    first = get(client, path)
    assert first.headers["ETag"]
    headers = {"Authorization": f"Bearer {client.home.credential}", "If-None-Match": first.headers["ETag"]}
    url = market.service.api + path
    again = client.session.get(url, headers=headers, timeout=60)
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    other = client.session.get(url, headers=headers | {"If-None-Match": '"another"'}, timeout=60)
    assert (other.status_code, other.content) == (200, first.content)


def test_a_changed_answer_has_another_etag_and_304_needs_the_credential(filled: Market) -> None:
    client = filled.clients["institute"]
    tag = get(client, "/jobs").headers["ETag"]
    filled.clients["institute"].submit(filled.request())
    assert get(client, "/jobs").headers["ETag"] != tag
    answer = client.session.get(filled.service.api + "/jobs", headers={"If-None-Match": "*"}, timeout=60)
    expect_problem(answer, 401, "unauthenticated")

"""What parties of a joint total have done before one waits for them, and what they then need not do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from policies.errors import Tampered
from sandbox.party.connection import Session
from sandbox.party.joint import JointPart
from sandbox.party.kept import kept_agreement, kept_agreements
from tests.support.pooled import PoolMarket, open_pool, work_in_this_process
from tests.support.service import running


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PoolMarket]:
    with running(tmp_path_factory.mktemp("waiting"), "sqlite") as service:
        yield open_pool(service, insurers=2, people=50)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    work_in_this_process(monkeypatch)


def test_a_party_that_waits_has_verified_its_agreements_before_a_total_comes(market: PoolMarket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading an agreement and its signatures takes longest of what a contributor does, and needs no job."""
    part = market.contributor(market.insurers[0])
    part._turn()
    asked: list[str] = []
    straight = part.client._get

    def looked_at(path: str, **how: Any) -> Any:
        asked.append(path)
        return straight(path, **how)

    monkeypatch.setattr(part.client, "_get", looked_at)
    part.client.followed_agreement(market.agreement)
    assert asked == []
    part._turn()
    assert asked == ["/joint-totals"]


def test_an_agreement_that_cannot_be_read_ahead_is_read_again_later(market: PoolMarket, monkeypatch: pytest.MonkeyPatch) -> None:
    part, tried = market.contributor(market.insurers[1]), list[str]()

    def failing(name: str) -> Any:
        tried.append(name)
        raise Tampered("the log is behind")

    with monkeypatch.context() as patch:
        patch.setattr(part.client, "followed_agreement", failing)
        with pytest.raises(Tampered):
            part._read_ahead()
        part._read_ahead()
        assert tried == [market.agreement], "not again at once"
        part._ahead[market.agreement] = 0.0
        with pytest.raises(Tampered):
            part._read_ahead()
    part._ahead[market.agreement] = 0.0
    part._read_ahead()
    assert tried == [market.agreement] * 2
    assert part._ahead[market.agreement] == float("inf")


def test_whoever_has_no_part_in_a_pool_asks_for_nothing(market: PoolMarket, monkeypatch: pytest.MonkeyPatch) -> None:
    part = JointPart(client=market.clients[market.analyst])
    monkeypatch.setattr(part.client, "followed_agreement", lambda name: pytest.fail("it is not in the pool"))
    assert kept_agreements(part.client.home) == [market.agreement]
    part._read_ahead()


def test_a_kept_agreement_that_was_read_and_then_changed_is_refused(market: PoolMarket) -> None:
    home = market.clients[market.analyst].home
    name = f"agreements/{market.agreement.removeprefix('sha256:')}.json"
    kept = kept_agreement(home, market.agreement)
    assert kept_agreement(home, market.agreement) is kept
    whole = home.read_bytes(name)
    try:
        home.write_bytes(name, whole.replace(b"Claims by region", b"Claims by reason"))
        with pytest.raises(Tampered) as changed:
            kept_agreement(home, market.agreement)
        assert changed.value.code == "agreement-digest"
    finally:
        home.write_bytes(name, whole)
    assert kept_agreement(home, market.agreement) is kept


def test_the_environment_is_asked_once_per_host_and_a_requests_own_settings_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:1")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/authorities.pem")
    asked: list[str] = []
    straight = requests.sessions.get_environ_proxies

    def looked_at(url: str, no_proxy: Any = None) -> Any:
        asked.append(url)
        return straight(url, no_proxy=no_proxy)

    monkeypatch.setattr(requests.sessions, "get_environ_proxies", looked_at)
    session, plain = Session(), requests.Session()
    for url in ("http://outside.example/a", "http://outside.example/b", "http://inside.example/c"):
        assert session.merge_environment_settings(url, {}, None, None, None) == plain.merge_environment_settings(url, {}, None, None, None)
    assert [url for url in asked if url.endswith("/b")] == ["http://outside.example/b"], "only by the plain session"
    own = session.merge_environment_settings("http://outside.example/a", {"http": "http://own.example:2"}, True, False, None)
    assert (own["proxies"]["http"], own["stream"], own["verify"]) == ("http://own.example:2", True, False)

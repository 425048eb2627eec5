"""What every answer carries, whatever it is: headers that bind browsers, methods that behave, problems for everything refused."""

from __future__ import annotations

import pytest
import requests

from app import create_app
from sandbox.config import Config
from tests.support.doors import expect_problem, get
from tests.support.market import Market
from tests.support.service import ON_ONE_DATABASE

PATHS = ("/healthz", "/api/v1/service", "/api/v1/jobs", "/api/v1/docs", "/api/v1/openapi.json", "/api/v1/nothing", "/", "/api/v1/jobs/")


@ON_ONE_DATABASE
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "DELETE", "TRACE", "ANYTHING"])
def test_every_answer_binds_browsers(market: Market, path: str, method: str) -> None:
    response = requests.request(method, market.service.url + path, timeout=60)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Cache-Control"] == "no-store"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "Strict-Transport-Security" not in response.headers, "this request did not come by https"
    if response.status_code >= 400 and method != "HEAD":
        expect_problem(response, {401, 404, 405, 415})


def test_only_an_answer_by_https_asks_for_https_from_then_on(tmp_path: object) -> None:
    client = create_app(Config(data=tmp_path / "data")).test_client()  # type: ignore[operator]
    assert "max-age=31536000" in client.get("/healthz", base_url="https://example.org").headers["Strict-Transport-Security"]
    assert "Strict-Transport-Security" not in client.get("/healthz", base_url="http://example.org").headers


@ON_ONE_DATABASE
@pytest.mark.parametrize("path", ["/healthz", "/api/v1/service", "/api/v1/docs", "/api/v1/openapi.json"])
def test_head_answers_like_get_without_a_body(market: Market, path: str) -> None:
    whole, head = requests.get(market.service.url + path, timeout=60), requests.head(market.service.url + path, timeout=60)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("Content-Type", "Content-Length", "ETag"):
        assert head.headers[name] == whole.headers[name]


@ON_ONE_DATABASE
def test_head_opens_no_event_stream(market: Market) -> None:
    client = market.clients["insurer"]
    headers = {"Authorization": f"Bearer {client.home.credential}"}
    for _ in range(12):
        response = requests.head(market.service.api + "/events", headers=headers, timeout=60)
        assert (response.status_code, response.content) == (200, b"")
    expect_problem(requests.get(market.service.api + "/events", timeout=60), 401, "unauthenticated")


@ON_ONE_DATABASE
@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/jobs", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("/me", {"GET", "HEAD", "OPTIONS"}),
        ("/jobs:check", {"OPTIONS", "POST"}),
        ("/agreements/signatures", {"OPTIONS", "POST"}),
    ],
)
def test_other_methods_are_refused_with_those_that_are_allowed(market: Market, path: str, allowed: set[str]) -> None:
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "ANYTHING"):
        response = requests.request(method, market.service.api + path, timeout=60)
        expect_problem(response, 405, "method-not-allowed")
        assert set(response.headers["Allow"].split(", ")) == allowed
    options = requests.options(market.service.api + path, timeout=60)
    assert (options.status_code, options.content) == (200, b"")
    assert set(options.headers["Allow"].split(", ")) == allowed
    assert "Access-Control-Allow-Origin" not in options.headers


@ON_ONE_DATABASE
def test_a_parameter_that_nothing_reads_is_refused(market: Market) -> None:
    for path in ("/me", "/ledgers", "/service", f"/agreements/{market.agreement}"):
        expect_problem(get(market.clients["insurer"], f"{path}?verbose=1"), 400)

"""The description of the API: valid, complete, and true of every answer that the service gives to requests made from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import requests
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from app import create_app
from policies.codec import encode
from sandbox.config import Config
from sandbox.web.openapi import describe, template
from sandbox.web.routes import OPERATIONS
from tests.http.conftest import Ran
from tests.support.doors import DOORS, KEY_DOORS, get
from tests.support.market import Market
from tests.support.service import ON_ONE_DATABASE


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The description of the API."""
    return describe(OPERATIONS)


@ON_ONE_DATABASE
def test_the_description_is_valid_openapi_and_served(market: Market, document: dict[str, Any]) -> None:
    validate(document, cls=OpenAPIV31SpecValidator)
    response = requests.get(market.service.api + "/openapi.json", timeout=60)
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == document


def test_every_route_is_described_and_every_operation_is_served(document: dict[str, Any], tmp_path: Path) -> None:
    app = create_app(Config(data=tmp_path / "data"))
    routes = {(method, template(rule.rule)) for rule in app.url_map.iter_rules() for method in rule.methods or ()}
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    implied = {(extra, path) for method, path in described for extra in ("OPTIONS", "HEAD") if extra == "OPTIONS" or method == "GET"}
    probes = {(method, "/readyz") for method in ("GET", "HEAD", "OPTIONS")}  # for whoever watches the service, not for its clients
    assert routes - probes == described | implied


def test_every_operation_says_what_it_takes_and_answers(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            name = f"{method} {path}"
            assert operation["summary"].endswith("."), name
            assert {"400", "500", "503"} < set(operation["responses"]), name
            assert ("401" in operation["responses"]) == bool(operation["security"]), name
            assert all(parameter["description"] and parameter["schema"] for parameter in operation["parameters"]), name
            for status, answer in operation["responses"].items():
                assert answer["description"], name
                assert status == "304" or answer["content"], name
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"], name


def test_only_what_comes_before_a_credential_needs_none(document: dict[str, Any]) -> None:
    open_to_all = {path for path, methods in document["paths"].items() for operation in methods.values() if not operation["security"]}
    assert open_to_all == {"/healthz", "/api/v1/service", "/api/v1/openapi.json", "/api/v1/docs", "/api/v1/participants"}


def _validator(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    return jsonschema_rs.validator_for({**schema, "components": document["components"]})


@ON_ONE_DATABASE
@pytest.mark.parametrize("name", [*DOORS, *KEY_DOORS])
def test_what_the_service_accepts_fits_the_described_request(market: Market, ran: Ran, document: dict[str, Any], name: str) -> None:
    door = KEY_DOORS[name](ran.market, ran.waiting) if name in KEY_DOORS else DOORS[name](market)
    path = "/api/v1" + door.path.replace(ran.waiting, "{job_id}")
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator = _validator(document, schema)
    assert [error.message for error in validator.iter_errors(door.request())] == []
    assert not validator.is_valid(door.request() | {"extra": 1})
    if "signed" in schema["properties"]:
        assert not validator.is_valid(door.request(door.changed("unheard", to="of"))), "the document's own members are described"


@ON_ONE_DATABASE
def test_the_answers_about_a_full_job_fit_their_descriptions(ran: Ran, document: dict[str, Any]) -> None:
    client = ran.market.clients["institute"]
    paths = {
        "/jobs/{job_id}": ran.released, "/jobs/{job_id}/release": ran.released, "/jobs/{job_id}/receipt": ran.released,
        "/agreements/{digest}": ran.market.agreement, "/datasets/{name}": ran.market.plans, "/jobs": "", "/agreements": "",
        "/datasets": "", "/offers": "", "/participants": "", "/ledgers": "", "/me": "", "/service": "",
    }  # fmt: skip
    for path, value in paths.items():
        spelled = path.partition("{")[0] + value + path.partition("}")[2]
        response = get(client, spelled)
        assert response.status_code == 200, path
        schema = document["paths"]["/api/v1" + path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert [error.message for error in _validator(document, schema).iter_errors(response.json())] == [], path
    waiting = get(ran.market.clients["insurer"], "/key-requests")
    schema = document["paths"]["/api/v1/key-requests"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert waiting.json()["key_requests"]
    assert [error.message for error in _validator(document, schema).iter_errors(waiting.json())] == []
    checked = client.check(ran.request)
    schema = document["paths"]["/api/v1/jobs:check"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert [error.message for error in _validator(document, schema).iter_errors(encode(checked))] == []


@ON_ONE_DATABASE
def test_the_page_shows_every_operation_and_loads_nothing(market: Market, document: dict[str, Any]) -> None:
    response = requests.get(market.service.api + "/docs", timeout=60)
    assert response.headers["Content-Type"].startswith("text/html")
    for methods in document["paths"].values():
        for operation in methods.values():
            assert f'id="{operation["operationId"]}"' in response.text
    assert all(f'id="{name}"' in response.text for name in document["components"]["schemas"])
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not any(word in response.text for word in ("<script", "<img", "<link", "<iframe", "@import", "url(", "onclick"))
    assert set(re.findall(r"""(?:src|href)=["']?([^#"'> ][^"'> ]*)""", response.text)) == {"openapi.json"}

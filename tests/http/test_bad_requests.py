"""What no write endpoint accepts, whatever it is for: bad JSON, bad envelopes, bad credentials, bad signatures. Nothing changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from policies.canonical import canonical
from tests.http.conftest import Ran
from tests.support.doors import DOORS, KEY_DOORS, Door, require_refused
from tests.support.market import Market
from tests.support.service import JSON_BYTES, ON_ONE_DATABASE

ALL = (*DOORS, *KEY_DOORS)
SIGNED = tuple(name for name in ALL if name not in ("jobs:check", "challenge"))
WITH_CREDENTIAL = tuple(name for name in ALL if name != "participants")


@pytest.fixture
def door(request: pytest.FixtureRequest, market: Market, ran: Ran) -> Door:
    """An acceptable request to the endpoint that the test names."""
    name = request.param
    return KEY_DOORS[name](ran.market, ran.waiting) if name in KEY_DOORS else DOORS[name](market)


@pytest.fixture
def other(door: Door, stranger: Market) -> Market:
    """Participants whose documents are not the caller's; of runs, the caller's own partners."""
    return door.market if door.path.startswith("/key-requests") else stranger


@ON_ONE_DATABASE
@pytest.mark.parametrize("door", ALL, indirect=True)
def test_what_is_not_strict_json_is_refused(door: Door) -> None:
    valid = canonical(door.request())
    first = json.dumps(next(iter(door.request()))).encode()
    value = canonical(next(iter(door.request().values())))
    bodies = {
        "nothing": b"",
        "spaces": b"   ",
        "cut short": valid[:-1],
        "twice": valid + valid,
        "trailing comma": valid[:-1] + b",}",
        "comment": valid + b"// fine",
        "single quotes": b"{'signed': {}}",
        "not UTF-8": valid[:-1] + b',"x":"\xff\xfe"}',
        "UTF-16": valid.decode().encode("utf-16"),
        "byte order mark": b"\xef\xbb\xbf" + valid,
        "lone surrogate": valid[:-1] + b',"x":"\\ud800"}',
        "duplicate key": valid[:-1] + b"," + first + b":" + value + b"}",
        "duplicate key in depth": valid[:-1] + b',"x":{"a":1,"a":1}}',
        "float": valid[:-1] + b',"x":1.0}',
        "exponent": valid[:-1] + b',"x":1e3}',
        "NaN": valid[:-1] + b',"x":NaN}',
        "infinity": valid[:-1] + b',"x":-Infinity}',
        "integer beyond 2^53": valid[:-1] + b',"x":9007199254740992}',
        "integer of 5000 digits": valid[:-1] + b',"x":' + b"9" * 5000 + b"}",
        "33 levels": valid[:-1] + b',"x":' + b"[" * 33 + b"]" * 33 + b"}",
        "100000 levels": b"[" * 100_000,
        "100000 objects": b'{"a":' * 100_000,
        "raw control character": valid[:-1] + b',"x":"\x00"}',
        "oversized": valid[:-1] + b',"x":"' + b"a" * JSON_BYTES + b'"}',
    }
    large = (413, "too-large")
    answers = ((name, door.post(body), *(large if name == "oversized" else (400, "malformed"))) for name, body in bodies.items())
    require_refused(door.market.service, answers)


@ON_ONE_DATABASE
@pytest.mark.parametrize("door", ALL, indirect=True)
def test_what_has_another_shape_is_refused(door: Door) -> None:
    valid = door.request()
    bodies: dict[str, Any] = {f"only {value!r}": value for value in (None, True, 0, "text", [], [valid], {})}
    bodies["unknown member"] = valid | {"extra": 1}
    bodies["unknown member with a path for a name"] = valid | {"../../etc/passwd": 1}
    for member in valid:
        bodies[f"without {member}"] = {k: v for k, v in valid.items() if k != member}
        for value in (None, True, 7, "text", [], [{}]):
            bodies[f"{member} is {value!r}"] = valid | {member: value}
    for member in valid.get("signed", {}):
        signed = valid["signed"]
        bodies[f"signed without {member}"] = valid | {"signed": {k: v for k, v in signed.items() if k != member}}
        for value in (None, True, 7, [], ["x"], "x" * 300):
            bodies[f"signed.{member} is {str(value)[:9]}"] = valid | {"signed": signed | {member: value}}
    if "signed" in valid:
        bodies["signed has an unknown member"] = valid | {"signed": valid["signed"] | {"key": "x"}}
        for by in ("", "../x", "a\u0000b", "A", "x" * 41, "é"):
            bodies[f"by {by!r}"] = valid | {"signed": valid["signed"] | {"by": by}}
        bodies["unknown purpose"] = valid | {"signed": valid["signed"] | {"purpose": "anything"}}
        for member in door.document:
            bodies[f"document without {member}"] = door.request(door.changed(member, to=...))
            if not isinstance(door.document[member], list):
                bodies[f"document with a list as {member}"] = door.request(door.changed(member, to=[[]]))
        bodies["document with an unknown member"] = door.request(door.changed("unheard", to="of"))
    optional = {"document without kind"}  # has a default, and only one value
    require_refused(door.market.service, ((name, door.post(body), 400, None) for name, body in bodies.items() if name not in optional))


@ON_ONE_DATABASE
@pytest.mark.parametrize("door", ALL, indirect=True)
def test_what_does_not_say_that_it_is_json_is_refused(door: Door) -> None:
    valid = canonical(door.request())
    types = (None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml", "json")
    require_refused(
        door.market.service, ((str(kind), door.post(valid, content_type=kind), 415, "unsupported-media-type") for kind in types)
    )


@ON_ONE_DATABASE
@pytest.mark.parametrize("door", WITH_CREDENTIAL, indirect=True)
def test_without_a_valid_credential_nothing_is_read(door: Door) -> None:
    assert door.caller is not None
    own = door.caller.home.credential
    credentials = (
        None, "", "Bearer", "Bearer ", f"Basic {own}", own, f"Bearer {own[:-1]}", f"Bearer {own}x", f"Bearer {own.swapcase()}",
        f"Bearer {own} {own}", "Bearer " + "a" * 43, "Bearer " + "a" * 5000,
        "Bearer \u00e9\u00e9" + "a" * 40, "Bearer ' OR 1=1 --" + "a" * 20,
    )  # fmt: skip

    def answers() -> Iterator[tuple[str, requests.Response, int, str]]:
        for body in (door.request(), b"{not json"):
            for credential in credentials:
                yield f"{credential!r:.40}", door.post(body, credential=credential), 401, "unauthenticated"

    require_refused(door.market.service, answers())


@pytest.mark.parametrize("door", SIGNED, indirect=True)
def test_a_signature_binds_signer_purpose_and_every_byte(door: Door, other: Market) -> None:
    assert door.signer is not None
    valid = door.request()
    signed, signature = valid["signed"], valid["signed"]["signature"]
    stranger = other.clients["auditor"]
    flipped = f"{int(signature[0], 16) ^ 1:x}{signature[1:]}"
    with_own_key = door.request(key=stranger.home.signing)
    purposes = ("admission", "declaration", "version", "offer", "agreement", "agreement-signature", "job-request", "key-release")
    bodies = {
        "a flipped bit": valid | {"signed": signed | {"signature": flipped}},
        "zeros": valid | {"signed": signed | {"signature": "0" * 128}},
        "no hexadecimal": valid | {"signed": signed | {"signature": "z" * 128}},
        "another key": with_own_key,
        "another signer": door.request(by=stranger.home.participant, key=stranger.home.signing),
        "the signature of another document": valid | {"signed": signed | {"signature": _elsewhere(door)}},
        "the body of another document": valid | {"signed": signed | {"body": {**signed["body"], "title": "changed after signing"}}},
    }
    for purpose in purposes:
        if purpose != door.purpose:
            elsewhere = door.request(purpose=purpose)
            bodies[f"made for {purpose}"] = elsewhere
            bodies[f"made for {purpose}, relabelled"] = valid | {"signed": signed | {"signature": elsewhere["signed"]["signature"]}}
    # The one that cannot be told from a document that merely has a member too many.
    loose = {"the body of another document": ({400, 403}, None), "another signer": ({400, 403}, None)}
    require_refused(
        door.market.service, ((name, door.post(body), *loose.get(name, (403, "bad-signature"))) for name, body in bodies.items())
    )


@pytest.mark.parametrize("door", [name for name in SIGNED if name != "participants"], indirect=True)
def test_one_cannot_hand_in_what_another_signed(door: Door, other: Market) -> None:
    thief = other.clients["auditor"].home
    answer = (("the auditor hands it in", door.post(door.request(), credential=f"Bearer {thief.credential}"), 403, "bad-signature"),)
    require_refused(door.market.service, iter(answer))


@pytest.mark.parametrize("door", list(DOORS), indirect=True)
def test_what_was_bent_here_is_accepted_as_it_was(door: Door) -> None:
    response = door.post(door.request())
    assert response.status_code == door.accepted, response.text
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("door", ["jobs", "agreements", "datasets"], indirect=True)
def test_nothing_can_be_replaced_or_deleted(door: Door, method: str) -> None:
    response = requests.request(method, door.market.service.api + door.path, data=b"{}", timeout=60)
    require_refused(door.market.service, iter([(method, response, 405, "method-not-allowed")]))
    assert "POST" in response.headers["Allow"]


def _elsewhere(door: Door) -> str:
    member = next(name for name, value in door.document.items() if isinstance(value, str))
    return str(door.request(door.changed(member, to="another"))["signed"]["signature"])

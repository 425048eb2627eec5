"""Random bytes, random JSON and randomly bent signed documents: every answer is a problem that the caller can act on, never a failure."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.canonical import canonical
from tests.http.conftest import Ran
from tests.support.doors import DOORS, KEY_DOORS, Door, flaws
from tests.support.market import Market
from tests.support.service import ON_ONE_DATABASE

REFUSED = {400, 401, 403, 404, 409, 415}
BRIEFLY = settings(
    max_examples=30, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

BODIES = 250
"""Random bodies per endpoint."""
WORDS = (
    *["signed", "purpose", "by", "body", "signature", "code", "request", "nonce", "sealed", "job"],
    "00" * 32,
    "00" * 64,
    "\ud800",
    "\x00",
    "é",
)
PIECES = tuple(b'{ } [ ] : , " \\ "signed" "by" "body" null true 1 -0 1e9 NaN \xff \x00 \\u0000 \\ud800'.split(b" "))

integers = st.integers(-(2**53) + 1, 2**53 - 1)
texts = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    ["", "sha256:" + "0" * 64, "00" * 32, "../../x", "\x00", "\u202e", "1e999", "NaN", "a" * 41, "insurer.plans", "2026-01-01T00:00:00Z"]
)
values = st.recursive(
    st.none() | st.booleans() | integers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(params=[*DOORS, *KEY_DOORS], scope="module")
def door(request: pytest.FixtureRequest, market: Market, ran: Ran) -> Door:
    """An acceptable request to each write endpoint; of a run that has ended, lest one that stays good ends the run that others need."""
    name = request.param
    return KEY_DOORS[name](ran.market, ran.released) if name in KEY_DOORS else DOORS[name](market)


@st.composite
def bent(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes of a valid request with a stretch replaced, removed or repeated."""
    start = draw(st.integers(0, len(valid)))
    end = draw(st.integers(start, min(len(valid), start + 40)))
    return valid[:start] + draw(st.binary(max_size=20) | st.just(valid[start:end] * 2)) + valid[end:]


@ON_ONE_DATABASE
def test_random_bytes_and_random_json_are_refused(door: Door) -> None:
    draw = random.Random(door.path)
    for _ in range(BODIES):
        body = _random_body(draw)
        found = flaws(door.post(body), REFUSED)
        assert not found, f"{body!r}: {found}"


@ON_ONE_DATABASE
@BRIEFLY
@given(data=st.data())
def test_a_valid_request_with_random_damage_is_no_failure(door: Door, data: st.DataObject) -> None:
    body = data.draw(bent(canonical(door.request())))
    response = door.post(body)
    # Harmless damage (a space, or in a request that is not signed, another nonce) may leave a good request.
    if response.status_code >= 300:
        found = flaws(response, REFUSED)
        assert not found, found


@BRIEFLY
@given(data=st.data())
def test_a_rightly_signed_document_of_random_content_is_no_failure(door: Door, data: st.DataObject) -> None:
    document = copy.deepcopy(door.document)
    places = list(_places(document))
    for _ in range(data.draw(st.integers(1, 2))):
        holder, key = data.draw(st.sampled_from(places))
        if (isinstance(holder, dict) and key in holder) or (isinstance(holder, list) and key < len(holder)):
            holder[key] = data.draw(values)
    response = door.post(_unchecked(door.request(document)))
    if response.status_code >= 300:
        found = flaws(response, REFUSED)
        assert not found, found


def _random_body(draw: random.Random) -> bytes:
    """Bytes of any kind, pieces of JSON in any order, or JSON of no particular shape."""
    kind = draw.randrange(3)
    if kind == 0:
        return draw.randbytes(draw.randrange(200))
    if kind == 1:
        return b"".join(draw.choice(PIECES) for _ in range(draw.randrange(30)))
    return json.dumps(_random_value(draw, 4)).encode()


def _random_value(draw: random.Random, depth: int) -> Any:
    kind = draw.randrange(7 if depth else 5)
    if kind == 5:
        return [_random_value(draw, depth - 1) for _ in range(draw.randrange(4))]
    if kind == 6:
        return {draw.choice(WORDS): _random_value(draw, depth - 1) for _ in range(draw.randrange(5))}
    return (None, draw.random() < 0.5, draw.randrange(-(2**60), 2**60), draw.random(), draw.choice(WORDS))[kind]


def _places(value: Any) -> Any:
    """Every (container, key) inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def _unchecked(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")

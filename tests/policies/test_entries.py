"""Log entries: headers have one spelling, and a commitment hides and binds its body."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.canonical import MAX_INTEGER, canonical
from policies.codec import encode
from policies.entries import KINDS, MAX_ENTRY, Header, LedgerCharge, Opening, commit, open_body, parse_header
from policies.errors import Malformed, Tampered
from tests.support.terms import digest_of

SALT = bytes(range(32))
BODY = {"sql": "SELECT COUNT(*) FROM insurer.plans", "rows": 7}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
BODIES = st.dictionaries(TEXT, st.integers(-9, 9) | st.none(), max_size=4)
SALTS = st.binary(min_size=32, max_size=32)


def _header(**overrides: Any) -> Header:
    header = Header(
        kind="charged",
        at=1_780_272_000_000,
        ids={"job": "job-1"},
        losses=(LedgerCharge(provider="insurer", id_space="rand-hie", amount=5),),
        commitment=commit(SALT, BODY),
    )
    return dataclasses.replace(header, **overrides)


def _opening(**overrides: Any) -> Opening:
    return dataclasses.replace(Opening(index=0, salt=SALT.hex(), body=BODY), **overrides)


def test_commitment_equals_the_written_down_formula() -> None:
    body = b'{"rows":7,"sql":"SELECT COUNT(*) FROM insurer.plans"}'
    assert commit(SALT, BODY) == "sha256:" + hashlib.sha256(b"sandbox/v1/commitment\n" + SALT + body).hexdigest()


@given(SALTS, BODIES)
def test_opening_reveals_the_committed_body(salt: bytes, body: dict[str, Any]) -> None:
    assert open_body(_header(commitment=commit(salt, body)), _opening(salt=salt.hex(), body=body)) == body


@given(SALTS, SALTS, BODIES)
def test_commitment_depends_on_the_salt_so_that_equal_bodies_do_not_show(one: bytes, other: bytes, body: dict[str, Any]) -> None:
    assert (commit(one, body) == commit(other, body)) == (one == other)


@given(SALTS, BODIES, BODIES)
def test_commitment_binds_its_body(salt: bytes, body: dict[str, Any], other: dict[str, Any]) -> None:
    assume(body != other)
    header = _header(commitment=commit(salt, body))
    with pytest.raises(Tampered) as refused:
        open_body(header, _opening(salt=salt.hex(), body=other))
    assert refused.value.code == "bad-opening"


@pytest.mark.parametrize(
    "change",
    [
        {"salt": bytes(32).hex()},
        {"salt": ""},
        {"salt": SALT[:31].hex()},
        {"salt": SALT.hex() + "00"},
        {"salt": SALT.hex(" ")},
        {"salt": SALT.hex().upper()},
        {"salt": "zz" * 32},
        {"body": {}},
        {"body": {**BODY, "rows": 8}},
        {"body": {**BODY, "rows": "7"}},
        {"body": {**BODY, "rows": 7.0}},
        {"body": {**BODY, "more": None}},
        {"body": {**BODY, "text": "\ud800"}},
    ],
    ids=str,
)
def test_opening_that_differs_in_anything_is_rejected(change: dict[str, Any]) -> None:
    with pytest.raises(Tampered) as refused:
        open_body(_header(), _opening(**change))
    assert refused.value.code == "bad-opening"


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_salt_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(Malformed):
        commit(bytes(size), BODY)


@given(st.sampled_from(KINDS), st.integers(0, MAX_INTEGER), st.dictionaries(st.sampled_from(["job", "agreement"]), st.just("x")))
def test_header_round_trips(kind: Any, at: int, ids: dict[str, str]) -> None:
    header = _header(kind=kind, at=at, ids=ids)
    assert parse_header(canonical(encode(header))) == header


def test_header_has_one_spelling() -> None:
    value = encode(_header())
    data = canonical(value)
    without_default = {name: part for name, part in value.items() if name != "losses"} | {"kind": "decided"}
    spellings = [
        data + b"\n",
        b" " + data,
        json.dumps(value).encode(),
        json.dumps(value, separators=(",", ":"), sort_keys=False).encode(),
        data.replace(b"job-1", b"job\\u002d1"),
        data.replace(b'"amount":5', b'"amount":5.0'),
        data.replace(b'"v":1', b'"v":1,"v":1'),
        canonical(without_default),
        canonical({name: part for name, part in value.items() if name != "v"}),
    ]
    assert parse_header(data) == _header()
    for spelling in spellings:
        assert spelling != data
        with pytest.raises(Malformed):
            parse_header(spelling)


def test_header_without_any_one_of_its_fields_is_refused_though_it_has_a_default() -> None:
    value = encode(_header())
    charge = value["losses"][0]
    assert "measure" not in charge
    assert parse_header(canonical({**value, "losses": [charge | {"measure": "zcdp"}]})).losses[0].measure == "zcdp"
    lacking = [{name: part for name, part in value.items() if name != left} for left in value]
    lacking += [{**value, "losses": [charge, {name: part for name, part in charge.items() if name != left}]} for left in charge]
    for header in [*lacking, {**value, "losses": [charge | {"measure": "pure"}]}]:
        with pytest.raises(Malformed):
            parse_header(canonical(header))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "refunded"},
        {"kind": ""},
        {"kind": None},
        {"v": 2},
        {"v": True},
        {"at": "now"},
        {"at": True},
        {"ids": {"job": 1}},
        {"ids": {"job\x00": "x"}},
        {"ids": []},
        {"commitment": "sha256:00"},
        {"commitment": digest_of("x").upper()},
        {"extra": 1},
        {"losses": [{"provider": "insurer", "id_space": "rand-hie", "amount": -1, "delta0": 0}]},
        {"losses": [{"provider": "insurer", "id_space": "rand-hie", "amount": 1, "delta0": -1}]},
        {"losses": [{"provider": "../insurer", "id_space": "rand-hie", "amount": 1, "delta0": 0}]},
        {"losses": [{"provider": "insurer", "id_space": "Rand Hie", "amount": 1, "delta0": 0}]},
        {"losses": {}},
    ],
    ids=str,
)
def test_header_with_a_field_that_the_law_does_not_know_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        parse_header(canonical({**encode(_header()), **change}))


def test_entry_beyond_a_16_bit_length_is_refused() -> None:
    room = MAX_ENTRY - len(canonical(encode(_header(ids={"job": ""}))))
    assert parse_header(canonical(encode(_header(ids={"job": "x" * room})))).ids["job"] == "x" * room
    with pytest.raises(Malformed) as refused:
        parse_header(canonical(encode(_header(ids={"job": "x" * (room + 1)}))))
    assert refused.value.code == "too-large"


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_malformed_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_header(data)

"""Canonical JSON against the `rfc8785` package as a second implementation, and the strict parser."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from policies.canonical import (
    MAX_DEPTH,
    MAX_INTEGER,
    canonical,
    canonical_part,
    canonical_with,
    digest,
    digest_bytes,
    parse_canonical,
    parse_json,
)
from policies.errors import Malformed

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LEAVES = st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | TEXT
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=25)


def _nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@given(VALUES)
def test_bytes_equal_those_of_a_second_implementation(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@given(VALUES)
def test_parsing_canonical_bytes_gives_the_value_back(value: Any) -> None:
    assert parse_json(canonical(value)) == value
    assert canonical(parse_json(canonical(value))) == canonical(value)


@given(VALUES)
def test_a_part_of_what_was_parsed_is_written_as_any_value(value: Any) -> None:
    part = parse_json(canonical({"part": value}))["part"]
    assert canonical_part(part) == canonical(value)


@given(st.dictionaries(st.text("abcxyz_", min_size=1), VALUES), VALUES)
def test_an_object_is_written_around_a_member_that_is_written_already(value: dict[str, Any], member: Any) -> None:
    others = {name: item for name, item in value.items() if name != "plan"}
    assert canonical_with(others, "plan", canonical(member)) == canonical({**others, "plan": member})


@given(VALUES, VALUES)
def test_two_values_share_a_digest_only_if_they_are_the_same_json(left: Any, right: Any) -> None:
    same = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    assert (digest(left) == digest(right)) == same


def test_published_key_order_of_rfc_8785_section_3_2_3() -> None:
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    expected = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(canonical(dict.fromkeys(keys, 0)))) == expected


def test_published_string_of_rfc_8785_section_3_2_2_2() -> None:
    written = b'"\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/"'
    expected = '"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'.encode()
    assert canonical(parse_json(written)) == expected


def test_digest_is_sha256_over_the_canonical_bytes() -> None:
    assert digest({"b": 1, "a": []}) == "sha256:" + hashlib.sha256(b'{"a":[],"b":1}').hexdigest()
    assert digest_bytes(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        -0.0,
        float("nan"),
        float("inf"),
        MAX_INTEGER + 1,
        -MAX_INTEGER - 1,
        10**400,
        "\ud800",
        "ok\udfffok",
        {"\udc00": 1},
        {1: 2},
        {None: 2},
        {"a": {"b": [1.5]}},
        b"bytes",
        {1, 2},
        object(),
    ],
)
def test_a_value_without_one_exact_form_is_refused(value: Any) -> None:
    with pytest.raises(Malformed):
        canonical(value)


def test_nesting_is_refused_one_level_beyond_the_limit() -> None:
    assert canonical(_nested(MAX_DEPTH)) == b"[" * MAX_DEPTH + b"0" + b"]" * MAX_DEPTH
    with pytest.raises(Malformed, match="nested deeper"):
        canonical(_nested(MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"1.0",
        b"1e3",
        b"-0.0",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"9007199254740992",
        b"-9007199254740992",
        b"1" * 5000,
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":1}',
        b'{"x":{"a":1,"b":2,"a":3}}',
        b'"\\ud800"',
        b'{"\\ude00":1}',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf1",
        "1".encode("utf-16"),
        b'"a\nb"',
        b"[1] [2]",
        b"{'a':1}",
        b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2),
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda data: repr(data[:24]),
)
def test_hostile_json_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_json(data)


def test_a_document_beyond_the_limit_is_refused_before_it_is_parsed() -> None:
    assert parse_json(b'"abc"', limit=5) == "abc"
    with pytest.raises(Malformed) as refused:
        parse_json(b'"abcd"', limit=5)
    assert refused.value.code == "too-large"
    with pytest.raises(Malformed) as refused:
        parse_json(b"{" * ((1 << 20) + 1))
    assert refused.value.code == "too-large"


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0123456789abcdeE+-.truefalsn ', max_size=40).map(str.encode))
def test_any_bytes_parse_to_a_canonical_value_or_are_malformed(data: bytes) -> None:
    try:
        value = parse_json(data)
    except Malformed:
        return
    assert parse_json(canonical(value)) == value


@given(VALUES)
def test_only_the_one_spelling_is_read_as_canonical(value: Any) -> None:
    data = canonical(value)
    assert parse_canonical(data) == value
    for other in (json.dumps(value).encode(), b" " + data, data + b"\n"):
        if other != data:
            with pytest.raises(Malformed):
                parse_canonical(other)


@pytest.mark.parametrize("data", [b'{"a":1,"a":1}', b"1.0", b"1e0", b"NaN", b"-0", b'"\\u0041"', b"9007199254740992", b'"\xff"', b"[" * 40])
def test_what_would_be_written_otherwise_is_not_canonical(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_canonical(data)


@pytest.mark.parametrize("inner", [b"[]", b"{}", b"0", b'"]"', b'"["', b'{"a":0}'])
def test_nesting_has_one_bound_whatever_is_innermost(inner: bytes) -> None:
    for levels in range(MAX_DEPTH - 2, MAX_DEPTH + 3):
        data = b"[" * levels + inner + b"]" * levels
        value = json.loads(data)
        try:
            expected = canonical(value)
        except Malformed:
            with pytest.raises(Malformed):
                parse_json(data)
            with pytest.raises(Malformed):
                parse_canonical(data)
        else:
            assert expected == data
            assert parse_json(data) == parse_canonical(data) == value


@pytest.mark.parametrize("place", [b"%b", b"[%b]", b"[0,%b]", b'{"a":%b}', b'{"0123456789abcdef0123456789":%b}'])
def test_integers_are_bounded_wherever_they_stand_and_however_many_digits_stand_beside_them(place: bytes) -> None:
    for exact in (0, 9, 10**14, 10**15 - 1, 10**15, MAX_INTEGER - 1, MAX_INTEGER):
        for number in {exact, -exact}:
            assert parse_canonical(place % str(number).encode()) == json.loads(place % str(number).encode())
    for beyond in (MAX_INTEGER + 1, 10**16, 10**40):
        for data in (place % str(beyond).encode(), place % str(-beyond).encode()):
            with pytest.raises(Malformed):
                parse_json(data)

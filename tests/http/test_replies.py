"""Answers are written by the interpreter's JSON encoder; they say what the codec and canonical JSON would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.canonical import MAX_INTEGER, canonical
from policies.codec import encode, omitted
from sandbox.web.answers import reply

TEXT = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xD7FF))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """A record inside a record."""

    name: str
    document: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """A record of records."""

    zeta: tuple[Inner, ...]
    alpha: Inner | None
    count: int
    silent: bool = omitted(False)


INNER = st.builds(Inner, name=TEXT, document=PLAIN)
OUTER = st.builds(
    Outer, zeta=st.lists(INNER, max_size=3).map(tuple), alpha=st.none() | INNER, count=st.integers(0, 9), silent=st.booleans()
)


@given(OUTER | PLAIN)
def test_an_answer_has_the_bytes_of_canonical_json(value: Any) -> None:
    response = reply(value)
    assert response.get_data() == canonical(encode(value))
    assert json.loads(response.get_data()) == encode(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"bytes", {1, 2}])
def test_what_has_no_json_is_not_answered(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        reply({"value": value})

"""The layout of an export's openings, and openings files that are not what they should be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.entries import Opening
from policies.errors import Malformed, Tampered
from sandbox.audit.export import Export, openings_path, parse_openings, render_openings
from sandbox.audit.tiles import entries_path, pack_entries

bodies = st.dictionaries(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8), st.integers(-9, 9), max_size=3)


def _opening(index: int) -> Opening:
    return Opening(index=index, salt="ab" * 32, body={"text": "one\ntwo"})


@given(st.lists(st.integers(0, 2**40), unique=True, max_size=8), bodies)
def test_openings_come_back_as_they_were_written(indices: list[int], body: dict[str, int]) -> None:
    openings = [Opening(index=index, salt="00" * 32, body=body) for index in sorted(indices)]
    assert parse_openings(render_openings(openings)) == openings


def test_one_opening_is_one_line() -> None:
    assert render_openings([_opening(0), _opening(7)]).count(b"\n") == 2


def test_paths_have_six_digits_and_no_sign() -> None:
    assert [openings_path(0), openings_path(1234), openings_path(1_000_000)] == [
        "openings/000000.jsonl", "openings/001234.jsonl", "openings/1000000.jsonl"
    ]  # fmt: skip
    with pytest.raises(Malformed):
        openings_path(-1)


@pytest.mark.parametrize("indices", [(3, 3), (4, 3), (-1,)])
def test_openings_out_of_order_are_refused(indices: tuple[int, ...]) -> None:
    openings = [_opening(index) for index in indices]
    with pytest.raises(Malformed):
        render_openings(openings)
    with pytest.raises(Malformed):
        parse_openings(b"".join(render_openings([o]) if o.index >= 0 else b'{"index":-1,"salt":"","body":{}}\n' for o in openings))


def test_a_malformed_line_is_named() -> None:
    with pytest.raises(Malformed, match="line 2"):
        parse_openings(render_openings([_opening(0)]) + b"[]\n")


def test_an_opening_in_the_wrong_file_is_a_problem_and_not_used() -> None:
    files = {entries_path(0, 2): pack_entries([b"a", b"b"]), openings_path(0): render_openings([_opening(1), _opening(2)])}
    (bundle,) = Export(read=files.__getitem__).bundles(2)
    assert list(bundle.openings) == [1]
    assert "entry 2" in bundle.problem
    with pytest.raises(Malformed):
        list(Export(read=files.__getitem__).entries(2))


def test_a_missing_openings_file_opens_nothing_and_a_missing_bundle_is_named() -> None:
    files = {entries_path(0, 1): pack_entries([b"a"])}
    assert list(Export(read=files.__getitem__).entries(1)) == [(0, b"a", None)]
    with pytest.raises(Tampered, match=r"tile/entries/000\.p/2"):
        list(Export(read=files.__getitem__).bundles(2))

"""What pure functions remember is bounded; what is used again outlives what came once; nothing comes back but what was derived."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.recent import Generations, Recent


@given(asked=st.lists(st.integers(0, 30), max_size=300), most=st.integers(1, 12))
def test_a_table_is_bounded_and_never_gives_another_value(asked: list[int], most: int) -> None:
    known: Generations[int, str] = Generations(most)
    for key in asked:
        found = known.get(key)
        assert found in (None, f"value {key}")
        if found is None:
            known.put(key, f"value {key}")
        assert len(known) <= max(2, most)


def test_what_is_asked_again_outlives_any_number_of_what_comes_once() -> None:
    known: Generations[int, int] = Generations(100)
    known.put(-1, 7)
    for number in range(10_000):
        known.put(number, number)
        if number % 30 == 0:
            assert known.get(-1) == 7
    assert known.get(0) is None


def test_a_result_is_of_the_very_documents_even_where_memory_is_used_again() -> None:
    calls: list[str] = []

    def derive(document: list[str], word: str = "") -> str:
        calls.append(word)
        return document[0] + word

    recent = Recent(derive, most=8)
    for number in range(1000):
        assert recent([str(number)], word="x") == f"{number}x"
    same = ["same"]
    assert {recent(same) for _ in range(5)} == {"same"}
    assert calls.count("") == 1

"""Shapley values of games with known answers, integer shares that lose nothing, and values of features from noised moments."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.errors import Malformed
from policies.shares import MAX_ORGANISATIONS, Moments, leave_one_out, moment_worth, shapley, split

NAMES = ("a", "b", "c", "d", "e", "f", "g", "h")


@given(worth=st.lists(st.integers(-100, 100), min_size=1, max_size=MAX_ORGANISATIONS))
@settings(max_examples=40, deadline=None)
def test_in_an_additive_game_everybody_gets_its_own_worth(worth: list[int]) -> None:
    own = {name: Fraction(value) for name, value in zip(NAMES, worth, strict=False)}
    assert shapley(tuple(own), lambda c: sum((own[n] for n in c), Fraction(0))) == own


@pytest.mark.parametrize(("left", "right"), [(1, 1), (1, 2), (2, 3), (1, 7), (4, 4)])
def test_glove_game(left: int, right: int) -> None:
    """The worth of a coalition is its number of pairs. With one left glove against two right ones: 2/3, 1/6 and 1/6."""
    lefts, rights = NAMES[:left], NAMES[left : left + right]
    found = shapley((*lefts, *rights), lambda c: Fraction(min(len(c & set(lefts)), len(c & set(rights)))))
    assert sum(found.values()) == min(left, right)
    assert len({found[n] for n in lefts}) == len({found[n] for n in rights}) == 1
    if (left, right) == (1, 2):
        assert found == {"a": Fraction(2, 3), "b": Fraction(1, 6), "c": Fraction(1, 6)}
    if (left, right) == (1, 7):
        assert found["a"] == Fraction(7, 8)


@given(costs=st.lists(st.integers(0, 1000), min_size=1, max_size=MAX_ORGANISATIONS))
@settings(max_examples=40, deadline=None)
def test_airport_game(costs: list[int]) -> None:
    """A runway for the largest aircraft: each part is shared by those who need it (Littlechild and Owen 1973)."""
    need = dict(zip(NAMES, costs, strict=False))
    found = shapley(tuple(need), lambda c: Fraction(max((need[n] for n in c), default=0)))
    order = sorted(need, key=lambda name: need[name])
    wanted, before, paid = {}, 0, Fraction(0)
    for place, name in enumerate(order):
        paid += Fraction(need[name] - before, len(order) - place)
        wanted[name], before = paid, need[name]
    assert found == wanted


@given(values=st.lists(st.integers(-50, 50), min_size=15, max_size=15))
@settings(max_examples=40, deadline=None)
def test_values_are_the_mean_over_all_orders_of_joining(values: list[int]) -> None:
    names = NAMES[:4]
    game = {frozenset(c): Fraction(0) for c in [()]}
    coalitions = (frozenset(c) for size in range(1, 5) for c in itertools.combinations(names, size))
    game |= {coalition: Fraction(value) for coalition, value in zip(coalitions, values, strict=True)}
    total = dict.fromkeys(names, Fraction(0))
    for order in itertools.permutations(names):
        for place, name in enumerate(order):
            total[name] += game[frozenset(order[: place + 1])] - game[frozenset(order[:place])]
    assert shapley(names, game.__getitem__) == {name: value / 24 for name, value in total.items()}


def test_too_many_and_repeated_organisations_are_refused() -> None:
    for names in ((), ("a", "a"), tuple("abcdefghi")):
        with pytest.raises(Malformed):
            shapley(names, lambda c: Fraction(0))


@given(
    amount=st.integers(0, 10**15),
    values=st.dictionaries(st.sampled_from(NAMES), st.fractions(min_value=-10, max_value=10), min_size=1),
)
def test_integer_shares_add_up_exactly_and_follow_the_values(amount: int, values: dict[str, Fraction]) -> None:
    shares = split(amount, values)
    assert sum(shares.values()) == amount
    assert all(share >= 0 for share in shares.values())
    positive = {name: max(Fraction(0), value) for name, value in values.items()}
    whole = sum(positive.values(), Fraction(0))
    if whole:
        assert all(abs(shares[name] - amount * positive[name] / whole) < 1 for name in shares)
    assert shares == split(amount, dict(sorted(values.items(), reverse=True)))


def moments_of(rows: list[list[int]], owners: tuple[str, ...], ridge: int = 0, noise: Any = None) -> Moments:
    """Exact moments of rows of (x..., y), in plain arithmetic."""
    wide = [[1, *row] for row in rows]
    width = len(wide[0])
    matrix = [[Fraction(sum(row[i] * row[j] for row in wide)) for j in range(width)] for i in range(width)]
    for i in range(width):
        for j in range(i + 1):
            matrix[i][j] += 0 if noise is None else noise()
            matrix[j][i] = matrix[i][j]
    return Moments(matrix=tuple(map(tuple, matrix)), ridge=Fraction(ridge), owners=owners)


def sample(people: int = 300) -> list[list[int]]:
    draw = random.Random(4)
    rows = [[draw.randint(-50, 50), draw.randint(-50, 50)] for _ in range(people)]
    return [[*row, 3 * row[0] + row[1] + draw.randint(-20, 20)] for row in rows]


def test_the_utility_is_the_r2_of_least_squares() -> None:
    rows = sample()
    both = moment_worth(moments_of(rows, ("a", "b")))(frozenset("ab"))
    slopes = (3, 1)
    mean = sum(row[2] for row in rows) / len(rows)
    spread = sum((row[2] - mean) ** 2 for row in rows)
    error = sum((row[2] - slopes[0] * row[0] - slopes[1] * row[1]) ** 2 for row in rows)
    assert 1 - error / spread <= both <= 1
    assert float(both) == pytest.approx(1 - error / spread, abs=0.005)


def test_duplicates_are_not_paid_twice() -> None:
    """Two organisations with the same column share what one of them would have got; the others keep theirs."""
    rows = sample()
    alone = shapley(("a", "b"), moment_worth(moments_of(rows, ("a", "b"), ridge=1)))
    doubled = shapley(("a", "b", "c"), moment_worth(moments_of([[x, y, x, z] for x, y, z in rows], ("a", "b", "c"), ridge=1)))
    assert doubled["a"] == doubled["c"]
    assert float(doubled["a"] + doubled["c"]) == pytest.approx(float(alone["a"]), abs=0.01)
    assert float(doubled["b"]) == pytest.approx(float(alone["b"]), abs=0.01)
    left = leave_one_out(("a", "b", "c"), moment_worth(moments_of([[x, y, x, z] for x, y, z in rows], ("a", "b", "c"), ridge=1)))
    assert float(left["a"]) == pytest.approx(0, abs=0.001)


def test_noise_alone_is_worth_little_and_an_empty_matrix_nothing() -> None:
    draw = random.Random(9)
    rows = [[x, draw.randint(-50, 50), y] for x, _, y in sample()]
    found = shapley(("a", "b"), moment_worth(moments_of(rows, ("a", "b"), ridge=4000, noise=lambda: draw.randint(-20, 20))))
    assert found["a"] > 20 * abs(found["b"])
    nothing = Moments(matrix=((Fraction(0),) * 3,) * 3, ridge=Fraction(0), owners=("a",))
    assert shapley(("a",), moment_worth(nothing)) == {"a": 0}


def test_moments_that_are_no_moments_are_refused() -> None:
    skew = ((Fraction(1), Fraction(2), Fraction(3)), (Fraction(0), Fraction(1), Fraction(0)), (Fraction(3), Fraction(0), Fraction(1)))
    for matrix, ridge in ((skew, 0), (skew[:2], 0), (((Fraction(1),) * 3,) * 3, -1)):
        with pytest.raises(Malformed):
            Moments(matrix=matrix, ridge=Fraction(ridge), owners=("a",))

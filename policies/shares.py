"""What each organisation contributed to a model: exact Shapley values over coalitions, leave-one-out, and integer shares. Pure.

Utilities are rational numbers or integers that follow from figures which are already released and paid for, so valuing costs no further
privacy loss. `moment_worth` values features on one noised matrix of second moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import TypeAlias

from policies.errors import Malformed

MAX_ORGANISATIONS = 8
"""Most organisations for exact values: 2^8 utilities."""

MAX_LEFT_OUT = 64

Coalition: TypeAlias = frozenset[str]
Utility: TypeAlias = Callable[[Coalition], Fraction]
Matrix: TypeAlias = Sequence[Sequence[Fraction]]


def shapley(organisations: Sequence[str], utility: Utility) -> dict[str, Fraction]:
    """Return the Shapley value of every organisation, exactly: the values add up to utility(all) - utility(none).

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (u(S + i) - u(S)) (Shapley 1953). Each coalition's utility is asked once.

    Raises:
        Malformed: repeated names, none, or more than `MAX_ORGANISATIONS` (code `too-many-organisations`).
    """
    _require_distinct(organisations, MAX_ORGANISATIONS)
    count = len(organisations)
    known = {frozenset(c): Fraction(utility(frozenset(c))) for size in range(count + 1) for c in combinations(organisations, size)}
    whole = math.factorial(count)
    found = {}
    for one in organisations:
        total = Fraction(0)
        for coalition, value in known.items():
            if one not in coalition:
                size = len(coalition)
                total += Fraction(math.factorial(size) * math.factorial(count - size - 1), whole) * (known[coalition | {one}] - value)
        found[one] = total
    return found


def leave_one_out(organisations: Sequence[str], utility: Utility) -> dict[str, Fraction]:
    """Return u(all) - u(all but i) for each: n + 1 utilities. Duplicates of one another are worth nothing: each replaces the other.

    Raises:
        Malformed: repeated names, none, or more than `MAX_LEFT_OUT`.
    """
    _require_distinct(organisations, MAX_LEFT_OUT)
    everyone = frozenset(organisations)
    whole = Fraction(utility(everyone))
    return {one: whole - Fraction(utility(everyone - {one})) for one in organisations}


def split(amount: int, values: Mapping[str, Fraction]) -> dict[str, int]:
    """Return integer shares that add up to `amount` exactly, in proportion to the values, those below zero counted as zero.

    The largest remainders get what rounding down leaves, ties by name (Hamilton's method). Where no value is above zero, all share alike.

    Raises:
        Malformed: a negative amount, or nobody to share.
    """
    if amount < 0 or not values:
        raise Malformed("an amount of at least 0 is shared among at least one", where="amount")
    held = {name: max(Fraction(0), value) for name, value in values.items()}
    if not any(held.values()):
        held = dict.fromkeys(held, Fraction(1))
    whole = sum(held.values(), Fraction(0))
    exact = {name: amount * value / whole for name, value in held.items()}
    found = {name: math.floor(value) for name, value in exact.items()}
    order = sorted(found, key=lambda name: (found[name] - exact[name], name))
    for name in order[: amount - sum(found.values())]:
        found[name] += 1
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """A noised matrix of second moments of (1, x..., y), symmetric, and who brought which coordinate.

    Attributes:
        matrix: entry (i, j) is a sum of z_i z_j.
        ridge: added to the diagonal but for the constant: the size of the noise, so that noise alone explains nothing.
        owners: organisation of each coordinate between the constant and y.
    """

    matrix: tuple[tuple[Fraction, ...], ...]
    ridge: Fraction
    owners: tuple[str, ...]

    def __post_init__(self) -> None:
        width = len(self.owners) + 2
        if len(self.matrix) != width or any(len(row) != width for row in self.matrix) or self.ridge < 0:
            raise Malformed("must be a square matrix over the constant, every coordinate and the label", where="matrix")
        if any(self.matrix[i][j] != self.matrix[j][i] for i in range(width) for j in range(i)):
            raise Malformed("must be symmetric", where="matrix")


def moment_worth(moments: Moments) -> Utility:
    """Return the worth of coalitions by the coordinates that they bring: what ridge regression explains of the label's variation.

    u(S) = b' (A + ridge I)^-1 b / c for the centred moments A, b, c of S's coordinates and the label, within [0, 1]. A coordinate that
    only repeats another's adds next to nothing to those who have it, so duplicates are not paid twice.
    """
    count = moments.matrix[0][0]
    width = len(moments.owners) + 2

    def centred(i: int, j: int) -> Fraction:
        return moments.matrix[i][j] - moments.matrix[0][i] * moments.matrix[0][j] / count

    spread = centred(width - 1, width - 1) if count > 0 else Fraction(0)

    def worth(coalition: Coalition) -> Fraction:
        chosen = [index + 1 for index, owner in enumerate(moments.owners) if owner in coalition]
        if not chosen or spread <= 0:
            return Fraction(0)
        gram = [[centred(i, j) + (moments.ridge if i == j else 0) for j in chosen] for i in chosen]
        target = [centred(i, width - 1) for i in chosen]
        weights = _solved(gram, target)
        if weights is None:
            return Fraction(0)
        explained = sum((w * b for w, b in zip(weights, target, strict=True)), Fraction(0)) / spread
        return min(Fraction(1), max(Fraction(0), explained))

    return worth


def _solved(gram: list[list[Fraction]], target: list[Fraction]) -> list[Fraction] | None:
    """Gaussian elimination, exact; None for a singular matrix."""
    rows = [[*row, value] for row, value in zip(gram, target, strict=True)]
    size = len(rows)
    for at in range(size):
        pivot = max(range(at, size), key=lambda index: abs(rows[index][at]))
        if not rows[pivot][at]:
            return None
        rows[at], rows[pivot] = rows[pivot], rows[at]
        rows[at] = [value / rows[at][at] for value in rows[at]]
        for index in range(size):
            if index != at and rows[index][at]:
                factor = rows[index][at]
                rows[index] = [value - factor * lead for value, lead in zip(rows[index], rows[at], strict=True)]
    return [row[-1] for row in rows]


def _require_distinct(organisations: Sequence[str], most: int) -> None:
    if not organisations or len(set(organisations)) != len(organisations):
        raise Malformed("needs distinct organisations", where="organisations")
    if len(organisations) > most:
        raise Malformed(f"at most {most} organisations", where="organisations", code="too-many-organisations")

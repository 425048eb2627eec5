"""What chance may do to a test's verdict: bounds that a right answer misses less than once in 10^9 runs, by far."""

from __future__ import annotations

from math import comb
from typing import Protocol

WIDE = 9.0
"""Half widths of a 95 % interval: Laplace noise is further off with probability e^-27, normal noise with less."""
NORMAL = 3.6
"""The same for what has normal noise only: seven standard deviations."""
SELDOM = 1e-11


class Shown(Protocol):
    """A figure, a metric or anything else with an interval."""

    @property
    def value(self) -> str | int | float: ...

    @property
    def low(self) -> str | int | float: ...

    @property
    def high(self) -> str | int | float: ...


def near(shown: Shown, truth: float, half_widths: float = WIDE, also: float = 0.0) -> bool:
    """Whether a value is no further from the truth than so many half widths of its interval, and `also`.

    The longer side counts: an interval may be cut off at the bounds of what can be.
    """
    value, low, high = float(shown.value), float(shown.low), float(shown.high)
    return abs(value - truth) <= half_widths * max(high - value, value - low) + also


def least_covered(times: int, coverage: float = 0.94) -> int:
    """How many of so many independent intervals hold the truth but with probability `SELDOM`, if each does with that of `coverage`.

    The law aims at 95 %; what is read off an approximation may have one per cent less.
    """
    below = 0.0
    for covered in range(times + 1):
        below += comb(times, covered) * coverage**covered * (1 - coverage) ** (times - covered)
        if below > SELDOM:
            return covered
    return times

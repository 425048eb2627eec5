"""95 % intervals from noised values and known scales. Post-processing: nothing here reads data.

Counts and sums: the exact quantile of the discrete Laplace distribution. Averages: for a true average a = s/c and noised S = s + X,
C = c + Y, the quantity S - a*C = X - a*Y has a known distribution, so {a : |S - a*C| <= q(a)} covers with exactly 95 % (Fieller 1954).
"""

from __future__ import annotations

import math
from collections.abc import Callable

ALPHA = 0.05
_BISECTIONS = 60
_RELIABLE = 4.0
"""A noised count below this many scales says too little about the denominator; the interval is then all declared values."""


def half_width(scale: float) -> int:
    """Return the smallest t with P(|X| > t) <= 5 % for discrete Laplace X of `scale`.

    With p = exp(-1/scale), P(|X| > t) = 2 p^(t+1) / (1 + p).
    """
    p = math.exp(-1.0 / scale)
    return max(0, math.ceil(scale * math.log(2.0 / (ALPHA * (1.0 + p)))) - 1)


def tail_of_difference(t: float, first: float, second: float) -> float:
    """P(|X - Y| > t) for independent Laplace X and Y with scales `first` and `second`, not both 0."""
    large, small = max(first, second), min(first, second)
    if small <= large * 1e-9:
        return math.exp(-t / large)
    if large - small <= large * 1e-6:
        return (1.0 + t / (2.0 * large)) * math.exp(-t / large)
    return (large**2 * math.exp(-t / large) - small**2 * math.exp(-t / small)) / (large**2 - small**2)


def half_width_of_difference(first: float, second: float) -> float:
    """Return q with P(|X - Y| > q) = 5 % for independent Laplace X and Y."""
    high = 8.0 * (first + second)
    return _bisect(lambda t: tail_of_difference(t, first, second) <= ALPHA, 0.0, high)


def ratio(total: int, count: int, total_scale: float, count_scale: float, lower: int, upper: int) -> tuple[float, float, float]:
    """Return (value, low, high) of an average of values in [lower, upper] from a noised total and a noised count.

    All in the unit of the total; value and interval are cut to [lower, upper], where the true average lies.
    """
    if count < _RELIABLE * count_scale or count <= 0:
        value = min(max(total / count, lower), upper) if count > 0 else (lower + upper) / 2
        return value, float(lower), float(upper)

    def outside(a: float) -> bool:
        # |S - a*C| > q(a), said without looking for the quantile q(a): the tail falls as its argument grows.
        return tail_of_difference(abs(total - a * count), total_scale, abs(a) * count_scale) < ALPHA

    centre = min(max(total / count, lower), upper)
    if outside(centre):
        # The noise went beyond the bounds: the nearest bound, with the width that the noise has there.
        half = half_width_of_difference(total_scale, abs(centre) * count_scale) / count
        return centre, max(lower, centre - half), min(upper, centre + half)
    high = float(upper) if not outside(upper) else _bisect(outside, centre, float(upper))
    low = float(lower) if not outside(lower) else _bisect(outside, centre, float(lower))
    return centre, low, high


def _bisect(reached: Callable[[float], bool], start: float, end: float) -> float:
    """Return the point between `start` (not reached) and `end` (reached) where `reached` turns true."""
    for _ in range(_BISECTIONS):
        middle = (start + end) / 2
        if reached(middle):
            end = middle
        else:
            start = middle
    return end

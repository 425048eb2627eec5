"""95 % intervals from noised values and known noise. Post-processing: nothing here reads data.

Counts and sums: the exact quantile of the noise. Averages: for a true average a = s/c and noised S = s + X, C = c + Y, the quantity
S - a*C = X - a*Y has a known distribution, so {a : |S - a*C| <= q(a)} covers with exactly 95 % (Fieller 1954). Quantiles: the true one
lies in a bin before which at most a fraction p of the rows lies and after which at most 1 - p; bins for which the noised counts rule that
out are left out. Variances, covariances and correlations: the delta method, widened where the function bends (see `smooth`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

ALPHA = 0.05
NORMAL = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""

_BISECTIONS = 60
_RELIABLE = 4.0
"""A noised count below this many scales says too little about the denominator; the interval is then all that is possible."""

_SMOOTH = 10.0
"""The same for variances and the like, in standard deviations: below it the delta method says too little."""

_SUMMED = 50.0
"""Below this sigma the discrete Gaussian distribution is summed; above, it is the normal one rounded to integers, to 10^-1000."""

Triple = tuple[float, float, float]
"""(value, low, high)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """The noise on one number: the scale of a Laplace or the sigma of a Gaussian distribution."""

    mechanism: Literal["laplace", "gaussian"]
    scale: float

    @property
    def deviation(self) -> float:
        """Standard deviation."""
        return self.scale * (math.sqrt(2.0) if self.mechanism == "laplace" else 1.0)

    def times(self, factor: float) -> Noise:
        """The noise on a multiple."""
        return Noise(mechanism=self.mechanism, scale=self.scale * abs(factor))


def half_width(noise: Noise) -> int:
    """Return the smallest t with P(|X| > t) <= 5 % for discrete noise X.

    Laplace: with p = exp(-1/scale), P(|X| > t) = 2 p^(t+1) / (1 + p). Gaussian: P(X = x) is proportional to exp(-x^2 / (2 sigma^2)).
    """
    scale = noise.scale
    if noise.mechanism == "laplace":
        p = math.exp(-1.0 / scale)
        return max(0, math.ceil(scale * math.log(2.0 / (ALPHA * (1.0 + p)))) - 1)
    if scale > _SUMMED:
        return math.ceil(NORMAL * scale - 0.5)
    weights = [math.exp(-(x * x) / (2.0 * scale * scale)) for x in range(math.ceil(10 * scale) + 2)]
    total, inside = 2.0 * sum(weights) - weights[0], weights[0]
    for t, weight in enumerate(weights[1:]):
        if total - inside <= ALPHA * total:
            return t
        inside += 2.0 * weight
    return len(weights)


def tail(t: float, noises: Sequence[Noise]) -> float:
    """P(|X1 + X2 + ...| > t) for independent noises of one mechanism, as continuous distributions, not all of scale 0.

    A sum of Laplace variables of different scales b_i has the tail sum_i w_i exp(-t / b_i), w_i = prod_{j != i} b_i^2 / (b_i^2 - b_j^2)
    (partial fractions of its characteristic function). Scales too close to tell apart in floating point are made a little larger.
    """
    if noises[0].mechanism == "gaussian":
        return math.erfc(t / (math.sqrt(2.0) * math.sqrt(sum(noise.scale**2 for noise in noises))))
    scales = sorted((noise.scale for noise in noises), reverse=True)
    if len(scales) == 2:
        return tail_of_difference(t, scales[0], scales[1])
    apart = _told_apart([scale for scale in scales if scale > scales[0] * 1e-6])
    return sum(
        math.exp(-t / b) * math.prod(b * b / ((b - other) * (b + other)) for j, other in enumerate(apart) if j != i)
        for i, b in enumerate(apart)
    )


def _told_apart(scales: list[float]) -> list[float]:
    """Descending scales, each at least 2 % below the one before; raised where they are not."""
    found: list[float] = []
    for scale in reversed(scales):
        found.append(max(scale, found[-1] * 1.02) if found else scale)
    return found[::-1]


def tail_of_difference(t: float, first: float, second: float) -> float:
    """P(|X - Y| > t) for independent Laplace X and Y with scales `first` and `second`, not both 0."""
    large, small = max(first, second), min(first, second)
    if small <= large * 1e-9:
        return math.exp(-t / large)
    if large - small <= large * 1e-6:
        return (1.0 + t / (2.0 * large)) * math.exp(-t / large)
    return (large**2 * math.exp(-t / large) - small**2 * math.exp(-t / small)) / (large**2 - small**2)


def half_width_of(noises: Sequence[Noise]) -> float:
    """Return q with P(|X1 + X2 + ...| > q) = 5 % for independent noises of one mechanism."""
    if noises[0].mechanism == "gaussian":
        return NORMAL * math.sqrt(sum(noise.scale**2 for noise in noises))
    return _bisect(lambda t: tail(t, noises) <= ALPHA, 0.0, 8.0 * sum(noise.scale for noise in noises), steps=_FINE)


def ratio(total: int, count: int, total_noise: Noise, count_noise: Noise, lower: float, upper: float) -> Triple:
    """Return (value, low, high) of an average of values in [lower, upper] from a noised total and a noised count.

    All in the unit of the total; value and interval are cut to [lower, upper], where the true average lies.
    """
    if count < _RELIABLE * count_noise.scale or count <= 0:
        value = min(max(total / count, lower), upper) if count > 0 else (lower + upper) / 2
        return value, float(lower), float(upper)

    def outside(a: float) -> bool:
        # |S - a*C| > q(a), said without looking for the quantile q(a): the tail falls as its argument grows.
        return tail(abs(total - a * count), (total_noise, count_noise.times(a))) < ALPHA

    centre = min(max(total / count, lower), upper)
    if outside(centre):
        # The noise went beyond the bounds: the nearest bound, with the width that the noise has there.
        half = half_width_of((total_noise, count_noise.times(centre))) / count
        return centre, max(lower, centre - half), min(upper, centre + half)
    # Near the ends of an interval that is not wide, the noise is nearly that at its middle.
    reach = 2.0 * half_width_of((total_noise, count_noise.times(centre))) / count
    return centre, _edge(outside, centre, lower, -reach), _edge(outside, centre, upper, reach)


def _edge(outside: Callable[[float], bool], centre: float, bound: float, reach: float) -> float:
    """Where `outside` turns true between `centre` and `bound`; `bound` if it does not."""
    near = max(bound, centre + reach) if reach < 0 else min(bound, centre + reach)
    if outside(near):
        return _bisect(outside, centre, near, steps=_CLOSE)
    return float(bound) if near == bound or not outside(bound) else _bisect(outside, near, float(bound))


_FINE = 32
_CLOSE = 24
"""Bisections between a value and twice its expected half-width: an error of 10^-7 of it."""


def smooth(
    function: Callable[[Sequence[float]], float | None],
    values: Sequence[int],
    noises: Sequence[Noise],
    count: int,
    lower: float,
    upper: float,
) -> Triple:
    """Return (value, low, high) of a smooth function of noised values, cut to the range [lower, upper] of what is possible.

    The delta method: function(values) moves by sum g_i X_i with slopes g_i taken over one standard deviation; the 95 % quantile q of that
    is known. Where the function bends, the interval reaches to its values at the most likely noise that moves the linear form by q and by
    -q, if that is further. Where the number of rows `values[count]`, or the function near the values, says too little, the interval is
    [lower, upper].

    Args:
        function: None where it has no value.
    """
    centre = function(values)
    if centre is None or values[count] < _SMOOTH * noises[count].deviation:
        value = min(max(centre, lower), upper) if centre is not None else (lower + upper) / 2
        return value, lower, upper
    slopes = []
    for index, noise in enumerate(noises):
        above, below = (function([v + sign * noise.deviation * (i == index) for i, v in enumerate(values)]) for sign in (1, -1))
        if above is None or below is None:
            return min(max(centre, lower), upper), lower, upper
        slopes.append((above - below) / (2.0 * noise.deviation))
    moved = [noise.times(slope) for noise, slope in zip(noises, slopes, strict=True) if slope]
    if not moved:
        return min(max(centre, lower), upper), lower, upper
    half = half_width_of(moved)
    deviation = math.sqrt(sum(noise.deviation**2 for noise in moved))
    shifts = [
        half * slope * (noise.deviation / deviation) * noise.deviation / deviation for noise, slope in zip(noises, slopes, strict=True)
    ]
    # `shifts` move the linear form by `half` with the least noise.
    up, down = (function([v + sign * shift for v, shift in zip(values, shifts, strict=True)]) for sign in (1, -1))
    if up is None or down is None:
        return min(max(centre, lower), upper), lower, upper
    low, high = min(centre - half, up, down), max(centre + half, up, down)
    value = min(max(centre, lower), upper)
    return value, min(max(low, lower), value), max(min(high, upper), value)


def quantile(counts: Sequence[int], noise: Noise, edges: Sequence[int], fraction: float) -> Triple:
    """Return (value, low, high) of the value below which a fraction of all rows lies, from noised counts per bin.

    For edge j, T_j = (rows below) - fraction * (all rows) is estimated from the noised counts with a known variance; its 97.5 % quantile is
    that of the normal distribution, corrected for the noise's fourth moment (Cornish and Fisher 1938). Bin j cannot hold the quantile where
    T_j is above 1 row or T_{j+1} below -1 row; the interval runs from the first to the last bin that is not ruled out. The value is where
    the T_j, made monotone (pool adjacent violators), cross 0, interpolated inside its bin.
    """
    total, below = sum(counts), 0
    balance, reach = [], []
    for index in range(len(counts) + 1):
        balance.append(below - fraction * total)
        reach.append(_reach(index, len(counts), fraction, noise))
        below += counts[index] if index < len(counts) else 0
    open_bins = [
        index for index in range(len(counts)) if balance[index] <= reach[index] + 1 and balance[index + 1] >= -reach[index + 1] - 1
    ]
    first, last = (open_bins[0], open_bins[-1]) if open_bins else (0, len(counts) - 1)
    low, high = float(edges[first]), float(edges[last + 1] - 1)
    if total <= 0:
        return (edges[0] + edges[-1] - 1) / 2, float(edges[0]), float(edges[-1] - 1)
    steady = _monotone(balance)
    index = next((i for i in range(len(counts)) if steady[i + 1] >= 0), len(counts) - 1)
    rise = steady[index + 1] - steady[index]
    share = min(max(-steady[index] / rise, 0.0), 1.0) if rise > 0 else 0.5
    value = edges[index] + share * (edges[index + 1] - 1 - edges[index])
    return min(max(value, low), high), low, high


def _reach(below: int, bins: int, fraction: float, noise: Noise) -> float:
    """97.5 % quantile of the noise in T with `below` of `bins` bins below the edge."""
    weights = ((below, 1.0 - fraction), (bins - below, fraction))
    second, fourth = (sum(n * w**power for n, w in weights) for power in (2, 4))
    if second == 0:
        return 0.0
    # In two steps: the square of a small variance may be too small to be told from 0.
    excess = 3.0 * fourth / second / second if noise.mechanism == "laplace" else 0.0
    return noise.deviation * math.sqrt(second) * (NORMAL + excess * (NORMAL**3 - 3.0 * NORMAL) / 24.0)


def _monotone(values: Sequence[float]) -> list[float]:
    """The closest non-decreasing sequence in least squares."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, size = value, 1
        while blocks and blocks[-1][0] > mean:
            before, width = blocks.pop()
            mean, size = (mean * size + before * width) / (size + width), size + width
        blocks.append((mean, size))
    return [mean for mean, size in blocks for _ in range(size)]


def _bisect(reached: Callable[[float], bool], start: float, end: float, *, steps: int = _BISECTIONS) -> float:
    """Return the point between `start` (not reached) and `end` (reached) where `reached` turns true."""
    for _ in range(steps):
        middle = (start + end) / 2
        if reached(middle):
            end = middle
        else:
            start = middle
    return end

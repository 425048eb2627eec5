"""How accurate an answer will be, before anything is spent. From plan, declarations and noise alone: nothing here reads data.

Counts and sums have the 95 % half-width of their known noise. What is a ratio of noised sums depends on the data; for it, a reference is
assumed and stated: `rows` rows in the cell, with a mean half way between the middle and the upper end of the bounds, a spread as of
evenly spread values, and a correlation of one half; the half-width is that of the function linearised there (the delta method).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import NormalDist

from policies.declaration import Declaration
from policies.errors import Malformed
from policies.expression import Typed, typed
from policies.privacy import MAX_EPSILON, NANO, SCALE_UNIT, Loss
from policies.query import RANKED, AggregateOutput, Plan
from policies.schedule import Statistic, counted_rows, fitted, needs, schedule
from policies.shape import Shape, require_sound

ALPHA = 0.05
DEFAULT_ROWS = 1000
"""Rows of a cell that ratios assume, where nobody says otherwise and the minimum group is not larger."""

_NORMAL = NormalDist().inv_cdf(1 - ALPHA / 2)
_EXACT_SIGMA = 500.0
_BISECTIONS = 60
_RATIO_DIGITS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What the noise of one output will be, in the unit of the output.

    Attributes:
        mechanism, scale: of the noise of the output's own count or sum: discrete Laplace scale or discrete Gaussian sigma.
        half_width: of the 95 % interval, as a decimal string.
        rows: rows in a cell that `half_width` assumes; None where it holds whatever the data are.
    """

    name: str
    mechanism: str
    scale: str
    half_width: str
    rows: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A noised number that an output is computed from: its statistic, and the noise scale in fixed-point units of one row's amounts."""

    statistic: Statistic
    scale: float

    @property
    def deviation(self) -> float:
        return self.scale * (math.sqrt(2) if self.statistic.mechanism == "laplace" else 1.0)


def expected(plan: Plan, declarations: Mapping[str, Declaration], statistics: tuple[Statistic, ...], rows: int) -> tuple[Expected, ...]:
    """Return the expected accuracy of every aggregate of `plan` under a schedule, in the order of the outputs.

    Raises:
        Malformed: an unsound plan, or fewer than 1 row.
    """
    if rows < 1:
        raise Malformed("must be at least 1", where="rows")
    found = require_sound(plan, declarations)
    return tuple(_expected(output, plan, found, statistics, rows) for output in plan.aggregates)


def needed_loss(
    plan: Plan, declarations: Mapping[str, Declaration], asked: Loss, minimum_group: int, rows: int, wanted: Mapping[str, str]
) -> Loss | None:
    """Return the smallest loss, in the measure and with the delta0 of `asked`, whose outputs are as accurate as wanted; None if none is.

    Args:
        wanted: by output, the half-width as a positive decimal string.

    Raises:
        Malformed: an output that the plan does not have, or a half-width that is no positive decimal.
    """
    names = {output.name for output in plan.aggregates}
    limits = {name: _positive(name, text) for name, text in wanted.items()}
    if unknown := sorted(set(limits) - names):
        raise Malformed(f"the query has no aggregate `{unknown[0][:40]}`; it has {', '.join(sorted(names))}", where="half_widths")

    def enough(amount: int) -> bool:
        try:
            statistics = schedule(plan, declarations, replace(asked, amount=amount), minimum_group)
        except Malformed as error:
            if error.code != "loss-too-small":
                raise
            return False
        found = expected(plan, declarations, statistics, rows)
        return all(Fraction(output.half_width) <= limits[output.name] for output in found if output.name in limits)

    low, high = 0, MAX_EPSILON * NANO
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return replace(asked, amount=high)


def laplace_half_width(scale: float) -> int:
    """Return the smallest t with P(|X| > t) <= 5 % for discrete Laplace X: with p = exp(-1/scale), P(|X| > t) = 2 p^(t+1) / (1 + p)."""
    p = math.exp(-1.0 / scale)
    return max(0, math.ceil(scale * math.log(2.0 / (ALPHA * (1.0 + p)))) - 1)


def gaussian_half_width(sigma: float) -> int:
    """Return the smallest t with P(|X| > t) <= 5 % for discrete Gaussian X, P(X = k) proportional to exp(-k^2 / (2 sigma^2)).

    Above sigma 500 the distribution function of the normal distribution is taken at t + 1/2, which differs in no digit that is shown.
    """
    if sigma > _EXACT_SIGMA:
        return max(0, math.ceil(_NORMAL * sigma - 0.5))
    weights = [math.exp(-(k * k) / (2.0 * sigma * sigma)) for k in range(math.ceil(12 * sigma) + 2)]
    total, inside = 2.0 * math.fsum(weights[1:]) + weights[0], weights[0]
    t = 0
    while inside < (1.0 - ALPHA) * total:
        t += 1
        inside += 2.0 * weights[t]
    return t


def _expected(output: AggregateOutput, plan: Plan, found: Shape, statistics: tuple[Statistic, ...], rows: int) -> Expected:
    parts = _parts(output, plan, found, statistics)
    kinds = [typed(argument, found.scope) for argument in output.arguments]
    unit = 1.0 if output.function.startswith("COUNT") else 10.0 ** kinds[0].decimals
    if output.function in RANKED:
        return _of_quantile(output, parts["bins"], kinds[0], unit, rows)
    if output.function.startswith("COUNT"):
        return _said(output, parts["count"], _half(parts["count"]), 1.0, None)
    total = parts["sum"]
    if output.function == "SUM":
        centre = total.statistic.measured.centres[0]
        half = _half(total) if not centre else _half_of_sum(total, _row_count(output, plan, found, statistics), abs(centre))
        return _said(output, total, half, unit, None)
    if output.function == "CORR":
        unit = 1.0
    elif output.function.startswith("COVAR"):
        unit *= 10.0 ** kinds[1].decimals
    elif output.function == "REGR_SLOPE":
        unit /= 10.0 ** kinds[1].decimals
    elif output.function.startswith("VAR"):
        unit *= unit
    return _said(output, total, _half_of_ratio(output, parts, kinds, rows), unit, rows)


def _parts(output: AggregateOutput, plan: Plan, found: Shape, statistics: tuple[Statistic, ...]) -> dict[str, _Part]:
    counted = counted_rows(plan, found)
    by_measured = {replace(statistic.measured, step=1): statistic for statistic in statistics}
    parts = {}
    for name, plain in needs(output, found.scope).items():
        statistic = by_measured[fitted(plain, found, counted)[0]]
        parts[name] = _Part(statistic=statistic, scale=statistic.scale / SCALE_UNIT * statistic.measured.step)
    return parts


def _row_count(output: AggregateOutput, plan: Plan, found: Shape, statistics: tuple[Statistic, ...]) -> _Part:
    """The count of the rows that a centred sum adds up."""
    same = replace(output, function="AVG")
    return _parts(same, plan, found, statistics)["count"]


def _half(part: _Part) -> float:
    step = part.statistic.measured.step
    own = part.scale / step
    return float(step * (laplace_half_width(own) if part.statistic.mechanism == "laplace" else gaussian_half_width(own)))


def _half_of_sum(first: _Part, second: _Part, factor: float) -> float:
    """Half-width of the noise X + factor * Y."""
    if first.statistic.mechanism == "gaussian":
        return _NORMAL * math.hypot(first.scale, factor * second.scale)
    scales = (first.scale, factor * second.scale)
    low, high = 0.0, 8.0 * sum(scales)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if _tail(middle, *scales) <= ALPHA else (middle, high)
    return high


def _tail(t: float, first: float, second: float) -> float:
    """P(|X + Y| > t) for independent Laplace X and Y, by the convolution of their densities."""
    large, small = max(first, second), min(first, second)
    if small <= large * 1e-9:
        return math.exp(-t / large)
    if large - small <= large * 1e-6:
        return (1.0 + t / (2.0 * large)) * math.exp(-t / large)
    return (large**2 * math.exp(-t / large) - small**2 * math.exp(-t / small)) / (large**2 - small**2)


def _half_of_ratio(output: AggregateOutput, parts: dict[str, _Part], kinds: list[Typed], rows: int) -> float:
    reach = [(upper - lower) / 2 or 1.0 for lower, upper in (kind.bounds("an expected accuracy") for kind in kinds)]
    if output.function == "AVG":
        return min(2 * reach[0], _half_of_sum(parts["sum"], parts["count"], reach[0] / 2) / rows)
    at = {"count": float(rows), "sum": rows * reach[0] / 2, "squares": rows * reach[0] ** 2 * (1 / 4 + 1 / 12)}
    if len(reach) > 1:
        at |= {"other": rows * reach[1] / 2, "other_squares": rows * reach[1] ** 2 * (1 / 4 + 1 / 12)}
        at["product"] = rows * reach[0] * reach[1] * (1 / 4 + 1 / 24)
        at["centre"] = sum(kinds[1].bounds("an expected accuracy")) / 2
    squared = 0.0
    for name, part in parts.items():
        small = max(abs(at[name]), 1.0) * 1e-6
        slope = (_value(output, at | {name: at[name] + small}) - _value(output, at | {name: at[name] - small})) / (2 * small)
        squared += (slope * part.deviation) ** 2
    return _NORMAL * math.sqrt(squared)


def _value(output: AggregateOutput, at: Mapping[str, float]) -> float:
    """The value of a ratio from its parts, sums taken around their centres."""
    rows, mean = at["count"], at["sum"] / at["count"]
    divisor = rows - 1.0 if output.function.endswith("_SAMP") and rows > 2 else rows

    def spread(squares: str, average: float) -> float:
        return max(at[squares] / rows - average**2, 1e-12)

    if output.function.startswith(("COVAR", "CORR", "REGR")):
        other = at["other"] / rows
        covariance = at["product"] / rows - mean * other
        if output.function.startswith("REGR"):
            slope = covariance / spread("other_squares", other)
            return slope if output.function == "REGR_SLOPE" else mean - slope * (other + at["centre"])
        if output.function == "CORR":
            return covariance / math.sqrt(spread("squares", mean) * spread("other_squares", other))
        return covariance * rows / divisor
    variance = spread("squares", mean) * rows / divisor
    return math.sqrt(variance) if output.function.startswith("STDDEV") else variance


def _of_quantile(output: AggregateOutput, part: _Part, kind: Typed, unit: float, rows: int) -> Expected:
    """Evenly spread values: noise of a rank is that of a sum over bins on either side, and one bin is the resolution."""
    lower, upper = kind.bounds("an expected accuracy")
    span, bins = upper - lower + 1, part.statistic.measured.bins
    fraction = float(output.fraction) if output.fraction is not None else 0.0
    rank = part.deviation * math.sqrt(max(1.0, bins * fraction * (1 - fraction)))
    half = min(float(span), span / bins + _NORMAL * rank / rows * span)
    return _said(output, part, half, unit, rows)


def _said(output: AggregateOutput, part: _Part, half: float, unit: float, rows: int | None) -> Expected:
    own = 1.0 if output.function.startswith("COUNT") or part.statistic.measured.bins else unit
    return Expected(
        name=output.name,
        mechanism="discrete-" + part.statistic.mechanism,
        scale=_decimal(part.scale / own),
        half_width=_decimal(half / unit),
        rows=rows,
    )


def _decimal(number: float) -> str:
    """A positive number as a plain decimal string, rounded up to `_RATIO_DIGITS` digits after the point."""
    factor: int = 10**_RATIO_DIGITS
    scaled = math.ceil(number * factor - 1e-9 * max(1.0, number * factor) * 1e-3)
    whole, rest = divmod(max(0, scaled), factor)
    return f"{whole}.{rest:0{_RATIO_DIGITS}d}".rstrip("0").rstrip(".")


def _positive(name: str, text: str) -> Fraction:
    try:
        found = Fraction(text) if len(text) <= 40 and text.replace(".", "", 1).isdigit() and text.isascii() else Fraction(0)
    except ValueError:
        found = Fraction(0)
    if found <= 0:
        raise Malformed(f"the half-width of `{name[:40]}` must be a decimal number above 0", where="half_widths")
    return found

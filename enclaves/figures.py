"""Released figures from noised values: what each aggregate is computed from, its interval, and its decimal form. Reads no data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

from enclaves.intervals import Noise, Triple, half_width, half_width_of, quantile, ratio, smooth
from policies.declaration import day_text
from policies.errors import Malformed
from policies.expression import Typed, typed
from policies.privacy import SCALE_UNIT, decimal_to_units, units_to_decimal
from policies.query import FRACTION_DECIMALS, RANKED, AggregateOutput, Plan
from policies.schedule import Measured, Statistic, bin_edges, counted_rows, fitted, needs
from policies.shape import Shape
from policies.statement import Figure

FURTHER_DIGITS = 4
"""Fractional digits of a released average, variance or quantile beyond those of its column."""

CORRELATION_DIGITS = 6
EXTREMES = {"MIN": 0.005, "MAX": 0.995}
"""MIN and MAX are these quantiles, and no quantile lies further out: fewer rows than that are nobody's group."""

Figures = Callable[[int], Figure]
"""The figure of an output in the cell of that index."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One noised vector that a figure is computed from."""

    measured: Measured
    values: Sequence[int]
    noise: Noise

    @property
    def sums(self) -> Noise:
        """The noise in the unit of what is added up."""
        return self.noise.times(self.measured.step)

    def amount(self, cell: int) -> int:
        """The noised value of a cell in that unit."""
        return self.values[cell] * self.measured.step


def figures_of(
    output: AggregateOutput, plan: Plan, found: Shape, statistics: Sequence[Statistic], noised: Mapping[str, Sequence[int]]
) -> Figures:
    """Return how an output is computed from noised vectors. Raises Malformed if a vector that it needs is not among them."""
    counted = counted_rows(plan, found)
    parts: dict[str, Part] = {}
    for role, plain in needs(output, found.scope).items():
        wanted, _ = fitted(plain, found, counted)
        parts[role] = _part(wanted, statistics, noised)
    kinds = [typed(argument, found.scope) for argument in output.arguments]
    if output.function in ("COUNT", "COUNT_UNITS", "COUNT_DISTINCT"):
        count, half = parts["count"], half_width(parts["count"].noise)
        return lambda cell: _whole(output.name, count.values[cell], half, 0)
    if output.function == "SUM":
        return _sum(output.name, parts["sum"], kinds[0], _count_of(parts["sum"], kinds, statistics, noised))
    if output.function == "AVG":
        return _average(output.name, parts, kinds[0])
    if output.function in RANKED:
        return _quantile(output, parts["bins"], kinds[0])
    return _line(output, parts, kinds) if output.function.startswith("REGR") else _moments(output, parts, kinds)


def _part(wanted: Measured, statistics: Sequence[Statistic], noised: Mapping[str, Sequence[int]]) -> Part:
    for statistic in statistics:
        if replace(statistic.measured, step=1) == wanted:
            noise = Noise(mechanism=statistic.mechanism, scale=statistic.scale / SCALE_UNIT)
            return Part(measured=statistic.measured, values=noised[statistic.name], noise=noise)
    raise Malformed("a statistic that an output needs is not in the schedule")


def _count_of(total: Part, kinds: Sequence[Typed], statistics: Sequence[Statistic], noised: Mapping[str, Sequence[int]]) -> Part | None:
    """The count of the rows of a sum that is taken around a centre."""
    if not any(total.measured.centres):
        return None
    present = frozenset(argument for argument, kind in zip(total.measured.arguments, kinds, strict=False) if kind.nullable)
    for statistic in statistics:
        measured = statistic.measured
        if measured.quantity == "rows" and measured.filter == total.measured.filter and frozenset(measured.arguments) == present:
            return _part(measured, statistics, noised)
    raise Malformed("a centred sum is in the schedule without the count of its rows")


def _whole(name: str, value: int, half: int, decimals: int) -> Figure:
    shown, low, high = (units_to_decimal(v, decimals) for v in (value, value - half, value + half))
    return Figure(name=name, value=shown, low=low, high=high)


def _sum(name: str, total: Part, kind: Typed, count: Part | None) -> Figures:
    if count is None:
        half = half_width(total.noise) * total.measured.step
        return lambda cell: _whole(name, total.amount(cell), half, kind.decimals)
    centre = total.measured.centres[0]
    half = math.ceil(half_width_of((total.sums, count.noise.times(centre))))
    return lambda cell: _whole(name, total.amount(cell) + centre * count.values[cell], half, kind.decimals)


def _average(name: str, parts: Mapping[str, Part], kind: Typed) -> Figures:
    total, count, centre = parts["sum"], parts["count"], parts["sum"].measured.centres[0]
    lower, upper = (bound - centre for bound in kind.bounds(name))

    def figure(cell: int) -> Figure:
        found = ratio(total.amount(cell), count.values[cell], total.sums, count.noise, lower, upper)
        return _rounded(name, found, centre, kind.decimals, FURTHER_DIGITS)

    return figure


def _quantile(output: AggregateOutput, bins: Part, kind: Typed) -> Figures:
    edges, width = bin_edges(bins.measured, kind), bins.measured.bins
    if output.fraction is None:
        fraction = EXTREMES[output.function]
    else:
        asked = decimal_to_units(output.fraction, FRACTION_DECIMALS, "fraction") / 10**FRACTION_DECIMALS
        fraction = max(EXTREMES["MIN"], min(EXTREMES["MAX"], asked))
    lower = edges[0]
    # Around the lower bound, so that nothing is lost where the bounds are far from 0.
    near = [edge - lower for edge in edges]

    def figure(cell: int) -> Figure:
        found = quantile(bins.values[cell * width : (cell + 1) * width], bins.noise, near, fraction)
        return (
            _dated(output.name, found, edges) if kind.type == "date" else _rounded(output.name, found, lower, kind.decimals, FURTHER_DIGITS)
        )

    return figure


def _dated(name: str, found: Triple, edges: Sequence[int]) -> Figure:
    """Days after the first edge as ISO 8601 days within the bounds, intervals outwards; the last edge is one above the upper bound."""

    def written(days: int) -> str:
        return str(day_text(max(edges[0], min(edges[-1] - 1, edges[0] + days))))

    value, low, high = found
    return Figure(name=name, value=written(round(value)), low=written(math.floor(low)), high=written(math.ceil(high)))


def _moments(output: AggregateOutput, parts: Mapping[str, Part], kinds: Sequence[Typed]) -> Figures:
    """Variances, covariances and correlations, from moments around the centres of the bounds."""
    vectors = list({id(part.values): part for part in parts.values()}.values())
    place = {role: next(i for i, v in enumerate(vectors) if v.values is part.values) for role, part in parts.items()}
    function, decimals = _function(output.function, place), _decimals(output.function, kinds)
    lower, upper = _possible(output.function, kinds)
    noises = [part.sums for part in vectors]

    def figure(cell: int) -> Figure:
        values = [part.amount(cell) for part in vectors]
        found = smooth(function, values, noises, place["count"], lower, upper)
        if output.function.startswith("STDDEV"):
            found = (math.sqrt(found[0]), math.sqrt(found[1]), math.sqrt(found[2]))
        digits = CORRELATION_DIGITS if output.function == "CORR" else FURTHER_DIGITS
        return _rounded(output.name, found, 0, decimals, digits)

    return figure


def _line(output: AggregateOutput, parts: Mapping[str, Part], kinds: Sequence[Typed]) -> Figures:
    """Slope, in units of y for a whole x, or intercept of the line of least squares through (x, y).

    A slope is a mean of the slopes between two rows each, weighted with the squares of their distance in x. So it is at most the range of
    y for the smallest distance that two values of x can have; where the spread of x is lost in noise, the interval says no more than that.
    """
    vectors = list({id(part.values): part for part in parts.values()}.values())
    place = {role: next(i for i, v in enumerate(vectors) if v.values is part.values) for role, part in parts.items()}
    centre_y, centre_x = (parts[role].measured.centres[0] for role in ("sum", "other"))
    (low_y, high_y), (low_x, high_x) = (kind.bounds(output.name) for kind in kinds)
    per_whole, noises = 10 ** kinds[1].decimals, [part.sums for part in vectors]
    is_slope = output.function == "REGR_SLOPE"
    most = (high_y - low_y) * (per_whole if is_slope else max(abs(low_x), abs(high_x)))
    if not is_slope:
        most += max(abs(low_y), abs(high_y))

    def function(values: Sequence[float]) -> float | None:
        n, y, x, xy, xx = (values[place[role]] for role in ("count", "sum", "other", "product", "other_squares"))
        spread = xx - x * x / n if n > 1 else 0.0
        if spread <= 0:
            return None
        slope = (xy - x * y / n) / spread
        return slope * per_whole if is_slope else y / n + centre_y - slope * (x / n + centre_x)

    def figure(cell: int) -> Figure:
        values = [part.amount(cell) for part in vectors]
        value, low, high = smooth(function, values, noises, place["count"], -float(most), float(most))
        if not _spread_is_seen(values, noises, place):
            low, high = -float(most), float(most)
        return _rounded(output.name, (value, low, high), 0, kinds[0].decimals, CORRELATION_DIGITS)

    return figure


def _spread_is_seen(values: Sequence[int], noises: Sequence[Noise], place: Mapping[str, int]) -> bool:
    """Whether the noised sum of squared distances from the mean of x is ten deviations of its noise, by the delta method, or more."""
    n, x, xx = (values[place[role]] for role in ("count", "other", "other_squares"))
    if n <= 1:
        return False
    mean = x / n
    slopes = {"count": mean * mean, "other": 2.0 * mean, "other_squares": 1.0}
    deviation = math.sqrt(sum((slope * noises[place[role]].deviation) ** 2 for role, slope in slopes.items()))
    return xx - x * mean >= 10.0 * deviation


def _function(name: str, place: Mapping[str, int]) -> Callable[[Sequence[float]], float | None]:
    sample = name.endswith("SAMP")

    def moment(values: Sequence[float], product: str, first: str, second: str) -> float:
        n = values[place["count"]]
        return values[place[product]] / n - values[place[first]] / n * (values[place[second]] / n)

    def variance(values: Sequence[float]) -> float | None:
        n = values[place["count"]]
        product, second = ("squares", "sum") if "product" not in place else ("product", "other")
        return moment(values, product, "sum", second) * (n / (n - 1) if sample else 1.0) if n > 1 else None

    def correlation(values: Sequence[float]) -> float | None:
        if values[place["count"]] <= 1:
            return None
        first, second = moment(values, "squares", "sum", "sum"), moment(values, "other_squares", "other", "other")
        return moment(values, "product", "sum", "other") / math.sqrt(first * second) if first > 0 and second > 0 else None

    return correlation if name == "CORR" else variance


def _possible(name: str, kinds: Sequence[Typed]) -> tuple[float, float]:
    """What values within bounds can have (Popoviciu 1935; of a sample, twice that at most, with two values)."""
    if name == "CORR":
        return -1.0, 1.0
    widths = [upper - lower for lower, upper in (kind.bounds(name) for kind in kinds)]
    most = widths[0] * widths[-1] / (2.0 if name.endswith("SAMP") else 4.0)
    return (-most if name.startswith("COVAR") else 0.0), most


def _decimals(name: str, kinds: Sequence[Typed]) -> int:
    """Fractional digits of the unit in which a figure is computed."""
    if name == "CORR":
        return 0
    return kinds[0].decimals if name.startswith("STDDEV") else kinds[0].decimals + kinds[-1].decimals


def _rounded(name: str, found: Triple, centre: int, decimals: int, digits: int) -> Figure:
    """Numbers around `centre` in units of 10^-decimals as decimal strings with `digits` further digits, intervals outwards."""
    value, low, high = found
    return Figure(
        name=name,
        value=_written(value, centre, decimals, digits, ROUND_HALF_EVEN),
        low=_written(low, centre, decimals, digits, ROUND_FLOOR),
        high=_written(high, centre, decimals, digits, ROUND_CEILING),
    )


def _written(units: float, centre: int, decimals: int, digits: int, rounding: str) -> str:
    scaled = int((Decimal(units) * 10**digits).to_integral_value(rounding=rounding))
    return units_to_decimal(scaled + centre * 10**digits, decimals + digits)

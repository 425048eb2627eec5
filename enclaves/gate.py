"""The one exit. Exact vectors go in; what comes out is noised, suppressed below the minimum group, of padded size and sealed.

Value, absence and size of what leaves depend on the data only through noised, charged values: cells are the declared domain, a cell is
suppressed on its noised count of distinct units, and the sealed release has one of few sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

from enclaves.aggregate import Exact
from enclaves.dp import add_noise
from enclaves.intervals import half_width, ratio
from policies.canonical import canonical
from policies.codec import encode
from policies.declaration import Declaration
from policies.grant import Grant, grant_digest
from policies.privacy import SCALE_UNIT, units_to_decimal
from policies.query import AggregateOutput, KeyOutput, needs, resolve
from policies.statement import Cell, Figure, Release

PADDING = 4096
AVERAGE_DIGITS = 4
"""Fractional digits of a released average beyond those of its column."""


def pass_gate(exact: Exact, grant: Grant, declarations: Mapping[str, Declaration]) -> Release:
    """Return the release of exact vectors under a grant.

    Raises:
        LossExceeded: a mechanism would cost more than its statistic is granted.
    """
    noised = {statistic.name: add_noise(exact.vectors[statistic.name], statistic) for statistic in grant.statistics}
    scales = {statistic.name: statistic.scale / SCALE_UNIT for statistic in grant.statistics}
    cells = []
    for index, key in enumerate(exact.keys):
        suppressed = grant.minimum_group > 1 and noised["units"][index] < grant.minimum_group
        values = {name: vector[index] for name, vector in noised.items()}
        figures = () if suppressed else _figures(values, scales, grant, declarations)
        cells.append(Cell(keys=_labels(key, grant), suppressed=suppressed, figures=figures))
    return Release(
        grant=grant_digest(grant),
        enclave_kind=grant.enclave_kind,
        key_names=tuple(output.name for output in grant.plan.outputs if isinstance(output, KeyOutput)),
        cells=tuple(cells),
        minimum_group=grant.minimum_group,
        statistics=grant.statistics,
        loss=grant.loss,
    )


def pad(release: Release) -> bytes:
    """Return the release as 4-byte big-endian length, canonical JSON and zeros up to a multiple of `PADDING` bytes."""
    data = canonical(encode(release))
    framed = len(data).to_bytes(4, "big") + data
    return framed + bytes(-len(framed) % PADDING)


def _labels(key: tuple[str | int, ...], grant: Grant) -> tuple[str | int, ...]:
    """Key values in the order in which the query selects them."""
    positions = {reference: index for index, reference in enumerate(grant.plan.group_by)}
    return tuple(key[positions[output.column]] for output in grant.plan.outputs if isinstance(output, KeyOutput))


def _figures(values: dict[str, int], scales: dict[str, float], grant: Grant, declarations: Mapping[str, Declaration]) -> tuple[Figure, ...]:
    return tuple(
        _figure(output, values, scales, dict(declarations)) for output in grant.plan.outputs if isinstance(output, AggregateOutput)
    )


def _figure(output: AggregateOutput, values: dict[str, int], scales: dict[str, float], declarations: dict[str, Declaration]) -> Figure:
    names = [f"{quantity}:{column}" if column else quantity for quantity, column in needs(output, declarations)]
    decimals = 0 if output.column is None or output.function == "COUNT" else resolve(output.column, declarations).decimals
    if output.function in ("COUNT", "SUM"):
        value, half = values[names[0]], half_width(scales[names[0]])
        low, high = value - half, value + half
        return Figure(
            name=output.name,
            value=units_to_decimal(value, decimals),
            low=units_to_decimal(low, decimals),
            high=units_to_decimal(high, decimals),
        )
    assert output.column is not None
    lower, upper = resolve(output.column, declarations).bounds
    total, count = names
    average, below, above = ratio(values[total], values[count], scales[total], scales[count], lower, upper)
    return Figure(
        name=output.name,
        value=_rounded(average, decimals, ROUND_HALF_EVEN),
        low=_rounded(below, decimals, ROUND_FLOOR),
        high=_rounded(above, decimals, ROUND_CEILING),
    )


def _rounded(units: float, decimals: int, rounding: str) -> str:
    """A number of 10^-decimals units as a decimal string with `AVERAGE_DIGITS` further digits, intervals outwards."""
    assert math.isfinite(units)
    scaled = (Decimal(units) * 10**AVERAGE_DIGITS).to_integral_value(rounding=rounding)
    return units_to_decimal(int(scaled), decimals + AVERAGE_DIGITS)

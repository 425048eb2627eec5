"""Privacy loss as fixed-point integers, and the schedule that turns a plan and a loss into mechanisms.

Measure `pure`: amounts are epsilon in units of 10^-9 (nano-epsilon), they add up by basic composition (Dwork and Roth 2014, theorem
3.16), and every mechanism is the discrete Laplace mechanism with scale = sensitivity / epsilon (Ghosh et al. 2009; Canonne, Kamath and
Steinke 2020). Neighbouring tables differ in all rows of one privacy unit, present or absent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from policies.canonical import MAX_INTEGER
from policies.errors import Malformed

NANO = 10**9
"""Loss amounts per epsilon 1."""

SCALE_UNIT = 2**20
"""A scale is an integer count of 2^-20, so that every scale is an exact binary floating-point number."""

MAX_EPSILON = 100

_DECIMAL = re.compile(r"(-?)([0-9]{1,19})(?:\.([0-9]{1,19}))?\Z")

SUM_SHARES = 2
"""Shares of a sum where a count has one: relative to its size a sum of bounded values is noisier than a count."""

UNITS_SHARE = 10
"""The minimum-group test takes one part in ten of a job's loss: it only needs to tell large groups from small ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """What a release costs: `amount` in nano-epsilon (measure `pure`) and `delta0` in units of 10^-12; both rounded up, both add."""

    measure: Literal["pure"] = "pure"
    amount: int
    delta0: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= MAX_EPSILON * NANO:
            raise Malformed(f"epsilon must lie between 0 and {MAX_EPSILON}", where="amount")
        if self.delta0 != 0:
            raise Malformed("a pure loss has delta0 = 0", where="delta0")

    def __add__(self, other: Loss) -> Loss:
        return Loss(amount=self.amount + other.amount, delta0=self.delta0 + other.delta0)

    @property
    def epsilon(self) -> str:
        """Epsilon as an exact decimal string."""
        return units_to_decimal(self.amount, 9)


def parse_epsilon(text: str, where: str = "epsilon") -> Loss:
    """Return the loss for an epsilon written as a decimal string, rounded up to a nano-epsilon.

    Raises:
        Malformed: not a plain decimal number, not above zero, or above `MAX_EPSILON`.
    """
    digits, places = _plain_decimal(text, where)
    if not 0 < digits <= MAX_EPSILON * 10**places:
        raise Malformed(f"epsilon must be a decimal number above 0 and at most {MAX_EPSILON}", where=where)
    return Loss(amount=-(-digits * NANO // 10**places))


def decimal_to_units(text: str, decimals: int, where: str) -> int:
    """Return an exact decimal string as an integer count of 10^-decimals.

    Raises:
        Malformed: not a plain decimal, more significant fractional digits than `decimals`, or beyond +-(2^53 - 1) units.
    """
    digits, places = _plain_decimal(text, where)
    units: int = digits * 10**decimals // 10**places
    if units * 10**places != digits * 10**decimals:
        raise Malformed(f"`{text}` is not a decimal number with at most {decimals} fractional digits", where=where)
    if abs(units) > MAX_INTEGER:
        raise Malformed(f"`{text}` is too large for {decimals} fractional digits", where=where)
    return units


def _plain_decimal(text: str, where: str) -> tuple[int, int]:
    """Return (n, places) with `text` = n / 10^places: ASCII digits, no exponent, no spaces, so that it reads the same everywhere."""
    match = _DECIMAL.match(text)
    if match is None:
        shown = "".join(c if c.isprintable() else "?" for c in text[:40])
        raise Malformed(f"`{shown}` is not a plain decimal number like 0.5", where=where)
    sign, whole, fraction = match.group(1), match.group(2), match.group(3) or ""
    return int(sign + whole + fraction), len(fraction)


def units_to_decimal(units: int, decimals: int) -> str:
    """Return `units` counts of 10^-decimals as a plain decimal string without trailing zeros."""
    sign, whole = ("-" if units < 0 else ""), abs(units)
    text = f"{whole // 10**decimals}.{whole % 10**decimals:0{decimals}d}" if decimals else str(whole)
    return sign + (text.rstrip("0").rstrip(".") if decimals else text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistic:
    """One noised vector with a cell per group.

    Attributes:
        quantity: `units` (distinct privacy units), `rows` (rows), `present` (rows where `column` is not null), `sum` (of `column`, in
            its fixed-point units).
        column: `dataset.column` for `present` and `sum`, else None.
        sensitivity: most by which one privacy unit moves the vector in L1.
        amount: nano-epsilon spent on it.
        scale: of the discrete Laplace noise, in units of 2^-20.
    """

    quantity: Literal["units", "rows", "present", "sum"]
    column: str | None = None
    sensitivity: int
    amount: int
    scale: int

    @property
    def name(self) -> str:
        """Stable name inside one schedule, for example ``sum:clinic.care.visits``."""
        return self.quantity if self.column is None else f"{self.quantity}:{self.column}"


def scale_for(sensitivity: int, amount: int) -> int:
    """Return the smallest scale (2^-20 units) whose loss sensitivity/scale, one part in 2^50 larger, is still below `amount` nano-epsilon.

    The room is for a mechanism that rounds its own loss up in floating point, by at most one part in 2^52.
    """
    if sensitivity <= 0 or amount <= 0:
        raise Malformed("the loss is too small to be split over this many statistics", code="loss-too-small")
    return sensitivity * NANO * SCALE_UNIT * (2**50 + 1) // (amount * 2**50) + 1


def split_loss(loss: Loss, wanted: list[tuple[str, str | None, int]], *, with_units: int | None) -> tuple[Statistic, ...]:
    """Split a loss over statistics.

    Args:
        loss: the whole loss of the job.
        wanted: (quantity, column, L1 sensitivity) for every statistic that the outputs need.
        with_units: L1 sensitivity of the distinct-unit count for the minimum-group test, or None when no test is needed.

    Returns:
        the schedule; its amounts add up to at most `loss.amount`.

    Raises:
        Malformed: code `loss-too-small` if a share would be zero.
    """
    rest = loss.amount
    schedule: list[Statistic] = []
    if with_units is not None:
        share = loss.amount // UNITS_SHARE
        rest -= share
        schedule.append(_statistic("units", None, with_units, share))
    shares = [SUM_SHARES if quantity == "sum" else 1 for quantity, _, _ in wanted]
    for (quantity, column, sensitivity), part in zip(wanted, shares, strict=True):
        schedule.append(_statistic(quantity, column, sensitivity, rest * part // sum(shares)))
    return tuple(schedule)


def _statistic(quantity: str, column: str | None, sensitivity: int, amount: int) -> Statistic:
    return Statistic(
        quantity=quantity,  # type: ignore[arg-type]
        column=column,
        sensitivity=sensitivity,
        amount=amount,
        scale=scale_for(sensitivity, amount),
    )

"""Privacy loss as fixed-point integers, and the scale of noise that a loss buys.

Measure `pure`: amounts are epsilon, they add up by basic composition (Dwork and Roth 2014, theorem 3.16), and every mechanism is the
discrete Laplace mechanism with scale = L1 sensitivity / epsilon (Ghosh et al. 2009). Measure `zcdp`: amounts are rho, they add up (Bun and
Steinke 2016, lemma 1.7), and every mechanism is the discrete Gaussian mechanism with sigma = L2 sensitivity / sqrt(2 rho) (Canonne, Kamath
and Steinke 2020, theorem 14). Neighbouring tables differ in all rows of one privacy unit, present or absent. Discovering group keys costs
delta0 besides: the probabilities of failure add, too.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from policies.canonical import MAX_INTEGER
from policies.errors import Malformed

NANO = 10**9
"""Loss amounts per epsilon 1."""

SCALE_UNIT = 2**20
"""A scale is an integer count of 2^-20, so that every scale is an exact binary floating-point number."""

MAX_EPSILON = 100

_DECIMAL = re.compile(r"(-?)([0-9]{1,19})(?:\.([0-9]{1,19}))?\Z")

Measure = Literal["pure", "zcdp"]

PICO = 10**12
"""Units of delta0 per probability 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """What a release costs, rounded up; both parts add within one measure.

    Attributes:
        amount: in units of 10^-9: epsilon (`pure`) or rho (`zcdp`).
        delta0: in units of 10^-12: the probability that discovering group keys fails to protect somebody.
    """

    measure: Measure = "pure"
    amount: int
    delta0: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= MAX_EPSILON * NANO:
            raise Malformed(f"{PARAMETERS[self.measure]} must lie between 0 and {MAX_EPSILON}", where="amount")
        if not 0 <= self.delta0 < PICO:
            raise Malformed("must lie between 0 and 1", where="delta0")

    def __add__(self, other: Loss) -> Loss:
        if self.measure != other.measure:
            raise Malformed(f"a loss in {other.measure} does not add to one in {self.measure}", where="measure")
        return Loss(measure=self.measure, amount=self.amount + other.amount, delta0=self.delta0 + other.delta0)

    def within(self, most: Loss) -> bool:
        """Whether both parts are at most those of `most`, in the same measure."""
        return self.measure == most.measure and self.amount <= most.amount and self.delta0 <= most.delta0

    @property
    def epsilon(self) -> str:
        """The amount (epsilon or rho) as an exact decimal string."""
        return units_to_decimal(self.amount, 9)

    @property
    def text(self) -> str:
        """The loss in words, for example ``epsilon 0.5`` or ``rho 0.02, delta0 0.000001``."""
        return _loss_text(self.measure, self.amount, self.delta0)


@lru_cache(maxsize=4096)
def _loss_text(measure: Measure, amount: int, delta0: int) -> str:
    tail = f", delta0 {units_to_decimal(delta0, 12)}" if delta0 else ""
    return f"{PARAMETERS[measure]} {units_to_decimal(amount, 9)}{tail}"


LARGEST = Loss(amount=MAX_EPSILON * NANO, delta0=PICO - 1)
"""The largest loss that can be written, in `pure`; what a ledger ever pays is no larger."""

PARAMETERS: dict[Measure, str] = {"pure": "epsilon", "zcdp": "rho"}
"""What the amount of each measure is called."""


def parse_loss(measure: Measure, amount: str, delta0: str = "0", where: str = "loss") -> Loss:
    """Return a loss from decimal strings, each rounded up to its unit.

    Raises:
        Malformed: not plain decimal numbers, an amount not above zero or above `MAX_EPSILON`, a delta0 outside [0, 1).
    """
    digits, places = _plain_decimal(amount, where)
    if not 0 < digits <= MAX_EPSILON * 10**places:
        raise Malformed(f"{PARAMETERS[measure]} must be a decimal number above 0 and at most {MAX_EPSILON}", where=where)
    failing, of = _plain_decimal(delta0, where)
    rounded = -(-failing * PICO // 10**of)
    if failing < 0 or rounded >= PICO:
        raise Malformed("delta0 must lie between 0 and 1", where=where)
    return Loss(measure=measure, amount=-(-digits * NANO // 10**places), delta0=rounded)


def parse_epsilon(text: str, where: str = "epsilon") -> Loss:
    """Return the loss for an epsilon written as a decimal string, rounded up to a nano-epsilon.

    Raises:
        Malformed: not a plain decimal number, not above zero, or above `MAX_EPSILON`.
    """
    return parse_loss("pure", text, where=where)


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
    if not decimals:
        return str(units)
    digits = str(abs(units)).zfill(decimals + 1)
    shown = f"{digits[:-decimals]}.{digits[-decimals:]}".rstrip("0").rstrip(".")
    return "-" + shown if units < 0 else shown


def scale_for(sensitivity: int, amount: int) -> int:
    """Return the smallest scale (2^-20 units) whose loss sensitivity/scale, one part in 2^50 larger, is still below `amount` nano-epsilon.

    The room is for a mechanism that rounds its own loss up in floating point, by at most one part in 2^52.
    """
    if sensitivity <= 0 or amount <= 0:
        raise Malformed("the loss is too small to be split over this many statistics", code="loss-too-small")
    return sensitivity * NANO * SCALE_UNIT * (2**50 + 1) // (amount * 2**50) + 1


def sigma_for(squared: int, amount: int) -> int:
    """Return a discrete Gaussian sigma (2^-20 units) whose loss is below `amount` nano-rho, with room for rounding as in `scale_for`.

    Args:
        squared: the square of the L2 sensitivity. The loss is squared / (2 sigma^2).
    """
    if squared <= 0 or amount <= 0:
        raise Malformed("the loss is too small to be split over this many statistics", code="loss-too-small")
    return math.isqrt(squared * NANO * SCALE_UNIT**2 * (2**48 + 1) // (2 * amount * 2**48)) + 1

"""A zCDP loss as the (epsilon, delta) that people know, for display. Pure; nothing is decided by it."""

from __future__ import annotations

import math
from decimal import Decimal

from policies.errors import Malformed
from policies.privacy import NANO, PICO, Loss, units_to_decimal

DISPLAY_DELTA = 1_000_000
"""10^-6 in units of 10^-12: the delta at which ledgers are shown."""

_STEPS = 200
_DIGITS = 6


def approximate_delta(rho: float, epsilon: float) -> float:
    """Return a delta for which rho-zCDP implies (epsilon, delta)-differential privacy.

    The infimum over alpha > 1 of exp((alpha - 1)(alpha rho - epsilon)) / (alpha - 1) (1 - 1/alpha)^alpha (Canonne, Kamath and Steinke
    2020, corollary 13), sought where its logarithm has slope 0; any alpha gives a true bound.
    """
    if rho == 0.0:
        return 0.0
    low, high = 1.0, (epsilon + 1.0) / (2.0 * rho) + 2.0
    for _ in range(_STEPS):
        alpha = (low + high) / 2
        slope = (2.0 * alpha - 1.0) * rho - epsilon + math.log1p(-1.0 / alpha)
        low, high = (alpha, high) if slope < 0.0 else (low, alpha)
    alpha = max(high, 1.0 + 1e-9)
    return min(1.0, math.exp((alpha - 1.0) * (alpha * rho - epsilon) + alpha * math.log1p(-1.0 / alpha)) / (alpha - 1.0))


def epsilon_at(spent: Loss, delta: int = DISPLAY_DELTA) -> str:
    """Return the epsilon for which `spent` is (epsilon, delta)-differentially private, as a decimal string, rounded up.

    What discovering keys has cost, delta0, comes off delta first; a pure loss is its own epsilon.

    Args:
        delta: in units of 10^-12.

    Raises:
        Malformed: code `delta-spent`, if delta0 has used up delta.
    """
    rest = delta - spent.delta0
    if spent.measure == "pure" and rest >= 0:
        return spent.epsilon
    if rest <= 0:
        raise Malformed(f"delta0 has used up delta {units_to_decimal(delta, 12)}", code="delta-spent")
    if not spent.amount:
        return "0"
    rho, wanted = spent.amount / NANO, rest / PICO
    low, high = 0.0, rho + 2.0 * math.sqrt(rho * math.log(1.0 / wanted))  # Bun and Steinke 2016, proposition 1.3
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if approximate_delta(rho, middle) <= wanted else (middle, high)
    return units_to_decimal(int((Decimal(high) * 10**_DIGITS).to_integral_value(rounding="ROUND_CEILING")), _DIGITS)

"""The noise: OpenDP's discrete Laplace mechanism on 64-bit integers. Noise is drawn here and nowhere else; nothing else knows OpenDP.

Sampling is exact (Canonne, Kamath and Steinke 2020) from the operating system's cryptographic randomness; no floating-point noise, no seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import opendp.prelude as dp

from policies.privacy import NANO, SCALE_UNIT, Statistic

dp.enable_features("contrib")

_DOMAIN = dp.vector_domain(dp.atom_domain(T="i64"))
_METRIC = dp.l1_distance(T="i64")


class LossExceeded(Exception):
    """The mechanism's own privacy map says that it costs more than the grant allows."""


def add_noise(values: Sequence[int], statistic: Statistic) -> list[int]:
    """Return `values` (one exact integer per cell, |v| <= 2^62) with independent discrete Laplace noise of the statistic's scale.

    Raises:
        LossExceeded: if OpenDP's map at the statistic's L1 sensitivity is above the granted amount; nothing is drawn then.
    """
    mechanism = (_DOMAIN, _METRIC) >> dp.m.then_laplace(scale=statistic.scale / SCALE_UNIT)
    if Fraction(mechanism.map(statistic.sensitivity)) > Fraction(statistic.amount, NANO):
        raise LossExceeded(statistic.name)
    return [int(value) for value in mechanism(np.asarray(values, dtype=np.int64))]

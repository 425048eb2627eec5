"""The noise: OpenDP's discrete Laplace and discrete Gaussian mechanisms on 64-bit integers. Noise is drawn here and nowhere else; nothing
else knows OpenDP.

Sampling is exact (Canonne, Kamath and Steinke 2020) from the operating system's cryptographic randomness; no floating-point noise, no seed.
Before anything is drawn, OpenDP's own privacy map says what the mechanism costs at the statistic's sensitivity.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import opendp.prelude as dp

from policies.privacy import NANO, PICO, SCALE_UNIT
from policies.schedule import Statistic

dp.enable_features("contrib")

_DOMAIN = dp.vector_domain(dp.atom_domain(T="i64"))
_COUNTS = dp.map_domain(dp.atom_domain(T="i64"), dp.atom_domain(T="i64"))

CHUNK = 10_000
"""Values that one call draws noise for. More of them are drawn on all cores: OpenDP works outside the interpreter's lock."""

MAX_THREADS = 8


class LossExceeded(Exception):
    """The mechanism's own privacy map says that it costs more than the grant allows."""


def add_noise(values: Sequence[int], statistic: Statistic) -> list[int]:
    """Return `values` (exact integers, |v| <= 2^62) with independent noise of the statistic's mechanism and scale.

    Raises:
        LossExceeded: if OpenDP's map at the statistic's sensitivity is above the granted amount; nothing is drawn then.
    """
    mechanism = _mechanism(statistic)
    if Fraction(mechanism.map(_distance(statistic))) > Fraction(statistic.amount, NANO):
        raise LossExceeded(statistic.name)
    return _drawn(mechanism, np.asarray(values, dtype=np.int64))


def _drawn(mechanism: Any, exact: Any) -> list[int]:
    # More threads than cores take longer in all.
    cores = min(MAX_THREADS, len(os.sched_getaffinity(0)))
    if len(exact) <= CHUNK or cores == 1:
        drawn: list[int] = mechanism(exact) if len(exact) else []
        return drawn
    with ThreadPoolExecutor(cores) as pool:
        parts = pool.map(mechanism, [exact[start : start + CHUNK] for start in range(0, len(exact), CHUNK)])
        return list(itertools.chain.from_iterable(parts))


def draw_share(count: int, scale: int) -> list[int]:
    """Return one contributor's share of distributed noise: discrete Gaussians of sigma `scale`, in units of 2^-20.

    What all shares together cost is `policies.joint.distributed_loss`; OpenDP knows of no sum of shares, so its map has no say here.
    """
    mechanism = (_DOMAIN, dp.l2_distance(T="f64")) >> dp.m.then_gaussian(scale=scale / SCALE_UNIT)
    return _drawn(mechanism, np.zeros(count, dtype=np.int64))


def discover(units: Sequence[int], statistic: Statistic, delta0: int) -> list[int | None]:
    """Return the noised number of units of every key that the data hold, None where it stays below the statistic's threshold.

    It is what OpenDP's mechanisms with a threshold do to a map from keys to counts; the map of those has the last word. One vector keeps
    the order of keys, which is not that of a hash table.

    Args:
        units: of every key, at least 1.
        delta0: granted probability, in units of 10^-12, that a key which one unit alone holds passes.

    Raises:
        LossExceeded: if the threshold mechanism would cost more than the granted amount or delta0.
    """
    if statistic.threshold is None:
        raise LossExceeded(statistic.name)
    scale = statistic.scale / SCALE_UNIT
    # One unit adds 1 to each of at most `cells` counts, which is the sensitivity of `units` in L1 and its square in L2.
    cells = statistic.sensitivity
    # OpenDP's delta is the probability of more than its threshold; here the threshold itself is enough.
    above = statistic.threshold - 1
    if statistic.mechanism == "gaussian":
        metric = dp.l02inf_distance(dp.absolute_distance(T="f64"))
        spent, failed = ((_COUNTS, metric) >> dp.m.then_gaussian_threshold(scale=scale, threshold=above)).map(
            (cells, _distance(statistic), 1.0)
        )
    else:
        metric = dp.l01inf_distance(dp.absolute_distance(T="i64"))
        spent, failed = ((_COUNTS, metric) >> dp.m.then_laplace_threshold(scale=scale, threshold=above)).map((cells, cells, 1))
    if Fraction(spent) > Fraction(statistic.amount, NANO) or Fraction(failed) > Fraction(delta0, PICO):
        raise LossExceeded(statistic.name)
    return [noised if noised >= statistic.threshold else None for noised in add_noise(units, statistic)]


def _mechanism(statistic: Statistic) -> Any:
    scale = statistic.scale / SCALE_UNIT
    if statistic.mechanism == "gaussian":
        return (_DOMAIN, dp.l2_distance(T="f64")) >> dp.m.then_gaussian(scale=scale)
    return (_DOMAIN, dp.l1_distance(T="i64")) >> dp.m.then_laplace(scale=scale)


def _distance(statistic: Statistic) -> int | float:
    """The L1 sensitivity, or the L2 sensitivity rounded up to a floating-point number."""
    if statistic.mechanism == "laplace":
        return statistic.sensitivity
    root = math.sqrt(statistic.sensitivity)
    while Fraction(root) ** 2 < statistic.sensitivity:
        root = math.nextafter(root, math.inf)
    return root

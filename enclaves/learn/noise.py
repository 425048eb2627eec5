"""What learners see of the data: exact sums with the noise that the schedule pays for. Nothing else leaves a learner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from enclaves.dp import LossExceeded, add_noise
from enclaves.learn.rows import Array
from policies.privacy import SCALE_UNIT
from policies.schedule import Statistic

LARGEST = 2**62
"""Exact values are cut here before noise, as `enclaves.aggregate` does."""


@dataclass(slots=True)
class Purse:
    """The statistics of a grant, each good for its number of draws."""

    statistics: Mapping[str, Statistic]
    _drawn: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, statistics: Sequence[Statistic]) -> Purse:
        """A purse with the statistics of a schedule that training draws, by quantity."""
        return cls(statistics={statistic.measured.quantity: statistic for statistic in statistics})

    def draw(self, quantity: str, exact: Array) -> Array:
        """Return an exact vector with noise, as float64 of the same shape. Raises LossExceeded when the draws are used up."""
        statistic = self.statistics.get(quantity)
        if statistic is None or self._drawn[quantity] >= statistic.draws:
            raise LossExceeded(quantity)
        self._drawn[quantity] += 1
        once = replace(statistic, amount=statistic.amount // statistic.draws, draws=1)
        held = np.clip(exact.ravel(), -LARGEST, LARGEST)
        return np.array(add_noise(held.tolist(), once), dtype=np.float64).reshape(exact.shape)

    def sigma(self, quantity: str) -> float:
        """Standard deviation of the noise of one draw, in the vector's fixed point."""
        return self.statistics[quantity].scale / SCALE_UNIT

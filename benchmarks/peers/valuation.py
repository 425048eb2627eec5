"""pyDVL's Shapley values of games given as tables: a JSON file with `players`, `worths` by bit mask, and `permutations` to sample.

Printed are the values from sampled permutations with their standard errors, and those from all subsets.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from pydvl.valuation import Dataset, MinUpdates, NoStopping, PermutationSampler, ShapleyValuation
from pydvl.valuation.samplers import DeterministicUniformSampler
from pydvl.valuation.utility.base import UtilityBase

warnings.filterwarnings("ignore")


class Table(UtilityBase):  # type: ignore[misc, type-arg]
    """The worth of a coalition as the table has it."""

    def __init__(self, worths: list[float]) -> None:
        self.worths = worths

    def __call__(self, sample: Any) -> float:
        """Worth of a sample's players; None are none."""
        return float(self.worths[0 if sample is None else sum(1 << int(player) for player in sample.subset)])


def valued(game: dict[str, Any]) -> dict[str, Any]:
    """Values of one game."""
    count = int(game["players"])
    data = Dataset(np.arange(count).reshape(-1, 1), np.zeros(count))
    sampled = ShapleyValuation(Table(game["worths"]), PermutationSampler(seed=7), MinUpdates(int(game["permutations"])), progress=False)
    found = sampled.fit(data).result.sort(key="index")
    sampler = DeterministicUniformSampler()
    every = ShapleyValuation(Table(game["worths"]), sampler, NoStopping(sampler), progress=False).fit(data).result.sort(key="index")
    return {"sampled": found.values.tolist(), "errors": found.stderr.tolist(), "exact": every.values.tolist()}


if __name__ == "__main__":
    print(json.dumps({"games": [valued(game) for game in json.loads(Path(sys.argv[1]).read_text())]}))

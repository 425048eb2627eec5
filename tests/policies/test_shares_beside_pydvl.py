"""Our exact values beside pyDVL's: sampled ones agree within their standard error, those from all subsets to the last digits.

pyDVL lives in an environment of its own: `python -c "from benchmarks.peers.environments import install; print(install('valuation'))"`.
"""

from __future__ import annotations

import json
import random
from fractions import Fraction
from pathlib import Path

import pytest

from benchmarks.peers.environments import interpreter, measure
from policies.shares import shapley

PERMUTATIONS = 2_000
SIGMAS = 5
"""Standard errors that a sampled value may be off; for 20 values one in about 90,000 test runs would be by chance."""

FEW = 3


def games() -> list[tuple[int, list[int]]]:
    """Worths by bit mask: gloves, an airport, a majority, and monotone games drawn at random."""
    draw = random.Random(17)
    gloves = [min(mask & 1, bin(mask >> 1).count("1")) for mask in range(8)]
    airport = [max((cost for bit, cost in enumerate((3, 5, 9, 14)) if mask >> bit & 1), default=0) for mask in range(16)]
    majority = [int(bin(mask).count("1") > FEW) for mask in range(64)]
    found = [(3, gloves), (4, airport), (6, majority)]
    for players in (2, 5):
        worths = [0] * 2**players
        for mask in range(1, 2**players):
            below = max(worths[mask & ~(1 << bit)] for bit in range(players) if mask >> bit & 1)
            worths[mask] = below + draw.randint(0, 20)
        found.append((players, worths))
    return found


@pytest.mark.skipif(not interpreter("valuation").exists(), reason="install pyDVL: benchmarks.peers.environments.install('valuation')")
def test_values_agree_with_pydvl(tmp_path: Path) -> None:
    asked = [{"players": players, "worths": worths, "permutations": PERMUTATIONS} for players, worths in games()]
    file = tmp_path / "games.json"
    file.write_text(json.dumps(asked))
    answered = measure("valuation", file)
    assert "failed" not in answered, answered
    for (players, worths), theirs in zip(games(), answered["games"], strict=True):
        names = tuple(map(str, range(players)))

        def worth(coalition: frozenset[str], table: list[int] = worths) -> Fraction:
            return Fraction(table[sum(1 << int(name) for name in coalition)])

        own = shapley(names, worth)
        for name, sampled, error, every in zip(names, theirs["sampled"], theirs["errors"], theirs["exact"], strict=True):
            assert every == pytest.approx(float(own[name]), abs=1e-9)
            assert abs(sampled - float(own[name])) <= SIGMAS * error + 1e-9

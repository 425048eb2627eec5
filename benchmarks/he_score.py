"""Scores of encrypted rows by a linear or logistic model beside TenSEAL's own vectors doing the same sums.

Times are processor times of this process, whatever else the machine does; rounds alternate and the smallest counts. `us_per_row` is what
the model's owner spends on a whole request: checking the client's bytes, weighted sums, bias, spread, masking and flood.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from enclaves.kit import he_score
from policies.scorer import FINE, Scorer
from policies.training import UNIT, Encoded

BOUND = ("sha256:" + "ab" * 32, "benchmark-0001")


def core_seconds(act: Callable[[], Any]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    act()
    return time.process_time() - began


def tenseal_score(rows: he_score.Reals, weights: Sequence[float]) -> Callable[[], object]:
    """The same sum with TenSEAL's CKKS vectors (8192, [60, 40, 60], 2^40), column-packed, from serialised bytes to serialised bytes.

    It neither masks nor floods: the client could compute the weights from its answer.
    """
    import tenseal

    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60], n_threads=1)
    context.global_scale = 2.0**40
    blocks = range(0, len(rows), 4096)
    sent = [[tenseal.ckks_vector(context, column.tolist()).serialize() for column in rows[first : first + 4096].T] for first in blocks]

    def act() -> list[bytes]:
        found = []
        for block in sent:
            total = tenseal.ckks_vector_from(context, block[0]) * weights[0]
            for data, weight in zip(block[1:], weights[1:], strict=True):
                total += tenseal.ckks_vector_from(context, data) * weight
            found.append(total.serialize())
        return found

    return act


def main() -> None:
    """Print one line per part and one JSON object at the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--features", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    asked = parser.parse_args()
    rows, features, rounds = (500, 8, 1) if asked.quick else (asked.rows, asked.features, asked.rounds)
    draw = np.random.default_rng(1)
    coordinates = np.round(draw.uniform(-1, 1, (rows, features)) * UNIT) / UNIT
    weights = [int(value) for value in draw.integers(-(2**13), 2**13, features + 1)]
    names = tuple(Encoded(column=f"c{index}", encoding="scaled", lower=0, upper=10) for index in range(features))
    scorer = Scorer(dataset="owner.model", features=names, link="logistic", outputs=1, rows=rows, step="0.01")
    key, half = he_score.generate_key(*BOUND)
    public, data = he_score.public_key(half, *BOUND), bytearray(half)
    encrypt = core_seconds(lambda: data.extend(he_score.encrypt_rows(public, coordinates)))
    sent, answers, peer = bytes(data), [], tenseal_score(coordinates, [value / 2**FINE for value in weights[1:]])
    own_s, peer_s = [], []
    for _ in range(rounds):
        own_s.append(core_seconds(lambda: answers.append(he_score.score(scorer, [weights], sent, rows, *BOUND))))
        peer_s.append(core_seconds(peer))
    opened = he_score.open_scores(key, answers[-1], rows, 1)[:, 0]
    exact = coordinates @ np.array(weights[1:]) / 2**FINE + weights[0] / 2**FINE
    assert np.abs(opened - exact).max() < 0.0051, "scores are the model's, within half a step"
    own = min(own_s) / rows
    figures = {
        "us_per_row": round(own * 1e6, 2),
        "ratio_to_tenseal": round(min(peer_s) / rows / own, 2),
        "encrypt_us_per_row": round(encrypt / rows * 1e6, 1),
        "bytes_per_row": round(len(sent) / rows),
    }
    print(f"{rows} rows x {features} features", figures)
    print(json.dumps({**figures, "rows": rows, "features": features}))


if __name__ == "__main__":
    main()

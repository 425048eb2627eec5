"""How well private models do on the RAND Health Insurance Experiment: `python -m benchmarks.train_quality [--quick] [--figure FILE]`.

Two questions over both firms' columns: whether a person-year has an admission (area under the ROC curve) and log(1 + medical spending)
(R2). People are split, 70 % train and 30 % test; every figure is the median over the splits. The guarantee is (epsilon, 10^-6) for all
rows of a person. scikit-learn without privacy and diffprivlib at the same guarantee run in an environment of their own
(`python -m benchmarks.train_quality --install` builds it); without it their figures are null. Boosted trees and logistic regression are
compared besides, at the same loss, on a generated task that no line can learn.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._generated import compared
from benchmarks._rand_hie import ADMITTED, ROWS, SPEND, median, paid, planned, rows_of_question
from benchmarks.peers.environments import install, measure
from enclaves.learn.fit import fit, predict
from enclaves.learn.noise import Purse
from enclaves.learn.rows import Rows
from policies.query import Plan
from policies.task import Task
from policies.training import UNIT, Linear, Logistic, Trees

EPSILON = 3.0
CURVE = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0)
LEARNERS = {
    "auc": (ADMITTED, Logistic(steps=5, clip="2")),
    "r2": (SPEND, Linear(clip="10")),
    "auc_trees": (ADMITTED, Trees(rounds=10, depth=2, bins=8, clip="1")),
    "r2_trees": (SPEND, Trees(rounds=10, depth=2, bins=8, clip="2")),
}


def rank(scores: Any, positive: Any) -> float:
    """Area under the ROC curve, ties counted half."""
    values, codes = np.unique(scores, return_inverse=True)
    up, down = (np.bincount(codes[chosen], minlength=len(values)) for chosen in (positive, ~positive))
    return float(up @ (np.cumsum(down) - down / 2) / (up.sum() * down.sum()))


def explained(predicted: Any, actual: Any) -> float:
    """R2."""
    return float(1 - ((predicted - actual) ** 2).sum() / ((actual - actual.mean()) ** 2).sum())


def splits(rows: Rows, runs: int) -> list[Any]:
    """Per run, whether each row belongs to a held-out person."""
    chance = np.random.default_rng(20)
    return [(chance.random(len(rows.starts)) < 0.3)[rows.persons] for _ in range(runs)]


def ours(name: str, plan: Plan, task: Task, rows: Rows, held: Sequence[Any], epsilon: float) -> list[float]:
    """The metric of our learner on every split."""
    found = []
    for test in held:
        model = fit(rows.only(~test), task, Purse.of(paid(plan, epsilon)))
        asked = rows.only(test)
        scores = predict(model, asked.z)
        found.append(rank(scores, asked.y == 1) if name.startswith("auc") else explained(scores, asked.y / UNIT))
    return found


def peers(admitted: Rows, spend: Rows, held: Sequence[Any]) -> dict[str, Any]:
    """The peers' metrics on the same rows and splits; empty where their environment is not installed."""
    x = admitted.z[:, 1:] / UNIT
    columns = {f"x{index}": column for index, column in enumerate(x.T)} | {f"s{index}": test for index, test in enumerate(held)}
    norm = float(np.sqrt((x**2).sum(axis=1).max()))
    table = pa.table({**columns, "admitted": admitted.y.astype(np.int64), "spend": spend.y / UNIT})
    table = table.replace_schema_metadata({"epsilon": str(EPSILON), "rows": str(ROWS), "norm": str(norm)})
    with tempfile.TemporaryDirectory(prefix="train-") as folder:
        pq.write_table(table, path := Path(folder) / "rows.parquet")
        return measure("learners", path)


def figure(curves: dict[str, list[float]], plain: dict[str, float | None]) -> str:
    """The utility curves as an SVG picture."""
    left, top, width, height = 60, 20, 420, 240
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 200} {height + 70}" font-family="sans-serif" font-size="12">']
    place = {e: left + width * index / (len(CURVE) - 1) for index, e in enumerate(CURVE)}

    def at(value: float) -> float:
        return top + height * (1 - max(0.0, min(1.0, (value - 0.3) / 0.5)))

    for value in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        lines.append(f'<path d="M{left} {at(value)}H{left + width}" stroke="#ddd"/><text x="25" y="{at(value) + 4}">{value}</text>')
    lines += [f'<text x="{x - 8:.0f}" y="{top + height + 18}">{e:g}</text>' for e, x in place.items()]
    lines.append(f'<text x="{left + width / 2 - 90}" y="{top + height + 40}">epsilon at delta 10^-6, all rows of a person</text>')
    for colour, (name, values) in zip(("#06c", "#c30", "#093", "#939"), curves.items(), strict=True):
        path = " ".join(f"{x:.1f},{at(y):.1f}" for x, y in zip(place.values(), values, strict=True))
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="{left + width + 8}" y="{at(values[-1]) + 4:.1f}" fill="{colour}">{name}</text>')
        if plain.get(name) is not None:
            lines.append(f'<path d="M{left} {at(plain[name] or 0):.1f}H{left + width}" stroke="{colour}" stroke-dasharray="4"/>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> None:
    """Measure, and print one JSON object last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two splits, no curve")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--generated", type=int, default=1_000_000, help="rows of a task that no line can learn")
    parser.add_argument("--install", action="store_true", help="build the peers' environment first")
    parser.add_argument("--figure", type=Path, help="also draw the utility curves into this SVG file")
    arguments = parser.parse_args()
    if arguments.install and (failed := install("learners")):
        parser.error(failed)
    runs = 2 if arguments.quick else arguments.runs
    found: dict[str, Any] = {"runs": runs, "epsilon": EPSILON, "load": round(os.getloadavg()[0], 1)}
    asked = {name: planned(*question) for name, question in LEARNERS.items()}
    rows = {name: rows_of_question(*asked[name]) for name in ("auc", "r2")}
    held = splits(rows["auc"], runs)
    for name, (plan, task) in asked.items():
        found[name] = round(median(ours(name, plan, task, rows[name.removesuffix("_trees")], held, EPSILON)), 4)
        print(f"{name}: {found[name]}", flush=True)
    generated = min(arguments.generated, 20_000) if arguments.quick else arguments.generated
    found |= {"generated_rows": generated, **compared(generated, EPSILON, min(runs, 3), rank)}
    beside = peers(rows["auc"], rows["r2"], held)
    for name, key in (("auc_nonprivate", "auc"), ("r2_nonprivate", "r2"), ("auc_diffprivlib",) * 2, ("r2_diffprivlib",) * 2):
        found[name] = round(median(beside[key]), 4) if key in beside else None
    if arguments.figure is not None:
        curves = {}
        for name, (plan, task) in asked.items():
            read = rows[name.removesuffix("_trees")]
            curves[name] = [median(ours(name, plan, task, read, held, epsilon)) for epsilon in CURVE]
        found["curves"] = {"epsilon": list(CURVE), **{name: [round(value, 4) for value in values] for name, values in curves.items()}}
        arguments.figure.write_text(figure(curves, {"auc": found["auc_nonprivate"], "r2": found["r2_nonprivate"]}), encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""A generated task that no line can learn: what counts is whether two of six numbers lie near their middle, not how large they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks._rand_hie import loss_of, median
from enclaves.learn.fit import fit, predict
from enclaves.learn.noise import Purse
from enclaves.learn.rows import Array, Rows, grouped
from policies.declaration import Column, Declaration
from policies.plan import parse_plan
from policies.query import Plan
from policies.schedule import schedule, task_of
from policies.shape import shape
from policies.task import Task
from policies.training import UNIT, Input, Learner, Logistic, Training, Trees

NAMES = ("a", "b", "c", "d", "e", "f")
LEARNERS: dict[str, Learner] = {
    "auc_trees_generated": Trees(rounds=8, depth=2, bins=8, clip="1"),
    "auc_logistic_generated": Logistic(steps=5),
}

DECLARATION = Declaration(
    dataset="maker.rows",
    title="Generated rows",
    unit="id",
    id_space="generated",
    rows_per_unit=1,
    unique_key=("id",),
    columns=(
        Column(name="id", type="integer"),
        *(Column(name=name, type="integer", lower="-1024", upper="1024") for name in NAMES),
        Column(name="y", type="integer", domain=(0, 1)),
    ),
)


def rows_of_task(count: int, seed: int) -> Rows:
    """One encoded row for each of so many persons."""
    draw = np.random.default_rng(seed)
    x = draw.integers(-UNIT, UNIT + 1, (count, len(NAMES)), dtype=np.int16)
    near = (np.abs(x[:, 0]) < UNIT // 2).astype(float) + (np.abs(x[:, 1]) < UNIT // 2)
    y = draw.random(count) < 1.0 / (1.0 + np.exp(-3.0 * (near - 1.0)))
    return grouped(np.column_stack([np.full(count, UNIT, np.int16), x]), y.astype(np.int16), np.arange(count))


def planned(learner: Learner) -> tuple[Plan, Task]:
    """The plan and task of a learner."""
    known = {DECLARATION.dataset: DECLARATION}
    features = tuple(Input(column=name, encoding="scaled", centre="0") for name in NAMES)
    training = Training(learner=learner, features=features, label=Input(column="y", encoding="categories"))
    plan = parse_plan(f"SELECT {', '.join(NAMES)}, y FROM maker.rows", known, training)
    return plan, task_of(plan, shape(plan.source, known))


def compared(count: int, epsilon: float, runs: int, rank: Callable[[Array, Array], float]) -> dict[str, float]:
    """Median areas under the ROC curve of both learners at the same loss, on as many rows again."""
    train, test = rows_of_task(count, 1), rows_of_task(min(count, 100_000), 2)
    found: dict[str, float] = {}
    for name, learner in LEARNERS.items():
        plan, task = planned(learner)
        statistics = schedule(plan, {DECLARATION.dataset: DECLARATION}, loss_of(epsilon), 1)
        scores: list[Array] = [predict(fit(train, task, Purse.of(statistics)), test.z) for _ in range(runs)]
        found[name] = round(median([rank(score, test.y == 1) for score in scores]), 4)
    return found

"""From encoded rows to a model of integers and its metrics. Only noised sums pass from rows to either."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from enclaves.learn.linear import fit_linear, fit_logistic, probabilities
from enclaves.learn.means import fit_means, nearest
from enclaves.learn.metrics import class_metrics, distance_metrics, number_metrics
from enclaves.learn.noise import Purse
from enclaves.learn.rows import Array, Rows
from enclaves.learn.trees import fit_trees, tree_outputs
from policies.model import MAX_WEIGHT, WEIGHT_BITS, Link, Metric, Model, Tree
from policies.schedule import Statistic
from policies.task import Task
from policies.training import UNIT, Linear, Logistic, Means


def train(
    rows: Rows, held: Array, task: Task, statistics: Sequence[Statistic], tested: Rows | None = None, fewest: int = 1
) -> tuple[Model, tuple[Metric, ...]]:
    """Return the model of the rows of persons who are not held out, and its metrics on those who are, or on other rows.

    Args:
        held: (rows,): whether the row's person is held out; the same for all rows of one person.
        tested: encoded rows of other tables, of whose persons there are metrics where their noised number is not below `fewest`.

    Raises:
        LossExceeded: a learner draws more than the statistics pay for.
    """
    purse = Purse.of(statistics)
    model = fit(rows.only(~held), task, purse)
    if tested is not None:
        return model, measure(model, tested, task, purse, fewest)
    return model, measure(model, rows.only(held), task, purse) if task.held_out else ()


def fit(rows: Rows, task: Task, purse: Purse) -> Model:
    """Return the model that a task's learner makes of rows."""
    learner, weights = task.learner, np.zeros((0, 0))
    trees: tuple[Tree, ...] = ()
    if isinstance(learner, Linear):
        weights = fit_linear(rows, task, purse).weights
    elif isinstance(learner, Logistic):
        weights = fit_logistic(rows, task, purse).weights
    elif isinstance(learner, Means):
        weights = fit_means(rows, task, purse).T
    else:
        trees = fit_trees(rows, task, purse)
    return model_of_weights(task, weights, trees)


def model_of_weights(task: Task, weights: Array, trees: tuple[Tree, ...] = ()) -> Model:
    """Return a task's model with weights, (width, outputs), as integers."""
    whole = np.clip(np.rint(np.nan_to_num(weights) * 2.0**WEIGHT_BITS), -MAX_WEIGHT, MAX_WEIGHT).astype(np.int64)
    return Model(
        link=_link(task),
        features=task.features,
        label=task.label,
        weights=tuple(tuple(int(value) for value in row) for row in whole.T),
        trees=trees,
    )


def _link(task: Task) -> Link:
    if isinstance(task.learner, Means):
        return "nearest"
    return "softmax" if task.classes > 2 else "logistic" if task.classes else "identity"


def outputs_of(model: Model, z: Array) -> Array:
    """Return what a model computes of encoded rows before its link, (rows, outputs). Not of `nearest`."""
    if model.trees:
        return np.asarray(sum(tree_outputs(z, tree) for tree in model.trees))[:, None]
    return np.asarray((z.astype(np.float64) / UNIT) @ _weights(model))


def predict(model: Model, z: Array) -> Array:
    """Return predictions of encoded rows.

    Numbers in the label's scale, (rows,); chances of the second of two classes, (rows,), or of each of several, (rows, classes); of
    k-means the index of the nearest centre, (rows,).
    """
    if model.link == "nearest":
        return nearest(z, _weights(model).T)
    outputs = outputs_of(model, z)
    if model.link == "identity":
        return outputs[:, 0]
    if model.link == "softmax":
        return probabilities(z, _weights(model))
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(outputs[:, 0], -60, 60))))


def measure(model: Model, rows: Rows, task: Task, purse: Purse, fewest: int = 0) -> tuple[Metric, ...]:
    """Return a model's metrics on rows that it was not trained on: none where the noised counts are of fewer than `fewest` persons."""
    if model.link == "nearest":
        centres = _weights(model).T
        x = rows.z[:, 1:] / UNIT
        return distance_metrics(((x - centres[nearest(rows.z, centres)]) ** 2).sum(axis=1), rows, task, purse)
    if model.link == "identity":
        return number_metrics(outputs_of(model, rows.z)[:, 0], rows, task, purse, fewest)
    if model.link == "softmax":
        return class_metrics(predict(model, rows.z), rows, task, purse, 0.0, fewest)
    middle = float(outputs_of(model, _constant(model))[0, 0])
    return class_metrics(outputs_of(model, rows.z)[:, 0], rows, task, purse, middle, fewest)


def _weights(model: Model) -> Array:
    return np.array(model.weights, np.float64).T / 2.0**WEIGHT_BITS


def _constant(model: Model) -> Array:
    """The encoded row at the centre of all bounds."""
    return np.array([[UNIT] + [0] * (model.width - 1)], np.int16)

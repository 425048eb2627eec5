"""Metrics of a model on held-out persons, from noised counts in which every person weighs the same, however many rows it has.

Everything after the noise is computing with public numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from enclaves.learn.moments import Z_95
from enclaves.learn.noise import Purse
from enclaves.learn.rows import Array, Rows, factors
from policies.model import Metric
from policies.task import Task
from policies.training import SCORE_BINS, UNIT

REACH = 4.0
"""Scores are binned over so many units of log-odds to each side of the model's constant."""

RANGES = {"auc": (0.0, 1.0), "accuracy": (0.0, 1.0), "r2": (-1.0, 1.0), "rmse": (0.0, 2.0), "distance": (0.0, 4.0)}

DIGITS = 4


def class_metrics(scores: Array, rows: Rows, task: Task, purse: Purse, middle: float, fewest: int = 0) -> tuple[Metric, ...]:
    """Return metrics of a classifier: none of fewer than `fewest` persons, nor, of a test's rows, of classes that noise may have made.

    Args:
        scores: of two classes the log-odds of the second, (rows,); else probabilities, (rows, classes).
        middle: log-odds around which scores are binned: public, from the model alone.
    """
    if task.classes > 2:
        counts = np.zeros((task.classes, task.classes), np.int64)
        np.add.at(counts, (rows.y, scores.argmax(axis=1)), _weights(rows))
        noised = purse.draw("scores", counts)
        return (_figure("accuracy", accuracy, noised, purse.sigma("scores"), task),) if not fewest or noised.sum() >= fewest * UNIT else ()
    bins = np.clip((scores - middle + REACH) * SCORE_BINS / (2 * REACH), 0, SCORE_BINS - 1).astype(np.int64)
    counts = np.zeros((2, SCORE_BINS), np.int64)
    np.add.at(counts, (rows.y, bins), _weights(rows))
    noised, sigma = purse.draw("scores", counts), purse.sigma("scores")
    # A class that is not there has a count of noise alone, and any area: of a test, that is no answer.
    apart = noised.sum(axis=1).min() > Z_95 * sigma * math.sqrt(SCORE_BINS)
    told = not fewest or (noised.sum() >= fewest * UNIT and apart)
    return (_figure("auc", auc, noised, sigma, task),) if told else ()


def number_metrics(predicted: Array, rows: Rows, task: Task, purse: Purse, fewest: int = 0) -> tuple[Metric, ...]:
    """Return metrics of predictions of the scaled label, both in real numbers: none of fewer than `fewest` persons."""
    actual = rows.y / UNIT
    error = np.clip(predicted - actual, -2.0, 2.0)
    terms = np.column_stack([np.ones_like(actual), actual, actual**2, error**2 / 4])
    exact = _added(terms, rows)
    noised, sigma = purse.draw("errors", exact), purse.sigma("errors")
    spread = noised[2] - noised[1] ** 2 / max(noised[0], UNIT)
    if fewest and (noised[0] < fewest * UNIT or spread <= Z_95 * sigma * math.sqrt(6)):
        return ()  # too few persons, or labels that noise alone may tell apart: the coefficient would have any value
    return (_figure("r2", r2, noised, sigma, task), _figure("rmse", mean_square, noised, sigma, task, root))


def distance_metrics(squared: Array, rows: Rows, task: Task, purse: Purse) -> tuple[Metric, ...]:
    """Return the mean squared distance to the nearest centre, per coordinate."""
    share = np.clip(squared / (4 * (task.width - 1)), 0.0, 1.0)
    terms = np.column_stack([np.ones_like(share), np.zeros_like(share), np.zeros_like(share), share])
    exact = _added(terms, rows)
    noised = purse.draw("errors", exact)
    return (_figure("distance", lambda v: 4.0 * v[3] / max(v[0], UNIT), noised, purse.sigma("errors"), task),)


def _weights(rows: Rows) -> Array:
    """Weight of every row, in 2^-10: those of one person add up to 1 at most."""
    return factors(rows, np.full(len(rows), UNIT, np.int64), UNIT)


def _added(terms: Array, rows: Rows) -> Array:
    """Sum of weighted terms within [-1, 1], in 2^-10. Rounding towards zero lets nobody count for more."""
    return np.asarray(np.trunc(terms * _weights(rows)[:, None]).astype(np.int64).sum(axis=0))


def auc(counts: Array) -> float:
    """Area under the ROC curve of binned scores, (2, bins), the classes in order; rows of one bin count half."""
    negative, positive = counts.reshape(2, -1)
    below = np.cumsum(negative) - negative / 2
    return float((positive @ below) / max(1.0, positive.sum()) / max(1.0, negative.sum()))


def accuracy(counts: Array) -> float:
    """Part of the rows on the diagonal of a confusion matrix."""
    return float(np.trace(counts) / max(1.0, counts.sum()))


def r2(sums: Array) -> float:
    """Coefficient of determination from sums of (1, y, y^2, e^2 / 4)."""
    count, first, second, error = sums
    spread = second - first**2 / max(count, UNIT)
    return float(1.0 - 4.0 * error / max(spread, float(UNIT)))


def mean_square(sums: Array) -> float:
    """Mean squared error, in the squared scale of the label, where 1 is the reach of its bounds."""
    return float(4.0 * sums[3] / max(sums[0], UNIT))


def root(square: float) -> float:
    """Square root; 0 of what noise brought below 0."""
    return math.sqrt(max(0.0, square))


def _figure(
    name: str,
    formula: Callable[[Array], float],
    noised: Array,
    sigma: float,
    task: Task,
    scale: Callable[[float], float] = float,
) -> Metric:
    """A formula of noised numbers with the 95 % interval that their noise gives it, by its slopes at the noised point.

    Formulas are not cut to their range, where slopes would vanish; what is shown is.

    Args:
        scale: ascending; value and interval are shown by it. A root has no slope at 0, and its interval is that of the square.
    """
    value, flat = formula(noised), noised.ravel()
    slopes = []
    for index in range(len(flat)):
        moved = flat.copy()
        moved[index] += sigma
        slopes.append(formula(moved.reshape(noised.shape)) - value)
    return shown(name, value, Z_95 * float(np.sqrt(np.sum(np.square(slopes)))), scale)


def shown(name: str, value: float, half: float, scale: Callable[[float], float] = float) -> Metric:
    """Return a metric with its interval, both cut to the metric's range.

    Args:
        scale: ascending; value and interval are shown by it.
    """
    least, most = RANGES[name]
    texts = (f"{min(most, max(least, number)):.{DIGITS}f}" for number in map(scale, (value, value - half, value + half)))
    return Metric(name=name, value=next(texts), low=next(texts), high=next(texts))  # type: ignore[arg-type]

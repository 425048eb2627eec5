"""Linear and logistic regression from noised second moments and noised gradients."""

from __future__ import annotations

import numpy as np

from enclaves.learn.moments import Coefficients, bounded_moments, noise_size, regress, solve, symmetric, upper
from enclaves.learn.noise import Purse
from enclaves.learn.rows import Array, Rows, factors, norms, shrunk, sum_of_products
from policies.task import Task
from policies.training import UNIT

LARGEST_STEP = 4.0
"""Longest step of a coefficient, so that noise alone cannot carry a model away."""


def fit_linear(rows: Rows, task: Task, purse: Purse) -> Coefficients:
    """Return ridge regression of the scaled label on noised moments of (z, y)."""
    moments = symmetric(purse.draw("moments", bounded_moments(rows, task)), task.width + 1)
    return regress(moments, purse.sigma("moments"), task)


def fit_logistic(rows: Rows, task: Task, purse: Purse) -> Coefficients:
    """Return (multinomial) logistic regression.

    Steps of a fixed curvature: second moments times the variance of the label at its noised rate, an estimate of the Hessian that needs no
    further look at the data. Steps shrink when they are no longer larger than their own noise.
    """
    lengths = norms(rows.z)
    moments = symmetric(purse.draw("moments", upper(sum_of_products(rows.z, rows.z))), task.width)
    count = max(moments[0, 0], float(UNIT * UNIT))
    ridge = noise_size(purse.sigma("moments"), task.width)
    weights, steps = np.zeros((task.width, task.outputs)), getattr(task.learner, "steps", 1)
    kept = []
    spread = np.full(task.outputs, 0.25 if task.outputs == 1 else 0.5)
    for step in range(steps):
        exact = _gradient(rows, lengths, weights, task)
        gradient = purse.draw("gradients", exact)
        if step == 0:
            rate = np.clip(1 / max(task.classes, 2) - gradient[0] / count, 0.01, 0.99)
            spread = np.maximum(rate * (1 - rate), 0.02)
            weights[0] = np.log(rate / (1 - rate)) if task.outputs == 1 else np.log(rate)
            continue
        change = solve(moments, gradient, ridge / spread.min()) / spread
        weights = weights - np.clip(change, -LARGEST_STEP, LARGEST_STEP)
        kept.append(weights)
    return Coefficients(weights=np.mean(kept[len(kept) // 2 :], axis=0) if kept else weights, moments=moments)


def probabilities(rows_z: Array, weights: Array) -> Array:
    """Return the class probabilities of encoded rows, (rows, classes); of two classes only the second's."""
    return _linked((rows_z.astype(np.float64) / UNIT) @ weights)


def _linked(scores: Array) -> Array:
    """Chances from scores, (rows, outputs)."""
    if scores.shape[1] == 1:
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(scores, -60, 60))))
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _gradient(rows: Rows, lengths: Array, weights: Array, task: Task) -> Array:
    """Sum of bounded row gradients z (p - y), (width, outputs), in 2^-20."""
    total = np.zeros((task.width, task.outputs), np.int64)
    for at, part in rows.parts():
        wide = part.z.astype(np.float64)
        wanted = part.y[:, None] == (np.arange(task.outputs) if task.outputs > 1 else 1)
        residuals = np.trunc((_linked(wide @ (weights / UNIT)) - wanted) * UNIT)
        sizes = np.ceil(np.sqrt((residuals**2).sum(axis=1))).astype(np.int64) * lengths[at]
        held = shrunk(residuals.astype(np.int64), factors(part, sizes, task.clip)[:, None])
        # At most 2^20 in absolute value for each of few rows: exact.
        total += (wide.T @ held.astype(np.float64)).astype(np.int64)
    return total

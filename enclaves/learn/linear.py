"""Linear and logistic regression from noised second moments and noised gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enclaves.learn.noise import Purse
from enclaves.learn.rows import Array, Rows, factors, norms, shrunk, sum_of_products
from policies.training import UNIT, Task

LARGEST_STEP = 4.0
"""Longest step of a coefficient, so that noise alone cannot carry a model away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Coefficients:
    """A linear model: outputs = z @ weights, with z = (1, x) in real numbers.

    Attributes:
        weights: (width, outputs).
        moments: noised, of (z, y) with the `ridge` added to them, or of z alone where there was more to draw.
    """

    weights: Array
    moments: Array
    ridge: float = 0.0


def fit_linear(rows: Rows, task: Task, purse: Purse) -> Coefficients:
    """Return ridge regression of the scaled label on noised moments of (z, y).

    The ridge is the size that the noise matrix has in the operator norm, 2 sigma sqrt(d) (Wigner), at which the noised matrix is safely
    positive; no further look at the data decides it.
    """
    wide = np.column_stack([rows.z, rows.y]).astype(np.int64)
    sizes = np.einsum("ij,ij->i", wide, wide)
    # A row scaled by sqrt(f) has its squared norm scaled by f.
    total = np.add.reduceat(sizes, rows.starts) if len(rows) else sizes
    root = np.floor(np.sqrt(np.minimum(1.0, task.clip / np.maximum(total, 1))) * UNIT * (1 - 1e-9)).astype(np.int64)
    root = np.where(total <= task.clip, UNIT, root)
    bounded = shrunk(wide, root[rows.persons][:, None])
    noised = _symmetric(purse.draw("moments", _upper(sum_of_products(bounded, bounded))), wide.shape[1])
    gram, target = noised[:-1, :-1], noised[:-1, -1]
    ridge = 2.0 * purse.sigma("moments") * np.sqrt(len(gram))
    return Coefficients(weights=_solve(gram, target, ridge)[:, None], moments=noised, ridge=float(ridge))


def fit_logistic(rows: Rows, task: Task, purse: Purse) -> Coefficients:
    """Return (multinomial) logistic regression.

    Steps of a fixed curvature: second moments times the variance of the label at its noised rate, an estimate of the Hessian that needs no
    further look at the data. Steps shrink when they are no longer larger than their own noise.
    """
    lengths = norms(rows.z)
    moments = _symmetric(purse.draw("moments", _upper(sum_of_products(rows.z, rows.z))), task.width)
    count = max(moments[0, 0], float(UNIT * UNIT))
    ridge = 2.0 * purse.sigma("moments") * np.sqrt(task.width)
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
        change = _solve(moments, gradient, ridge / spread.min()) / spread
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


def _upper(matrix: Array) -> Array:
    return np.asarray(matrix[np.triu_indices(len(matrix))])


def _symmetric(upper: Array, width: int) -> Array:
    found = np.zeros((width, width))
    found[np.triu_indices(width)] = upper
    return np.asarray(found + np.triu(found, 1).T)


def _solve(gram: Array, target: Array, ridge: float) -> Array:
    """Solve (gram + ridge I) w = target with the eigenvalues of the sum kept positive. The constant is not shrunk."""
    penalty = np.full(len(gram), ridge)
    penalty[0] = 0.0
    values, vectors = np.linalg.eigh(gram + np.diag(penalty))
    values = np.maximum(values, max(ridge, 1.0) / 2)
    along = vectors.T @ target
    return np.asarray(vectors @ (along / (values[:, None] if target.ndim == 2 else values)))

"""Least squares from one noised matrix of second moments: coefficients, their intervals and what they explain. No row is seen here.

The matrix is M = (z, y)'(z, y) + E, where E is symmetric and its upper triangle is noise of one sigma. For coefficients w of the sums
without noise, (G + E)(w' - w) = e - E w, and the right-hand side has the covariance sigma^2 ((1 + |w|^2) I + w w' - diag(w^2)); G is the
part of M that belongs to z. Everything here is computing with public numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from enclaves.learn.rows import Array, Rows, shrunk, sum_of_products
from policies.task import Task
from policies.training import UNIT, Linear

Z_95 = 1.959964


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


def bounded_moments(rows: Rows, task: Task) -> Array:
    """Return the upper triangle of the second moments of (z, y), row after row, exact, in 2^-20.

    One person moves them by `task.clip` at most, in L2: the rows of whoever has more are scaled down.
    """
    wide = np.column_stack([rows.z, rows.y]).astype(np.int64)
    sizes = np.einsum("ij,ij->i", wide, wide)
    # A row scaled by sqrt(f) has its squared norm scaled by f.
    total = np.add.reduceat(sizes, rows.starts) if len(rows) else sizes
    root = np.floor(np.sqrt(np.minimum(1.0, task.clip / np.maximum(total, 1))) * UNIT * (1 - 1e-9)).astype(np.int64)
    root = np.where(total <= task.clip, UNIT, root)
    bounded = shrunk(wide, root[rows.persons][:, None])
    return upper(sum_of_products(bounded, bounded))


def regress(moments: Array, sigma: float, task: Task) -> Coefficients:
    """Return ridge regression of the scaled label on noised moments of (z, y).

    The ridge is the agreed one, or the size that the noise matrix has in the operator norm, 2 sigma sqrt(d) (Wigner), at which the noised
    matrix is safely positive; no further look at the data decides it.

    Args:
        moments: symmetric, (width + 1, width + 1), in 2^-20.
        sigma: of the noise of one of them.
    """
    gram, target = moments[:-1, :-1], moments[:-1, -1]
    size = noise_size(sigma, len(gram))
    written = task.learner.ridge if isinstance(task.learner, Linear) else None
    ridge = size if written is None else float(written) * UNIT * UNIT
    return Coefficients(weights=solve(gram, target, ridge, least=size / 2)[:, None], moments=moments, ridge=ridge)


def noise_size(sigma: float, width: int) -> float:
    """Return about the largest eigenvalue of a symmetric matrix of noise (Wigner)."""
    return float(2.0 * sigma * np.sqrt(width))


def intervals(found: Coefficients, sigma: float) -> tuple[Array, Array]:
    """Return the lower and upper ends of the 95 % intervals of all weights, (width,) each.

    Each holds the interval of ridge regression, with the same ridge, on the sums without noise, and that of least squares without a ridge.
    Where features vary less than the noise is large, least squares has hardly an answer, and the interval is wide.
    """
    gram, target = found.moments[:-1, :-1], found.moments[:-1, -1]
    width = len(gram)
    ends = []
    for ridge, least in ((found.ridge, noise_size(sigma, width) / 2), (0.0, sigma)):
        inverse = _inverse(gram, ridge, least)
        weights = inverse @ target
        half = Z_95 * np.sqrt(np.einsum("ij,jk,ik->i", inverse, _spread(weights, sigma), inverse))
        ends.append((weights - half, weights + half))
    return np.minimum(ends[0][0], ends[1][0]), np.maximum(ends[0][1], ends[1][1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """How well weights fit the sums that made them: values with the half-widths of their 95 % intervals.

    Attributes:
        r2: coefficient of determination.
        mean_square: mean squared error, in the squared scale of the label.
    """

    r2: tuple[float, float]
    mean_square: tuple[float, float]


def explained(found: Coefficients, sigma: float) -> Explained:
    """Return what weights explain of the label in the sums that made them.

    The weights were fitted to the noise, too, which makes the noised residual sum of squares too small by 2 tr(A^-1 C) in expectation
    (Mallows 1973), with A and C as above; it is added. The intervals follow from the slopes at the noised moments.
    """
    moments, weights = found.moments, found.weights[:, 0]
    along = np.append(-weights, 1.0)
    least = float(UNIT * UNIT)
    count, first = max(moments[0, 0], least), moments[0, -1]
    inverse = _inverse(moments[:-1, :-1], found.ridge, noise_size(sigma, len(weights)) / 2)
    residual = float(along @ moments @ along) + 2.0 * float(np.sum(inverse * _spread(weights, sigma)))
    spread = max(moments[-1, -1] - first**2 / count, least)
    of_residual = upper(np.outer(along, along) * (2.0 - np.eye(len(along))))
    of_spread = np.zeros_like(moments)
    of_spread[0, 0], of_spread[0, -1], of_spread[-1, -1] = (first / count) ** 2, -2.0 * first / count, 1.0
    of_count = np.zeros_like(moments)
    of_count[0, 0] = 1.0
    share, mean = residual / spread, residual / count
    half_share = Z_95 * sigma * np.linalg.norm((of_residual - share * upper(of_spread)) / spread)
    half_mean = Z_95 * sigma * np.linalg.norm((of_residual - mean * upper(of_count)) / count)
    return Explained(r2=(1.0 - share, float(half_share)), mean_square=(mean, float(half_mean)))


def upper(matrix: Array) -> Array:
    """The upper triangle of a matrix, row after row."""
    return np.asarray(matrix[np.triu_indices(len(matrix))])


def symmetric(triangle: Array, width: int) -> Array:
    """The symmetric matrix, (width, width), of which this is the upper triangle."""
    found = np.zeros((width, width))
    found[np.triu_indices(width)] = triangle
    return np.asarray(found + np.triu(found, 1).T)


def solve(gram: Array, target: Array, ridge: float, *, least: float | None = None) -> Array:
    """Solve (gram + ridge I) w = target with the eigenvalues of the sum kept positive. The constant is not shrunk.

    Args:
        least: that an eigenvalue is; half of the ridge where it is left out.
    """
    values, vectors = _positive(gram, ridge, ridge / 2 if least is None else least)
    along = vectors.T @ target
    return np.asarray(vectors @ (along / (values[:, None] if target.ndim == 2 else values)))


def _inverse(gram: Array, ridge: float, least: float) -> Array:
    values, vectors = _positive(gram, ridge, least)
    return np.asarray((vectors / values) @ vectors.T)


def _positive(gram: Array, ridge: float, least: float) -> tuple[Array, Array]:
    """Eigenvalues, kept positive, and eigenvectors of gram + ridge I, the constant left as it is."""
    penalty = np.full(len(gram), ridge)
    penalty[0] = 0.0
    values, vectors = np.linalg.eigh(gram + np.diag(penalty))
    return np.maximum(values, max(least, 0.5)), vectors


def _spread(weights: Array, sigma: float) -> Array:
    """Covariance of e - E w."""
    return np.asarray(sigma**2 * ((1.0 + weights @ weights) * np.eye(len(weights)) + np.outer(weights, weights) - np.diag(weights**2)))

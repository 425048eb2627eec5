"""k-means by noised Lloyd steps."""

from __future__ import annotations

import numpy as np

from enclaves.learn.noise import Purse
from enclaves.learn.rows import Array, Rows, factors, norms, shrunk, sum_of_products
from policies.task import Task
from policies.training import UNIT, Means

CANDIDATES = 2000


def fit_means(rows: Rows, task: Task, purse: Purse) -> Array:
    """Return k centres, (clusters, width - 1), in real numbers within [-1, 1].

    Each step draws one noised vector: of every cluster its number of rows and the sum of their coordinates. A cluster that is smaller than
    its noise keeps its centre.
    """
    learner = task.learner
    assert isinstance(learner, Means)
    by = factors(rows, norms(rows.z), task.clip // UNIT)
    held = shrunk(rows.z.astype(np.int64), by[:, None])
    centres = public_centres(learner.clusters, task.width - 1)
    for _ in range(learner.steps):
        member = nearest(rows.z, centres)[:, None] == np.arange(learner.clusters)
        sums = purse.draw("clusters", sum_of_products(member, held))
        counts = sums[:, :1]
        found = np.clip(sums[:, 1:] / np.maximum(counts, UNIT), -1.0, 1.0)
        centres = np.where(counts > 2 * purse.sigma("clusters"), found, centres)
    return centres


def public_centres(clusters: int, width: int) -> Array:
    """Return centres far apart in the box [-1, 1]^width, without a look at data: the farthest of random points, one after another."""
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (CANDIDATES, width))
    chosen = [np.zeros(width)]
    distance = np.full(CANDIDATES, np.inf)
    while len(chosen) < clusters:
        distance = np.minimum(distance, ((points - chosen[-1]) ** 2).sum(axis=1))
        chosen.append(points[int(np.argmax(distance))])
    return np.array(chosen) / 2


def nearest(z: Array, centres: Array) -> Array:
    """Return the index of the nearest centre of every encoded row."""
    x = z[:, 1:] / UNIT
    return np.asarray(np.argmin((centres**2).sum(axis=1) - 2 * x @ centres.T, axis=1))

"""Gradient-boosted trees on noised histograms of gradients and curvatures (Friedman 2001; with random splits Maddock et al. 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from enclaves.learn.noise import Purse
from enclaves.learn.rows import Array, Rows, factors, shrunk
from policies.model import WEIGHT_BITS, Tree
from policies.privacy import decimal_to_units
from policies.task import Task
from policies.training import UNIT, Encoded, Trees

LARGEST_LEAF = 2.0
SIGMAS = 2.0
"""A side of a split needs this many standard deviations of curvature more than noise alone gives it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bins:
    """Histogram bins of one feature.

    Attributes:
        at: its first coordinate.
        count: bins: equal widths of a number, or the first category with all others unknown, then one for each further category.
        categories: whether a split takes one bin out rather than cutting between bins.
    """

    at: int
    count: int
    categories: bool

    def codes(self, z: Array) -> Array:
        """The bin of every row."""
        if self.categories:
            chosen = z[:, self.at : self.at + self.count - 1] > 0
            return np.where(chosen.any(axis=1), 1 + chosen.argmax(axis=1), 0).astype(np.int16)
        return ((z[:, self.at].astype(np.int64) + UNIT) * self.count // (2 * UNIT + 1)).astype(np.int16)

    def split(self, index: int) -> tuple[int, int]:
        """(coordinate, threshold) of the split number `index`: bins above `index`, or the category `index` + 1."""
        if self.categories:
            return self.at + index, UNIT // 2
        # The largest z of bin `index`.
        return self.at, -(-((index + 1) * (2 * UNIT + 1)) // self.count) - 1 - UNIT


def bins_of(features: tuple[Encoded, ...], numeric: int) -> tuple[Bins, ...]:
    """Return the bins of every feature, `numeric` of them for a number."""
    found, at = [], 1
    for feature in features:
        grouped = feature.encoding == "categories"
        found.append(Bins(at=at, count=len(feature.categories) if grouped else numeric, categories=grouped))
        at += feature.width
    return tuple(found)


def fit_trees(rows: Rows, task: Task, purse: Purse) -> tuple[Tree, ...]:
    """Return boosted trees; leaves already hold the learning rate."""
    learner = task.learner
    assert isinstance(learner, Trees)
    rate = decimal_to_units(learner.rate, 6, "rate") / 10**6
    grown = _Grown(rows=rows, task=task, purse=purse, bins=bins_of(task.features, learner.bins))
    outputs, trees = np.zeros(len(rows)), []
    public = np.random.default_rng(0)
    for _ in range(learner.rounds):
        grown.take(outputs)
        tree = grown.greedy(learner.depth, rate) if learner.splits == "histogram" else grown.random(learner.depth, rate, public)
        outputs += tree_outputs(rows.z, tree)
        trees.append(tree)
    return tuple(trees)


def tree_outputs(z: Array, tree: Tree) -> Array:
    """Return a tree's value for every encoded row, in real numbers."""
    node = np.zeros(len(z), np.int64)
    coordinates, thresholds = np.array(tree.coordinates), np.array(tree.thresholds)
    for _ in range(len(tree.leaves).bit_length() - 1):
        node = 2 * node + 1 + (z[np.arange(len(z)), coordinates[node]] > thresholds[node])
    return np.asarray(np.array(tree.leaves, np.float64)[node - len(coordinates)] / 2**WEIGHT_BITS)


class _Grown:
    """Rows with their bounded gradients and curvatures at the current model."""

    def __init__(self, *, rows: Rows, task: Task, purse: Purse, bins: tuple[Bins, ...]) -> None:
        self.rows, self.task, self.purse, self.bins = rows, task, purse, bins
        self.codes = [item.codes(rows.z) for item in bins]
        self.gradients = self.curvatures = np.zeros(len(rows), np.int64)

    def take(self, outputs: Array) -> None:
        """Take gradients and curvatures, in 2^-10, at the outputs of the model so far."""
        if self.task.classes:
            chance = 1.0 / (1.0 + np.exp(-np.clip(outputs, -60, 60)))
            raw, curved = chance - self.rows.y, np.rint(chance * (1 - chance) * UNIT)
        else:
            raw, curved = np.clip(outputs - self.rows.y / UNIT, -2.0, 2.0), np.full(len(self.rows), UNIT)
        found = np.trunc(raw * UNIT).astype(np.int64)
        self.gradients = shrunk(found, factors(self.rows, np.abs(found), self.task.clip // UNIT))
        self.curvatures = curved.astype(np.int64)

    def greedy(self, depth: int, rate: float) -> Tree:
        """A tree whose every level is split by noised histograms; its leaves are the sides of the last splits."""
        node = np.zeros(len(self.rows), np.int64)
        coordinates: list[int] = []
        thresholds: list[int] = []
        leaves: list[int] = []
        for level in range(depth):
            gradients, curvatures = self._histograms(node, 2**level)
            splits = [self._best(gradients[index], curvatures[index]) for index in range(2**level)]
            coordinates += [split[0] for split in splits]
            thresholds += [split[1] for split in splits]
            if level == depth - 1:
                leaves = [self._leaf(*side, rate) for split in splits for side in (split[2], split[3])]
            above = self.rows.z[np.arange(len(node)), np.array([s[0] for s in splits])[node]] > np.array([s[1] for s in splits])[node]
            node = 2 * node + above
        return Tree(coordinates=tuple(coordinates), thresholds=tuple(thresholds), leaves=tuple(leaves))

    def random(self, depth: int, rate: float, public: np.random.Generator) -> Tree:
        """A tree with one random split for each level, which no data decide; one noised pair of sums for each leaf."""
        chosen = [self.bins[public.integers(len(self.bins))] for _ in range(depth)]
        levels = [item.split(int(public.integers(item.count - 1))) for item in chosen]
        node = np.zeros(len(self.rows), np.int64)
        for coordinate, threshold in levels:
            node = 2 * node + (self.rows.z[:, coordinate] > threshold)
        sums = [self.purse.draw(name, _counts(node, values, 2**depth)) for name, values in self._both()]
        return Tree(
            coordinates=tuple(levels[level][0] for level in range(depth) for _ in range(2**level)),
            thresholds=tuple(levels[level][1] for level in range(depth) for _ in range(2**level)),
            leaves=tuple(self._leaf(g, h, rate) for g, h in zip(*sums, strict=True)),
        )

    def _both(self) -> tuple[tuple[str, Array], tuple[str, Array]]:
        return ("gradients", self.gradients), ("curvatures", self.curvatures)

    def _histograms(self, node: Array, nodes: int) -> tuple[list[list[Array]], list[list[Array]]]:
        """Per node and feature, the noised sums of gradients and of curvatures for each bin."""
        found = []
        for name, values in self._both():
            exact = [_counts(node * b.count + code, values, nodes * b.count) for b, code in zip(self.bins, self.codes, strict=True)]
            noised = self.purse.draw(name, np.concatenate(exact))
            parts = np.split(noised, np.cumsum([len(part) for part in exact])[:-1])
            found.append([[part.reshape(nodes, -1)[index] for part in parts] for index in range(nodes)])
        return found[0], found[1]

    def _best(self, gradients: list[Array], curvatures: list[Array]) -> tuple[int, int, tuple[float, float], tuple[float, float]]:
        """(coordinate, threshold, lower side, upper side) of the split with the largest gain; a side is its (gradient, curvature)."""
        # Every feature's histogram adds up to the same node: their mean has less noise than one of them.
        whole = (float(np.mean([g.sum() for g in gradients])), float(np.mean([h.sum() for h in curvatures])))
        best, gain = (*self.bins[0].split(0), whole, whole), -math.inf
        for item, g, h in zip(self.bins, gradients, curvatures, strict=True):
            upper = (g[1:], h[1:]) if item.categories else (g.sum() - np.cumsum(g)[:-1], h.sum() - np.cumsum(h)[:-1])
            lower = (whole[0] - upper[0], whole[1] - upper[1])
            least = SIGMAS * self.purse.sigma("curvatures") * math.sqrt(item.count)
            gains = np.where(np.minimum(lower[1], upper[1]) > least, self._gain(*lower) + self._gain(*upper), -math.inf)
            index = int(np.argmax(gains))
            if gains[index] > gain:
                gain = float(gains[index])
                best = (*item.split(index), (lower[0][index], lower[1][index]), (upper[0][index], upper[1][index]))
        return best

    def _gain(self, gradient: Array, curvature: Array) -> Array:
        return np.asarray(gradient**2 / np.maximum(curvature + self._ridge(), UNIT))

    def _ridge(self) -> float:
        return max(float(UNIT), SIGMAS * self.purse.sigma("curvatures"))

    def _leaf(self, gradient: float, curvature: float, rate: float) -> int:
        value = -gradient / max(curvature + self._ridge(), float(UNIT))
        return round(rate * min(LARGEST_LEAF, max(-LARGEST_LEAF, value)) * (1 << WEIGHT_BITS))


def _counts(codes: Array, values: Array, size: int) -> Array:
    """Exact sums by code: floating-point sums of integers below 2^53."""
    return np.bincount(codes, weights=values, minlength=size).astype(np.int64)

"""Whether the rows of a call look made to copy the model rather than met in life. One word leaves, and no figure.

The patterns are those of extraction by queries on chosen inputs (Tramer et al. 2016): one feature moved at a time from a fixed row, a grid,
and lines along single features. They look at the rows alone, never at the model: its owner, who learns the word, would otherwise choose
what the word says of the asker's rows. Values beyond the bounds that the parties agreed on cannot be asked: they are clamped before.

A call is looked at with all rows of the versions that it reads (`enclaves.learn.service`): calls on parts of one version are seen as one.
Of other versions there is no memory: one too small to be judged is called `few`, so that a grid spread over such ones shows in the number
of calls. Who spreads it over larger ones, among other rows, or writes probes as constants of queries, is held by the quota alone.
"""

from __future__ import annotations

import numpy as np

from enclaves.learn.rows import Array
from policies.service import Probing

FEWEST_ROWS = 8
"""Distinct rows below which only that is said."""

AROUND = 0.8
"""Part of the distinct rows that differ from the most frequent values in one feature at most."""

GRID_FILLED = 0.5
"""Part of all combinations of the values that appear."""

GRID_REPEATED = 1.1
"""Rows per distinct row at most: rows met in life that fill a grid repeat its frequent cells."""

LINED = 0.9
BY_CHANCE = 0.45
"""Part of the distinct rows that differ from another in one feature exactly: at least, and at most once features are shuffled."""


def probing_of(rows: Array) -> Probing:
    """Return the word for the rows of a call.

    Args:
        rows: (rows, features), integers; equal numbers mean equal values. The order of rows means nothing.
    """
    distinct = _distinct(rows)
    if len(distinct) < FEWEST_ROWS:
        return "few"
    if distinct.shape[1] < 2:
        return "none"
    found = _around_one(rows, distinct) or _grid(rows, distinct) or _lines(distinct)
    return "suspected" if found else "none"


def _distinct(rows: Array) -> Array:
    return np.unique(rows, axis=0) if len(rows) else rows


def _around_one(rows: Array, distinct: Array) -> bool:
    """One feature moved at a time from a fixed row."""
    if distinct.shape[1] < 3:
        return False
    base = np.array([_mode(column) for column in rows.T])
    return bool(((distinct != base).sum(axis=1) <= 1).mean() >= AROUND)


def _mode(column: Array) -> int:
    values, counts = np.unique(column, return_counts=True)
    return int(values[counts.argmax()])


def _grid(rows: Array, distinct: Array) -> bool:
    """Most combinations of a few values of each feature, each about once."""
    levels = [len(np.unique(column)) for column in distinct.T]
    if sum(count >= 3 for count in levels) < 2 or len(rows) > GRID_REPEATED * len(distinct):
        return False
    combinations = float(np.prod([float(count) for count in levels]))
    return len(distinct) >= GRID_FILLED * combinations


def _lines(distinct: Array) -> bool:
    """Rows that come in families along single features, more than the same values would by chance."""
    if _with_neighbour(distinct) < LINED:
        return False
    chance = np.random.default_rng(0)  # fixed: the word must follow from the rows alone
    shuffled = np.column_stack([chance.permutation(column) for column in distinct.T])
    return _with_neighbour(_distinct(shuffled)) <= BY_CHANCE


def _with_neighbour(distinct: Array) -> float:
    """Part of the distinct rows that differ from another one in one feature exactly."""
    near = np.zeros(len(distinct), bool)
    for feature in range(distinct.shape[1]):
        others = np.delete(distinct, feature, axis=1)
        _, place, counts = np.unique(others, axis=0, return_inverse=True, return_counts=True)
        near |= counts[place.reshape(-1)] > 1
    return float(near.mean())

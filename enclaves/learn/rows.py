"""Rows as integers, grouped by person, and exact sums over them in which no person counts for more than its bound.

A product of two coordinates counts 2^-20. Sums of products are taken by floating-point matrix products over blocks in which every partial
sum stays below 2^53, so they are exact and do not depend on the order of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from policies.task import Task
from policies.training import UNIT, Encoded

Array: TypeAlias = np.ndarray[Any, Any]

MISSING = -(2**63)
"""Stands for NULL in a column of 64-bit integers."""

BLOCK = 1 << 12
"""Rows of one matrix product, few enough for a processor's cache; 2^12 products below 2^33 each stay exact."""

SCALED_AT_ONCE = 1 << 15
_LARGEST_PRODUCT = 2**33


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Encoded rows, those of one person next to each other.

    Attributes:
        z: int16, (rows, width): the constant `UNIT` and the features, within [-UNIT, UNIT].
        y: int16, (rows,): the scaled label, or the index of its class; empty without a label.
        starts: (persons,): index of each person's first row.
        persons: (rows,): index of each row's person.
    """

    z: Array
    y: Array
    starts: Array
    persons: Array

    def __len__(self) -> int:
        return len(self.z)

    def parts(self) -> Iterator[tuple[slice, Rows]]:
        """All rows in parts of about `BLOCK`, each of whole persons, with where they lie."""
        first = 0
        while first < len(self.starts):
            begin = self.starts[first]
            last = max(first + 1, int(np.searchsorted(self.starts, begin + BLOCK)))
            end = self.starts[last] if last < len(self.starts) else len(self)
            at = slice(begin, end)
            y = self.y[at] if len(self.y) else self.y
            yield at, Rows(z=self.z[at], y=y, starts=self.starts[first:last] - begin, persons=self.persons[at] - first)
            first = last

    def only(self, chosen: Array) -> Rows:
        """The rows of the persons whose rows are `chosen` (a mask over rows)."""
        return grouped(self.z[chosen], self.y[chosen] if len(self.y) else self.y, self.persons[chosen])


def encode_rows(columns: Mapping[str, Array], persons: Array, task: Task) -> Rows:
    """Return the rows of a training query.

    Args:
        columns: int64 by input: numbers in the column's fixed point, categories as their index or -1, `MISSING` for NULL.
        persons: one number per person, equal in all of its rows.
    """
    z = np.empty((len(persons), task.width), np.int16)
    z[:, 0] = UNIT
    at = 1
    for feature in task.features:
        values = columns[feature.column]
        if feature.encoding == "categories":
            for index in range(1, len(feature.categories)):
                z[:, at + index - 1] = np.where(values == index, UNIT, 0)
        else:
            z[:, at] = scaled(values, feature)
        at += feature.width
    y, known = np.zeros(0, np.int16), np.ones(len(persons), bool)
    if task.label is not None:
        raw = columns[task.label.column]
        known = raw >= 0 if task.classes else raw != MISSING
        y = raw.clip(0, task.classes).astype(np.int16) if task.classes else scaled(raw, task.label)
        y = y[known]
    return _bounded(grouped(z[known], y, persons[known]), task.rows)


def grouped(z: Array, y: Array, persons: Array) -> Rows:
    """Return rows sorted by person."""
    if np.any(persons[1:] < persons[:-1]):
        order = np.argsort(persons, kind="stable")
        z, persons = z[order], persons[order]
        y = y[order] if len(y) else y
    _, starts, index = np.unique(persons, return_index=True, return_inverse=True)
    return Rows(z=z, y=y, starts=starts, persons=index)


def _bounded(rows: Rows, most: int) -> Rows:
    """At most `most` rows of every person. Tables are bounded before; every sensitivity of a task rests on it."""
    if not len(rows):
        return rows
    kept = np.arange(len(rows)) - rows.starts[rows.persons] < most
    return rows if kept.all() else grouped(rows.z[kept], rows.y[kept] if len(rows.y) else rows.y, rows.persons[kept])


def scaled(values: Array, item: Encoded) -> Array:
    """Return numbers of a column mapped to [-UNIT, UNIT]: cut to the bounds, transformed, centred; NULL becomes 0."""
    found = np.empty(len(values), np.int16)
    for start in range(0, len(values), SCALED_AT_ONCE):
        raw = values[start : start + SCALED_AT_ONCE]
        real = np.clip(raw, item.lower, item.upper).astype(np.float64)
        real /= 10.0**item.decimals
        if item.encoding == "log":
            np.log1p(real, out=real)
        real -= item.offset
        real *= UNIT / item.reach
        np.rint(real, out=real)
        real[raw == MISSING] = 0
        found[start : start + SCALED_AT_ONCE] = np.clip(real, -UNIT, UNIT)
    return found


def norms(z: Array) -> Array:
    """Return the rows' L2 norms, rounded up to integers."""
    found = np.empty(len(z), np.int64)
    for start in range(0, len(z), BLOCK):
        wide = z[start : start + BLOCK].astype(np.float64)
        found[start : start + BLOCK] = np.ceil(np.sqrt(np.einsum("ij,ij->i", wide, wide)))
    return found


def factors(rows: Rows, sizes: Array, most: int) -> Array:
    """Return, per row, a factor of at most UNIT, in 2^-10, with which the person's `sizes` (non-negative int64) add up to `most` at most.

    One person's factor depends on its own rows only.
    """
    if not len(rows):
        return np.zeros(0, np.int64)
    total = np.add.reduceat(sizes, rows.starts)
    held = np.minimum(UNIT, most * UNIT // np.maximum(total, 1))
    return np.asarray(held[rows.persons])


def shrunk(values: Array, by: Array) -> Array:
    """Return integers times factors in 2^-10, rounded towards zero: no absolute value grows."""
    product = values * by
    return np.asarray(np.sign(product) * (np.abs(product) // UNIT))


def sum_of_products(left: Array, right: Array) -> Array:
    """Return left^T right, exact, as int64.

    Args:
        left: integers, (rows, a).
        right: integers, (rows, b).

    Raises:
        OverflowError: a product could pass 2^33.
    """
    total = np.zeros((left.shape[1], right.shape[1]), np.int64)
    for start in range(0, len(left), BLOCK):
        a = left[start : start + BLOCK].astype(np.float64)
        b = a if right is left else right[start : start + BLOCK].astype(np.float64)
        if _reach(a) * _reach(b) > _LARGEST_PRODUCT:
            raise OverflowError("a product of coordinates is too large to be added exactly")
        total += (a.T @ b).astype(np.int64)
    return total


def _reach(values: Array) -> float:
    return float(max(values.max(initial=0.0), -values.min(initial=0.0)))

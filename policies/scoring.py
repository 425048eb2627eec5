"""What a model means: its prediction for one row of raw values, in plain arithmetic that faster ways are checked against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from policies.model import WEIGHT_BITS, Model, Tree
from policies.training import UNIT, Encoded

Value: TypeAlias = float | int | str | None
"""A number in real units, a category, or None where it is missing."""


def predicted(model: Model, row: Mapping[str, Value]) -> tuple[float, ...]:
    """Return the prediction for a row: the label's value, the chance of the second class or of each class, or the index of a centre."""
    z = [UNIT, *(coordinate for feature in model.features for coordinate in encoded(row[feature.column], feature))]
    if model.link == "nearest":
        centres = [[value / (1 << WEIGHT_BITS) for value in centre] for centre in model.weights]
        distances = [sum((x / UNIT - c) ** 2 for x, c in zip(z[1:], centre, strict=True)) for centre in centres]
        return (float(distances.index(min(distances))),)
    if model.trees:
        outputs = [math.fsum(_leaf(tree, z) for tree in model.trees)]
    else:
        outputs = [math.fsum(w * x for w, x in zip(row, z, strict=True)) / UNIT / (1 << WEIGHT_BITS) for row in model.weights]
    return finished(model.link, model.label, outputs)


def finished(link: str, label: Encoded | None, outputs: Sequence[float]) -> tuple[float, ...]:
    """Return the prediction that a model's outputs for one row mean."""
    if link == "logistic":
        return (1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, outputs[0])))),)
    if link == "softmax":
        raised = [math.exp(output - max(outputs)) for output in outputs]
        return tuple(value / math.fsum(raised) for value in raised)
    assert label is not None, "what predicts a number has a label"
    value = outputs[0] * label.reach + label.offset
    return (math.expm1(value) if label.encoding == "log" else value,)


def encoded(value: Value, feature: Encoded) -> list[int]:
    """Return the coordinates of a raw value, in 2^-10. Missing numbers are the centre, unknown categories none of them."""
    if feature.encoding == "categories":
        return [UNIT if value == category else 0 for category in feature.categories[1:]]
    if value is None or isinstance(value, str) or math.isnan(value):
        return [0]
    scale = 10.0**feature.decimals
    held = min(max(float(value), feature.lower / scale), feature.upper / scale)
    real = math.log1p(held) if feature.encoding == "log" else held
    return [max(-UNIT, min(UNIT, round((real - feature.offset) * (UNIT / feature.reach))))]


def _leaf(tree: Tree, z: list[int]) -> float:
    node = 0
    while node < len(tree.coordinates):
        node = 2 * node + 1 + (z[tree.coordinates[node]] > tree.thresholds[node])
    return tree.leaves[node - len(tree.coordinates)] / (1 << WEIGHT_BITS)

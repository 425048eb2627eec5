"""A trained model as integers: what a release carries, and what an ONNX file is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.acceptance import Acceptance
from policies.canonical import digest
from policies.codec import encode, omitted
from policies.contribution import Contribution
from policies.errors import Malformed
from policies.privacy import decimal_to_units
from policies.training import MAX_DEPTH, Encoded

WEIGHT_BITS = 20
"""Weights, leaves and centres count 2^-20."""

MAX_WEIGHT = 2**40
MAX_PARAMETERS = 100_000
"""Most numbers in a model."""

Link = Literal["identity", "logistic", "softmax", "nearest"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """A complete binary tree: node i has the children 2i + 1 and 2i + 2, of which the second takes rows above the threshold.

    Attributes:
        coordinates, thresholds: of the 2^depth - 1 inner nodes: z[coordinate] > threshold, in 2^-10.
        leaves: 2^depth values.
    """

    coordinates: tuple[int, ...]
    thresholds: tuple[int, ...]
    leaves: tuple[int, ...]

    def __post_init__(self) -> None:
        depth = (len(self.leaves)).bit_length() - 1
        if not 1 <= depth <= MAX_DEPTH or len(self.leaves) != 2**depth:
            raise Malformed("must be a complete tree", where="leaves")
        if not len(self.coordinates) == len(self.thresholds) == len(self.leaves) - 1:
            raise Malformed("must have one inner node less than leaves", where="coordinates")


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model over encoded features.

    Attributes:
        link: what turns outputs into predictions: `identity` scales back to the label, `nearest` names the nearest of k centres.
        label: None for k-means.
        weights: row after row, (outputs, width): weights of z = (1, x), or centres of x (width - 1 each) under `nearest`.
        trees: added up instead of weights.
    """

    kind: Literal["model/1"] = "model/1"
    link: Link
    features: tuple[Encoded, ...]
    label: Encoded | None
    weights: tuple[tuple[int, ...], ...] = ()
    trees: tuple[Tree, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.weights) == bool(self.trees):
            raise Malformed("has either weights or trees", where="weights")
        wanted = self.width - (self.link == "nearest")
        if any(len(row) != wanted for row in self.weights):
            raise Malformed(f"must have {wanted} weights per output", where="weights")
        if any(not 1 <= coordinate < self.width for tree in self.trees for coordinate in tree.coordinates):
            raise Malformed("a tree reads a coordinate that there is not", where="trees")
        numbers = [*(v for row in self.weights for v in row), *(v for tree in self.trees for v in (*tree.thresholds, *tree.leaves))]
        if len(numbers) > MAX_PARAMETERS or any(abs(value) > MAX_WEIGHT for value in numbers):
            raise Malformed(f"has more than {MAX_PARAMETERS} numbers, or one that is too large", where="weights", code="model-too-large")

    @property
    def width(self) -> int:
        """Coordinates of an encoded row, the constant included."""
        return 1 + sum(feature.width for feature in self.features)

    @property
    def size(self) -> int:
        """Parameters: weights, or thresholds and leaves."""
        return sum(map(len, self.weights)) + sum(len(tree.thresholds) + len(tree.leaves) for tree in self.trees)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A figure of held-out persons, or of the sums that made the model, with the 95 % interval of its noise, as decimal strings."""

    name: Literal["auc", "accuracy", "r2", "rmse", "distance"]
    value: str
    low: str
    high: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """The 95 % interval of a weight, of the noise, in 2^-20 like the weight."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise Malformed("an interval ends before it begins", where="low")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRelease:
    """What a training run releases besides the number of persons. An ONNX file follows from the model (`enclaves.kit.artefact`).

    Attributes:
        contribution: where the training asks that its worth be divided.
        intervals: of the weights of a model from a pool's sums, in their order.
    """

    model: Model
    metrics: tuple[Metric, ...]
    contribution: Contribution | None = omitted(None)
    intervals: tuple[Interval, ...] = omitted(())

    def __post_init__(self) -> None:
        if self.intervals and len(self.intervals) != sum(map(len, self.model.weights)):
            raise Malformed("has one interval for each weight, or none", where="intervals")

    @property
    def digest(self) -> str:
        """The digest that names the model."""
        return digest(encode(self.model))


def passes(metrics: tuple[Metric, ...], test: Acceptance) -> bool:
    """Whether the tested metric is there and large enough; both have four decimals at most."""
    return any(m.name == test.metric and decimal_to_units(m.value, 4, "value") >= decimal_to_units(test.least, 4, "least") for m in metrics)

"""What a training job asks for: features and label with declared encodings, and the learner. What it draws is in `policies.task`.

Every row becomes a vector z = (1, x): numbers scaled around a declared centre into [-1, 1], categories as one coordinate each except the
first. Nothing about the encoding is looked up in the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from policies.acceptance import Acceptance
from policies.codec import omitted
from policies.conditions import Division
from policies.errors import Malformed
from policies.names import require_name
from policies.privacy import decimal_to_units

UNIT = 2**10
"""Fixed point of a coordinate, a label and a residual: they count 2^-10. Sums of their products count 2^-20."""

MAX_FEATURES = 200
MAX_WIDTH = 512
"""Most coordinates of a row's vector."""

MAX_CLASSES = 20
MAX_STEPS = 200
MAX_ROUNDS = 200
MAX_DEPTH = 6
MAX_TREE_BINS = 64
MAX_CLUSTERS = 50
MAX_RIDGE = 10**9

SCORE_BINS = 20
"""Bins of the held-out scores of each class, from which the area under the ROC curve is computed."""

Encoding = Literal["scaled", "log", "categories"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """How one column of the training query becomes coordinates, or the label.

    Attributes:
        column: its name in the query.
        encoding: `scaled` and `log` (log(1 + v) of a value that is not negative) are mapped linearly to [-1, 1] with `centre` at 0;
            `categories` are told apart, and all others count as none. NULL counts as the centre, or as none of the categories.
        lower, upper: decimal strings that cut values further than the declared bounds do.
        centre: decimal string; the middle of the (transformed) bounds where it is left out.
        categories: in order; the whole domain where they are left out. The first has no coordinate.
    """

    column: str
    encoding: Encoding
    lower: str | None = None
    upper: str | None = None
    centre: str | None = None
    categories: tuple[int | str, ...] = ()

    def __post_init__(self) -> None:
        require_name(self.column, "column")
        if self.encoding == "categories" and not self.lower == self.upper == self.centre is None:
            raise Malformed("categories have no bounds and no centre", where=self.column)
        if self.encoding != "categories" and self.categories:
            raise Malformed("only an input of encoding `categories` lists them", where=self.column)
        if len(set(self.categories)) != len(self.categories):
            raise Malformed("lists a category twice", where=self.column)


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """Least squares from one noised matrix of second moments (sufficient statistics; Vu and Slavkovic 2009, Wang 2018).

    Attributes:
        clip: decimal string: most that one person's squared row norms, label included, add up to. Larger persons are scaled down.
        ridge: decimal string: added to the sum of squares of every feature, in rows; without it, what the noise's size asks for.
    """

    kind: Literal["linear"] = "linear"
    clip: str | None = None
    ridge: str | None = omitted(None)

    def __post_init__(self) -> None:
        if self.ridge is not None and not 0 <= decimal_to_units(self.ridge, 6, "ridge") <= MAX_RIDGE * 10**6:
            raise Malformed(f"must lie between 0 and {MAX_RIDGE}", where="ridge")


@dataclass(frozen=True, kw_only=True, slots=True)
class Logistic:
    """Logistic regression by noisy full gradients, preconditioned with a noised second-moment matrix (Boehning and Lindsay 1988).

    Attributes:
        steps: gradients that are drawn.
        clip: decimal string: most that the norms of one person's row gradients add up to in one step.
    """

    kind: Literal["logistic"] = "logistic"
    steps: int = 6
    clip: str | None = None

    def __post_init__(self) -> None:
        _require_between(self.steps, 1, MAX_STEPS, "steps")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trees:
    """Gradient-boosted trees of logistic or squared loss.

    Attributes:
        splits: `histogram` finds them greedily on noised histograms of gradients and curvatures, one pair for each level; `random` draws
            them from the declared bounds without a look at the data (Maddock et al. 2022), one pair for each tree.
        bins: per scaled feature, of equal width over [-1, 1].
        rate: decimal string: what part of a leaf's value is added.
        clip: decimal string: most that one person's absolute gradients add up to in one histogram, per feature.
    """

    kind: Literal["trees"] = "trees"
    rounds: int = 20
    depth: int = 3
    bins: int = 16
    splits: Literal["histogram", "random"] = "histogram"
    rate: str = "0.3"
    clip: str | None = None

    def __post_init__(self) -> None:
        _require_between(self.rounds, 1, MAX_ROUNDS, "rounds")
        _require_between(self.depth, 1, MAX_DEPTH, "depth")
        _require_between(self.bins, 2, MAX_TREE_BINS, "bins")
        if not 0 < decimal_to_units(self.rate, 6, "rate") <= 10**6:
            raise Malformed("must lie above 0 and not above 1", where="rate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """k-means by Lloyd's steps on noised sums (Blum, Dwork, McSherry and Nissim 2005), from centres that look at no data.

    Attributes:
        clip: decimal string: most that one person's row norms add up to.
    """

    kind: Literal["k-means"] = "k-means"
    clusters: int
    steps: int = 6
    clip: str | None = None

    def __post_init__(self) -> None:
        _require_between(self.clusters, 2, MAX_CLUSTERS, "clusters")
        _require_between(self.steps, 1, MAX_STEPS, "steps")


Learner: TypeAlias = Linear | Logistic | Trees | Means


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What is learned from the rows of a query.

    Attributes:
        label: what is predicted; None for k-means.
        held_out: percent of persons, chosen by a hash of their id, who take no part in training and whose rows give the metrics. None
            where the test has rows of its own.
        division: how the model's worth is divided among the firms whose columns are features.
        test: which the enclave holds against the model's metrics, stating in public only whether it is passed.
    """

    kind: Literal["training/1"] = "training/1"
    learner: Learner
    features: tuple[Input, ...]
    label: Input | None = None
    held_out: int = 0
    division: Division | None = omitted(None)
    test: Acceptance | None = omitted(None)

    def __post_init__(self) -> None:
        names = [feature.column for feature in (*self.features, *([self.label] if self.label else []))]
        if not 1 <= len(self.features) <= MAX_FEATURES or len(set(names)) != len(names):
            raise Malformed(f"needs 1 to {MAX_FEATURES} features, each column in one place", where="features")
        _require_between(self.held_out, 0, 50, "held_out")
        if self.test is not None and bool(self.held_out) == self.examined:
            raise Malformed("a test is held against metrics on held-out persons, or on rows of its own: one of the two", where="test")
        if self.examined and self.division is not None:
            raise Malformed("a worth is divided by metrics on held-out persons, not by those of a test on other rows", where="division")
        if (self.label is None) != isinstance(self.learner, Means):
            raise Malformed("every learner but k-means has a label", where="label")
        if self.label is None:
            return
        if isinstance(self.learner, Logistic) and self.label.encoding != "categories":
            raise Malformed("logistic regression predicts categories", where="label")
        if isinstance(self.learner, Linear) and self.label.encoding == "categories":
            raise Malformed("linear regression predicts a number", where="label")

    @property
    def examined(self) -> bool:
        """Whether the test has rows of its own."""
        return self.test is not None and self.test.sql is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """An input with everything that its encoding needs, in units of its column.

    Attributes:
        decimals: a value v of the column means v * 10^-decimals.
        lower, upper, centre: of numbers. `reach` is the largest distance from the centre after the transform, in real numbers.
    """

    column: str
    encoding: Encoding
    decimals: int = 0
    lower: int = 0
    upper: int = 0
    centre: int = 0
    categories: tuple[int | str, ...] = ()

    @property
    def width(self) -> int:
        """Coordinates that it has as a feature."""
        return len(self.categories) - 1 if self.encoding == "categories" else 1

    def transformed(self, value: int) -> float:
        """A column's value as a real number, before it is centred and scaled."""
        real = value / 10**self.decimals
        return math.log1p(real) if self.encoding == "log" else real

    @property
    def offset(self) -> float:
        """The transformed centre."""
        return self.transformed(self.centre)

    @property
    def reach(self) -> float:
        """Largest distance of a transformed value from the centre: what 1 means after scaling."""
        return max(self.transformed(self.upper) - self.offset, self.offset - self.transformed(self.lower))


def _require_between(value: int, least: int, most: int, where: str) -> None:
    if not least <= value <= most:
        raise Malformed(f"must lie between {least} and {most}", where=where)

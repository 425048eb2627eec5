"""What a training job learns: features and label with declared encodings, the learner, and the most that one person adds to each vector.

Every row becomes a vector z = (1, x): numbers scaled around a declared centre into [-1, 1], categories as one coordinate each except the
first. Nothing about the encoding is looked up in the data. All vectors that a learner needs are sums over persons of integers (fixed point,
2^-10), bounded per person before they are added, so that each has an exact L2 sensitivity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from policies.acceptance import Acceptance, Tested
from policies.codec import omitted
from policies.conditions import Division
from policies.errors import Malformed
from policies.names import require_name
from policies.privacy import decimal_to_units
from policies.typed_values import Typed

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

SCORE_BINS = 20
"""Bins of the held-out scores of each class, from which the area under the ROC curve is computed."""

METRIC_SHARE = 5
"""Metrics on held-out persons take one part in five of the loss that is left for training."""

Encoding = Literal["scaled", "log", "categories"]
Quantity = Literal["moments", "gradients", "curvatures", "clusters", "scores", "errors"]


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
    """

    kind: Literal["linear"] = "linear"
    clip: str | None = None


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
        held_out: percent of persons, chosen by a hash of their id, who take no part in training and whose rows give the metrics.
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
        if self.test is not None and not self.held_out:
            raise Malformed("a test is held against metrics on held-out persons, and there are none", where="test")
        if (self.label is None) != isinstance(self.learner, Means):
            raise Malformed("every learner but k-means has a label", where="label")
        if self.label is None:
            return
        if isinstance(self.learner, Logistic) and self.label.encoding != "categories":
            raise Malformed("logistic regression predicts categories", where="label")
        if isinstance(self.learner, Linear) and self.label.encoding == "categories":
            raise Malformed("linear regression predicts a number", where="label")


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """A noised vector that training draws `draws` times.

    Attributes:
        sensitivity: most by which one person moves one draw, in L2, in the vector's fixed point.
        share: of the loss, relative to the other needs.
    """

    quantity: Quantity
    sensitivity: int
    draws: int
    share: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A training whose inputs are resolved against the columns of its query.

    Attributes:
        rows: most rows of one person.
        evaluations: models that are trained, all alike in what they draw.
    """

    learner: Learner
    features: tuple[Encoded, ...]
    label: Encoded | None
    held_out: int
    rows: int
    evaluations: int = 1

    @property
    def width(self) -> int:
        """Coordinates of a row's vector, the constant 1 included."""
        return 1 + sum(feature.width for feature in self.features)

    @property
    def classes(self) -> int:
        """Number of classes; 0 where a number is predicted or nothing."""
        return len(self.label.categories) if self.label is not None else 0

    @property
    def outputs(self) -> int:
        """Numbers that the model computes for a row before a link function: one for two classes."""
        return self.classes if self.classes > 2 else 1

    @property
    def largest(self) -> int:
        """Most that the squared norm of one row's vector (without label) can be, in whole units: each feature adds 1 at most."""
        return 1 + len(self.features)

    @property
    def clip(self) -> int:
        """The bound on one person's part of the main vector, in units of 2^-20. What it bounds depends on the learner."""
        written = self.learner.clip
        if written is None:
            return math.ceil(self._unclipped * UNIT * UNIT)
        clip = decimal_to_units(written, 6, "clip") * UNIT * UNIT // 10**6
        if clip < UNIT * UNIT // 100:
            raise Malformed("must be at least 0.01", where="clip")
        return clip

    @property
    def _unclipped(self) -> float:
        if isinstance(self.learner, Linear):
            return self.rows * (self.largest + 1)
        residual = math.sqrt(2) if self.classes > 2 else 1.0 if self.classes else 2.0
        if isinstance(self.learner, Trees):
            return self.rows * residual
        return self.rows * math.sqrt(self.largest) * (1.0 if isinstance(self.learner, Means) else residual)


def resolve(training: Training, known: Mapping[str, Typed], rows: int, evaluations: int = 1) -> Task:
    """Return a training with its inputs resolved.

    Args:
        known: what is known of each column of the training query.
        rows: most rows of one person in it.
        evaluations: models that are trained.

    Raises:
        Malformed: an unknown column, missing bounds, an input that is constant by declaration, categories outside the declared domain, a
            type that the encoding does not take, too many coordinates or classes, a label of one class.
    """
    unused = sorted(set(known) - {i.column for i in (*training.features, *([training.label] if training.label else []))})
    if unused:
        raise Malformed(f"column `{unused[0]}` of the query is neither a feature nor the label", where="features", code="unknown-column")
    features = tuple(_encoded(feature, known) for feature in training.features)
    label = None if training.label is None else _encoded(training.label, known)
    task = Task(learner=training.learner, features=features, label=label, held_out=training.held_out, rows=rows, evaluations=evaluations)
    if task.width > MAX_WIDTH:
        raise Malformed(f"the features have {task.width} coordinates; at most {MAX_WIDTH} are accepted", where="features")
    if task.classes > MAX_CLASSES:
        raise Malformed(f"at most {MAX_CLASSES} classes", where="label")
    if training.test is not None and training.test.metric != metric_of(task):
        raise Malformed(f"this model has no `{training.test.metric}`, but {metric_of(task) or 'none'}", where="test", code="unknown-metric")
    if isinstance(training.learner, Trees) and task.classes > 2:
        raise Malformed("boosted trees tell two classes apart, or predict a number", where="label")
    return task


def metric_of(task: Task) -> Tested | None:
    """Return the metric on which a model of the task may be accepted: None for k-means."""
    if task.label is None:
        return None
    return "auc" if task.classes == 2 else "accuracy" if task.classes else "r2"


def needs_of(task: Task) -> tuple[Need, ...]:
    """Return the noised vectors of a task, metrics on held-out persons last. Sensitivities hold for whatever rows one person has."""
    learner, clip = task.learner, task.clip
    if isinstance(learner, Linear):
        training = [Need(quantity="moments", sensitivity=clip, draws=1, share=1)]
    elif isinstance(learner, Logistic):
        moments = task.rows * task.largest * UNIT * UNIT
        training = [
            Need(quantity="moments", sensitivity=moments, draws=1, share=1),
            Need(quantity="gradients", sensitivity=clip, draws=learner.steps, share=3),
        ]
    elif isinstance(learner, Trees):
        draws = learner.rounds * (learner.depth if learner.splits == "histogram" else 1)
        spread = math.isqrt(len(task.features) * UNIT * UNIT - 1) + 1 if learner.splits == "histogram" else UNIT
        largest = UNIT // 4 if task.classes else UNIT
        training = [
            Need(quantity="gradients", sensitivity=-(-clip // UNIT * spread // UNIT) + 1, draws=draws, share=3),
            Need(quantity="curvatures", sensitivity=-(-task.rows * largest * spread // UNIT), draws=draws, share=1),
        ]
    else:
        training = [Need(quantity="clusters", sensitivity=-(-clip // UNIT), draws=learner.steps, share=1)]
    training = [replace(need, draws=need.draws * task.evaluations) for need in training]
    if not task.held_out:
        return tuple(training)
    whole = sum(need.share for need in training)
    training = [Need(quantity=n.quantity, sensitivity=n.sensitivity, draws=n.draws, share=n.share * (METRIC_SHARE - 1)) for n in training]
    # A person's rows share one UNIT of weight. One row adds (1, y, y^2, e^2 / 4), each within [-1, 1], or its weight to one count.
    metric = Need(
        quantity="scores" if task.classes else "errors", sensitivity=(1 if task.classes else 2) * UNIT, draws=task.evaluations, share=whole
    )
    return (*training, metric)


def _encoded(item: Input, known: Mapping[str, Typed]) -> Encoded:
    typed = known.get(item.column)
    if typed is None:
        raise Malformed(f"the query has no column `{item.column}`", where=item.column, code="unknown-column")
    return _categories(item, typed) if item.encoding == "categories" else _number(item, typed)


def _categories(item: Input, typed: Typed) -> Encoded:
    chosen: tuple[int | str, ...] = item.categories or typed.domain or ()
    if typed.type not in ("integer", "text", "boolean"):
        raise Malformed(f"a {typed.type} has no categories", where=item.column, code="sql")
    if not chosen:
        raise Malformed("needs categories: neither the training nor the declaration lists them", where=item.column, code="domain-missing")
    if len(chosen) < 2:
        raise Malformed("has one category only, which tells nothing apart", where=item.column, code="constant-input")
    kind = str if typed.type == "text" else int
    if any(type(value) is not kind for value in chosen) or (typed.domain is not None and not set(chosen) <= set(typed.domain)):
        raise Malformed("lists a category outside the declared domain", where=item.column, code="unknown-category")
    return Encoded(column=item.column, encoding="categories", categories=chosen)


def _number(item: Input, typed: Typed) -> Encoded:
    if not typed.numeric and typed.type != "boolean":
        raise Malformed(f"a {typed.type} cannot be scaled", where=item.column, code="sql")
    lower, upper = typed.bounds(f"training on `{item.column}`")
    if item.lower is not None:
        lower = max(lower, decimal_to_units(item.lower, typed.decimals, item.column))
    if item.upper is not None:
        upper = min(upper, decimal_to_units(item.upper, typed.decimals, item.column))
    if lower >= upper:
        raise Malformed("is constant within its bounds", where=item.column, code="constant-input")
    if item.encoding == "log" and lower < 0:
        raise Malformed("log(1 + v) takes values that are not negative", where=item.column)
    middle = (lower + upper) // 2
    if item.encoding == "log":
        scale = 10**typed.decimals
        middle = max(lower, min(upper, round(scale * math.expm1((math.log1p(lower / scale) + math.log1p(upper / scale)) / 2))))
    centre = middle if item.centre is None else decimal_to_units(item.centre, typed.decimals, item.column)
    if not lower <= centre <= upper:
        raise Malformed("must lie within the bounds", where=f"{item.column}.centre")
    return Encoded(column=item.column, encoding=item.encoding, decimals=typed.decimals, lower=lower, upper=upper, centre=centre)


def _require_between(value: int, least: int, most: int, where: str) -> None:
    if not least <= value <= most:
        raise Malformed(f"must lie between {least} and {most}", where=where)

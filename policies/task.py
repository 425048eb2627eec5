"""A training resolved against the columns of its query: the most that one person adds to each noised vector.

All vectors that a learner needs are sums over persons of integers (fixed point, 2^-10), bounded per person before they are added, so that
each has an exact L2 sensitivity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from policies.acceptance import Tested
from policies.errors import Malformed
from policies.privacy import decimal_to_units
from policies.training import MAX_CLASSES, MAX_WIDTH, UNIT, Encoded, Input, Learner, Linear, Logistic, Means, Training, Trees
from policies.typed_values import Typed

METRIC_SHARE = 5
"""Metrics on held-out persons take one part in five of the loss that is left for training."""

LARGEST_PRODUCT = UNIT * UNIT
"""Most that a product of two coordinates of one row, or of one and the label, can be."""

Quantity = Literal["moments", "gradients", "curvatures", "clusters", "scores", "errors"]


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
        examined: whether metrics are of other rows than those of the training query.
    """

    learner: Learner
    features: tuple[Encoded, ...]
    label: Encoded | None
    held_out: int
    rows: int
    evaluations: int = 1
    examined: bool = False

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
    task = Task(
        learner=training.learner,
        features=features,
        label=label,
        held_out=training.held_out,
        rows=rows,
        evaluations=evaluations,
        examined=training.examined,
    )
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
    if not task.held_out and not task.examined:
        return tuple(training)
    whole = sum(need.share for need in training)
    training = [Need(quantity=n.quantity, sensitivity=n.sensitivity, draws=n.draws, share=n.share * (METRIC_SHARE - 1)) for n in training]
    # A person's rows share one UNIT of weight. One row adds (1, y, y^2, e^2 / 4), each within [-1, 1], or its weight to one count.
    metric = Need(
        quantity="scores" if task.classes else "errors", sensitivity=(1 if task.classes else 2) * UNIT, draws=task.evaluations, share=whole
    )
    return (*training, metric)


def moment_count(task: Task) -> int:
    """Return how many distinct second moments there are of (z, y)."""
    return (task.width + 1) * (task.width + 2) // 2


def require_one_sum(training: Training) -> None:
    """Raise Malformed (code `joint-plan`) for a training that one sum over all rows does not answer, whoever holds which of them."""
    if not isinstance(training.learner, Linear):
        message = f"over a pool only `linear` is trained: `{training.learner.kind}` asks for sums that depend on earlier ones"
        raise Malformed(message, where="learner", code="joint-plan")
    if training.held_out or training.test is not None:
        raise Malformed("a pool's model is measured on the sums that make it: nobody is held out", where="held_out", code="joint-plan")
    if training.division is not None:
        raise Malformed("members of a pool hold rows and not columns: no worth of columns is divided", where="division", code="joint-plan")


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

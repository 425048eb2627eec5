"""Which noised vectors answer a plan, and how a loss is split over them. Host, broker, enclave and replay derive the same schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal, localcontext
from types import MappingProxyType
from typing import Literal

from policies.canonical import MAX_INTEGER
from policies.codec import omitted
from policies.declaration import Declaration
from policies.division import organisations_of
from policies.errors import Malformed
from policies.expression import Expression, Typed, typed
from policies.privacy import PICO, SCALE_UNIT, Loss, scale_for, sigma_for
from policies.query import RANKED, AggregateOutput, Plan
from policies.recent import Recent
from policies.shape import Contribution, Shape, contribution, require_sound
from policies.task import Need, Task, needs_of, resolve

Quantity = Literal[
    "units", "rows", "distinct", "sum", "squares", "product", "bins",
    "moments", "gradients", "curvatures", "clusters", "scores", "errors",
]  # fmt: skip

UNITS_SHARE = 10
"""A test of cell sizes takes one part in ten of a job's loss: it only needs to tell large groups from small ones."""

SHARES: dict[str, int] = {"units": 2, "rows": 2, "distinct": 2, "sum": 2, "squares": 2, "product": 2, "bins": 4}
UNCENTRED_SHARE = 4
"""Shares of a sum that is not taken around the middle of its bounds: relative to its size it is noisier than a count."""

MAX_BINS = 100
"""Bins of a quantile's histogram between the declared bounds."""

MAX_SCALE = 2**52
"""Of any noise, in units of 2^-20. Where the bounds of a sum ask for more, it is counted in coarser steps, 2^-32 of its noise at most."""

FEWEST_STEPS = 2**10
"""Steps between 0 and the largest amount of one row, below which a sum would be too coarse to be worth its loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a statistic adds up in every cell, over the rows where `filter` is true and no argument is NULL.

    Attributes:
        quantity: `units` counts distinct privacy units, `rows` rows, `distinct` distinct values of the argument, `sum` adds
            (x - centre) / step of the first argument, `squares` its square / step, `product` (x - centre)(y - centre) / step of the two
            arguments, `bins` counts rows per bin of the first argument: `bins` numbers a cell. Quotients are rounded towards zero.
            The others are what a training draws (`policies.task.Need`).
        centres: per argument that is added up.
    """

    quantity: Quantity
    arguments: tuple[Expression, ...] = ()
    filter: Expression | None = None
    centres: tuple[int, ...] = ()
    step: int = 1
    bins: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistic:
    """One noised vector with a number (`bins` numbers) per cell.

    Attributes:
        name: distinct inside a schedule, for example ``sum:visits`` after the first output that needs it.
        sensitivity: most by which one privacy unit moves the vector: in L1 for `laplace`, the square of L2 for `gaussian`.
        amount: of the job's loss, in its measure.
        scale: of the noise, in units of 2^-20: the scale of discrete Laplace, the sigma of discrete Gaussian noise.
        threshold: where keys are discovered, the least noised number of units with which a key is released.
        draws: how many vectors are drawn one after another, each with this noise; they share `amount` equally.
    """

    name: str
    measured: Measured
    mechanism: Literal["laplace", "gaussian"]
    sensitivity: int
    amount: int
    scale: int
    threshold: int | None = None
    draws: int = omitted(1)


def schedule(plan: Plan, declarations: Mapping[str, Declaration], loss: Loss, minimum_group: int) -> tuple[Statistic, ...]:
    """Return the statistics that answer `plan` within `loss`.

    Raises:
        Malformed: an unsound plan, missing bounds or domains, bounds that are too wide for exact sums, a loss that is too small to split,
            or a delta0 where no keys are discovered (`delta0-unused`), or none where they are (`delta0-missing`).
    """
    return allot(outline(plan, declarations), plan, loss, minimum_group)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """What a schedule needs to know of a sound plan, whatever the loss.

    Attributes:
        bound: what one unit contributes.
        wanted: the vectors, each with its name and the largest amount that one row adds.
        needed: what a training draws besides the number of units.
        refused: message, code and place of why the plan cannot be scheduled for any loss; the other two mean nothing then.
    """

    bound: Contribution | None = None
    wanted: tuple[tuple[Measured, str, int], ...] = ()
    needed: tuple[Need, ...] = ()
    refused: tuple[str, str, str | None] | None = None


def outline(plan: Plan, declarations: Mapping[str, Declaration]) -> Outline:
    """Return the outline of a plan. Raises Malformed for an unsound one."""
    found = require_sound(plan, declarations)
    try:
        bound = contribution(plan, declarations)
        wanted = tuple((measured, name, largest) for measured, (name, largest) in measures(plan, found).items())
        needed = () if plan.training is None else needs_of(task_of(plan, found))
    except Malformed as error:  # a loss that does not fit the plan is told of first
        return Outline(refused=(error.message, error.code, error.where))
    return Outline(bound=bound, wanted=wanted, needed=needed)


OUTLINES = Recent(lambda plan, agreement: outline(plan, agreement.by_dataset))
"""The outline of a plan under an agreement, found once for the same two."""


def allot(known: Outline, plan: Plan, loss: Loss, minimum_group: int) -> tuple[Statistic, ...]:
    """Return the statistics of an outlined plan within `loss`. Raises Malformed as `schedule`."""
    if plan.discovers and not loss.delta0:
        raise Malformed(
            "group keys without a declared domain are discovered, which costs delta0; the request has none", code="delta0-missing"
        )
    if loss.delta0 and not plan.discovers:
        raise Malformed("no group keys are discovered, so delta0 would be charged for nothing; ask without", code="delta0-unused")
    if known.refused is not None or known.bound is None:
        message, code, where = known.refused or ("the plan cannot be scheduled", "malformed", None)
        raise Malformed(message, code=code, where=where)
    bound, wanted = known.bound, known.wanted
    if plan.scoring is not None:
        return _unnoised(loss)
    if plan.training is not None:
        return _training(known.needed, bound, loss)
    tested = plan.discovers or minimum_group > 1
    rest = loss.amount
    statistics: list[Statistic] = []
    units = Measured(quantity="units")
    if tested and all(measured != units for measured, _, _ in wanted):
        share = loss.amount // UNITS_SHARE
        rest -= share
        statistics.append(_statistic("units", units, 1, bound, loss, share))
    weights = [_weight(measured) for measured, _, _ in wanted]
    for (measured, name, largest), weight in zip(wanted, weights, strict=True):
        statistics.append(_statistic(name, measured, largest, bound, loss, rest * weight // sum(weights)))
    return tuple(
        replace(s, threshold=threshold_for(s, bound.cells, loss.delta0)) if plan.discovers and s.measured == units else s
        for s in statistics
    )


def _unnoised(loss: Loss) -> tuple[Statistic, ...]:
    """Scores are drawn with no noise and charged no loss: they are of the asker's own rows."""
    if loss.amount or loss.delta0:
        raise Malformed("scores cost no privacy loss; ask for 0", code="loss-unused")
    return ()


TRAINED: frozenset[str] = frozenset({"moments", "gradients", "curvatures", "clusters", "scores", "errors"})
"""Quantities that a training draws. All others are aggregates."""


def task_of(plan: Plan, found: Shape) -> Task:
    """Return the task of a plan that trains, over the shape of its source. Raises Malformed."""
    if plan.training is None:
        raise Malformed("the plan trains nothing", where="training")
    known = {item.name: typed(item.expression, found.scope) for item in plan.inputs}
    division = plan.training.division
    firms = () if division is None else organisations_of(plan)
    evaluations = 1 + len(firms) if division is not None and division.method == "leave-one-out" else 1
    return resolve(plan.training, known, found.rows, evaluations)


def _training(needed: tuple[Need, ...], bound: Contribution, loss: Loss) -> tuple[Statistic, ...]:
    """The number of units, and what the learner draws. Losses of the draws add up, each of them a discrete Gaussian."""
    if loss.measure != "zcdp":
        raise Malformed("training draws many vectors one after another and is charged in zCDP: ask in rho", code="measure")
    share = loss.amount // UNITS_SHARE
    found = [_statistic("units", Measured(quantity="units"), 1, bound, loss, share)]
    whole = sum(need.share for need in needed)
    for need in needed:
        amount = (loss.amount - share) * need.share // whole
        squared = need.sensitivity**2
        scale = sigma_for(squared, amount // need.draws)
        if scale > MAX_SCALE or squared > MAX_INTEGER:
            raise Malformed("the loss is too small for this training: the noise would have no exact scale", code="loss-too-small")
        found.append(
            Statistic(
                name=need.quantity,
                measured=Measured(quantity=need.quantity),
                mechanism="gaussian",
                sensitivity=squared,
                amount=amount,
                scale=scale,
                draws=need.draws,
            )
        )
    return tuple(found)


def needs(output: AggregateOutput, scope: Mapping[tuple[str, str], Typed]) -> dict[str, Measured]:
    """Return, by part, what an aggregate is computed from, sums uncentred.

    Parts: `count` (of rows, units or distinct values), `sum`, `other` (sum of the second argument), `squares`, `other_squares`, `product`,
    `bins`.
    """
    kinds = [typed(argument, scope) for argument in output.arguments]
    nullable = [argument for argument, kind in zip(output.arguments, kinds, strict=True) if kind.nullable]

    def measured(quantity: Quantity, *arguments: Expression) -> Measured:
        also = tuple(argument for argument in nullable if argument not in arguments)
        return Measured(quantity=quantity, arguments=(*arguments, *also), filter=output.filter)

    function = output.function
    if function == "COUNT":
        return {"count": measured("rows")}
    if function == "COUNT_UNITS":
        return {"count": measured("units")}
    first = output.arguments[0]
    if function == "COUNT_DISTINCT":
        return {"count": measured("distinct", first)}
    if function in RANKED:
        return {"bins": measured("bins", first)}
    if function == "SUM":
        return {"sum": measured("sum", first)}
    parts = {"count": measured("rows"), "sum": measured("sum", first)}
    if function == "AVG":
        return parts
    if function in ("VAR_POP", "VAR_SAMP", "STDDEV_POP", "STDDEV_SAMP"):
        return parts | {"squares": measured("squares", first)}
    second = output.arguments[1]
    parts |= {"other": measured("sum", second), "product": measured("product", first, second)}
    if function.startswith("REGR"):
        parts |= {"other_squares": measured("squares", second)}
    if function == "CORR":
        parts |= {"squares": measured("squares", first), "other_squares": measured("squares", second)}
    return parts


def measures(plan: Plan, found: Shape) -> Mapping[Measured, tuple[str, int]]:
    """Return every vector that a plan needs, each once, with its name and the largest amount that one row adds; found once per plan.

    A sum is taken around the middle of its bounds where the number of its rows is also in the plan: the sum follows from both, and its
    noise halves.
    """
    return _MEASURES(plan, found)


def _measures(plan: Plan, found: Shape) -> Mapping[Measured, tuple[str, int]]:
    asked = [(output, measured) for output in plan.aggregates for measured in needs(output, found.scope).values()]
    counted = counted_rows(plan, found)
    wanted: dict[Measured, tuple[str, int]] = {}
    names: set[str] = set()
    for output, plain in asked:
        measured, largest = fitted(plain, found, counted)
        if measured in wanted:
            continue
        bare = plain.quantity in ("units", "rows") and not plain.arguments and plain.filter is None
        stem = plain.quantity if bare else f"{plain.quantity}:{output.name}"
        name = stem if stem not in names else f"{stem}:{sum(n.startswith(stem) for n in names) + 1}"
        names.add(name)
        wanted[measured] = (name, largest)
    return MappingProxyType(wanted)


_MEASURES = Recent(_measures)


def counted_rows(plan: Plan, found: Shape) -> set[tuple[Expression | None, frozenset[Expression]]]:
    """Which (filter, arguments that are not NULL) the plan counts the rows of."""
    return {(m.filter, frozenset(m.arguments)) for o in plan.aggregates for m in needs(o, found.scope).values() if m.quantity == "rows"}


def fitted(plain: Measured, found: Shape, counted: set[tuple[Expression | None, frozenset[Expression]]]) -> tuple[Measured, int]:
    """Return a vector with its centres and bins, in steps of 1, and the largest amount that one row adds to it. Raises Malformed."""
    if plain.quantity in ("units", "rows", "distinct"):
        return plain, 1
    kinds = [typed(argument, found.scope) for argument in plain.arguments]
    used = 2 if plain.quantity == "product" else 1
    bounds = []
    for kind in kinds[:used]:
        if not kind.numeric and not (kind.type == "date" and plain.quantity == "bins"):
            raise Malformed(f"a value of type {kind.type} cannot be added up", code="sql")
        bounds.append(kind.bounds("adding up or ranking a column"))
    if plain.quantity == "bins":
        lower, upper = bounds[0]
        return replace(plain, bins=max(1, min(MAX_BINS, upper - lower + 1))), 1
    centred = plain.quantity != "sum" or (plain.filter, _present(plain, kinds)) in counted
    # Any centre will do; one beyond what a document can hold would make the grant unwritable.
    centres = tuple(max(-MAX_INTEGER, min(MAX_INTEGER, (lower + upper) // 2)) if centred else 0 for lower, upper in bounds)
    reach = [max(upper - c, c - lower, 1) for (lower, upper), c in zip(bounds, centres, strict=True)]
    largest = {"sum": reach[0], "squares": reach[0] ** 2, "product": reach[0] * reach[-1]}[plain.quantity]
    return replace(plain, centres=centres), largest


def _present(measured: Measured, kinds: list[Typed]) -> frozenset[Expression]:
    """The arguments that must not be NULL, as a count of rows names them: a column that is never NULL is not named."""
    return frozenset(argument for argument, kind in zip(measured.arguments, kinds, strict=True) if kind.nullable)


def bin_edges(measured: Measured, kind: Typed) -> tuple[int, ...]:
    """The `bins` + 1 edges of a histogram; bin i holds edges[i] <= x < edges[i + 1]. The last edge is one above the upper bound."""
    lower, upper = kind.bounds("ranking a column")
    width = upper - lower + 1
    return tuple(lower + width * index // measured.bins for index in range(measured.bins + 1))


def _weight(measured: Measured) -> int:
    uncentred = measured.quantity == "sum" and not any(measured.centres)
    return UNCENTRED_SHARE if uncentred else SHARES[measured.quantity]


def _statistic(name: str, measured: Measured, largest: int, bound: Contribution, loss: Loss, amount: int) -> Statistic:
    gaussian = loss.measure == "zcdp"
    sensitivity, scale = _noise(measured, largest, bound, gaussian, amount)
    if (scale > MAX_SCALE or sensitivity > MAX_INTEGER) and measured.centres:
        over = -(-sensitivity // MAX_INTEGER)
        step = max(-(-scale // MAX_SCALE), math.isqrt(over) + 1 if gaussian else over) + 1
        measured, largest = replace(measured, step=step), -(-largest // step)
        sensitivity, scale = _noise(measured, largest, bound, gaussian, amount)
    written = max(scale, sensitivity, measured.step) <= MAX_INTEGER
    if scale > MAX_SCALE or not written or (measured.step > 1 and largest < FEWEST_STEPS):
        raise Malformed("the loss is too small for the declared bounds: the noise would have no exact scale", code="loss-too-small")
    return Statistic(
        name=name,
        measured=measured,
        mechanism="gaussian" if gaussian else "laplace",
        sensitivity=sensitivity,
        amount=amount,
        scale=scale,
    )


def _noise(measured: Measured, largest: int, bound: Contribution, gaussian: bool, amount: int) -> tuple[int, int]:
    """(sensitivity, scale) of a vector to which one row adds at most `largest`."""
    if measured.quantity == "units":
        return bound.cells, sigma_for(bound.cells, amount) if gaussian else scale_for(bound.cells, amount)
    if gaussian:
        squared = bound.squared * largest**2
        return squared, sigma_for(squared, amount)
    return bound.rows * largest, scale_for(bound.rows * largest, amount)


def threshold_for(units: Statistic, cells: int, delta0: int) -> int:
    """Return a threshold on a noised count of units that the keys of one unit alone pass with probability at most delta0 in all.

    One unit holds at most `cells` such keys, each with count 1. By a union bound P(1 + X >= T) must be at most delta0 / cells, where
    P(X >= k) <= exp(-k / scale) for discrete Laplace and <= exp(-k^2 / (2 sigma^2)) for discrete Gaussian noise (Canonne, Kamath and
    Steinke 2020, proposition 25).
    """
    with localcontext() as context:
        context.prec = 40
        scale = Decimal(units.scale) / SCALE_UNIT
        logarithm = (Decimal(cells) * PICO / Decimal(delta0)).ln()
        tail = scale * logarithm if units.mechanism == "laplace" else scale * (2 * logarithm).sqrt()
        return 2 + int(tail.to_integral_value(rounding=ROUND_CEILING))

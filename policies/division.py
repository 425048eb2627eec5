"""Dividing what a trained model is worth among the firms whose columns it learned from. Pure: worths are released figures.

The worth of a coalition of firms counts 10^-6. By `shapley` it is what part of the label's variation ridge regression on the coalition's
columns explains, from the one noised matrix of second moments that the training pays for anyway: every coalition's matrix is a part of it.
By `leave-one-out` it is a metric on held-out persons of a model trained for the purpose: one on all columns, and one without each firm's.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import combinations

from policies.conditions import Division
from policies.contribution import Contribution, Share, Worth
from policies.derive import derive
from policies.errors import Malformed, Tampered
from policies.query import Plan
from policies.shares import MAX_ORGANISATIONS, leave_one_out, shapley, split
from policies.training import Linear


def feature_owners(plan: Plan) -> dict[str, str]:
    """Return, by feature, the firm whose columns it reads.

    Raises:
        Malformed: code `mixed-feature` for a feature that reads columns of no firm or of several.
    """
    owners: dict[str, set[str]] = {item.name: set() for item in plan.inputs}
    for use in derive(plan):
        if use.operation == "feature" and use.output is not None:
            owners[use.output].add(use.column.dataset.partition(".")[0])
    label = plan.training.label.column if plan.training is not None and plan.training.label is not None else None
    found = {}
    for name, firms in owners.items():
        if name == label:
            continue
        if len(firms) != 1:
            raise Malformed("a worth is divided where every feature reads one firm's columns", where=name, code="mixed-feature")
        found[name] = next(iter(firms))
    return found


def organisations_of(plan: Plan) -> tuple[str, ...]:
    """Return the firms among which a training's worth is divided, sorted.

    Raises:
        Malformed: one firm only or more than `MAX_ORGANISATIONS`, a learner whose worth the method cannot tell, or a mixed feature.
    """
    training = plan.training
    if training is None or training.division is None:
        raise Malformed("nothing is divided", where="division")
    found = tuple(sorted(set(feature_owners(plan).values())))
    if not 2 <= len(found) <= MAX_ORGANISATIONS:
        message = f"a worth is divided among 2 to {MAX_ORGANISATIONS} firms; here {len(found)} bring features"
        raise Malformed(message, where="division", code="too-many-organisations")
    if training.division.method == "shapley" and not isinstance(training.learner, Linear):
        message = "worths of all coalitions follow from noised moments for linear regression only; divide by leave-one-out"
        raise Malformed(message, where="division.method")
    if training.division.method == "leave-one-out" and (training.label is None or not training.held_out):
        raise Malformed("leave-one-out compares metrics on held-out persons: it needs a label and `held_out`", where="held_out")
    return found


def coalitions(division: Division, organisations: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Return the coalitions whose worth a method asks for."""
    if division.method == "shapley":
        return tuple(c for size in range(len(organisations) + 1) for c in combinations(organisations, size))
    left_out = (tuple(name for name in organisations if name != one) for one in organisations)
    return (*left_out, organisations)


def contribution_of(division: Division, organisations: tuple[str, ...], worths: Mapping[tuple[str, ...], int]) -> Contribution:
    """Return the report that worths (in 10^-6) entail: values by the method, and integers that add up to the amount exactly.

    Raises:
        Malformed: a worth of a coalition is missing.
    """
    wanted = coalitions(division, organisations)
    if set(worths) != set(wanted):
        raise Malformed("needs the worth of every coalition that the method asks for", where="worths")
    known = {frozenset(coalition): Fraction(value) for coalition, value in worths.items()}
    method = shapley if division.method == "shapley" else leave_one_out
    values = method(organisations, lambda coalition: known[coalition])
    amounts = split(division.amount, values)
    return Contribution(
        division=division,
        worths=tuple(Worth(organisations=coalition, value=worths[coalition]) for coalition in wanted),
        shares=tuple(Share(organisation=name, value=round(values[name]), amount=amounts[name]) for name in organisations),
    )


def verify_contribution(found: Contribution, plan: Plan) -> Contribution:
    """Return a released report if its values and amounts follow from its worths for this plan.

    Raises:
        Tampered: code `contribution-mismatch`.
    """
    try:
        assert plan.training is not None
        division, firms = plan.training.division, organisations_of(plan)
        if division is None or division != found.division:
            raise Malformed("is of another division", where="division")
        own = contribution_of(division, firms, {worth.organisations: worth.value for worth in found.worths})
    except Malformed as error:
        raise Tampered(f"the contributions do not fit the plan: {error.message}", code="contribution-mismatch") from error
    if own != found:
        raise Tampered("the contributions do not follow from the worths beside them", code="contribution-mismatch")
    return found

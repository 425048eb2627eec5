"""What each firm's columns were worth to a model: from the moments that trained it, or from models that do without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from enclaves.learn.fit import fit, measure, model_of_weights
from enclaves.learn.linear import fit_linear
from enclaves.learn.moments import Coefficients
from enclaves.learn.noise import Purse
from enclaves.learn.rows import Array, Rows
from policies.conditions import Division
from policies.contribution import WORTH
from policies.division import coalitions, contribution_of
from policies.model import Metric, ModelRelease
from policies.schedule import Statistic
from policies.task import Task


def learn_divided(
    rows: Rows, held: Array, task: Task, statistics: Sequence[Statistic], division: Division, owners: Mapping[str, str]
) -> ModelRelease:
    """Return the model, its metrics and the report on who contributed what to it.

    Args:
        held: as for `enclaves.learn.fit.train`.
        owners: firm by feature.

    Raises:
        LossExceeded: learners draw more than the statistics pay for.
    """
    purse, training, tested = Purse.of(statistics), rows.only(~held), rows.only(held)
    firms = tuple(sorted(set(owners.values())))
    by_firm = tuple(owners[feature.column] for feature in task.features)
    if division.method == "shapley":
        found = fit_linear(training, task, purse)
        model = model_of_weights(task, found.weights)
        worths = {c: _millionths(explained(found, task, by_firm, c)) for c in coalitions(division, firms)}
        metrics = measure(model, tested, task, purse) if task.held_out else ()
        return ModelRelease(model=model, metrics=metrics, contribution=contribution_of(division, firms, worths))
    model = fit(training, task, purse)
    metrics = measure(model, tested, task, purse)
    worths = {firms: _worth(metrics)}
    for coalition in coalitions(division, firms)[:-1]:
        part, columns = _without(task, by_firm, coalition)
        other = fit(_columns(training, columns), part, purse)
        worths[coalition] = _worth(measure(other, _columns(tested, columns), part, purse))
    return ModelRelease(model=model, metrics=metrics, contribution=contribution_of(division, firms, worths))


def explained(found: Coefficients, task: Task, by_firm: Sequence[str], coalition: Sequence[str]) -> float:
    """Return what part of the label's variation ridge regression on a coalition's coordinates explains, within [0, 1].

    b' (A + ridge I)^-1 b / c of the centred noised moments, as `policies.shares.moment_worth` has it in exact numbers.
    """
    widths = np.repeat(by_firm, [feature.width for feature in task.features])
    chosen = 1 + np.flatnonzero(np.isin(widths, list(coalition)))
    moments = found.moments
    count = moments[0, 0]
    if count <= 0 or not len(chosen):
        return 0.0
    centred = moments - np.outer(moments[0], moments[0]) / count
    gram, target, spread = centred[np.ix_(chosen, chosen)], centred[chosen, -1], centred[-1, -1]
    if spread <= 0:
        return 0.0
    try:
        weights = np.linalg.solve(gram + found.ridge * np.eye(len(chosen)), target)
    except np.linalg.LinAlgError:
        return 0.0
    return float(np.clip(np.nan_to_num(weights @ target / spread), 0.0, 1.0))


def _without(task: Task, by_firm: Sequence[str], coalition: Sequence[str]) -> tuple[Task, Array]:
    """The task on a coalition's features, and the columns of z that it has. It moves no vector further than the whole task does."""
    at, kept = 1, [0]
    features = []
    for feature, firm in zip(task.features, by_firm, strict=True):
        if firm in coalition:
            features.append(feature)
            kept += range(at, at + feature.width)
        at += feature.width
    return replace(task, features=tuple(features)), np.array(kept)


def _columns(rows: Rows, columns: Array) -> Rows:
    return Rows(z=np.ascontiguousarray(rows.z[:, columns]), y=rows.y, starts=rows.starts, persons=rows.persons)


def _worth(metrics: Sequence[Metric]) -> int:
    """The first metric: the area under the ROC curve, the accuracy, or R2."""
    return _millionths(float(metrics[0].value))


def _millionths(value: float) -> int:
    return round(value * WORTH)

"""The one exit. Exact vectors go in; what comes out is noised, suppressed below the minimum group, of padded size and sealed.

Value, absence, order and size of what leaves depend on the data only through noised, charged values: cells are all public combinations of
keys, or those whose noised number of units passes the threshold of a discovery; a cell is suppressed on its noised number of units; HAVING,
ORDER BY and LIMIT read released figures; and the sealed release has one of few sizes.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from enclaves.aggregate import Exact, in_order
from enclaves.cells import Key
from enclaves.dp import add_noise, discover
from enclaves.figures import figures_of
from policies.canonical import canonical
from policies.codec import encode
from policies.declaration import Declaration, day_text, parse_date
from policies.expression import typed
from policies.grant import Grant, grant_digest
from policies.granted import PADDING
from policies.joint_documents import JointRelease
from policies.query import Having, KeyOutput, Order, Plan
from policies.schedule import Statistic
from policies.service import Scores
from policies.shape import shape
from policies.statement import Cell, Figure, Release

_DAY = re.compile(r"\d{4}-\d\d-\d\d\Z")


def pass_gate(exact: Exact, grant: Grant, declarations: Mapping[str, Declaration]) -> Release:
    """Return the release of exact vectors under a grant.

    Raises:
        LossExceeded: a mechanism would cost more than its statistic is granted.
    """
    keys, noised = _noised(exact, grant)
    return Release(
        grant=grant_digest(grant),
        enclave_kind=grant.enclave_kind,
        key_names=key_names(grant.plan),
        cells=released_cells(grant.plan, declarations, grant.statistics, grant.minimum_group, keys, noised),
        minimum_group=grant.minimum_group,
        statistics=grant.statistics,
        loss=grant.loss,
    )


def scores_release(grant: Grant, scores: Scores) -> Release:
    """Return the release of a call of a scoring service: scores, no cells, no noise and no loss."""
    return Release(
        grant=grant_digest(grant),
        enclave_kind=grant.enclave_kind,
        key_names=(),
        cells=(),
        minimum_group=grant.minimum_group,
        statistics=grant.statistics,
        loss=grant.loss,
        scores=scores,
    )


def key_names(plan: Plan) -> tuple[str, ...]:
    """Names of the outputs that hold group keys, as the query selects them."""
    return tuple(output.name for output in plan.outputs if isinstance(output, KeyOutput))


def released_cells(
    plan: Plan,
    declarations: Mapping[str, Declaration],
    statistics: Sequence[Statistic],
    minimum_group: int,
    keys: Sequence[Key],
    noised: Mapping[str, Sequence[int]],
) -> tuple[Cell, ...]:
    """Return what may be shown of noised vectors over `keys`: figures with intervals, cells below the minimum group suppressed.

    Args:
        statistics: with the scale of the noise that the vectors have.
    """
    found = shape(plan.source, declarations)
    computed = [figures_of(output, plan, found, statistics, noised) for output in plan.aggregates]
    dated = [typed(key.expression, found.scope).type == "date" for key in plan.group_by]
    cells = []
    for index, key in enumerate(keys):
        suppressed = minimum_group > 1 and noised["units"][index] < minimum_group
        figures = () if suppressed else tuple(figure(index) for figure in computed)
        cells.append(Cell(keys=_labels(key, dated, plan), suppressed=suppressed, figures=figures))
    return tuple(_arranged(cells, plan))


def pad(release: Release | JointRelease) -> bytes:
    """Return the release as 4-byte big-endian length, canonical JSON and zeros up to a multiple of `PADDING` bytes."""
    data = canonical(encode(release))
    framed = len(data).to_bytes(4, "big") + data
    return framed + bytes(-len(framed) % PADDING)


def _noised(exact: Exact, grant: Grant) -> tuple[tuple[Key, ...], dict[str, Sequence[int]]]:
    """The keys that may be released, in ascending order, and the noised vectors over them.

    Discovered keys: the noised units are drawn first; nothing else is drawn, or said, about a key that stays below the threshold.
    """
    if not grant.plan.discovers:
        return exact.keys, {s.name: add_noise(exact.vectors[s.name], s) for s in grant.aggregated}
    tested = next(s for s in grant.statistics if s.name == "units")
    units = discover(exact.vectors["units"], tested, grant.loss.delta0)
    passed = [index for index, value in enumerate(units) if value is not None]
    noised: dict[str, Sequence[int]] = {"units": [value for value in units if value is not None]}
    for statistic in grant.statistics:
        if statistic.name == "units":
            continue
        width, vector = max(1, statistic.measured.bins), exact.vectors[statistic.name]
        noised[statistic.name] = add_noise([vector[i * width + b] for i in passed for b in range(width)], statistic)
    return tuple(exact.keys[index] for index in passed), noised


def _labels(key: Key, dated: Sequence[bool], plan: Plan) -> Key:
    """Key values in the order in which the query selects them; days as ISO 8601 days, where they have that form."""
    return tuple(_label(key[output.key], dated[output.key]) for output in plan.outputs if isinstance(output, KeyOutput))


def _label(value: int | str | None, is_date: bool) -> int | str | None:
    return (day_text(value) or value) if is_date and isinstance(value, int) else value


def _arranged(cells: list[Cell], plan: Plan) -> list[Cell]:
    """Cells that pass HAVING, in the order asked for, suppressed ones last and ties by key, cut to LIMIT."""
    kept = [cell for cell in cells if all(_passes(cell, rule, plan) for rule in plan.having)]
    if plan.order:
        for order in reversed(plan.order):
            kept.sort(key=_rank(order, plan), reverse=order.descending)
        kept.sort(key=lambda cell: cell.suppressed)
    return kept if plan.limit is None else kept[: plan.limit]


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def _passes(cell: Cell, rule: Having, plan: Plan) -> bool:
    if cell.suppressed:
        return False
    value = _shown(cell, rule.output, plan)
    if isinstance(value, str):
        return _COMPARE[rule.operator](value, rule.value)
    return value is not None and _COMPARE[rule.operator](value, Decimal(rule.value))


def _shown(cell: Cell, name: str, plan: Plan) -> Decimal | int | str | None:
    """The value of an output in a cell: a key, or a figure as it is released; None where the cell is suppressed."""
    names = [output.name for output in plan.outputs if isinstance(output, KeyOutput)]
    if name in names:
        return cell.keys[names.index(name)]
    figure: Figure | None = next((figure for figure in cell.figures if figure.name == name), None)
    return None if figure is None else Decimal(parse_date(figure.value, name) if _DAY.match(figure.value) else figure.value)


def _rank(order: Order, plan: Plan) -> Callable[[Cell], Any]:
    def rank(cell: Cell) -> Any:
        value = _shown(cell, order.output, plan)
        return in_order(value) if isinstance(value, (int, str)) or value is None else (False, False, value)

    return rank

"""How large a release is at least: known before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping

from policies.canonical import canonical
from policies.declaration import Declaration
from policies.errors import Malformed
from policies.granted import MAX_RELEASE, PADDING, PADDING_FOR_SEAL
from policies.query import Plan
from policies.shape import domain_of, public_cells, require_sound

CELL = len('{"figures":[],"keys":[],"suppressed":false},')
FIGURE = len('{"high":"0","low":"0","name":"","value":"0"},')


def least_bytes(plan: Plan, declarations: Mapping[str, Declaration], minimum_group: int) -> int:
    """Return a lower bound of the bytes of a plan's release, whatever is in the data. Raises Malformed for an unsound plan.

    It is 0 where only a run knows how many cells there are: with keys that are not declared, or HAVING. With a minimum group all cells may
    be suppressed, which leaves their keys.
    """
    found = require_sound(plan, declarations)
    cells = public_cells(plan, found.scope)
    if cells is None or plan.having:
        return 0
    shown = cells if plan.limit is None else min(cells, plan.limit)
    figures = 0 if minimum_group > 1 else sum(FIGURE + len(output.name) for output in plan.aggregates)
    shortest = sum(min(len(canonical(value)) for value in domain_of(key, found.scope) or (0,)) + 1 for key in plan.group_by)
    return shown * (CELL + figures + shortest)


def sealed_bytes(release: int) -> int:
    """Return how many bytes a release of so many has to be allowed: framed, padded and sealed."""
    return -(-(release + 4) // PADDING) * PADDING + PADDING_FOR_SEAL


def require_releasable(plan: Plan, declarations: Mapping[str, Declaration], minimum_group: int, most: int = MAX_RELEASE) -> None:
    """Raise Malformed (code `release-too-large`) for a plan of which every release would be withheld for its size, padded and sealed."""
    least = sealed_bytes(least_bytes(plan, declarations, minimum_group))
    if least > most:
        raise Malformed(
            f"the sealed release would have at least {least} bytes, and {most} may leave; ask for fewer cells or columns, or add LIMIT",
            code="release-too-large",
        )

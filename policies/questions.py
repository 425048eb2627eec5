"""What an agreement can know of a plan beforehand: the digests that approve it, the kind of its release, and most rows of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from policies.canonical import digest
from policies.codec import encode
from policies.conditions import OutputKind
from policies.declaration import Declaration
from policies.query import MAX_CELLS, Plan
from policies.shape import public_cells, shape


@lru_cache(maxsize=1024)
def plan_digest(plan: Plan) -> str:
    """Return the digest that names a plan."""
    return digest(encode(plan))


@lru_cache(maxsize=1024)
def template_digest(plan: Plan) -> str:
    """Return the digest that names a plan whatever its constants, HAVING values and LIMIT are."""
    return digest({"template": _without_constants(encode(plan))})


def output_kind(plan: Plan) -> OutputKind:
    """Return what a release of the plan is."""
    if plan.training is not None:
        return "model"
    if plan.scoring is not None:
        return "scores"
    if plan.discovers:
        return "discovered"
    return "table" if plan.group_by else "number"


def most_rows(plan: Plan, declarations: Mapping[str, Declaration]) -> int:
    """Return the most rows that a release can have, from documents alone. Raises Malformed for an unsound plan."""
    if plan.scoring is not None:
        return plan.scoring.rows
    cells = public_cells(plan, shape(plan.source, declarations).scope)
    known = MAX_CELLS if cells is None else cells
    return known if plan.limit is None else min(known, plan.limit)


def _without_constants(value: Any) -> Any:
    """A plan's document with an empty place for every constant: its type stays, its value and precision do not."""
    if isinstance(value, list):
        return [_without_constants(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("kind") == "constant":
        return {"kind": "constant", "type": value["type"]}
    emptied = {name: _without_constants(item) for name, item in value.items() if name != "limit"}
    if {"output", "operator", "value"} <= set(value):
        emptied.pop("value")
    return emptied

"""A plan as its document is written: of one plan the bytes are needed again and again, for its limits, its question and its grant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policies.canonical import canonical
from policies.codec import encode
from policies.errors import Malformed
from policies.recent import Recent

_EMBEDDED_LEVELS = 4
"""Levels of JSON around a plan where it is logged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    text: bytes
    fits: bool


def plan_text(plan: Any) -> bytes:
    """Return the canonical bytes of a plan, of whatever law. Raises Malformed as `canonical`."""
    return _WRITTEN(plan).text


def fits_into_entry(plan: Any) -> bool:
    """Whether a plan is not nested too deep to stand where it is logged."""
    try:
        return _WRITTEN(plan).fits
    except Malformed:
        return False


def _write(plan: Any) -> _Written:
    document, around = encode(plan), _EMBEDDED_LEVELS
    embedded = document
    for _ in range(around):
        embedded = [embedded]
    try:
        return _Written(text=canonical(embedded)[around:-around], fits=True)
    except Malformed:
        return _Written(text=canonical(document), fits=False)


_WRITTEN = Recent(_write)

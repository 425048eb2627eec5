"""One page of a listing: where it starts, how long it may be, and where the next one starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

Position = tuple[str | int, ...]
"""Sort key of one item; unique in its listing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Which items to return: at most `limit`, those after `after` in the order of the listing (None: from its beginning)."""

    limit: int
    after: Position | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing(Generic[T]):
    """Items of one page and, if there are more, the position of the last of them."""

    items: tuple[T, ...]
    next: Position | None

"""Values that follow from documents alone, found again by the identity of the very documents: pure functions need not repeat themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """Results of a pure function of immutable documents and a word. Documents are kept alive with their result, so identity is safe."""

    def __init__(self, derive: Callable[..., V], most: int = 512) -> None:
        self._derive, self._most = derive, most
        self._known: dict[tuple[Any, ...], tuple[tuple[Any, ...], V]] = {}

    def __call__(self, *documents: Any, word: str = "") -> V:
        """The result for these very documents. Raises what the function raises, each time."""
        key = (*map(id, documents), word)
        found = self._known.get(key)
        if found is None:
            found = (documents, self._derive(*documents, word) if word else self._derive(*documents))
            if len(self._known) >= self._most:
                self._known.clear()
            self._known[key] = found
        return found[1]

"""Values that follow from documents alone, found again by the identity of the very documents: pure functions need not repeat themselves."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Generations(Generic[K, V]):
    """A table of what was used of late: at most `most` values, of which those that are used again outlive those that came once.

    New values fill one half. When it is full it becomes the old half, and what stood there is forgotten, but for what was asked for since.
    """

    __slots__ = ("_most", "_old", "_young")

    def __init__(self, most: int) -> None:
        self._most = max(1, most // 2)
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: K) -> V | None:
        """The value of a key, if it is still known."""
        found = self._young.get(key)
        if found is None:
            found = self._old.pop(key, None)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        """Remember a value."""
        if len(self._young) >= self._most:
            self._old, self._young = self._young, {}
        self._young[key] = value


class Recent(Generic[V]):
    """Results of a pure function of immutable documents and a word. Documents are kept alive with their result, so identity is safe."""

    def __init__(self, derive: Callable[..., V], most: int = 1024) -> None:
        self._derive = derive
        self._known: Generations[tuple[Any, ...], tuple[tuple[Any, ...], V]] = Generations(most)

    def __call__(self, *documents: Any, word: str = "") -> V:
        """The result for these very documents. Raises what the function raises, each time."""
        key = (*map(id, documents), word)
        found = self._known.get(key)
        if found is None:
            found = (documents, self._derive(*documents, word) if word else self._derive(*documents))
            self._known.put(key, found)
        return found[1]

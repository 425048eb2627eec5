"""A table from texts to small numbers in a few bytes per text, so that a replay remembers millions of names in little memory."""

from __future__ import annotations

import hashlib

KEY_BYTES = 16
"""Of a text's SHA-256. Finding two texts that share them costs about 2^64 trials and can only add a mismatch, never hide one."""

_SLOT = KEY_BYTES + 1
_FIRST_SLOTS = 1024


class DigestTable:
    """Open addressing over one array of slots: the beginning of the text's SHA-256, then its number; 0 marks a free slot."""

    __slots__ = ("_slots", "_table", "_used")

    def __init__(self) -> None:
        self._slots = _FIRST_SLOTS
        self._table = bytearray(_SLOT * _FIRST_SLOTS)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def __contains__(self, text: str) -> bool:
        return self.get(text) != 0

    def get(self, text: str) -> int:
        """The number of a text; 0 if it has none."""
        return self._table[self._place(_key(text)) + KEY_BYTES]

    def put(self, text: str, number: int = 1) -> None:
        """Give a text a number from 1 to 255, in the place of the one it had."""
        key = _key(text)
        self._put(key, number)
        if 3 * self._used > 2 * self._slots:
            self._grow()

    def _put(self, key: bytes, number: int) -> None:
        at = self._place(key)
        self._used += self._table[at + KEY_BYTES] == 0
        self._table[at : at + _SLOT] = key + bytes((number,))

    def _place(self, key: bytes) -> int:
        """Where the slot of a key begins: its own, or the free one that it would take."""
        slot = int.from_bytes(key[:8], "big") % self._slots
        while True:
            at = slot * _SLOT
            if self._table[at + KEY_BYTES] == 0 or self._table[at : at + KEY_BYTES] == key:
                return at
            slot = (slot + 1) % self._slots

    def _grow(self) -> None:
        old = self._table
        self._slots, self._used = 2 * self._slots, 0
        self._table = bytearray(_SLOT * self._slots)
        for at in range(0, len(old), _SLOT):
            if old[at + KEY_BYTES]:
                self._put(bytes(old[at : at + KEY_BYTES]), old[at + KEY_BYTES])


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]

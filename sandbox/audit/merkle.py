"""RFC 6962 Merkle trees: hashes, proofs, and a follower's frontier. Pure; SHA-256 from `hashlib` only.

A tree of `size` leaves is D[0:size]; every hash is 32 bytes. A *perfect node* (level, index) is the root of
the full subtree over D[index * 2**level : (index + 1) * 2**level]; once complete it never changes. Whoever
stores the perfect nodes can answer for every root and proof with O(log size) lookups through a `Node`
callable.

An empty tree has a root (`EMPTY_ROOT`) but no proofs: nothing is included in it, and a consistency proof from
size 0 would hold for any tree (RFC 9162 section 2.1.4 asks for 0 < m), so both directions refuse it. Whoever
has seen only the empty tree has no history to compare and starts from its first non-empty checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from policies.errors import Malformed, Tampered

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root of the tree without leaves (RFC 6962 section 2.1)."""

Node = Callable[[int, int], bytes]
"""(level, index) -> hash of that perfect node. Asked only for nodes that the given size completes."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of one entry: SHA-256(0x00 || data) (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256(0x01 || left || right) (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The right edge of a tree: enough to append and to know the root, in O(log size) memory. Immutable.

    Invariant: `hashes` are the roots of the perfect subtrees that `size` splits into, largest (leftmost)
        first, so there are as many as `size` has one bits. Appending returns a new value; the old one stays
        valid for its size.

    Raises:
        Malformed: code "frontier", when the invariant does not hold.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.hashes) != self.size.bit_count():
            raise Malformed(f"a frontier of size {self.size} cannot have {len(self.hashes)} hashes", code="frontier")
        if any(len(h) != HASH_BYTES for h in self.hashes):
            raise Malformed(f"a frontier's hashes have {HASH_BYTES} bytes each", code="frontier")

    def append(self, leaf: bytes) -> Frontier:
        """Return the frontier after one more leaf; `leaf` is its `leaf_hash` (32 bytes)."""
        return self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> Frontier:
        """Return the frontier after `leaves` (leaf hashes, 32 bytes each) were appended in order.

        Raises:
            Malformed: code "frontier", for a hash that is not 32 bytes long.
        """
        size, hashes = self.size, list(self.hashes)
        for leaf in leaves:
            if len(leaf) != HASH_BYTES:
                raise Malformed(f"a leaf hash has {HASH_BYTES} bytes", code="frontier")
            current, carry = leaf, size
            while carry & 1:
                current = node_hash(hashes.pop(), current)
                carry >>= 1
            hashes.append(current)
            size += 1
        return Frontier(size=size, hashes=tuple(hashes))

    def root(self) -> bytes:
        """Return the root of the tree (32 bytes)."""
        return _fold(self.hashes)

    def to_json(self) -> dict[str, Any]:
        """Return ``{"size": int, "hashes": [hex, ...]}``, plain JSON values."""
        return {"size": self.size, "hashes": [h.hex() for h in self.hashes]}

    @classmethod
    def from_json(cls, value: object) -> Frontier:
        """Parse what `to_json` returned.

        Raises:
            Malformed: code "frontier", for unknown or missing fields, wrong types or a broken invariant.
        """
        if not isinstance(value, dict) or value.keys() != {"size", "hashes"}:
            raise Malformed('a frontier is {"size": ..., "hashes": [...]}', code="frontier")
        size, texts = value["size"], value["hashes"]
        if type(size) is not int or not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
            raise Malformed("a frontier has an integer size and a list of hexadecimal hashes", code="frontier")
        try:
            hashes = tuple(bytes.fromhex(text) for text in texts)
        except ValueError as error:
            raise Malformed("a frontier's hashes are hexadecimal", code="frontier") from error
        return cls(size=size, hashes=hashes)


def completed_nodes(index: int, leaf: bytes, node: Node) -> list[tuple[int, int, bytes]]:
    """Return the perfect nodes that become complete when leaf `index` is appended, as (level, index, hash).

    The first is the leaf itself at level 0; each further one is its parent while the leaf closes it. `node`
    is asked only for left siblings, which were complete before. `leaf` is the `leaf_hash`.

    Raises:
        Malformed: code "tree-range", for a negative index; code "leaf-hash", for a hash that is not 32 bytes
            long.
    """
    if index < 0:
        raise Malformed("a leaf's index is not negative", code="tree-range")
    if len(leaf) != HASH_BYTES:
        raise Malformed(f"a leaf hash has {HASH_BYTES} bytes", code="leaf-hash")
    level, current = 0, leaf
    done = [(level, index, current)]
    while index & 1:
        current = node_hash(node(level, index - 1), current)
        level, index = level + 1, index >> 1
        done.append((level, index, current))
    return done


def root_from_nodes(size: int, node: Node) -> bytes:
    """Return MTH(D[0:size]) (RFC 6962 section 2.1).

    Raises:
        Malformed: code "tree-range", for a negative size.
    """
    if size < 0:
        raise Malformed("a tree's size is not negative", code="tree-range")
    return _range_root(0, size, node)


def inclusion_proof(index: int, size: int, node: Node) -> tuple[bytes, ...]:
    """Return PATH(index, D[0:size]), from the leaf's sibling up (RFC 6962 section 2.1.1).

    Raises:
        Malformed: code "tree-range", unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise Malformed(f"a tree of {size} leaves has no leaf {index}", code="tree-range")
    from_root: list[bytes] = []
    start, width = 0, size
    while width > 1:
        left = _left_width(width)
        if index - start < left:
            from_root.append(_range_root(start + left, width - left, node))
            width = left
        else:
            from_root.append(_range_root(start, left, node))
            start, width = start + left, width - left
    return tuple(reversed(from_root))


def consistency_proof(old: int, new: int, node: Node) -> tuple[bytes, ...]:
    """Return PROOF(old, D[0:new]); empty when the sizes are equal (RFC 6962 section 2.1.2).

    Raises:
        Malformed: code "tree-range", unless 0 < old <= new.
    """
    if not 0 < old <= new:
        raise Malformed(f"no consistency proof leads from size {old} to size {new}", code="tree-range")
    from_root: list[bytes] = []
    start, width = 0, new
    while start + width != old:
        left = _left_width(width)
        if old - start <= left:
            from_root.append(_range_root(start + left, width - left, node))
            width = left
        else:
            from_root.append(_range_root(start, left, node))
            start, width = start + left, width - left
    if start:
        # A subtree that starts at 0 is the old tree itself, whose root the verifier has already.
        from_root.append(_range_root(start, width, node))
    return tuple(reversed(from_root))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Verify that the leaf hash `leaf` is at `index` in the tree of `size` with `root`.

    The algorithm is RFC 9162 section 2.1.3.2.

    Raises:
        Tampered: code "inclusion-proof".
    """
    code = "inclusion-proof"
    if not 0 <= index < size:
        raise Tampered(f"a tree of {size} leaves has no leaf {index}", code=code)
    _require_hashes((leaf, root, *proof), code)
    position, last, current = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise Tampered("the inclusion proof is too long", code=code)
        if position & 1 or position == last:
            current = node_hash(sibling, current)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        position, last = position >> 1, last >> 1
    if last != 0:
        raise Tampered("the inclusion proof is too short", code=code)
    if current != root:
        raise Tampered("the inclusion proof does not lead to the root", code=code)


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Verify that the old tree is a prefix of the new one (RFC 9162 section 2.1.4.2); size 0 is refused.

    Raises:
        Tampered: code "consistency-proof".
    """
    code = "consistency-proof"
    if not 0 < old_size <= new_size:
        raise Tampered(f"no consistency proof leads from size {old_size} to size {new_size}", code=code)
    _require_hashes((old_root, new_root, *proof), code)
    if old_size == new_size:
        if proof or old_root != new_root:
            raise Tampered("two trees of one size have one root and an empty proof", code=code)
        return
    if not proof:
        raise Tampered("the consistency proof is too short", code=code)
    # An old tree of 2**k leaves is a node of the new one, so its root stands first without being sent.
    path = (old_root, *proof) if old_size.bit_count() == 1 else tuple(proof)
    old_found, new_found, reached_top = _climb_both(old_size - 1, new_size - 1, path)
    if not reached_top:
        raise Tampered("the consistency proof has the wrong length", code=code)
    if old_found != old_root or new_found != new_root:
        raise Tampered("the consistency proof does not lead to both roots", code=code)


def _climb_both(position: int, last: int, path: Sequence[bytes]) -> tuple[bytes, bytes, bool]:
    """Return (old root, new root, whether `path` ended at the top): RFC 9162 2.1.4.2, steps 4 to 7."""
    while position & 1:
        position, last = position >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return old, new, False
        if position & 1 or position == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        position, last = position >> 1, last >> 1
    return old, new, last == 0


def _require_hashes(hashes: Iterable[bytes], code: str) -> None:
    if any(len(h) != HASH_BYTES for h in hashes):
        raise Tampered(f"every hash has {HASH_BYTES} bytes", code=code)


def _left_width(width: int) -> int:
    """Return the largest power of two smaller than `width` (> 1): the leaves of the left child."""
    return 1 << ((width - 1).bit_length() - 1)


def _range_root(start: int, width: int, node: Node) -> bytes:
    """Return MTH(D[start : start + width]); some power of two is at least `width` and divides `start`."""
    return _fold(tuple(node(level, index) for level, index in _perfect_parts(start, width)))


def _perfect_parts(start: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield the perfect nodes (level, index) that an aligned range splits into, largest first."""
    for level in range(width.bit_length() - 1, -1, -1):
        if width >> level & 1:
            yield level, start >> level
            start += 1 << level


def _fold(parts: Sequence[bytes]) -> bytes:
    """Return the root over the roots of adjacent perfect subtrees, largest first."""
    if not parts:
        return EMPTY_ROOT
    current = parts[-1]
    for left in reversed(parts[:-1]):
        current = node_hash(left, current)
    return current

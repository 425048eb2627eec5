"""Merkle hashing and proofs against published vectors and a naive implementation of RFC 6962."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.errors import Malformed, Tampered
from sandbox.audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    completed_nodes,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_from_nodes,
    verify_consistency,
    verify_inclusion,
)
from tests.support.vectors import PUBLISHED, needs

PROOFS = PUBLISHED / "tlog/proofs"
MAX_LEAVES = 70


def _vectors(name: str) -> list[dict[str, Any]]:
    if not PROOFS.is_dir():
        return []
    loaded: list[dict[str, Any]] = json.loads((PROOFS / name).read_text())
    return loaded


INCLUSION, CONSISTENCY = _vectors("inclusion.json"), _vectors("consistency.json")


# RFC 6962 section 2.1, recursive and over whole lists of entries.


def _split(count: int) -> int:
    k = 1
    while k * 2 < count:
        k *= 2
    return k


def mth(entries: list[bytes]) -> bytes:
    if not entries:
        return hashlib.sha256().digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = _split(len(entries))
    return hashlib.sha256(b"\x01" + mth(entries[:k]) + mth(entries[k:])).digest()


def naive_path(m: int, entries: list[bytes]) -> list[bytes]:
    if len(entries) == 1:
        return []
    k = _split(len(entries))
    if m < k:
        return [*naive_path(m, entries[:k]), mth(entries[k:])]
    return [*naive_path(m - k, entries[k:]), mth(entries[:k])]


def naive_subproof(m: int, entries: list[bytes], whole: bool) -> list[bytes]:
    if m == len(entries):
        return [] if whole else [mth(entries)]
    k = _split(len(entries))
    if m <= k:
        return [*naive_subproof(m, entries[:k], whole), mth(entries[k:])]
    return [*naive_subproof(m - k, entries[k:], False), mth(entries[:k])]


class NodeTable:
    """Perfect nodes as a store keeps them, counting how often it is asked."""

    def __init__(self, entries: list[bytes]) -> None:
        self.nodes: dict[tuple[int, int], bytes] = {}
        self.lookups = 0
        for index, entry in enumerate(entries):
            for level, position, value in completed_nodes(index, leaf_hash(entry), self):
                assert (level, position) not in self.nodes
                self.nodes[level, position] = value
        self.lookups = 0

    def __call__(self, level: int, index: int) -> bytes:
        self.lookups += 1
        return self.nodes[level, index]


def _entries(count: int) -> list[bytes]:
    return [b"entry %d" % i for i in range(count)]


ALL = _entries(MAX_LEAVES)
TABLE = NodeTable(ALL)
entry_lists = st.lists(st.binary(max_size=8), max_size=40)


def _hash(text: str | None) -> bytes:
    return base64.b64decode(text or "")


@needs("tlog/proofs")
@pytest.mark.parametrize("case", INCLUSION, ids=lambda c: c["name"])
def test_published_inclusion_proofs_are_judged_as_published(case: dict[str, Any]) -> None:
    arguments = (
        _hash(case["leafHash"]),
        case["leafIdx"],
        case["treeSize"],
        [_hash(h) for h in case["proof"] or ()],
        _hash(case["root"]),
    )
    if case["wantErr"]:
        with pytest.raises(Tampered) as caught:
            verify_inclusion(*arguments)
        assert caught.value.code == "inclusion-proof"
    else:
        verify_inclusion(*arguments)


@needs("tlog/proofs")
@pytest.mark.parametrize("case", CONSISTENCY, ids=lambda c: c["name"])
def test_published_consistency_proofs_are_judged_as_published(case: dict[str, Any]) -> None:
    arguments = (
        case["size1"],
        _hash(case["root1"]),
        case["size2"],
        _hash(case["root2"]),
        [_hash(h) for h in case["proof"] or ()],
    )
    if case["wantErr"]:
        with pytest.raises(Tampered) as caught:
            verify_consistency(*arguments)
        assert caught.value.code == "consistency-proof"
    else:
        verify_consistency(*arguments)


@needs("tlog/proofs")
def test_published_vectors_contain_good_and_bad_proofs() -> None:
    for cases in (INCLUSION, CONSISTENCY):
        assert {case["wantErr"] for case in cases} == {True, False}


def test_the_empty_tree_has_the_root_of_rfc_6962() -> None:
    # SHA-256 of nothing, FIPS 180-4.
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Frontier().root() == root_from_nodes(0, TABLE) == EMPTY_ROOT


def test_a_leaf_cannot_pass_as_an_inner_node() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)


@given(entry_lists, entry_lists)
@settings(deadline=None)
def test_frontier_has_the_root_of_the_naive_tree_after_every_append(first: list[bytes], more: list[bytes]) -> None:
    frontier = Frontier().extend(leaf_hash(entry) for entry in first)
    for done, entry in enumerate(more):
        assert frontier.root() == mth(first + more[:done])
        frontier = frontier.append(leaf_hash(entry))
    assert frontier.size == len(first) + len(more)
    assert frontier.root() == mth(first + more)
    assert Frontier.from_json(json.loads(json.dumps(frontier.to_json()))) == frontier


def test_appending_leaves_the_earlier_frontier_untouched() -> None:
    earlier = Frontier().extend(leaf_hash(entry) for entry in ALL[:7])
    earlier.append(leaf_hash(b"more"))
    assert earlier.root() == mth(ALL[:7])


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"size": 1, "hashes": []},
        {"size": 0, "hashes": ["00" * 32]},
        {"size": -1, "hashes": ["00" * 32]},
        {"size": True, "hashes": ["00" * 32]},
        {"size": 1.0, "hashes": ["00" * 32]},
        {"size": 1, "hashes": ["00" * 31]},
        {"size": 1, "hashes": ["zz" * 32]},
        {"size": 1, "hashes": [7]},
        {"size": 1, "hashes": "00" * 32},
        {"size": 1, "hashes": ["00" * 32], "more": 1},
    ],
)
def test_a_damaged_frontier_is_malformed(value: object) -> None:
    with pytest.raises(Malformed) as caught:
        Frontier.from_json(value)
    assert caught.value.code == "frontier"


@given(st.binary(max_size=64).filter(lambda h: len(h) != 32))
def test_nothing_but_32_byte_hashes_enters_a_tree(short: bytes) -> None:
    with pytest.raises(Malformed):
        Frontier().append(short)
    with pytest.raises(Malformed):
        completed_nodes(0, short, TABLE)


def test_completed_nodes_are_exactly_the_perfect_subtrees() -> None:
    expected = {
        (level, index): mth(ALL[index << level : (index + 1) << level])
        for level in range(MAX_LEAVES.bit_length())
        for index in range(MAX_LEAVES >> level)
    }
    assert TABLE.nodes == expected


@pytest.mark.parametrize("size", range(MAX_LEAVES + 1))
def test_roots_and_inclusion_proofs_equal_the_naive_ones(size: int) -> None:
    tree = ALL[:size]
    root = root_from_nodes(size, TABLE)
    assert root == mth(tree)
    for index in range(size):
        proof = inclusion_proof(index, size, TABLE)
        assert list(proof) == naive_path(index, tree)
        verify_inclusion(leaf_hash(tree[index]), index, size, proof, root)


@pytest.mark.parametrize("new", range(1, MAX_LEAVES + 1))
def test_consistency_proofs_equal_the_naive_ones(new: int) -> None:
    for old in range(1, new + 1):
        proof = consistency_proof(old, new, TABLE)
        assert list(proof) == naive_subproof(old, ALL[:new], True)
        verify_consistency(old, root_from_nodes(old, TABLE), new, root_from_nodes(new, TABLE), proof)


def test_proofs_cost_logarithmically_many_lookups() -> None:
    for size in range(1, MAX_LEAVES + 1):
        bound = 2 * size.bit_length()
        for index in range(size):
            for prove in (
                lambda i, n: inclusion_proof(i, n, TABLE),
                lambda i, n: consistency_proof(i + 1, n, TABLE),
                lambda i, n: root_from_nodes(n, TABLE),
            ):
                TABLE.lookups = 0
                prove(index, size)
                assert bound >= TABLE.lookups


def test_proofs_of_a_huge_tree_read_only_nodes_that_its_size_completes() -> None:
    size, old = 2**40 + 12_345, 2**39 + 777
    asked: list[tuple[int, int]] = []

    def node(level: int, index: int) -> bytes:
        asked.append((level, index))
        return leaf_hash(b"%d %d" % (level, index))

    proof = inclusion_proof(size - 1, size, node)
    consistency_proof(old, size, node)
    assert len(proof) <= 41
    assert len(asked) <= 4 * 41
    assert all((index + 1) << level <= size for level, index in asked)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0), (0, -1)])
def test_no_inclusion_proof_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(Malformed):
        inclusion_proof(index, size, TABLE)


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 3), (4, 3), (-1, 3)])
def test_no_consistency_proof_from_an_empty_tree_or_backwards(old: int, new: int) -> None:
    with pytest.raises(Malformed):
        consistency_proof(old, new, TABLE)
    with pytest.raises(Tampered):
        verify_consistency(old, mth(ALL[: max(old, 0)]), new, mth(ALL[:new]), [])


def test_negative_sizes_and_indices_are_malformed() -> None:
    with pytest.raises(Malformed):
        root_from_nodes(-1, TABLE)
    with pytest.raises(Malformed):
        completed_nodes(-1, leaf_hash(b""), TABLE)


def _flip(value: bytes, bit: int) -> bytes:
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _damaged(proof: tuple[bytes, ...], at: int, bit: int) -> list[list[bytes]]:
    """The proof with a flipped bit, a missing hash, an extra one, a shortened one, and two exchanged."""
    at %= len(proof)
    hashes = list(proof)
    variants = [
        [*hashes[:at], _flip(hashes[at], bit), *hashes[at + 1 :]],
        hashes[:at] + hashes[at + 1 :],
        [*hashes[:at], hashes[at], *hashes[at:]],
        [*hashes, EMPTY_ROOT],
        [*hashes[:at], hashes[at][:-1], *hashes[at + 1 :]],
    ]
    if len(hashes) > 1:
        variants.append(hashes[1:] + hashes[:1])
    return variants


@given(st.data())
def test_damaged_inclusion_proofs_are_rejected(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, MAX_LEAVES))
    index = data.draw(st.integers(0, size - 1))
    at, bit = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 255))
    leaf, root = leaf_hash(ALL[index]), mth(ALL[:size])
    proof = inclusion_proof(index, size, TABLE)
    attempts = [(leaf, index, size, bad, root) for bad in _damaged(proof, at, bit)]
    attempts += [
        (_flip(leaf, bit), index, size, list(proof), root),
        (leaf, index, size, list(proof), _flip(root, bit)),
        (leaf, data.draw(st.integers(-1, size).filter(lambda i: i != index)), size, list(proof), root),
    ]
    for attempt in attempts:
        with pytest.raises(Tampered):
            verify_inclusion(*attempt)


@given(st.data())
def test_damaged_consistency_proofs_are_rejected(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, MAX_LEAVES))
    old = data.draw(st.integers(1, new - 1))
    at, bit = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 255))
    old_root, new_root = mth(ALL[:old]), mth(ALL[:new])
    proof = consistency_proof(old, new, TABLE)
    attempts = [(old, old_root, new, bad, new_root) for bad in _damaged(proof, at, bit)]
    attempts += [
        (old, _flip(old_root, bit), new, list(proof), new_root),
        (old, old_root, new, list(proof), _flip(new_root, bit)),
        (new, new_root, old, list(proof), old_root),
        (0, EMPTY_ROOT, new, list(proof), new_root),
    ]
    for size, root, newer, path, newer_root in attempts:
        with pytest.raises(Tampered):
            verify_consistency(size, root, newer, newer_root, path)


@given(st.data())
@settings(deadline=None)
def test_a_rewritten_history_has_no_consistency_proof_of_its_own(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, 40))
    old = data.draw(st.integers(1, new))
    changed = data.draw(st.integers(0, old - 1))
    forged = [*ALL[:changed], b"rewritten", *ALL[changed + 1 : new]]
    table = NodeTable(forged)
    with pytest.raises(Tampered):
        verify_consistency(old, mth(ALL[:old]), new, mth(forged), consistency_proof(old, new, table))

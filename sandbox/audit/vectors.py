"""Published vectors of RFC 6962 proofs (transparency-dev/merkle), run through this verifier.

A case has `leafIdx`, `treeSize`, `leafHash`, `root`, `proof` (inclusion) or `size1`, `root1`, `size2`, `root2`, `proof` (consistency),
hashes in base64, and `wantErr`. Trees of size 0 and empty hashes prove nothing, so they are errors here whatever a vector says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policies.errors import Malformed, Tampered
from sandbox.audit.checkpoint import decode_base64
from sandbox.audit.merkle import verify_consistency, verify_inclusion

INCLUSION = frozenset({"leafIdx", "treeSize", "leafHash", "root"})
CONSISTENCY = frozenset({"size1", "root1", "size2", "root2"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A vector that is judged otherwise than it says."""

    case: str
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """How many vectors there are, how many are judged as they say, and the others."""

    cases: int
    ok: int
    failures: tuple[Failure, ...]


def verify_vectors(document: Any) -> Report:
    """Judge a file of vectors: a list of cases. Raises Malformed where it is none."""
    if not isinstance(document, list) or not document:
        raise Malformed("vectors are a list of inclusion or consistency proofs")
    failures = []
    for number, case in enumerate(document):
        if not isinstance(case, dict) or not (case.keys() >= INCLUSION or case.keys() >= CONSISTENCY):
            raise Malformed("a vector has the fields of an inclusion or of a consistency proof", where=f"case {number}")
        what = _judged(case)
        if what:
            failures.append(Failure(case=str(case.get("name", number)), what=what))
    return Report(cases=len(document), ok=len(document) - len(failures), failures=tuple(failures))


def _judged(case: Mapping[str, Any]) -> str:
    """What is wrong with how a case is judged; empty where it is judged as it should be."""
    wanted = bool(case.get("wantErr")) or _is_degenerate(case)
    try:
        _verify(case)
    except (Tampered, Malformed) as error:
        return "" if wanted else f"refused: {error}"
    return "accepted" if wanted else ""


def _verify(case: Mapping[str, Any]) -> None:
    proof = [_hash(item) for item in case.get("proof") or ()]
    if case.keys() >= INCLUSION:
        index, size = _size(case["leafIdx"]), _size(case["treeSize"])
        verify_inclusion(_hash(case["leafHash"]), index, size, proof, _hash(case["root"]))
    else:
        old, new = _size(case["size1"]), _size(case["size2"])
        verify_consistency(old, _hash(case["root1"]), new, _hash(case["root2"]), proof)


def _is_degenerate(case: Mapping[str, Any]) -> bool:
    names = ("treeSize", "leafHash", "root") if case.keys() >= INCLUSION else ("size1", "size2", "root1", "root2")
    return any(not case[name] for name in names)


def _hash(text: Any) -> bytes:
    if text is None:
        return b""
    if not isinstance(text, str):
        raise Malformed("a hash is base64")
    return decode_base64(text, "vectors")


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64:
        raise Malformed("a size or index is an integer of 64 bits")
    return value

"""Proofs of inclusion as files that other tools verify: C2SP tlog-proof, version 1."""

from __future__ import annotations

import re
from dataclasses import dataclass

from policies.errors import Malformed
from sandbox.audit.checkpoint import Checkpoint, LogKey, decode_base64, encode_base64, open_checkpoint
from sandbox.audit.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from sandbox.audit.witness_policy import WitnessPolicy

FIRST = "c2sp.org/tlog-proof@v1"
MAX_HASHES = 63
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, kw_only=True, slots=True)
class TlogProof:
    """That an entry is in a log.

    Attributes:
        proof: RFC 6962 inclusion proof, from the leaf's sibling up, 32 bytes each.
        note: the signed checkpoint, with whatever cosignatures it has.
        extra: what the application likes; not authenticated.
    """

    index: int
    proof: tuple[bytes, ...]
    note: str
    extra: bytes = b""

    def render(self) -> str:
        """The text of the file."""
        lines = [FIRST, *([f"extra {encode_base64(self.extra)}"] if self.extra else []), f"index {self.index}"]
        return "\n".join([*lines, *map(encode_base64, self.proof), "", self.note])


def parse_proof(text: str) -> TlogProof:
    """Parse a proof file. Raises Malformed (code "tlog-proof")."""
    head, separator, note = text.partition("\n\n")
    first, *lines = head.split("\n")
    if first != FIRST or not separator:
        raise Malformed(f"a proof begins with `{FIRST}` and ends with a checkpoint", code="tlog-proof")
    extra = decode_base64(lines.pop(0).removeprefix("extra "), "tlog-proof") if lines and lines[0].startswith("extra ") else b""
    match = _INDEX.fullmatch(lines.pop(0)) if lines else None
    if match is None or len(lines) > MAX_HASHES:
        raise Malformed("a proof has an index and at most 63 hashes", code="tlog-proof")
    proof = tuple(decode_base64(line, "tlog-proof") for line in lines)
    if any(len(item) != HASH_BYTES for item in proof):
        raise Malformed(f"a hash has {HASH_BYTES} bytes", code="tlog-proof")
    return TlogProof(index=int(match[1]), proof=proof, note=note, extra=extra)


def verify_proof(proof: TlogProof, entry: bytes, key: LogKey, policy: WitnessPolicy | None = None) -> Checkpoint:
    """Return the checkpoint under which `entry` is in the log, cosigned as `policy` asks.

    Raises:
        Tampered: code `inclusion-proof`, `checkpoint-signature`, `checkpoint-origin`, `cosignature` or `witness-quorum`.
        Malformed: the checkpoint is none.
    """
    checkpoint = open_checkpoint(proof.note, key)
    if policy is not None:
        policy.require(proof.note)
    verify_inclusion(leaf_hash(entry), proof.index, checkpoint.size, proof.proof, checkpoint.root)
    return checkpoint

"""Durable appends to the stored log, and verification of inclusion proofs.

`appends_per_s`: entries of about 450 bytes with openings of about 700, in transactions of `--batch`, each with its signed checkpoint, on
SQLite in WAL mode with synchronous=FULL. `synced_writes_per_s` is the floor in the same run: one `fsync` per batch of as many bytes.
`verifies_per_s`: inclusion proofs in a tree of `--leaves` leaves, each of another leaf. `hashes_per_s` is the floor of that: the SHA-256
of as many nodes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import tempfile
import time
from pathlib import Path

from app import compose
from policies.entries import LedgerCharge
from sandbox.audit.merkle import Frontier, completed_nodes, inclusion_proof, leaf_hash, verify_inclusion
from sandbox.config import Config
from sandbox.store.log import NewEntry

BYTES_OF_AN_ENTRY = 1200


def appends(entries: int, batch: int, repeats: int) -> tuple[float, float]:
    """Entries per second that are on disk under a checkpoint, and the floor, fsynced batches of as many bytes; the best of `repeats`."""
    best = floor = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(repeats):
            host = compose(Config(data=Path(scratch) / f"data-{number}"))
            started = time.perf_counter()
            for first in range(0, entries, batch):
                with host.store.transaction() as tx:
                    tx.append_all([_draft(first + at) for at in range(min(batch, entries - first))])
                host.publish()
            best = max(best, entries / (time.perf_counter() - started))
            host.store.close()
            floor = max(floor, _synced(Path(scratch) / "floor", entries, batch))
    return best, floor


def _draft(number: int) -> NewEntry:
    digest = "sha256:" + hashlib.sha256(b"%d" % number).hexdigest()
    return NewEntry(
        kind="charged",
        at=1_780_272_000_000 + number,
        ids={"job": f"job-{number:020d}", "agreement": digest, "grant": digest, "consumer": "institute"},
        losses=(LedgerCharge(provider="insurer", id_space="people", amount=1),),
        body={"job": f"job-{number:020d}", "note": digest * 8},
    )


def _synced(path: Path, entries: int, batch: int) -> float:
    data, started = os.urandom(BYTES_OF_AN_ENTRY * batch), time.perf_counter()
    with path.open("wb") as file:
        for _ in range(0, entries, batch):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    return entries / (time.perf_counter() - started)


def verifies(leaves: int, sample: int, repeats: int) -> tuple[float, float]:
    """Inclusion proofs verified per second, and the floor: the same number of node hashes; the best of `repeats`."""
    nodes: dict[tuple[int, int], bytes] = {}
    hashes = [leaf_hash(b"entry %d" % at) for at in range(leaves)]
    for index, leaf in enumerate(hashes):
        for level, position, value in completed_nodes(index, leaf, lambda *at: nodes[at]):
            nodes[level, position] = value
    root = Frontier().extend(hashes).root()
    chosen = random.Random(1).sample(range(leaves), min(sample, leaves))
    proofs = [(hashes[at], at, inclusion_proof(at, leaves, lambda *place: nodes[place])) for at in chosen]
    best, floor = 0.0, 0.0
    for _ in range(repeats):
        started = time.perf_counter()
        for leaf, index, proof in proofs:
            verify_inclusion(leaf, index, leaves, proof, root)
        best = max(best, len(proofs) / (time.perf_counter() - started))
        started = time.perf_counter()
        for leaf, _, proof in proofs:
            for sibling in proof:
                hashlib.sha256(b"\x01" + leaf + sibling).digest()
        floor = max(floor, len(proofs) / (time.perf_counter() - started))
    return best, floor


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--leaves", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small log and tree, once")
    asked = parser.parse_args()
    entries, leaves, repeats = (2_000, 5_000, 1) if asked.quick else (asked.entries, asked.leaves, asked.repeats)
    appended, synced = appends(entries, asked.batch, repeats)
    verified, hashed = verifies(leaves, 20_000, repeats)
    found = {
        "appends_per_s": round(appended),
        "batch": asked.batch,
        "synced_writes_per_s": round(synced),
        "verifies_per_s": round(verified),
        "verify_to_hash_floor": round(hashed / verified, 2),
        "hashes_per_s": round(hashed),
        "leaves": leaves,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

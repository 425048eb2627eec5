"""Reading encrypted columns beside plain Parquet with zstd, and publishing: encode, encrypt, digest and wrap keys.

`python -m benchmarks.columns [--rows N] [--quick] [--repeats N] [--profile]`. Everything runs on one core and in memory; figures are the
least processor seconds of several alternating runs, so that what else the machine does matters little. Raw bytes are those of the table in
Arrow. The last line is one JSON object: `read_ratio` (all columns; `read_one_ratio` one of them) and `publish_mb_per_s_core`.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import io
import json
import os
import pstats
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from enclaves.kit.columns import FOOTER, KEY_BYTES, decrypt_columns, encrypt_table, key_context
from enclaves.kit.sealing import wrap_key

ROWS, QUICK_ROWS = 4_000_000, 200_000
DATASET, VERSION = "north.visits", 1


def visits(rows: int) -> pa.Table:
    """Ids, a year, a region's name, a rate and an amount in cents: what firms' tables are made of."""
    draw = np.random.default_rng(7)
    regions = pa.array([f"region-{number:03d}" for number in range(400)])
    return pa.table(
        {
            "person_id": pa.array(draw.integers(0, rows // 5 + 1, rows), pa.int64()),
            "year": pa.array(draw.integers(2015, 2026, rows), pa.int64()),
            "region": regions.take(pa.array(draw.integers(0, 400, rows))),
            "rate": pa.array(draw.random(rows)),
            "amount": pa.array(draw.lognormal(8, 1.5, rows).astype(np.int64)),
        }
    )


def publish(table: pa.Table, keys: dict[str, bytes]) -> bytes:
    """What `sandbox.party.publish` does with a table besides sending it: encrypt, digest, wrap the column keys."""
    sink = io.BytesIO()
    encrypt_table(table, sink, dataset=DATASET, version=VERSION, keys=keys)
    file = sink.getvalue()
    hashlib.sha256(file).hexdigest()
    for name, key in keys.items():
        wrap_key(b"w" * KEY_BYTES, key, key_context(DATASET, VERSION, name))
    return file


def plain(table: pa.Table) -> bytes:
    """The same table in Parquet, compressed with zstd, without encryption."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_statistics=False, write_page_index=False)
    return sink.getvalue()


def least(repeats: int, *works: Callable[[], Any]) -> list[float]:
    """Least processor seconds of each of several works, taken in turns."""
    found = [float("inf")] * len(works)
    for _ in range(repeats):
        for place, work in enumerate(works):
            started = time.process_time()
            work()
            found[place] = min(found[place], time.process_time() - started)
    return found


def measured(rows: int, repeats: int) -> dict[str, Any]:
    """All figures."""
    table = visits(rows)
    keys = {name: os.urandom(KEY_BYTES) for name in (FOOTER, *table.column_names)}
    encrypted, clear = publish(table, keys), plain(table)

    def read(columns: list[str]) -> pa.Table:
        return decrypt_columns(encrypted, dataset=DATASET, version=VERSION, keys=keys, columns=columns)

    assert read(table.column_names).equals(pq.read_table(pa.BufferReader(clear)))
    everything, every_plain, one, one_plain, digest = least(
        repeats,
        lambda: read(table.column_names),
        lambda: pq.read_table(pa.BufferReader(clear), use_threads=False),
        lambda: read(["amount"]),
        lambda: pq.read_table(pa.BufferReader(clear), columns=["amount"], use_threads=False),
        lambda: hashlib.sha256(encrypted).hexdigest(),
    )
    published, written = least(repeats, lambda: publish(table, keys), lambda: plain(table))
    raw = table.nbytes / 1e6
    return {
        "read_ratio": everything / every_plain,
        "read_one_ratio": one / one_plain,
        "read_with_digest_ratio": (everything + digest) / every_plain,
        "publish_mb_per_s_core": raw / published,
        "publish_ratio": published / written,
        "raw_mb": raw,
        "file_mb": len(encrypted) / 1e6,
        "file_ratio": len(encrypted) / len(clear),
        "rows": rows,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--profile", action="store_true", help="also print where publication spends its time")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    rows = options.rows or (QUICK_ROWS if options.quick else ROWS)
    if options.profile:
        table = visits(rows)
        keys = {name: os.urandom(KEY_BYTES) for name in (FOOTER, *table.column_names)}
        with cProfile.Profile() as profile:
            publish(table, keys)
        pstats.Stats(profile).sort_stats("tottime").print_stats(8)
    found = measured(rows, options.repeats)
    print(json.dumps({name: round(value, 3) for name, value in found.items()} | {"load": round(os.getloadavg()[0], 1)}))


if __name__ == "__main__":
    main()

"""The product and its peers on the same rows in two orders, under the bounds that all of them can keep: 15 rows per person.

`shuffled`: in an order drawn at random, as the rows of a home come in. `clustered`: in the regular order of `_dp_data.visits`. The product
answers both from what a home publishes of these rows, which it sorts once, and besides from the rows as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks._dp_baselines import PLAIN, Duck, best_of, errors, figures
from benchmarks._dp_data import VISITS_BY_ROWS
from benchmarks._dp_stage import ONE, stage
from benchmarks.peers.environments import PEERS, interpreter, measure
from enclaves.kit.prepared import prepared

SEED = 20
ORDERS = {"shuffled": PEERS, "clustered": tuple(peer for peer in PEERS if peer != "tumult")}
"""Which peers are asked in which order. Tumult takes too long to be asked twice."""


def shuffled(table: pa.Table) -> pa.Table:
    """The same rows in an order drawn at random; the same every time."""
    return table.take(np.random.default_rng(SEED).permutation(table.num_rows)).combine_chunks()


def beside_peers(clustered: pa.Table, folder: Path, core: int, patience: float, repeats: int) -> dict[str, dict[str, Any]]:
    """By order of rows: the product's seconds, every installed peer's, and these over those."""
    found = {}
    for order, asked in ORDERS.items():
        table = shuffled(clustered) if order == "shuffled" else clustered
        path = folder / f"{order}.parquet"
        pq.write_table(table, path)
        ours = _ours(table, repeats)
        found[order] = {"ours": ours} | {peer: _beside(peer, path, ours, core, patience) for peer in asked}
        path.unlink()
    return found


def _ours(table: pa.Table, repeats: int) -> dict[str, Any]:
    with_exact = Duck({"visits": table}, own=False)
    exact = with_exact.ask(PLAIN)
    with_exact.close()
    coming, _ = best_of(repeats, stage(ONE, (VISITS_BY_ROWS,), {"north.visits": table}).release)
    preparing, ready = best_of(1, lambda: prepared(table, VISITS_BY_ROWS))
    once, release = best_of(repeats + 3, stage(ONE, (VISITS_BY_ROWS,), {"north.visits": ready}).release)
    return {
        "prepared_cpu_s": once.cpu,
        "prepared_wall_s": once.wall,
        "preparing_once_cpu_s": preparing.cpu,
        "on_the_fly_cpu_s": coming.cpu,
        "errors": errors(figures(release), exact),
    }


def _beside(peer: str, path: Path, ours: dict[str, Any], core: int, patience: float) -> dict[str, Any]:
    if not interpreter(peer).exists():
        return {"failed": "not installed: python -m benchmarks.peers --install-only"}
    found = measure(peer, path, core=core, seconds=patience)
    if "seconds" in found:
        # Tumult works in a process of its own, Spark's.
        theirs, mine = ("seconds", "prepared_wall_s") if peer == "tumult" else ("cpu_s", "prepared_cpu_s")
        found["ratio"] = found[theirs] / ours[mine]
        found["ratio_to_on_the_fly"] = found[theirs] / ours["on_the_fly_cpu_s"]
    elif "longer_than_s" in found:
        found["ratio_at_least"] = found["longer_than_s"] / ours["prepared_wall_s"]
    return found

"""Counts and two sums per region of ten million visits under differential privacy, beside plain DuckDB on the same tables and one core.

`python -m benchmarks.dp_sql [--rows N] [--quick] [--no-peers]`. Bounds: a person in 3 of 1000 regions, 5 rows in each; epsilon 1. Ratios
are of processor seconds, the least of several runs in one process on one core, so that what else the machine does matters little. Tumult
is timed by the clock. The last line is one JSON object; null is what was not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import opendp.prelude as dp
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks._dp_baselines import BOUNDED, BOUNDED_ROWS, JOINED, PLAIN, Cost, Duck, best_of, errors, figures
from benchmarks._dp_data import PEOPLE, ROWS_PER_PERSON, VISITS, VISITS_BY_ROWS, Layout, people, visits
from benchmarks._dp_peers import beside_peers
from benchmarks._dp_stage import JOINED as JOINED_PLAN
from benchmarks._dp_stage import ONE, Stage, stage
from enclaves.dp import add_noise
from enclaves.kit.prepared import prepared
from policies.privacy import SCALE_UNIT

ROWS, QUICK_ROWS = 10_000_000, 200_000
NOISED, QUICK_NOISED = 1_000_000, 20_000
GROWTH = (1, 3, 10)
"""How many times the rows of the other parts `linear` reads."""

ALL_CORES = os.sched_getaffinity(0)


def on_one_core() -> int:
    """Keep this process to the last core that it may use, and return it."""
    core = max(ALL_CORES)
    os.sched_setaffinity(0, {core})
    return core


def prepared_in_memory(table: pa.Table, repeats: int) -> dict[str, Any]:
    """The same on the table as a home publishes it; plain DuckDB on the table as it was, and on the prepared one."""
    ready = prepared(table, VISITS)
    laid = stage(ONE, (VISITS,), {"north.visits": ready})
    raw, same = Duck({"visits": table}, own=False), Duck({"visits": ready}, own=False)
    turns = [
        (best_of(2, lambda: raw.ask(PLAIN))[0], best_of(1, laid.release), best_of(2, lambda: same.ask(PLAIN))[0])
        for _ in range(repeats + 4)
    ]
    plain, plain_same, ours = (
        least(cost for cost in column) for column in ([t[0] for t in turns], [t[2] for t in turns], [t[1][0] for t in turns])
    )
    by_rows, _ = best_of(repeats + 1, stage(ONE, (VISITS_BY_ROWS,), {"north.visits": ready}).release)
    making, _ = best_of(1, lambda: prepared(table, VISITS))
    exact = raw.ask(PLAIN)
    raw.close()
    same.close()
    return {
        **seconds("plain", plain),
        **seconds("plain_on_prepared", plain_same),
        **seconds("prepared", ours),
        **seconds("prepared_by_rows", by_rows),
        **seconds("preparing", making),
        "ratio": ours.cpu / plain.cpu,
        "ratio_to_plain_on_prepared": ours.cpu / plain_same.cpu,
        "errors": errors(figures(turns[-1][1][1]), exact),
    }


def least(costs: Iterable[Cost]) -> Cost:
    """The least of each figure."""
    listed = list(costs)
    return Cost(cpu=min(cost.cpu for cost in listed), wall=min(cost.wall for cost in listed))


def in_memory(layout: Layout, table: pa.Table, repeats: int) -> dict[str, Any]:
    """The product's bounding, aggregates and noise, plain DuckDB and the bounding by hand, from the same Arrow table."""
    laid = stage(ONE, (VISITS,), {"north.visits": table})
    duck, own = Duck({"visits": table}, own=False), Duck({"visits": table}, own=True)
    plain, exact = best_of(repeats + 3, lambda: duck.ask(PLAIN))
    plain_own, _ = best_of(repeats + 3, lambda: own.ask(PLAIN))
    by_hand, bounded = best_of(repeats, lambda: duck.ask(BOUNDED))
    ours, release = best_of(repeats, laid.release)
    dropping, _ = best_of(1, lambda: duck.ask(BOUNDED_ROWS))
    rows_only = stage(ONE, (VISITS_BY_ROWS,), {"north.visits": table})
    by_rows, by_rows_release = best_of(repeats, rows_only.release)
    duck.close()
    own.close()
    return {
        "layout": layout,
        **seconds("plain", plain),
        **seconds("plain_own_table", plain_own),
        **seconds("on_the_fly", ours),
        **seconds("on_the_fly_by_rows", by_rows),
        **seconds("by_hand", by_hand),
        **seconds("by_hand_dropping_rows", dropping),
        "ratio": ours.cpu / plain.cpu,
        "ratio_to_own_table": ours.cpu / plain_own.cpu,
        "ratio_to_by_hand": ours.cpu / by_hand.cpu,
        "ratio_by_rows": by_rows.cpu / plain.cpu,
        "errors": errors(figures(release), exact),
        "errors_by_rows": errors(figures(by_rows_release), exact),
        "errors_of_bounding": errors([(r, n, a, c / 100) for r, n, a, c in bounded], exact),
    }


def seconds(name: str, cost: Cost) -> dict[str, float]:
    """A cost under a name."""
    return {f"{name}_cpu_s": round(cost.cpu, 4), f"{name}_wall_s": round(cost.wall, 4)}


def joined(tables: dict[str, pa.Table], repeats: int) -> dict[str, Any]:
    """Two providers' tables joined on the person, as they are and as homes publish them."""
    ready = {"visits": prepared(tables["visits"], VISITS), "people": prepared(tables["people"], PEOPLE)}
    found: dict[str, Any] = {}
    for name, held in (("", tables), ("prepared_", ready)):
        laid = stage(JOINED_PLAN, (VISITS, PEOPLE), {"north.visits": held["visits"], "south.people": held["people"]})
        duck = Duck(held, own=False)
        turns = [(best_of(2, lambda: duck.ask(JOINED))[0], best_of(1, laid.release)) for _ in range(repeats + 1)]  # noqa: B023
        plain, ours = least(t[0] for t in turns), least(t[1][0] for t in turns)
        exact = duck.ask(JOINED)
        duck.close()
        found |= seconds(f"{name}plain", plain) | seconds(f"{name}ours", ours) | {f"{name}errors": errors(figures(turns[-1][1][1]), exact)}
    found["ratio"] = found["prepared_ours_cpu_s"] / found["plain_cpu_s"]
    found["ratio_to_plain_on_prepared"] = found["prepared_ours_cpu_s"] / found["prepared_plain_cpu_s"]
    found["ratio_unprepared"] = found["ours_cpu_s"] / found["plain_cpu_s"]
    return found


def end_to_end(laid: Stage, table: pa.Table, folder: Path, repeats: int) -> dict[str, Any]:
    """From encrypted Parquet to the sealed release, beside DuckDB on plain Parquet of the same compression."""
    path = folder / "visits.parquet"
    pq.write_table(table, path, compression="zstd")
    duck = Duck({}, own=False)
    release = laid.attested(*laid.encrypted())
    turns = [(best_of(2, lambda: duck.over_parquet(path))[0], best_of(1, release)[0]) for _ in range(repeats + 2)]
    duck.close()
    plain, ours = least(t[0] for t in turns), least(t[1] for t in turns)
    sizes = {"ratio": ours.cpu / plain.cpu, "file_mib": path.stat().st_size >> 20}
    return seconds("plain_parquet", plain) | seconds("encrypted_to_release", ours) | sizes


def linear(ready: pa.Table, path: Path, repeats: int) -> dict[str, Any]:
    """From encrypted Parquet to sealed release with more rows and people, beside DuckDB reading the plain file as many times.

    Memory is the most that the process had, the encrypted file and all that went before included.
    """
    found: dict[str, Any] = {"rows": [], "encrypted_to_release_cpu_s": [], "plain_parquet_cpu_s": [], "most_memory_mib": []}
    for times in GROWTH:
        laid = stage(ONE, (VISITS,), {"north.visits": grown(ready, times)})
        release = laid.attested(*laid.encrypted())
        del laid
        duck = Duck({}, own=False)
        turns = [(best_of(1, release)[0], best_of(1, lambda: duck.over_parquet(path, times))[0]) for _ in range(repeats)]  # noqa: B023
        duck.close()
        ours, plain = least(t[0] for t in turns), least(t[1] for t in turns)
        found["rows"].append(times * ready.num_rows)
        found["encrypted_to_release_cpu_s"].append(round(ours.cpu, 3))
        found["plain_parquet_cpu_s"].append(round(plain.cpu, 3))
        found["most_memory_mib"].append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
        del release
    costs = found["encrypted_to_release_cpu_s"]
    return found | {"cost_per_row_beside_first": [round(c / costs[0] / t, 2) for c, t in zip(costs, GROWTH, strict=True)]}


def grown(ready: pa.Table, times: int) -> pa.Table:
    """The same rows for ever more people."""
    place, people_ = ready.schema.get_field_index("person"), ready.num_rows // ROWS_PER_PERSON
    others = (pc.add(ready.column("person"), pa.scalar(turn * people_, pa.int64())) for turn in range(times))
    return pa.concat_tables([ready.set_column(place, ready.schema.field(place), other) for other in others])


def noise(cells: int) -> dict[str, Any]:
    """Noisy cells per second of processor time on one core: the product's noise, and a bare OpenDP measurement with the same scale.

    And the product's by the clock on all cores, which is a lower bound where others use them too.
    """
    statistic = stage(ONE, (VISITS,), {}).grant.statistics[0]
    values = [index % 1000 for index in range(cells)]
    bare = (dp.vector_domain(dp.atom_domain(T="i64")), dp.l1_distance(T="i64")) >> dp.m.then_laplace(scale=statistic.scale / SCALE_UNIT)
    array = np.asarray(values, dtype=np.int64)
    one, _ = best_of(1, lambda: add_noise(values, statistic))
    theirs, _ = best_of(1, lambda: bare(array))
    os.sched_setaffinity(0, ALL_CORES)
    every, _ = best_of(1, lambda: add_noise(values, statistic))
    on_one_core()
    return {
        "cells": cells,
        "per_s_core": cells / one.cpu,
        "opendp_per_s_core": cells / theirs.cpu,
        "cores": len(ALL_CORES),
        "per_s_all_cores": cells / every.wall,
        "per_s_core_on_all_cores": cells / every.cpu,
    }


def report(title: str, of: dict[str, Any]) -> dict[str, Any]:
    """Print and return a part's figures with the machine's load beside them."""
    of = of | {"load": round(os.getloadavg()[0], 1)}
    print(title, json.dumps(of), flush=True)
    return of


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS} rows, fewer noisy cells, no peers")
    parser.add_argument("--rows", type=int, help=f"visits, a multiple of ten; {ROWS} if not given")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--no-peers", action="store_true", help="do not run the peers that are installed")
    parser.add_argument("--peer-seconds", type=float, default=300.0, help="longest run of one peer")
    arguments = parser.parse_args()
    rows = arguments.rows or (QUICK_ROWS if arguments.quick else ROWS)
    core = on_one_core()
    clustered = visits(rows, "clustered")
    one = report("clustered", in_memory("clustered", clustered, arguments.repeats))
    both = report("join", joined({"visits": clustered, "people": people(rows // ROWS_PER_PERSON)}, arguments.repeats))
    drawn = report("noise", noise(QUICK_NOISED if arguments.quick else NOISED))
    ready = report("prepared", prepared_in_memory(clustered, arguments.repeats))
    with tempfile.TemporaryDirectory(prefix="dp-sql-") as folder:
        laid = stage(ONE, (VISITS,), {"north.visits": prepared(clustered, VISITS)})
        whole = report("end to end", end_to_end(laid, clustered, Path(folder), arguments.repeats))
        laid_out = laid.tables["north.visits"]
        del laid
        sizes = report("linear", linear(laid_out, Path(folder) / "visits.parquet", arguments.repeats))
        del laid_out
        beside: dict[str, Any] = {}
        if not (arguments.quick or arguments.no_peers):
            beside = report("peers", beside_peers(clustered, Path(folder), core, arguments.peer_seconds, arguments.repeats))
        del clustered
    uniform = report("uniform", in_memory("uniform", visits(rows, "uniform"), 1))
    totals = {
        "prepared_ratio": ready["ratio"],
        "on_the_fly_ratio": one["ratio"],
        "join_ratio": both["ratio"],
        "end_to_end_ratio": whole["ratio"],
        "cells_per_s_core": drawn["per_s_core"],
        "opendp_cells_per_s_core": drawn["opendp_per_s_core"],
    }
    for peer in ("smartnoise", "tumult", "opendp_polars"):
        totals[f"vs_{peer}"] = beside.get("shuffled", {}).get(peer, {}).get("ratio")
    for peer in ("smartnoise", "opendp_polars"):
        totals[f"vs_{peer}_clustered"] = beside.get("clustered", {}).get(peer, {}).get("ratio")
    parts = {"prepared": ready, "clustered": one, "uniform": uniform, "join": both, "end_to_end": whole, "noise": drawn, "peers": beside}
    print(json.dumps(totals | {"linear": sizes, "rows": rows, "parts": parts}))


if __name__ == "__main__":
    main()

"""Install and run the peers: `python -m benchmarks.peers [--rows N] [--install-only] [PEER...]`. One JSON line per peer."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks._dp_data import visits
from benchmarks.peers.environments import PEERS, install, measure


def main() -> None:
    """Install what is missing, then measure one peer after the other on one core."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", nargs="*", default=PEERS, metavar="PEER", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--install-only", action="store_true")
    parser.add_argument("--seconds", type=float, default=600.0, help="longest run of one peer")
    arguments = parser.parse_args()
    if set(arguments.peers) - set(PEERS):
        parser.error(f"peers are {', '.join(PEERS)}")
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        parquet = Path(folder) / "visits.parquet"
        if not arguments.install_only:
            pq.write_table(visits(arguments.rows, "clustered"), parquet)
        for peer in arguments.peers:
            failed = install(peer)
            if failed is not None:
                print(json.dumps({"peer": peer, "failed": failed}), flush=True)
            elif not arguments.install_only:
                found = measure(peer, parquet, core=max(os.sched_getaffinity(0)), seconds=arguments.seconds)
                print(json.dumps({"peer": peer, "rows": arguments.rows, "load": round(os.getloadavg()[0], 1), **found}), flush=True)


if __name__ == "__main__":
    main()

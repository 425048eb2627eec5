"""Makes the export of a log of 10,000 entries in which the operator has hidden one violation, for an auditor to find.

    python -m examples.audit.plant FOLDER [--entries 10000] [--violation flipped-decision]
    sandbox audit replay FOLDER

The tree is consistent and the checkpoint is signed with the log's own key: nothing but replaying shows it. Violations: a denial logged as
allowed and run (`flipped-decision`), facts that leave a charge out (`hidden-charge`), a release that nothing was charged for
(`unpaid-release`), a request that its consumer did not sign (`forged-request`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from benchmarks import _history


def main() -> None:
    """Write the export and say nothing of where the violation is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--violation", choices=get_args(_history.Violation), default="flipped-decision")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if asked.folder.exists():
        parser.error(f"{asked.folder} exists")
    market = _history.write(asked.folder, asked.entries, seed=asked.seed, plant=asked.violation)
    print(f"{market.log.size} entries of {market.jobs} jobs in {asked.folder}; one of them should not be there")


if __name__ == "__main__":
    main()

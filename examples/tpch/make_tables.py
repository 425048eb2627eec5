"""Make the two providers' tables of the example: `python examples/tpch/make_tables.py FOLDER [--scale 0.01]`.

`tpchgen-cli` (in requirements-dev.txt) generates customer, orders and lineitem of TPC-H; a bank keeps the customers, a shop what they
ordered, with the customer's number in every line.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb

TABLES = {
    "bank.customers": (
        "SELECT c_custkey AS customer, c_nationkey AS nation, c_mktsegment AS segment, c_acctbal AS balance FROM '{}/customer.parquet'"
    ),
    "shop.orders": (
        "SELECT o_custkey AS customer, o_orderkey AS order_number, o_orderstatus AS status, o_orderpriority AS priority, "
        "o_totalprice AS total, o_orderdate AS ordered FROM '{}/orders.parquet'"
    ),
    "shop.lines": (
        "SELECT o_custkey AS customer, l_orderkey AS order_number, l_linenumber AS line, l_quantity AS quantity, l_extendedprice AS price, "
        "l_discount AS discount, l_returnflag AS returned, l_linestatus AS status, l_shipdate AS shipped "
        "FROM '{0}/lineitem.parquet' JOIN '{0}/orders.parquet' ON l_orderkey = o_orderkey"
    ),
}


def make_tables(folder: Path, scale: float) -> dict[str, Path]:
    """Write one Parquet file per dataset and return them by name. Raises FileNotFoundError where there is no `tpchgen-cli`."""
    program = shutil.which("tpchgen-cli", path=str(Path(sys.executable).parent)) or shutil.which("tpchgen-cli")
    if program is None:
        raise FileNotFoundError("tpchgen-cli: pip install -r requirements-dev.txt")
    with tempfile.TemporaryDirectory() as raw, duckdb.connect() as connection:
        command = [program, "parquet", "-s", str(scale), "--tables=customer,orders,lineitem", f"--output-dir={raw}"]
        subprocess.run(command, check=True, capture_output=True)
        files = {}
        for name, select in TABLES.items():
            files[name] = folder / f"{name}.parquet"
            connection.execute(f"COPY ({select.format(raw)}) TO '{files[name]}' (FORMAT parquet)")
    return files


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=0.01)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for made in make_tables(arguments.folder, arguments.scale).values():
        print(made)

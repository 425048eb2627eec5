"""A run on a table ten times as large as its memory: a real enclave process between all layers, with the least memory that one may have.

- `limit_mib`: of the enclave; its control group, where the machine has one, ends it above that. `raw_mib`: the table in Arrow.
- `peak_mib`: the most memory of the enclave's own (`RssAnon`, looked at fifty times a second); pages of the encrypted file, which the
  system may drop, and of libraries are not among it.
- `ended`: `released`, the code of a withheld run, or how the enclave died. `process_s`: its processor seconds.

The table is as `party publish` writes it, in the order of people. With `--as-it-came` every person's rows are spread over all of the file,
which is then read once for every part of the people that fits the memory: minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._dp_data import VISITS, visits
from benchmarks._dp_stage import ONE, Stage, stage
from enclaves.kit.appraisal import evidence_digest, key_release_info
from enclaves.kit.columns import FOOTER, encrypt_table
from enclaves.kit.measure import checkout_root, measurement
from enclaves.kit.prepared import prepared
from enclaves.kit.sealing import seal
from policies.canonical import canonical, digest_bytes
from policies.grant import Grant, grant_digest
from policies.odrl import agreement_document
from policies.statement import Nonce
from sandbox.config import Config
from sandbox.jobs.isolation import isolation_of
from sandbox.jobs.launch import EnclaveDied, EnclaveOutOfMemory, EnclaveProcess

LIMIT_MIB = 512
TIMES = 10
ROW_BYTES = 28
PATIENCE_S = 1800.0
LOOK_S = 0.02


class Watch(threading.Thread):
    """Looks at a process until it is told to stop: its largest resident memory and its processor time."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak_kib, self.process_s = pid, 0, 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        """Look until the end."""
        ticks = os.sysconf("SC_CLK_TCK")
        while not self.ended.wait(LOOK_S):
            with suppress(OSError, IndexError, ValueError):
                status = Path(f"/proc/{self.pid}/status").read_text()
                found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")]
                self.peak_kib = max(self.peak_kib, int(found[0]))
                fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
                self.process_s = sum(map(int, fields[11:13])) / ticks


def laid_out(rows: int, folder: Path, *, in_order: bool) -> tuple[Stage, Grant, Path, dict[str, bytes], float]:
    """The run's stage, its grant, the encrypted file, its column keys and the table's size in MiB."""
    table = visits(rows, "clustered")
    raw = table.nbytes / 2**20
    table = prepared(table, VISITS) if in_order else table
    laid = stage(ONE, (VISITS,), {VISITS.dataset: table})
    keys = {name: os.urandom(32) for name in (FOOTER, *table.column_names)}
    path = folder / "visits"
    with path.open("wb") as file:
        encrypt_table(table, file, dataset=VISITS.dataset, version=1, keys=keys)
    reads = tuple(replace(read, file_digest=digest_bytes(path.read_bytes())) for read in laid.grant.reads)
    grant = replace(laid.grant, reads=reads, measurement=measurement(checkout_root()))
    return laid, grant, path, keys, raw


def measured(laid: Stage, grant: Grant, path: Path, keys: dict[str, bytes]) -> dict[str, Any]:
    """How a run within the limit ended, and what it took."""
    isolation = isolation_of(Config(enclave_memory_mib=LIMIT_MIB))
    provider = grant.reads[0].provider
    nonce = Nonce(provider=provider, value=os.urandom(32).hex())
    with EnclaveProcess(isolation) as enclave:
        evidence = enclave.start(grant, agreement_document(laid.agreement), [nonce], PATIENCE_S)
        watch = Watch(enclave.pid)
        watch.start()
        info = key_release_info(nonce.value, grant_digest(grant), evidence_digest(evidence))
        held = {grant.reads[0].dataset: {name: keys[name].hex() for name in (FOOTER, *grant.reads[0].columns)}}
        sealed = seal(bytes.fromhex(evidence.evidence.sealing_key), canonical(held), info)
        try:
            statement, _ = enclave.run({provider: sealed.hex()}, {VISITS.dataset: path}, PATIENCE_S)
            ended = statement.statement.withheld or "released"
        except EnclaveOutOfMemory:
            ended = "out of memory"
        except EnclaveDied:
            ended = "died"
        watch.ended.set()
        watch.join()
    return {"ended": ended, "peak_mib": round(watch.peak_kib / 1024), "process_s": watch.process_s, "layers": list(isolation.layers)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="of the table; by default, ten times the memory")
    parser.add_argument("--quick", action="store_true", help="one million rows, to see that it runs")
    parser.add_argument("--as-it-came", action="store_true", help="a table in no order")
    asked = parser.parse_args()
    rows = 1_000_000 if asked.quick else asked.rows or (TIMES * LIMIT_MIB << 20) // ROW_BYTES // 10 * 10
    with tempfile.TemporaryDirectory() as folder:
        laid, grant, path, keys, raw = laid_out(rows, Path(folder), in_order=not asked.as_it_came)
        sizes = {"limit_mib": LIMIT_MIB, "raw_mib": round(raw), "file_mib": round(path.stat().st_size / 2**20), "rows": rows}
        laid = replace(laid, tables={})
        print(json.dumps({**measured(laid, grant, path, keys), **sizes}))


if __name__ == "__main__":
    main()

"""Replay of a long log, end to end, by `sandbox audit replay`: tree, tiles, signatures, plans, decisions, charges, grants, releases.

The log is honest and made for the run (`benchmarks/_history.py`): about seven entries and four and a half signatures per job; half of the
queries are a dashboard's, the others hardly ever come twice. `entries_per_s_core` is entries per second of processor time in one process;
`entries_per_s` the same by the clock. `scaling_2_cores` is by the clock: one process over two, the least of interleaved runs each.
`peak_mib` is the most memory that the replay in several processes held at once, shared pages counted once; `kib_per_1000_entries` how much
of it came with length, from the difference to a log a tenth as long. `share_of_floor` is the time that nothing but the log's signatures
and hashes take in the same run, divided by the time of the replay.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import _history
from enclaves.kit.measure import checkout_root
from enclaves.kit.signatures import SigningKey, verify


def measured(folder: Path, processes: int) -> tuple[float, float, float]:
    """One replay of an honest log: seconds by the clock, processor seconds with all its processes, and their most memory in MiB.

    Memory is the proportional set size, sampled every 50 ms.
    """
    command = [sys.executable, "-m", "sandbox", "audit", "replay", str(folder), "--json", "--processes", str(processes)]
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=checkout_root())
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, sum(_pss_kib(pid) for pid in _family(process.pid)))

    watcher = threading.Thread(target=sample)
    watcher.start()
    assert process.stdout is not None
    answer = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    clock = time.perf_counter() - started
    done.set()
    watcher.join()
    if process.returncode or not json.loads(answer)["ok"]:
        raise SystemExit("an honest log does not replay")
    return clock, used.ru_utime + used.ru_stime, peak / 1024


def _family(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [pid, *children]


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def floor_s(entries: int, signatures: int) -> float:
    """Processor seconds of the signatures and leaf hashes alone."""
    key, message = SigningKey.generate(), b"x" * 700
    signature, public, sample = key.sign("job-request", message), key.public, 300
    started = time.process_time()
    for _ in range(sample):
        verify(public, "job-request", message, signature)
    verified = (time.process_time() - started) / sample
    started = time.process_time()
    for _ in range(sample):
        hashlib.sha256(b"\0" + message).digest()
    return verified * signatures + (time.process_time() - started) / sample * entries


def main() -> None:
    """Make the logs, replay them, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="1,500 entries, once")
    asked = parser.parse_args()
    entries, repeats = (1_500, 1) if asked.quick else (asked.entries, asked.repeats)
    with tempfile.TemporaryDirectory() as scratch:
        long, short = Path(scratch) / "long", Path(scratch) / "short"
        market = _history.write(long, entries)
        _history.write(short, max(entries // 10, 150))
        size, figures = market.log.size, []
        for _ in range(repeats):
            figures.append((measured(long, 1), measured(long, 2), floor_s(size, market.signatures)))
            print(f"one process {figures[-1][0][0]:.2f} s, two {figures[-1][1][0]:.2f} s", flush=True)
        one, two = min(one[0] for one, _, _ in figures), min(two[0] for _, two, _ in figures)
        processor = min(one[1] for one, _, _ in figures)
        peaks = max(two[2] for _, two, _ in figures), measured(short, 2)[2]
    found: dict[str, Any] = {
        "entries": size,
        "entries_per_job": round(size / market.jobs, 2),
        "signatures_per_job": round(market.signatures / market.jobs, 2),
        "entries_per_s_core": round(size / processor),
        "entries_per_s": round(size / one),
        "scaling_2_cores": round(one / two, 2),
        "share_of_floor": round(min(floor for _, _, floor in figures) / processor, 3),
        "peak_mib": round(peaks[0], 1),
        "kib_per_1000_entries": round((peaks[0] - peaks[1]) * 1024 * 1000 / max(size - size // 10, 1), 1),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

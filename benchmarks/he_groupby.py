"""A joint total over many groups: from submission to receipt on a real service, and the steps of its kind at 100,000 groups.

Everybody runs on this one machine: contributors share its cores with the service, so a wall figure is an upper bound of what firms with a
machine of their own would see. Parties wait for jobs with a child process at hand, as `sandbox party contribute` does; it is measured
once all have loaded. `core_s` is the processor time of everybody from submission to receipt, so that a busy machine can be told apart.
100,000 groups are beyond what a plan may release; their steps are measured without one.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from enclaves.dp import draw_share
from enclaves.kit import child, he
from enclaves.kit.he_masks import expand, mask_keys
from enclaves.kit.sealing import SealingKey
from policies.joint import WIDE
from policies.privacy import SCALE_UNIT
from sandbox.party.joint import JointPart
from tests.support import pool as pools
from tests.support.pooled import open_pool
from tests.support.service import running


def job_seconds(groups: int, contributors: int, people: int) -> dict[str, float]:
    """Seconds from submission to the verified release."""
    bands = tuple(f"band-{index:05d}" for index in range(groups // len(pools.REGIONS)))
    pools.BANDS = bands  # the declarations and tables of the test's market
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), "sqlite", worker=True) as service:
        market = open_pool(service, insurers=contributors, people=people)
        ended, spent = threading.Event(), Spent()
        parts = market.parts()
        threads = [threading.Thread(target=part.serve, args=(ended.is_set,)) for part in parts]
        for thread in threads:
            thread.start()
        try:
            _settle(parts, spent)
            began, before = time.perf_counter(), spent.look()
            job = market.submit(sql="SELECT region, age_band, COUNT(*) AS n, SUM(amount) AS s FROM pool.claims GROUP BY region, age_band")
            with spent.watching():
                record = market.clients[market.analyst].wait(job, 600)
                assert record["state"] == "released", record
                market.clients[market.analyst].release(job)
                return {"submit_to_receipt_s": time.perf_counter() - began, "core_s": spent.look() - before}
        finally:
            ended.set()
            for thread in threads:
                thread.join()


class Spent:
    """Processor time of this process and of everything below it, also of what has ended since it was looked at.

    Jailed children that are ended as soon as they have answered are waited for by nobody who keeps their time, so each is looked at then.
    """

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}
        self._lock = threading.Lock()

    def look(self) -> float:
        """Seconds so far."""
        ticks, parents, times = os.sysconf("SC_CLK_TCK"), {}, {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    parents[int(folder.name)], times[int(folder.name)] = int(fields[1]), sum(map(int, fields[11:13])) / ticks
        below = {os.getpid()}
        while more := {pid for pid, parent in parents.items() if parent in below} - below:
            below |= more
        with self._lock:
            for pid in below & times.keys():
                self._seen[pid] = max(times[pid], self._seen.get(pid, 0.0))
            return sum(self._seen.values())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at the parties' children before they are ended, and at all others ten times a second."""
        ended, end = threading.Event(), child._Process.end

        def looked_at(process: child._Process) -> None:
            self.look()
            end(process)

        def look_on() -> None:
            while not ended.wait(0.1):
                self.look()

        watcher = threading.Thread(target=look_on)
        child._Process.end = looked_at
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            child._Process.end = end


def _settle(parts: Sequence[JointPart], spent: Spent) -> None:
    """Wait until every child has said that it stands ready, and then until a second takes hardly any processor time.

    The latter alone would not do: on a busy machine children that still load get little of it.
    """
    for _ in range(600):
        waiting = [ready.process.stdout for part in parts if (ready := part.child._ready) is not None]
        if len(waiting) == len(parts) and len(select.select(waiting, [], [], 0.0)[0]) == len(parts):
            break
        time.sleep(0.5)
    before = spent.look()
    for _ in range(120):
        time.sleep(1.0)
        now = spent.look()
        if now - before < 0.5:
            return
        before = now


def step_seconds(groups: int, contributors: int) -> dict[str, float]:
    """Wall seconds of the steps of a total with two numbers per group."""
    count, cores = 2 * groups, os.cpu_count() or 1
    values = np.random.default_rng(1).integers(-1000, 1000, count)
    found, key = {}, he.generate_key(WIDE.name)

    def timed(name: str, act: Any) -> Any:
        began = time.perf_counter()
        value = act()
        found[name] = round(time.perf_counter() - began, 3)
        return value

    timed("noise", lambda: draw_share(count, 1000 * SCALE_UNIT))
    peers = {f"p{index}": SealingKey.generate().public.hex() for index in range(contributors - 1)}
    timed("masks", lambda: expand(mask_keys(SealingKey.generate(), "me", peers, "sha256:m"), WIDE, count))
    words = timed("encrypt", lambda: he.encrypt(WIDE.name, key.public, he.pack(WIDE.name, values, 1000), processes=cores))
    data = he.write_ciphertexts(words)
    total = words.copy()
    timed("add", lambda: [he.add_into(WIDE.name, total, he.read_ciphertexts(WIDE.name, data, len(words))) for _ in range(contributors - 1)])
    opened = timed("decrypt", lambda: he.decrypt(WIDE.name, key.secret, total))
    assert (he.unpack(WIDE.name, opened, count, np.full(count, 10**6)) == values * contributors).all()
    return found


def main() -> None:
    """Print one line per part and one JSON object at the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--contributors", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    asked = parser.parse_args()
    groups, contributors, people, many = (20, 2, 100, 2000) if asked.quick else (asked.groups, asked.contributors, 3000, 100_000)
    steps = step_seconds(many, 10)
    print(f"{many} groups x 10 contributors, wall seconds by step", steps)
    job = {name: round(seconds, 3) for name, seconds in job_seconds(groups, contributors, people).items()}
    print(f"{groups} groups x {contributors} contributors", job)
    print(json.dumps({**job, "groups": groups, "contributors": contributors, "steps_of_100000_groups": steps}))


if __name__ == "__main__":
    main()

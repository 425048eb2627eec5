"""Whose worker has died, told without comparing the clocks of two machines.

A worker renews its lease by writing another value. Whoever sweeps remembers which value it saw since when on its own monotonic clock: a
value that stays the same for the whole patience belongs to a worker that is dead, frozen or cut off. Clocks that jump or differ do not
matter, and neither does the value itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass
class Leases:
    """What one sweeping process has seen of the running jobs' leases.

    Attributes:
        patience_s: how long a lease may stay as it is.
        gap_s: a longer pause between two looks counts as not having looked: while the database was away, nobody could renew.
        clock: seconds, monotonic.
    """

    patience_s: float
    gap_s: float
    clock: Callable[[], float] = time.monotonic
    _looked: float = float("-inf")
    _seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def run_out(self, found: Mapping[str, float]) -> list[str]:
        """Note the leases as they are now, by job, and return the jobs whose lease has not changed for more than `patience_s`."""
        now = self.clock()
        known = self._seen if now - self._looked <= self.gap_s else {}
        self._looked = now
        self._seen = {job: known[job] if job in known and known[job][0] == lease else (lease, now) for job, lease in found.items()}
        return sorted(job for job, (_, since) in self._seen.items() if now - since > self.patience_s)

    def still_s(self, job: str) -> float:
        """Seconds for which the lease of a job that was found last has not changed."""
        return self._looked - self._seen[job][1]

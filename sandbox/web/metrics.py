"""Metrics in Prometheus' text format. They carry no participant, no dataset and no text of a request.

Counters and histograms are of the web processes; with several, they meet in files in the folder that `PROMETHEUS_MULTIPROC_DIR` names.
What the database knows is read when somebody looks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from policies.errors import SandboxError
from sandbox.host import Host
from sandbox.jobs.states import ALLOWED

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Metrics:
    """Metrics of one web process, and the exposition of all."""

    def __init__(self, host: Host) -> None:
        own = CollectorRegistry()
        self._requests = Counter("sandbox_requests", "Answered requests.", ("route", "method", "status"), registry=own)
        self._seconds = Histogram("sandbox_request_seconds", "Time to answer.", ("route",), buckets=BUCKETS, registry=own)
        self._registry = own
        if os.environ.get(FOLDER):
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        self._registry.register(_Stored(host))

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Note an answered request."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)


class _Stored(Collector):
    """What the database knows, read at every scrape."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read the database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read the database once; without it only `sandbox_database_up` 0."""
        try:
            with self._host.store.reading() as tx:
                counts, size, newest = tx.counts(), tx.log_size(), tx.newest_checkpoint()
                seen, stored = tx.workers_seen(), tx.stored_bytes()
        except SandboxError:
            yield _gauge("database_up", "Whether the database answers.", 0)
            return
        yield _gauge("database_up", "Whether the database answers.", 1)
        jobs = GaugeMetricFamily("sandbox_jobs", "Jobs by state.", labels=("state",))
        for state in ALLOWED:
            jobs.add_metric((state,), counts.get(state, 0))
        yield jobs
        yield _gauge("log_entries", "Entries of the log.", size)
        yield _gauge("log_published_entries", "Entries under the newest checkpoint.", newest[0] if newest else 0)
        yield _gauge("upload_bytes", "Bytes of all uploads.", stored)
        yield _gauge("workers", "Workers seen in the last minute.", sum(at > (time.time() - 60) * 1000 for at in seen))
        yield _gauge("worker_last_seen_seconds", "When a worker was last seen, Unix time; 0 for never.", seen[0] / 1000 if seen else 0)


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"sandbox_{name}", meaning, value=value)

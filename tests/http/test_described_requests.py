"""Thousands of requests made from the API's description, against a real gunicorn: no 5xx, and every answer is one that it names.

schemathesis makes them in processes of its own, two at a time. Making a random request costs more than answering it, so most go through the
bounds of the schemas, and no example is remembered: that doubles the time. Every run makes the same requests: every fifth of those bounds
(see `tests.support.signing_hooks`) and a few random ones for each operation. With SANDBOX_FULL=1 it is every bound, also without a
credential and on PostgreSQL, and eight times as many random ones: more than ten thousand requests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.web.openapi import describe
from sandbox.web.routes import OPERATIONS
from tests.support.market import Market, open_market
from tests.support.service import checkout, running

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,"
    "negative_data_rejection,ignored_auth,unsupported_method"
)
SETTINGS = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 409, 413, 414, 415, 431]
"""
"""schemathesis' own list has 5xx and lacks 413, 414 and 431."""
STREAM = ("--exclude-path", "/api/v1/events")
FULL = bool(os.environ.get("SANDBOX_FULL"))


@dataclass(frozen=True, kw_only=True)
class Part:
    """Requests that one process makes: those at the bounds of every schema, some or all of them, and random ones.

    Attributes:
        examples: random requests per operation, eight times as many with SANDBOX_FULL=1.
        credential: whether they carry one.
        signed: whether the documents in them are signed by the caller.
    """

    name: str
    select: tuple[str, ...]
    examples: int = 0
    credential: bool = True
    signed: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """What tells schemathesis so. What nobody sends is refused alike, so that its bounds are left to SANDBOX_FULL=1."""
        phases = ("coverage",) * (self.credential or FULL) + ("fuzzing",) * bool(self.examples)
        return ("--phases", ",".join(phases), "--max-examples", str(self.examples * (8 if FULL else 1) or 1))


WRITES, READS = ("--include-method", "POST"), (*STREAM, "--include-method", "GET")
PARTS = (
    Part(name="signed-writes", select=WRITES, examples=4, signed=True),
    Part(name="writes", select=WRITES, examples=4),
    Part(name="reads", select=READS, examples=8),
    Part(name="writes-of-nobody", select=WRITES, examples=4, credential=False),
)
BOUNDS_OF_READS = Part(name="bounds-of-reads", select=READS)
BOUNDS = Part(name="bounds", select=STREAM)


@pytest.fixture
def fresh(database: str, tmp_path: Path) -> Iterator[Market]:
    """A market on a service of its own: what is written at random disturbs no other test."""
    with running(tmp_path / "service", database) as service:
        yield open_market(service)


def test_requests_made_from_the_description_get_the_answers_that_it_names(fresh: Market, database: str, tmp_path: Path) -> None:
    """All of them on SQLite; on PostgreSQL the bounds of what looks something up, where the databases differ."""
    if database == "sqlite":
        parts, least = PARTS, 10_000 if FULL else 2_000
    else:
        parts, least = ((BOUNDS,), 2_000) if FULL else ((BOUNDS_OF_READS,), 100)
    (tmp_path / "openapi.json").write_text(json.dumps(_without_large_bounds(describe(OPERATIONS))))
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    with ThreadPoolExecutor(2) as two:
        counts = dict(zip(parts, two.map(lambda part: _run(part, fresh, tmp_path), parts), strict=True))
    total = sum(counts.values(), Counter())
    told = {part.name: dict(sorted(count.items())) for part, count in counts.items()}
    assert not [status for status in total if status >= 500], told
    assert total.total() >= least, told
    assert all(count.total() for count in counts.values()), told
    if database == "sqlite":
        named = {part.name: counts[part] for part in parts}
        assert named["writes-of-nobody"][401] > 60, "what nobody sends is refused"
        assert named["signed-writes"][403] < named["writes"][403], "the service looks into what is signed"


def _run(part: Part, market: Market, folder: Path) -> Counter[int]:
    """Make the requests of a part and return how often each status was answered."""
    report, home = folder / f"{part.name}.ndjson", market.clients["insurer"].home
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml"),
        "run", str(folder / "openapi.json"), "--url", market.service.url, *part.select, "--checks", CHECKS,
        *part.options,
        "--generation-database", "none", "--seed", "1", "--no-shrink", "--continue-on-failure", "--suppress-health-check", "all",
        "--warnings", "off", "--request-timeout", "120", "--report", "ndjson", "--report-ndjson-path", str(report),
    ]  # fmt: skip
    if part.credential:
        command += ["-H", f"Authorization: Bearer {home.credential}"]
    environment = {**os.environ, "PYTHONPATH": str(checkout()), "SCHEMATHESIS_HOOKS": "tests.support.signing_hooks"}
    environment["EACH_BOUND"] = "1" if FULL else "5"
    environment |= {"SIGNING_HOME": str(home.folder)} if part.signed else {}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=1800, check=False)
    assert done.returncode == 0, f"{part.name}: {done.stdout[-8000:]}{done.stderr[-2000:]}"
    return _statuses(report)


def _without_large_bounds(value: Any) -> Any:
    """A schema without bounds above 1000: what is made from it need not try a list of ten thousand declarations."""
    if isinstance(value, dict):
        large = {key for key in ("maxItems", "maxLength") if isinstance(value.get(key), int) and value[key] > 1000}
        return {key: _without_large_bounds(item) for key, item in value.items() if key not in large}
    return [_without_large_bounds(item) for item in value] if isinstance(value, list) else value


def _statuses(report: Path) -> Counter[int]:
    found: Counter[int] = Counter()
    for line in report.read_text().splitlines():
        found.update(_status_codes(json.loads(line)))
    return found


def _status_codes(value: Any) -> list[int]:
    if isinstance(value, dict):
        own = [value["status_code"]] if isinstance(value.get("status_code"), int) else []
        return own + [code for item in value.values() for code in _status_codes(item)]
    return [code for item in value for code in _status_codes(item)] if isinstance(value, list) else []

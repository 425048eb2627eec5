"""What older code wrote, newer code serves and replays. The golden folders are never made again; see `make_foundation.py`."""

from __future__ import annotations

import gzip
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app import compose
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.replay import replay
from sandbox.config import Config
from sandbox.host import Host
from sandbox.store.migrations import head
from sandbox.web.application import make_app
from tests.golden.make_foundation import credential
from tests.support.story import export

FOUNDATION = Path(__file__).parent / "foundation"
STATES = {"released": 2, "denied": 1, "withheld": 1, "failed": 1}


@contextmanager
def reopened(folder: Path) -> Iterator[Host]:
    """The golden data, copied to `folder` and opened by today's code."""
    shutil.copytree(FOUNDATION / "data", folder)
    packed = folder / "sandbox.sqlite3.gz"
    (folder / "sandbox.sqlite3").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    host = compose(Config(data=folder))
    try:
        yield host
    finally:
        host.store.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Today's service on the golden data."""
    with reopened(tmp_path / "data") as found:
        yield found


def revision(folder: Path) -> str:
    """The revision that a SQLite database says it has."""
    database = sqlite3.connect(folder / "sandbox.sqlite3")
    found = database.execute("SELECT version_num FROM alembic_version").fetchone()
    database.close()
    return str(found[0])


def test_a_folder_of_the_first_schema_is_stamped_and_brought_to_the_newest(host: Host) -> None:
    assert revision(host.config.data) == head()
    with host.store.reading() as tx:
        assert tx.at_head()
        assert tx.counts() == STATES


def test_jobs_of_the_first_schema_are_served_with_everything_that_they_carry(host: Host) -> None:
    client = make_app(host).test_client()
    headers = {"Authorization": f"Bearer {credential('institute')}"}
    jobs = client.get("/api/v1/jobs", headers=headers).get_json()["jobs"]
    assert len(jobs) == sum(STATES.values())
    for job in jobs:
        shown = client.get(f"/api/v1/jobs/{job['id']}", headers=headers).get_json()
        assert shown["plan"]
        assert shown["decision"]["allowed"] == (shown["state"] != "denied")
        release = client.get(f"/api/v1/jobs/{job['id']}/release", headers=headers)
        assert (release.status_code == 200) == (shown["state"] in ("released", "withheld")), shown["state"]


def test_the_log_that_was_opened_replays(host: Host) -> None:
    files = export(host, "auditor")
    verdict = replay(files.__getitem__, host.log_identity)
    assert verdict.ok, verdict.mismatches


def test_the_export_of_the_first_code_replays() -> None:
    key = LogKey.parse((FOUNDATION / "export" / "log.vkey").read_text().strip())
    verdict = replay(lambda path: (FOUNDATION / "export" / path).read_bytes(), key)
    assert verdict.ok, verdict.mismatches
    assert verdict.entries == 49


def test_the_opened_log_extends_the_exported_one(host: Host) -> None:
    assert export(host, "auditor")["checkpoint"] == (FOUNDATION / "export" / "checkpoint").read_bytes()


def test_the_golden_folder_stays_small() -> None:
    assert sum(path.stat().st_size for path in FOUNDATION.rglob("*") if path.is_file()) < 300_000

"""What older code wrote, newer code serves and replays. The golden folders are never made again; see `make_foundation.py`."""

from __future__ import annotations

import gzip
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from app import compose
from policies.canonical import parse_json
from policies.codec import decode, encode
from policies.odrl import parse_agreement
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.export import Export
from sandbox.audit.receipt import Receipt, verify_receipt
from sandbox.audit.replay import replay
from sandbox.config import Config
from sandbox.exchange.paging import Page
from sandbox.host import Host
from sandbox.jobs import handout
from sandbox.jobs.launch import EnclaveProcess
from sandbox.jobs.worker import Worker
from sandbox.store.migrations import head
from sandbox.web.application import make_app
from tests.golden.make_foundation import credential
from tests.support.story import export

FOUNDATION = Path(__file__).parent / "foundation"
LAW2 = Path(__file__).parent / "law2"
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


def test_a_job_of_the_first_law_that_waits_ends_failed_with_its_charge_kept(tmp_path: Path) -> None:
    """An upgraded service runs grants of today's law only: what was charged and not yet taken ends, and no broker is asked for keys."""
    with reopened(tmp_path / "data") as host:
        with host.store.transaction() as tx:
            spent = tx.spent()
            waiting = next(job for job in tx.jobs("institute", Page(limit=50)).items if job.state == "failed")
            tx.connection.execute(text("DELETE FROM key_requests WHERE job = :job"), {"job": waiting.id})
            tx.connection.execute(text("UPDATE jobs SET state = 'charged', worker = '', code = '' WHERE id = :job"), {"job": waiting.id})
        assert Worker(host=host, launch=no_enclave).step()
        with host.store.reading() as tx:
            ended = tx.job(waiting.id)
            assert ended is not None
            assert (ended.state, ended.code) == ("failed", "law-retired")
            assert tx.key_requests(waiting.id) == []
            assert tx.spent() == spent


def no_enclave() -> EnclaveProcess:
    """Nothing of the first law is run."""
    raise AssertionError("an enclave was started")


def test_releases_of_the_first_law_come_with_receipts_that_verify(host: Host) -> None:
    with host.store.reading() as tx:
        released = [job for job in tx.jobs("institute", Page(limit=50)).items if job.state in ("released", "withheld")]
        stored = tx.agreement(released[0].request.agreement)
    assert stored is not None
    for job in released:
        with host.store.reading() as tx:
            given, sealed = handout.release(tx, job, 0)
        assert "repeated" not in encode(given)
        verified = verify_receipt(decode(Receipt, encode(given)), stored.agreement, sealed)
        assert verified.job == job.id


def test_the_first_law_is_replayed_as_such_and_not_parsed_again() -> None:
    key = LogKey.parse((FOUNDATION / "export" / "log.vkey").read_text().strip())
    verdict = replay(lambda path: (FOUNDATION / "export" / path).read_bytes(), key)
    assert verdict.not_reparsed == sum(STATES.values())
    assert {total.measure for total in verdict.totals.values()} == {"pure"}


def test_the_first_log_of_the_second_law_replays_to_the_same_sums() -> None:
    key = LogKey.parse((LAW2 / "export" / "log.vkey").read_text().strip())
    verdict = replay(lambda path: (LAW2 / "export" / path).read_bytes(), key)
    assert verdict.ok, verdict.mismatches
    assert (verdict.entries, verdict.unopened) == (69, 0)
    assert {ledger: total.text for ledger, total in verdict.totals.items()} == {
        "clinic/rand-hie": "epsilon 0.375", "insurer/rand-hie": "rho 0.26"
    }  # fmt: skip


def test_receipts_of_the_second_law_verify() -> None:
    export = Export(read=lambda path: (LAW2 / "export" / path).read_bytes())
    proposed = next(opening for _, data, opening in export.entries(69) if b'"kind":"proposed"' in data)
    assert proposed is not None
    agreement = parse_agreement(proposed.body["signed"]["body"])
    receipts = [decode(Receipt, parse_json(path.read_bytes())) for path in sorted((LAW2 / "receipts").iterdir())]
    assert len(receipts) == 6
    for receipt in receipts:
        assert verify_receipt(receipt, agreement).checkpoint.size <= 69

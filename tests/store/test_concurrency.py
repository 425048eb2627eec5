"""What several processes do at once comes out as if one had done it after the other."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from policies.entries import LedgerCharge
from sandbox.audit import merkle
from sandbox.store.database import Store
from tests.support.service import DATABASES, checkout, fresh_database
from tests.support.story import tell

APPEND = """
import sys
from sandbox.store.database import Store
store = Store(sys.argv[1])
for number in range(25):
    with store.transaction() as tx:
        tx.append("opened", at=1, ids={"who": sys.argv[2]}, body={"number": number})
"""

CHARGE = """
import sys
from policies.entries import LedgerCharge
from sandbox.store.database import Store
store = Store(sys.argv[1])
for number in range(20):
    with store.transaction() as tx:
        names = [("a_provider", "persons"), ("b_provider", "persons")]
        found = tx.lock_ledgers(names)
        if all(loss.amount < 30 for loss in found.values()):
            tx.charge([LedgerCharge(provider=p, id_space=s, amount=1, delta0=0) for p, s in names], sys.argv[2], 0)
"""

CLAIM = """
import json, sys
from sandbox.store.database import Store
store, found = Store(sys.argv[1]), []
for number in range(10):
    with store.transaction() as tx:
        job = tx.claim_charged(sys.argv[2], 1.0)
        found += [job.id] if job else []
print(json.dumps(found))
"""


def at_once(code: str, url: str, count: int = 2) -> list[str]:
    """Run `code` in several processes at once and return what they print."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, url, f"process-{number}"], cwd=checkout(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for number in range(count)
    ]
    ended = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0] * count, [error.decode()[-2000:] for _, error in ended]
    return [out.decode() for out, _ in ended]


def test_entries_of_processes_that_append_at_once_make_one_tree(store: Store, url: str) -> None:
    at_once(APPEND, url)
    with store.reading() as tx:
        entries = tx.entries(0, 1000)
        assert len(entries) == tx.log_size() == 50
        frontier = merkle.Frontier().extend(merkle.leaf_hash(data) for data in entries)
        assert merkle.root_from_nodes(50, tx.node) == frontier.root()
        assert [len([data for data in entries if f"process-{n}".encode() in data]) for n in range(2)] == [25, 25]


def test_charges_of_processes_at_once_serialise_and_never_pass_the_bound(store: Store, url: str) -> None:
    at_once(CHARGE, url)
    with store.reading() as tx:
        spent = tx.spent()
        assert {loss.amount for loss in spent.values()} == {30}
        of_each = [tx.spent_for(f"process-{number}", spent) for number in range(2)]
        assert {sum(part[ledger].amount for part in of_each) for ledger in spent} == {30}, "every charge counts to one consumer"


@pytest.mark.parametrize("kind", DATABASES)
def test_a_charged_job_goes_to_one_worker_only(kind: str, tmp_path: Path) -> None:
    with fresh_database(kind) as database:
        story = tell(tmp_path / "data", database)
        old = story.jobs["released"]
        with story.host.store.transaction() as tx:
            for number in range(8):
                columns = {"id": f"job-{number}", "request_id": f"request-{number}", "state": "charged", "worker": "", "evidence": None}
                _copy_job(tx.connection, old.id, columns)
        claimed = [json.loads(out) for out in at_once(CLAIM, story.host.config.database_url, 3)]
        story.host.store.close()
    assert sorted(job for part in claimed for job in part) == [f"job-{number}" for number in range(8)]


def test_a_reader_sees_one_moment(store: Store) -> None:
    with store.reading() as tx:
        assert tx.log_size() == 0
        with store.transaction() as writer:
            writer.append("opened", at=1, ids={}, body={})
            writer.lock_ledgers([("a_provider", "persons")])
            writer.charge([LedgerCharge(provider="a_provider", id_space="persons", amount=1, delta0=0)], "institute", 0)
        assert tx.log_size() == 0
        assert tx.entries(0, 10) == []
        assert tx.spent() == {}
    with store.reading() as tx:
        assert tx.log_size() == 1
        assert len(tx.spent()) == 1


def test_a_reader_does_not_wait_for_a_writer(store: Store) -> None:
    done = threading.Event()

    def read() -> None:
        with store.reading() as tx:
            tx.log_size()
        done.set()

    with store.transaction() as writer:
        writer.hold_log()
        writer.append("opened", at=1, ids={}, body={})
        thread = threading.Thread(target=read)
        thread.start()
        assert done.wait(10)
    thread.join()


def _copy_job(connection: object, job: str, columns: dict[str, object]) -> None:
    from sqlalchemy import Connection, insert, select

    from sandbox.store.schema import jobs

    assert isinstance(connection, Connection)
    row = connection.execute(select(jobs).where(jobs.c.id == job)).one()
    connection.execute(insert(jobs).values({**row._asdict(), **columns}))

"""A full disk below uploads, database, a broker's or a publisher's home: a typed answer, nothing half done, and on it goes with space."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import event

from policies.errors import Unavailable
from sandbox.exchange.participants import issue_code
from sandbox.jobs.states import FINAL
from sandbox.party.client import Client
from sandbox.party.home import Home
from sandbox.party.publish import publish
from sandbox.web.application import make_app
from tests.support import market
from tests.support.proxy import PAIR
from tests.support.runs import COUNT_SQL, Direct, Town, found_town
from tests.support.steps import Line, again, require_sound

STEPS = ("charged", "charge-published", "running", "attested", "key-released", "keys-complete", "ran", "stored")
MIB = 1 << 20


@dataclass
class Disk:
    """A file system of a few MiB."""

    folder: Path

    def fill(self) -> None:
        """Leave no byte."""
        with (self.folder / "filler").open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 10, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    continue

    def leave(self, size: int) -> None:
        """Leave about so many bytes."""
        self.fill()
        with (self.folder / "filler").open("r+b") as file:
            file.truncate((self.folder / "filler").stat().st_size - size)

    def free(self) -> None:
        """Remove what fills it."""
        (self.folder / "filler").unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Disk]:
    """Mount a small file system over a folder, which keeps what it held. Skips where that may not be done."""
    held = folder.with_name(folder.name + "-held")
    shutil.copytree(folder, held)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", str(folder)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("a small file system cannot be mounted: run the tests as root with CAP_SYS_ADMIN")
    try:
        shutil.copytree(held, folder, dirs_exist_ok=True)
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    found = found_town(tmp_path / "town", persons=10, total="100", queue="off")
    yield found
    found.close()


def at_steps(town: Town, act: Callable[[str], None]) -> Line:
    """A worker and brokers, and every client, on a host that tells its steps."""
    host = replace(town.host, on_step=act)
    for client in town.clients.values():
        session: Any = client.session
        session.app = make_app(host)
    return Line(host=host, brokers=[town.broker("insurer")])


def test_an_upload_that_does_not_fit_is_unavailable_and_leaves_nothing(town: Town) -> None:
    uploads = town.host.blobs.folder
    with small_disk(uploads, 1) as disk:
        before = sorted(path.name for path in uploads.iterdir())
        insurer = town.clients["insurer"]
        body = b"PARE" + bytes(2 * MIB)
        path = town.folder / "large"
        path.write_bytes(body)
        with pytest.raises(Unavailable) as refused:
            insurer.upload(path)
        assert refused.value.code == "storage"
        assert sorted(path.name for path in uploads.iterdir()) == before
        disk.fill()
        with town.host.store.reading() as tx:
            small = next(uploads / name for name in before if tx.has_upload(f"sha256:{name}", "insurer"))
        with pytest.raises(Unavailable):
            insurer.upload(small)
        assert not [path for path in uploads.iterdir() if path.name.startswith(".")]
        disk.free()
        assert insurer.upload(small)["digest"] == f"sha256:{small.name}"
        with town.host.store.reading() as tx:
            assert tx.uploaded_bytes("insurer") == small.stat().st_size


def test_a_database_that_is_full_at_any_step_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "town"
    found_town(folder, persons=10, total="100", queue="off").close()
    with small_disk(folder / "service", 6) as disk:
        from tests.support.runs import open_town

        town = open_town(folder, queue="off", keys_timeout_s=120.0)
        for number, step in enumerate(STEPS):
            full: list[int] = []

            def on_step(reached: str, step: str = step, full: list[int] = full) -> None:
                if reached == step and not full:
                    disk.fill()
                    full.append(0)

            def count_turns(full: list[int] = full) -> None:
                if full:
                    full[0] += 1
                    if full[0] == 5:
                        disk.free()

            line = at_steps(town, on_step)
            line.between = count_turns
            request = town.request(f"full-{step}", sql=COUNT_SQL, epsilon="0.1")
            try:
                job = town.clients["institute"].submit(request)["id"]
            except Unavailable:
                disk.free()
                job = town.clients["institute"].submit(request)["id"]
            line.until(lambda job=job, full=full: town.job(job).state in FINAL and bool(full))  # type: ignore[misc]
            disk.free()
            line.worker.sweep()
            assert town.job(job).state == "released", (step, town.job(job).code)
            require_sound(town.host)
            assert town.spent()["insurer"] == (number + 1) * 100_000_000
        town.close()


def test_a_submission_to_a_full_database_is_unavailable_and_costs_nothing(tmp_path: Path) -> None:
    """The data file is at its limit, as PRAGMA max_page_count sets it on every connection of the service."""
    town = found_town(tmp_path / "town", persons=10, total="100", queue="off")
    engine = town.host.store._engine
    limit: list[int] = []

    @event.listens_for(engine, "checkout")
    def bound(connection: Any, *_: Any) -> None:
        pages = limit[0] if limit else 1 << 30
        connection.execute(f"PRAGMA max_page_count={pages}").fetchall()

    with town.host.store.reading() as tx:
        before = (tx.log_size(), tx.spent(), tx.counts())
        limit.append(int(tx.connection.exec_driver_sql("PRAGMA page_count").scalar_one()))
    requests = [town.request(f"limit-{n}", sql=COUNT_SQL, epsilon="0.1") for n in range(40)]
    done: list[str] = []
    with pytest.raises(Unavailable) as refused:
        done.extend(town.clients["institute"].submit(request)["id"] for request in requests)
    assert refused.value.code == "database"
    with town.host.store.reading() as tx:
        assert (tx.log_size() - before[0], tx.counts().get("charged", 0)) == (3 * len(done), len(done))
    assert town.spent().get("insurer", 0) == len(done) * 100_000_000
    limit.clear()
    jobs = [town.clients["institute"].submit(request)["id"] for request in requests[: len(done) + 2]]
    assert jobs[: len(done)] == done
    Line(host=town.host, brokers=[town.broker("insurer")]).finish(*jobs)
    require_sound(town.host)
    town.close()


def code_of(act: Callable[[], object]) -> str:
    """The code of the typed error that `act` raises, or nothing."""
    try:
        act()
    except Unavailable as error:
        return error.code
    return ""


# At home


@pytest.mark.parametrize("room", [0, 300, 3000], ids=["no-byte", "a-line", "a-page"])
def test_a_broker_whose_home_is_full_releases_no_key(town: Town, room: int) -> None:
    home = town.clients["insurer"].home.folder
    with small_disk(home, 1) as disk:
        line = at_steps(town, lambda step: None)
        insurer = town.broker("insurer")
        line.brokers = []
        job = town.charged(f"home-{room}", sql=COUNT_SQL, epsilon="0.1")
        line.until(lambda: town.job(job).state == "running")
        insurer.step()
        line.until(lambda: town.job(job).evidence is not None)
        journal, codes = town.journal("insurer"), list[str]()
        disk.leave(room)
        for _ in range(3):
            codes.append(code_of(insurer.step))
        assert set(codes) <= {"", "home"}
        kept = (home / f"broker/{job}.release.json").exists()
        with town.host.store.reading() as tx:
            state = tx.key_requests(job)[0].state
        assert state == "attested" or kept, "what was sent is kept at home"
        assert state != "refused", "a full disk is no reason to refuse for ever"
        assert room or state == "attested"
        assert len(town.journal("insurer")) - len(journal) <= 1, "every line is whole"
        assert not list(home.rglob(".draft-*"))
        disk.free()
        line.brokers = [insurer]
        line.finish(job)
        assert town.job(job).state == "released"
        require_sound(town.host)


def test_a_nonce_that_cannot_be_kept_is_not_sent(town: Town) -> None:
    with small_disk(town.clients["insurer"].home.folder, 1) as disk:
        line = at_steps(town, lambda step: None)
        line.brokers = []
        job = town.charged("nonce", sql=COUNT_SQL, epsilon="0.1")
        line.until(lambda: town.job(job).state == "running")
        disk.fill()
        with pytest.raises(Unavailable) as refused:
            town.broker("insurer").step()
        assert refused.value.code == "home"
        with town.host.store.reading() as tx:
            assert [request.nonce for request in tx.key_requests(job)] == [""]
        disk.free()
        line.brokers = [town.broker("insurer")]
        line.finish(job)
        assert town.job(job).state == "released"


def test_a_publication_that_does_not_fit_at_home_publishes_nothing(town: Town) -> None:
    client = town.clients["insurer"]
    with small_disk(client.home.folder, 1) as disk:
        declaration = market.plans_declaration("insurer", "more")
        table: pa.Table = market.plans_table(3000)
        disk.leave(40_000)
        with pytest.raises(Unavailable) as refused:
            publish(client, declaration, table)
        assert refused.value.code == "home"
        assert client.dataset("insurer.more")["newest"] == 0
        assert not list(client.home.folder.glob("publish-*"))
        disk.free()
        assert publish(client, declaration, table)["version"] == 1


@pytest.mark.parametrize("how", PAIR)
def test_a_newcomer_whose_home_is_full_is_not_locked_out(town: Town, how: str) -> None:
    folder = town.folder / "homes" / "newcomer"
    home = Home.create(folder, "newcomer", "A newcomer", "http://host.test")
    session: Any = Direct(town.app)
    client, code = Client(home=home, session=session), issue_code(town.host, "newcomer")
    with small_disk(folder, 1) as disk:
        if how == "lost":
            disk.fill()
        else:
            home.drafted_credential()
            session.doctor = lambda method, path, answer: disk.fill() or answer
        with pytest.raises(Unavailable) as refused:
            client.join(code)
        assert refused.value.code == "home"
        with town.host.store.reading() as tx:
            assert (tx.participant("newcomer") is not None) == (how == "applied")
        session.doctor = lambda method, path, answer: answer
        disk.free()
        client.join(code)
        assert client.participants()
        assert again(client.checkpoint)

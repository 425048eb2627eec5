"""After a restore, participants' exports bring back what the backup does not hold: nothing is charged less, and brokers accept the log."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app import compose
from enclaves.kit.signatures import SigningKey
from policies.errors import Conflict, SandboxError, Tampered, Unavailable
from sandbox.audit.export import Export
from sandbox.audit.replay import replay
from sandbox.config import Config
from sandbox.exchange.participants import issue_code
from sandbox.exchange.rotation import revoke
from sandbox.host import Host
from sandbox.jobs import recovery
from sandbox.jobs.recovery import Recovery, recover
from sandbox.jobs.worker import Worker
from sandbox.party.publish import publish
from sandbox.party.rekeying import rejoin, rotate_keys
from sandbox.store.backup import make_backup, restore_backup
from sandbox.store.database import Store
from sandbox.store.log import LogTables
from sandbox.web.application import make_app
from tests.support import market
from tests.support.forge import drafts, sealed
from tests.support.runs import COUNT_SQL, Town, brokers_running, found_town
from tests.support.service import DATABASES, fresh_database
from tests.support.story import export

Files = dict[str, bytes]


class Lost:
    """A town whose service is lost after a backup: what was charged, exported and seen by then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.town = found_town(folder / "town")
        town = self.town
        self.before = self.run("before")
        self.waiting = town.charged("waiting", sql=COUNT_SQL, epsilon="0.1")
        host = town.host
        make_backup(host.store, host.blobs, host.log_key, host.log_identity, folder / "backup", now=1)
        with brokers_running(town.clients["insurer"]):
            assert Worker(host=host).step()
        town.clients["institute"].release(self.waiting)
        self.after = self.run("after")
        rotate_keys(town.clients["insurer"])
        revoke(host, "clinic")
        rejoin(town.clients["clinic"], issue_code(host, "clinic"))
        publish(town.clients["insurer"], market.plans_declaration("insurer"), market.plans_table(20))
        self.charged = town.charged("charged", sql=COUNT_SQL, epsilon="0.2")
        running = Worker(host=host)._take()
        assert running is not None
        assert running.id == self.charged
        self.spent = town.spent()
        self.exports = {name: export(host, name) for name in ("auditor", "clinic", "insurer")}
        for client in town.clients.values():  # everybody has seen all of it
            client.signed_agreement(town.agreement)
        host.store.close()

    def run(self, label: str) -> str:
        town = self.town
        job = town.charged(label, sql=COUNT_SQL, epsilon="0.1")
        with brokers_running(town.clients["insurer"]):
            assert Worker(host=town.host).step()
        town.clients["institute"].release(job)
        return job


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Lost:
    return Lost(tmp_path_factory.mktemp("lost"))


@pytest.fixture(params=DATABASES)
def host(request: pytest.FixtureRequest, lost: Lost, tmp_path: Path) -> Iterator[Host]:
    """The backup, restored into an empty database of either kind."""
    with fresh_database(str(request.param)) as url:
        yield from restored(lost, tmp_path, url)


@pytest.fixture
def sqlite(lost: Lost, tmp_path: Path) -> Iterator[Host]:
    """The backup, restored into SQLite."""
    yield from restored(lost, tmp_path, "")


def restored(lost: Lost, tmp_path: Path, url: str) -> Iterator[Host]:
    config = replace(lost.town.host.config, data=tmp_path / "data", database=url)
    store = Store(config.database_url)
    restore_backup(
        lost.folder / "backup", store, config.data, origin=config.origin, log_key=lost.town.host.log_key.to_bytes(), accept_rewind=True
    )
    store.close()
    found = compose(config)
    yield found
    found.store.close()


def back(lost: Lost, host: Host, *names: str) -> Recovery:
    return recover(host, [Export(read=lost.exports[name].__getitem__) for name in names])


def reached(lost: Lost, host: Host, tmp_path: Path) -> Town:
    """The same participants, with copies of their homes, at the restored service."""
    shutil.copytree(lost.folder / "town" / "homes", tmp_path / "homes")
    town = Town(folder=tmp_path, host=host, app=make_app(host), clients={}, agreement=lost.town.agreement)
    from sandbox.party.home import Home

    town.clients = {name: town.client(Home.open(tmp_path / "homes" / name)) for name in market.ROLES}
    return town


def test_a_full_recovery_brings_back_every_entry_ledger_and_key_and_brokers_accept_it(lost: Lost, host: Host, tmp_path: Path) -> None:
    town = reached(lost, host, tmp_path)
    with pytest.raises(Tampered) as caught:
        town.clients["insurer"].signed_agreement(town.agreement)
    assert caught.value.code == "rolled-back"
    done = back(lost, host, "clinic", "auditor")
    assert done.jobs_lost == []
    assert done.unopened == 0
    assert done.ended == [lost.charged]
    assert sorted(done.releases_lost) == sorted([lost.waiting, lost.after])
    assert done.uploads_lost == ["insurer.plans/2"]
    assert town.spent() == lost.spent
    with host.store.reading() as tx:
        for job, state, code in (
            (lost.before, "released", ""),
            (lost.waiting, "failed", "release-lost"),
            (lost.after, "failed", "release-lost"),
            (lost.charged, "failed", "worker-died"),
        ):
            found = tx.job(job)
            assert found is not None
            assert (found.state, found.code) == (state, code)
    for client in town.clients.values():
        client.signed_agreement(town.agreement)
    release, receipt = town.clients["institute"].release(lost.before)
    assert release.statistics == receipt.grant.statistics
    with pytest.raises(Unavailable) as gone:
        town.charged("reads-what-is-gone", sql=COUNT_SQL)
    assert gone.value.code == "upload-lost"
    publish(town.clients["insurer"], market.plans_declaration("insurer"), market.plans_table(20))
    job = town.charged("afterwards", sql=COUNT_SQL, epsilon="0.1")
    with brokers_running(town.clients["insurer"]):
        assert Worker(host=host).step()
    assert town.job(job).state == "released", town.journal("insurer")[-1]
    verdict = replay(export(host, "auditor").__getitem__, host.log_identity)
    assert verdict.ok, verdict.mismatches
    make_backup(host.store, host.blobs, host.log_key, host.log_identity, tmp_path / "again", now=2)


def test_the_same_exports_again_add_nothing(lost: Lost, host: Host) -> None:
    back(lost, host, "auditor")
    before = drafts_of(host)
    assert back(lost, host, "auditor", "insurer") == Recovery()
    assert drafts_of(host) == before


def test_a_run_that_the_log_has_is_never_run_again(lost: Lost, host: Host, tmp_path: Path) -> None:
    back(lost, host, "auditor")
    town = reached(lost, host, tmp_path)
    with brokers_running(town.clients["insurer"]):
        assert not Worker(host=host).step()
    again = town.clients["institute"].submit(town.request("after", sql=COUNT_SQL, epsilon="0.1"))
    assert (again["id"], again["state"]) == (lost.after, "failed")


def test_without_openings_the_ledgers_are_rebuilt_from_headers_and_no_request_is_decided_twice(
    lost: Lost, host: Host, tmp_path: Path
) -> None:
    bare = {path: data for path, data in lost.exports["auditor"].items() if not path.startswith("openings/")}
    done = recover(host, [Export(read=bare.__getitem__)])
    assert done.unopened == done.entries > 0
    assert sorted(done.jobs_lost) == sorted([lost.after, lost.charged])
    town = reached(lost, host, tmp_path)
    assert town.spent() == lost.spent
    with host.store.reading() as tx:
        assert [tx.job(job) for job in done.jobs_lost] == [None, None]
    with pytest.raises(Conflict) as caught:
        town.charged("after", sql=COUNT_SQL, epsilon="0.1")
    assert caught.value.code == "request-lost"
    verdict = replay(export(host, "auditor").__getitem__, host.log_identity)
    assert not verdict.mismatches, verdict.mismatches


def drafts_of(host: Host) -> list[bytes]:
    with host.store.reading() as tx:
        return tx.entries(0, tx.log_size())


def test_a_forged_export_changes_nothing(lost: Lost, sqlite: Host, tmp_path: Path) -> None:
    key, origin = lost.town.host.log_key, lost.town.host.config.origin
    other = compose(Config(data=tmp_path / "other", origin=origin))
    shutil.copytree(lost.folder / "town" / "service", tmp_path / "whole")
    whole = compose(replace(lost.town.host.config, data=tmp_path / "whole"))
    history = [draft for draft in drafts(whole) if draft.salt is not None]
    whole.store.close()
    honest = lost.exports["auditor"]
    charged = next(at for at, draft in enumerate(history) if draft.header.kind == "charged" and draft.header.ids["job"] == lost.after)
    cheaper = list(history)
    cheaper[charged] = history[charged].charging(replace(history[charged].header.losses[0], amount=1))
    changed = [*history[:3], history[3].edited(at=1), *history[4:]]
    entries = next(path for path in honest if path.startswith("tile/entries"))
    openings = next(path for path in honest if path.startswith("openings/"))
    forged: dict[str, Files] = {
        "signed by another key": sealed(cheaper, SigningKey.generate(), origin),
        "of another log of the same name": export_of(other),
        "a cheaper charge under the honest checkpoint": {**honest, entries: sealed(cheaper, key, origin)[entries]},
        "another history under our own key": sealed(changed, key, origin),
        "an opening that says something else": {**honest, openings: honest[openings].replace(b"health-economics", b"hypothetically-so")},
        "cut off": {**honest, entries: honest[entries][:-100]},
    }
    before = drafts_of(sqlite)
    for how, files in forged.items():
        with pytest.raises(SandboxError):
            recover(sqlite, [Export(read=honest.__getitem__), Export(read=files.__getitem__)])
        with pytest.raises(SandboxError):
            recover(sqlite, [Export(read=files.__getitem__)])
        assert drafts_of(sqlite) == before, how
    # With the log's own key the operator can charge less, but then an honest export is of another history.
    with pytest.raises(Tampered) as caught:
        recover(sqlite, [Export(read=honest.__getitem__), Export(read=sealed(cheaper, key, origin).__getitem__)])
    assert caught.value.code == "other-history"
    other.store.close()


def export_of(host: Host) -> Files:
    host.publish()
    return export(host, "auditor")


class Died(Exception):
    """The machine died here."""


@pytest.mark.parametrize("first", ["before", "middle", "ending", "unpublished"])
@pytest.mark.parametrize("second", ["middle", "unpublished", ""])
def test_a_recovery_that_dies_at_any_step_and_again_is_repeated_whole(
    lost: Lost, sqlite: Host, first: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for where in filter(None, (first, second)):
        before = drafts_of(sqlite)
        with monkeypatch.context() as patch, suppress(Died):
            interrupt(patch, where)
            back(lost, sqlite, "auditor")
        assert where == "unpublished" or drafts_of(sqlite) == before
    back(lost, sqlite, "auditor")
    with sqlite.store.reading() as tx:
        newest = tx.newest_checkpoint()
        assert newest is not None
        assert newest[0] == tx.log_size()
        assert {provider: loss.amount for (provider, _), loss in tx.spent().items()} == lost.spent
    verdict = replay(export(sqlite, "auditor").__getitem__, sqlite.log_identity)
    assert verdict.ok, verdict.mismatches


def interrupt(patch: pytest.MonkeyPatch, where: str) -> None:
    """Let the next recovery die at one of its steps."""
    if where == "unpublished":
        patch.setattr(Host, "publish", lambda host: die())
    elif where == "before":
        patch.setattr(recovery, "merge_exports", lambda *arguments: die())
    elif where == "ending":
        patch.setattr(LogTables, "append", lambda *arguments, **named: die())
    else:
        real, taken = LogTables.append_bytes, iter(range(7))

        def fail(tables: LogTables, *arguments: Any) -> int:
            if next(taken, None) is None:
                die()
            return real(tables, *arguments)

        patch.setattr(LogTables, "append_bytes", fail)


def die() -> None:
    raise Died

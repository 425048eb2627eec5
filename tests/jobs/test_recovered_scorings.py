"""After a restore encrypted scorings stand where the log's entries say: receipts hold, what waited goes on, and used rows stay used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app import compose
from policies.errors import Conflict, NotFound, PolicyRefused
from sandbox.audit.export import Export
from sandbox.audit.replay import replay
from sandbox.host import Host
from sandbox.jobs.recovery import Recovery, recover
from sandbox.store.backup import make_backup, restore_backup
from sandbox.store.database import Store
from sandbox.web.application import make_app
from tests.jobs.test_returned_scorings import WITHIN_S, Silent, opened
from tests.support.pooled import work_in_this_process
from tests.support.runs import Direct
from tests.support.service import running
from tests.support.story import export

ANSWERED, WAITING, RETURNED, DENIED = 2, 3, 1, 6
ROWS = ANSWERED + WAITING + RETURNED


class Lost:
    """A market whose service is lost, with a backup of before anybody asked and an export of after."""

    def __init__(self, folder: Path) -> None:
        with running(folder / "served", "sqlite", upload_bytes=4 << 20) as service:
            self.silent: Silent = opened(service, rows=ROWS)
            self.host = service.host
            make_backup(self.host.store, self.host.blobs, self.host.log_key, self.host.log_identity, folder / "backup", now=1)
            self.returned = self.silent.ask(RETURNED)
            self.silent.clock.ahead += WITHIN_S + 1
            self.silent.rows().take_back(self.returned)
            self.answered = self.silent.ask(ANSWERED)
            assert self.silent.owner().step() == 1
            self.waiting = self.silent.ask(WAITING, "r-waiting")
            with pytest.raises(PolicyRefused):
                self.silent.ask(DENIED, "r-denied")
            auditor = self.silent.market.auditor.home.participant
            self.files = export(self.host, auditor)
        self.folder = folder

    def recovered(self, files: dict[str, bytes]) -> tuple[Host, Recovery]:
        config = replace(self.host.config, data=self.folder / "restored", database="")
        store, key = Store(config.database_url), self.host.log_key.to_bytes()
        restore_backup(self.folder / "backup", store, config.data, origin=config.origin, log_key=key, accept_rewind=True)
        store.close()
        host = replace(compose(config), now=self.silent.clock.ms)
        done = recover(host, [Export(read=files.__getitem__)])
        for name in self.silent.sessions:
            getattr(self.silent.market, name).session = Direct(make_app(host))
        return host, done


@pytest.fixture
def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lost:
    work_in_this_process(monkeypatch)
    return Lost(tmp_path)


def test_scorings_go_on_where_they_stood(lost: Lost) -> None:
    host, done = lost.recovered(lost.files)
    silent, bank = lost.silent, lost.silent.market.bank
    assert (done.unopened, done.jobs_lost) == (0, [])
    assert bank.verified_receipt(lost.answered)[1].request.rows == ANSWERED
    assert bank.verified_receipt(lost.returned)[1].request.rows == RETURNED
    with pytest.raises(PolicyRefused):
        silent.ask(ROWS - ANSWERED - WAITING + 1)
    assert silent.ask(WAITING, "r-waiting") == lost.waiting, "the same request: its ciphertexts are sent again"
    assert silent.owner().step() == 1
    assert len(silent.rows().read(lost.waiting)) == WAITING
    assert silent.owner().step() == 0
    last = silent.ask(ROWS - ANSWERED - WAITING)
    assert silent.owner().step() == 1
    assert len(silent.rows().read(last)) == ROWS - ANSWERED - WAITING
    assert replay(export(host, silent.market.auditor.home.participant).__getitem__, host.log_identity).mismatches == ()


def test_of_scorings_that_nobody_opens_the_rows_count_and_none_is_decided_twice(lost: Lost) -> None:
    bare = {path: data for path, data in lost.files.items() if not path.startswith("openings/")}
    host, done = lost.recovered(bare)
    silent = lost.silent
    assert {lost.answered, lost.waiting, lost.returned} < set(done.jobs_lost)
    assert len(done.jobs_lost) == 4
    for request in ("r-waiting", "r-denied"):
        with pytest.raises(Conflict) as twice:
            silent.ask(WAITING, request)
        assert twice.value.code == "request-lost"
    with pytest.raises(NotFound):
        silent.market.bank.verified_receipt(lost.answered)
    with pytest.raises(PolicyRefused):
        silent.ask(ROWS - ANSWERED - WAITING + 1)
    again = silent.ask(ROWS - ANSWERED - WAITING)
    assert silent.owner().step() == 1
    assert len(silent.rows().read(again)) == ROWS - ANSWERED - WAITING
    assert replay(export(host, silent.market.auditor.home.participant).__getitem__, host.log_identity).mismatches == ()

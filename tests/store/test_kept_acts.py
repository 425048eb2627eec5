"""What was signed and noted outlives a restored backup, and a backup of before is brought up to it from an export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app import compose
from enclaves.kit.signatures import SigningKey
from policies.acts import JobCancellation
from policies.agreement import MAX_TIME
from policies.audit_scope import AuditScope
from policies.codec import encode
from policies.conditions import Approvals
from policies.errors import Tampered
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.cosignature import WitnessKey, cosign
from sandbox.audit.export import Export
from sandbox.audit.replay import replay
from sandbox.config import Config
from sandbox.exchange.cosigning import add_cosignatures, newest_cosigned, set_witnesses
from sandbox.exchange.noting import note_log
from sandbox.exchange.scopes import give_scope
from sandbox.host import Host
from sandbox.jobs.approve import cancel
from sandbox.jobs.recovery import recover
from sandbox.jobs.states import Job
from sandbox.store.backup import make_backup, restore_backup
from sandbox.store.database import Store
from tests.support import terms
from tests.support.forge import fresh, sealed
from tests.support.story import Story, begin, export

OTHER, WITNESS = SigningKey.generate(), SigningKey.generate()
KEY = LogKey(name="other.example/log", public=OTHER.public)
ENTRIES = [fresh("running", at, {"job": f"job-{at}", "agreement": "a"}, {}) for at in range(9)]


def another_log(size: int) -> Export:
    return Export(read=sealed(ENTRIES[:size], OTHER, KEY.name).__getitem__)


@dataclass(kw_only=True)
class Kept:
    """A service, the backup made before anything was taken back, noted or given, the one made after, and the export of after."""

    story: Story
    folder: Path
    job: Job
    agreement: str
    files: dict[str, bytes]

    def restored(self, which: str, data: Path) -> Host:
        host = self.story.host
        store = Store(Config(data=data).database_url)
        restore_backup(self.folder / which, store, data, origin=host.config.origin, log_key=host.log_key.to_bytes(), accept_rewind=True)
        store.close()
        return compose(Config(data=data))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    folder = tmp_path_factory.mktemp("kept")
    story = begin(folder / "service")
    host = story.host
    two = terms.terms_insurer(approvals=Approvals(need=2, of=("insurer", "clinic")))
    agreement = story.agree(story.sealed_agreement(terms=(two, terms.terms_clinic())))
    job = story.ask("taken-back", agreement=agreement, sql=terms.COUNT_SQL, epsilon="0.1")
    assert job.state == "awaiting_approval"

    def backup(name: str) -> None:
        make_backup(host.store, host.blobs, host.log_key, host.log_identity, folder / name, now=1)

    backup("before")
    taken = JobCancellation(agreement=agreement, job=job.id, request=job.request_digest)
    cancel(host, story.member("institute"), story.firms["institute"].sign("job-cancellation", taken))
    assert note_log(host, another_log(5), KEY) is not None
    scope = AuditScope(
        agreement=agreement, owner="insurer", auditor="stranger", sequence=1, openings=("awaiting",), not_before=0, not_after=MAX_TIME
    )
    give_scope(host, story.member("insurer"), story.firms["insurer"].sign("audit-scope", scope))
    set_witnesses(host, f"witness w {WitnessKey(name='witness.example', public=WITNESS.public).vkey}\nquorum w\n")
    note = host.publish()
    add_cosignatures(host, note + cosign(note.partition("\n\n")[0] + "\n", "witness.example", WITNESS, 7))
    backup("after")
    yield Kept(story=story, folder=folder, job=job, agreement=agreement, files=export(host, "auditor"))
    host.store.close()


def require_kept(kept: Kept, host: Host) -> None:
    """The cancellation, the noted log and the scope are what they were, and mean it."""
    story = kept.story
    with host.store.reading() as tx:
        job = tx.job(kept.job.id)
        assert job is not None
        assert job.state == "cancelled"
        (scope,) = tx.audit_scopes(kept.agreement)
        size = tx.log_size()
    taken = JobCancellation(agreement=kept.agreement, job=job.id, request=job.request_digest)
    again = cancel(host, story.member("institute"), story.firms["institute"].sign("job-cancellation", taken))
    assert again.state == "cancelled"
    assert note_log(host, another_log(5), KEY) is None, "noted already"
    with pytest.raises(Tampered) as caught:
        note_log(host, another_log(3), KEY)
    assert caught.value.code == "rolled-back"
    same = story.firms["insurer"].sign("audit-scope", encode(scope.scope))
    assert give_scope(host, story.member("insurer"), same) == scope
    with host.store.reading() as tx:
        assert tx.log_size() == size, "what is kept is not entered again"
    assert replay(export(host, "auditor").__getitem__, host.log_identity).ok
    assert note_log(host, another_log(8), KEY) is not None


def test_a_restored_backup_keeps_them(kept: Kept, tmp_path: Path) -> None:
    host = kept.restored("after", tmp_path / "data")
    with host.store.reading() as tx:
        assert newest_cosigned(tx).witnesses == ("w",)
    require_kept(kept, host)
    host.store.close()


def test_an_older_backup_is_brought_up_to_them_from_an_export(kept: Kept, tmp_path: Path) -> None:
    host = kept.restored("before", tmp_path / "data")
    with host.store.reading() as tx:
        waiting = tx.job(kept.job.id)
        assert waiting is not None
        assert waiting.state == "awaiting_approval"
    done = recover(host, [Export(read=kept.files.__getitem__)])
    assert (done.entries, done.unopened) == (3, 0)
    require_kept(kept, host)
    with host.store.reading() as tx:
        shown = {opening.index for opening in tx.openings(0, tx.log_size(), [])}
        assert tx.log_size() - 2 in shown, "a scope is for all to read, also after a recovery"
    host.store.close()

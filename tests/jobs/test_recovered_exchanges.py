"""After a restore an exchange stands where its entries say, nobody reads what was not for them, and nothing lost is half handed over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app import compose
from policies.errors import NotFound
from policies.exchange import exchange_digest
from sandbox.audit.export import Export
from sandbox.audit.replay import replay
from sandbox.exchange import escrow
from sandbox.host import Host
from sandbox.jobs.recovery import recover
from sandbox.store.backup import make_backup, restore_backup
from sandbox.store.database import Store
from tests.support import exchanges as ex
from tests.support.story import Story, begin, export


def restored(story: Story, folder: Path, backup: Path) -> Host:
    """The backup in an empty place, with what the auditor's export adds."""
    config = replace(story.host.config, data=folder, database="")
    store = Store(config.database_url)
    restore_backup(backup, store, folder, origin=config.origin, log_key=story.host.log_key.to_bytes(), accept_rewind=True)
    store.close()
    host = replace(compose(config, story.on_step), now=story.clock)
    recover(host, [Export(read=export(story.host, "auditor").__getitem__)])
    return host


def test_exchanges_stand_where_their_entries_say(tmp_path: Path) -> None:
    story = begin(tmp_path / "service")
    name = ex.agreed(story, "recovered")
    make_backup(story.host.store, story.host.blobs, story.host.log_key, story.host.log_identity, tmp_path / "backup", now=1)
    done = ex.begun(story, name, uid="done")
    over = ex.completed(story, done, "done")
    half = ex.begun(story, name, second=ex.back_leg(name), uid="half")
    ex.delivered(story, half, 1, "half-1")
    ex.charged(story, half, 2, "half-2")
    gone = ex.begun(story, name, uid="gone")
    ex.did(story, "clinic", gone, "withdraw")
    old = story.host
    host = restored(story, tmp_path / "restored", tmp_path / "backup")
    with old.store.reading() as before, host.store.reading() as after:
        for document in (done, gone):
            digest = exchange_digest(document)
            assert after.exchange(digest) == before.exchange(digest)
            assert after.exchange_acts(digest) == before.exchange_acts(digest)
        known = after.exchange(exchange_digest(half))
        assert known is not None
        assert (known.course.stage, known.course.second.running, known.course.second.charged) == ("one_in_escrow", "", 1)
        at = next(i for i, data in enumerate(after.entries(0, after.log_size())) if b'"kind":"exchange_proposed"' in data)
        assert not after.openings(at, at + 1, after.agreements_of("stranger"))
        assert after.openings(at, at + 1, after.agreements_of("clinic"))
    story.host = host
    with pytest.raises(NotFound):
        ex.handed(story, over)  # it was lost with the database
    second = ex.delivered(story, half, 2, "half-3")
    for who, leg in (("insurer", 1), ("clinic", 2)):
        ex.did(story, who, half, "acknowledge", leg, ex.sealed_of(story, half, leg))
    assert ex.stage(story, half) == "accepted", "the release of leg 1 was lost: handing over leg 2 would be one-sided"
    story.clock.at = half.deadline * 1000
    escrow.sweep(host)
    assert ex.stage(story, half) == "returned"
    with pytest.raises(NotFound):
        ex.handed(story, second)
    assert not replay(export(host, "insurer").__getitem__, host.log_identity).mismatches
    old.store.close()
    host.store.close()

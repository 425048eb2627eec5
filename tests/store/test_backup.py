"""A backup is complete, checks itself, and is restored only where nothing is and only with open eyes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app import compose
from enclaves.kit.signatures import SigningKey
from policies.errors import Conflict, Malformed, Refused, SandboxError, Tampered
from sandbox.audit.checkpoint import Checkpoint, sign
from sandbox.audit.replay import replay
from sandbox.config import Config
from sandbox.store.backup import Manifest, make_backup, restore_backup, verify_backup
from sandbox.store.database import Store
from tests.support.service import DATABASES, fresh_database
from tests.support.story import Story, export, tell

ORIGIN = "sandbox.local/log"


@dataclass(kw_only=True)
class Kept:
    """A service with a history and a backup of it without the log's key."""

    story: Story
    folder: Path

    @property
    def key(self) -> SigningKey:
        return self.story.host.log_key

    def backup(self, folder: Path, *, with_log_key: bool = False) -> Manifest:
        host = self.story.host
        return make_backup(host.store, host.blobs, host.log_key, host.log_identity, folder, now=1, with_log_key=with_log_key)

    def restore(self, data: Path, url: str = "", **options: object) -> Manifest:
        store = Store(url or Config(data=data).database_url)
        try:
            return restore_backup(self.folder, store, data, origin=ORIGIN, **{"log_key": self.key.to_bytes(), **options})  # type: ignore[arg-type]
        finally:
            store.close()

    def note(self, size: int) -> str:
        """A checkpoint of this log at a size that it may not have reached in the backup."""
        return sign(Checkpoint(origin=ORIGIN, size=size, root=bytes(range(32))), self.key)


@pytest.fixture(scope="module", params=DATABASES)
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with fresh_database(str(request.param)) as url:
        story = tell(tmp_path_factory.mktemp("service"), url)
        found = Kept(story=story, folder=tmp_path_factory.mktemp("backups") / "one")
        found.backup(found.folder)
        yield found
        story.host.store.close()


@pytest.mark.parametrize("kind", DATABASES)
def test_a_restored_backup_is_the_same_service_on_either_database(kept: Kept, kind: str, tmp_path: Path) -> None:
    before = export(kept.story.host, "auditor")
    with fresh_database(kind) as url:
        manifest = kept.restore(tmp_path / "data", url)
        restored = compose(Config(data=tmp_path / "data", database=url))
        after = export(restored, "auditor")
        assert after == before
        assert replay(after.__getitem__, restored.log_identity).ok
        assert sorted(p.name for p in restored.blobs.folder.iterdir()) == sorted(p.name for p in kept.story.host.blobs.folder.iterdir())
        with restored.store.reading() as tx:
            assert tx.log_size() == manifest.size
            for job in kept.story.jobs.values():
                assert tx.job(job.id) == job
        restored.store.close()


def test_the_log_key_is_in_a_backup_only_if_asked_for(kept: Kept, tmp_path: Path) -> None:
    secret = kept.key.to_bytes()
    assert not any(secret in path.read_bytes() for path in kept.folder.rglob("*") if path.is_file())
    with_key = tmp_path / "with-key"
    kept.backup(with_key, with_log_key=True)
    assert (with_key / "log.key").read_bytes() == secret
    assert (with_key / "log.key").stat().st_mode & 0o077 == 0
    verify_backup(with_key)


@pytest.fixture
def copy(kept: Kept, tmp_path: Path) -> Path:
    """A copy of the backup to spoil."""
    return Path(shutil.copytree(kept.folder, tmp_path / "copy"))


def test_an_untouched_backup_verifies(copy: Path) -> None:
    assert verify_backup(copy).size > 40


@pytest.mark.parametrize("part", ["tables/jobs.jsonl", "tables/entries.jsonl", "files", "uploads"])
def test_a_changed_file_is_found(copy: Path, part: str) -> None:
    path = next((copy / part).iterdir()) if part == "uploads" else copy / part
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(Tampered) as refused:
        verify_backup(copy)
    assert refused.value.code == "backup-digest"


@pytest.mark.parametrize("part", ["tables/jobs.jsonl", "uploads", "files"])
def test_a_missing_file_is_found(copy: Path, part: str) -> None:
    (next((copy / part).iterdir()) if part == "uploads" else copy / part).unlink()
    with pytest.raises(Tampered):
        verify_backup(copy)


def test_a_superfluous_file_is_found(copy: Path) -> None:
    (copy / "tables" / "more.jsonl").write_text("{}\n")
    with pytest.raises(Tampered) as refused:
        verify_backup(copy)
    assert refused.value.code == "backup-files"


def test_entries_rewritten_with_all_digests_made_to_fit_contradict_the_signed_checkpoint(copy: Path) -> None:
    import hashlib
    import json

    from sandbox.audit import merkle
    from sandbox.store.dump import read_rows

    path = copy / "tables" / "entries.jsonl"
    rows = [{"data": row["data"], "position": row["position"]} for row in read_rows(path)]
    rows[3]["data"] = rows[3]["data"].replace(b'"at":', b'"at" :')
    path.write_text("".join(json.dumps({"data": {"hex": row["data"].hex()}, "position": row["position"]}) + "\n" for row in rows))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lines = [line for line in (copy / "files").read_text().splitlines() if not line.endswith(" tables/entries.jsonl")]
    (copy / "files").write_text("\n".join([*lines, f"{digest}  tables/entries.jsonl"]) + "\n")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"] = hashlib.sha256((copy / "files").read_bytes()).hexdigest()
    manifest["root"] = merkle.Frontier().extend(merkle.leaf_hash(row["data"]) for row in rows).root().hex()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Tampered) as refused:
        verify_backup(copy)
    assert refused.value.code == "backup-tree"


def test_a_rewind_is_refused_unless_accepted(kept: Kept, tmp_path: Path) -> None:
    size = verify_backup(kept.folder).size
    with pytest.raises(Refused) as refused:
        kept.restore(tmp_path / "data", newest_checkpoint=kept.note(size + 3))
    assert refused.value.code == "rewind"
    assert not (tmp_path / "data" / "log.key").exists()
    assert kept.restore(tmp_path / "data2", newest_checkpoint=kept.note(size + 3), accept_rewind=True).size == size


def test_a_checkpoint_of_another_history_is_refused_even_if_a_rewind_is_accepted(kept: Kept, tmp_path: Path) -> None:
    with pytest.raises(Tampered) as refused:
        kept.restore(tmp_path / "data", newest_checkpoint=kept.note(7), accept_rewind=True)
    assert refused.value.code == "rewritten"


def test_the_logs_own_checkpoint_is_no_rewind(kept: Kept, tmp_path: Path) -> None:
    note = verify_backup(kept.folder).checkpoint
    assert note
    kept.restore(tmp_path / "data", newest_checkpoint=note)


def test_nothing_is_overwritten(kept: Kept, tmp_path: Path) -> None:
    data = tmp_path / "data"
    kept.restore(data)
    with pytest.raises(Conflict) as refused:
        kept.restore(data)
    assert refused.value.code == "not-empty"
    used = tmp_path / "used"
    (used / "uploads").mkdir(parents=True)
    with pytest.raises(Conflict):
        kept.restore(used)
    with pytest.raises(Conflict):
        kept.restore(tmp_path / "third", f"sqlite:///{data / 'sandbox.sqlite3'}")
    with pytest.raises(Conflict):
        kept.backup(data)


def test_a_restore_needs_the_key_of_the_log_and_its_name(kept: Kept, tmp_path: Path) -> None:
    for number, key in enumerate((None, SigningKey.generate().to_bytes(), b"short")):
        with pytest.raises(Malformed):
            kept.restore(tmp_path / str(number), log_key=key)
    with pytest.raises(Malformed):
        restore_backup(kept.folder, Store("sqlite://"), tmp_path / "other", origin="other.test/log", log_key=kept.key.to_bytes())


def test_a_service_whose_log_key_is_gone_or_another_one_does_not_start(kept: Kept, tmp_path: Path) -> None:
    data = tmp_path / "data"
    kept.restore(data)
    (data / "log.key").unlink()
    with pytest.raises(SandboxError) as refused:
        compose(Config(data=data))
    assert refused.value.code == "log-key-missing"
    (data / "log.key").write_bytes(SigningKey.generate().to_bytes())
    with pytest.raises(SandboxError) as refused:
        compose(Config(data=data))
    assert refused.value.code == "other-log-key"


def test_a_missing_published_upload_is_noticed_when_the_backup_is_made(kept: Kept, tmp_path: Path) -> None:
    data = tmp_path / "data"
    kept.restore(data)
    host = compose(Config(data=data))
    next(host.blobs.folder.iterdir()).unlink()
    with pytest.raises(Tampered) as refused:
        make_backup(host.store, host.blobs, host.log_key, host.log_identity, tmp_path / "backup", now=1)
    assert refused.value.code == "upload-missing"
    host.store.close()

"""Makes `tests/golden/foundation/`: a data folder and a log export as the first schema (settings.schema = 1) left them.

Run once, with the code whose data it freezes: `python -m tests.golden.make_foundation FOLDER`. A golden folder is never made again:
newer code must keep reading what older code wrote, and a folder remade by newer code would test nothing.
"""

from __future__ import annotations

import gzip
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

from policies.documents import secret_digest
from tests.support.story import export, tell


def credential(participant: str) -> str:
    """The bearer credential of a participant of the golden data: test data, no secret."""
    return f"golden-credential-of-{participant}"


def main(folder: Path) -> None:
    """Tell the story, give everybody a known credential, and keep data folder and export in `folder`."""
    if folder.exists():
        raise SystemExit(f"{folder} exists; golden folders are never regenerated")
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        story = tell(data)
        files = export(story.host, "auditor")
        story.host.store.close()
        database = sqlite3.connect(data / "sandbox.sqlite3", isolation_level=None)
        for name in story.firms:
            database.execute("UPDATE participants SET credential_digest = ? WHERE id = ?", (secret_digest(credential(name)), name))
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("VACUUM")
        database.close()
        for path, contents in files.items():
            target = folder / "export" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(contents)
        packed = data / "sandbox.sqlite3.gz"
        packed.write_bytes(gzip.compress((data / "sandbox.sqlite3").read_bytes(), mtime=0))
        (data / "sandbox.sqlite3").unlink()
        shutil.copytree(data, folder / "data")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The demonstration in the auditor's tutorial: one violation among thousands of honest entries, found by one command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.service import checkout

ENTRIES = int(os.environ.get("PLANTED_ENTRIES", "10000" if os.environ.get("SANDBOX_FULL") == "1" else "1200"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, cwd=checkout(), check=False, timeout=300)


def test_one_command_finds_the_planted_entry(tmp_path: Path) -> None:
    folder = str(tmp_path / "planted")
    made = run("examples.audit.plant", folder, "--entries", str(ENTRIES), "--violation", "hidden-charge")
    assert made.returncode == 0, made.stderr
    done = run("sandbox", "audit", "replay", folder, "--json")
    assert done.returncode == 5
    found = json.loads(done.stdout)
    assert found["entries"] >= ENTRIES
    assert {m["index"] for m in found["mismatches"]} == {found["mismatches"][0]["index"]}
    assert abs(found["mismatches"][0]["index"] - ENTRIES // 2) < 60
    assert found["mismatches"][0]["kind"] == "decided"
    assert "stated as spent" in found["mismatches"][0]["what"]
    assert run("examples.audit.plant", folder).returncode == 2, "nothing is written over"

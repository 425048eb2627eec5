"""Progress is for a person at a terminal: on standard error, gone at the end, and nothing at all in a pipe or beside JSON."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

import pytest

from tests.support.service import checkout

SHOW = """
from sandbox.cli.show import progress_bar
with progress_bar(quiet={quiet}) as progress:
    task = progress.add_task("uploading", total=10)
    for _ in range(10):
        progress.advance(task)
        progress.refresh() if not progress.disable else None
print("done")
"""


def run(quiet: bool, *, terminal: bool) -> tuple[bytes, bytes]:
    """Standard output and what reached standard error, which is a terminal or a pipe."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-c", SHOW.format(quiet=quiet)]
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, cwd=checkout(), env=environment)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:
        pass  # a terminal whose other end is closed
    os.close(ours)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return output, seen


def test_a_terminal_shows_progress_beside_the_output() -> None:
    output, seen = run(quiet=False, terminal=True)
    assert b"uploading" in seen
    assert b"100%" in seen
    assert output == b"done\n"


@pytest.mark.parametrize(("quiet", "terminal"), [(False, False), (True, True), (True, False)])
def test_a_pipe_and_json_get_nothing(quiet: bool, terminal: bool) -> None:
    assert run(quiet, terminal=terminal) == (b"done\n", b"")

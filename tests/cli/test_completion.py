"""Help and completion: fast, complete, and true to the commands that are imported on use."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from sandbox.cli import COMMANDS, cli

HEAVY = ("pyarrow", "duckdb", "requests", "rich", "sqlglot", "flask", "sqlalchemy", "yaml", "cryptography", "opendp")


def complete(words: str, place: int) -> list[str]:
    """What bash is told for `words` with the cursor at word number `place`."""
    environment = os.environ | {"_SANDBOX_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    done = subprocess.run([sys.executable, "-m", "sandbox"], env=environment, capture_output=True, text=True, check=False)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_listed_summary_is_the_commands_own(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.get_short_help_str(200) == COMMANDS[name].summary


@pytest.mark.parametrize("words", [["--help"], ["party", "--help"], ["job", "--help"]])
def test_help_imports_no_heavy_library(words: list[str]) -> None:
    code = (
        "import sys\nfrom sandbox.cli import cli\n"
        f"try:\n    cli.main({words!r})\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout
    assert done.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_printed_script_asks_the_command_for_completions(shell: str) -> None:
    done = subprocess.run([sys.executable, "-m", "sandbox", "completion", shell], capture_output=True, text=True, check=True)
    assert f"_SANDBOX_COMPLETE={shell}_complete" in done.stdout
    assert "sandbox" in done.stdout


def test_bash_accepts_the_script() -> None:
    script = subprocess.run([sys.executable, "-m", "sandbox", "completion", "bash"], capture_output=True, text=True, check=True).stdout
    done = subprocess.run(["bash", "-c", script + "\ncomplete -p sandbox"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "_sandbox_completion" in done.stdout


def test_completion_knows_commands_subcommands_and_options() -> None:
    assert complete("sandbox ", 1) == list(COMMANDS)
    assert complete("sandbox au", 1) == ["audit"]
    assert {"infer", "inbox", "init"} == set(complete("sandbox party in", 2))
    assert "--declaration" in complete("sandbox party twin --", 3)


def test_help_calls_the_command_by_its_name_however_it_is_started() -> None:
    done = subprocess.run([sys.executable, "-m", "sandbox", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: sandbox [OPTIONS]")

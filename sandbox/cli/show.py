"""Output: one place that prints tables for people and JSON for programs."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from policies.errors import Unauthenticated

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from sandbox.party.client import Client
    from sandbox.party.home import Home

PAGE_WIDTH = 118

F = TypeVar("F", bound=Callable[..., Any])

home_option: Callable[[F], F] = click.option(
    "--home", "home_folder", type=click.Path(path_type=Path), envvar="SANDBOX_HOME", required=True, help="The participant's home folder."
)
json_option: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def client_of(folder: Path) -> Client:
    """The client of the participant whose home this is."""
    from sandbox.party.client import Client

    return Client(home=home_of(folder))


def home_of(folder: Path) -> Home:
    """The home in a folder; its passphrase, where it has one, is asked for when it is needed, and once."""
    from sandbox.party.home import Home

    return Home.open(folder, functools.cache(_passphrase))


def _passphrase() -> str:
    """From the file that SANDBOX_PASSPHRASE_FILE names, or from the terminal. Raises Unauthenticated where there is neither."""
    from sandbox.party.wrapping import no_passphrase

    named = os.environ.get("SANDBOX_PASSPHRASE_FILE")
    if named:
        return passphrase_file(Path(named))
    if not sys.stdin.isatty():
        return no_passphrase()
    return str(click.prompt("Passphrase or PIN of this home", hide_input=True, err=True))


def passphrase_file(path: Path) -> str:
    """The first line of a file. Raises Unauthenticated (code `passphrase`) if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise Unauthenticated(f"the passphrase file {path} cannot be read", code="passphrase") from error


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True))


def console() -> Console:
    """The terminal, or a page of fixed width where output goes to a file or a pipe."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=PAGE_WIDTH)


def progress_bar(*, quiet: bool = False) -> Progress:
    """Progress on standard error while the context lasts; only where that is a terminal, and nothing stays behind."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), disable=quiet or not sys.stderr.isatty(), transient=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print a table."""
    from rich.table import Table

    shown = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(_cell(cell) for cell in row))
    console().print(shown)


def _cell(value: Any) -> str:
    """A value in a table for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def spoken(fingerprint: str) -> str:
    """A fingerprint as it is read aloud: group by group, so that a narrow table breaks the line between groups only."""
    return fingerprint.replace("-", " ")


def findings_table(findings: Iterable[dict[str, Any]]) -> None:
    """Print findings, denials first; what a rule found alike on several datasets stands in one row."""
    rows: dict[tuple[Any, ...], list[str]] = {}
    for finding in sorted(findings, key=lambda finding: bool(finding["allowed"])):
        key = (finding["allowed"], finding["rule"], finding["message"], finding["clause"], finding["remedy"])
        rows.setdefault(key, []).append(finding["dataset"])
    shown = []
    for (allowed, rule, message, clause, remedy), datasets in rows.items():
        text = message + (f"\n  in: {clause}" if clause else "") + (f"\n  smallest change: {remedy}" if remedy else "")
        shown.append(("allow" if allowed else "DENY", rule, "\n".join(datasets), text))
    table(("", "rule", "terms on", "finding"), shown)


def joint_rows(joint: dict[str, Any] | None) -> list[tuple[str, str]]:
    """How far a running joint total is."""
    if joint is None:
        return []
    until = datetime.fromtimestamp(joint["until"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    waits = ", ".join(joint["waiting_for"])
    return [
        ("attempt", str(joint["attempt"])),
        ("contributed", ", ".join(joint["contributed"]) or "nobody"),
        ("waits for", f"{waits} until {until}" if waits else "nobody: everything is being added"),
    ]

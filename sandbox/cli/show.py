"""Output: one place that prints tables for people and JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from sandbox.party.client import Client
from sandbox.party.home import Home

F = TypeVar("F", bound=Callable[..., Any])

home_option: Callable[[F], F] = click.option(
    "--home", "home_folder", type=click.Path(path_type=Path), envvar="SANDBOX_HOME", required=True, help="The participant's home folder."
)
json_option: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def client_of(folder: Path) -> Client:
    """The client of the participant whose home this is."""
    return Client(home=Home.open(folder))


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print a table."""
    shown = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(str(cell) for cell in row))
    Console().print(shown)


def findings_table(findings: Iterable[dict[str, Any]]) -> None:
    """Print findings, denials first."""
    ordered = sorted(findings, key=lambda finding: bool(finding["allowed"]))
    rows = [
        ("allow" if f["allowed"] else "DENY", f["rule"], f["dataset"], f["message"], f["remedy"] or "") for f in ordered
    ]
    table(("", "rule", "dataset", "finding", "smallest change"), rows)

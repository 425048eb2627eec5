"""`sandbox policy`: what terms mean, what is wrong with them, and what would change."""

from __future__ import annotations

from pathlib import Path

import click

from policies.errors import Malformed
from sandbox.cli.show import json_option, print_json, table

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group()
def policy() -> None:
    """Terms of agreements: what they mean, what is wrong with them, what would change."""


@policy.command("terms")
@json_option
def policy_terms(as_json: bool) -> None:
    """List every term of the vocabulary with what enforces it.

    \b
    Example: sandbox policy terms
    """
    from policies.codec import encode
    from policies.vocabulary import TERMS

    if as_json:
        print_json([encode(term) for term in TERMS])
        return
    table(("term", "value", "holds if"), [(f"{term.name} {term.operator}".strip(), term.value, term.meaning) for term in TERMS])


@policy.command("odrl-suite")
@click.argument("folder", type=_FOLDER)
@json_option
def policy_odrl_suite(folder: Path, as_json: bool) -> None:
    """Evaluate the test cases of FOLDER, laid out like the ODRL-Test-Suite: policies, requests, sotw, cases, in Turtle.

    `activation_ok` counts cases in which exactly the expected rules are active, `report_ok` those whose whole report is the expected one.

    \b
    Example: sandbox policy odrl-suite ODRL-Test-Suite/data --json
    """
    from policies.codec import encode
    from sandbox.audit.odrl_suite import parse_turtle, run_suite

    files = {part.name: [(p.name, _text(p)) for p in sorted(part.rglob("*.ttl"))] for part in sorted(folder.iterdir()) if part.is_dir()}
    outcome = run_suite(files, parse_turtle)
    if as_json:
        print_json(encode(outcome))
        return
    for failure in outcome.failures:
        click.echo(f"{failure['case']}: {failure['what']}", err=True)
    click.echo(
        f"{outcome.cases} cases; rules active as expected in {outcome.activation_ok}; whole report as expected in {outcome.report_ok}"
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Malformed(f"{path.name} is not readable text") from error

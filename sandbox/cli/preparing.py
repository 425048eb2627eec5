"""`sandbox party infer` and `sandbox party twin`: what a provider prepares before anything leaves home."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from policies.errors import Conflict, Malformed, SandboxError
from sandbox.cli.show import json_option, print_json

if TYPE_CHECKING:
    from sandbox.party.drafting import Answers, DraftColumn


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the draft to this new file; else it is printed.")
@click.option("--dataset", help="Id of the dataset: your participant id, a dot, a name.")
@click.option("--title", help="Title of the dataset, for people.")
@click.option("--unit", help="Column that identifies the privacy unit.")
@click.option("--id-space", help="Label of the set of ids that the unit's values belong to.")
@click.option("--key", help="Columns, with the unit, that identify at most one row; comma-separated.")
@click.option("--rows-per-unit", type=click.IntRange(1), help="Most rows of one unit that count.")
@click.option("--groups-per-unit", type=click.IntRange(1), help="Most groups of a query that one unit counts in; with --rows-per-group.")
@click.option("--rows-per-group", type=click.IntRange(1), help="Most rows of one unit that count in one group.")
@click.option("--public", is_flag=True, help="The table protects nobody: no unit, no id space, nothing charged.")
@click.option("--bounds", multiple=True, metavar="COLUMN=LOWER:UPPER", help="Possible values of a number; repeat for several columns.")
@click.option("--domain", multiple=True, metavar="COLUMN=A,B,...", help="All possible group keys; repeat for several columns.")
@click.option("--rest-open", is_flag=True, help="Other columns get no bounds and no domain.")
@click.option("--ask/--no-ask", default=None, help="Ask for what is missing; by default if the input is a terminal.")
def infer(file: Path, output: Path | None, bounds: tuple[str, ...], domain: tuple[str, ...], ask: bool | None, **given: Any) -> None:
    """Draft a declaration from FILE (CSV, Parquet or Arrow): the schema is read, what protects people is asked. Nothing is sent.

    \b
    Example: sandbox party infer plans.csv --output plans.yaml
    Example: sandbox party infer plans.csv --output plans.yaml --dataset insurer.plans --title Plans --unit person_id --id-space persons
               --key person_id,year --rows-per-unit 5 --bounds age=0:120 --domain site=1,2,3 --rest-open
    """
    from enclaves.kit.profile import profile, repeated_rows
    from sandbox.party.drafting import Answers, form_of, name_columns, render_form

    if output is not None and output.exists():
        raise Conflict(f"{output} exists; name another file")
    columns, notes = name_columns(profile(file))
    key = given.pop("key")
    answers = Answers(
        unique_key=None if key is None else tuple(_listed(key)),
        bounds={name: _pair(text) for name, text in map(_named, bounds)},
        domains={name: tuple(_listed(text)) for name, text in map(_named, domain)},
        **given,
    )
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if sys.stdin.isatty() if ask is None else ask:
        answers = _asked(columns, answers)
    form = form_of(columns, answers)
    _require_draft(file, form)
    sources = {column.name: column.profile.source for column in columns}
    repeated = repeated_rows(file, tuple(sources[name] for name in form["unique_key"]))
    if repeated:
        raise Malformed(f"({', '.join(form['unique_key'])}) does not identify rows: {repeated} rows repeat a key", code="key-not-unique")
    text = render_form(form, columns, notes)
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        click.echo(f"{output}: a draft with {len(columns)} columns; read it, and see `sandbox party publish --help`", err=True)


@click.command()
@click.option(
    "--declaration", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True, help="YAML form of the declaration."
)
@click.option("--rows", type=click.IntRange(1), required=True, help="Number of rows.")
@click.option("--units", type=click.IntRange(1), help="Number of privacy units; equal in twins that are to be joined.")
@click.option(
    "--seed", type=int, default=1, show_default=True, help="The same seed gives the same twin, and joinable twins of one id space."
)
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def twin(declaration: Path, rows: int, units: int | None, seed: int, output: Path, as_json: bool) -> None:
    """Write a synthetic table to OUTPUT (.parquet, .arrow or .csv), drawn from the declaration alone: no data are looked at.

    \b
    Example: sandbox party twin --declaration plans.yaml --rows 1000 --units 400 --seed 7 plans-twin.parquet
    """
    from enclaves.kit.sources import write_table
    from sandbox.party.forms import declaration_of, read_form
    from sandbox.party.twin import make_twin

    declared = declaration_of(read_form(declaration))
    columns = make_twin(declared, rows=rows, seed=seed, units=units)
    write_table(output, columns, declared)
    people = 0 if declared.public else len(set(columns[declared.unit]))
    made = {"file": str(output), "rows": rows, "units": people, "synthetic": True}
    print_json(made) if as_json else click.echo(f"{output}: {rows} synthetic rows of {people} units of {declared.dataset}")


def _require_draft(file: Path, form: dict[str, Any]) -> None:
    """Raise Malformed if the form is no declaration; say so if the file would not be published under it as it is."""
    from enclaves.kit.sources import read_table
    from sandbox.party.forms import declaration_of, sources_of

    declared = declaration_of(form)
    try:
        read_table(file, declared, sources_of(form))
    except Malformed as error:
        if error.code == "key-not-unique":
            raise
        click.echo(f"note: the file cannot be published as it is: {error}", err=True)


def _asked(columns: tuple[DraftColumn, ...], answers: Answers) -> Answers:
    """Ask for every answer that is missing. No question has a default: one taken from the data would leak."""
    from sandbox.party.drafting import BOUNDS_LEAK, DOMAIN_LEAKS, questions, undecided

    click.echo(f"columns: {', '.join(column.name for column in columns)}", err=True)
    parsers: dict[str, Callable[[str], Any]] = {"unique_key": lambda text: tuple(_listed(text)), "rows_per_unit": _count}
    for field, (_, why) in questions(answers).items():
        if getattr(answers, field) is None:
            answers = replace(answers, **{field: _prompt(why, parsers.get(field, str))})
    if undecided(columns, answers):
        click.echo(f"{BOUNDS_LEAK}\n{DOMAIN_LEAKS}\nAnswer - for none.", err=True)
    for column in undecided(columns, answers):
        if column.profile.kind != "decimal" and column.profile.few is not None:
            values = _prompt(f"domain of {column.name}, as A,B,...", lambda text: None if text == "-" else tuple(_listed(text)))
            answers = replace(answers, domains={**answers.domains, column.name: values})
        if column.numeric and answers.domains.get(column.name) is None:
            pair = _prompt(f"bounds of {column.name}, as LOWER:UPPER", lambda text: None if text == "-" else _pair(text))
            answers = replace(answers, bounds={**answers.bounds, column.name: pair})
    return answers


def _prompt(question: str, parse: Callable[[str], Any]) -> Any:
    while True:
        try:
            return parse(click.prompt(question, type=str, err=True).strip())
        except SandboxError as error:
            click.echo(f"  {error}", err=True)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise Malformed(f"`{text[:40]}` is no number of rows")
    return int(text)


def _named(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise Malformed(f"`{text[:40]}` must be COLUMN=...")
    return name.strip(), value


def _pair(text: str) -> tuple[str, str]:
    lower, separator, upper = text.partition(":")
    if not separator:
        raise Malformed(f"`{text[:40]}` must be LOWER:UPPER")
    return lower.strip(), upper.strip()


def _listed(text: str) -> Iterable[str]:
    return (part.strip() for part in text.split(",") if part.strip())

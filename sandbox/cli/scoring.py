"""`sandbox model ask-encrypted`, `sandbox model read-encrypted` and `sandbox party score`: scoring rows that stay encrypted."""

from __future__ import annotations

import csv
import json
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policies.errors import Malformed, Unavailable
from sandbox.cli.show import home_option, json_option, print_json
from sandbox.cli.stopping import until_stopped

if TYPE_CHECKING:
    from sandbox.party.encrypted_scoring import Rows
    from sandbox.party.scoring_client import ScoringClient

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("ask-encrypted")
@home_option
@click.option("--agreement", "agreement_name", required=True, help="Digest of the agreement.")
@click.option("--model", "model_name", required=True, help="The model, as the agreement names it.")
@click.option("--purpose", required=True, help="What the answer is for: a purpose that the agreement names.")
@click.option("--request-id", help="Repeat a request under its id; made up if left out.")
@click.option("--timeout", default=900.0, show_default=True, help="Seconds to wait for the owner; 0 does not wait.")
@click.argument("rows", type=_FILE)
@json_option
def ask(
    home_folder: Path, agreement_name: str, model_name: str, purpose: str, request_id: str | None, timeout: float, rows: Path, as_json: bool
) -> None:
    """Have another firm's model score the rows of a CSV file, encrypted: it sees no value, and only this home reads the scores.

    \b
    Example: sandbox model ask-encrypted --home ~/bank --agreement sha256:... --model lender.risk --purpose credit-risk applicants.csv
    """
    from sandbox.party.encrypted_scoring import Rows
    from sandbox.party.modelling import read_rows

    client = _client(home_folder)
    scorer = client.signed_agreement(agreement_name).scorer_of(model_name)
    part = Rows(client=client)
    asked = part.ask(agreement_name, model_name, purpose, read_rows(rows, scorer.features), request_id or "r-" + secrets.token_hex(12))
    if timeout <= 0:
        print_json({"scoring": asked.scoring, "state": asked.state}) if as_json else click.echo(f"{asked.scoring} is {asked.state}")
        return
    click.echo(f"{asked.scoring} is {asked.state}", err=True)
    _show(_waited(part, asked.scoring, timeout), asked.scoring, as_json=as_json)


@click.command("read-encrypted")
@home_option
@click.argument("scoring")
@click.option("--receipt", "receipt_file", type=click.Path(path_type=Path, dir_okay=False), help="Also keep the receipt in this file.")
@json_option
def read(home_folder: Path, scoring: str, receipt_file: Path | None, as_json: bool) -> None:
    """Show the scores that another firm's model gave encrypted rows, after the receipt was verified.

    \b
    Example: sandbox model read-encrypted --home ~/bank scoring-0123456789abcdef0123
    """
    from policies.codec import encode
    from sandbox.party.encrypted_scoring import Rows

    client = _client(home_folder)
    if receipt_file is not None:
        receipt, _ = client.verified_receipt(scoring)
        receipt_file.write_text(json.dumps(encode(receipt), indent=2), encoding="utf-8")
    _show(Rows(client=client).read(scoring), scoring, as_json=as_json)


@click.command("take-back")
@home_option
@click.argument("scoring")
@json_option
def take_back(home_folder: Path, scoring: str, as_json: bool) -> None:
    """Take back the rows of a request that the owner of the model let pass, once the agreed time to answer is over.

    \b
    Example: sandbox model take-back --home ~/bank scoring-0123456789abcdef0123
    """
    from sandbox.party.encrypted_scoring import Rows

    state = Rows(client=_client(home_folder)).take_back(scoring)
    print_json({"scoring": scoring, "state": state}) if as_json else click.echo(f"{scoring} is {state}")


@click.command("score")
@home_option
@click.option("--model", "models", multiple=True, required=True, help="NAME=FILE: a model as agreements name it, and its file; repeat.")
@click.option("--once", is_flag=True, help="Answer what waits now and end, instead of going on until stopped.")
@json_option
def score(home_folder: Path, models: tuple[str, ...], once: bool, as_json: bool) -> None:
    """Score encrypted rows of clients with models of one's own. Neither the models nor anything of the rows leaves this machine.

    \b
    Example: sandbox party score --home ~/lender --model lender.risk=risk.json
    """
    from sandbox.party.encrypted_scoring import ModelOwner
    from sandbox.party.forms import read_model

    named = {}
    for item in models:
        name, separator, path = item.partition("=")
        if not separator or not Path(path).is_file():
            raise Malformed("give NAME=FILE", where="--model")
        named[name] = read_model(Path(path))
    part = ModelOwner(client=_client(home_folder), models=named)
    if once:
        done = part.step()
        print_json({"done": done}) if as_json else click.echo(f"{done} scorings waited")
        return
    part.serve(until_stopped())


def _client(folder: Path) -> ScoringClient:
    from sandbox.party.home import Home
    from sandbox.party.scoring_client import ScoringClient

    return ScoringClient(home=Home.open(folder))


def _waited(part: Rows, scoring: str, timeout: float) -> list[tuple[float, ...]]:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return part.read(scoring)
        except Unavailable as error:
            if error.code not in ("not-answered", "not-published") or time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def _show(scores: list[tuple[float, ...]], scoring: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"scoring": scoring, "scores": [list(row) for row in scores]})
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for row in scores:
        writer.writerow([f"{value:.6g}" for value in row])

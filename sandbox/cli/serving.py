"""`sandbox model offer`, `ask` and `status`: scoring services."""

from __future__ import annotations

import csv
import secrets
import sys
from pathlib import Path

import click

from policies.codec import encode
from policies.privacy import Loss
from policies.request import JobRequest
from policies.service import Scoring, copied_by
from sandbox.cli.show import client_of, home_option, json_option, print_json, table
from sandbox.party.forms import read_form

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("offer")
@home_option
@click.option("--dataset", required=True, help="PROVIDER.NAME under which the model is offered, with one's own id first.")
@click.option("--title", required=True, help="What the model is about, for people.")
@click.option("--terms", "terms_file", type=_FILE, required=True, help="YAML form of the terms.")
@click.argument("source")
@json_option
def offer(home_folder: Path, dataset: str, title: str, terms_file: Path, source: str, as_json: bool) -> None:
    """Offer the model of SOURCE, one's own training job or a file with a model's integers, as a scoring service.

    The model is encrypted at home; only attested enclaves get its key, under an agreement that includes this offer.

    \b
    The form of the terms, for example:
      assignees: [institute]
      purposes: [health-economics]
      from: 2026-01-01
      until: 2027-01-01
      enclaves: [simulated]
      scored_rows: {rows: 10000, days: 30}
      score_decimals: 2
      withhold_probing: true
      uses: 500
    Example: sandbox model offer --home ~/insurer --dataset insurer.risk --title Risk --terms risk.yaml job-0123456789abcdef0123
    """
    from sandbox.party.serving import model_from, offer_model

    client = client_of(home_folder)
    model = model_from(client, source)
    record = offer_model(client, model, dataset, title, read_form(terms_file))
    enough = copied_by(model)
    print_json({"digest": record["digest"], "copied_by_rows": enough}) if as_json else click.echo(record["digest"])
    if enough is not None:
        click.echo(f"{enough} rows, well chosen, are enough to copy this model as exactly as answers are rounded", err=True)


@click.command("ask")
@home_option
@click.option("--agreement", "agreement_name", required=True, help="Digest of the agreement.")
@click.option("--purpose", required=True, help="What the answer is for: a purpose that the agreement names.")
@click.option("--model", required=True, help="Dataset under which the model is offered.")
@click.option("--by", required=True, help="Column of the query that tells its rows apart.")
@click.option("--rows", required=True, type=int, help="Most rows that there are; so many are counted.")
@click.option("--decimals", default=2, show_default=True, help="Of the scores.")
@click.option("--exchange", "right", type=(str, click.IntRange(1, 2)), help="Digest and leg of the exchange that gives the right to ask.")
@click.option("--request-id", help="Repeat a request under its id to get the same answer; made up if left out.")
@click.option("--timeout", default=900.0, show_default=True, help="Seconds to wait.")
@click.argument("sql")
@json_option
def ask(
    home_folder: Path,
    agreement_name: str,
    purpose: str,
    model: str,
    by: str,
    rows: int,
    decimals: int,
    right: tuple[str, int] | None,
    request_id: str | None,
    timeout: float,
    sql: str,
    as_json: bool,
) -> None:
    """Have rows of one's own scored by a model that is offered: SQL names a column that tells rows apart, and the features.

    \b
    Example: sandbox model ask --home ~/institute --agreement sha256:... --purpose health-economics --model insurer.risk \\
             --by who --rows 200 "SELECT person_id AS who, plan, visits FROM institute.people"
    """
    from sandbox.party.exchanges import right_of
    from sandbox.party.serving import scores_of

    client = client_of(home_folder)
    record = client.submit(
        JobRequest(
            request_id=request_id or "r-" + secrets.token_hex(12),
            agreement=agreement_name,
            consumer=client.home.participant,
            purpose=purpose,
            sql=sql,
            loss=Loss(amount=0),
            scoring=Scoring(model=model, rows=rows, decimals=decimals, by=by),
            exchange=right_of(client, right),
        )
    )
    record = client.wait(record["id"], timeout)
    if record["state"] == "failed":
        print_json(record) if as_json else click.echo(f"{record['id']} failed: {record['code']}; the rows stay counted", err=True)
        sys.exit(4)
    found = scores_of(client.release(record["id"])[0])
    if as_json:
        print_json({"job": record["id"], **encode(found)})
        return
    width = max((len(score.values) for score in found.scores), default=1)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([by, *([found.output] if width == 1 else [f"{found.output}_{index}" for index in range(width)])])
    writer.writerows([score.row, *score.values] for score in found.scores)


@click.command("status")
@home_option
@click.argument("dataset")
@json_option
def status(home_folder: Path, dataset: str, as_json: bool) -> None:
    """Show how an offered model is used: calls and rows of each consumer, and calls whose rows look made to copy the model.

    \b
    Example: sandbox model status --home ~/insurer insurer.risk
    """
    from sandbox.party.serving import usage_of

    found = usage_of(client_of(home_folder), dataset)
    if as_json:
        print_json([encode(usage) for usage in found])
        return
    names = ("agreement", "consumer", "calls", "rows", "quota", "released", "withheld", "unfinished", "versions", "few", "suspected")
    table(names, [[str(getattr(usage, name))[:23] for name in names] for usage in found])

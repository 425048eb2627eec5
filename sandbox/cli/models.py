"""`sandbox model`: train, card, score; scoring services are in `sandbox.cli.serving`, scores of encrypted rows in `sandbox.cli.scoring`."""

from __future__ import annotations

import csv
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from policies.contribution import WORTH
from policies.privacy import parse_loss
from policies.request import JobRequest
from sandbox.cli import scoring
from sandbox.cli.serving import ask, offer, status
from sandbox.cli.show import client_of, home_option, json_option, print_json, progress_bar, table

if TYPE_CHECKING:
    from policies.model import ModelRelease
    from sandbox.audit.joint_receipt import AnyReceipt
    from sandbox.party.client import Client
    from sandbox.party.verify import OpenedRelease

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_NEW_FILE = click.Path(path_type=Path, dir_okay=False)

STAGES = ("charged", "running")


@click.group()
def model() -> None:
    """Models: train them on what one may not see, and use them."""


for _command in (offer, ask, status, scoring.ask, scoring.read, scoring.take_back):
    model.add_command(_command)


@model.command("train")
@home_option
@click.option("--agreement", "agreement_name", required=True, help="Digest of the agreement.")
@click.option("--purpose", required=True, help="What the answer is for: a purpose that the agreement names.")
@click.option("--rho", required=True, help="Privacy loss to spend, in zero-concentrated differential privacy.")
@click.option("--pool", help="Pool whose columns of the same names are features and label, for a FORM without `sql`.")
@click.option("--request-id", help="Repeat a request under its id to get the same answer; made up if left out.")
@click.option("--timeout", default=900.0, show_default=True, help="Seconds to wait.")
@click.argument("form", type=_FILE)
@json_option
def train(
    home_folder: Path,
    agreement_name: str,
    purpose: str,
    rho: str,
    pool: str | None,
    request_id: str | None,
    timeout: float,
    form: Path,
    as_json: bool,
) -> None:
    """Train what FORM asks for, in an enclave or over the encrypted sums of a pool, and show the model's card.

    \b
    FORM is YAML or JSON, for example:
      sql: SELECT p.age, c.doctor_visits AS visits, c.admissions > 0 AS admitted
           FROM insurer.plans AS p JOIN clinic.care AS c USING (person_id, year)
      learner: {kind: logistic, steps: 5, clip: "1.5"}
      features: [{column: age, encoding: scaled}, {column: visits, encoding: log, centre: "2"}]
      label: {column: admitted, encoding: categories}
      held_out: 30
    Example: sandbox model train --home ~/institute --agreement sha256:... --purpose health-economics --rho 0.185 admitted.yaml
    """
    from sandbox.party.modelling import read_training

    sql, training = read_training(form, pool)
    client = client_of(home_folder)
    record = client.submit(
        JobRequest(
            request_id=request_id or "r-" + secrets.token_hex(12),
            agreement=agreement_name,
            consumer=client.home.participant,
            purpose=purpose,
            sql=sql,
            loss=parse_loss("zcdp", rho, where="rho"),
            training=training,
        )
    )
    with progress_bar(quiet=as_json) as progress:
        task = progress.add_task(f"{record['id']} is {record['state']}", total=len(STAGES))

        def advance(state: str) -> None:
            done = STAGES.index(state) if state in STAGES else len(STAGES)
            progress.update(task, description=f"{record['id']} is {state}", completed=done)
            if state == "running" and (shown := client.job(record["id"]).get("joint")) is not None:
                progress.console.print(f"waits for {', '.join(shown['waiting_for']) or 'nobody'}")

        record = client.wait(record["id"], timeout, advance)
    if record["state"] == "failed":
        print_json(record) if as_json else click.echo(f"{record['id']} failed: {record['code']}; the charge stays", err=True)
        sys.exit(4)
    _show_card(client, *_release(client, record["id"])[1:], as_json=as_json)


@model.command("card")
@home_option
@click.argument("job_id")
@click.option("--onnx", "onnx_file", type=_NEW_FILE, help="Also keep the model in this ONNX file.")
@json_option
def card(home_folder: Path, job_id: str, onnx_file: Path | None, as_json: bool) -> None:
    """Show the card of a model of one's own, after receipt and enclave signature were verified.

    \b
    Example: sandbox model card --home ~/institute job-0123456789abcdef0123 --onnx admitted.onnx
    """
    from enclaves.kit.artefact import checked_onnx

    client = client_of(home_folder)
    found, release, receipt = _release(client, job_id)
    if onnx_file is not None:
        onnx_file.write_bytes(checked_onnx(found.model))
    _show_card(client, release, receipt, as_json=as_json)


@model.command("score")
@home_option
@click.argument("job_id")
@click.argument("rows", type=_FILE)
def score(home_folder: Path, job_id: str, rows: Path) -> None:
    """Score the rows of a CSV file with a model of one's own, one line of CSV for each.

    \b
    Example: sandbox model score --home ~/institute job-0123456789abcdef0123 people.csv
    """
    from sandbox.party.modelling import score_file

    found, _, _ = _release(client_of(home_folder), job_id)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for line in score_file(found.model, rows):
        writer.writerow([f"{value:.6g}" for value in line])


def _release(client: Client, job_id: str) -> tuple[ModelRelease, OpenedRelease, AnyReceipt]:
    """The model of a verified release, and both proofs of it. Raises NotFound."""
    from sandbox.party.modelling import model_of

    release, receipt = client.release(job_id)
    return model_of(release), release, receipt


def _show_card(client: Client, release: OpenedRelease, receipt: AnyReceipt, *, as_json: bool) -> None:
    from sandbox.party.modelling import card_of

    agreement, _ = client.agreement(receipt.grant.agreement)
    found = card_of(release, receipt, agreement)
    if as_json:
        print_json(found)
        return
    plain = (
        "job",
        "learner",
        "parameters",
        "model_digest",
        "onnx_digest",
        "loss",
        "epsilon",
        "delta",
        "enclave_kind",
        "measurement",
        "pool",
        "key_holder",
        "noise",
        "metrics_of",
        "log_entry",
    )
    table(("", ""), [(name, found[name]) for name in plain if name in found])
    metrics = [{"name": "persons", **found["persons"]}, *found["metrics"]]
    table(("figure", "value", "95 % of the noise"), [(m["name"], m["value"], f"[{m['low']}, {m['high']}]") for m in metrics])
    inputs = [(f["column"], f["encoding"], _range(f)) for f in found["features"]]
    table(("feature", "encoding", "categories or bounds"), inputs)
    if "coefficients" in found:
        lines = [(_term(c), c["value"], f"[{c['low']}, {c['high']}]") for c in found["coefficients"]]
        table(("coefficient", "value", "95 % of the noise"), lines)
    if "contribution" in found:
        divided = found["contribution"]["division"]
        shares = [(s["organisation"], f"{s['value'] / WORTH:.6f}", s["amount"]) for s in found["contribution"]["shares"]]
        table(("firm", f"contributed ({divided['method']})", f"of {divided['amount']}"), shares)


def _term(coefficient: dict[str, Any]) -> str:
    if not coefficient["column"]:
        return "(constant)"
    category = coefficient["category"]
    return str(coefficient["column"]) if category is None else f"{coefficient['column']} = {category}"


def _range(feature: dict[str, Any]) -> str:
    if "categories" in feature:
        return ", ".join(map(str, feature["categories"]))
    return f"{feature['lower']} to {feature['upper']}, centre {feature['centre']}"

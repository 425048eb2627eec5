"""`sandbox job`: check, submit, show, release."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from policies.codec import encode
from policies.privacy import SCALE_UNIT, parse_epsilon, units_to_decimal
from policies.request import JobRequest
from policies.statement import Release
from sandbox.audit.receipt import Receipt
from sandbox.cli.show import client_of, findings_table, home_option, json_option, print_json, table


@click.group()
def job() -> None:
    """Ask for a release."""


def _request_options(function: Any) -> Any:
    options = (
        click.option("--agreement", "agreement_name", required=True, help="Digest of the agreement."),
        click.option("--purpose", required=True),
        click.option("--sql", required=True, help="The query; - reads it from standard input."),
        click.option("--epsilon", required=True, help="Privacy loss to spend, a decimal number."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _request(consumer: str, agreement_name: str, purpose: str, sql: str, epsilon: str, request_id: str | None = None) -> JobRequest:
    return JobRequest(
        request_id=request_id or "r-" + secrets.token_hex(12),
        agreement=agreement_name,
        consumer=consumer,
        purpose=purpose,
        sql=sys.stdin.read() if sql == "-" else sql,
        loss=parse_epsilon(epsilon),
    )


@job.command("check")
@home_option
@_request_options
@json_option
def job_check(home_folder: Path, agreement_name: str, purpose: str, sql: str, epsilon: str, as_json: bool) -> None:
    """Decide without charging: the findings, and for an allowed job the noise of every statistic.

    \b
    Example: sandbox job check --home ~/institute --agreement sha256:... --purpose health-economics --epsilon 1 \\
      --sql "SELECT COUNT(*) FROM clinic.care"
    """
    client = client_of(home_folder)
    answer = client.check(_request(client.home.participant, agreement_name, purpose, sql, epsilon))
    if as_json:
        print_json(answer | {"accepted": answer["allowed"]})
        return
    findings_table(answer["decision"]["findings"])
    if answer["grant"]:
        statistics_table(answer["grant"]["statistics"])
    click.echo("allowed; nothing was charged" if answer["allowed"] else "denied; nothing was charged")


@job.command("submit")
@home_option
@_request_options
@click.option("--request-id", help="Repeat a request under its id to get the same answer; made up if left out.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the end and show the release.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds to wait.")
@json_option
def job_submit(
    home_folder: Path,
    agreement_name: str,
    purpose: str,
    sql: str,
    epsilon: str,
    request_id: str | None,
    wait: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Submit a signed request; it is decided and, if allowed, charged at once.

    \b
    Example: sandbox job submit --home ~/institute --agreement sha256:... --purpose health-economics --epsilon 1 \\
      --sql "SELECT COUNT(*) FROM clinic.care"
    """
    client = client_of(home_folder)
    record = client.submit(_request(client.home.participant, agreement_name, purpose, sql, epsilon, request_id))
    if not wait:
        print_json(record) if as_json else click.echo(f"{record['id']} is {record['state']}")
        return
    with Console(stderr=True).status(f"{record['id']} is {record['state']}") as status:
        record = client.wait(record["id"], timeout, lambda state: status.update(f"{record['id']} is {state}"))
    if record["state"] == "failed":
        print_json(record) if as_json else click.echo(f"{record['id']} failed: {record['code']}; the charge stays", err=True)
        sys.exit(4)
    _show_release(*client.release(record["id"]), as_json=as_json)


@job.command("show")
@home_option
@click.argument("job_id", required=False)
@json_option
def job_show(home_folder: Path, job_id: str | None, as_json: bool) -> None:
    """Show a job with its findings, or list the newest jobs.

    \b
    Example: sandbox job show --home ~/insurer job-0123456789abcdef0123
    """
    client = client_of(home_folder)
    if job_id is None:
        records = client.jobs()
        listed = [(r["id"], r["consumer"], r["state"], r["code"], r["signed"]["body"]["sql"]) for r in records]
        print_json(records) if as_json else table(("job", "consumer", "state", "code", "query"), listed)
        return
    record = client.job(job_id)
    if as_json:
        print_json(record)
        return
    rows = [(key, record[key]) for key in ("id", "state", "code", "consumer", "agreement", "grant_digest", "trust")]
    table(("", ""), rows)
    click.echo(record["signed"]["body"]["sql"])
    findings_table(record["decision"]["findings"])


@job.command("release")
@home_option
@click.argument("job_id")
@click.option("--receipt", "receipt_file", type=click.Path(path_type=Path, dir_okay=False), help="Also keep the receipt in this file.")
@json_option
def job_release(home_folder: Path, job_id: str, receipt_file: Path | None, as_json: bool) -> None:
    """Show the release of one's own job, after the receipt and the enclave's signature were verified.

    \b
    Example: sandbox job release --home ~/institute job-0123456789abcdef0123 --receipt receipt.json
    """
    release, receipt = client_of(home_folder).release(job_id)
    if receipt_file is not None:
        import json

        receipt_file.write_text(json.dumps(encode(receipt), indent=2), encoding="utf-8")
    _show_release(release, receipt, as_json=as_json)


def _show_release(release: Release, receipt: Receipt, *, as_json: bool) -> None:
    if as_json:
        print_json({"release": encode(release), "job": receipt.grant.job, "index": receipt.index})
        return
    show_release(release)
    note = f"{receipt.grant.job}; entry {receipt.index}; epsilon {release.loss.epsilon}; enclave {release.enclave_kind}"
    click.echo(note + "; receipt, log and enclave signature verified")


def show_release(release: Release) -> None:
    """Print a release: one row per cell, value and 95 % interval per figure."""
    names = next(([figure.name for figure in cell.figures] for cell in release.cells if cell.figures), [])
    rows = []
    for cell in release.cells:
        figures = [f"{figure.value}  [{figure.low}, {figure.high}]" for figure in cell.figures]
        rows.append([*cell.keys, *(figures or [f"below minimum group {release.minimum_group}"] * max(1, len(names)))])
    table((*release.key_names, *(names or ["figures"])), rows)


def statistics_table(statistics: list[dict[str, Any]]) -> None:
    """Print the noise that each statistic of a grant gets."""
    rows = [
        (s["quantity"], s["column"] or "", s["sensitivity"], units_to_decimal(s["amount"], 9), f"{s['scale'] / SCALE_UNIT:.2f}")
        for s in statistics
    ]
    table(("statistic", "column", "sensitivity", "epsilon", "noise scale"), rows)

"""`sandbox job`: check, submit, show, release."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policies.codec import decode, encode
from policies.errors import Malformed, Refused
from policies.privacy import Loss
from sandbox.cli.acting import job_approve, job_cancel, job_delete
from sandbox.cli.asking import loss_of, loss_options, request_of, request_options
from sandbox.cli.releases import outputs_table, show_changes, show_release, show_verified, statistics_table
from sandbox.cli.show import client_of, findings_table, home_option, joint_rows, json_option, print_json, progress_bar, table

if TYPE_CHECKING:
    from policies.agreement import Agreement


@click.group()
def job() -> None:
    """Ask for a release."""


job.add_command(job_approve)
job.add_command(job_cancel)
job.add_command(job_delete)

STAGES = ("charged", "running")
"""States that a job passes before it ends."""

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@job.command("check")
@home_option
@request_options
@click.option("--rows", type=click.IntRange(1, 10**9), help="Rows of a cell that averages and other ratios assume; 1000 if left out.")
@click.option("--half-width", "half_widths", multiple=True, help="OUTPUT=WIDTH: say what loss this 95 % half-width would need; repeat.")
@json_option
def job_check(
    home_folder: Path,
    agreement_name: str,
    purpose: str,
    sql: str,
    epsilon: str | None,
    rho: str | None,
    delta: str,
    rows: int | None,
    half_widths: tuple[str, ...],
    as_json: bool,
) -> None:
    """Decide without charging: the findings, the noise and expected 95 % half-width of every output, and what remains.

    \b
    Example: sandbox job check --home ~/institute --agreement sha256:... --purpose health-economics --epsilon 1
               --sql "SELECT COUNT(*) AS years FROM clinic.care" --half-width years=25
    """
    client, loss = client_of(home_folder), loss_of(epsilon, rho, delta)
    wanted = _half_widths(half_widths)
    try:
        answer = client.check(request_of(client.home.participant, agreement_name, purpose, sql, loss), rows, wanted)
    except (Malformed, Refused) as error:
        if as_json:
            print_json({"accepted": False, "reason": str(error), "outputs": [], "loss": encode(loss), "remaining": [], "needed": None})
        raise
    if as_json:
        print_json(answer)
        return
    findings_table(answer["decision"]["findings"])
    outputs_table(answer["outputs"])
    for ledger in answer["remaining"]:
        click.echo(f"ledger {ledger['provider']}/{ledger['id_space']}: {decode(Loss, ledger['loss']).text} left")
    if wanted:
        needed = answer["needed"]
        click.echo(f"these half-widths need {decode(Loss, needed).text}" if needed else "no loss gives these half-widths")
    if answer["facts"].get("repeats"):
        click.echo(f"{answer['facts']['repeats']} answered this question; asking again hands the same release out and charges nothing")
    show_changes(answer["explanation"])
    click.echo("allowed; nothing was charged" if answer["allowed"] else "denied; nothing was charged")


def _half_widths(texts: tuple[str, ...]) -> dict[str, str]:
    wanted = {}
    for text in texts:
        name, separator, width = text.rpartition("=")
        if not separator or not name:
            raise Malformed("give OUTPUT=WIDTH", where="half-width")
        wanted[name] = width
    return wanted


@job.command("submit")
@home_option
@request_options
@click.option("--request-id", help="Repeat a request under its id to get the same answer; made up if left out.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the end and show the release.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds to wait.")
@json_option
def job_submit(
    home_folder: Path,
    agreement_name: str,
    purpose: str,
    sql: str,
    epsilon: str | None,
    rho: str | None,
    delta: str,
    request_id: str | None,
    wait: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Submit a signed request; it is decided and, if allowed, charged at once.

    \b
    Example: sandbox job submit --home ~/institute --agreement sha256:... --purpose health-economics --epsilon 1
               --sql "SELECT COUNT(*) FROM clinic.care"
    """
    client = client_of(home_folder)
    record = client.submit(request_of(client.home.participant, agreement_name, purpose, sql, loss_of(epsilon, rho, delta), request_id))
    if not wait:
        print_json(record) if as_json else click.echo(f"{record['id']} is {record['state']}")
        return
    with progress_bar(quiet=as_json) as progress:
        task = progress.add_task(f"{record['id']} is {record['state']}", total=len(STAGES))

        def advance(state: str) -> None:
            done = STAGES.index(state) if state in STAGES else len(STAGES)
            progress.update(task, description=f"{record['id']} is {state}", completed=done)

        record = client.wait(record["id"], timeout, advance)
    if record["state"] == "failed":
        print_json(record) if as_json else click.echo(f"{record['id']} failed: {record['code']}; the charge stays", err=True)
        sys.exit(4)
    show_verified(client, *client.release(record["id"]), as_json=as_json)


@job.command("dry-run")
@click.option("--declaration", "forms", multiple=True, type=_FILE, help="YAML form of a declaration; repeat for two datasets.")
@click.option("--home", "home_folder", type=click.Path(path_type=Path), envvar="SANDBOX_HOME", help="Or a home that signed --agreement.")
@click.option("--agreement", "agreement_name", help="Digest of the agreement whose terms shall count.")
@click.option("--twin", "twins", multiple=True, required=True, help="Synthetic table, in the order of the declarations; or DATASET=FILE.")
@click.option("--minimum-group", type=click.IntRange(1), default=1, show_default=True, help="Without an agreement: smallest group.")
@click.option("--consumer", help="With an agreement: who asks; by default the home's participant.")
@click.option("--purpose", help="With an agreement: the stated purpose.")
@click.option("--sql", required=True, help="The query; - reads it from standard input.")
@loss_options
@json_option
def job_dry_run(
    forms: tuple[Path, ...],
    home_folder: Path | None,
    agreement_name: str | None,
    twins: tuple[str, ...],
    minimum_group: int,
    consumer: str | None,
    purpose: str | None,
    sql: str,
    epsilon: str | None,
    rho: str | None,
    delta: str,
    as_json: bool,
) -> None:
    """Run a query on synthetic twins, here, in the enclave process that a real job has, and show the release with a real job's noise.

    Terms are those of an agreement, or allow everything if only declarations are given. No service takes part and nothing is charged.

    \b
    Example: sandbox job dry-run --declaration plans.yaml --twin plans-twin.parquet --epsilon 1 --sql "SELECT COUNT(*) FROM insurer.plans"
    """
    from sandbox.cli import rehearsal

    if bool(forms) == bool(agreement_name):
        raise Malformed("give either --declaration or --agreement with --home")
    loss = loss_of(epsilon, rho, delta)
    if forms:
        agreement = rehearsal.open_terms(rehearsal.declarations(forms), loss, minimum_group)
        consumer, purpose = rehearsal.CONSUMER, rehearsal.PURPOSE
    else:
        agreement, me = _signed_at_home(home_folder, str(agreement_name))
        consumer = consumer or me
        if purpose is None:
            raise Malformed("an agreement needs a --purpose", where="purpose")
    release = rehearsal.rehearse(
        agreement, request_of(consumer, rehearsal.NO_AGREEMENT, purpose, sql, loss), rehearsal.by_dataset(agreement, twins)
    )
    if as_json:
        print_json({"synthetic": True, "release": encode(release)})
        return
    click.echo("SYNTHETIC: computed on twins. The figures say nothing about anybody; the noise is that of a real job.")
    statistics_table([encode(statistic) for statistic in release.statistics])
    show_release(release)
    click.echo(f"SYNTHETIC; {release.loss.text}; enclave {release.enclave_kind}; nothing was charged")


def _signed_at_home(home_folder: Path | None, name: str) -> tuple[Agreement, str]:
    from sandbox.party.kept import kept_agreement

    if home_folder is None:
        raise Malformed("--agreement needs the --home that signed it")
    home = client_of(home_folder).home
    return kept_agreement(home, name), home.participant


@job.command("budget")
@home_option
@json_option
def job_budget(home_folder: Path, as_json: bool) -> None:
    """Show what the ledgers of one's agreements have paid, and what that is in epsilon and delta.

    \b
    Example: sandbox job budget --home ~/institute
    """
    ledgers = client_of(home_folder).ledgers()
    if as_json:
        print_json(ledgers)
        return
    rows = []
    for ledger in ledgers:
        known = f"epsilon {ledger['epsilon']}, delta {ledger['delta']}" if ledger["epsilon"] else "delta is used up"
        rows.append((f"{ledger['provider']}/{ledger['id_space']}", decode(Loss, ledger["spent"]).text, known))
    table(("ledger", "paid", "as approximate differential privacy"), rows)
    renewed = [(f"{ledger['provider']}/{ledger['id_space']}", row) for ledger in ledgers for row in ledger.get("renewed", ())]
    if renewed:
        shown = [
            (name, "you" if row["own"] else "all", str(row["days"]), decode(Loss, row["spent"]).text, decode(Loss, row["most"]).text)
            for name, row in renewed
        ]
        table(("ledger", "for", "days", "charged in them", "at most"), shown, title="Renewed budgets")


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
    table(("", ""), rows + joint_rows(record["joint"]))
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
    client = client_of(home_folder)
    release, receipt = client.release(job_id)
    if receipt_file is not None:
        import json

        receipt_file.write_text(json.dumps(encode(receipt), indent=2), encoding="utf-8")
    show_verified(client, release, receipt, as_json=as_json)

"""What a party does under an agreement in force: `sandbox job approve`, `cancel` and `delete`, `sandbox agreement tighten` and `paid`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from policies.errors import Malformed
from policies.privacy import Loss, parse_loss
from sandbox.cli.show import client_of, home_option, json_option, print_json

_TIME = click.DateTime(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"])


@click.command("approve")
@home_option
@click.argument("job_id")
@json_option
def job_approve(home_folder: Path, job_id: str, as_json: bool) -> None:
    """Approve a job that waits for approvals. Look at it first with `job show`.

    \b
    Example: sandbox job approve --home ~/insurer job-0123456789abcdef0123
    """
    from sandbox.party.acting import approve

    record = approve(client_of(home_folder), job_id)
    print_json(record) if as_json else click.echo(f"approved; {job_id} is {record['state']}")


@click.command("cancel")
@home_option
@click.argument("job_id")
@json_option
def job_cancel(home_folder: Path, job_id: str, as_json: bool) -> None:
    """Take back a request of one's own that waits for approvals. What is charged is charged: such a job is not cancelled.

    \b
    Example: sandbox job cancel --home ~/institute job-0123456789abcdef0123
    """
    from sandbox.party.acting import cancel

    record = cancel(client_of(home_folder), job_id)
    print_json(record) if as_json else click.echo(f"{job_id} is {record['state']}; nothing was charged")


@click.command("delete")
@home_option
@click.argument("job_id")
@click.option("--agreement", "agreement_name", required=True, help="Digest of the agreement.")
@json_option
def job_delete(home_folder: Path, job_id: str, agreement_name: str, as_json: bool) -> None:
    """Sign that every copy of a release was deleted here; the service deletes its own.

    \b
    Example: sandbox job delete --home ~/institute --agreement sha256:... job-0123456789abcdef0123
    """
    from sandbox.party.acting import report_deletion

    record = report_deletion(client_of(home_folder), agreement_name, job_id)
    print_json(record) if as_json else click.echo(f"reported: the release of {job_id} is deleted")


@click.command("paid")
@home_option
@click.argument("name")
@click.option("--consumer", required=True, help="Who has paid.")
@json_option
def agreement_paid(home_folder: Path, name: str, consumer: str, as_json: bool) -> None:
    """Sign that a consumer has paid once more under agreement NAME.

    \b
    Example: sandbox agreement paid --home ~/insurer --consumer institute sha256:...
    """
    from sandbox.party.acting import confirm_payment

    record = confirm_payment(client_of(home_folder), name, consumer)
    print_json(record) if as_json else click.echo(f"payment {record['done']['number']} of {consumer} is confirmed")


@click.command("tighten")
@home_option
@click.argument("name")
@click.option("--dataset", required=True, help="Whose terms; only its provider can.")
@click.option("--revoke", "revoked", is_flag=True, help="Allow nothing any more.")
@click.option("--suspend-until", "suspended_until", type=_TIME, help="Allow nothing before this time (UTC).")
@click.option("--until", "not_after", type=_TIME, help="Allow nothing from this time on (UTC).")
@click.option("--minimum-group", type=click.IntRange(1, 1_000_000), help="Leave out cells of fewer privacy units than this.")
@click.option("--uses", type=click.IntRange(0), help="Most jobs under the agreement.")
@click.option("--output-rows", type=click.IntRange(1), help="Most rows of a release.")
@click.option("--loss-per-job", help="Most that one job may cost, in the measure of the terms.")
@click.option("--loss-total", help="Most that the ledger may pay.")
@click.option("--loss-per-consumer", help="Most that the ledger may pay for one consumer.")
@json_option
def agreement_tighten(home_folder: Path, name: str, dataset: str, as_json: bool, **change: Any) -> None:
    """Suspend or revoke the terms of one's own dataset in agreement NAME, or lower their bounds: alone, at once, and for good.

    The own key broker obeys from now on, whether or not the service can be reached. Loosening takes a new agreement that all sign.

    \b
    Example: sandbox agreement tighten --home ~/insurer --dataset insurer.plans --minimum-group 50 sha256:...
    """
    from sandbox.party.acting import tighten
    from sandbox.party.kept import kept_agreement

    client = client_of(home_folder)
    terms = kept_agreement(client.home, name).terms_of(dataset)
    for bound, option in (("job_loss", "loss_per_job"), ("total_loss", "loss_total"), ("consumer_loss", "loss_per_consumer")):
        amount = change.pop(option)
        if amount is not None:
            change[bound] = _lowered(terms.total_loss, amount)
    for time in ("suspended_until", "not_after"):
        if change[time] is not None:
            change[time] = int(change[time].replace(tzinfo=UTC).timestamp())
    given = {bound: value for bound, value in change.items() if value not in (None, False)}
    if not given:
        raise Malformed("say what to tighten, for example --revoke")
    record = tighten(client, name, dataset, **given)
    print_json(record) if as_json else click.echo(f"tightened: {', '.join(_words(given))}")


def _lowered(like: Loss, amount: str) -> Loss:
    """A bound in the measure of the terms; what is paid for discovered keys stays as agreed."""
    found = parse_loss(like.measure, amount)
    return Loss(measure=found.measure, amount=found.amount, delta0=like.delta0)


def _words(given: dict[str, Any]) -> list[str]:
    shown: dict[str, Any] = {bound: value.text if isinstance(value, Loss) else value for bound, value in given.items()}
    for time in ("suspended_until", "not_after"):
        if time in shown:
            shown[time] = datetime.fromtimestamp(float(shown[time]), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [bound if value is True else f"{bound} {value}" for bound, value in shown.items()]

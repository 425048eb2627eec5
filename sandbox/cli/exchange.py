"""`sandbox exchange`: two legs between two participants, handed over together or not at all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sandbox.cli.show import client_of, home_option, json_option, print_json, table

if TYPE_CHECKING:
    from policies.exchange import Exchange, Leg

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
F = TypeVar("F", bound=Callable[..., Any])
_leg: Callable[[F], F] = click.option("--leg", type=click.IntRange(1, 2), required=True, help="Number of the leg.")


@click.group()
def exchange() -> None:
    """Exchanges: data for a model, an order, a right or money, both or neither."""


@exchange.command("open")
@home_option
@click.argument("form", type=_FILE)
@json_option
def open_exchange(home_folder: Path, form: Path, as_json: bool) -> None:
    """Propose the exchange that FORM describes to the other participant.

    \b
    FORM is YAML or JSON, for example:
      title: Figures on visits for a model
      accept_by: 2026-12-31T12:00:00Z
      deadline: 2027-01-31T12:00:00Z
      dispute_days: 14
      arbiter: auditor
      legs:
        - {kind: data, giver: clinic, receiver: insurer, agreement: "sha256:...", purpose: health-economics, jobs: 2,
           ask: {sql: "SELECT AVG(doctor_visits) AS visits FROM clinic.care", rho: "0.05"}}
        - {kind: model, giver: insurer, receiver: clinic, agreement: "sha256:...", purpose: health-economics, jobs: 2,
           ask: {form: high-spending.yaml, rho: "0.2"}}
    Example: sandbox exchange open --home ~/clinic exchange.yaml
    """
    from sandbox.party import exchanges

    _show(exchanges.propose(client_of(home_folder), exchanges.read_exchange(form)), as_json)


@exchange.command("accept")
@home_option
@click.argument("name")
@json_option
def accept(home_folder: Path, name: str, as_json: bool) -> None:
    """Accept exchange NAME (its digest). Look at it first with `exchange status`.

    \b
    Example: sandbox exchange accept --home ~/insurer sha256:...
    """
    from sandbox.party import exchanges

    _show(exchanges.accept(client_of(home_folder), name), as_json)


@exchange.command("refuse")
@home_option
@click.argument("name")
@json_option
def refuse(home_folder: Path, name: str, as_json: bool) -> None:
    """Refuse a proposal.

    \b
    Example: sandbox exchange refuse --home ~/insurer sha256:...
    """
    from sandbox.party import exchanges

    _show(exchanges.refuse(client_of(home_folder), name), as_json)


@exchange.command("status")
@home_option
@click.argument("name", required=False)
@json_option
def status(home_folder: Path, name: str | None, as_json: bool) -> None:
    """Show exchange NAME with its legs, what was signed and what it waits for; without NAME, all of one's own.

    \b
    Example: sandbox exchange status --home ~/clinic sha256:...
    """
    from sandbox.party import exchanges

    client = client_of(home_folder)
    if name is not None:
        _show(exchanges.known(client, name).record, as_json, whole=True)
        return
    found = exchanges.listed(client)
    if as_json:
        print_json(found)
        return
    table(
        ("exchange", "title", "stage", "waits for"),
        [(r["digest"], r["signed"]["body"]["title"], r["course"]["stage"], _waits(r)) for r in found],
    )


@exchange.command("run")
@home_option
@_leg
@click.option("--request-id", help="Repeat a request under its id to get the same answer; made up if left out.")
@click.option("--timeout", default=900.0, show_default=True, help="Seconds to wait.")
@click.argument("name")
@json_option
def run(home_folder: Path, leg: int, request_id: str | None, timeout: float, name: str, as_json: bool) -> None:
    """Ask the job of a leg that one receives. Its release goes into escrow, and to nobody.

    \b
    Example: sandbox exchange run --home ~/clinic --leg 2 sha256:...
    """
    from sandbox.party import exchanges

    client = client_of(home_folder)
    record = client.wait(exchanges.run(client, name, leg, request_id)["id"], timeout)
    if as_json:
        print_json(record)
        return
    click.echo(f"{record['id']} is {record['state']} {record['code']}".rstrip())
    _show(exchanges.known(client, name).record, as_json)


@exchange.command("use")
@home_option
@_leg
@click.option("--epsilon", help="Privacy loss to spend; where ledgers pay in epsilon.")
@click.option("--rho", help="Privacy loss to spend; where ledgers pay in rho.")
@click.option("--request-id", help="Repeat a request under its id to get the same answer; made up if left out.")
@click.option("--timeout", default=900.0, show_default=True, help="Seconds to wait.")
@click.argument("name")
@click.argument("sql")
@json_option
def use(
    home_folder: Path,
    leg: int,
    epsilon: str | None,
    rho: str | None,
    request_id: str | None,
    timeout: float,
    name: str,
    sql: str,
    as_json: bool,
) -> None:
    """Use a right that was handed over: ask SQL of a scenario. Scores of an offered model: `sandbox model ask --exchange`.

    \b
    Example: sandbox exchange use --home ~/clinic --leg 2 --epsilon 0.5 sha256:... "SELECT COUNT(*) AS n FROM insurer.plans"
    """
    from sandbox.cli.asking import loss_of
    from sandbox.party import exchanges

    client = client_of(home_folder)
    record = client.wait(exchanges.use(client, name, leg, sql, loss_of(epsilon, rho), request_id)["id"], timeout)
    print_json(record) if as_json else click.echo(f"{record['id']} is {record['state']} {record['code']}".rstrip())


@exchange.command("give")
@home_option
@_leg
@click.argument("name")
@json_option
def give(home_folder: Path, leg: int, name: str, as_json: bool) -> None:
    """Sign that a right or a promise is given: an order, a payment, a service, a scenario.

    \b
    Example: sandbox exchange give --home ~/insurer --leg 2 sha256:...
    """
    from sandbox.party import exchanges

    _show(exchanges.give(client_of(home_folder), name, leg), as_json)


@exchange.command("acknowledge")
@home_option
@_leg
@click.argument("name")
@json_option
def acknowledge(home_folder: Path, leg: int, name: str, as_json: bool) -> None:
    """Verify that the leg that one receives is there as agreed, and sign it. The second acknowledgement hands both legs over.

    \b
    Example: sandbox exchange acknowledge --home ~/clinic --leg 2 sha256:...
    """
    from sandbox.party import exchanges

    _show(exchanges.acknowledge(client_of(home_folder), name, leg), as_json)


@exchange.command("receive")
@home_option
@_leg
@click.argument("name")
@json_option
def receive(home_folder: Path, leg: int, name: str, as_json: bool) -> None:
    """Open the release of a leg that was handed over, and sign that it is here. `model card` and `job release` show it.

    \b
    Example: sandbox exchange receive --home ~/clinic --leg 2 sha256:...
    """
    from sandbox.party import exchanges

    _, record = exchanges.receive(client_of(home_folder), name, leg)
    _show(record, as_json)


@exchange.command("withdraw")
@home_option
@click.argument("name")
@json_option
def withdraw(home_folder: Path, name: str, as_json: bool) -> None:
    """Withdraw: what is in escrow returns, to both. Charges stay.

    \b
    Example: sandbox exchange withdraw --home ~/clinic sha256:...
    """
    from sandbox.party import exchanges

    _show(exchanges.withdraw(client_of(home_folder), name), as_json)


@exchange.command("dispute")
@home_option
@click.option("--reasons", type=_FILE, help="File whose digest is signed; send it to the others yourself.")
@click.option("--resolve", "outcome", type=click.Choice(["continue", "return"]), help="Say how the present dispute is to end instead.")
@click.argument("name")
@json_option
def dispute(home_folder: Path, reasons: Path | None, outcome: Any, name: str, as_json: bool) -> None:
    """Freeze an exchange, or say how its dispute is to end: as both participants want, or as the arbiter does alone.

    \b
    Example: sandbox exchange dispute --home ~/clinic --reasons letter.pdf sha256:...
             sandbox exchange dispute --home ~/auditor --resolve return sha256:...
    """
    from policies.canonical import digest_bytes
    from policies.errors import Malformed
    from sandbox.party import exchanges

    if (reasons is None) == (outcome is None):
        raise Malformed("give either --reasons or --resolve")
    client = client_of(home_folder)
    if reasons is not None:
        _show(exchanges.dispute(client, name, digest_bytes(reasons.read_bytes())), as_json)
    else:
        _show(exchanges.resolve(client, name, outcome), as_json)


def _show(record: dict[str, Any], as_json: bool, *, whole: bool = False) -> None:
    if as_json:
        print_json(record)
        return
    from policies.codec import decode
    from policies.exchange import Exchange

    found = decode(Exchange, record["signed"]["body"])
    why = f" ({record['reason']})" if record["reason"] else ""
    click.echo(f"{record['digest']} is {record['course']['stage']}{why}: {found.title}")
    if whole:
        click.echo(f"accept by {_time(found.accept_by)}, deadline {_time(found.deadline)}, arbiter {found.arbiter or 'none'}")
        table(("leg", "kind", "from", "to", "what", "so far"), [_row(found, number, record["course"]) for number in (1, 2)])
        acts = [
            (_time(a["at"] // 1000), a["signed"]["by"], a["signed"]["item"]["act"], a["signed"]["item"]["leg"] or "")
            for a in record["acts"]
        ]
        table(("when", "who", "did", "leg"), acts)
    if record["waiting_for"]:
        click.echo(f"waits for: {_waits(record)}")


def _row(found: Exchange, number: int, course: dict[str, Any]) -> tuple[Any, ...]:
    leg, held = found.leg(number), course["first" if number == 1 else "second"]
    return number, leg.kind, leg.giver, leg.receiver, _what(leg), _so_far(leg, held, course["stage"])


def _so_far(leg: Leg, held: dict[str, Any], stage: str) -> str:
    """How far a leg got, in a few words. What was in escrow of an exchange that ended is there no longer."""
    if stage == "handed_over":
        return f"used {held['charged']} of {leg.jobs} jobs" if leg.form == "right" else "received" if held["received"] else "handed over"
    if stage in ("returned", "withdrawn", "refused", "expired"):
        return stage
    if held["given"]:
        return "acknowledged" if held["acknowledged"] else "in escrow"
    return (
        f"{held['running']} runs"
        if held["running"]
        else "to be signed"
        if leg.form != "delivery"
        else f"{held['charged']} of {leg.jobs} jobs"
    )


def _what(leg: Leg) -> str:
    if leg.ask is None:
        return leg.document or f"{leg.jobs} jobs for {leg.purpose} until {_time(leg.until or 0)}"
    test = leg.ask.training.test if leg.ask.training is not None else None
    return leg.ask.sql.strip() + (f" ({test.metric} >= {test.least})" if test is not None else "")


def _waits(record: dict[str, Any]) -> str:
    return ", ".join(f"{w['participant']}: {w['task']}" + (f" leg {w['leg']}" if w["leg"] else "") for w in record["waiting_for"])


def _time(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""`sandbox witness`: cosigning the checkpoints of logs that one follows."""

from __future__ import annotations

from pathlib import Path

import click

from sandbox.audit.checkpoint import LogKey
from sandbox.cli.show import client_of, home_option, json_option, print_json, table
from sandbox.party.witness import Witness, server


@click.group()
def witness() -> None:
    """Cosign checkpoints that extend what was seen, so that nobody can be shown another log."""


folder_argument = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
log_option = click.option("--log", "logs", multiple=True, required=True, help="Verifier key of a log, from a source that you trust.")


@witness.command("init")
@folder_argument
@click.option("--name", required=True, help="Key name, for example witness.firm.example.")
@log_option
def witness_init(folder: Path, name: str, logs: tuple[str, ...]) -> None:
    """Make a witness with a fresh key in FOLDER and print the line that others put into their policy.

    \b
    Example: sandbox witness init ./witness --name witness.firm.example --log "$(cat log.vkey)"
    """
    made = Witness.create(folder, name, [LogKey.parse(log.strip()) for log in logs])
    click.echo(f"witness {name} {made.key.vkey}")


@witness.command("trust")
@folder_argument
@log_option
def witness_trust(folder: Path, logs: tuple[str, ...]) -> None:
    """Let the witness in FOLDER cosign further logs, or a log under a new key.

    \b
    Example: sandbox witness trust ./witness --log "$(cat other.vkey)"
    """
    for log in logs:
        Witness(folder=folder).trust(LogKey.parse(log.strip()))


@witness.command("show")
@folder_argument
@json_option
def witness_show(folder: Path, as_json: bool) -> None:
    """What the witness in FOLDER has cosigned, and submissions that prove a log dishonest.

    \b
    Example: sandbox witness show ./witness
    """
    found = Witness(folder=folder)
    newest = {origin: {"size": checkpoint.size, "root": checkpoint.root.hex()} for origin, checkpoint in found.newest().items()}
    conflicts = [str(path) for path in found.conflicts()]
    if as_json:
        print_json({"vkey": found.key.vkey, "newest": newest, "conflicts": conflicts})
        return
    table(("log", "entries", "root"), [(origin, at["size"], at["root"]) for origin, at in newest.items()], title=found.key.vkey)
    for path in conflicts:
        click.echo(f"a log signed two histories: {path}")


@witness.command("serve")
@folder_argument
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8720, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on; 0 for any.")
def witness_serve(folder: Path, host: str, port: int) -> None:
    """Answer add-checkpoint (C2SP tlog-witness) for the witness in FOLDER until stopped.

    \b
    Example: sandbox witness serve ./witness --port 8720
    """
    found = Witness(folder=folder)
    with server(found, host, port) as door:
        click.echo(f"{found.key.vkey} on http://{host}:{door.server_address[1]}")
        door.serve_forever()


@witness.command("submit")
@folder_argument
@home_option
@json_option
def witness_submit(folder: Path, home_folder: Path, as_json: bool) -> None:
    """Have the witness in FOLDER cosign the newest checkpoint of the service, and send it there, for a witness that nobody can reach.

    The service keeps cosignatures by the witnesses that its operator names, and serves them beside the checkpoint.

    \b
    Example: sandbox witness submit ./witness --home ~/insurer
    """
    from sandbox.party.witnessing import submit

    kept = submit(Witness(folder=folder), client_of(home_folder))
    said = f"{kept['size']} entries, cosigned by {', '.join(kept['witnesses'])}{'' if kept['quorum'] else '; more are needed'}"
    print_json(kept) if as_json else click.echo(said)

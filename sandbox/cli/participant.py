"""`sandbox party`: what a participant runs at home."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from policies.names import require_name
from sandbox.cli.preparing import infer, twin
from sandbox.cli.show import client_of, home_option, json_option, print_json, spoken, table


@click.group()
def party() -> None:
    """What a participant runs at home: keys, publishing, the key broker."""


party.add_command(infer)
party.add_command(twin)


@party.command("init")
@home_option
@click.option("--name", required=True, help="Id in the exchange: a-z, 0-9 and _.")
@click.option("--title", required=True, help="Name of the organisation.")
@click.option("--url", required=True, help="Address of the service, for example http://127.0.0.1:8700.")
@click.option("--code", required=True, help="One-time admission code from the operator.")
@json_option
def party_init(home_folder: Path, name: str, title: str, url: str, code: str, as_json: bool) -> None:
    """Make a home with fresh keys and be admitted with a one-time code.

    \b
    Example: sandbox party init --home ~/insurer --name insurer --title "First Insurance" --url http://127.0.0.1:8700 --code CODE
    """
    from enclaves.kit.signatures import fingerprint
    from sandbox.party.client import Client
    from sandbox.party.home import Home

    require_name(name, "name")
    if (home_folder / "identity.json").exists() and not (home_folder / "credential").exists():
        home = Home.open(home_folder)
    else:
        home = Home.create(home_folder, name, title, url.rstrip("/"))
    Client(home=home).join(code)
    keys = {"signing": fingerprint(home.signing.public), "sealing": fingerprint(home.sealing.public)}
    if as_json:
        print_json({"participant": name, "fingerprints": keys})
    else:
        table(("key", "fingerprint"), [(use, spoken(key)) for use, key in keys.items()], title=f"{name} is admitted")


@party.command("publish")
@home_option
@click.option("--declaration", type=click.Path(path_type=Path, exists=True), required=True, help="YAML form of the declaration.")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
def party_publish(home_folder: Path, declaration: Path, file: Path, as_json: bool) -> None:
    """Encrypt FILE at home, one fresh key per column, and publish it as the dataset's next version.

    FILE is Parquet, Arrow (Feather) or CSV: comma-separated UTF-8 with a header line.

    \b
    Example: sandbox party publish --home ~/insurer --declaration plans.yaml plans.parquet
    """
    from rich.console import Console
    from rich.progress import Progress

    from enclaves.kit.sources import dropped_and_clamped, read_table
    from sandbox.party.forms import declaration_of, read_form, sources_of
    from sandbox.party.publish import publish

    form = read_form(declaration)
    declared = declaration_of(form)
    rows = read_table(file, declared, sources_of(form))
    changed = dropped_and_clamped(rows, declared)
    with Progress(console=Console(stderr=True), disable=as_json) as progress:
        task = progress.add_task("encrypting", total=None)

        def advance(step: str, count: int) -> None:
            if step == "uploading":
                progress.update(task, description="uploading", total=count, completed=0)
            elif step == "sent":
                progress.advance(task, count)

        version = publish(client_of(home_folder), declared, rows, advance)
    if as_json:
        print_json({"version": version, "changed_by_bounds": changed})
        return
    table(("", ""), [(key, version[key]) for key in ("dataset", "version", "file_digest", "size")], title="Published")
    table(("bounds (for your eyes only)", "cells or rows changed inside the enclave"), changed.items())


@party.command("inbox")
@home_option
@json_option
def party_inbox(home_folder: Path, as_json: bool) -> None:
    """List what waits for this participant: agreements to sign, runs that want its keys, releases that it has not read.

    \b
    Example: sandbox party inbox --home ~/insurer
    """
    from sandbox.party.inbox import inbox

    client = client_of(home_folder)
    items = inbox(client.home, client.agreements(), client.key_requests(), client.jobs())
    if as_json:
        print_json([{"kind": item.kind, "name": item.name, "title": item.title, "command": item.command} for item in items])
    elif items:
        table(("what", "about", "sandbox ..."), [(item.kind, item.title, item.command) for item in items])
    else:
        click.echo("nothing waits")


@party.command("broker")
@home_option
def party_broker(home_folder: Path) -> None:
    """Answer key requests until stopped: appraise, decide again, seal the granted columns' keys to the attested enclave.

    \b
    Example: sandbox party broker --home ~/insurer
    """
    from sandbox.party.broker import Broker

    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    Broker(client=client_of(home_folder)).serve(lambda: stopping)

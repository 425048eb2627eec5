"""`sandbox party`: what a participant runs at home."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import click

from policies.errors import Malformed, NotFound
from policies.names import require_name
from sandbox.cli import joint, scoring
from sandbox.cli.keeping import approvals, approve, keys, pins, refuse, requests
from sandbox.cli.preparing import infer, twin
from sandbox.cli.show import client_of, home_option, json_option, print_json, progress_bar, spoken, table
from sandbox.cli.stopping import until_stopped


@click.group()
def party() -> None:
    """What a participant runs at home: keys, publishing, the key broker."""


party.add_command(infer)
party.add_command(twin)
party.add_command(keys)
party.add_command(approvals)
party.add_command(requests)
party.add_command(approve)
party.add_command(refuse)
party.add_command(pins)


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


@party.command("rotate-keys")
@home_option
@json_option
def party_rotate_keys(home_folder: Path, as_json: bool) -> None:
    """Replace this participant's signing and sealing key. Agreements go on: the old key signs for the new one, in the log.

    Published data stay usable, and former keys stay in the home to open earlier releases. If it is interrupted, run it again.

    \b
    Example: sandbox party rotate-keys --home ~/insurer
    """
    from enclaves.kit.signatures import fingerprint
    from sandbox.party.rekeying import rotate_keys

    rotation = rotate_keys(client_of(home_folder))
    keys = {"signing": rotation.signing_key, "sealing": rotation.sealing_key}
    shown = {use: fingerprint(bytes.fromhex(key)) for use, key in keys.items()}
    if as_json:
        print_json({"participant": rotation.participant, "rotation": rotation.sequence, "fingerprints": shown})
    else:
        rows = [(use, spoken(key)) for use, key in shown.items()]
        table(("key", "fingerprint"), rows, title=f"{rotation.participant} has new keys (rotation {rotation.sequence})")


@party.command("revoke-keys")
@home_option
@click.option("--yes", is_flag=True, help="Do it: there is no way back, and the agreements of this participant are over.")
@json_option
def party_revoke_keys(home_folder: Path, yes: bool, as_json: bool) -> None:
    """Revoke this participant's keys, because somebody else may have them. Nothing that they sign counts from then on.

    Its agreements start no new job. The operator can admit it anew; see `sandbox party rejoin`.

    \b
    Example: sandbox party revoke-keys --home ~/insurer --yes
    """
    if not yes:
        raise Malformed("revoking cannot be undone and ends all agreements of this participant; give --yes", where="--yes")
    revoked = client_of(home_folder).revoke_keys()
    print_json(revoked) if as_json else click.echo(f"the keys of {revoked['id']} are revoked")


@party.group("epoch")
def party_epoch() -> None:
    """A new log that the operator has begun, because entries or the log's key were lost for good."""


@party_epoch.command("show")
@home_option
@json_option
def party_epoch_show(home_folder: Path, as_json: bool) -> None:
    """Show what the new log opens with, beside what this home saw, and who has not signed.

    With --json, `seen` is what consumers used up as this home saw it: the file that `sandbox admin epoch open --counts` takes.

    \b
    Example: sandbox party epoch show --home ~/insurer
    """
    from dataclasses import asdict

    from policies.codec import decode, encode
    from policies.lineage import Epoch
    from sandbox.party.epochs import compare, fewer_counts, misnamed_exchanges, seen_counts

    client = client_of(home_folder)
    state = client.epoch()
    epoch = decode(Epoch, state["epoch"])
    totals, fewer, wrong = compare(client, epoch), fewer_counts(client, epoch), misnamed_exchanges(client, epoch)
    if as_json:
        lists: dict[str, Iterable[Any]] = {"totals": totals, "fewer": fewer, "misnamed": wrong}
        shown = {name: [asdict(item) for item in items] for name, items in lists.items()}
        print_json(state | shown | {"seen": encode(seen_counts(client))})
        return
    rows = [(f"{t.provider}/{t.id_space}", t.seen.text, t.opens.text, "TOO LOW" if t.short else "") for t in totals]
    waiting = ", ".join(state["waiting_for"]) or "nobody"
    table(("ledger", "seen here", "opens with", ""), rows, title=f"Epoch {state['epoch']['number']}; waits for {waiting}")
    if carried := state["epoch"].get("exchanges"):
        table(("exchange of the former log", "is"), [(item["exchange"], item["course"]["stage"]) for item in carried])
    if fewer or wrong:
        problems = [("TOO FEW", item.text) for item in fewer] + [("WRONG", f"{item.exchange} {item.why}") for item in wrong]
        table(("", "against what this home saw"), problems)


@party_epoch.command("sign")
@home_option
@click.option(
    "--accept-exchange", "accepted", multiple=True, help="An exchange (digest) that may be named otherwise than it stood; repeatable."
)
@json_option
def party_epoch_sign(home_folder: Path, accepted: tuple[str, ...], as_json: bool) -> None:
    """Sign the new log as a provider, if it opens with no less than this home saw charged and used up, and names exchanges as they stood.

    \b
    Example: sandbox party epoch sign --home ~/insurer
    """
    from sandbox.party.epochs import sign_epoch

    epoch = sign_epoch(client_of(home_folder), accepted)
    print_json({"epoch": epoch.number, "origin": epoch.log.origin}) if as_json else click.echo(f"signed epoch {epoch.number}")


@party.command("rejoin")
@home_option
@click.option("--code", required=True, help="One-time admission code from the operator.")
@json_option
def party_rejoin(home_folder: Path, code: str, as_json: bool) -> None:
    """Be admitted anew, with fresh keys in the same home, after the keys were revoked. Agreements have to be signed anew.

    \b
    Example: sandbox party rejoin --home ~/insurer --code CODE
    """
    from enclaves.kit.signatures import fingerprint
    from sandbox.party.rekeying import rejoin

    client = client_of(home_folder)
    rejoin(client, code)
    keys = {"signing": fingerprint(client.home.signing.public), "sealing": fingerprint(client.home.sealing.public)}
    if as_json:
        print_json({"participant": client.home.participant, "fingerprints": keys})
    else:
        table(("key", "fingerprint"), [(use, spoken(key)) for use, key in keys.items()], title=f"{client.home.participant} is readmitted")


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
    from enclaves.kit.sources import dropped_and_clamped, read_table
    from sandbox.party.forms import declaration_of, read_form, sources_of
    from sandbox.party.publish import publish

    form = read_form(declaration)
    declared = declaration_of(form)
    rows = read_table(file, declared, sources_of(form))
    changed = dropped_and_clamped(rows, declared)
    with progress_bar(quiet=as_json) as progress:
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
    """List what waits for this participant: an epoch or agreements to sign, runs that want its keys, exchanges, unread releases.

    \b
    Example: sandbox party inbox --home ~/insurer
    """
    from sandbox.party.exchanges import listed
    from sandbox.party.inbox import inbox

    client = client_of(home_folder)
    epoch = None
    with suppress(NotFound):  # a log that never began anew has none
        epoch = client.epoch()
    items = inbox(client.home, client.agreements(), client.key_requests(), client.jobs(), epoch, listed(client))
    if as_json:
        print_json([{"kind": item.kind, "name": item.name, "title": item.title, "command": item.command} for item in items])
    elif items:
        table(("what", "about", "sandbox ..."), [(item.kind, item.title, item.command) for item in items])
    else:
        click.echo("nothing waits")


@party.command("webhook")
@home_option
@click.argument("url", required=False)
@click.option("--remove", is_flag=True, help="Have no notices sent any more.")
@json_option
def party_webhook(home_folder: Path, url: str | None, remove: bool, as_json: bool) -> None:
    """Have signed notices of what waits sent to URL, which begins with https://; without URL, show where they go.

    A notice names an agreement or a job and nothing else. The same URL again tries again what was given up.

    \b
    Example: sandbox party webhook --home ~/insurer https://hooks.insurer.example/sandbox
    """
    if remove and url is not None:
        raise Malformed("give either a URL or --remove")
    client = client_of(home_folder)
    answer = client.set_webhook(url) if url is not None or remove else client.webhook()
    if as_json:
        print_json(answer)
    elif answer["url"] is None:
        click.echo("no notices are sent")
    else:
        click.echo(f"notices go to {answer['url']}" + ("; the last attempt failed" if answer["failing"] else ""))


@party.command("notices")
@home_option
@click.option("--state", type=click.Choice(["waiting", "delivered", "settled", "dead"]), help="Only those in this state.")
@json_option
def party_notices(home_folder: Path, state: str | None, as_json: bool) -> None:
    """List the notices to this participant's webhook, newest first, and how often each was tried.

    \b
    Example: sandbox party notices --home ~/insurer --state dead
    """
    found = client_of(home_folder).notices(state)
    if as_json:
        print_json(found)
    else:
        table(("id", "what", "of", "state", "attempts"), [(n["id"], n["kind"], n["subject"], n["state"], n["attempts"]) for n in found])


@party.command("verify-webhook")
@home_option
@click.argument("message", type=click.File("rb"), default="-")
@json_option
def party_verify_webhook(home_folder: Path, message: BinaryIO, as_json: bool) -> None:
    """Verify a notice as it came: MESSAGE holds its headers, an empty line and its body; - or nothing is standard input.

    Ends with 5 if the service's key, kept when the webhook was set, did not sign it for this participant within the last 300 s. A notice
    whose id came before is said to be repeated: answer it with 200, and do not act again.

    \b
    Example: sandbox party verify-webhook --home ~/insurer notice.http
    """
    import time

    from sandbox.party.home import Home
    from sandbox.party.webhooks import MAX_BYTES, receive, shown

    notice, repeated = receive(Home.open(home_folder), message.read(MAX_BYTES + 1), time.time())
    if as_json:
        print_json(shown(notice, repeated=repeated))
    else:
        click.echo(f"{notice.type} {notice.subject}" + (" (repeated)" if repeated else ""))


@party.command("witnesses")
@home_option
@click.argument("policy", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--none", "clear", is_flag=True, help="Accept checkpoints without witnesses again.")
def party_witnesses(home_folder: Path, policy: Path | None, clear: bool) -> None:
    """Accept only checkpoints of the log that witnesses have cosigned as POLICY (C2SP tlog-policy) asks; without POLICY, show it.

    \b
    Example: sandbox party witnesses --home ~/insurer trusted.policy
    """
    from sandbox.audit.witness_policy import parse_policy
    from sandbox.party.cosigning import POLICY, kept_policy
    from sandbox.party.home import Home

    home = Home.open(home_folder)
    if clear:
        (home.folder / POLICY).unlink(missing_ok=True)
    elif policy is not None:
        data = policy.read_bytes()
        parse_policy(data.decode("utf-8", "surrogateescape"))
        home.write_bytes(POLICY, data)
    kept = kept_policy(home)
    click.echo("no witnesses are asked" if kept is None else f"every checkpoint must be cosigned by {kept.describe()}")


@party.command("broker")
@home_option
@click.option("--ask", is_flag=True, help="Hold every request for a person, unless a standing approval covers it.")
def party_broker(home_folder: Path, ask: bool) -> None:
    """Answer key requests until stopped: appraise, decide again, seal the granted columns' keys to the attested enclave.

    With --ask, `sandbox party requests` lists what is held and `sandbox party approve` lets it run; the service ends a run that has waited
    for longer than its SANDBOX_KEYS_TIMEOUT_S.

    \b
    Example: sandbox party broker --home ~/insurer
    """
    from sandbox.party.broker import Broker

    stopping = until_stopped()
    client = client_of(home_folder)
    client.home.wrapping_key().wrap(b"a passphrase is asked for now, not at the first request", b"broker")
    Broker(client=client, ask=ask).serve(stopping)


party.add_command(joint.contribute)
party.add_command(joint.hold_key)
party.add_command(scoring.score)

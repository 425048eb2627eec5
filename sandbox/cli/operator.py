"""`sandbox admin`: schema, settings, backups. What the operator does on the service's machine."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from enclaves.kit.signatures import SigningKey
from policies.codec import encode
from policies.errors import Malformed
from policies.names import require_name, require_slug
from policies.odrl import timestamp
from policies.privacy import Loss, parse_loss
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.export import Export
from sandbox.cli.composing import composed, next_key
from sandbox.cli.cosigning import admin_cosign, admin_witnesses
from sandbox.cli.service import admin
from sandbox.cli.show import json_option, print_json, table
from sandbox.config import describe, read_config, read_settings
from sandbox.store.backup import LOG_KEY, Manifest, make_backup, restore_backup, verify_backup
from sandbox.store.blobs import Blobs
from sandbox.store.database import Store, shown_url

__all__ = ["admin"]

folder_argument = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
file_option = click.Path(path_type=Path, exists=True, dir_okay=False)


admin.add_command(admin_witnesses)
admin.add_command(admin_cosign)


@admin.command("config")
@json_option
def admin_config(as_json: bool) -> None:
    """Print the settings in force, where each came from, and what it accepts. A database's password is masked.

    \b
    Example: SANDBOX_CONFIG=/etc/sandbox.toml sandbox admin config
    """
    config, sources = read_settings()
    rows = []
    for setting in describe():
        value: Any = getattr(config, setting.name)
        shown = shown_url(value) if setting.name == "database" else str(value) if isinstance(value, Path) else value
        rows.append({"name": setting.name, "value": shown, "source": sources[setting.name], "bounds": setting.bounds})
    if as_json:
        print_json({row["name"]: {"value": row["value"], "source": row["source"]} for row in rows})
    else:
        table(("setting", "value", "from", "accepts"), [tuple(row.values()) for row in rows])


@admin.command("schema")
@json_option
def admin_schema(as_json: bool) -> None:
    """Print the revision of the database's schema, the newest one, and what lies between.

    \b
    Example: sandbox admin schema
    """
    found = _store().schema()
    if as_json:
        print_json(found)
        return
    rows = [(item["revision"], item["what"], "applied" if item["applied"] else "to come") for item in found["revisions"]]
    table(("revision", "what it does", ""), rows, title=f"The database has schema {found['current'] or 'none'}")


@admin.command("migrate")
@click.option("--to", "target", help="A revision, or `base`; default: the newest.")
@click.option("--dry-run", is_flag=True, help="Do it and take it back: nothing is changed.")
@click.option("--yes", is_flag=True, help="Go back although that deletes what newer revisions store.")
@json_option
def admin_migrate(target: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Bring the database's schema to the newest revision, or to another. The service does so itself when it starts.

    \b
    Example: sandbox admin migrate --dry-run
    """
    steps = _store().migrate(target, dry_run=dry_run, allow_loss=yes)
    if as_json:
        print_json({"steps": steps, "dry_run": dry_run})
    else:
        click.echo(f"{'would apply' if dry_run else 'applied'}: {', '.join(steps)}" if steps else "nothing to do")


@admin.command("backup")
@folder_argument
@click.option("--with-log-key", is_flag=True, help="Also copy the log's signing key. Who has it can sign a false log.")
@json_option
def admin_backup(folder: Path, with_log_key: bool, as_json: bool) -> None:
    """Write a consistent backup of database and uploads to the empty FOLDER, while the service runs.

    \b
    Example: sandbox admin backup /backup/2026-11-23
    """
    config = read_config()
    signing = _signing_key(config.data / LOG_KEY)
    store = Store(config.database_url)
    with store.reading() as tx:
        origin = tx.setting("log_origin") or config.origin
    identity, blobs = LogKey(name=origin, public=signing.public), Blobs(folder=config.data / "uploads", limit=config.upload_bytes)
    now = time.time_ns() // 1_000_000
    manifest = make_backup(store, blobs, signing, identity, folder, now=now, with_log_key=with_log_key)
    if with_log_key:
        click.echo("warning: this backup holds the log's signing key; who reads it can sign a false log", err=True)
    else:
        click.echo(f"note: the log's signing key is not in this backup; keep {config.data / LOG_KEY} apart, once", err=True)
    _show(manifest, folder, as_json)


@admin.command("verify-backup")
@folder_argument
@json_option
def admin_verify_backup(folder: Path, as_json: bool) -> None:
    """Check every digest of a backup and rebuild the log's tree from it.

    \b
    Example: sandbox admin verify-backup /backup/2026-11-23
    """
    _show(verify_backup(folder), folder, as_json)


@admin.command("restore")
@folder_argument
@click.option("--log-key", type=file_option, help="The log's signing key, if the backup does not hold it.")
@click.option("--newest-checkpoint", type=file_option, help="The newest checkpoint that anybody kept, for example of an export.")
@click.option("--accept-rewind", is_flag=True, help="Restore although the log had more entries. Brokers will refuse it.")
@json_option
def admin_restore(folder: Path, log_key: Path | None, newest_checkpoint: Path | None, accept_rewind: bool, as_json: bool) -> None:
    """Restore a backup into a new data folder and an empty database. Stop the service first.

    Restoring is a rewind: entries made after the backup are gone, and every broker and client that saw one refuses the log from then on.

    \b
    Example: sandbox admin restore /backup/2026-11-23 --log-key /safe/log.key --newest-checkpoint ./export/checkpoint
    """
    config = read_config()
    manifest = restore_backup(
        folder,
        Store(config.database_url),
        config.data,
        origin=config.origin,
        log_key=None if log_key is None else log_key.read_bytes(),
        newest_checkpoint=None if newest_checkpoint is None else newest_checkpoint.read_text(encoding="utf-8"),
        accept_rewind=accept_rewind,
    )
    if newest_checkpoint is None:
        click.echo("warning: no newest checkpoint was given: whether the log had more entries than the backup is not known", err=True)
    click.echo(f"a restore is a rewind: brokers that saw more than {manifest.size} entries will release no keys", err=True)
    _show(manifest, folder, as_json)


@admin.command("recover")
@click.option(
    "--from",
    "folders",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    required=True,
    help="Folder of an export.",
)
@json_option
def admin_recover(folders: tuple[Path, ...], as_json: bool) -> None:
    """After a restore, bring back the entries that participants' exports hold and the backup does not. Stop the service first.

    Give as many exports (--from, repeated) as there are: each holds the bodies that its participant may read. Ledgers are rebuilt from
    the public headers whatever is opened; jobs that had not ended end `failed`, with their charge.

    \b
    Example: sandbox admin recover --from ./export-of-insurer --from ./export-of-auditor
    """
    from sandbox.jobs.recovery import recover

    done = asdict(recover(composed(), [Export(read=_reader(folder)) for folder in folders]))
    if as_json:
        print_json(done)
    else:
        rows = [(name.replace("_", " "), ", ".join(value) or "none" if isinstance(value, list) else value) for name, value in done.items()]
        table(("", ""), rows, title="Recovered")


def _reader(folder: Path) -> Callable[[str], bytes]:
    return lambda path: (folder / path).read_bytes()


@admin.command("rotate-log-key")
@json_option
def admin_rotate_log_key(as_json: bool) -> None:
    """Replace the log's signing key: the old one signs for the new one, in the log. Stop the service first, and start it afterwards.

    The former key's file stays beside the new one, for as long as you may have to restore a backup from before. If it is interrupted, run
    it again.

    \b
    Example: sandbox admin rotate-log-key
    """
    from sandbox.exchange.epochs import rotate_log_key

    host = composed()
    changed = rotate_log_key(host, next_key(host))
    composed().store.close()  # puts the key's file in place
    vkey = changed.log_identity.vkey
    print_json({"vkey": vkey}) if as_json else click.echo(f"the log's verifier key is now {vkey}; copy {LOG_KEY} to a safe place")


@admin.command("note-log")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--vkey", required=True, help="Verifier key of the other log, from its operator.")
@json_option
def admin_note_log(folder: Path, vkey: str, as_json: bool) -> None:
    """Enter the checkpoint of another log, exported into FOLDER, into this one: so that neither can tell two stories about the other.

    Refused: a checkpoint that the other log did not sign, a smaller one than was noted before, one of another history.

    \b
    Example: sandbox admin note-log --vkey "exchange-b/log+..." ~/export-of-b
    """
    from sandbox.audit.checkpoint import LogKey
    from sandbox.audit.export import Export
    from sandbox.exchange.noting import note_log

    host = composed()
    index = note_log(host, Export(read=_reader(folder)), LogKey.parse(vkey))
    host.store.close()
    said = "that checkpoint is noted already" if index is None else f"noted as entry {index}"
    print_json({"index": index}) if as_json else click.echo(said)


@admin.group("epoch")
def admin_epoch() -> None:
    """A new log, where entries or the log's key are lost for good."""


@admin_epoch.command("open")
@click.option("--new-key", is_flag=True, help="Begin under a new key, because the old one is lost or stolen.")
@click.option(
    "--total", "totals", multiple=True, help="provider/id-space=[rho:]AMOUNT[,DELTA0]: what a ledger has paid at least; repeatable."
)
@click.option(
    "--counts",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What `sandbox party epoch show --json` printed at a home that saw more used up; repeatable.",
)
@click.option("--yes", is_flag=True, help="Do it: the log ends, and jobs that had not ended fail with their charge.")
@json_option
def admin_epoch_open(new_key: bool, totals: tuple[str, ...], counts: tuple[Path, ...], yes: bool, as_json: bool) -> None:
    """End the log and begin a new one that opens with every ledger's total. Recover entries from exports first. Stop the service first.

    Every provider of a live agreement then signs with `sandbox party epoch sign`; until then no job is accepted. A provider refuses a total
    below what it saw: ask for it (`sandbox party epoch show`), and open again with --total. No ledger is ever lowered. The same holds of
    what consumers used up (uses, scored rows), with --counts.

    \b
    Example: sandbox admin epoch open --total insurer/study-person=1.25 --yes
    """
    from policies.canonical import parse_json
    from policies.codec import decode
    from policies.counts import Counts
    from sandbox.exchange.epochs import open_epoch

    if not yes:
        raise Malformed("this ends the log; recover what exports hold first, and give --yes", where="--yes")
    known = [decode(Counts, parse_json(path.read_bytes())["seen"]) for path in counts]
    begun, epoch = open_epoch(composed(lost_log_key=new_key), dict(_total(text) for text in totals), known)
    composed().store.close()
    shown = {"epoch": epoch.number, "origin": epoch.log.origin, "vkey": begun.log_identity.vkey, "waits_for": list(epoch.providers)}
    print_json(shown) if as_json else table(("", ""), shown.items(), title="A new log has begun")


def _total(text: str) -> tuple[tuple[str, str], Loss]:
    name, _, paid = text.partition("=")
    provider, _, id_space = name.partition("/")
    amount, _, delta0 = paid.partition(",")
    loss = parse_loss("zcdp" if amount.startswith("rho:") else "pure", amount.removeprefix("rho:"), delta0 or "0", "--total")
    return (require_name(provider, "--total"), require_slug(id_space, "--total")), loss


@admin.group("participant")
def admin_participant() -> None:
    """Participants whose keys were lost or stolen."""


@admin_participant.command("revoke")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do it: there is no way back, and the agreements of this participant are over.")
@json_option
def admin_participant_revoke(name: str, yes: bool, as_json: bool) -> None:
    """Revoke the keys of participant NAME. Ask the firm by another way than the service first.

    Nothing that they sign counts from then on, its credential opens nothing, and its agreements start no new job. `sandbox admin admit
    NAME` makes a code with which it can join again under new keys; the parties then sign new agreements.

    \b
    Example: sandbox admin participant revoke insurer --yes
    """
    from sandbox.exchange.rotation import revoke

    if not yes:
        raise Malformed(f"revoking cannot be undone and ends all agreements of `{name}`; give --yes", where="--yes")
    revoked = revoke(composed(), require_name(name, "name"))
    print_json(encode(revoked)) if as_json else click.echo(f"the keys of {revoked.id} are revoked")


def _store() -> Store:
    return Store(read_config().database_url)


def _signing_key(path: Path) -> SigningKey:
    try:
        return SigningKey.from_bytes(path.read_bytes())
    except OSError as error:
        raise Malformed(f"the log's signing key {path} cannot be read; is this the service's data folder?") from error


def _show(manifest: Manifest, folder: Path, as_json: bool) -> None:
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    facts = {
        "folder": str(folder),
        "bytes": used,
        "log": manifest.vkey.partition("+")[0],
        "entries": manifest.size,
        "root": manifest.root,
        "schema": manifest.revision,
        "made_at": manifest.made_at,
        "log_key": manifest.log_key,
        "free_bytes": shutil.disk_usage(folder).free,
    }
    if as_json:
        print_json(facts)
    else:
        table(("", ""), (facts | {"made_at": timestamp(manifest.made_at // 1000)}).items(), title="Backup")

"""`sandbox log`, `sandbox audit`, `sandbox receipt`: exporting, replaying and verifying."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import click

from policies.agreement import Agreement, LogIdentity
from policies.canonical import parse_json
from policies.codec import decode
from policies.errors import Malformed, Tampered
from policies.odrl import parse_agreement
from policies.privacy import PARAMETERS
from sandbox.audit.checkpoint import Checkpoint, LogKey, open_checkpoint
from sandbox.audit.export import Export
from sandbox.audit.joint_receipt import AnyReceipt, JointReceipt, verify_joint_receipt
from sandbox.audit.receipt import Receipt, verify_receipt
from sandbox.audit.replay import Verdict, replay
from sandbox.cli.show import client_of, home_option, json_option, print_json, progress_bar, table
from sandbox.party.exporting import export_log
from sandbox.party.kept import kept_agreement

INCOMPLETE = 1
"""Exit code of a replay that found no mismatch and could not open everything."""


@click.group()
def log() -> None:
    """The log that participants and auditors keep copies of."""


@log.command("export")
@home_option
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--vkey", help="The log's verifier key, from a source that you trust; else the one the service states.")
@json_option
def log_export(home_folder: Path, folder: Path, vkey: str | None, as_json: bool) -> None:
    """Write the whole log with the openings that this participant may read to FOLDER as static files.

    \b
    Example: sandbox log export --home ~/auditor ./log
    """
    client = client_of(home_folder)
    key = LogKey.parse(vkey or client.service()["log"]["vkey"])
    with progress_bar(quiet=as_json) as progress:
        task = progress.add_task("exporting")
        size = export_log(
            client,
            folder,
            LogIdentity(origin=key.name, key=key.public.hex()),
            lambda done, of: progress.update(task, completed=done, total=of),
        )
    print_json({"entries": size, "folder": str(folder)}) if as_json else click.echo(f"{size} entries in {folder}")


@click.group()
def audit() -> None:
    """What an auditor does, offline."""


@audit.command("replay")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--vkey", help="The log's verifier key, from a source that you trust; else the one in the export.")
@click.option("--since", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A checkpoint kept from an earlier export.")
@json_option
def audit_replay(folder: Path, vkey: str | None, since: Path | None, as_json: bool) -> None:
    """Re-derive every decision, charge and grant of an exported log from FOLDER alone, and name every entry that does not fit.

    Exits 0 if all of it holds, 5 if something does not fit, 1 if nothing contradicts but some bodies are not open to this reader.

    \b
    Example: sandbox audit replay ./log --since ./last-month/checkpoint
    """
    key = LogKey.parse((vkey or read_text(folder / "log.vkey")).strip())
    earlier = (
        None if since is None else _earlier(since.read_text(encoding="utf-8"), Export(read=lambda path: (folder / path).read_bytes()), key)
    )
    with progress_bar(quiet=as_json) as progress:
        task = progress.add_task("replaying")
        verdict = replay(
            lambda path: (folder / path).read_bytes(),
            key,
            since=earlier,
            progress=lambda done, of: progress.update(task, completed=done, total=of),
        )
    print_json(asdict(verdict)) if as_json else show_verdict(verdict)
    sys.exit(0 if verdict.ok else 5 if verdict.mismatches else INCOMPLETE)


def _earlier(note: str, export: Export, key: LogKey) -> Checkpoint:
    """A checkpoint kept from earlier, signed with the log's key or with one before or after it."""
    for other in (*export.former_keys(key), *export.log_keys(key)[1:]):
        with suppress(Tampered):
            return open_checkpoint(note, other)
    return open_checkpoint(note, key)


def show_verdict(verdict: Verdict) -> None:
    """Print a verdict per promise and every mismatch."""
    table(("promise", "verdict"), verdict.promises.items(), title=f"Replay of {verdict.entries} entries")
    if verdict.mismatches:
        table(("entry", "kind", "what"), [(m.index, m.kind, m.what) for m in verdict.mismatches], title="Mismatches")
    for note in verdict.notes:
        click.echo(f"note: {note}")
    if verdict.mismatches:
        click.echo("THE LOG DOES NOT REPLAY")
    else:
        click.echo("the log replays" if verdict.ok else "nothing contradicts the log, but not everything is open to this reader")


@click.group()
def receipt() -> None:
    """Receipts of releases."""


@receipt.command("verify")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--agreement", "agreement_file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The agreement document.")
@click.option("--home", "home_folder", type=click.Path(path_type=Path), envvar="SANDBOX_HOME", help="Or a home that signed it.")
@click.option("--sealed", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The sealed release, to be checked too.")
@json_option
def receipt_verify(file: Path, agreement_file: Path | None, home_folder: Path | None, sealed: Path | None, as_json: bool) -> None:
    """Verify a receipt offline against the agreement that it is under.

    \b
    Example: sandbox receipt verify receipt.json --home ~/institute
    """
    parsed: AnyReceipt = decode(cast(Any, AnyReceipt), parse_json(file.read_bytes(), limit=16 << 20))
    if agreement_file is not None:
        agreement = parse_agreement(parse_json(agreement_file.read_bytes(), limit=16 << 20))
    elif home_folder is not None:
        agreement = kept_agreement(client_of(home_folder).home, parsed.grant.agreement)
    else:
        raise Malformed("give the agreement by --agreement or --home")
    contents = None if sealed is None else sealed.read_bytes()
    facts = _joint_facts(parsed, agreement, contents) if isinstance(parsed, JointReceipt) else _facts(parsed, agreement, contents)
    print_json(facts | {"ok": True}) if as_json else table(("", ""), facts.items(), title="The receipt holds")


def _facts(parsed: Receipt, agreement: Agreement, sealed: bytes | None) -> dict[str, object]:
    verified = verify_receipt(parsed, agreement, sealed)
    return {
        "job": verified.job,
        **({} if parsed.repeated is None else {"repeats": parsed.grant.job}),
        "outcome": "released" if parsed.statement.statement.sealed else f"withheld: {parsed.statement.statement.withheld}",
        "entry": parsed.index,
        "log": f"{verified.checkpoint.origin}, {verified.checkpoint.size} entries",
        PARAMETERS[parsed.grant.loss.measure]: parsed.grant.loss.epsilon,
        "enclave": f"{verified.attested.evidence.kind}, {verified.attested.evidence.measurement}",
    }


def _joint_facts(parsed: JointReceipt, agreement: Agreement, sealed: bytes | None) -> dict[str, object]:
    verified = verify_joint_receipt(parsed, agreement, sealed)
    pool = parsed.grant.pool
    return {
        "job": parsed.grant.job,
        "outcome": "released" if verified.statement.sealed else f"withheld: {verified.statement.withheld}",
        "entry": parsed.index,
        "log": f"{verified.checkpoint.origin}, {verified.checkpoint.size} entries",
        PARAMETERS[parsed.grant.loss.measure]: parsed.grant.loss.epsilon,
        "joint total": f"{', '.join(verified.manifest.contributors)}; {pool.noise} noise; key of {pool.key_holder}",
    }


def read_text(path: Path) -> str:
    """A text file of an export. Raises Malformed if it is missing."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Malformed(f"the export has no {path.name}") from error

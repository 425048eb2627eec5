"""`sandbox log` and `sandbox audit`: exporting, replaying and verifying."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from policies.agreement import LogIdentity
from policies.canonical import parse_json
from policies.errors import Malformed, Tampered
from sandbox.audit.backtest import parse_candidate
from sandbox.audit.checkpoint import Checkpoint, LogKey
from sandbox.audit.comparing import compare, open_with
from sandbox.audit.export import Export
from sandbox.audit.reading import Reading
from sandbox.audit.replay import Known, Verdict, replay
from sandbox.audit.report import render_report
from sandbox.audit.vectors import verify_vectors
from sandbox.audit.witness_policy import WitnessPolicy, parse_policy
from sandbox.cli.show import client_of, home_option, json_option, print_json, progress_bar, table

INCOMPLETE = 1
"""Exit code of a replay that found no mismatch and could not open everything."""


YOUNG_OBJECTS = 50_000
"""Objects made between two looks for cycles while a log is replayed: entries are read and dropped, and hardly anything has cycles."""


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

    Where the home has a witness policy, the checkpoint is cosigned as it asks.

    \b
    Example: sandbox log export --home ~/auditor ./log
    """
    from sandbox.party.exporting import export_log

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


@log.command("verify-vectors")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
def log_verify_vectors(file: Path, as_json: bool) -> None:
    """Judge published inclusion or consistency proofs in FILE (JSON of transparency-dev/merkle) with this verifier.

    Exits 0 if every proof is judged as the file says, 5 if not. Trees of size 0 and empty hashes are errors.

    \b
    Example: sandbox log verify-vectors inclusion.json
    """
    try:
        document = json.loads(file.read_bytes())
    except ValueError as error:
        raise Malformed(f"{file} is not JSON") from error
    report = verify_vectors(document)
    if as_json:
        print_json(asdict(report))
    else:
        table(
            ("case", "what"),
            [(failure.case, failure.what) for failure in report.failures],
            title=f"{report.ok} of {report.cases} as published",
        )
    sys.exit(5 if report.failures else 0)


@click.group()
def audit() -> None:
    """What an auditor does, offline."""


vkey_option = click.option("--vkey", help="The log's verifier key, from a source that you trust; else the one in the export.")
witnesses_option = click.option(
    "--witnesses",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Witnesses that must have cosigned: C2SP tlog-policy.",
)


@audit.command("replay")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@vkey_option
@click.option("--since", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A checkpoint kept from an earlier export.")
@witnesses_option
@click.option(
    "--policy", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Candidate terms: list every decision that would differ."
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the verdict as a page to print.")
@click.option("--processes", type=click.IntRange(1, 1024), help="Processes that judge at once; default: one per core.")
@json_option
def audit_replay(
    folder: Path,
    vkey: str | None,
    since: Path | None,
    witnesses: Path | None,
    policy: Path | None,
    html: Path | None,
    processes: int | None,
    as_json: bool,
) -> None:
    """Re-derive every decision, charge and grant of an exported log from FOLDER alone, and name every entry that does not fit.

    Exits 0 if all of it holds, 5 if something does not fit, 1 if nothing contradicts but some bodies are not open to this reader.

    \b
    Example: sandbox audit replay ./log --since ./last-month/checkpoint
             sandbox audit replay ./log --witnesses trusted.policy --html report.html
    """
    export, key = _export(folder), _key_of(folder, vkey)
    note = "" if since is None else since.read_text(encoding="utf-8")
    known = Known(
        since=_earlier(note, export, key) if note else None,
        since_note=note,
        witnesses=witness_policy(witnesses),
        candidate=None if policy is None else parse_candidate(parse_json(policy.read_bytes(), limit=16 << 20)),
    )
    gc.set_threshold(YOUNG_OBJECTS)
    with progress_bar(quiet=as_json) as progress:
        task = progress.add_task("replaying")
        verdict = replay(
            export.read,
            key,
            known=known,
            progress=lambda done, of: progress.update(task, completed=done, total=of),
            processes=processes or os.cpu_count() or 1,
        )
    if html is not None:
        html.write_text(_report(verdict, export, key), encoding="utf-8")
    print_json(asdict(verdict)) if as_json else show_verdict(verdict)
    sys.exit(0 if verdict.ok else 5 if verdict.mismatches else INCOMPLETE)


@audit.command("compare")
@click.argument("left", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("right", type=click.Path(path_type=Path, exists=True, file_okay=False))
@vkey_option
@witnesses_option
@json_option
def audit_compare(left: Path, right: Path, vkey: str | None, witnesses: Path | None, as_json: bool) -> None:
    """Say whether two exports are of one log, and if not, who signed both: two auditors who compare find a split view.

    Exits 0 if one export is a beginning of the other, 5 if not.

    \b
    Example: sandbox audit compare ./log ./log-of-the-other-auditor --witnesses trusted.policy
    """
    found = compare(_export(left), _export(right), _key_of(left, vkey), witness_policy(witnesses))
    if as_json:
        print_json({"ok": not found, "mismatches": [asdict(mismatch) for mismatch in found]})
    elif found:
        table(("entry", "kind", "what"), [(m.index, m.kind, m.what) for m in found], title="The log signed two histories")
    else:
        click.echo("both exports are of one log")
    sys.exit(5 if found else 0)


def _export(folder: Path) -> Export:
    return Export(read=lambda path: (folder / path).read_bytes())


def _key_of(folder: Path, vkey: str | None) -> LogKey:
    return LogKey.parse((vkey or read_text(folder / "log.vkey")).strip())


def witness_policy(file: Path | None) -> WitnessPolicy | None:
    """The witnesses' policy in a file; None where no file is given. Raises Malformed."""
    return None if file is None else parse_policy(read_text(file))


def _report(verdict: Verdict, export: Export, key: LogKey) -> str:
    root = ""
    with suppress(Malformed, Tampered):
        root = open_with(export.checkpoint(), export.log_keys(key)).root.hex()
    return render_report(verdict, origin=key.name, vkey=key.vkey, root=root, at=int(time.time()))


def _earlier(note: str, export: Export, key: LogKey) -> Checkpoint:
    """A checkpoint kept from earlier, signed with the log's key or with one before or after it."""
    return open_with(note, [key, *export.former_keys(key), *export.log_keys(key)[1:]])


def show_verdict(verdict: Verdict) -> None:
    """Print a verdict per promise and every mismatch."""
    table(("promise", "verdict"), verdict.promises.items(), title=f"Replay of {verdict.entries} entries")
    if verdict.mismatches:
        table(("entry", "kind", "what"), [(m.index, m.kind, m.what) for m in verdict.mismatches], title="Mismatches")
    if verdict.differences is not None:
        rows = [
            (d.index, d.job, "allowed" if d.logged else "denied", "allows" if d.candidate else "denies", "\n".join(d.why))
            for d in verdict.differences
        ]
        table(("entry", "job", "logged", "candidate", "because"), rows, title=f"{len(rows)} decisions would differ")
    if verdict.reading is not None:
        _show_reading(verdict.reading)
    for name, at in sorted(verdict.witnesses.items()):
        click.echo(f"cosigned by {name} at {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC")
    for note in verdict.notes:
        click.echo(f"note: {note}")
    if verdict.mismatches:
        click.echo("THE LOG DOES NOT REPLAY")
    else:
        click.echo("the log replays" if verdict.ok else "nothing contradicts the log, but not everything is open to this reader")


def _show_reading(reading: Reading) -> None:
    """Print whose credential made the export, under which scopes, and what was closed to it."""
    under = "".join(f", scope {scope.sequence} of {scope.owner} (entry {scope.index})" for scope in reading.scopes)
    click.echo(f"read by {reading.reader} at {datetime.fromtimestamp(reading.at, UTC):%Y-%m-%d %H:%M:%S} UTC{under}")
    if reading.closed:
        rows = [(item.entries, item.kind, item.agreement[:19], "\n".join(item.why)) for item in reading.closed]
        table(("entries", "kind", "agreement", "because"), rows, title="Not opened to this reader")


def read_text(path: Path) -> str:
    """A text file of an export. Raises Malformed if it is missing."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Malformed(f"the export has no {path.name}") from error

"""`sandbox enclave measure` and `appraise`: reference values, and judging evidence with nothing but files."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enclaves.kit.measure import checkout_root, file_digests
from policies.attestation import code_measurement
from policies.errors import EvidenceRejected, Malformed
from sandbox.cli.composing import composed
from sandbox.cli.show import json_option, print_json, table

if TYPE_CHECKING:
    from enclaves.kit.attestation.platform import PlatformEvidence

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_MOST = 1 << 20


@click.command()
@click.option("--root", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Another checkout than this one.")
@click.option("--files", "with_files", is_flag=True, help="Also list the measured files with their digests.")
@click.option("--publish", is_flag=True, help="Write it into the log of the service on this machine, for providers to compare.")
@json_option
def measure(root: Path | None, with_files: bool, publish: bool, as_json: bool) -> None:
    """Print the measurement of a checkout: the reference value that providers put into their terms.

    It is the same on every machine: order, times, rights and line ends of the files do not count.

    \b
    Example: sandbox enclave measure
    """
    try:
        files = file_digests(root or checkout_root())
    except OSError as error:
        raise Malformed(f"{root} is no checkout of this project") from error
    value = code_measurement(files)
    entry = _publish(files) if publish else None
    if as_json:
        print_json({"measurement": value} | ({"files": files} if with_files else {}) | ({"entry": entry} if publish else {}))
        return
    if with_files:
        table(("file", "SHA-256"), files.items())
    click.echo(value + (f" stands in the log as entry {entry}" if publish else ""))


def _publish(files: dict[str, str]) -> int:
    from sandbox.exchange.measuring import publish_measurement

    return publish_measurement(composed(), files)


class _Several(click.Command):
    """Takes several values after one `--chain`, up to the next option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        chain = False
        for word in args:
            if word.startswith("-"):
                chain = word == "--chain"
                spread.append(word)
            elif chain and spread[-1] != "--chain":
                spread += ["--chain", word]
            else:
                spread.append(word)
        return super().parse_args(ctx, spread)


@click.command(cls=_Several)
@click.option("--kind", required=True, help="amd-sev-snp, intel-tdx or aws-nitro.")
@click.option("--evidence", type=_FILE, required=True, help="Report, quote or attestation document, as the TEE gives it.")
@click.option(
    "--chain", type=_FILE, multiple=True, help="AMD's certificates, PEM or DER: signer, intermediate, root; others carry theirs. Repeat."
)
@click.option("--collateral", type=_FILE, help="Intel's collateral, JSON; AMD's revocation lists, PEM or DER.")
@click.option("--at", required=True, help="Time at which everything has to be valid: 2026-01-31T00:00:00Z, or seconds since 1970.")
@click.option("--measurement", multiple=True, help="Accepted reference value (sha256:...). May be repeated; without, any is accepted.")
@click.option("--bound", help="The 64 bytes that the evidence must bind, in hex.")
@click.option("--require", is_flag=True, help="End with 3 where the evidence is not accepted.")
@json_option
def appraise(
    kind: str,
    evidence: Path,
    chain: tuple[Path, ...],
    collateral: Path | None,
    at: str,
    measurement: tuple[str, ...],
    bound: str | None,
    require: bool,
    as_json: bool,
) -> None:
    """Judge evidence of a TEE: whether it is genuine, and whether the default policy accepts it.

    The default policy refuses debug mode, migration, empty measurements, bytes that nothing signs, and Intel platforms that are not up to
    date. `claims` are an EAR claims set. The command ends with 0 whatever it found, with 2 if what it was given is no file, time or value.

    \b
    Example: sandbox enclave appraise --kind aws-nitro --evidence document.cbor --at 2026-01-31T00:00:00Z --json
    """
    from enclaves.kit.attestation.platform import PlatformEvidence

    if kind not in ("amd-sev-snp", "intel-tdx", "aws-nitro"):
        raise Malformed("must be amd-sev-snp, intel-tdx or aws-nitro", where="--kind")
    given = PlatformEvidence(
        kind=kind,  # type: ignore[arg-type]
        document=_read(evidence),
        chain=tuple(map(_read, chain)),
        collateral=None if collateral is None else _read(collateral),
    )
    if bound is not None and not re.fullmatch("(?:[0-9a-fA-F]{2})+", bound):
        raise Malformed("must be bytes in hex", where="--bound")
    if any(not re.fullmatch("sha256:[0-9a-f]{64}", value) for value in measurement):
        raise Malformed("must be a reference value, sha256: and 64 hex digits", where="--measurement")
    answer = _appraised(given, _seconds(at), measurement, bound)
    if as_json:
        print_json(answer)
    else:
        words = ("genuine" if answer["genuine"] else "NOT genuine", "accepted" if answer["accepted"] else "refused")
        click.echo(", ".join(words) + (f": {answer['reason']}: {answer['message']}" if answer["reason"] else ""))
    if require and not answer["accepted"]:
        sys.exit(3)


def _appraised(evidence: PlatformEvidence, at: float, measurements: tuple[str, ...], bound: str | None) -> dict[str, Any]:
    from enclaves.kit.attestation.platform import verify_platform
    from policies.attestation import refusal

    try:
        result = verify_platform(evidence, at)
    except EvidenceRejected as error:
        return {"genuine": False, "accepted": False, "reason": error.code, "message": error.message, "claims": {}}
    refused = refusal(result, measurements=measurements or None)
    if refused is None and bound is not None and result.bound != bound.lower():
        refused = ("key-binding", "the evidence binds other data")
    reason, message = refused or (None, None)
    return {"genuine": True, "accepted": refused is None, "reason": reason, "message": message, "claims": result.ear(int(at))}


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MOST + 1)
    if len(data) > _MOST:
        raise Malformed(f"{path.name} is larger than 1 MiB, which no evidence is")
    return data


def _seconds(text: str) -> float:
    try:
        found = datetime.fromisoformat(text) if not _is_number(text) else datetime.fromtimestamp(float(text), UTC)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise Malformed("must be a UTC time like 2026-01-31T00:00:00Z, or seconds since 1970", where="--at") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""`sandbox receipt`: verifying how a job or an encrypted scoring ended, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias, cast

import click

from policies.agreement import Agreement
from policies.canonical import parse_json
from policies.codec import decode
from policies.errors import Malformed
from policies.odrl import parse_agreement
from policies.privacy import PARAMETERS
from policies.scorer import ScoreReturn, ScoreStatement
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.joint_receipt import JointReceipt, verify_joint_receipt
from sandbox.audit.receipt import Receipt, verify_receipt
from sandbox.audit.scoring_receipt import ScoreReceipt, verify_score_receipt
from sandbox.audit.tlog_proof import TlogProof, parse_proof, verify_proof
from sandbox.cli.audit import read_text, witness_policy, witnesses_option
from sandbox.cli.show import client_of, json_option, print_json, table

Verifiable: TypeAlias = Receipt | JointReceipt | ScoreReceipt


@click.group()
def receipt() -> None:
    """Receipts: of releases, joint totals and encrypted scorings."""


@receipt.command("verify")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--agreement", "agreement_file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The agreement document.")
@click.option("--home", "home_folder", type=click.Path(path_type=Path), envvar="SANDBOX_HOME", help="Or a home that signed it.")
@click.option(
    "--sealed",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The sealed release, or the answer to encrypted rows, too.",
)
@json_option
def receipt_verify(file: Path, agreement_file: Path | None, home_folder: Path | None, sealed: Path | None, as_json: bool) -> None:
    """Verify a receipt offline against the agreement that it is under.

    \b
    Example: sandbox receipt verify receipt.json --home ~/institute
    """
    from sandbox.party.kept import kept_agreement

    parsed = _parsed(file)
    if agreement_file is not None:
        agreement = parse_agreement(parse_json(agreement_file.read_bytes(), limit=16 << 20))
    elif home_folder is not None:
        agreement = kept_agreement(client_of(home_folder).home, agreement_of(parsed))
    else:
        raise Malformed("give the agreement by --agreement or --home")
    contents = None if sealed is None else sealed.read_bytes()
    facts = _verified(parsed, agreement, contents)
    print_json(facts | {"ok": True}) if as_json else table(("", ""), facts.items(), title="The receipt holds")


def _parsed(file: Path) -> Verifiable:
    return cast(Verifiable, decode(cast(Any, Verifiable), parse_json(file.read_bytes(), limit=16 << 20)))


def agreement_of(parsed: Verifiable) -> str:
    """Digest of the agreement that a receipt says it is under. Nothing is verified by that."""
    return str(parsed.request.body["agreement"]) if isinstance(parsed, ScoreReceipt) else parsed.grant.agreement


def _verified(parsed: Verifiable, agreement: Agreement, contents: bytes | None) -> dict[str, object]:
    if isinstance(parsed, ScoreReceipt):
        return _score_facts(parsed, agreement, contents)
    return _joint_facts(parsed, agreement, contents) if isinstance(parsed, JointReceipt) else _facts(parsed, agreement, contents)


def _score_facts(parsed: ScoreReceipt, agreement: Agreement, answer: bytes | None) -> dict[str, object]:
    verified = verify_score_receipt(parsed, agreement, answer)
    request = verified.request
    return {
        "scoring": verified.statement.scoring,
        "outcome": _outcome(verified.statement),
        "entry": parsed.index,
        "log": f"{verified.checkpoint.origin}, {verified.checkpoint.size} entries",
        "model": request.model,
        "rows": f"{request.rows} of {request.consumer}",
    }


def _outcome(statement: ScoreStatement | ScoreReturn) -> str:
    if isinstance(statement, ScoreReturn):
        return f"returned: {statement.reason}"
    return "answered" if statement.scores else f"refused: {statement.refused}"


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


@receipt.command("tlog-proof")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
def receipt_tlog_proof(file: Path, target: Path) -> None:
    """Write the inclusion proof of a receipt to TARGET as a C2SP tlog-proof, and the entry that it is of beside it (`.entry`).

    Whoever has both needs the log's verifier key alone, and no software of this project, to know that the log holds the outcome.

    \b
    Example: sandbox receipt tlog-proof receipt.json release.tlog-proof
    """
    parsed = _parsed(file)
    proof = TlogProof(index=parsed.index, proof=tuple(map(bytes.fromhex, parsed.proof)), note=parsed.checkpoint)
    target.write_text(proof.render(), encoding="utf-8")
    target.with_suffix(".entry").write_bytes(parsed.entry.encode())
    click.echo(f"{target} proves that {target.with_suffix('.entry')} is entry {parsed.index}")


@receipt.command("verify-proof")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--entry", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True, help="The bytes of the entry.")
@click.option("--vkey", required=True, help="The log's verifier key, from a source that you trust.")
@witnesses_option
@json_option
def receipt_verify_proof(file: Path, entry: Path, vkey: str, witnesses: Path | None, as_json: bool) -> None:
    """Verify a C2SP tlog-proof: that the log holds an entry, under a checkpoint cosigned as the policy asks.

    \b
    Example: sandbox receipt verify-proof release.tlog-proof --entry release.entry --vkey VKEY --witnesses trusted.policy
    """
    proof, policy = parse_proof(read_text(file)), witness_policy(witnesses)
    checkpoint = verify_proof(proof, entry.read_bytes(), LogKey.parse(vkey), policy)
    facts = {"entry": proof.index, "log": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}
    facts |= {"cosigned": {} if policy is None else policy.cosigned(proof.note)}
    print_json(facts | {"ok": True}) if as_json else table(("", ""), facts.items(), title="The proof holds")

"""`sandbox party keys`, `approvals`, `requests`, `approve`, `refuse` and `pins`: what a provider decides of its keys at home."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policies.errors import Malformed
from sandbox.cli.show import client_of, home_of, home_option, json_option, passphrase_file, print_json, table

if TYPE_CHECKING:
    from policies.privacy import Loss

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def _said(value: object, line: str, as_json: bool) -> None:
    print_json(value) if as_json else click.echo(line)


@click.group()
def keys() -> None:
    """The keys of one's own data: what is kept, withdrawn or destroyed, and where the key that wraps them lies."""


@keys.command("list")
@home_option
@click.option("--dataset", help="Only this one's.")
@json_option
def keys_list(home_folder: Path, dataset: str | None, as_json: bool) -> None:
    """List the encrypted files whose column keys this home has or had.

    \b
    Example: sandbox party keys list --home ~/insurer
    """
    from sandbox.party.keeping import kept_versions

    found = kept_versions(home_of(home_folder), dataset)
    if as_json:
        print_json([asdict(item) for item in found])
    else:
        table(("dataset", "version", "state", "file"), [(i.dataset, i.version, i.state, i.file_digest[:23]) for i in found])


@keys.command("withdraw")
@home_option
@click.argument("dataset")
@click.option("--version", type=click.IntRange(1), help="Only this version; without, all of them, also later ones.")
@json_option
def keys_withdraw(home_folder: Path, dataset: str, version: int | None, as_json: bool) -> None:
    """Release no key of DATASET from the next run on. Whoever has keys of a run under way keeps them until it ends.

    \b
    Example: sandbox party keys withdraw --home ~/insurer insurer.plans
    """
    from sandbox.party.keeping import withdraw

    withdraw(home_of(home_folder), dataset, version)
    _said({"dataset": dataset, "version": version, "state": "withdrawn"}, f"{dataset} is withdrawn", as_json)


@keys.command("restore")
@home_option
@click.argument("dataset")
@json_option
def keys_restore(home_folder: Path, dataset: str, as_json: bool) -> None:
    """Release keys of DATASET again, as its agreements say.

    \b
    Example: sandbox party keys restore --home ~/insurer insurer.plans
    """
    from sandbox.party.keeping import restore

    restore(home_of(home_folder), dataset)
    _said({"dataset": dataset, "state": "kept"}, f"{dataset} is released again", as_json)


@keys.command("destroy")
@home_option
@click.argument("dataset")
@click.option("--version", type=click.IntRange(1), required=True, help="The version whose keys are to be destroyed.")
@click.option("--yes", is_flag=True, help="Do it: nobody, you included, can ever open the encrypted file again.")
@json_option
def keys_destroy(home_folder: Path, dataset: str, version: int, yes: bool, as_json: bool) -> None:
    """Destroy the keys of one version of DATASET, and state it, signed, in the log. If it is interrupted, run it again.

    \b
    Example: sandbox party keys destroy --home ~/insurer insurer.plans --version 1 --yes
    """
    from sandbox.party.keeping import destroy

    if not yes:
        raise Malformed("destroying keys cannot be undone; give --yes", where="--yes")
    statement = destroy(client_of(home_folder), dataset, version)
    _said(asdict(statement), f"the keys of version {version} of {dataset} are destroyed", as_json)


@keys.command("reencrypt")
@home_option
@click.argument("dataset")
@json_option
def keys_reencrypt(home_folder: Path, dataset: str, as_json: bool) -> None:
    """Publish the newest version of DATASET again under fresh keys, as the next version. Destroy the one before when no job needs it.

    \b
    Example: sandbox party keys reencrypt --home ~/insurer insurer.plans
    """
    from sandbox.party.keeping import reencrypt

    version = reencrypt(client_of(home_folder), dataset)
    _said(version, f"version {version['version']} of {dataset} has fresh keys", as_json)


@keys.command("protect")
@home_option
@click.option("--passphrase-file", type=_FILE, help="File whose first line is the new passphrase; without, it is asked for.")
@json_option
def keys_protect(home_folder: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Put the wrapping key under a passphrase (scrypt), or under another one. `sandbox party broker` then asks for it.

    \b
    Example: sandbox party keys protect --home ~/insurer
    """
    from sandbox.party.rewrapping import protect

    protect(home_of(home_folder), _new_passphrase(passphrase_file))
    _said({"wrapping_key": "passphrase"}, "the wrapping key is under a passphrase", as_json)


@keys.command("unprotect")
@home_option
@json_option
def keys_unprotect(home_folder: Path, as_json: bool) -> None:
    """Keep the wrapping key without a passphrase again.

    \b
    Example: sandbox party keys unprotect --home ~/insurer
    """
    from sandbox.party.rewrapping import unprotect

    unprotect(home_of(home_folder))
    _said({"wrapping_key": "file"}, "the wrapping key is in a file", as_json)


@keys.command("rewrap")
@home_option
@json_option
def keys_rewrap(home_folder: Path, as_json: bool) -> None:
    """Replace the wrapping key by a fresh one, under the same passphrase if there is one. The data stay as they are.

    \b
    Example: sandbox party keys rewrap --home ~/insurer
    """
    from sandbox.party.rewrapping import rewrap

    home = home_of(home_folder)
    count = rewrap(home, home.passphrase)
    _said({"files": count}, f"the column keys of {count} files are wrapped with a fresh key", as_json)


@keys.command("move-to-token")
@home_option
@click.option("--module", type=_FILE, required=True, help="The maker's PKCS#11 library.")
@click.option("--token", required=True, help="Label of the token.")
@click.option("--key", default="sandbox", show_default=True, help="Label of the key; it is made if there is none.")
@json_option
def keys_move_to_token(home_folder: Path, module: Path, token: str, key: str, as_json: bool) -> None:
    """Keep the wrapping key in a PKCS#11 token, which never gives it out. Its PIN is asked for in the passphrase's place.

    \b
    Example: sandbox party keys move-to-token --home ~/insurer --module /usr/lib/softhsm/libsofthsm2.so --token insurer
    """
    from sandbox.party.rewrapping import move_to_token
    from sandbox.party.token import TokenKey

    home = home_of(home_folder)
    count = move_to_token(home, TokenKey(module=str(module), token=token, key=key, pin=home.passphrase))
    _said({"files": count}, f"the column keys of {count} files are wrapped by the token", as_json)


def _new_passphrase(path: Path | None) -> str:
    if path is not None:
        return passphrase_file(path)
    return str(click.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True))


@click.group()
def approvals() -> None:
    """Standing approvals, for brokers that ask: what they cover runs without a person."""


@approvals.command("add")
@home_option
@click.option("--agreement", help="Only under the agreement of this digest.")
@click.option("--consumer", help="Only for this participant.")
@click.option("--purpose", help="Only for this purpose.")
@click.option("--dataset", "datasets", multiple=True, help="Only runs that read none of your own data but this. May be repeated.")
@click.option("--epsilon", help="Only up to this loss.")
@click.option("--rho", help="Or up to this one, in zCDP.")
@click.option("--delta0", default="0", show_default=True, help="Together with up to this delta0.")
@click.option("--until", help="Only before this UTC time: 2026-12-31T00:00:00Z.")
@json_option
def approvals_add(
    home_folder: Path,
    agreement: str | None,
    consumer: str | None,
    purpose: str | None,
    datasets: tuple[str, ...],
    epsilon: str | None,
    rho: str | None,
    delta0: str,
    until: str | None,
    as_json: bool,
) -> None:
    """Approve ahead every run that fulfils all given conditions; agreement and evidence are judged all the same.

    \b
    Example: sandbox party approvals add --home ~/insurer --consumer institute --purpose health-economics --epsilon 0.5
    """
    from policies.codec import encode
    from policies.odrl import parse_timestamp
    from sandbox.party.approvals import add_standing

    conditions = {
        "agreement": agreement,
        "consumer": consumer,
        "purpose": purpose,
        "datasets": datasets,
        "loss": _loss(epsilon, rho, delta0),
    }
    ends = None if until is None else parse_timestamp(until, "--until")
    added = add_standing(home_of(home_folder), **conditions, until=ends)
    _said(encode(added), f"{added.id} stands", as_json)


def _loss(epsilon: str | None, rho: str | None, delta0: str) -> Loss | None:
    from policies.privacy import parse_loss

    if epsilon is not None and rho is not None:
        raise Malformed("give either --epsilon or --rho")
    if epsilon is not None:
        return parse_loss("pure", epsilon, delta0, "--epsilon")
    return None if rho is None else parse_loss("zcdp", rho, delta0, "--rho")


@approvals.command("list")
@home_option
@json_option
def approvals_list(home_folder: Path, as_json: bool) -> None:
    """List the standing approvals.

    \b
    Example: sandbox party approvals list --home ~/insurer
    """
    from policies.codec import encode
    from sandbox.party.approvals import standing_approvals

    found = standing_approvals(home_of(home_folder))
    if as_json:
        print_json(encode(found))
        return
    rows = []
    for item in found:
        until = "" if item.until is None else f"until {datetime.fromtimestamp(item.until, UTC):%Y-%m-%dT%H:%M:%SZ}"
        loss = "" if item.loss is None else f"up to {item.loss.text}"
        said = (item.agreement, item.consumer, item.purpose, ", ".join(item.datasets), loss, until)
        rows.append((item.id, "; ".join(part for part in said if part) or "everything"))
    table(("id", "covers"), rows)


@approvals.command("remove")
@home_option
@click.argument("name")
@json_option
def approvals_remove(home_folder: Path, name: str, as_json: bool) -> None:
    """Take the standing approval NAME back.

    \b
    Example: sandbox party approvals remove --home ~/insurer approval-0a1b2c3d
    """
    from sandbox.party.approvals import remove_standing

    remove_standing(home_of(home_folder), name)
    _said({"removed": name}, f"{name} is taken back", as_json)


@click.command()
@home_option
@click.option("--all", "everything", is_flag=True, help="Also those that were answered.")
@json_option
def requests(home_folder: Path, everything: bool, as_json: bool) -> None:
    """List the runs that a broker holds for a person. What is shown is the service's word; it is verified before a key leaves.

    \b
    Example: sandbox party requests --home ~/insurer
    """
    from sandbox.party.approvals import held

    found = held(home_of(home_folder), None if everything else "waiting")
    if as_json:
        print_json([{"job": job, **kept} for job, kept in found.items()])
        return
    rows = [
        (job, k["answer"], f"{k['shown']['consumer']}: {k['shown']['purpose']}", k["shown"]["loss"], k["shown"]["sql"])
        for job, k in found.items()
    ]
    table(("job", "", "who and why", "loss", "query"), rows)


@click.command()
@home_option
@click.argument("job")
@json_option
def approve(home_folder: Path, job: str, as_json: bool) -> None:
    """Let the held run JOB have keys, if agreement and evidence allow it.

    \b
    Example: sandbox party approve --home ~/insurer job-0123456789abcdef0123
    """
    from sandbox.party.approvals import answer_held

    answer_held(home_of(home_folder), job, "approved")
    _said({"job": job, "answer": "approved"}, f"{job} is approved", as_json)


@click.command()
@home_option
@click.argument("job")
@json_option
def refuse(home_folder: Path, job: str, as_json: bool) -> None:
    """Refuse keys to the held run JOB; the log says that a person refused.

    \b
    Example: sandbox party refuse --home ~/insurer job-0123456789abcdef0123
    """
    from sandbox.party.approvals import answer_held

    answer_held(home_of(home_folder), job, "refused")
    _said({"job": job, "answer": "refused"}, f"{job} is refused", as_json)


@click.command()
@home_option
@click.option("--add", help="Pin this measurement (sha256:...).")
@click.option("--remove", help="Take the pin of this measurement back.")
@json_option
def pins(home_folder: Path, add: str | None, remove: str | None, as_json: bool) -> None:
    """List the measurements that this home has pinned; with pins, no key goes to other code, whatever agreements accept besides.

    \b
    Example: sandbox party pins --home ~/insurer --add "$(sandbox enclave measure)"
    """
    from sandbox.party.pins import pin, pinned, unpin

    home = home_of(home_folder)
    if add is not None:
        pin(home, add)
    if remove is not None:
        unpin(home, remove)
    found = pinned(home)
    _said(list(found), "\n".join(found) or "nothing is pinned: the agreements alone count", as_json)

"""`sandbox admin witnesses` and `cosign`: whose cosignatures the service keeps beside its checkpoints, and asking for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from policies.errors import Conflict, NotFound
from sandbox.audit import merkle
from sandbox.audit.checkpoint import open_checkpoint
from sandbox.cli.composing import composed
from sandbox.cli.show import json_option, print_json, table


@click.command("witnesses")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@json_option
def admin_witnesses(file: Path | None, as_json: bool) -> None:
    """Keep and serve cosignatures by the witnesses of the policy in FILE (C2SP tlog-policy); without FILE, show the policy in force.

    \b
    Example: sandbox admin witnesses ./witnesses.policy
    """
    from sandbox.exchange.cosigning import set_witnesses, witnesses_of

    host = composed()
    if file is not None:
        set_witnesses(host, file.read_text(encoding="utf-8"))
    with host.store.reading() as tx:
        policy = witnesses_of(tx)
    host.store.close()
    if policy is None:
        raise NotFound("no witnesses are named")
    rows = [(name, witness.key.vkey, witness.url) for name, witness in policy.witnesses.items()]
    if as_json:
        print_json({"quorum": policy.describe(), "witnesses": [{"name": n, "vkey": key, "url": url} for n, key, url in rows]})
    else:
        table(("witness", "verifier key", "address"), rows, title=f"Quorum: {policy.describe()}")


@click.command("cosign")
@json_option
@click.pass_context
def admin_cosign(context: click.Context, as_json: bool) -> None:
    """Ask the named witnesses to cosign the newest checkpoint, and keep what they give. Run it as often as auditors should find one.

    Exits 0 if a quorum has cosigned, 4 if not yet.

    \b
    Example: sandbox admin cosign
    """
    from sandbox.exchange.cosigning import add_cosignatures, served_note, witnesses_of
    from sandbox.party.cosigning import gather

    host = composed()
    host.publish()

    def prove(old: int, new: int) -> Sequence[bytes]:
        with host.store.reading() as tx:
            return tx.over_nodes(lambda node: merkle.consistency_proof(old, new, node))

    with host.store.reading() as tx:
        policy, newest = witnesses_of(tx), tx.newest_checkpoint()
        if policy is None or newest is None:
            raise Conflict("name the witnesses first: sandbox admin witnesses FILE", code="no-witnesses")
        served = served_note(tx, *newest)
    note, refused = gather(served, open_checkpoint(served, host.log_identity), policy, prove)
    kept = add_cosignatures(host, note) if policy.cosigned(note) else None
    quorum = kept is not None and kept.quorum
    if as_json:
        print_json({"size": newest[0], "witnesses": list(kept.witnesses) if kept else [], "quorum": quorum, "refused": refused})
    else:
        click.echo(f"{newest[0]} entries, cosigned by {', '.join(kept.witnesses) if kept else 'nobody'}; asked for: {policy.describe()}")
        for name, why in refused.items():
            click.echo(f"{name}: {why}")
    host.store.close()
    context.exit(0 if quorum else 4)

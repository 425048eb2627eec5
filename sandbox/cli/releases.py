"""Releases, and the noise that they will have, as a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from policies.acts import attributions_of, deletion_days
from policies.codec import decode, encode
from policies.privacy import SCALE_UNIT, units_to_decimal
from policies.schedule import Statistic
from policies.statement import Release
from sandbox.cli.show import print_json, table

if TYPE_CHECKING:
    from sandbox.audit.joint_receipt import AnyReceipt
    from sandbox.party.client import Client
    from sandbox.party.verify import OpenedRelease


def show_verified(client: Client, release: OpenedRelease, receipt: AnyReceipt, *, as_json: bool) -> None:
    """Print a release whose receipt was verified, with where it stands in the log and what the agreement asks of its recipient."""
    from policies.joint_documents import JointRelease
    from sandbox.audit.receipt import Receipt

    duties = duties_of(client, receipt)
    repeated = receipt.repeated if isinstance(receipt, Receipt) else None
    if as_json:
        again = None if repeated is None else {"index": repeated.index}
        print_json({"release": encode(release), "job": receipt.grant.job, "index": receipt.index, "repeated": again} | duties)
        return
    show_release(release)
    if isinstance(release, Release) and release.scores is not None:
        table(("row", release.scores.output), [(score.row, ", ".join(score.values)) for score in release.scores.scores])
    if isinstance(release, (Release, JointRelease)) and release.model is not None:
        trained, name = release.model, receipt.grant.job
        click.echo(f"model {trained.digest}, {trained.model.size} parameters; `sandbox model card {name} --onnx FILE` keeps it")
    note = f"{receipt.grant.job}; entry {receipt.index}; {release.loss.text}"
    if isinstance(release, JointRelease):
        click.echo(f"{note}; {release.noise} noise; contributors {', '.join(release.contributors)}; receipt, log and signatures verified")
        show_duties(duties)
        return
    note += f"; enclave {release.enclave_kind}"
    if repeated is not None:
        note += f"; handed out again by entry {repeated.index} without a charge"
    click.echo(note + "; receipt, log and enclave signature verified")
    show_duties(duties)


def duties_of(client: Client, receipt: AnyReceipt) -> dict[str, Any]:
    """What the agreement asks of the recipient of a release; empty where it asks for nothing."""
    from sandbox.party.kept import kept_agreement

    agreement, sources = kept_agreement(client.home, receipt.grant.agreement), receipt.grant.plan.sources
    words, days = attributions_of(agreement, sources), deletion_days(agreement, sources)
    return ({"attribution": list(words)} if words else {}) | ({"delete_after_days": days} if days is not None else {})


def show_duties(duties: dict[str, Any]) -> None:
    """Print the words that stand by a release, and how long it may be kept."""
    for words in duties.get("attribution", ()):
        click.echo(f"attribution: {words}")
    if "delete_after_days" in duties:
        click.echo(f"delete within {duties['delete_after_days']} days of the release, then `sandbox job delete`")


def show_release(release: OpenedRelease) -> None:
    """Print a release: one row per cell, value and 95 % interval per figure."""
    names = next(([figure.name for figure in cell.figures] for cell in release.cells if cell.figures), [])
    rows = []
    for cell in release.cells:
        figures = [f"{figure.value}  [{figure.low}, {figure.high}]" for figure in cell.figures]
        rows.append([*cell.keys, *(figures or [f"below minimum group {release.minimum_group}"] * max(1, len(names)))])
    table((*release.key_names, *(names or ["figures"])), rows)


def statistics_table(statistics: list[dict[str, Any]]) -> None:
    """Print the noise that each statistic of a grant gets."""
    rows = [
        (s.name, s.measured.quantity, s.mechanism, units_to_decimal(s.amount, 9), f"{s.scale / SCALE_UNIT * s.measured.step:.2f}")
        for s in (decode(Statistic, statistic) for statistic in statistics)
    ]
    table(("statistic", "adds up", "noise", "part of the loss", "noise scale"), rows)


def outputs_table(outputs: list[dict[str, Any]]) -> None:
    """Print the noise that each output will have."""
    rows = [
        (o["name"], o["mechanism"], o["scale"], o["half_width"], "any" if o["rows"] is None else f"{o['rows']} a cell") for o in outputs
    ]
    if rows:
        table(("output", "noise", "scale", "95 % half-width", "rows assumed"), rows)


def show_changes(explanation: dict[str, Any]) -> None:
    """The smallest changes that would pass, and what none passes."""
    for origin in explanation["origins"]:
        click.echo(f"not allowed: {origin}")
    if explanation["changes"]:
        sufficient = "what would pass" if not explanation["remains"] else "what would help"
        click.echo(f"{sufficient}: {'; '.join(change['text'] for change in explanation['changes'])}")
    for item in explanation["remains"]:
        click.echo(
            f"no change of the request passes {item['rule']} ({item['dataset'] or 'the query'}): {item['message']}; {item['by']} can act"
        )

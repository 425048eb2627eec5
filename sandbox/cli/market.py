"""`sandbox offer` and `sandbox agreement`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enclaves.kit.measure import checkout_root, measurement
from policies.agreement import Agreement, Terms
from policies.codec import decode
from policies.declaration import Declaration
from policies.errors import Conflict, Tampered
from policies.odrl import agreement_digest, parse_offer, timestamp
from sandbox.cli.acting import agreement_paid, agreement_tighten
from sandbox.cli.show import client_of, home_option, json_option, print_json, spoken, table
from sandbox.party.agreeing import compose, fingerprints, key_states
from sandbox.party.drafting import draft_offer
from sandbox.party.forms import declaration_of, pool_of, read_form, scorer_of
from sandbox.party.term_forms import offer_of

if TYPE_CHECKING:
    from sandbox.party.client import Client


@click.group()
def offer() -> None:
    """A provider's terms on a dataset."""


@offer.command("draft")
@click.option(
    "--declaration", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True, help="YAML form of the declaration."
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the form to this new file; else it is printed.")
def offer_draft(declaration: Path, output: Path | None) -> None:
    """Write an offer form for a declared dataset that allows nothing yet, with comments on what to fill in.

    \b
    Example: sandbox offer draft --declaration plans.yaml --output plans.offer.yaml
    """
    text = draft_offer(declaration_of(read_form(declaration)), datetime.now(UTC).date())
    if output is None:
        click.echo(text, nl=False)
        return
    if output.exists():
        raise Conflict(f"{output} exists; name another file")
    output.write_text(text, encoding="utf-8")
    click.echo(f"{output}: a form that allows nothing yet; fill it in, then `sandbox offer make`", err=True)


@offer.command("make")
@home_option
@click.argument("form", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
def offer_make(home_folder: Path, form: Path, as_json: bool) -> None:
    """Sign and publish the offer that the YAML file FORM spells.

    \b
    Example: sandbox offer make --home ~/insurer plans.offer.yaml
    """
    client, value = client_of(home_folder), read_form(form)
    declared = decode(Declaration, client.dataset(str(value.get("dataset", "")))["signed"]["body"])
    record = client.offer(offer_of(value, declared, measurement(checkout_root())))
    print_json({"digest": record["digest"]}) if as_json else click.echo(record["digest"])


@offer.command("list")
@home_option
@json_option
def offer_list(home_folder: Path, as_json: bool) -> None:
    """List all offers.

    \b
    Example: sandbox offer list --home ~/institute
    """
    records = client_of(home_folder).offers()
    if as_json:
        print_json(records)
        return
    rows = []
    for record in records:
        parsed = parse_offer(record["signed"]["body"])
        rows.append((record["digest"][:23], parsed.declaration.dataset, parsed.title, ", ".join(parsed.terms.assignees)))
    table(("offer", "dataset", "title", "may ask"), rows)


_REVOKED = ": this agreement starts no new job"


@click.group()
def agreement() -> None:
    """Terms that all parties sign."""


agreement.add_command(agreement_tighten)
agreement.add_command(agreement_paid)


@agreement.command("propose")
@home_option
@click.option("--uid", required=True, help="Short name: a-z, 0-9, _ and -.")
@click.option("--title", required=True, help="What the agreement is about, for people.")
@click.option("--offer", "offers", multiple=True, required=True, help="Digest of an offer; repeat for several.")
@click.option("--auditor", "auditors", multiple=True, help="Participant who may read everything about it; repeat for several.")
@click.option("--pool", "pools", type=click.Path(path_type=Path, exists=True, dir_okay=False), multiple=True, help="YAML form of a pool.")
@click.option(
    "--scorer", "scorers", type=click.Path(path_type=Path, exists=True, dir_okay=False), multiple=True,
    help="YAML form of a model that scores encrypted rows.",
)  # fmt: skip
@click.option("--jurisdiction", "countries", multiple=True, help="PARTY=CC: under whose law a party is (ISO 3166-1); repeat for several.")
@json_option
def agreement_propose(
    home_folder: Path,
    uid: str,
    title: str,
    offers: tuple[str, ...],
    auditors: tuple[str, ...],
    pools: tuple[Path, ...],
    scorers: tuple[Path, ...],
    countries: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compose an agreement from offers and propose it to its parties.

    \b
    Example: sandbox agreement propose --home ~/institute --uid study --title Study --offer sha256:... --offer sha256:... --auditor auditor
    """
    client = client_of(home_folder)
    joint, named = tuple(pool_of(read_form(path)) for path in pools), dict(item.partition("=")[::2] for item in countries)
    models = tuple(scorer_of(read_form(path)) for path in scorers)
    record = client.propose(compose(client, uid, title, list(offers), list(auditors), joint, named, models))
    print_json(record) if as_json else click.echo(record["digest"])


@agreement.command("list")
@home_option
@json_option
def agreement_list(home_folder: Path, as_json: bool) -> None:
    """List this participant's agreements.

    \b
    Example: sandbox agreement list --home ~/insurer
    """
    records = client_of(home_folder).agreements()
    if as_json:
        print_json(records)
        return
    rows = [(r["digest"], r["document"]["sb:title"], r["state"], ", ".join(r["waiting_for"])) for r in records]
    table(("agreement", "title", "state", "waits for"), rows)


@agreement.command("show")
@home_option
@click.argument("name")
@json_option
def agreement_show(home_folder: Path, name: str, as_json: bool) -> None:
    """Show what agreement NAME (a digest) says, with the fingerprints to compare before signing.

    \b
    Example: sandbox agreement show --home ~/insurer sha256:...
    """
    client = client_of(home_folder)
    parsed, record = client.agreement(name)
    states = _key_states(client, parsed)
    if as_json:
        print_json(record | {"fingerprints": fingerprints(parsed), "keys": states})
        return
    show_agreement(parsed)
    for party, state in states.items():
        if state:
            click.echo(f"note: the keys of {party} were {state} since{_REVOKED if state == 'revoked' else ''}")


@agreement.command("sign")
@home_option
@click.argument("name")
@json_option
def agreement_sign(home_folder: Path, name: str, as_json: bool) -> None:
    """Sign agreement NAME (a digest). Look at it first with `agreement show`, and compare the fingerprints with the other parties.

    \b
    Example: sandbox agreement sign --home ~/insurer sha256:...
    """
    client = client_of(home_folder)
    revoked = sorted(party for party, state in _key_states(client, client.agreement(name)[0]).items() if state == "revoked")
    if revoked:
        raise Conflict(f"the keys of {', '.join(revoked)} in this agreement were revoked; have it proposed anew", code="party-revoked")
    record = client.sign_agreement(name)
    waiting = ", ".join(record["waiting_for"])
    if as_json:
        print_json({"digest": name, "state": record["state"], "waiting_for": record["waiting_for"]})
    else:
        click.echo(f"signed; {'waiting for ' + waiting if waiting else 'the agreement is active'}")


def _key_states(client: Client, parsed: Agreement) -> dict[str, str]:
    """What has become of the parties' keys; where the log cannot be followed, that is said and nothing is known."""
    try:
        return key_states(client, parsed)
    except Tampered as error:
        click.echo(f"warning: the log does not follow from the one of this agreement: {error.message}", err=True)
        return {}


def show_agreement(parsed: Agreement) -> None:
    """Print an agreement for people: fingerprints first, then each provider's terms."""
    title = f"{parsed.title}\n{agreement_digest(parsed)}"
    rows = [(row["party"], row["roles"], spoken(row["signing"]), spoken(row["sealing"])) for row in fingerprints(parsed)]
    table(("party", "roles", "signing key", "sealing key"), rows, title=title)
    for terms in parsed.terms:
        table((f"terms on {terms.dataset}", ""), _terms_rows(terms, parsed), title=None)


def _unit(declaration: Declaration) -> str:
    if declaration.public:
        return "none: a public table, for which nothing is charged"
    groups = f", in at most {declaration.groups_per_unit} groups with {declaration.rows_per_group} rows each"
    bound = f"{declaration.unit} in {declaration.id_space}, at most {declaration.rows_per_unit} rows"
    return bound + (groups if declaration.groups_per_unit is not None else "")


def _loss_rows(terms: Terms, declaration: Declaration) -> list[tuple[str, str]]:
    if declaration.public:
        return []
    rows = [("loss per job / in total", f"{terms.job_loss.text} / {terms.total_loss.text}")]
    return rows + ([("loss per consumer", terms.consumer_loss.text)] if terms.consumer_loss is not None else [])


def _terms_rows(terms: Terms, parsed: Agreement) -> list[tuple[str, str]]:
    declaration = parsed.by_dataset[terms.dataset]
    rows = [
        ("may ask / receive", f"{', '.join(terms.assignees)} / {', '.join(terms.recipients)}"),
        ("purposes", ", ".join(terms.purposes)),
        ("valid", f"{timestamp(terms.not_before)} until {timestamp(terms.not_after)}"),
        ("privacy unit", _unit(declaration)),
        ("minimum group", str(terms.minimum_group)),
        *_loss_rows(terms, declaration),
        ("enclaves", f"{', '.join(terms.enclave_kinds)}; measurement {', '.join(m[:23] for m in terms.measurements)}"),
    ]
    if terms.isolation:
        rows.append(("isolation", ", ".join(terms.isolation)))
    rows += [(f"firmware of {floor.kind}", floor.text) for floor in terms.platforms]
    if "simulated" in terms.enclave_kinds:
        rows.append(("", "simulated evidence proves nothing about the machine: its operator is trusted with plaintext"))
    return rows + [(f"column {term.column}", ", ".join(term.operations)) for term in terms.columns]

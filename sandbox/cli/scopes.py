"""`sandbox scope`: what an auditor's credential opens, given and taken back by the providers that own the entries."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import click

from policies.agreement import MAX_TIME
from policies.audit_scope import OPENABLE, Openable, SignedAuditScope
from policies.codec import encode
from policies.errors import Malformed
from sandbox.cli.show import client_of, home_option, json_option, print_json, table

_TIME = click.DateTime(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"])
NOT_OPENED = 3
"""Exit code of an explanation that says no."""


@click.group()
def scope() -> None:
    """What an auditor's credential opens of a provider's entries. Every provider of an agreement decides for its own."""


auditor_option = click.option("--auditor", required=True, help="Whose credential; an admitted participant.")


@scope.command("grant")
@home_option
@click.argument("names", nargs=-1, required=True)
@auditor_option
@click.option("--openings", default="all", show_default=True, help=f"Kinds of entries by commas, of {', '.join(OPENABLE)}.")
@click.option("--from", "not_before", type=_TIME, help="Open nothing before this time (UTC).")
@click.option("--until", "not_after", type=_TIME, required=True, help="Open nothing from this time on (UTC).")
@json_option
def scope_grant(
    home_folder: Path, names: tuple[str, ...], auditor: str, openings: str, not_before: datetime | None, not_after: datetime, as_json: bool
) -> None:
    """Let an auditor open this provider's entries under the agreements NAMES. It replaces what was given to it before.

    An entry about the data of several providers opens once all of them have granted it; what one provider alone has signed opens with
    its own word. The grant is logged.

    \b
    Example: sandbox scope grant --home ~/insurer --auditor examiner --openings decided,charged --until 2027-01-01 sha256:...
    """
    from sandbox.party.scopes import give_scope

    client, kinds = client_of(home_folder), _kinds(openings)
    given = [give_scope(client, name, auditor, kinds, _seconds(not_after), _seconds(not_before) if not_before else 0) for name in names]
    print_json({"scopes": [encode(item) for item in given]}) if as_json else _show(given)


@scope.command("revoke")
@home_option
@click.argument("names", nargs=-1, required=True)
@auditor_option
@json_option
def scope_revoke(home_folder: Path, names: tuple[str, ...], auditor: str, as_json: bool) -> None:
    """Close this provider's entries under the agreements NAMES to an auditor, alone and at once. What it has read it keeps.

    An auditor that the agreement itself names loses what is this provider's, too.

    \b
    Example: sandbox scope revoke --home ~/insurer --auditor examiner sha256:...
    """
    from sandbox.party.scopes import take_back

    client = client_of(home_folder)
    given = [take_back(client, name, auditor) for name in names]
    print_json({"scopes": [encode(item) for item in given]}) if as_json else _show(given)


@scope.command("list")
@home_option
@click.argument("name")
@json_option
def scope_list(home_folder: Path, name: str, as_json: bool) -> None:
    """The scopes under agreement NAME in the order of the log; of an owner and an auditor the last one counts.

    A party reads and verifies them in its own copy of the log, an auditor sees those that it was given.

    \b
    Example: sandbox scope list --home ~/insurer sha256:...
    """
    from sandbox.party.scopes import scopes_under

    found = scopes_under(client_of(home_folder), name)
    print_json({"scopes": [encode(item) for item in found]}) if as_json else _show(found)


@scope.command("explain")
@home_option
@click.argument("index", type=click.IntRange(0))
@json_option
@click.pass_context
def scope_explain(context: click.Context, home_folder: Path, index: int, as_json: bool) -> None:
    """Say why entry INDEX is open to this auditor or not: every owner's finding, and the smallest change that would open it.

    Exits 0 if it is open, 3 if not.

    \b
    Example: sandbox scope explain --home ~/examiner 42
    """
    from sandbox.party.scopes import explained

    found = explained(client_of(home_folder), index)
    if as_json:
        print_json({"index": index, "decision": None if found is None else encode(found)})
    elif found is None:
        click.echo("no provider has given you a scope under the agreement of this entry")
    else:
        rows = [(item.owner, "opens" if item.allowed else "closed", item.message, item.remedy) for item in found.findings]
        table(("owner", "says", "because", "would open it"), rows, title=f"Entry {index} is {'open' if found.allowed else 'closed'}")
    context.exit(0 if found is not None and found.allowed else NOT_OPENED)


def _kinds(openings: str) -> tuple[Openable, ...]:
    if openings == "all":
        return OPENABLE
    kinds = tuple(part.strip() for part in openings.split(","))
    unknown = [kind for kind in kinds if kind not in OPENABLE]
    if unknown:
        raise Malformed(f"`{unknown[0]}` is no kind that a scope opens; kinds are {', '.join(OPENABLE)}", where="openings")
    return cast(tuple[Openable, ...], kinds)


def _seconds(at: datetime) -> int:
    return int(at.replace(tzinfo=UTC).timestamp())


def _show(found: list[SignedAuditScope] | tuple[SignedAuditScope, ...]) -> None:
    rows = [
        (item.owner, item.auditor, item.sequence, _words(item.openings), _day(item.not_before), _day(item.not_after))
        for item in (signed.scope for signed in found)
    ]
    table(("owner", "auditor", "number", "opens", "from", "until"), rows)


def _words(kinds: tuple[Openable, ...]) -> str:
    return "everything" if kinds == OPENABLE else ", ".join(kinds) or "nothing"


def _day(seconds: int) -> str:
    return "" if seconds in (0, MAX_TIME) else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"

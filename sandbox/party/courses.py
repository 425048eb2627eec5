"""How exchanges stood when a log ended, as far as this home followed it, and whether an epoch names them so.

Whoever takes part in an exchange has its document and folds its whole course. Others see from the headers alone what was proposed, handed
over and ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from enclaves.kit.acts import verify_exchange_act
from policies.codec import decode
from policies.errors import SandboxError
from policies.escrow import Acted, Course, Ended, Event, JobCharged, JobEnded, Reason, advance, at_epoch, begin
from policies.exchange import Exchange, SignedExchangeAct, exchange_digest
from policies.lineage import Epoch
from sandbox.party.followed import Followed
from sandbox.party.home import Home
from sandbox.party.kept import kept_agreement

_MADE_UP = "was never proposed in the log that ends"


@dataclass(frozen=True, kw_only=True, slots=True)
class Misnamed:
    """An exchange that an epoch names otherwise than it stood, or leaves out, and why this home says so."""

    exchange: str
    why: str


def exchange_file(name: str) -> str:
    """Where a home keeps the document of an exchange that it proposed or accepted."""
    return f"exchanges/{name.removeprefix('sha256:')}.json"


def misnamed(home: Home, epoch: Epoch, former: Followed, opened: dict[str, Course], now: int) -> tuple[Misnamed, ...]:
    """Return every exchange that an epoch names otherwise than this home saw it.

    Where the home has not seen the log's end, an exchange may have gone on behind what it saw, but nothing that was final may have changed.

    Args:
        former: the log that ends, as far as it was followed here. opened: how exchanges stood when that log began.
        now: this home's clock, seconds since 1970: a right that is over by now need not go on.
    """
    named = {item.exchange: item.course for item in epoch.exchanges}
    whole = former.frontier.size >= epoch.size > 0 and not former.partial
    found = []
    for name in sorted({*named, *former.exchanges}):
        rows = former.exchanges.get(name)
        if rows is None:
            why = _MADE_UP if whole else ""
        else:
            why = _differs(home, former, name, rows, named.get(name), opened.get(name), whole, now)
        if why:
            found.append(Misnamed(exchange=name, why=why))
    return tuple(found)


def _differs(
    home: Home,
    former: Followed,
    name: str,
    rows: list[dict[str, Any]],
    named: Course | None,
    opened: Course | None,
    whole: bool,
    now: int,
) -> str:
    exchange = _document(home, name)
    if exchange is None:
        return _differs_in_headers(rows, named, opened, whole)
    course = _course(home, former, exchange, rows, opened)
    if not whole and not course.final:
        return ""
    allowed = [at_epoch(exchange, course, at) for at in (0, now)]
    if any(_is_same(named, wanted) for wanted in allowed):
        return ""
    wanted = allowed[0]
    if named is None or wanted is None or named.stage != wanted.stage:
        return f"is {_stage(named)} in the epoch; it was {course.stage}, so it is {_stage(wanted)} in the new log"
    return "is handed over with other things, or with more jobs left, than this home saw"


def _is_same(named: Course | None, wanted: Course | None) -> bool:
    """Of what ended it does not matter how far it had come; of what goes on, what was given, and that no job comes back."""
    if named is None or wanted is None:
        return named is wanted
    if named.stage != "handed_over" or wanted.stage != "handed_over":
        return named.stage == wanted.stage
    legs = ((named.first, wanted.first), (named.second, wanted.second))
    return all((one.given, one.job) == (other.given, other.job) and one.charged >= other.charged for one, other in legs)


def _differs_in_headers(rows: list[dict[str, Any]], named: Course | None, opened: Course | None, whole: bool) -> str:
    over = any(row["kind"] == "handed_over" for row in rows) or (opened is not None and opened.stage == "handed_over")
    ended = any(row["kind"] == "exchange_ended" for row in rows) or (opened is not None and not over)
    goes_on = named is not None and named.stage == "handed_over"
    if goes_on and not over and (whole or ended):
        return "is handed over in the epoch; the log that ends did not hand it over"
    if named is not None and over and not goes_on:
        return f"is {named.stage} in the epoch; it was handed over"
    return ""


def _stage(course: Course | None) -> str:
    return "not named" if course is None else course.stage


def _document(home: Home, name: str) -> Exchange | None:
    kept = home.read_or(exchange_file(name), None)
    exchange = None if kept is None else decode(Exchange, kept)
    return exchange if exchange is not None and exchange_digest(exchange) == name else None


def _course(home: Home, former: Followed, exchange: Exchange, rows: list[dict[str, Any]], opened: Course | None) -> Course:
    """The fold of what the headers say; what does not follow, or was not signed, moves nothing."""
    course = opened or begin(exchange, rows[0]["ids"]["participant"])
    for row in rows:
        if row["kind"] == "handed_over":
            course = replace(course, stage="handed_over")
            continue
        for event in _events(home, former, exchange, row):
            with suppress(SandboxError):
                course = advance(exchange, course, event, row["at"] // 1000)
    return course


def _events(home: Home, former: Followed, exchange: Exchange, row: dict[str, Any]) -> Iterator[Event]:
    kind, ids = row["kind"], row["ids"]
    if kind == "exchange_act":
        with suppress(SandboxError):
            signed = SignedExchangeAct.from_ids(ids)
            party = kept_agreement(home, exchange.agreements[0]).party(signed.by)
            verify_exchange_act(signed, str(former.keyring.signing_key(party.signing_key, row["index"])))
            yield Acted(by=signed.by, item=signed.item)
    elif kind == "exchange_ended":
        yield Ended(reason=None if ids["reason"] == "expired" else cast(Reason, ids["reason"]))
    elif kind == "charged":
        yield JobCharged(job=ids["job"], leg=_leg(row))
    elif kind in ("released", "withheld", "failed"):
        sealed = ids.get("sealed", "") if kind == "released" and ids.get("accepted") != "no" else ""
        yield JobEnded(job=ids["job"], leg=_leg(row), sealed=sealed)


def _leg(row: dict[str, Any]) -> Literal[1, 2]:
    return 1 if row["leg"] == "1" else 2

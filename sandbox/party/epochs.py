"""Signing a new epoch of the log: its totals, counts and exchanges are held against what this participant saw of the logs before."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace

from policies.canonical import digest
from policies.codec import decode, encode
from policies.counts import Counts, Fewer, Tally
from policies.entries import LedgerCharge
from policies.errors import Refused, Tampered
from policies.lineage import Epoch
from policies.privacy import Loss
from sandbox.party.client import Client
from sandbox.party.cosigning import following
from sandbox.party.courses import Misnamed, misnamed
from sandbox.party.following import signed_epoch, signed_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """One ledger: what this home saw charged, and what the epoch opens with, in the measure of the ledger.

    Attributes:
        seen: the most that any log which this home followed has charged; `opens` beside it.
        short: whether it opens with less, in amount or delta0, or in another measure.
    """

    provider: str
    id_space: str
    seen: Loss
    opens: Loss
    short: bool


def compare(client: Client, epoch: Epoch) -> tuple[Total, ...]:
    """Return every ledger of the epoch and of all logs that this home has followed, whichever the epoch says were before it."""
    follower = following(client.home, client.log_text)
    seen: dict[tuple[str, str], list[Loss]] = {}
    for kept in follower.all_kept():
        for ledger in kept.ledgers():
            seen.setdefault(ledger, []).append(kept.total(*ledger))
    opening = {(total.provider, total.id_space): total for total in epoch.totals}
    return tuple(held_against(ledger, seen.get(ledger, []), opening.get(ledger)) for ledger in sorted({*seen, *opening}))


def held_against(ledger: tuple[str, str], seen: list[Loss], opens: LedgerCharge | None) -> Total:
    """Hold what an epoch opens one ledger with against what each followed log has charged on it."""
    found = Loss(amount=0) if opens is None else Loss(measure=opens.measure, amount=opens.amount, delta0=opens.delta0)
    paid = [loss for loss in seen if loss.amount or loss.delta0]
    short = any(not loss.within(found) for loss in paid)
    most = replace(
        paid[-1] if paid else Loss(measure=found.measure, amount=0),
        amount=max((loss.amount for loss in paid), default=0),
        delta0=max((loss.delta0 for loss in paid), default=0),
    )
    return Total(provider=ledger[0], id_space=ledger[1], seen=most, opens=found, short=short)


def fewer_counts(client: Client, epoch: Epoch) -> tuple[Fewer, ...]:
    """Return everything that consumers used up by any log which this home has followed, and of which the epoch counts less."""
    opening = Tally.of(epoch.counts)
    kept = following(client.home, client.log_text).all_kept()
    found = (fewer for followed in kept for fewer in followed.tally_before(followed.frontier.size).fewer_in(opening))
    return tuple(dict.fromkeys(found))


def seen_counts(client: Client) -> Counts:
    """Return what consumers used up by all logs which this home has followed: an operator can open an epoch with no less."""
    tally = Tally()
    for followed in following(client.home, client.log_text).all_kept():
        tally.raise_to(followed.tally_before(followed.frontier.size).counts())
    return tally.counts()


def misnamed_exchanges(client: Client, epoch: Epoch) -> tuple[Misnamed, ...]:
    """Return every exchange that the epoch names otherwise than this home saw it in the log that ends."""
    former = following(client.home, client.log_text).kept(epoch.before[-1].origin)
    if former is None:
        return ()
    opened = signed_epoch(client.home, former.epoch)
    if former.epoch and opened is None:
        return ()  # how exchanges stood when that log began is not known here
    courses = {} if opened is None else {item.exchange: item.course for item in opened.exchanges}
    return misnamed(client.home, epoch, former, courses, int(time.time()))


def sign_epoch(client: Client, accepted: Collection[str] = ()) -> Epoch:
    """Sign the newest epoch as a provider, keep it at home, and return it. Whatever it was interrupted at, again is the same.

    Args:
        accepted: exchanges that may be named otherwise than they stood, because nothing brings back what the log lost of them.

    Raises:
        Refused: code `epoch-totals`, if a ledger opens below what this home saw charged on it; `epoch-counts`, if less is counted than
            it saw used up; `epoch-exchanges`, if an exchange is named otherwise than it stood.
        Tampered: code `bad-epoch`, if it ends other logs than this home followed.
    """
    epoch = decode(Epoch, client.epoch()["epoch"])
    follower = following(client.home, client.log_text)
    if follower.all_kept() and not any(follower.kept(log.origin) for log in epoch.before):
        raise Tampered("the epoch ends other logs than this participant followed", code="bad-epoch")
    kept = follower.kept(epoch.before[-1].origin)
    if kept is not None and kept.frontier.size == epoch.size and kept.frontier.root().hex() != epoch.root:
        raise Tampered("the epoch ends another history of the log than this participant followed", code="bad-epoch")
    short = [total for total in compare(client, epoch) if total.short]
    if short:
        shown = "; ".join(f"{item.provider}/{item.id_space}: {item.opens.text} instead of {item.seen.text}" for item in short)
        raise Refused(f"the epoch opens below what was charged, or in another measure: {shown}", code="epoch-totals")
    if fewer := fewer_counts(client, epoch):
        raise Refused(f"the epoch counts less than was used up: {'; '.join(item.text for item in fewer)}", code="epoch-counts")
    if wrong := [item for item in misnamed_exchanges(client, epoch) if item.exchange not in accepted]:
        shown = "; ".join(f"{item.exchange} {item.why}" for item in wrong)
        raise Refused(f"the epoch names exchanges otherwise than they stood: {shown}", code="epoch-exchanges")
    # At home before it is sent: a broker accepts the new log only through what stands here.
    client.home.write(signed_file(digest(encode(epoch))), encode(epoch))
    follower.end_before(epoch.number, digest(encode(epoch)))
    client.send_epoch_signature(epoch)
    client.home.note("epoch-signed", number=epoch.number, epoch=digest(encode(epoch)))
    return epoch

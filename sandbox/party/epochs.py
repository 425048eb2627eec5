"""Signing a new epoch of the log: its totals are held against what this participant saw of the log before."""

from __future__ import annotations

from dataclasses import dataclass

from policies.canonical import digest
from policies.codec import decode, encode
from policies.errors import Refused, Tampered
from policies.lineage import Epoch
from sandbox.party.client import Client
from sandbox.party.following import Follower, signed_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """One ledger: what this home saw charged, and what the epoch opens with (nano-epsilon)."""

    provider: str
    id_space: str
    seen: int
    opens: int


def compare(client: Client, epoch: Epoch) -> tuple[Total, ...]:
    """Return every ledger of the epoch and of all logs that this home has followed, whichever the epoch says were before it."""
    follower = Follower(home=client.home, fetch=client.log_text)
    seen: dict[tuple[str, str], int] = {}
    for kept in follower.all_kept():
        for ledger in kept.ledgers():
            seen[ledger] = max(seen.get(ledger, 0), kept.total(*ledger))
    ledgers = sorted({*seen, *((total.provider, total.id_space) for total in epoch.totals)})
    return tuple(
        Total(provider=provider, id_space=id_space, seen=seen.get((provider, id_space), 0), opens=epoch.total(provider, id_space))
        for provider, id_space in ledgers
    )


def sign_epoch(client: Client) -> Epoch:
    """Sign the newest epoch as a provider, keep it at home, and return it. Whatever it was interrupted at, again is the same.

    Raises:
        Refused: code `epoch-totals`, if a ledger opens below what this home saw charged on it.
        Tampered: code `bad-epoch`, if it ends other logs than this home followed.
    """
    epoch = decode(Epoch, client.epoch()["epoch"])
    follower = Follower(home=client.home, fetch=client.log_text)
    if follower.all_kept() and not any(follower.kept(log.origin) for log in epoch.before):
        raise Tampered("the epoch ends other logs than this participant followed", code="bad-epoch")
    kept = follower.kept(epoch.before[-1].origin)
    if kept is not None and kept.frontier.size == epoch.size and kept.frontier.root().hex() != epoch.root:
        raise Tampered("the epoch ends another history of the log than this participant followed", code="bad-epoch")
    short = [total for total in compare(client, epoch) if total.opens < total.seen]
    if short:
        shown = "; ".join(f"{item.provider}/{item.id_space}: {item.opens} instead of {item.seen} nano-epsilon" for item in short)
        raise Refused(f"the epoch opens below what was charged: {shown}", code="epoch-totals")
    # At home before it is sent: a broker accepts the new log only through what stands here.
    client.home.write(signed_file(digest(encode(epoch))), encode(epoch))
    follower.end_before(epoch.number, digest(encode(epoch)))
    client.send_epoch_signature(epoch)
    client.home.note("epoch-signed", number=epoch.number, epoch=digest(encode(epoch)))
    return epoch

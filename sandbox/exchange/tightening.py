"""Tightening an agreement: one provider alone, logged, in force from the entry on for decisions, key releases and releases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclaves.kit.envelope import Signed
from policies.codec import decode
from policies.errors import Conflict, Forbidden, NotFound
from policies.tightening import MAX_TIGHTENINGS, SignedTightening, Tightening, require_applicable, standing
from sandbox.exchange.records import Participant
from sandbox.exchange.rotation import require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.host import Host

if TYPE_CHECKING:
    from sandbox.store.database import Transaction


def tighten(host: Host, caller: Participant, signed: Signed) -> SignedTightening:
    """Store and log a provider's tightening. The same again is the same.

    Raises:
        Forbidden: another than the dataset's provider signs. NotFound: no such agreement of the caller's.
        Malformed: it tightens nothing, or in another measure; code `tightening-sequence` if it is not the next one.
        Conflict: the agreement is not active.
    """
    require_signed(signed, "tightening", caller.id, caller.signing_key)
    tightening = decode(Tightening, signed.body)
    if tightening.provider != caller.id:
        raise Forbidden("only its provider tightens the terms of a dataset")
    own = SignedTightening(tightening=tightening, signature=signed.signature)
    with host.store.transaction() as tx:
        tx.lock_agreement(tightening.agreement)
        tx.hold_log()
        stored = tx.agreement(tightening.agreement)
        if stored is None or not stored.agreement.has_party(caller.id):
            raise NotFound("there is no such agreement of yours")
        before = tx.tightenings(tightening.agreement)
        known = next(
            (s for s in before if (s.tightening.dataset, s.tightening.sequence) == (tightening.dataset, tightening.sequence)), None
        )
        if known is not None and known.tightening == tightening:
            return known
        if stored.state != "active":
            raise Conflict("only an active agreement is tightened; do not sign the others", code="agreement-not-active")
        require_in_force(tx, caller)
        if len(before) >= MAX_TIGHTENINGS:
            raise Conflict("the agreement was tightened too often; revoke it", code="tightenings")
        require_applicable(tightening, stored.agreement, before)
        tx.add_tightening(own)
        tx.append("tightened", at=host.now(), ids=own.to_ids(), body={}, agreement=tightening.agreement)
    host.publish()
    return own


def tightenings_of(host: Host, caller: Participant, agreement: str) -> tuple[SignedTightening, ...]:
    """Return the tightenings of an agreement to its parties. Raises NotFound to everybody else."""
    with host.store.reading() as tx:
        stored = tx.agreement(agreement)
        if stored is None or not stored.agreement.has_party(caller.id):
            raise NotFound("there is no such agreement of yours")
        return tx.tightenings(agreement)


def require_standing(tx: Transaction, agreement: str, datasets: tuple[str, ...], now_ms: int) -> None:
    """Raise Conflict (code `tightened`) if the terms of a dataset are revoked, ended or suspended at `now_ms`. The caller holds the log."""
    tightenings = tx.tightenings(agreement)
    for dataset in datasets:
        why = standing(dataset, tightenings, now_ms // 1000)
        if why:
            raise Conflict(f"the terms of `{dataset}` are {why}", code="tightened")

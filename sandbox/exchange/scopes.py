"""Audit scopes at the service: providers give and take back what an auditor's credential opens, and every opening is decided by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from enclaves.kit.envelope import Signed
from policies.audit_scope import (
    MAX_SCOPES,
    AuditScope,
    Openable,
    ScopeDecision,
    SignedAuditScope,
    decide_opening,
    is_audited_as_party,
    require_applicable,
)
from policies.codec import decode
from policies.entries import Opening, parse_header
from policies.errors import Conflict, Forbidden, NotFound
from sandbox.exchange.records import Participant
from sandbox.exchange.rotation import require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sandbox.store.database import Transaction
    from sandbox.store.log import OpenedEntry


@dataclass(frozen=True, kw_only=True, slots=True)
class DecidedOpening:
    """What an auditor's scopes say about the opening of one entry."""

    index: int
    kind: str
    decision: ScopeDecision


def give_scope(host: Host, caller: Participant, signed: Signed) -> SignedAuditScope:
    """Store and log a provider's scope; it counts from then on. The same again is the same.

    Raises:
        Forbidden: another than the owner signs. NotFound: no such agreement of the caller's, or no such auditor.
        Malformed: code `audit-scope-owner`, `audit-scope-party` or `audit-scope-sequence`, as `require_applicable`.
        Conflict: the agreement is not active, or has too many scopes.
    """
    require_signed(signed, "audit-scope", caller.id, caller.signing_key)
    scope = decode(AuditScope, signed.body)
    if scope.owner != caller.id:
        raise Forbidden("only their owner says who may open its entries")
    own = SignedAuditScope(scope=scope, signature=signed.signature)
    with host.store.transaction() as tx:
        tx.lock_agreement(scope.agreement)
        tx.hold_log()
        stored = tx.agreement(scope.agreement)
        if stored is None or not stored.agreement.has_party(caller.id):
            raise NotFound("there is no such agreement of yours")
        before = tx.audit_scopes(scope.agreement)
        if own in before:
            return own
        if stored.state != "active":
            raise Conflict("only entries under an active agreement are opened", code="agreement-not-active")
        require_in_force(tx, caller)
        if tx.participant(scope.auditor) is None:
            raise NotFound(f"there is no participant `{scope.auditor}`")
        if len(before) >= MAX_SCOPES:
            raise Conflict("too many scopes were signed under the agreement", code="audit-scopes")
        require_applicable(scope, stored.agreement, before)
        tx.add_audit_scope(own)
        tx.append("audit_scoped", at=host.now(), ids=own.to_ids(), body={})
    host.publish()
    return own


def scopes_of(host: Host, caller: Participant, agreement: str) -> tuple[SignedAuditScope, ...]:
    """Return the scopes under an agreement: all to its parties, its own to an auditor that has some. Raises NotFound to everybody else."""
    with host.store.reading() as tx:
        stored, found = tx.terms(agreement), tx.audit_scopes(agreement)
    if stored is not None and stored.has_party(caller.id):
        return found
    own = tuple(item for item in found if item.scope.auditor == caller.id)
    if not own:
        raise NotFound("there is no such agreement of yours, and nobody has opened its entries to you")
    return own


def openings_for(tx: Transaction, who: str, first: int, end: int, now_ms: int) -> list[Opening]:
    """Return the openings with first <= index < end that a participant's credential opens at `now_ms`, by index.

    Those for all, those under its own agreements, and those that the scopes in force give it. Where a provider has signed a scope for an
    auditor whom the agreement names, the scopes decide.
    """
    scopes = tx.scopes_of_auditor(who)
    found = tx.openings(first, end, [name for name in tx.agreements_of(who) if name not in scopes])
    if scopes:
        given = [entry.opening for entry, decided in _decided(tx, who, first, end, scopes, now_ms) if decided.decision.allowed]
        found = sorted([*found, *given], key=lambda opening: opening.index)
    return found


def decided_openings(host: Host, caller: Participant, first: int, end: int) -> tuple[DecidedOpening, ...]:
    """Return what the scopes given to the caller say about entries with first <= index < end under the agreements that they speak of.

    About other agreements nothing is said, for the caller has no part in them.
    """
    with host.store.reading() as tx:
        scopes = tx.scopes_of_auditor(caller.id)
        return tuple(decided for _, decided in _decided(tx, caller.id, first, end, scopes, host.now()))


def closed_to(tx: Transaction, who: str, kinds: Iterable[Openable], now_ms: int) -> frozenset[str]:
    """Return the agreements under which scopes close one of these kinds to an auditor whom the agreement names as nothing else.

    What stands in an opening stands in a job's record too, so one is closed with the other. Whoever takes part otherwise sees jobs as a
    party.
    """
    closed = set()
    for name, scopes in tx.scopes_of_auditor(who).items():
        agreement = tx.terms(name)
        if agreement is not None and is_audited_as_party(agreement, who):
            decisions = (decide_opening(name, agreement, who, (kind, {}), scopes, now_ms // 1000) for kind in kinds)
            if not all(decision.allowed for decision in decisions):
                closed.add(name)
    return frozenset(closed)


def _decided(
    tx: Transaction, who: str, first: int, end: int, scopes: Mapping[str, tuple[SignedAuditScope, ...]], now_ms: int
) -> Iterator[tuple[OpenedEntry, DecidedOpening]]:
    terms = {name: tx.terms(name) for name in scopes}
    for entry in tx.opened_under(first, end, scopes):
        agreement = terms[entry.agreement]
        if agreement is None:
            continue
        header = parse_header(entry.data)
        decision = decide_opening(entry.agreement, agreement, who, (header.kind, header.ids), scopes[entry.agreement], now_ms // 1000)
        yield entry, DecidedOpening(index=entry.opening.index, kind=header.kind, decision=decision)

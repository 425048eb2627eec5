"""Judging audit scopes: which openings of its own entries a provider gave to an auditor's credential."""

from __future__ import annotations

from enclaves.kit.acts import signed_audit_scope
from policies.audit_scope import SignedAuditScope, require_applicable, require_next
from sandbox.audit.folds import Entry
from sandbox.audit.state import State


def scoped(state: State, entry: Entry) -> None:
    """The next scope of a provider for an auditor, under an agreed agreement. The header says all of it; what nobody signed gives nothing.

    Raises:
        Malformed: a term that this law does not know, another than a provider, or not the next of its sequence.
    """
    signed = SignedAuditScope.from_ids(entry.ids)
    name, scope = entry.ids["agreement"], signed.scope
    fold = state.agreements.get(name)
    state.require(entry, fold is not None and fold.agreed, "order", "a scope is given under an agreement that was not agreed before")
    state.require(entry, scope.auditor in state.participants, "signatures", f"`{scope.auditor}` is not admitted")
    before = [item for _, item in state.acts.scopes[name]]
    agreement = state.agreement(name)
    if agreement is None:
        require_next(scope, before)
    else:
        require_applicable(scope, agreement, before)
    key = None if agreement is None else agreement.party(scope.owner).signing_key
    if state.verify(entry, signed_audit_scope(signed), "audit-scope", scope.owner, key):
        state.acts.scopes[name].append((entry.index, signed))

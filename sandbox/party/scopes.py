"""What an auditor's credential opens: providers give it and take it back, and everybody reads it off an own copy of the log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from enclaves.kit.acts import verify_audit_scope
from policies.agreement import MAX_TIME, Agreement
from policies.audit_scope import AuditScope, Openable, ScopeDecision, SignedAuditScope, require_applicable
from policies.codec import decode
from policies.errors import NotFound, Tampered
from sandbox.party.client import Client
from sandbox.party.followed import Followed


def give_scope(
    client: Client, name: str, auditor: str, openings: Iterable[Openable], not_after: int = MAX_TIME, not_before: int = 0
) -> SignedAuditScope:
    """Sign and send what an auditor may open of this provider's entries under an agreement; it replaces what was given before.

    Args:
        not_before, not_after: when it may, seconds since 1970, half open.

    Raises:
        Malformed: code `audit-scope-owner` or `audit-scope-party`. Tampered: the log has a scope that its owner did not sign.
    """
    agreement, followed = client.followed_agreement(name)
    before, owner = logged_scopes(followed, name, agreement), client.home.participant
    last = max((item.scope.sequence for item in before if (item.scope.owner, item.scope.auditor) == (owner, auditor)), default=0)
    scope = AuditScope(
        agreement=name,
        owner=owner,
        auditor=auditor,
        sequence=last + 1,
        openings=tuple(openings),
        not_before=not_before,
        not_after=not_after,
    )
    require_applicable(scope, agreement, before)
    return decode(SignedAuditScope, client.send("/agreements/audit-scopes", "audit-scope", scope))


def take_back(client: Client, name: str, auditor: str) -> SignedAuditScope:
    """Close to an auditor what this provider owns under an agreement, at once; what it has read it keeps. Raises as `give_scope`."""
    return give_scope(client, name, auditor, ())


def scopes_under(client: Client, name: str) -> tuple[SignedAuditScope, ...]:
    """Return the scopes under an agreement: for a party from its own copy of the log, verified; for an auditor as the service states them.

    Raises:
        Tampered: the log has a scope that its owner did not sign. NotFound: the agreement is not this participant's, and nothing is given.
    """
    try:
        agreement, followed = client.followed_agreement(name)
    except NotFound:
        return tuple(decode(SignedAuditScope, item) for item in client.audit_scopes(name))
    return logged_scopes(followed, name, agreement)


def logged_scopes(followed: Followed, name: str, agreement: Agreement) -> tuple[SignedAuditScope, ...]:
    """Return the audit scopes under an agreement in the log so far. Raises Tampered if one is not signed by its owner, Malformed."""
    found = []
    for row in followed.acts.get(name, ()):
        if row["kind"] != "audit_scoped":
            continue
        signed = SignedAuditScope.from_ids(row["ids"])
        key = followed.keyring.signing_key(agreement.party(signed.scope.owner).signing_key, row["index"])
        if key is None:
            raise Tampered(f"`{signed.scope.owner}` signed with keys that were revoked", code="bad-signature")
        verify_audit_scope(signed, key)
        found.append(signed)
    return tuple(found)


def explained(client: Client, index: int) -> ScopeDecision | None:
    """Return what the scopes given to this auditor say about one entry; None where none is about its agreement."""
    rows: list[dict[str, Any]] = client.opening_decisions(index, index + 1)
    return decode(ScopeDecision, rows[0]["decision"]) if rows else None

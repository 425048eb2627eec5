"""Acts signed with keys at hand; participants sign theirs through their client."""

from __future__ import annotations

from enclaves.kit.envelope import sign_document
from enclaves.kit.signatures import SigningKey
from policies.acts import JobApproval, SignedApproval
from policies.audit_scope import AuditScope, SignedAuditScope
from policies.exchange import ExchangeAct, SignedExchangeAct


def sign_approval(approval: JobApproval, by: str, key: SigningKey) -> SignedApproval:
    """An approval signed by a party."""
    return SignedApproval(approval=approval, by=by, signature=sign_document("job-approval", by, approval, key).signature)


def sign_exchange_act(item: ExchangeAct, by: str, key: SigningKey) -> SignedExchangeAct:
    """An act on an exchange, signed by who acts."""
    return SignedExchangeAct(item=item, by=by, signature=sign_document("exchange-act", by, item, key).signature)


def sign_audit_scope(scope: AuditScope, key: SigningKey) -> SignedAuditScope:
    """Return a scope signed by its owner."""
    return SignedAuditScope(scope=scope, signature=sign_document("audit-scope", scope.owner, scope, key).signature)

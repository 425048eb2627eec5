"""Signing and verifying what stands in headers: tightenings, approvals, duties that were done, and renunciations."""

from __future__ import annotations

from typing import TypeVar

from enclaves.kit.envelope import Purpose, Signed, sign_document, verify_document
from enclaves.kit.signatures import SigningKey
from policies.acts import DutyDone, JobApproval, JobCancellation, SignedApproval, SignedCancellation, SignedDuty
from policies.audit_scope import AuditScope, SignedAuditScope
from policies.codec import encode
from policies.documents import GrantRenunciation, SignedRenunciation
from policies.exchange import ExchangeAct, SignedExchangeAct
from policies.tightening import SignedTightening, Tightening

T = TypeVar("T")


def sign_tightening(tightening: Tightening, key: SigningKey) -> SignedTightening:
    """Return a tightening signed by its provider."""
    return SignedTightening(tightening=tightening, signature=sign_document("tightening", tightening.provider, tightening, key).signature)


def verify_tightening(signed: SignedTightening, public: str) -> Tightening:
    """Return the tightening if its provider signed it with the key `public` (hex). Raises Tampered (code `bad-signature`)."""
    return _verified(signed.tightening, "tightening", signed.tightening.provider, signed.signature, public)


def verify_approval(signed: SignedApproval, public: str) -> JobApproval:
    """Return the approval if `by` signed it with the key `public` (hex). Raises Tampered (code `bad-signature`)."""
    return _verified(signed.approval, "job-approval", signed.by, signed.signature, public)


def verify_cancellation(signed: SignedCancellation, public: str) -> JobCancellation:
    """Return the cancellation if `by` signed it with the key `public` (hex). Raises Tampered (code `bad-signature`)."""
    return _verified(signed.cancellation, "job-cancellation", signed.by, signed.signature, public)


def sign_duty(done: DutyDone, by: str, key: SigningKey) -> SignedDuty:
    """Return a duty that was done, signed by who says so."""
    return SignedDuty(done=done, by=by, signature=sign_document("duty-done", by, done, key).signature)


def verify_duty(signed: SignedDuty, public: str) -> DutyDone:
    """Return the duty if `by` signed it with the key `public` (hex). Raises Tampered (code `bad-signature`)."""
    return _verified(signed.done, "duty-done", signed.by, signed.signature, public)


def verify_audit_scope(signed: SignedAuditScope, public: str) -> AuditScope:
    """Return the scope if its owner signed it with the key `public` (hex). Raises Tampered (code `bad-signature`)."""
    verify_document(signed_audit_scope(signed), "audit-scope", signed.scope.owner, public)
    return signed.scope


def signed_audit_scope(signed: SignedAuditScope) -> Signed:
    """The signed document whose parts a header holds."""
    return Signed(purpose="audit-scope", by=signed.scope.owner, body=encode(signed.scope), signature=signed.signature)


def verify_renunciation(signed: SignedRenunciation, public: str) -> GrantRenunciation:
    """Return the renunciation if its provider signed it with the key `public` (hex). Raises Tampered (code `bad-signature`)."""
    verify_document(signed_renunciation(signed), "grant-renunciation", signed.provider, public)
    return signed.renunciation


def signed_renunciation(signed: SignedRenunciation) -> Signed:
    """The signed document whose parts a header holds."""
    return Signed(purpose="grant-renunciation", by=signed.provider, body=encode(signed.renunciation), signature=signed.signature)


def verify_exchange_act(signed: SignedExchangeAct, public: str) -> ExchangeAct:
    """Return the act if `by` signed it with the key `public` (hex). Raises Tampered (code `bad-signature`)."""
    return _verified(signed.item, "exchange-act", signed.by, signed.signature, public)


def _verified(item: T, purpose: Purpose, by: str, signature: str, public: str) -> T:
    verify_document(Signed(purpose=purpose, by=by, body=encode(item), signature=signature), purpose, by, public)
    return item

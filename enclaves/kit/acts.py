"""Signing and verifying what stands in headers: tightenings, approvals, duties that were done, and renunciations."""

from __future__ import annotations

from enclaves.kit.envelope import Signed, sign_document, verify_document
from enclaves.kit.signatures import SigningKey
from policies.acts import DutyDone, JobApproval, JobCancellation, SignedApproval, SignedCancellation, SignedDuty
from policies.codec import encode
from policies.documents import GrantRenunciation, SignedRenunciation
from policies.exchange import ExchangeAct, SignedExchangeAct
from policies.tightening import SignedTightening, Tightening


def sign_tightening(tightening: Tightening, key: SigningKey) -> SignedTightening:
    """Return a tightening signed by its provider."""
    return SignedTightening(tightening=tightening, signature=sign_document("tightening", tightening.provider, tightening, key).signature)


def verify_tightening(signed: SignedTightening, public: str) -> Tightening:
    """Return the tightening if its provider signed it with the key `public` (hex). Raises Tampered (code `bad-signature`)."""
    body = Signed(purpose="tightening", by=signed.tightening.provider, body=encode(signed.tightening), signature=signed.signature)
    verify_document(body, "tightening", signed.tightening.provider, public)
    return signed.tightening


def sign_approval(approval: JobApproval, by: str, key: SigningKey) -> SignedApproval:
    """Return an approval signed by a party."""
    return SignedApproval(approval=approval, by=by, signature=sign_document("job-approval", by, approval, key).signature)


def verify_approval(signed: SignedApproval, public: str) -> JobApproval:
    """Return the approval if `by` signed it with the key `public` (hex). Raises Tampered (code `bad-signature`)."""
    body = Signed(purpose="job-approval", by=signed.by, body=encode(signed.approval), signature=signed.signature)
    verify_document(body, "job-approval", signed.by, public)
    return signed.approval


def verify_cancellation(signed: SignedCancellation, public: str) -> JobCancellation:
    """Return the cancellation if `by` signed it with the key `public` (hex). Raises Tampered (code `bad-signature`)."""
    body = Signed(purpose="job-cancellation", by=signed.by, body=encode(signed.cancellation), signature=signed.signature)
    verify_document(body, "job-cancellation", signed.by, public)
    return signed.cancellation


def sign_duty(done: DutyDone, by: str, key: SigningKey) -> SignedDuty:
    """Return a duty that was done, signed by who says so."""
    return SignedDuty(done=done, by=by, signature=sign_document("duty-done", by, done, key).signature)


def verify_duty(signed: SignedDuty, public: str) -> DutyDone:
    """Return the duty if `by` signed it with the key `public` (hex). Raises Tampered (code `bad-signature`)."""
    body = Signed(purpose="duty-done", by=signed.by, body=encode(signed.done), signature=signed.signature)
    verify_document(body, "duty-done", signed.by, public)
    return signed.done


def verify_renunciation(signed: SignedRenunciation, public: str) -> GrantRenunciation:
    """Return the renunciation if its provider signed it with the key `public` (hex). Raises Tampered (code `bad-signature`)."""
    verify_document(signed_renunciation(signed), "grant-renunciation", signed.provider, public)
    return signed.renunciation


def signed_renunciation(signed: SignedRenunciation) -> Signed:
    """The signed document whose parts a header holds."""
    return Signed(purpose="grant-renunciation", by=signed.provider, body=encode(signed.renunciation), signature=signed.signature)


def sign_exchange_act(item: ExchangeAct, by: str, key: SigningKey) -> SignedExchangeAct:
    """Return an act on an exchange, signed by who acts."""
    return SignedExchangeAct(item=item, by=by, signature=sign_document("exchange-act", by, item, key).signature)


def verify_exchange_act(signed: SignedExchangeAct, public: str) -> ExchangeAct:
    """Return the act if `by` signed it with the key `public` (hex). Raises Tampered (code `bad-signature`)."""
    body = Signed(purpose="exchange-act", by=signed.by, body=encode(signed.item), signature=signed.signature)
    verify_document(body, "exchange-act", signed.by, public)
    return signed.item

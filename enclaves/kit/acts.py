"""Signing and verifying what stands in headers: tightenings, approvals and duties that were done."""

from __future__ import annotations

from enclaves.kit.envelope import Signed, sign_document, verify_document
from enclaves.kit.signatures import SigningKey
from policies.acts import DutyDone, JobApproval, JobCancellation, SignedApproval, SignedCancellation, SignedDuty
from policies.codec import encode
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

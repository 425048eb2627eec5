"""What a participant does under an agreement in force, besides asking: approve, cancel, tighten its own terms, say that a duty is done."""

from __future__ import annotations

from typing import Any

from enclaves.kit.envelope import Signed, document_digest
from policies.acts import DutyDone, JobApproval, JobCancellation
from policies.codec import decode
from policies.errors import Tampered
from policies.granted import job_id as job_id_of
from sandbox.party.acts import next_tightening, payment_received
from sandbox.party.client import Client


def approve(client: Client, job_id: str) -> dict[str, Any]:
    """Approve a job that waits for this participant's approval; look at its request first. Raises Tampered if it is another's."""
    agreement, request = _named(client, job_id)
    return client.send("/approvals", "job-approval", JobApproval(agreement=agreement, job=job_id, request=request))


def cancel(client: Client, job_id: str) -> dict[str, Any]:
    """Take back a request of this participant's that waits for approvals. Raises Tampered if the service shows another."""
    agreement, request = _named(client, job_id)
    return client.send("/cancellations", "job-cancellation", JobCancellation(agreement=agreement, job=job_id, request=request))


def _named(client: Client, job_id: str) -> tuple[str, str]:
    """Agreement and request of a job, by digest."""
    signed = decode(Signed, client.job(job_id)["signed"])
    digest = document_digest(signed)
    if job_id != job_id_of(digest):
        raise Tampered("the service shows another request than the job's", code="receipt-request")
    return str(signed.body["agreement"]), digest


def tighten(client: Client, name: str, dataset: str, **change: Any) -> dict[str, Any]:
    """Tighten the terms of one's own dataset; the own broker obeys at once, whatever becomes of the message. Raises Malformed."""
    agreement, followed = client.followed_agreement(name)
    signed = next_tightening(client.home, followed, name, agreement, dataset, **change)
    return client.send("/agreements/tightenings", "tightening", signed.tightening)


def confirm_payment(client: Client, name: str, consumer: str) -> dict[str, Any]:
    """Say that a consumer has paid once more under an agreement."""
    signed = payment_received(client.home, client.followed_agreement(name)[1], name, consumer)
    return client.send("/agreements/duties", "duty-done", signed.done)


def report_deletion(client: Client, name: str, job_id: str) -> dict[str, Any]:
    """Say that a release was deleted here; the service deletes its own copy."""
    return client.send("/agreements/duties", "duty-done", DutyDone(agreement=name, duty="deletion", about=job_id, number=1))

"""Records as response JSON."""

from __future__ import annotations

from typing import Any

from flask import Response

from enclaves.kit.appraisal import UNITS_OF_TRUST
from policies.canonical import canonical
from policies.codec import encode
from policies.grant import grant_digest
from sandbox.exchange.records import Dataset, Participant, StoredAgreement, StoredOffer, Version
from sandbox.jobs.states import Job, KeyRequest


def reply(value: Any, status: int = 200) -> Response:
    """Return `value` as a canonical JSON response."""
    return Response(canonical(value), status=status, mimetype="application/json")


def participant_view(participant: Participant) -> dict[str, Any]:
    """A participant's public record."""
    return dict(encode(participant))


def dataset_view(dataset: Dataset) -> dict[str, Any]:
    """A dataset with its signed declaration and newest version number."""
    return {"dataset": dataset.declaration.dataset, "newest": dataset.newest, "signed": encode(dataset.signed)}


def version_view(version: Version) -> dict[str, Any]:
    """A published version."""
    return dict(encode(version))


def offer_view(offer: StoredOffer) -> dict[str, Any]:
    """An offer with its digest."""
    return {"digest": offer.digest, "signed": encode(offer.signed)}


def agreement_view(agreement: StoredAgreement) -> dict[str, Any]:
    """An agreement, its state and signatures."""
    return {
        "digest": agreement.digest,
        "state": agreement.state,
        "proposed_by": agreement.proposed_by,
        "waiting_for": list(agreement.waiting_for),
        "document": agreement.document,
        "signatures": [encode(signature) for signature in agreement.signatures],
    }


def job_view(job: Job) -> dict[str, Any]:
    """A job with its decision, grant and positions in the log."""
    return {
        "id": job.id,
        "state": job.state,
        "code": job.code,
        "agreement": job.request.agreement,
        "consumer": job.request.consumer,
        "signed": encode(job.signed),
        "plan": encode(job.plan),
        "facts": encode(job.facts),
        "decision": encode(job.decision),
        "grant": None if job.grant is None else encode(job.grant),
        "grant_digest": None if job.grant is None else grant_digest(job.grant),
        "evidence": None if job.evidence is None else encode(job.evidence),
        "trust": UNITS_OF_TRUST[job.facts.enclave_kind],
        "positions": encode(job.positions),
        "created_at": job.created_at,
    }


def key_request_view(request: KeyRequest, job: Job) -> dict[str, Any]:
    """A key request with everything that a broker checks."""
    return {"state": request.state, "nonce": request.nonce, "job": job_view(job)}

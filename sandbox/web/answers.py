"""What the API answers, made from what the core returns."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from flask import Response

from enclaves.kit.appraisal import UNITS_OF_TRUST
from policies.codec import members
from policies.grant import grant_digest
from sandbox.exchange.records import Dataset, StoredAgreement, StoredOffer, Version
from sandbox.jobs.notices import Notice
from sandbox.jobs.states import ASKED, Job, KeyRequest, ShownKeyState
from sandbox.web.views import (
    AgreementView,
    DatasetView,
    JobView,
    KeyRequestView,
    NoticeView,
    OfferView,
    VersionView,
)

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, sort_keys=True, separators=(",", ":"), default=members)
"""The interpreter's own encoder, many times as fast as `canonical`: what is answered was held to its types when it was stored."""


def reply(value: Any, status: int = 200) -> Response:
    """Return `value`, a dataclass or a plain JSON value, as a JSON response: compact, with sorted keys, so that equal values are equal."""
    return Response(_JSON.encode(value).encode(), status=status, mimetype="application/json")


_grant_digest = lru_cache(maxsize=1024)(grant_digest)


def dataset_view(dataset: Dataset) -> DatasetView:
    """A dataset as it is answered."""
    return DatasetView(dataset=dataset.declaration.dataset, newest=dataset.newest, signed=dataset.signed)


def version_view(version: Version) -> VersionView:
    """A version as it is answered."""
    return VersionView(
        dataset=version.dataset, version=version.version, file_digest=version.file_digest, size=version.size, signed=version.signed
    )


def offer_view(offer: StoredOffer) -> OfferView:
    """An offer as it is answered."""
    return OfferView(digest=offer.digest, signed=offer.signed)


def agreement_view(agreement: StoredAgreement) -> AgreementView:
    """An agreement as it is answered."""
    return AgreementView(
        digest=agreement.digest,
        state=agreement.state,
        proposed_by=agreement.proposed_by,
        waiting_for=agreement.waiting_for,
        document=agreement.document,
        signatures=agreement.signatures,
    )


def job_view(job: Job, waiting_for: tuple[str, ...] | None = None) -> JobView:
    """A job as it is answered."""
    return JobView(
        id=job.id,
        state=job.state,
        code=job.code,
        agreement=job.request.agreement,
        consumer=job.request.consumer,
        signed=job.signed,
        plan=job.plan,
        facts=job.facts,
        decision=job.decision,
        grant=job.grant,
        grant_digest=None if job.grant is None else _grant_digest(job.grant),
        evidence=job.evidence,
        trust=UNITS_OF_TRUST[job.facts.enclave_kind],
        positions=job.positions,
        waiting_for=waiting_for,
        created_at=job.created_at,
    )


def notice_view(notice: Notice) -> NoticeView:
    """A notice as it is answered."""
    return NoticeView(
        id=notice.id,
        kind=notice.kind,
        subject=notice.subject,
        at=notice.at,
        state=notice.state,
        attempts=notice.attempts,
        next_at=notice.next_at,
    )


def key_request_view(request: KeyRequest, job: Job) -> KeyRequestView:
    """A key request as it is answered."""
    return KeyRequestView(state=key_state(request), nonce=request.nonce, job=job_view(job))


def key_state(request: KeyRequest) -> ShownKeyState:
    """What a key request waits for, as it is answered."""
    if request.renounced:
        return "ended" if request.renounced == ASKED else "renounced"
    return request.state

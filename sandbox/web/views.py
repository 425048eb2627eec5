"""Records as response JSON: one frozen dataclass per shape, which is also what the API's description is generated from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

from flask import Response

from enclaves.kit.appraisal import UNITS_OF_TRUST
from enclaves.kit.envelope import Signed
from policies.codec import members
from policies.decide import Decision
from policies.declaration import Declaration
from policies.documents import AgreementSignature, VersionManifest
from policies.entries import Opening
from policies.grant import Grant, grant_digest
from policies.lineage import LogLink
from policies.privacy import Loss
from policies.query import Plan
from policies.request import Facts, JobRequest
from policies.statement import SignedEvidence
from sandbox.audit.receipt import Receipt
from sandbox.exchange.records import Dataset, Participant, StoredAgreement, StoredOffer, Version
from sandbox.jobs.notices import Notice, NoticeKind, NoticeState
from sandbox.jobs.states import Job, JobState, KeyRequest, KeyState, Positions
from sandbox.web.odrl_shapes import AGREEMENT, OFFER
from sandbox.web.shapes import Document


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """An error (RFC 9457). `code` is stable; `title` is for people; `where` names a field, a part of the query or a job.

    Attributes:
        findings: for a refusal, the failing findings with the smallest change that would pass.
    """

    type: str
    status: int
    code: str
    title: str
    where: str = ""
    findings: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """That this process can read its database, and how many entries the log has."""

    ok: bool
    entries: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LogView:
    """Origin, Ed25519 key (hex) and verifier key (C2SP signed note) of the service's log."""

    origin: str
    key: str
    vkey: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EnclaveView:
    """Kind and measurement of the enclave that the service would start."""

    kind: str
    measurement: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceView:
    """What a participant needs to know before it joins.

    Attributes:
        webhook_key: public Ed25519 key that signs notices to webhooks, as Standard Webhooks writes it (`whpk_` and base64).
    """

    log: LogView
    enclave: EnclaveView
    webhook_key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """The participant as it was admitted."""

    participant: Participant


@dataclass(frozen=True, kw_only=True, slots=True)
class Participants:
    """A page of participants."""

    participants: tuple[Participant, ...]
    next: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Uploaded:
    """Digest and size in bytes of an upload."""

    digest: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetView:
    """A dataset with its signed declaration and newest version number; 0 if none is published."""

    dataset: str
    newest: int
    signed: Annotated[Signed, Document(purpose="declaration", body=Declaration)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Datasets:
    """A page of datasets."""

    datasets: tuple[DatasetView, ...]
    next: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionView:
    """A published version with its signed manifest."""

    dataset: str
    version: int
    file_digest: str
    size: int
    signed: Annotated[Signed, Document(purpose="version", body=VersionManifest)]


@dataclass(frozen=True, kw_only=True, slots=True)
class OfferView:
    """An offer with the digest that names it."""

    digest: str
    signed: Annotated[Signed, Document(purpose="offer", body=OFFER)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Offers:
    """A page of offers."""

    offers: tuple[OfferView, ...]
    next: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementView:
    """An agreement, its state and signatures. `waiting_for` are the parties that have not signed."""

    digest: str
    state: Literal["proposed", "active"]
    proposed_by: str
    waiting_for: tuple[str, ...]
    document: Annotated[dict[str, Any], AGREEMENT]
    signatures: tuple[Annotated[Signed, Document(purpose="agreement-signature", body=AgreementSignature)], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreements:
    """A page of agreements."""

    agreements: tuple[AgreementView, ...]
    next: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerView:
    """What one ledger has paid."""

    provider: str
    id_space: str
    spent: Loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledgers:
    """The ledgers of the caller's agreements."""

    ledgers: tuple[LedgerView, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A decision that nothing was charged for; `grant` is what a submission would get now."""

    allowed: bool
    plan: Plan
    facts: Facts
    decision: Decision
    grant: Grant | None


@dataclass(frozen=True, kw_only=True, slots=True)
class JobView:
    """A job with its decision, grant and positions in the log.

    Attributes:
        code: why it failed or was withheld; empty otherwise.
        trust: whom one trusts with plaintext under this kind of evidence.
        created_at: milliseconds since 1970.
    """

    id: str
    state: JobState
    code: str
    agreement: str
    consumer: str
    signed: Annotated[Signed, Document(purpose="job-request", body=JobRequest)]
    plan: Plan
    facts: Facts
    decision: Decision
    grant: Grant | None
    grant_digest: str | None
    evidence: SignedEvidence | None
    trust: str
    positions: Positions
    created_at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Jobs:
    """A page of jobs."""

    jobs: tuple[JobView, ...]
    next: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRequestView:
    """A key request with everything that a broker checks."""

    state: KeyState
    nonce: str
    job: JobView


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRequests:
    """A page of key requests."""

    key_requests: tuple[KeyRequestView, ...]
    next: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyStateView:
    """What a key request waits for now."""

    state: KeyState


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedRelease:
    """The receipt, and the release sealed to its recipient (hex; empty if withheld)."""

    receipt: Receipt
    sealed: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookView:
    """Where the caller's notices go (null: nowhere), and whether the last attempt failed. Why it failed is not told."""

    url: str | None
    failing: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class NoticeView:
    """A notice to the caller's webhook.

    Attributes:
        id: the same however often it is sent.
        subject: digest of the agreement, or id of the job.
        at: when it came to wait, milliseconds since 1970.
        next_at: when a waiting one is sent next, milliseconds since 1970.
    """

    id: str
    kind: NoticeKind
    subject: str
    at: int
    state: NoticeState
    attempts: int
    next_at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Notices:
    """A page of notices."""

    notices: tuple[NoticeView, ...]
    next: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Entries:
    """Log entries as text; the bytes of each are what the log hashes."""

    entries: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Openings:
    """Openings of log entries."""

    openings: tuple[Opening, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LineageView:
    """Every step from the first log of this service to the one in force: new keys, each signed by the one before, and signed epochs."""

    links: tuple[LogLink, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsistencyProof:
    """A consistency proof (RFC 9162 section 2.1.4), hashes in hex."""

    proof: tuple[str, ...]


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


def job_view(job: Job) -> JobView:
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
    return KeyRequestView(state=request.state, nonce=request.nonce, job=job_view(job))

"""Records as response JSON: one frozen dataclass per shape, which is also what the API's description is generated from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from enclaves.kit.envelope import Signed
from policies.accuracy import Expected
from policies.declaration import Declaration
from policies.documents import AgreementSignature, KeyDestruction, VersionManifest
from policies.entries import Opening
from policies.explain import Explanation
from policies.finding import Decision
from policies.grant import AnyGrant, AnyPlan, CurrentGrant
from policies.joint_documents import JointContribution, JointManifest
from policies.lineage import LogLink
from policies.privacy import Loss
from policies.query import Plan
from policies.request import Facts, JobRequest
from policies.reveals import Reveal
from policies.statement import SignedEvidence
from policies.tightening import SignedTightening
from sandbox.audit.joint_receipt import JointReceipt
from sandbox.audit.receipt import Receipt
from sandbox.exchange.records import Participant
from sandbox.jobs.joint_states import JointProgress, JointTask
from sandbox.jobs.notices import NoticeKind, NoticeState
from sandbox.jobs.preview import Remaining
from sandbox.jobs.states import JobState, Positions, ShownKeyState
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
class DestructionView:
    """A provider's statement that nobody can open one version any more."""

    signed: Annotated[Signed, Document(purpose="key-destruction", body=KeyDestruction)]


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
class Tightenings:
    """The tightenings of an agreement, in the order of the log."""

    tightenings: tuple[SignedTightening, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A decision that nothing was charged for; `grant` is what a submission would get now.

    Attributes:
        allowed, accepted: the same; `reason` says why not, in words.
        outputs: the noise that the aggregates would have; empty where no schedule answers the query.
        loss: what a submission would be charged: nothing for a question that was answered before.
        remaining: of the strictest bound of every ledger that the query charges, before it.
        explanation: the failing findings, the smallest changes that pass together, and what remains with who can act.
        reveals: what every output reveals about every column to the caller and to whom it passes the release on, and how it got there.
        needed: the smallest loss with which all outputs keep to the half-widths asked for; null if none does or none was asked for.
    """

    allowed: bool
    accepted: bool
    reason: str
    outputs: tuple[Expected, ...]
    loss: Loss
    remaining: tuple[Remaining, ...]
    needed: Loss | None
    plan: Plan
    facts: Facts
    decision: Decision
    grant: CurrentGrant | None
    explanation: Explanation
    reveals: tuple[Reveal, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class JobView:
    """A job with its decision, grant and positions in the log.

    Attributes:
        code: why it failed or was withheld; empty otherwise.
        trust: whom one trusts with plaintext under this kind of evidence.
        waiting_for: providers whose brokers the run waits for, or parties of a joint total; null in lists, which do not tell.
        joint: of a running joint total, who has contributed and until when it waits; null in lists and for other jobs.
        created_at: milliseconds since 1970.
    """

    id: str
    state: JobState
    code: str
    agreement: str
    consumer: str
    signed: Annotated[Signed, Document(purpose="job-request", body=JobRequest)]
    plan: AnyPlan
    facts: Facts
    decision: Decision
    grant: AnyGrant | None
    grant_digest: str | None
    evidence: SignedEvidence | None
    trust: str
    positions: Positions
    waiting_for: tuple[str, ...] | None
    joint: JointProgress | None
    created_at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Jobs:
    """A page of jobs."""

    jobs: tuple[JobView, ...]
    next: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRequestView:
    """A key request with everything that a broker checks."""

    state: ShownKeyState
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

    state: ShownKeyState


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedRelease:
    """The receipt, and the release sealed to its recipient (hex; empty if withheld)."""

    receipt: Receipt | JointReceipt
    sealed: str


@dataclass(frozen=True, kw_only=True, slots=True)
class JointTotalView:
    """What a joint total waits for from the caller, with everything that it checks.

    Attributes:
        task: the key holder's `key`, a contributor's `contribution`, or the key holder's `opening` of the total.
        manifest: signed by the key holder; null before there is a key.
        contributions: where it waits for an opening, what every contributor signed, in the manifest's order.
        total: where it waits for an opening, the digest of the sum's ciphertexts.
    """

    task: JointTask
    attempt: int
    contributors: tuple[str, ...]
    manifest: Annotated[Signed, Document(purpose="joint-manifest", body=JointManifest)] | None
    contributions: tuple[Annotated[Signed, Document(purpose="joint-contribution", body=JointContribution)], ...]
    total: str | None
    job: JobView


@dataclass(frozen=True, kw_only=True, slots=True)
class JointTotals:
    """Joint totals that wait for the caller, oldest first, and the jobs of those that come to it `next`."""

    joint_totals: tuple[JointTotalView, ...]
    next: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class JointTaken:
    """That the service has taken what was sent."""

    job: str


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
        subject: digest of the agreement or epoch, or id of the job.
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

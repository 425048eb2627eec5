"""Every operation of the API. The application serves exactly these, and the API's description is generated from them."""

from __future__ import annotations

from policies.acts import DutyDone, JobApproval, JobCancellation, SignedDuty
from policies.declaration import Declaration
from policies.documents import (
    Admission,
    AgreementSignature,
    GrantRenunciation,
    KeyDestruction,
    KeyRefusalStatement,
    KeyReleaseStatement,
    KeyRevocation,
    KeyRotation,
    VersionManifest,
)
from policies.joint_documents import JointContribution, JointManifest, JointStatement
from policies.lineage import Epoch
from policies.names import PATTERNS
from policies.request import JobRequest
from policies.tightening import SignedTightening, Tightening
from sandbox.audit.joint_receipt import JointReceipt
from sandbox.audit.receipt import Receipt
from sandbox.exchange.records import EpochState, Participant
from sandbox.web import (
    documentation,
    escrow_routes,
    events,
    exchange_api,
    jobs_api,
    joint_api,
    ledgers_api,
    log_api,
    log_routes,
    notices_api,
    scope_routes,
    scoring_routes,
    views,
)
from sandbox.web.models import (
    AdmissionBody,
    AgreementsQuery,
    ChallengeBody,
    CheckBody,
    JobsQuery,
    KeysBody,
    NoticesQuery,
    OfProvider,
    Paged,
    RotationBody,
    SignedOnly,
    WebhookBody,
)
from sandbox.web.odrl_shapes import AGREEMENT, OFFER
from sandbox.web.operation import Media, Operation, PathPart
from sandbox.web.shapes import Document

API = "/api/v1"

DATASET = PathPart(pattern=f"^{PATTERNS['require_dataset']}$", description="Name of a dataset: provider, dot, name.")
DIGEST = PathPart(pattern=f"^{PATTERNS['require_digest']}$", description="Digest that names an agreement or an upload.")
JOB = PathPart(pattern="^job-[0-9a-f]{20}$", description="Id of a job.")
TILE = PathPart(
    pattern=r"^([0-9]{1,2}|entries)/(x[0-9]{3}/)*[0-9]{3}(\.p/[0-9]{1,3})?$", description="Path of a tile as in C2SP tlog-tiles."
)

SAME_AGAIN = "The same document again answers the same and changes nothing."
PAGES = "In pages: follow `next` until it is null. Items that are added meanwhile neither repeat nor hide others."

SERVICE = (
    Operation(
        method="GET", path="/healthz", view=log_api.healthz, tag="service", secured=False, answer=views.Health,
        summary="Whether the service can read its database.",
    ),
    Operation(
        method="GET", path=f"{API}/service", view=exchange_api.service, tag="service", secured=False, answer=views.ServiceView,
        summary="The log's identity and the enclave that the service would start.",
        description="The service states them; whoever relies on them compares them with what the operator and the source code say.",
    ),
    Operation(
        method="GET", path=f"{API}/openapi.json", view=documentation.openapi, tag="service", secured=False,
        answer=Media(type="application/json", description="An OpenAPI 3.1 document."), summary="This description.",
    ),
    Operation(
        method="GET", path=f"{API}/docs", view=documentation.docs, tag="service", secured=False,
        answer=Media(type="text/html", description="A page that loads nothing."), summary="This description as a page.",
    ),
    Operation(
        method="GET", path=f"{API}/events", view=events.events, tag="service",
        answer=Media(type="text/event-stream", description="Server-sent events: `job` and `key-request`, the id as data."),
        headers={"Last-Event-ID": "`id` of the last event seen: the stream begins behind it, instead of now."},
        summary="Events that say `look again`, about the caller's own agreements.",
        description="An event names a job whose record has changed (`job`) or for which the caller's broker has something to do "
        "(`key-request`); what has changed is to be read. A stream ends after some seconds; connect again with Last-Event-ID. Where all "
        "streams are taken, the answer is 503 (`too-many-streams`): poll instead.",
    ),
)  # fmt: skip

EXCHANGE = (
    Operation(
        method="POST", path=f"{API}/participants", view=exchange_api.admit, tag="participants", secured=False, status=201,
        body=AdmissionBody, document=Document(purpose="admission", body=Admission), answer=views.Admitted, errors=(403, 409),
        summary="Join with a one-time code.",
        description="The client chooses its credential (32 random bytes in base64url, 20 to 200 characters), keeps it, and signs only "
        "the digest `sha256(\"sandbox/v1/secret\\n\" + credential)`. The very same admission may be repeated after a lost answer, also "
        "when the code has been used by it or has expired since.",
    ),
    Operation(
        method="GET", path=f"{API}/participants", view=exchange_api.list_participants, tag="participants", query=Paged,
        answer=views.Participants, summary="Participants with their public keys, by id.", description=PAGES,
    ),
    Operation(
        method="POST", path=f"{API}/participants/rotations", view=exchange_api.rotate, tag="participants", body=RotationBody,
        document=Document(purpose="key-rotation", body=KeyRotation), answer=Participant, errors=(403, 409),
        summary="Replace one's own signing and sealing key.",
        description="Signed with the old signing key and countersigned with the new one. What is signed from then on is signed with the "
        f"new one. {SAME_AGAIN}",
    ),
    Operation(
        method="POST", path=f"{API}/participants/revocations", view=exchange_api.revoke, tag="participants", body=SignedOnly,
        document=Document(purpose="key-revocation", body=KeyRevocation), answer=Participant, errors=(403, 409),
        summary="Revoke one's own keys.",
        description="There is no way back: nothing that they sign counts any more, agreements that name them start no new job, and the "
        "credential opens nothing. The operator can admit the participant anew, with new keys.",
    ),
    Operation(
        method="GET", path=f"{API}/me", view=exchange_api.me, tag="participants", answer=Participant,
        summary="The participant that the credential belongs to.",
    ),
    Operation(
        method="POST", path=f"{API}/uploads", view=exchange_api.upload, tag="datasets", status=201,
        body=Media(type="application/octet-stream", description="An encrypted Parquet file."), answer=views.Uploaded,
        summary="Upload an encrypted file.",
        description="The file is named by its digest; the same file again is the same upload. What is not encrypted is refused.",
    ),
    Operation(
        method="GET", path=f"{API}/uploads/<digest:digest>", view=exchange_api.download, tag="datasets", parts={"digest": DIGEST},
        answer=Media(type="application/octet-stream", description="The file as it was uploaded."),
        summary="An encrypted file of the caller's own, to encrypt it anew.",
    ),
    Operation(
        method="POST", path=f"{API}/datasets", view=exchange_api.declare, tag="datasets", status=201, body=SignedOnly,
        document=Document(purpose="declaration", body=Declaration), answer=views.DatasetView, errors=(403, 409),
        summary="Declare a dataset.", description=SAME_AGAIN,
    ),
    Operation(
        method="GET", path=f"{API}/datasets", view=exchange_api.list_datasets, tag="datasets", query=OfProvider,
        answer=views.Datasets, summary="Declared datasets, by name.", description=PAGES,
    ),
    Operation(
        method="GET", path=f"{API}/datasets/<name>", view=exchange_api.one_dataset, tag="datasets", parts={"name": DATASET},
        answer=views.DatasetView, summary="One dataset.",
    ),
    Operation(
        method="POST", path=f"{API}/versions", view=exchange_api.publish, tag="datasets", status=201, body=SignedOnly,
        document=Document(purpose="version", body=VersionManifest), answer=views.VersionView, errors=(403, 404, 409),
        summary="Publish an upload as the next version of a dataset.", description=SAME_AGAIN,
    ),
    Operation(
        method="POST", path=f"{API}/versions/destructions", view=exchange_api.destroy, tag="datasets", body=SignedOnly,
        document=Document(purpose="key-destruction", body=KeyDestruction), answer=views.DestructionView, errors=(403, 404),
        summary="State that no key of a version exists any more.",
        description=f"There is no way back: no job reads this version again. {SAME_AGAIN}",
    ),
    Operation(
        method="POST", path=f"{API}/offers", view=exchange_api.offer, tag="offers", status=201, body=SignedOnly,
        document=Document(purpose="offer", body=OFFER), answer=views.OfferView, errors=(403, 404, 409),
        summary="Make an offer.", description=SAME_AGAIN,
    ),
    Operation(
        method="GET", path=f"{API}/offers", view=exchange_api.list_offers, tag="offers", query=OfProvider, answer=views.Offers,
        summary="Offers, by provider and digest.", description=PAGES,
    ),
    Operation(
        method="POST", path=f"{API}/agreements", view=exchange_api.propose, tag="agreements", status=201, body=SignedOnly,
        document=Document(purpose="agreement", body=AGREEMENT), answer=views.AgreementView, errors=(403, 404, 409),
        summary="Propose an agreement.", description=SAME_AGAIN,
    ),
    Operation(
        method="GET", path=f"{API}/agreements", view=exchange_api.list_agreements, tag="agreements", query=AgreementsQuery,
        answer=views.Agreements, summary="The caller's agreements, by digest.", description=PAGES,
    ),
    Operation(
        method="GET", path=f"{API}/agreements/<digest:digest>", view=exchange_api.one_agreement, tag="agreements", parts={"digest": DIGEST},
        answer=views.AgreementView, summary="One agreement of the caller's.",
    ),
    Operation(
        method="POST", path=f"{API}/agreements/signatures", view=exchange_api.sign, tag="agreements", body=SignedOnly,
        document=Document(purpose="agreement-signature", body=AgreementSignature), answer=views.AgreementView, errors=(403, 404, 409),
        summary="Sign an agreement; the last signature makes it active.", description=SAME_AGAIN,
    ),
    Operation(
        method="POST", path=f"{API}/agreements/tightenings", view=exchange_api.tighten, tag="agreements", status=201, body=SignedOnly,
        document=Document(purpose="tightening", body=Tightening), answer=SignedTightening, errors=(403, 404, 409),
        summary="Suspend or revoke the terms of one's own dataset, or lower their bounds, at once.",
        description=f"There is no way back but a new agreement that all sign. {SAME_AGAIN}",
    ),
    Operation(
        method="GET", path=f"{API}/agreements/<digest:digest>/tightenings", view=exchange_api.list_tightenings, tag="agreements",
        parts={"digest": DIGEST}, answer=views.Tightenings, summary="The tightenings of an agreement of the caller's, in their order.",
    ),
    Operation(
        method="POST", path=f"{API}/agreements/duties", view=exchange_api.report_duty, tag="agreements", status=201, body=SignedOnly,
        document=Document(purpose="duty-done", body=DutyDone), answer=SignedDuty, errors=(403, 404, 409),
        summary="Say that a duty was done: as a provider, that a consumer has paid; as a consumer, that a release was deleted.",
        description=f"A deletion deletes the service's copy, too. {SAME_AGAIN}",
    ),
    Operation(
        method="GET", path=f"{API}/epoch", view=exchange_api.epoch, tag="log", answer=EpochState, errors=(404,),
        summary="The newest epoch of the log and who has not signed it.",
        description="While somebody has not, no job is accepted (503, `epoch-unsigned`). A log that never began anew has none (404).",
    ),
    Operation(
        method="POST", path=f"{API}/epoch/signatures", view=exchange_api.sign_epoch, tag="log", body=SignedOnly,
        document=Document(purpose="epoch", body=Epoch), answer=EpochState, errors=(403, 404, 409),
        summary="Sign the newest epoch as a provider.",
        description=f"Compare its totals with your own first: nothing is charged below them again. {SAME_AGAIN}",
    ),
    Operation(
        method="GET", path=f"{API}/ledgers", view=ledgers_api.ledgers, tag="agreements", answer=ledgers_api.Ledgers,
        summary="What the ledgers of the caller's agreements have paid.",
    ),
)  # fmt: skip

JOBS = (
    Operation(
        method="POST", path=f"{API}/jobs:check", view=jobs_api.check, tag="jobs", body=CheckBody,
        document=Document(purpose="job-request", body=JobRequest), answer=views.Checked, errors=(403, 404, 409),
        summary="Decide a request without charging or logging it.", description="The request need not be signed.",
    ),
    Operation(
        method="POST", path=f"{API}/jobs", view=jobs_api.submit_job, tag="jobs", status=201, body=SignedOnly,
        document=Document(purpose="job-request", body=JobRequest), answer=views.JobView, errors=(403, 404, 409),
        summary="Submit a signed request.",
        description="`request_id` makes it safe to repeat: the same request again answers the job that it made, whatever became of it; "
        "another request under the same id is a conflict. A denied request answers 403 with findings, and `where` names the job that holds "
        "the logged decision.",
    ),
    Operation(
        method="GET", path=f"{API}/jobs", view=jobs_api.list_jobs, tag="jobs", query=JobsQuery, answer=views.Jobs,
        summary="Jobs under the caller's agreements, newest first.", description=PAGES,
    ),
    Operation(
        method="GET", path=f"{API}/jobs/<job_id>", view=jobs_api.one_job, tag="jobs", parts={"job_id": JOB}, answer=views.JobView,
        summary="One job under an agreement of the caller's.",
    ),
    Operation(
        method="GET", path=f"{API}/jobs/<job_id>/release", view=jobs_api.release, tag="jobs", parts={"job_id": JOB},
        answer=views.SealedRelease, errors=(409,), summary="The sealed release, to its recipient alone, with the receipt.",
        description="The same sealed bytes however often it is asked for.",
    ),
    Operation(
        method="GET", path=f"{API}/jobs/<job_id>/receipt", view=jobs_api.receipt, tag="jobs", parts={"job_id": JOB},
        answer=Receipt | JointReceipt,
        errors=(409,), summary="The receipt, to every party of the agreement.",
    ),
    Operation(
        method="POST", path=f"{API}/approvals", view=jobs_api.approve_job, tag="jobs", body=SignedOnly,
        document=Document(purpose="job-approval", body=JobApproval), answer=views.JobView, errors=(403, 404, 409),
        summary="Approve a job that waits for approvals.",
        description=f"The approval that makes enough decides the job and charges it. {SAME_AGAIN}",
    ),
    Operation(
        method="POST", path=f"{API}/cancellations", view=jobs_api.cancel_job, tag="jobs", body=SignedOnly,
        document=Document(purpose="job-cancellation", body=JobCancellation), answer=views.JobView, errors=(403, 404, 409),
        summary="Take back a request of one's own that waits for approvals.",
        description=f"Once it is charged, it is too late (`job-charged`). {SAME_AGAIN}",
    ),
    Operation(
        method="GET", path=f"{API}/key-requests", view=jobs_api.list_key_requests, tag="key requests", query=Paged,
        answer=views.KeyRequests, summary="Runs that wait for the caller's key broker, oldest first.", description=PAGES,
    ),
    Operation(
        method="POST", path=f"{API}/key-requests/<job_id>/challenge", view=jobs_api.challenge, tag="key requests", parts={"job_id": JOB},
        body=ChallengeBody, answer=views.KeyStateView, errors=(409,), summary="Challenge the enclave of a run with a nonce.",
        description="The first nonce counts. The same again answers the same; another is a conflict.",
    ),
    Operation(
        method="POST", path=f"{API}/key-requests/keys", view=jobs_api.release_keys, tag="key requests", body=KeysBody,
        document=Document(purpose="key-release", body=KeyReleaseStatement), answer=views.KeyStateView, errors=(403, 404, 409),
        summary="Hand over keys sealed to the attested enclave of a run.", description=SAME_AGAIN,
    ),
    Operation(
        method="POST", path=f"{API}/key-requests/refusals", view=jobs_api.refuse_keys, tag="key requests", body=SignedOnly,
        document=Document(purpose="key-refusal", body=KeyRefusalStatement), answer=views.KeyStateView, errors=(403, 404, 409),
        summary="Refuse keys to a run.", description=f"Of a run that `ended`, it says that the grant is not renounced. {SAME_AGAIN}",
    ),
    Operation(
        method="POST", path=f"{API}/key-requests/renunciations", view=jobs_api.renounce_grant, tag="key requests", body=SignedOnly,
        document=Document(purpose="grant-renunciation", body=GrantRenunciation), answer=views.KeyStateView, errors=(403, 404, 409),
        summary="Renounce the grant of a run that failed without keys.",
        description=f"What all its providers have renounced is charged to nobody: the last one voids the charge. {SAME_AGAIN}",
    ),
)  # fmt: skip

JOINT = (
    Operation(
        method="GET", path=f"{API}/joint-totals", view=joint_api.list_joint_totals, tag="joint totals", answer=views.JointTotals,
        summary="Joint totals that wait for the caller, as key holder or contributor.",
    ),
    Operation(
        method="POST", path=f"{API}/joint-totals/<job_id>/files", view=joint_api.add_joint_file, tag="joint totals", status=201,
        parts={"job_id": JOB}, answer=views.Uploaded, errors=(403,),
        body=Media(type="application/octet-stream", description="A public key, ciphertexts or a sealed release, as bare bytes."),
        summary="Upload the caller's part of a running joint total.",
        description="A public key or ciphertexts have exactly the size that follows from the job; anything else is refused.",
    ),
    Operation(
        method="GET", path=f"{API}/joint-totals/<job_id>/files/<digest:name>", view=joint_api.joint_file, tag="joint totals",
        parts={"job_id": JOB, "name": DIGEST},
        answer=Media(type="application/octet-stream", description="A public key or, for the key holder, the sum's ciphertexts."),
        summary="A file of a running joint total that the caller needs.",
    ),
    Operation(
        method="POST", path=f"{API}/joint-totals/manifests", view=joint_api.accept_joint_manifest, tag="joint totals", body=SignedOnly,
        document=Document(purpose="joint-manifest", body=JointManifest), answer=views.JointTaken, errors=(403, 404, 409),
        summary="State, as key holder, the fresh key of an attempt.", description=SAME_AGAIN,
    ),
    Operation(
        method="POST", path=f"{API}/joint-totals/contributions", view=joint_api.accept_joint_contribution, tag="joint totals",
        body=SignedOnly, document=Document(purpose="joint-contribution", body=JointContribution), answer=views.JointTaken,
        errors=(403, 404, 409), summary="Contribute ciphertexts to an attempt, once.", description=SAME_AGAIN,
    ),
    Operation(
        method="POST", path=f"{API}/joint-totals/statements", view=joint_api.accept_joint_statement, tag="joint totals", body=SignedOnly,
        document=Document(purpose="joint-statement", body=JointStatement), answer=views.JointTaken, errors=(403, 404, 409),
        summary="State, as key holder, how the one opening of a total ended.", description=SAME_AGAIN,
    ),
)  # fmt: skip

SCORINGS = scoring_routes.operations(API, DIGEST, SAME_AGAIN)

ESCROW = escrow_routes.operations(API, DIGEST, SAME_AGAIN, PAGES)

NOTICES = (
    Operation(
        method="POST", path=f"{API}/webhook", view=notices_api.set_webhook, tag="notices", body=WebhookBody, answer=views.WebhookView,
        summary="Send the caller's notices to a URL from now on, or to none.",
        description="What waits for the caller (an agreement to sign, a run that wants keys, a release to read) is then told by a signed "
        "POST that names it and nothing else. The same URL again tries again what was given up. docs/api.md shows how to verify a notice.",
    ),
    Operation(
        method="GET", path=f"{API}/webhook", view=notices_api.webhook, tag="notices", answer=views.WebhookView,
        summary="Where the caller's notices go.",
    ),
    Operation(
        method="GET", path=f"{API}/notices", view=notices_api.list_notices, tag="notices", query=NoticesQuery, answer=views.Notices,
        summary="Notices to the caller's webhook, newest first.", description=PAGES,
    ),
)  # fmt: skip

LOG = log_routes.operations(API, TILE)
SCOPES = scope_routes.operations(API, DIGEST, SAME_AGAIN)

OPERATIONS: tuple[Operation, ...] = (*SERVICE, *EXCHANGE, *JOBS, *JOINT, *SCORINGS, *ESCROW, *NOTICES, *LOG, *SCOPES)

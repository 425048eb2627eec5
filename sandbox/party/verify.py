"""What a consumer's client checks before it shows a release."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from enclaves.kit.appraisal import release_info
from enclaves.kit.sealing import SealingKey
from policies.agreement import Agreement
from policies.canonical import digest, parse_json
from policies.codec import decode, encode
from policies.errors import ReleaseWithheld, Tampered
from policies.grant import AnyGrant, Grant, grant_digest
from policies.joint_documents import JointRelease
from policies.joint_grant import JointGrant
from policies.model import passes
from policies.request import JobRequest
from policies.schedule import task_of
from policies.shape import shape
from policies.statement import AnyRelease, Release, verdict_of
from sandbox.audit.joint_receipt import AnyReceipt, JointReceipt, verify_joint_receipt
from sandbox.audit.receipt import Receipt, require_handed_over, verify_receipt

if TYPE_CHECKING:
    from policies.declaration import Declaration
    from policies.query import Plan

OpenedRelease: TypeAlias = AnyRelease | JointRelease
"""A release of whatever kind of job."""


def verify_release(
    receipt: AnyReceipt,
    sealed: bytes,
    agreement: Agreement,
    request: JobRequest,
    key_of: Callable[[str], SealingKey],
    *,
    job: str | None = None,
) -> OpenedRelease:
    """Return the opened release of one's own request; where a receipt repeats an earlier job's, of that job's request.

    The receipt must hold, the grant must be for this very request and for the plan that its SQL means here, and the opened release must
    carry the granted statistics and loss.

    Args:
        key_of: the own sealing key of a public one (hex), also of keys before a rotation.

    Raises:
        ReleaseWithheld: the enclave, or the key holder of a joint total, stated that it withheld; `code` says why.
        Tampered, EvidenceRejected, Malformed: what failed.
    """
    if isinstance(receipt, JointReceipt):
        return _verify_joint(receipt, sealed, agreement, request, key_of, job)
    verified = verify_receipt(receipt, agreement, sealed)
    if job not in (None, verified.job):
        raise Tampered("the service sent another job's release", code="receipt-request")
    grant = receipt.grant
    if grant.request != digest(encode(request)) or grant.recipient.id != request.consumer:
        raise Tampered("the receipt answers another request", code="receipt-request")
    # A grant of an earlier law has a plan that only its own parser makes: its SQL is bound by the request's digest, and every broker
    # derived the plan before it gave keys.
    current = isinstance(grant, Grant)
    if grant.loss != request.loss or (current and grant.plan != _plan_of(request, agreement.by_dataset)):
        raise Tampered("the grant is for another plan or loss than requested", code="receipt-plan")
    withheld = verified.receipt.statement.statement.withheld
    if withheld is not None:
        raise ReleaseWithheld(f"the gate withheld the release: {withheld}", code=withheld)
    if request.exchange is not None and request.exchange.form == "delivery":
        require_handed_over(receipt, verified.checkpoint, request.exchange)
    release: AnyRelease = decode(cast(Any, AnyRelease), _opened(grant, sealed, key_of))
    if release.grant != grant_digest(grant) or release.statistics != grant.statistics or release.loss != grant.loss:
        raise Tampered("the opened release is not the granted one", code="release-grant")
    _require_verdict(release, receipt)
    return release


def _require_verdict(release: AnyRelease, receipt: Receipt) -> None:
    """The bit that the enclave stated of a model's test is what the released metrics say."""
    stated, grant = verdict_of(receipt.statement.statement), receipt.grant
    test = grant.plan.training.test if isinstance(grant, Grant) and grant.plan.training is not None else None
    if test is None or not isinstance(release, Release):
        return
    own = "yes" if release.model is not None and passes(release.model.metrics, test) else "no"
    if own != stated:
        raise Tampered("the enclave stated another result of the test than the metrics give", code="release-test")


def _opened(grant: AnyGrant, sealed: bytes, key_of: Callable[[str], SealingKey]) -> Any:
    plain = key_of(grant.recipient.sealing_key).open(sealed, release_info(grant_digest(grant)))
    length = int.from_bytes(plain[:4], "big")
    return parse_json(plain[4 : 4 + length], limit=16 << 20)


def _verify_joint(
    receipt: JointReceipt,
    sealed: bytes,
    agreement: Agreement,
    request: JobRequest,
    key_of: Callable[[str], SealingKey],
    job: str | None,
) -> JointRelease:
    verified = verify_joint_receipt(receipt, agreement, sealed)
    grant = receipt.grant
    if job not in (None, grant.job) or grant.request != digest(encode(request)) or grant.recipient.id != request.consumer:
        raise Tampered("the receipt answers another request", code="receipt-request")
    if grant.loss != request.loss or grant.plan != _plan_of(request, agreement.by_dataset):
        raise Tampered("the grant is for another plan or loss than requested", code="receipt-plan")
    withheld = verified.statement.withheld
    if withheld is not None:
        raise ReleaseWithheld(f"the key holder released nothing: {withheld}", code=withheld)
    release = decode(JointRelease, _opened(grant, sealed, key_of))
    stated = (release.grant, release.manifest, release.contributors, release.noise, release.statistics, release.loss)
    wanted = (grant_digest(grant), verified.statement.manifest, verified.manifest.contributors)
    if stated != (*wanted, grant.pool.noise, grant.statistics, grant.loss):
        raise Tampered("the opened release is not the granted one", code="release-grant")
    require_model(release, grant, agreement)
    return release


def require_model(release: JointRelease, grant: JointGrant, agreement: Agreement) -> None:
    """A model is there exactly where one was asked for and the cell is shown, and reads what the plan says as the declarations bound it."""
    plan = grant.plan
    wanted = plan.training is not None and not release.cells[0].suppressed
    if wanted != (release.model is not None):
        raise Tampered("the release holds another kind of output than was asked for", code="release-model")
    if release.model is None:
        return
    task, model = task_of(plan, shape(plan.source, agreement.by_dataset)), release.model.model
    if (model.link, model.features, model.label, len(model.weights)) != ("identity", task.features, task.label, 1):
        raise Tampered("the model is not of the features and the label that were asked for", code="release-model")


def require_same_question(asked: JobRequest, earlier: JobRequest, agreement: Agreement) -> None:
    """Raise Tampered (code `receipt-request`) unless two requests of one's own differ in nothing but id and spelling of the SQL."""
    same = (asked.agreement, asked.consumer, asked.purpose, asked.loss) == (
        earlier.agreement,
        earlier.consumer,
        earlier.purpose,
        earlier.loss,
    )
    declarations = agreement.by_dataset
    if not same or _plan_of(asked, declarations) != _plan_of(earlier, declarations):
        raise Tampered("the service repeats the answer to another question", code="receipt-request")


def _plan_of(request: JobRequest, declarations: Mapping[str, Declaration]) -> Plan:
    from policies.plan import plan_of  # loads the SQL parser, which most commands of a participant do without

    return plan_of(request, declarations)

"""What a consumer's client checks before it shows a release."""

from __future__ import annotations

from collections.abc import Callable

from enclaves.kit.appraisal import release_info
from enclaves.kit.sealing import SealingKey
from policies.agreement import Agreement
from policies.canonical import digest, parse_json
from policies.codec import decode, encode
from policies.errors import ReleaseWithheld, Tampered
from policies.grant import grant_digest
from policies.plan import parse_plan
from policies.request import JobRequest
from policies.statement import Release
from sandbox.audit.receipt import Receipt, verify_receipt


def verify_release(
    receipt: Receipt, sealed: bytes, agreement: Agreement, request: JobRequest, key_of: Callable[[str], SealingKey]
) -> Release:
    """Return the opened release of one's own request.

    The receipt must hold, the grant must be for this very request and for the plan that its SQL means here, and the opened release must
    carry the granted statistics and loss.

    Args:
        key_of: the own sealing key of a public one (hex), also of keys before a rotation.

    Raises:
        ReleaseWithheld: the enclave stated that it withheld; `code` says why.
        Tampered, EvidenceRejected, Malformed: what failed.
    """
    verified = verify_receipt(receipt, agreement, sealed)
    grant = receipt.grant
    if grant.request != digest(encode(request)) or grant.recipient.id != request.consumer:
        raise Tampered("the receipt answers another request", code="receipt-request")
    if grant.plan != parse_plan(request.sql, agreement.by_dataset) or grant.loss != request.loss:
        raise Tampered("the grant is for another plan or loss than requested", code="receipt-plan")
    withheld = verified.receipt.statement.statement.withheld
    if withheld is not None:
        raise ReleaseWithheld(f"the gate withheld the release: {withheld}", code=withheld)
    plain = key_of(grant.recipient.sealing_key).open(sealed, release_info(grant_digest(grant)))
    length = int.from_bytes(plain[:4], "big")
    release = decode(Release, parse_json(plain[4 : 4 + length], limit=16 << 20))
    if release.grant != grant_digest(grant) or release.statistics != grant.statistics or release.loss != grant.loss:
        raise Tampered("the opened release is not the granted one", code="release-grant")
    return release

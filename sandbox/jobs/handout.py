"""Handing out what ended: the receipt, and with it the sealed release. Only under a published checkpoint that covers the entry."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from policies.agreement import Agreement
from policies.errors import NotFound, Tampered, Unavailable
from policies.lineage import links_from
from policies.odrl import agreement_digest
from sandbox.audit import merkle
from sandbox.audit.receipt import Receipt
from sandbox.jobs.states import Job, StoredRelease

if TYPE_CHECKING:
    from sandbox.store.database import Transaction


def receipt(tx: Transaction, job: Job) -> Receipt | dict[str, Any]:
    """Return the receipt of a released or withheld job; one of a former log as it was kept. Raises NotFound if it ended otherwise."""
    return tx.former_receipt(job.id) or _receipt(tx, job, _stored(tx, job))


def release(tx: Transaction, job: Job) -> tuple[Receipt | dict[str, Any], bytes]:
    """Return receipt and sealed release of a released or withheld job; the release is empty if it was withheld."""
    stored = _stored(tx, job)
    return tx.former_receipt(job.id) or _receipt(tx, job, stored), stored.sealed


@lru_cache(maxsize=256)
def _digest(agreement: Agreement) -> str:
    return agreement_digest(agreement)


def _stored(tx: Transaction, job: Job) -> StoredRelease:
    stored = tx.release(job.id)
    if stored is None:
        raise NotFound(f"the job is {job.state}{' (' + job.code + ')' if job.code else ''} and has no release")
    return stored


def _receipt(tx: Transaction, job: Job, stored: StoredRelease) -> Receipt:
    newest, agreement = tx.newest_checkpoint(), tx.terms(job.request.agreement)
    index = job.positions.ended
    if newest is None or newest[0] <= index:
        raise Unavailable("the release is stored and not yet published; look again", code="not-published")
    if agreement is None or _digest(agreement) != job.request.agreement or job.grant is None or job.evidence is None:
        raise Tampered("the stored job does not fit together", code="job-record")
    size = newest[0]
    proof = tx.over_nodes(lambda node: merkle.inclusion_proof(index, size, node))
    return Receipt(
        grant=job.grant,
        evidence=job.evidence,
        statement=stored.statement,
        entry=tx.entries(index, index + 1)[0].decode(),
        index=index,
        proof=tuple(item.hex() for item in proof),
        checkpoint=newest[1],
        lineage=links_from(agreement.log, tx.log_links()),
    )

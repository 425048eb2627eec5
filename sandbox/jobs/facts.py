"""The facts that a decision on a job looks at, read from the store in one transaction."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from policies.agreement import Agreement
from policies.budgets import period_begins, periods
from policies.canonical import digest as digest_of
from policies.codec import encode
from policies.conditions import shown_debug
from policies.errors import Conflict, Unavailable
from policies.grant import ledgers_charged, question_digest
from policies.granted import job_id
from policies.isolation import Layer
from policies.privacy import Loss
from policies.query import Plan
from policies.request import Facts, JobRequest, RecentFact, SpentFact, VersionFact
from sandbox.exchange import escrow
from sandbox.host import Host
from sandbox.jobs.duties import is_over, overdue, scored_facts, uses_facts

if TYPE_CHECKING:
    from sandbox.store.database import Transaction

LIVING_MS = 60_000
"""A worker that has said nothing for so long does not count as one that would take a job."""


def facts_of(
    host: Host, tx: Transaction, agreement: Agreement, request: JobRequest, plan: Plan, spent: dict[tuple[str, str], Loss], now: int
) -> Facts:
    """Gather, under the locks that the caller holds, all that a decision at `now` (Unix milliseconds) looks at beside the documents.

    Args:
        spent: what each ledger has paid so far.

    Raises:
        Unavailable: code `upload-lost`. Conflict: code `keys-destroyed`.
    """
    newest = [tx.newest_version(dataset) for dataset in plan.sources]
    for lost in newest:
        if lost is not None and tx.upload_is_lost(lost.file_digest):
            raise Unavailable(f"version {lost.version} of `{lost.dataset}` was lost; its provider publishes a new one", code="upload-lost")
        if lost is not None and tx.destruction(lost.file_digest) is not None:
            message = f"the keys of version {lost.version} of `{lost.dataset}` were destroyed; its provider publishes a new one"
            raise Conflict(message, code="keys-destroyed")
    versions = tuple(VersionFact(dataset=v.dataset, version=v.version, file_digest=v.file_digest) for v in newest if v is not None)
    charged = {ledger: spent[ledger] for ledger in ledgers_charged(agreement, plan) if ledger in spent}
    # What contributors hold of a pool is known to nobody else, so no question on one is known to be the same.
    # Nor is what an exchange gives: its release is held back until the hand-over.
    own = agreement.pool_of(plan.sources) is not None or request.exchange is not None
    answered = None if own else tx.answered(question_digest(request, plan, versions))
    if answered is not None and is_over(tx, answered, agreement, now):
        answered = None  # what was to be deleted is not handed out again
    name = job_id(digest_of(encode(request)))
    return Facts(
        now=now // 1000,
        enclave_kind=host.enclave_kind,
        measurement=host.measurement,
        versions=versions,
        spent=_spent_facts(charged),
        consumer_spent=_spent_facts(tx.spent_for(request.consumer, charged)),
        repeats=None if answered is None else answered.id,
        rotations=tx.rotations_from(agreement.party(request.consumer).signing_key) if agreement.has_party(request.consumer) else (),
        tightenings=tx.tightenings(request.agreement),
        uses=uses_facts(tx, request.agreement, agreement, plan.sources, request.consumer),
        enclave_jurisdiction=host.config.jurisdiction or None,
        enclave_debug=shown_debug(host.enclave_kind),
        approved_by=tuple(sorted(found.by for found in tx.approvals(request.agreement, name))),
        overdue=overdue(tx, request.agreement, agreement, request.consumer, now),
        isolation=_isolation(tx, agreement, plan),
        recent=_recent(tx, agreement, request.consumer, plan, now // 1000),
        exchange=escrow.fact(tx, request),
        scored=scored_facts(tx, request.agreement, agreement, plan, request.consumer, now // 1000),
    )


def _recent(tx: Transaction, agreement: Agreement, consumer: str, plan: Plan, now: int) -> tuple[RecentFact, ...]:
    found = []
    for provider, id_space, days in periods(agreement, plan.sources):
        spent, own = tx.charged_since(provider, id_space, period_begins(now, days), consumer)
        found.append(RecentFact(provider=provider, id_space=id_space, days=days, spent=spent, own=own))
    return tuple(found)


def _isolation(tx: Transaction, agreement: Agreement, plan: Plan) -> tuple[Layer, ...]:
    """The layers that whichever worker takes the job gives its run; asked for only where terms require some."""
    if agreement.pool_of(plan.sources) is not None:
        return ()
    if not any(agreement.terms_of(dataset).isolation for dataset in plan.sources if dataset in agreement.by_dataset):
        return ()
    return tx.isolation_since(time.time_ns() // 1_000_000 - LIVING_MS)


def _spent_facts(spent: dict[tuple[str, str], Loss]) -> tuple[SpentFact, ...]:
    return tuple(SpentFact(provider=provider, id_space=id_space, spent=loss) for (provider, id_space), loss in spent.items())

"""The grant under law/1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.agreement import Agreement, EnclaveKind
from policies.errors import Malformed
from policies.finding import Decision
from policies.granted import Read, Recipient, job_id
from policies.law1.privacy import Statistic
from policies.law1.query import Plan, columns_read, schedule
from policies.names import require_digest, require_slug
from policies.privacy import Loss
from policies.request import Facts, JobRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """Limits of one run. Derived, never negotiated: `make_grant` gives the same grant to host, brokers, enclave and replay."""

    kind: Literal["grant/1"] = "grant/1"
    job: str
    agreement: str
    request: str
    plan: Plan
    reads: tuple[Read, ...]
    statistics: tuple[Statistic, ...]
    loss: Loss
    minimum_group: int
    recipient: Recipient
    enclave_kind: EnclaveKind
    measurement: str

    def __post_init__(self) -> None:
        require_slug(self.job, "job")
        require_digest(self.agreement, "agreement")
        require_digest(self.request, "request")
        require_digest(self.measurement, "measurement")


def make_grant(
    agreement_digest: str, request_digest: str, request: JobRequest, agreement: Agreement, plan: Plan, facts: Facts, decision: Decision
) -> Grant:
    """Return the grant that an allowed decision entails.

    Raises:
        Malformed: if the decision does not allow, which is a fault of the caller.
    """
    if not decision.allowed:
        raise Malformed("a denied request has no grant")
    columns = columns_read(plan, agreement.by_dataset)
    reads = []
    for dataset in plan.sources:
        version = facts.version_of(dataset)
        assert version is not None, "an allowed decision has a version of every dataset"
        reads.append(
            Read(
                dataset=dataset,
                provider=agreement.by_dataset[dataset].provider,
                version=version.version,
                file_digest=version.file_digest,
                columns=columns[dataset],
            )
        )
    return Grant(
        job=job_id(request_digest),
        agreement=agreement_digest,
        request=request_digest,
        plan=plan,
        reads=tuple(reads),
        statistics=schedule(plan, agreement.by_dataset, request.loss, decision.minimum_group),
        loss=request.loss,
        minimum_group=decision.minimum_group,
        recipient=Recipient(id=request.consumer, sealing_key=agreement.party(request.consumer).sealing_key),
        enclave_kind=facts.enclave_kind,
        measurement=facts.measurement,
    )


def ledgers_charged(agreement: Agreement, plan: Plan) -> tuple[tuple[str, str], ...]:
    """Return the (provider, id space) ledgers that a job on `plan` charges, each once, sorted."""
    declarations = agreement.by_dataset
    return tuple(sorted({(declarations[d].provider, declarations[d].id_space) for d in plan.sources}))

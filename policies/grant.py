"""The grant: exactly what one run may read, spend and release, and to whom; and the closed set of words that an enclave may answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.agreement import Agreement, EnclaveKind
from policies.canonical import digest
from policies.codec import encode, omitted
from policies.decide import Decision
from policies.documents import SignedRotation, follow_rotations
from policies.errors import Malformed
from policies.names import require_dataset, require_digest, require_key, require_name, require_slug
from policies.privacy import Loss, Statistic
from policies.query import Plan, columns_read, schedule
from policies.request import Facts, JobRequest

WithheldCode = Literal["grant-mismatch", "keys-missing", "input-tampered", "input-unreadable", "resource-limit", "output-limit", "internal"]
"""All that an enclave ever says when it releases nothing."""

FailureCode = Literal["enclave-died", "worker-died", "evidence-rejected", "keys-refused", "keys-timeout", "release-mismatch"]
"""Why a host ended a run without a release."""

MAX_RELEASE = 4 << 20
"""Largest sealed release, bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """The columns of one file that a run may read; the file is named by digest."""

    dataset: str
    provider: str
    version: int
    file_digest: str
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        require_dataset(self.dataset, "dataset")
        require_digest(self.file_digest, "file_digest")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipient:
    """Who gets the release, with the sealing key from the agreement, or the one to which `rotations` lead from there."""

    id: str
    sealing_key: str
    rotations: tuple[SignedRotation, ...] = omitted(())

    def __post_init__(self) -> None:
        require_name(self.id, "id")
        require_key(self.sealing_key, "sealing_key")


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


def job_id(request_digest: str) -> str:
    """Return the only job id that a request can have, so that one signed request never makes two jobs."""
    return "job-" + require_digest(request_digest, "request").removeprefix("sha256:")[:20]


def make_grant(
    agreement_digest: str, request_digest: str, request: JobRequest, agreement: Agreement, plan: Plan, facts: Facts, decision: Decision
) -> Grant:
    """Return the grant that an allowed decision entails.

    Raises:
        Malformed: if the decision does not allow, which is a fault of the caller, or if the stated rotations do not begin in the agreement.
    """
    if not decision.allowed:
        raise Malformed("a denied request has no grant")
    consumer = agreement.party(request.consumer)
    _, sealing_key = follow_rotations(consumer.id, (consumer.signing_key, consumer.sealing_key), facts.rotations)
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
        recipient=Recipient(id=consumer.id, sealing_key=sealing_key, rotations=facts.rotations),
        enclave_kind=facts.enclave_kind,
        measurement=facts.measurement,
    )


def grant_digest(grant: Grant) -> str:
    """Return the digest that names a grant."""
    return digest(encode(grant))


def ledgers_charged(agreement: Agreement, plan: Plan) -> tuple[tuple[str, str], ...]:
    """Return the (provider, id space) ledgers that a job on `plan` charges, each once, sorted."""
    declarations = agreement.by_dataset
    return tuple(sorted({(declarations[d].provider, declarations[d].id_space) for d in plan.sources}))

"""The grant: exactly what one run may read, spend and release, and to whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from policies.agreement import Agreement, EnclaveKind
from policies.canonical import canonical_with, digest, digest_bytes
from policies.codec import encode, members, omitted
from policies.documents import follow_rotations
from policies.errors import Malformed
from policies.finding import Decision
from policies.granted import Read, Recipient, job_id
from policies.isolation import Layer, in_order, require_in_order
from policies.joint_grant import JointGrant, make_joint_grant
from policies.law1 import grant as law1
from policies.law1.query import Plan as Plan1
from policies.names import require_digest, require_slug
from policies.plan_text import plan_text
from policies.privacy import Loss
from policies.query import Plan, columns_read
from policies.request import Facts, JobRequest, VersionFact
from policies.schedule import OUTLINES, TRAINED, Statistic, allot


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """Limits of one run. Derived, never negotiated: `make_grant` gives the same grant to host, brokers, enclave and replay.

    Attributes:
        isolation: layers that must separate the run from its machine: all that the terms of any dataset require.
    """

    kind: Literal["grant/2"] = "grant/2"
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
    isolation: tuple[Layer, ...] = omitted(())

    def __post_init__(self) -> None:
        require_in_order(self.isolation, "isolation")
        require_slug(self.job, "job")
        require_digest(self.agreement, "agreement")
        require_digest(self.request, "request")
        require_digest(self.measurement, "measurement")

    @property
    def aggregated(self) -> tuple[Statistic, ...]:
        """The statistics of the plan's cells: all but those that a training draws."""
        return tuple(statistic for statistic in self.statistics if statistic.measured.quantity not in TRAINED)


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
        statistics=allot(OUTLINES(plan, agreement), plan, request.loss, decision.minimum_group),
        loss=request.loss,
        minimum_group=decision.minimum_group,
        recipient=Recipient(id=consumer.id, sealing_key=sealing_key, rotations=facts.rotations),
        enclave_kind=facts.enclave_kind,
        measurement=facts.measurement,
        isolation=isolation_required(agreement, plan),
    )


def isolation_required(agreement: Agreement, plan: Plan) -> tuple[Layer, ...]:
    """Return the layers that the terms of any dataset of a plan require."""
    return in_order(layer for dataset in agreement.members(plan.sources) for layer in agreement.terms_of(dataset).isolation)


CurrentGrant: TypeAlias = Grant | JointGrant
"""A grant of today's law: of an enclave's run, or of a joint total."""

EnclaveGrant: TypeAlias = Grant | law1.Grant
"""A grant of an enclave's run, of whatever law."""

AnyGrant: TypeAlias = Grant | JointGrant | law1.Grant
"""A grant of whatever law. Only grants of today's law are run."""


def former_grants(grant: AnyGrant) -> tuple[AnyGrant, ...]:
    """Return the grants that earlier versions of this code made of the same decision, which still hold: the same but for the encryption."""
    if isinstance(grant, JointGrant) and grant.scheme.formerly:
        return (replace(grant, parameters=grant.scheme.formerly),)
    return ()


def entail(
    agreement_digest: str, request_digest: str, request: JobRequest, agreement: Agreement, plan: Plan, facts: Facts, decision: Decision
) -> CurrentGrant:
    """Return the grant that an allowed decision entails, of whatever kind. Raises Malformed as `make_grant`."""
    joint = agreement.pool_of(plan.sources) is not None
    make = make_joint_grant if joint else make_grant
    return make(agreement_digest, request_digest, request, agreement, plan, facts, decision)


AnyPlan: TypeAlias = Plan | Plan1
"""A plan of whatever law."""


def is_tested(grant: AnyGrant) -> bool:
    """Whether what a grant trains must pass a test."""
    return isinstance(grant, Grant) and grant.plan.training is not None and grant.plan.training.test is not None


def question_digest(request: JobRequest, plan: AnyPlan, versions: tuple[VersionFact, ...]) -> str:
    """Return the digest of what is asked and of what data: requests that differ only in id and spelling have one."""
    asked = {"agreement": request.agreement, "consumer": request.consumer, "purpose": request.purpose, "loss": encode(request.loss)}
    return digest_bytes(canonical_with({**asked, "versions": encode(versions)}, "plan", plan_text(plan)))


def grant_digest(grant: AnyGrant) -> str:
    """Return the digest that names a grant."""
    return digest(encode(grant))


def grant_text(grant: AnyGrant) -> bytes:
    """Return the canonical bytes of a grant whose plan's are at hand: `grant_digest` is the digest of the same."""
    rest = {name: encode(item) for name, item in members(grant).items() if name != "plan"}
    return canonical_with(rest, "plan", plan_text(grant.plan))


def public_providers(agreement: Agreement, plan: AnyPlan) -> tuple[str, ...]:
    """Return the providers to whom nothing is charged though their keys are needed, sorted: of public tables, and of whatever is scored."""
    read = (agreement.by_dataset[dataset] for dataset in agreement.members(plan.sources))
    return tuple(sorted({declaration.provider for declaration in read if declaration.public or _scores(plan)}))


def ledgers_charged(agreement: Agreement, plan: AnyPlan) -> tuple[tuple[str, str], ...]:
    """Return the (provider, id space) ledgers that a job on `plan` charges, each once, sorted. Scores are of the asker's own rows: none."""
    if _scores(plan):
        return ()
    declarations = agreement.by_dataset
    protected = [declarations[dataset] for dataset in agreement.members(plan.sources) if not declarations[dataset].public]
    return tuple(sorted({(declaration.provider, declaration.id_space) for declaration in protected}))


def metered(plan: AnyPlan) -> dict[str, str]:
    """Return what a charge says in the open of rows that are scored: the model's dataset, and their number as the call states it."""
    if not isinstance(plan, Plan) or plan.scoring is None:
        return {}
    return {"model": plan.scoring.model, "rows": str(plan.scoring.rows)}


def _scores(plan: AnyPlan) -> bool:
    return isinstance(plan, Plan) and plan.scoring is not None

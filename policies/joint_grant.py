"""What a joint total is derived from: its plan as a contributor reads it, bounds of what one may hold, and the grant.

No enclave takes part, so a grant names no measurement and no files: it names the pool, whose key holder and contributors each check it
against their own copy of the agreement before they do anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from policies.agreement import Agreement
from policies.canonical import MAX_INTEGER
from policies.declaration import Declaration
from policies.documents import follow_rotations
from policies.errors import Malformed
from policies.finding import Decision
from policies.granted import Recipient, job_id
from policies.joint import PARAMETERS, Parameters, Pool, parameters_for, total_scale, window
from policies.names import require_digest, require_slug
from policies.privacy import Loss
from policies.query import Join, PerUnit, Plan, Relation, Table
from policies.request import Facts, JobRequest
from policies.schedule import Statistic, measures, schedule, task_of
from policies.shape import domain_of, require_sound, shape
from policies.task import LARGEST_PRODUCT, moment_count


@dataclass(frozen=True, kw_only=True, slots=True)
class JointGrant:
    """Limits of one joint total. Derived, never negotiated.

    Attributes:
        pool: as the agreement has it.
        bounds: per statistic, most that one contributor may hold in one cell, in absolute value; every contributor refuses more.
        parameters: name of the encryption's parameters.
    """

    kind: Literal["joint-grant/1"] = "joint-grant/1"
    job: str
    agreement: str
    request: str
    plan: Plan
    pool: Pool
    statistics: tuple[Statistic, ...]
    bounds: tuple[int, ...]
    parameters: str
    loss: Loss
    minimum_group: int
    recipient: Recipient

    def __post_init__(self) -> None:
        require_slug(self.job, "job")
        require_digest(self.agreement, "agreement")
        require_digest(self.request, "request")
        if self.parameters not in PARAMETERS:
            raise Malformed("names unknown parameters", where="parameters")

    @property
    def scheme(self) -> Parameters:
        """The encryption's parameters."""
        return PARAMETERS[self.parameters]

    def total_noise(self, statistic: Statistic, contributors: int) -> int:
        """Sigma of all noise in a released vector, in units of 2^-20."""
        return total_scale(statistic.scale, self.pool.noise, contributors, self.pool.coalition)

    def released_statistics(self, contributors: int) -> tuple[Statistic, ...]:
        """The statistics with the noise that a release really has, which intervals are computed from."""
        return tuple(replace(s, scale=self.total_noise(s, contributors)) for s in self.statistics)


def cells_of(grant: JointGrant, declarations: Mapping[str, Declaration]) -> tuple[tuple[int | str | None, ...], ...]:
    """Return the cells of a joint total in their order, which follows from declarations alone."""
    scope = shape(grant.plan.source, declarations).scope
    return tuple(itertools.product(*(domain_of(key, scope) or () for key in grant.plan.group_by)))


def numbers_of(statistic: Statistic, plan: Plan, declarations: Mapping[str, Declaration]) -> int:
    """Return how many numbers a statistic has in every cell: second moments are the upper triangle of (z, y)'(z, y), row after row."""
    if statistic.measured.quantity == "moments":
        return moment_count(task_of(plan, shape(plan.source, declarations)))
    return max(1, statistic.measured.bins)


def widths_of(grant: JointGrant, declarations: Mapping[str, Declaration]) -> tuple[int, ...]:
    """Return how many numbers every statistic has over all cells. A total holds them one statistic after another, cell after cell."""
    cells = len(cells_of(grant, declarations))
    return tuple(cells * numbers_of(statistic, grant.plan, declarations) for statistic in grant.statistics)


def windows_of(grant: JointGrant, declarations: Mapping[str, Declaration], contributors: int) -> tuple[int, ...]:
    """Return most that every number of a total may be, in absolute value."""
    found: list[int] = []
    for statistic, bound, width in zip(grant.statistics, grant.bounds, widths_of(grant, declarations), strict=True):
        found += [window(bound, grant.total_noise(statistic, contributors), contributors)] * width
    return tuple(found)


def value_count(grant: JointGrant, declarations: Mapping[str, Declaration]) -> int:
    """Return how many numbers a total has: those of every statistic in every cell."""
    return sum(widths_of(grant, declarations))


def as_read_by(plan: Plan, pool: Pool, member: str) -> Plan:
    """Return a plan over a pool as the plan over one member."""
    return replace(plan, source=_renamed(plan.source, pool.dataset, member))


def _renamed(relation: Relation, pool: str, member: str) -> Relation:
    if isinstance(relation, Table):
        return replace(relation, dataset=member) if relation.dataset == pool else relation
    if isinstance(relation, Join):
        right = _renamed(relation.right, pool, member)
        assert not isinstance(right, Join)
        return replace(relation, left=_renamed(relation.left, pool, member), right=right)
    assert isinstance(relation, PerUnit)
    return replace(relation, source=_renamed(relation.source, pool, member))


def bounds_of(plan: Plan, declarations: Mapping[str, Declaration], statistics: tuple[Statistic, ...], pool: Pool) -> tuple[int, ...]:
    """Return, per statistic, most that one contributor's cells may hold. Raises Malformed (code `pool-too-large`)."""
    largest = {measured: most for measured, (_, most) in measures(plan, require_sound(plan, declarations)).items()}
    bounds = []
    for statistic in statistics:
        plain = replace(statistic.measured, step=1)
        of_row = LARGEST_PRODUCT if statistic.measured.quantity == "moments" else largest.get(plain, 1)
        most = -(-of_row // statistic.measured.step) * pool.rows
        if most > MAX_INTEGER:
            raise Malformed("bounds and rows of the pool allow sums beyond 53 bits at one contributor", code="pool-too-large")
        bounds.append(most)
    return tuple(bounds)


def require_summable(plan: Plan, declarations: Mapping[str, Declaration], statistics: tuple[Statistic, ...], pool: Pool) -> Parameters:
    """Return the parameters of a joint total, if its plan can be answered by adding up what contributors compute alone.

    Raises:
        Malformed: code `joint-plan`, for joins, keys that are discovered or public, distinct counts, or another measure than zCDP (noise
            is drawn in parts, which only Gaussian noise allows here); `pool-too-large`, for bounds that no parameters hold.
    """
    if plan.sources != (pool.dataset,) or any(isinstance(relation, Join) for relation in _relations(plan.source)):
        raise Malformed("a joint total reads one pool and nothing else: joins of pools are not added up", code="joint-plan")
    scope = require_sound(plan, declarations).scope
    if any(key.source != "declared" or domain_of(key, scope) is None for key in plan.group_by):
        raise Malformed("the keys of a joint total need a declared domain: all contributors fill the same cells", code="joint-plan")
    if any(statistic.measured.quantity == "distinct" for statistic in statistics):
        raise Malformed("COUNT(DISTINCT ...) of several contributors is no sum of theirs", code="joint-plan")
    if any(statistic.mechanism != "gaussian" for statistic in statistics):
        raise Malformed("a joint total is noised in parts and pays in rho; the terms of every member must", code="joint-plan")
    contributors = len(pool.members)
    noises = [total_scale(statistic.scale, pool.noise, contributors, pool.coalition) for statistic in statistics]
    bounds = bounds_of(plan, declarations, statistics, pool)
    most = max(window(bound, noise, contributors) for bound, noise in zip(bounds, noises, strict=True))
    return parameters_for(most, contributors)


def _relations(relation: Relation) -> tuple[Relation, ...]:
    if isinstance(relation, PerUnit):
        return (relation, *_relations(relation.source))
    return (relation,)


def make_joint_grant(
    agreement_digest: str, request_digest: str, request: JobRequest, agreement: Agreement, plan: Plan, facts: Facts, decision: Decision
) -> JointGrant:
    """Return the grant that an allowed decision on a pool entails.

    Raises:
        Malformed: if the decision does not allow or the plan reads no pool, which are faults of the caller.
    """
    pool = agreement.pool_of(plan.sources)
    if not decision.allowed or pool is None:
        raise Malformed("there is no joint grant for this")
    consumer, declarations = agreement.party(request.consumer), agreement.by_dataset
    _, sealing_key = follow_rotations(consumer.id, (consumer.signing_key, consumer.sealing_key), facts.rotations)
    statistics = schedule(plan, declarations, request.loss, decision.minimum_group)
    return JointGrant(
        job=job_id(request_digest),
        agreement=agreement_digest,
        request=request_digest,
        plan=plan,
        pool=pool,
        statistics=statistics,
        bounds=bounds_of(plan, declarations, statistics, pool),
        parameters=require_summable(plan, declarations, statistics, pool).name,
        loss=request.loss,
        minimum_group=decision.minimum_group,
        recipient=Recipient(id=consumer.id, sealing_key=sealing_key, rotations=facts.rotations),
    )

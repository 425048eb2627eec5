"""Which requests two agreements decide otherwise: found by trying requests at every boundary that either of them draws.

The requests are made from the documents alone: every party and a stranger, every purpose and another, times around every boundary, losses
around every bound, and one small query for each operation on each column. What is listed is certain; that nothing is listed means that none
of the requests tried is decided otherwise, and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from policies.agreement import Agreement
from policies.budgets import periods
from policies.canonical import digest_bytes
from policies.decide import decide
from policies.derive import OPERATIONS, Operation
from policies.errors import Malformed
from policies.finding import Decision
from policies.odrl import timestamp
from policies.plan import parse_plan
from policies.privacy import Loss
from policies.query import Plan
from policies.request import Facts, JobRequest, RecentFact, UsesFact, VersionFact

STRANGER = "nobody"
OTHER_PURPOSE = "another-purpose"

_COUNT = "SELECT COUNT(*) AS n FROM {t}"

_QUERIES: dict[Operation, str] = {
    "group_by": "SELECT COUNT(*) AS n FROM {t} GROUP BY {c}",
    "output": "SELECT {c}, COUNT(*) AS n FROM {t} GROUP BY {c}",
    "filter": "SELECT COUNT(*) AS n FROM {t} WHERE {c} IS NOT NULL",
    "count": "SELECT COUNT({c}) AS n FROM {t}",
    "sum": "SELECT SUM({c}) AS n FROM {t}",
    "avg": "SELECT AVG({c}) AS n FROM {t}",
    "distinct": "SELECT COUNT(DISTINCT {c}) AS n FROM {t}",
    "variance": "SELECT VARIANCE({c}) AS n FROM {t}",
    "quantile": "SELECT MEDIAN({c}) AS n FROM {t}",
    "covariance": "SELECT COVAR_POP({c}, {c}) AS n FROM {t}",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One request that is tried, with a query in words."""

    request: JobRequest
    facts: Facts
    plan: Plan

    @property
    def text(self) -> str:
        """The request for people."""
        asked = self.request
        return f"`{asked.consumer}` for {asked.purpose}, {asked.loss.text}, at {timestamp(self.facts.now)}: {asked.sql}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """A request that is decided otherwise; `rules` are those that deny under the one that denies."""

    request: str
    before: bool
    after: bool
    rules: tuple[str, ...]


def contrast(before: Agreement, after: Agreement) -> tuple[int, tuple[Contrast, ...]]:
    """Return how many requests were tried, and those that the two decide otherwise."""
    found, tried = [], 0
    for probe in _probes(before, after):
        tried += 1
        one, other = (decide(probe.request, agreement, probe.plan, probe.facts) for agreement in (before, after))
        if one.allowed != other.allowed:
            denying = other if one.allowed else one
            found.append(Contrast(request=probe.text, before=one.allowed, after=other.allowed, rules=_rules(denying)))
    return tried, tuple(found)


def _rules(decision: Decision) -> tuple[str, ...]:
    return tuple(dict.fromkeys(finding.rule for finding in decision.findings if not finding.allowed))


def _probes(before: Agreement, after: Agreement) -> Iterator[Probe]:
    """One base per dataset that either allows if possible, then every value of one member at a time, then who and why together."""
    both = (before, after)
    for dataset in dict.fromkeys(terms.dataset for agreement in both for terms in agreement.terms):
        plans = list(_plans(dataset, both))
        base = next((p for p in _bases(dataset, both, plans[:1]) if any(_allows(p, agreement) for agreement in both)), None)
        base = base or next(_bases(dataset, both, plans[:1]), None)
        if base is None:
            continue
        for sql, plan in plans:
            yield replace(base, plan=plan, request=replace(base.request, sql=sql))
        for now in _times(dataset, both):
            yield replace(base, facts=replace(base.facts, now=now))
        for loss in _losses(dataset, both):
            yield replace(base, request=replace(base.request, loss=loss))
        for consumer in _consumers(both):
            for purpose in _purposes(dataset, both):
                yield replace(base, request=replace(base.request, consumer=consumer, purpose=purpose))
        for facts in _worlds(base.facts, dataset, both):
            yield replace(base, facts=facts)


def _allows(probe: Probe, agreement: Agreement) -> bool:
    return decide(probe.request, agreement, probe.plan, probe.facts).allowed


def _bases(dataset: str, both: Iterable[Agreement], plans: list[tuple[str, Plan]]) -> Iterator[Probe]:
    for agreement in both:
        for terms in (item for item in agreement.terms if item.dataset == dataset):
            for sql, plan in plans:
                facts = Facts(
                    now=min((w.next_start(terms.not_before) for w in terms.windows or ()), default=terms.not_before),
                    enclave_kind=next(iter(terms.enclave_kinds), "simulated"),
                    measurement=next(iter(terms.measurements), digest_bytes(b"")),
                    versions=(VersionFact(dataset=dataset, version=1, file_digest=digest_bytes(b"")),),
                    spent=(),
                    enclave_jurisdiction=next(iter(terms.enclave_jurisdictions or ()), None),
                    isolation=terms.isolation,
                    approved_by=tuple(sorted(terms.approvals.of)) if terms.approvals else (),
                    uses=(UsesFact(provider=dataset.partition(".")[0], jobs=0, own=0, paid=1),),
                    recent=_recent(dataset, both, Loss(amount=0)),
                )
                yield Probe(
                    request=JobRequest(
                        request_id="r-contrast",
                        agreement=digest_bytes(b"agreement"),
                        consumer=next((name for name in terms.assignees if name in terms.recipients), STRANGER),
                        purpose=next(iter(terms.purposes), OTHER_PURPOSE),
                        sql=sql,
                        loss=replace(terms.job_loss, delta0=0) if terms.job_loss.amount else Loss(amount=1),
                    ),
                    facts=facts,
                    plan=plan,
                )


def _plans(dataset: str, both: Iterable[Agreement]) -> Iterator[tuple[str, Plan]]:
    seen = set()
    for agreement in both:
        if dataset not in agreement.by_dataset:
            continue
        queries = [_COUNT.format(t=dataset)]
        queries += [
            _QUERIES[operation].format(t=dataset, c=column.name)
            for column in agreement.by_dataset[dataset].columns
            for operation in OPERATIONS
            if operation in _QUERIES
        ]
        for sql in queries:
            try:
                plan = parse_plan(sql, agreement.by_dataset)
            except Malformed:
                continue  # the operation does not fit the column's type
            if sql not in seen:
                seen.add(sql)
                yield sql, plan


def _times(dataset: str, both: Iterable[Agreement]) -> list[int]:
    edges = {0}
    for terms in (item for agreement in both for item in agreement.terms if item.dataset == dataset):
        edges |= {terms.not_before, terms.not_after}
        edges |= {window.next_start(terms.not_before) for window in terms.windows or ()}
        edges |= {terms.not_before + day * 86_400 + 43_200 for day in range(7)}
    return sorted({at + step for at in edges for step in (-1, 0, 1) if at + step >= 0})


def _losses(dataset: str, both: Iterable[Agreement]) -> list[Loss]:
    found = []
    for terms in (item for agreement in both for item in agreement.terms if item.dataset == dataset):
        for bound in (terms.job_loss, terms.total_loss, terms.consumer_loss):
            if bound is not None:
                found += [replace(bound, amount=bound.amount + step, delta0=0) for step in (-1, 0, 1) if bound.amount + step > 0]
    return list(dict.fromkeys(found))


def _consumers(both: Iterable[Agreement]) -> list[str]:
    return [*dict.fromkeys(party.id for agreement in both for party in agreement.parties), STRANGER]


def _purposes(dataset: str, both: Iterable[Agreement]) -> list[str]:
    named = (purpose for agreement in both for terms in agreement.terms if terms.dataset == dataset for purpose in terms.purposes)
    return [*dict.fromkeys(named), OTHER_PURPOSE]


def _worlds(base: Facts, dataset: str, both: Iterable[Agreement]) -> Iterator[Facts]:
    """Other facts: uses, payments, approvals, countries, enclaves and layers around what either agreement asks for."""
    provider = dataset.partition(".")[0]
    yield replace(base, approved_by=())
    yield replace(base, uses=(UsesFact(provider=provider, jobs=0, own=0),))
    for terms in (item for agreement in both for item in agreement.terms if item.dataset == dataset):
        for jobs in {terms.uses or 0, max(0, (terms.uses or 0) - 1)}:
            yield replace(base, uses=(UsesFact(provider=provider, jobs=jobs, own=0, paid=1),))
        for country in (None, *(terms.enclave_jurisdictions or ())):
            yield replace(base, enclave_jurisdiction=country)
        for kind in terms.enclave_kinds:
            for measurement in terms.measurements:
                yield replace(base, enclave_kind=kind, measurement=measurement, enclave_debug=None if kind == "simulated" else False)
        yield replace(base, isolation=terms.isolation)
        if terms.approvals is not None:
            yield replace(base, approved_by=tuple(sorted(terms.approvals.of[: terms.approvals.need])))
        if terms.total_refresh is not None:
            yield replace(base, recent=_recent(dataset, both, terms.total_loss))
    yield replace(base, overdue=("job-overdue",))


def _recent(dataset: str, both: Iterable[Agreement], spent: Loss) -> tuple[RecentFact, ...]:
    """As if ledgers had lately been charged so much, all of it for the asking consumer, over every period of either agreement."""
    read = {found for agreement in both if dataset in agreement.by_dataset for found in periods(agreement, (dataset,))}
    return tuple(RecentFact(provider=p, id_space=s, days=days, spent=spent, own=spent) for p, s, days in sorted(read))

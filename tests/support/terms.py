"""An insurer, a clinic, an institute and an auditor with one agreement, in the shape of the RAND Health Insurance Experiment."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from policies.agreement import Agreement, ColumnTerm, LogIdentity, Offer, Party, Role, Terms
from policies.declaration import Column, Declaration
from policies.derive import OPERATIONS, Operation
from policies.odrl import agreement_digest
from policies.plan import parse_plan
from policies.privacy import parse_epsilon
from policies.query import Plan
from policies.request import Facts, JobRequest, SpentFact, VersionFact

NOT_BEFORE = 1_767_225_600
"""2026-01-01T00:00:00Z"""
NOW = 1_780_272_000
"""2026-06-01T00:00:00Z"""
NOT_AFTER = 1_798_761_600
"""2027-01-01T00:00:00Z"""

MEASUREMENT = "sha256:" + "a1" * 32
COUNT_SQL = "SELECT COUNT(*) AS people FROM insurer.plans"
JOIN_SQL = (
    "SELECT coinsurance, COUNT(*) AS years, AVG(doctor_visits) AS visits, SUM(medical_spend) AS spend "
    "FROM insurer.plans JOIN clinic.care USING (person_id, year) WHERE female = 1 GROUP BY coinsurance"
)


def digest_of(label: str) -> str:
    """A well-formed digest that depends on `label` only."""
    return "sha256:" + hashlib.sha256(label.encode()).hexdigest()


def key_of(label: str) -> str:
    """A well-formed 32-byte key in hex that depends on `label` only. It is no point of any curve on purpose."""
    return hashlib.sha256(b"key of " + label.encode()).hexdigest()


def declaration_insurer(**overrides: Any) -> Declaration:
    """`insurer.plans`: one row per person and year with the plan's coinsurance and the medical spend in cents."""
    declaration = Declaration(
        dataset="insurer.plans",
        title="Insurance plans and spend",
        unit="person_id",
        id_space="rand-hie",
        rows_per_unit=5,
        unique_key=("person_id", "year"),
        columns=(
            Column(name="person_id", type="integer"),
            Column(name="year", type="integer", domain=(1, 2, 3, 4, 5)),
            Column(name="coinsurance", type="integer", domain=(0, 25, 50, 95, 100)),
            Column(name="female", type="integer", domain=(0, 1)),
            Column(name="medical_spend", type="decimal", decimals=2, lower="0", upper="2000"),
        ),
    )
    return replace(declaration, **overrides)


def declaration_clinic(**overrides: Any) -> Declaration:
    """`clinic.care`: one row per person and year with visits and admissions, where admissions may be NULL."""
    declaration = Declaration(
        dataset="clinic.care",
        title="Care received",
        unit="person_id",
        id_space="rand-hie",
        rows_per_unit=5,
        unique_key=("person_id", "year"),
        columns=(
            Column(name="person_id", type="integer"),
            Column(name="year", type="integer", domain=(1, 2, 3, 4, 5)),
            Column(name="doctor_visits", type="integer", lower="0", upper="20"),
            Column(name="admissions", type="integer", lower="0", upper="10", nullable=True),
        ),
    )
    return replace(declaration, **overrides)


def _columns(**operations: tuple[Operation, ...]) -> tuple[ColumnTerm, ...]:
    return tuple(ColumnTerm(column=column, operations=allowed) for column, allowed in operations.items())


def terms_insurer(**overrides: Any) -> Terms:
    """The insurer's conditions: spend may be summed and averaged, plan and sex may label cells."""
    terms = Terms(
        dataset="insurer.plans",
        assignees=("institute",),
        purposes=("public-health-research", "actuarial-review"),
        not_before=NOT_BEFORE,
        not_after=NOT_AFTER,
        columns=_columns(
            person_id=("join_key",),
            year=("join_key", "group_by", "output", "filter"),
            coinsurance=("group_by", "output", "filter", "count"),
            female=("filter",),
            medical_spend=("sum", "avg"),
        ),
        minimum_group=10,
        job_loss=parse_epsilon("1"),
        total_loss=parse_epsilon("3"),
        recipients=("institute",),
        enclave_kinds=("simulated",),
        measurements=(MEASUREMENT,),
    )
    return replace(terms, **overrides)


def terms_clinic(**overrides: Any) -> Terms:
    """The clinic's conditions: visits and admissions may be aggregated, cells hold at least 25 people."""
    own = {
        "dataset": "clinic.care",
        "columns": _columns(
            person_id=("join_key",),
            year=("join_key", "filter"),
            doctor_visits=("count", "sum", "avg", "filter"),
            admissions=("count", "avg", "filter"),
        ),
        "minimum_group": 25,
        "total_loss": parse_epsilon("2.5"),
    }
    return terms_insurer(**{**own, **overrides})


def terms_open(declaration: Declaration, **overrides: Any) -> Terms:
    """Terms that allow every operation on every column of `declaration`."""
    everything = {column.name: OPERATIONS for column in declaration.columns}
    return terms_insurer(**{"dataset": declaration.dataset, "columns": _columns(**everything), **overrides})


def party(name: str, *roles: Role, **overrides: Any) -> Party:
    """A signatory whose keys depend on its name only."""
    signatory = Party(id=name, roles=roles, signing_key=key_of(name + " signs"), sealing_key=key_of(name + " opens"))
    return replace(signatory, **overrides)


def parties() -> tuple[Party, ...]:
    """Insurer and clinic provide, the institute consumes, the auditor audits."""
    return (
        party("insurer", "provider"),
        party("clinic", "provider"),
        party("institute", "consumer"),
        party("auditor", "auditor"),
    )


def agreement(**overrides: Any) -> Agreement:
    """The agreement of all four about both datasets."""
    signed = Agreement(
        uid="rand-hie-2026",
        title="Coinsurance and use of care",
        log=LogIdentity(origin="sandbox.example/log", key=key_of("log")),
        parties=parties(),
        declarations=(declaration_insurer(), declaration_clinic()),
        terms=(terms_insurer(), terms_clinic()),
    )
    return replace(signed, **overrides)


def offer(**overrides: Any) -> Offer:
    """The insurer's offer of its dataset."""
    offered = Offer(uid="insurer-plans-2026", title="Plans and spend", declaration=declaration_insurer(), terms=terms_insurer())
    return replace(offered, **overrides)


def request(*, epsilon: str = "0.5", **overrides: Any) -> JobRequest:
    """The institute's request for `JOIN_SQL` under `agreement()`."""
    asked = JobRequest(
        request_id="request-0001",
        agreement=agreement_digest(agreement()),
        consumer="institute",
        purpose="public-health-research",
        sql=JOIN_SQL,
        loss=parse_epsilon(epsilon),
    )
    return replace(asked, **overrides)


def facts(**overrides: Any) -> Facts:
    """Both datasets are published, nothing is spent, and the agreed enclave stands ready."""
    stated = Facts(
        now=NOW,
        enclave_kind="simulated",
        measurement=MEASUREMENT,
        versions=(
            VersionFact(dataset="insurer.plans", version=3, file_digest=digest_of("plans v3")),
            VersionFact(dataset="clinic.care", version=1, file_digest=digest_of("care v1")),
        ),
        spent=(),
    )
    return replace(stated, **overrides)


def spent(amount: str, *, provider: str = "insurer", id_space: str = "rand-hie") -> SpentFact:
    """The fact that a ledger has paid `amount` epsilon."""
    return SpentFact(provider=provider, id_space=id_space, spent=parse_epsilon(amount))


def plan(sql: str = JOIN_SQL, signed: Agreement | None = None) -> Plan:
    """The plan of `sql` under `signed`, or under `agreement()`."""
    return parse_plan(sql, (signed or agreement()).by_dataset)

"""Insurers with claims of one schema, a notary who holds keys, and an analyst: an agreement with a pool, and claims at random."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from enclaves.kit.sealing import SealingKey
from enclaves.kit.signatures import SigningKey
from policies.agreement import Agreement, ColumnTerm, LogIdentity, Party, Terms
from policies.declaration import Column, Declaration
from policies.derive import Operation
from policies.joint import Pool
from policies.plan import parse_plan
from policies.privacy import Loss, parse_loss
from policies.query import Plan
from policies.request import Facts, JobRequest
from policies.training import Input, Linear, Training

REGIONS = ("north", "south")
BANDS = ("0-39", "40-64", "65+")
SQL = "SELECT region, age_band, COUNT(*) AS claims, SUM(amount) AS total, AVG(amount) AS mean FROM pool.claims GROUP BY region, age_band"
NOW = 1_780_272_000
MEASUREMENT = "sha256:" + "a1" * 32


MEASURED: tuple[Operation, ...] = ("sum", "avg", "count", "filter", "variance", "quantile", "covariance")


def insurers(count: int = 3) -> tuple[str, ...]:
    """Names of the contributors."""
    return tuple(f"insurer_{letter}" for letter in "abcdefghijklmnop"[:count])


def claims_declaration(provider: str, **changes: Any) -> Declaration:
    """One row per claim: person, number of the claim, region, age band, amount and days. Every insurer knows its own people."""
    declaration = Declaration(
        dataset=f"{provider}.claims",
        title=f"Claims of {provider}",
        unit="person",
        id_space=f"{provider.replace('_', '-')}-people",
        rows_per_unit=3,
        unique_key=("person", "claim"),
        columns=(
            Column(name="person", type="integer"),
            Column(name="claim", type="integer"),
            Column(name="region", type="text", domain=REGIONS),
            Column(name="age_band", type="text", domain=BANDS),
            Column(name="amount", type="decimal", decimals=2, lower="0", upper="5000"),
            Column(name="days", type="integer", lower="0", upper="60"),
        ),
    )
    return replace(declaration, **changes)


def claims_terms(provider: str, consumer: str = "analyst", **changes: Any) -> Terms:
    """Aggregates of amounts by region and age band, for a loss in rho. No enclave is agreed on."""
    operations: dict[str, tuple[Any, ...]] = {
        "region": ("group_by", "output", "filter"),
        "age_band": ("group_by", "output", "filter"),
        "amount": MEASURED,
        "days": MEASURED,
    }
    terms = Terms(
        dataset=f"{provider}.claims",
        assignees=(consumer,),
        purposes=("claims-statistics",),
        not_before=1_600_000_000,
        not_after=4_000_000_000,
        columns=tuple(ColumnTerm(column=name, operations=allowed) for name, allowed in operations.items()),
        minimum_group=5,
        job_loss=parse_loss("zcdp", "2"),
        total_loss=parse_loss("zcdp", "20"),
        recipients=(consumer,),
        enclave_kinds=(),
        measurements=(),
    )
    return replace(terms, **changes)


def teaching(provider: str, consumer: str = "analyst", **changes: Any) -> Terms:
    """Terms that allow models instead of totals: the amount is learned from the other columns, and may be a feature, too."""
    learned: dict[str, tuple[Operation, ...]] = {
        "region": ("feature",),
        "age_band": ("feature",),
        "days": ("feature",),
        "amount": ("label", "feature"),
    }
    columns = tuple(ColumnTerm(column=name, operations=allowed) for name, allowed in learned.items())
    return claims_terms(provider, consumer, columns=columns, **changes)


MODEL_SQL = "SELECT days, region, age_band, amount FROM pool.claims"
TRAINING = Training(
    learner=Linear(),
    features=(
        Input(column="days", encoding="scaled"),
        Input(column="region", encoding="categories"),
        Input(column="age_band", encoding="categories"),
    ),
    label=Input(column="amount", encoding="scaled", upper="1500"),
)


def claims_pool(names: tuple[str, ...], key_holder: str = "notary", **changes: Any) -> Pool:
    """All claims of these insurers."""
    pool = Pool(
        dataset="pool.claims",
        members=tuple(f"{name}.claims" for name in names),
        key_holder=key_holder,
        rows=10_000,
        noise="two-sided",
        coalition=0,
        dropout="rerun",
        fewest=2,
    )
    return replace(pool, **changes)


def distributed(names: tuple[str, ...], coalition: int = 1, **changes: Any) -> Pool:
    """The same with noise that contributors draw."""
    return claims_pool(names, noise="distributed", coalition=coalition, dropout="fail", **changes)


def agreement_of(
    names: tuple[str, ...], pool: Pool | None = None, keys: Mapping[str, tuple[SigningKey, SealingKey]] | None = None, **changes: Any
) -> Agreement:
    """The agreement of insurers, notary and analyst."""
    made = dict(keys or {name: (SigningKey.generate(), SealingKey.generate()) for name in (*names, "notary", "analyst")})
    roles: dict[str, tuple[Any, ...]] = {"notary": ("key_holder",), "analyst": ("consumer",)}
    agreement = Agreement(
        uid="claims",
        title="Claims by region and age",
        log=LogIdentity(origin="log.example/claims", key="0b" * 32),
        parties=tuple(
            Party(id=name, roles=roles.get(name, ("provider",)), signing_key=signing.public.hex(), sealing_key=sealing.public.hex())
            for name, (signing, sealing) in made.items()
        ),
        declarations=tuple(claims_declaration(name) for name in names),
        terms=tuple(claims_terms(name) for name in names),
        pools=(pool or claims_pool(names),),
    )
    return replace(agreement, **changes)


def pool_request(agreement: str, sql: str = SQL, loss: Loss | None = None, **changes: Any) -> JobRequest:
    """The analyst's request."""
    values = {
        "request_id": "request-0001",
        "agreement": agreement,
        "consumer": "analyst",
        "purpose": "claims-statistics",
        "sql": sql,
        "loss": loss or parse_loss("zcdp", "0.5"),
    }
    return JobRequest(**{**values, **changes})  # type: ignore[arg-type]


def pool_facts(**changes: Any) -> Facts:
    """Facts of a decision on a pool: no versions are published."""
    values = {"now": NOW, "enclave_kind": "simulated", "measurement": MEASUREMENT, "versions": (), "spent": ()}
    return Facts(**{**values, **changes})


def pool_plan(agreement: Agreement, sql: str = SQL) -> Plan:
    """The plan of a query."""
    return parse_plan(sql, agreement.by_dataset)


def claims_table(people: int, seed: int, first_person: int = 0) -> pa.Table:
    """Claims at random, one to three per person, amounts within their bounds."""
    draw, rows = random.Random(seed), []
    for person in range(people):
        for claim in range(draw.randint(1, 3)):
            days = draw.randint(0, 60)
            amount = round(min(5000.0, 20 * days + draw.lognormvariate(4, 1)), 2)
            rows.append((first_person + person, claim, draw.choice(REGIONS), draw.choice(BANDS), amount, days))
    names = ("person", "claim", "region", "age_band", "amount", "days")
    return pa.table({name: [row[index] for row in rows] for index, name in enumerate(names)})

"""Participants of one study on a running service: two providers with generated tables, an institute, an auditor and their agreement."""

from __future__ import annotations

import random
import secrets
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from policies.agreement import Agreement, ColumnTerm, Offer, Terms
from policies.codec import decode
from policies.declaration import Column, Declaration
from policies.isolation import Layer
from policies.privacy import Measure, parse_epsilon, parse_loss
from policies.request import JobRequest
from sandbox.party.agreeing import compose
from sandbox.party.client import Client
from sandbox.party.home import Home
from sandbox.party.publish import publish
from tests.support.service import Service

ROLES = ("insurer", "clinic", "institute", "auditor")
PURPOSE = "health-economics"
YEARS = (1, 2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class Market:
    """Four participants with one agreement on one service. Every market has names and ledgers of its own."""

    service: Service
    clients: dict[str, Client]
    codes: dict[str, str]
    tables: dict[str, pa.Table]
    offers: tuple[str, ...]
    composed: Agreement
    agreement: str
    used: list[str] = field(default_factory=list)

    @property
    def plans(self) -> str:
        """Name of the insurer's dataset."""
        return f"{self.name('insurer')}.plans"

    @property
    def care(self) -> str:
        """Name of the clinic's dataset."""
        return f"{self.name('clinic')}.care"

    @property
    def count_sql(self) -> str:
        """A query that reads the insurer alone."""
        return f"SELECT COUNT(*) AS person_years FROM {self.plans}"

    @property
    def join_sql(self) -> str:
        """A query over both providers."""
        return (
            f"SELECT coinsurance, COUNT(*) AS person_years, AVG(doctor_visits) AS visits "
            f"FROM {self.plans} JOIN {self.care} USING (person_id, year) GROUP BY coinsurance"
        )

    def name(self, role: str) -> str:
        """Id of the participant in that role."""
        return self.clients[role].home.participant

    def another(self, role: str) -> Client:
        """A second client of the same participant, for another thread."""
        return Client(home=self.clients[role].home)

    def request(self, sql: str | None = None, epsilon: str = "0.1", request_id: str | None = None, **changes: Any) -> JobRequest:
        """A request of the institute's; every request id asks one of the usual queries as a question of its own."""
        values = {
            "request_id": (name := request_id or "r-" + secrets.token_hex(8)),
            "agreement": self.agreement,
            "consumer": self.name("institute"),
            "purpose": PURPOSE,
            "sql": asked_as(name, sql or self.count_sql) if sql in (None, self.count_sql, self.join_sql) else sql,
            "loss": parse_epsilon(epsilon),
        }
        return JobRequest(**{**values, **changes})


def asked_as(name: str, sql: str) -> str:
    """A query without HAVING as a question that has not been asked before under another name, and is therefore run: it keeps every cell."""
    return f"{sql} HAVING COUNT(*) > -{10**12 + zlib.crc32(name.encode())}"


def open_market(service: Service, *, persons: int = 20, total: str = "100", per_job: str = "2", sign: bool = True) -> Market:
    """Admit four participants, publish both tables, make both offers and agree."""
    tag = service.next_tag()
    clients, codes = {}, {}
    for role in ROLES:
        name = f"{role}_{tag}"
        codes[role] = service.code(name)
        clients[role] = join(service, name, codes[role])
    tables = {"insurer": plans_table(persons), "clinic": care_table(persons)}
    declarations = {"insurer": plans_declaration(f"insurer_{tag}"), "clinic": care_declaration(f"clinic_{tag}")}
    measurement = clients["institute"].service()["enclave"]["measurement"]
    offers = []
    for role in ("insurer", "clinic"):
        publish(clients[role], declarations[role], tables[role])
        offer = offer_on(declarations[role], f"institute_{tag}", measurement, total=total, per_job=per_job)
        offers.append(clients[role].offer(offer)["digest"])
    composed = compose(clients["institute"], f"study-{tag}", "Coinsurance and use of care", offers, [f"auditor_{tag}"])
    agreement = clients["institute"].propose(composed)["digest"]
    if sign:
        for client in clients.values():
            client.sign_agreement(agreement)
    return Market(
        service=service, clients=clients, codes=codes, tables=tables, offers=tuple(offers), composed=composed, agreement=agreement
    )


def join(service: Service, name: str, code: str) -> Client:
    """Make a home and be admitted."""
    client = Client(home=fresh_home(service, name))
    client.join(code)
    return client


def fresh_home(service: Service, name: str) -> Home:
    """A home that was not admitted yet."""
    return Home.create(service.folder / "homes" / secrets.token_hex(4) / name, name, f"The {name}", service.url)


def plans_declaration(provider: str, name: str = "plans") -> Declaration:
    """One row per person and year: plan and spending."""
    return Declaration(
        dataset=f"{provider}.{name}",
        title="Insurance plans and spending",
        unit="person_id",
        id_space="study-person",
        rows_per_unit=5,
        unique_key=("person_id", "year"),
        columns=(
            Column(name="person_id", type="integer"),
            Column(name="year", type="integer", domain=YEARS),
            Column(name="coinsurance", type="integer", domain=(0, 25, 95)),
            Column(name="medical_spend", type="decimal", decimals=2, lower="0", upper="2000"),
        ),
    )


def care_declaration(provider: str) -> Declaration:
    """One row per person and year: visits, and a remark that no term opens to any use."""
    return Declaration(
        dataset=f"{provider}.care",
        title="Care received",
        unit="person_id",
        id_space="study-person",
        rows_per_unit=5,
        unique_key=("person_id", "year"),
        columns=(
            Column(name="person_id", type="integer"),
            Column(name="year", type="integer", domain=YEARS),
            Column(name="doctor_visits", type="integer", lower="0", upper="20"),
            Column(name="remark", type="text"),
        ),
    )


def offer_on(
    declaration: Declaration,
    consumer: str,
    measurement: str,
    *,
    total: str,
    per_job: str,
    uid: str = "research",
    isolation: tuple[Layer, ...] = (),
    measure: Measure = "pure",
) -> Offer:
    """Terms that allow aggregates of everything but the remark, and in rho to train on it."""
    operations = {
        "person_id": ("join_key",),
        "year": ("join_key", "filter", "group_by", "output"),
        "coinsurance": ("group_by", "output", "filter"),
        "medical_spend": ("avg", "sum"),
        "doctor_visits": ("avg", "sum", "count", "filter"),
    }
    taught = {"coinsurance": ("feature",), "doctor_visits": ("feature",), "medical_spend": ("label",)} if measure == "zcdp" else {}
    listed = {name: [*allowed, *taught.get(name, ())] for name, allowed in operations.items()}
    columns = [{"column": c.name, "operations": listed[c.name]} for c in declaration.columns if c.name in listed]
    return Offer(
        uid=uid,
        title="Aggregate statistics",
        declaration=declaration,
        terms=Terms(
            dataset=declaration.dataset,
            assignees=(consumer,),
            purposes=(PURPOSE,),
            not_before=1_600_000_000,
            not_after=4_000_000_000,
            columns=decode(tuple[ColumnTerm, ...], columns),
            minimum_group=5,
            job_loss=parse_loss(measure, per_job),
            total_loss=parse_loss(measure, total),
            recipients=(consumer,),
            enclave_kinds=("simulated",),
            measurements=(measurement,),
            isolation=isolation,
        ),
    )


def plans_table(persons: int, seed: int = 1) -> pa.Table:
    """Plans and spending, drawn at random."""
    draw = random.Random(seed)
    rates = {person: draw.choice((0, 25, 95)) for person in range(persons)}
    rows = [(person, year) for person in range(persons) for year in YEARS]
    return pa.table(
        {
            "person_id": [770_000_000_000 + person for person, _ in rows],
            "year": [year for _, year in rows],
            "coinsurance": [rates[person] for person, _ in rows],
            "medical_spend": [round(draw.lognormvariate(5, 1.2), 2) for _ in rows],
        }
    )


def care_table(persons: int, seed: int = 2) -> pa.Table:
    """Visits, drawn at random, and a remark that stands nowhere else in the world."""
    draw = random.Random(seed)
    rows = [(person, year) for person in range(persons) for year in YEARS]
    return pa.table(
        {
            "person_id": [770_000_000_000 + person for person, _ in rows],
            "year": [year for _, year in rows],
            "doctor_visits": [min(20, int(draw.expovariate(0.3))) for _ in rows],
            "remark": [f"remark-{draw.getrandbits(64):016x}" for _ in rows],
        }
    )


def write_plaintext(table: pa.Table, path: Path) -> Path:
    """Write a table as an ordinary, readable and uncompressed Parquet file."""
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="none", use_dictionary=False)
    return path

"""Long honest logs, made without running an enclave: every document is really signed, every decision really derived.

`write(folder, entries)` writes an export as `sandbox log export` would. Several jobs are under way at any time; most join two providers'
data, one in twenty is denied and one in twenty asks again what was answered. Sealed releases are random digests: a log names nothing else.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from benchmarks._log_folder import LogFolder
from enclaves.kit.appraisal import EVIDENCE_PURPOSE, STATEMENT_PURPOSE, evidence_digest
from enclaves.kit.envelope import Purpose, Signed, document_digest, sign_document
from enclaves.kit.signatures import SigningKey
from policies.agreement import Agreement, ColumnTerm, LogIdentity, Party, Terms
from policies.canonical import canonical, digest, digest_bytes
from policies.codec import encode
from policies.decide import LAW_VERSION, decide
from policies.declaration import Column, Declaration
from policies.derive import OPERATIONS
from policies.documents import Admission, AgreementSignature, KeyReleaseStatement, VersionManifest
from policies.entries import EntryKind, LedgerCharge
from policies.finding import Decision
from policies.grant import Grant, grant_text, ledgers_charged, make_grant
from policies.granted import job_id
from policies.odrl import agreement_document
from policies.plan import PARSER_VERSION, parse_plan
from policies.privacy import Loss, parse_epsilon
from policies.query import Plan
from policies.request import Facts, JobRequest, SpentFact, VersionFact
from policies.statement import Evidence, Nonce, SignedEvidence, SignedStatement, Statement

ORIGIN = "log.example/history"
MEASUREMENT = "sha256:" + hashlib.sha256(b"a measured enclave").hexdigest()
PROVIDERS = ("north", "south", "east", "west")
CONSUMERS = ("institute", "bureau", "college")
UNDER_WAY = 6
START_MS = 1_780_272_000_000

Violation = Literal["flipped-decision", "hidden-charge", "unpaid-release", "forged-request"]
"""What can be planted: a denial logged as allowed, facts that hide a charge, a release without a charge, a request nobody signed."""


@dataclass(frozen=True, kw_only=True)
class Firm:
    """One participant."""

    id: str
    signing: SigningKey
    sealing: str

    @classmethod
    def named(cls, name: str) -> Firm:
        """The firm of that name; its keys follow from the name."""
        seed = hashlib.sha256(b"signing key of " + name.encode()).digest()
        return cls(id=name, signing=SigningKey.from_bytes(seed), sealing=_hex(f"sealing key of {name}"))

    def sign(self, purpose: Purpose, body: Any) -> Signed:
        """A document signed by this firm."""
        return sign_document(purpose, self.id, body, self.signing)


@dataclass(kw_only=True)
class Market:
    """Everybody, and what happened so far."""

    log: LogFolder
    key: SigningKey
    draw: random.Random
    firms: dict[str, Firm] = field(default_factory=dict)
    agreements: dict[str, Agreement] = field(default_factory=dict)
    versions: dict[str, VersionFact] = field(default_factory=dict)
    spent: dict[tuple[str, str], int] = field(default_factory=dict)
    of_consumers: dict[tuple[str, str, str], int] = field(default_factory=dict)
    answered: list[tuple[JobRequest, str]] = field(default_factory=list)
    jobs: int = 0
    signatures: int = 0
    at: int = START_MS

    def append(self, kind: EntryKind, ids: dict[str, str], body: Any, losses: tuple[LedgerCharge, ...] = ()) -> int:
        """Append an entry a little later than the one before."""
        self.at += self.draw.randint(20, 400)
        return self.log.append(kind, self.at, ids, encode(body), losses)

    def open(self) -> None:
        """Admissions, datasets and agreements: every two providers with every consumer."""
        for name in (*PROVIDERS, *CONSUMERS, "auditor"):
            firm = self.firms[name] = Firm.named(name)
            admission = Admission(
                participant=name,
                title=name.title(),
                signing_key=firm.signing.public.hex(),
                sealing_key=firm.sealing,
                code_digest=_digest(f"code {name}"),
                credential_digest=_digest(f"credential {name}"),
            )
            self.append("admitted", {"participant": name}, {"signed": firm.sign("admission", admission)})
        for name in PROVIDERS:
            signed = self.firms[name].sign("declaration", declaration(name))
            self.append("declared", {"dataset": f"{name}.visits", "declaration": document_digest(signed)}, {"signed": signed})
            self.publish(name)
        for left, right in zip(PROVIDERS, (*PROVIDERS[1:], PROVIDERS[0]), strict=True):
            for consumer in CONSUMERS:
                self.agree(left, right, consumer)

    def publish(self, provider: str) -> None:
        """The next version of a provider's dataset."""
        dataset = f"{provider}.visits"
        version = self.versions[dataset].version + 1 if dataset in self.versions else 1
        file = _digest(f"{dataset} {version}")
        columns = tuple(column.name for column in declaration(provider).columns)
        manifest = VersionManifest(dataset=dataset, version=version, file_digest=file, size=1 << 20, columns=columns)
        signed = self.firms[provider].sign("version", manifest)
        self.append("published", {"dataset": dataset, "version": str(version), "file": file}, {"signed": signed})
        self.versions[dataset] = VersionFact(dataset=dataset, version=version, file_digest=file)

    def agree(self, left: str, right: str, consumer: str) -> None:
        """An agreement of two providers with a consumer, signed by all."""
        roles = {left: "provider", right: "provider", consumer: "consumer", "auditor": "auditor"}
        parties = tuple(
            Party(id=name, roles=(role,), signing_key=self.firms[name].signing.public.hex(), sealing_key=self.firms[name].sealing)
            for name, role in roles.items()
        )
        agreement = Agreement(
            uid=f"{left}-{right}-{consumer}",
            title=f"Visits of {left} and {right}",
            log=LogIdentity(origin=ORIGIN, key=self.key.public.hex()),
            parties=parties,
            declarations=(declaration(left), declaration(right)),
            terms=(terms(left, consumer), terms(right, consumer)),
        )
        signed = self.firms[left].sign("agreement", agreement_document(agreement))
        name = document_digest(signed)
        self.append("proposed", {"agreement": name, "participant": left}, {"signed": signed})
        for party in parties:
            signature = self.firms[party.id].sign("agreement-signature", AgreementSignature(agreement=name))
            self.append("signed", {"agreement": name, "participant": party.id}, {"signed": signature})
        self.append("agreed", {"agreement": name}, {"agreement": name})
        self.agreements[name] = agreement


def write(folder: Path, entries: int, *, seed: int = 1, plant: Violation | None = None) -> Market:
    """Write an export of about `entries` entries (up to the end of the jobs under way); with one violation in the middle if asked."""
    key = SigningKey.from_bytes(hashlib.sha256(b"log key %d" % seed).digest())
    market = Market(log=LogFolder(folder=folder, origin=ORIGIN), key=key, draw=random.Random(seed))
    market.open()
    under_way: list[Iterator[None]] = []
    while market.log.size < entries or under_way:
        if market.log.size < entries and len(under_way) < UNDER_WAY:
            now = plant if plant and market.log.size > entries // 2 else None
            plant = None if now else plant
            under_way.append(job(market, now))
        chosen = under_way[market.draw.randrange(len(under_way))]
        if next(chosen, "ended") == "ended":
            under_way.remove(chosen)
        if market.draw.random() < 0.0005:
            market.publish(market.draw.choice(PROVIDERS))
    market.log.close(key)
    return market


def job(market: Market, plant: Violation | None = None) -> Iterator[None]:
    """One job from its request to its end, step by step."""
    market.jobs += 1
    request, repeats = _request(market, plant)
    agreement = market.agreements[request.agreement]
    plan = _plan(request.sql, request.agreement, agreement)
    ledgers = ledgers_charged(agreement, plan)
    facts = _facts(market, request, plan, ledgers, repeats, plant)
    signer = "auditor" if plant == "forged-request" else request.consumer
    signed = sign_document("job-request", request.consumer, request, market.firms[signer].signing)
    asked = document_digest(signed)
    name = job_id(asked)
    decision = decide(request, agreement, plan, facts)
    if plant == "flipped-decision":
        decision = Decision(allowed=True, minimum_group=decision.minimum_group, findings=tuple(f for f in decision.findings if f.allowed))
    ids = {"job": name, "agreement": request.agreement}
    body = {"signed": signed, "plan": plan, "facts": facts, "decision": decision, "law": LAW_VERSION, "parser": PARSER_VERSION}
    market.append("decided", {**ids, "request": asked, "allowed": "yes" if decision.allowed else "no"}, body)
    market.signatures += 1
    if not decision.allowed:
        return
    if repeats is not None:
        market.append("repeated", {**ids, "of": repeats}, {"job": name, "of": repeats})
        return
    grant = make_grant(request.agreement, asked, request, agreement, plan, facts, decision)
    yield from _run(market, request, grant, ledgers, charged=plant != "unpaid-release")


def _run(market: Market, request: JobRequest, grant: Grant, ledgers: tuple[tuple[str, str], ...], *, charged: bool) -> Iterator[None]:
    ids, granted = {"job": grant.job, "agreement": grant.agreement}, digest_bytes(grant_text(grant))
    if charged:
        losses = tuple(LedgerCharge(provider=p, id_space=space, amount=request.loss.amount) for p, space in ledgers)
        for provider, space in ledgers:
            market.spent[provider, space] = market.spent.get((provider, space), 0) + request.loss.amount
            key = (provider, space, request.consumer)
            market.of_consumers[key] = market.of_consumers.get(key, 0) + request.loss.amount
        market.append("charged", {**ids, "grant": granted, "consumer": request.consumer}, {"job": grant.job}, losses)
    market.append("granted", {**ids, "grant": granted}, {"grant": grant})
    yield
    market.append("running", ids, {"worker": f"worker-{market.draw.randrange(8)}"})
    yield
    signing, providers = SigningKey.generate(), sorted({read.provider for read in grant.reads})
    evidence = Evidence(
        kind="simulated",
        measurement=MEASUREMENT,
        nonces=tuple(Nonce(provider=provider, value=_hex(f"{grant.job} {provider}")) for provider in providers),
        grant=granted,
        sealing_key=_hex(grant.job),
        signing_key=signing.public.hex(),
    )
    signed = SignedEvidence(evidence=evidence, signature=signing.sign(EVIDENCE_PURPOSE, canonical(encode(evidence))).hex())
    named = {"grant": granted, "evidence": evidence_digest(signed)}
    market.append("attested", {"job": grant.job, **named, "measurement": MEASUREMENT}, {"evidence": signed})
    for provider in providers:
        yield
        release = KeyReleaseStatement(
            job=grant.job, grant=granted, evidence=named["evidence"], sealed=_digest(f"keys {grant.job} {provider}")
        )
        body = {"signed": market.firms[provider].sign("key-release", release)}
        market.append("key_released", {"job": grant.job, "provider": provider, **named}, body)
    yield
    statement = Statement(**named, sealed=_digest(f"sealed {grant.job}"), withheld=None, statistics=grant.statistics, loss=grant.loss)
    outcome = SignedStatement(statement=statement, signature=signing.sign(STATEMENT_PURPOSE, canonical(encode(statement))).hex())
    market.append(
        "released", {**ids, **named, "statement": digest(encode(outcome)), "sealed": str(statement.sealed)}, {"statement": outcome}
    )
    market.signatures += 2 + len(providers)
    market.answered = [*market.answered[-20:], (request, grant.job)]


def _request(market: Market, plant: Violation | None) -> tuple[JobRequest, str | None]:
    """A request, and the job that answered the very same one before, if it is a repetition."""
    draw, number = market.draw, f"request-{market.jobs:08d}"
    if plant is None and market.answered and draw.random() < 0.05:
        before, answered = draw.choice(market.answered)
        agreement = market.agreements[before.agreement]
        fresh = {name: market.versions[name] for name in agreement.by_dataset}
        if all(version.version == 1 for version in fresh.values()):
            return replace(before, request_id=number), answered
    name = draw.choice(list(market.agreements))
    agreement = market.agreements[name]
    left, right = (item.provider for item in agreement.declarations)
    denied = plant == "flipped-decision" or (plant is None and draw.random() < 0.05)
    consumer = next(party.id for party in agreement.parties if "consumer" in party.roles)
    loss = parse_epsilon("0.5") if denied else Loss(amount=draw.randint(500_000, 1_500_000))
    return JobRequest(
        request_id=number, agreement=name, consumer=consumer, purpose="planning", sql=_sql(draw, left, right), loss=loss
    ), None


def _sql(draw: random.Random, left: str, right: str) -> str:
    """Half of the queries are a dashboard's, the other half are typed by hand and hardly ever come twice."""
    typed = draw.random() < 0.5
    over, year = (
        (draw.randrange(2_000_000) / 1000, draw.randint(2015, 2025)) if typed else (draw.choice((0, 100)), draw.randint(2020, 2025))
    )
    if draw.random() < 0.25:
        return (
            f"SELECT region, COUNT(*) AS visits, AVG(amount) AS amount FROM {left}.visits "
            f"WHERE year = {year} AND amount > {over} GROUP BY region"
        )
    return (
        f"SELECT a.region, COUNT(*) AS visits, SUM(a.amount) AS spent, AVG(b.amount) AS other FROM {left}.visits a "
        f"JOIN {right}.visits b USING (person_id, year) WHERE a.year = {year} AND b.amount > {over} GROUP BY a.region"
    )


def _facts(
    market: Market, request: JobRequest, plan: Plan, ledgers: tuple[tuple[str, str], ...], repeats: str | None, plant: Violation | None
) -> Facts:
    hidden = request.loss.amount if plant == "hidden-charge" else 0
    spent = tuple(SpentFact(provider=p, id_space=s, spent=Loss(amount=market.spent.get((p, s), 0) - hidden)) for p, s in ledgers)
    own = tuple(
        SpentFact(provider=p, id_space=s, spent=Loss(amount=market.of_consumers.get((p, s, request.consumer), 0))) for p, s in ledgers
    )
    return Facts(
        now=market.at // 1000,
        enclave_kind="simulated",
        measurement=MEASUREMENT,
        versions=tuple(market.versions[dataset] for dataset in plan.sources),
        spent=spent,
        consumer_spent=own,
        repeats=repeats,
    )


@cache
def declaration(provider: str) -> Declaration:
    """Visits: one row per person and year."""
    return Declaration(
        dataset=f"{provider}.visits",
        title=f"Visits to {provider}",
        unit="person_id",
        id_space="persons",
        rows_per_unit=10,
        unique_key=("person_id", "year"),
        columns=(
            Column(name="person_id", type="integer"),
            Column(name="year", type="integer", domain=tuple(range(2015, 2026))),
            Column(name="region", type="integer", domain=tuple(range(10))),
            Column(name="amount", type="decimal", decimals=3, lower="0", upper="2000"),
        ),
    )


@cache
def terms(provider: str, consumer: str) -> Terms:
    """Small losses, many jobs."""
    return Terms(
        dataset=f"{provider}.visits",
        assignees=(consumer,),
        purposes=("planning", "research"),
        not_before=1_700_000_000,
        not_after=4_000_000_000,
        columns=tuple(ColumnTerm(column=column.name, operations=OPERATIONS) for column in declaration(provider).columns),
        minimum_group=20,
        job_loss=parse_epsilon("0.01"),
        total_loss=parse_epsilon("100"),
        recipients=(consumer,),
        enclave_kinds=("simulated",),
        measurements=(MEASUREMENT,),
        consumer_loss=parse_epsilon("100"),
    )


_PLANS: dict[tuple[str, str], Plan] = {}


def _plan(sql: str, name: str, agreement: Agreement) -> Plan:
    if len(_PLANS) > 5000:
        _PLANS.clear()
    if (sql, name) not in _PLANS:
        _PLANS[sql, name] = parse_plan(sql, agreement.by_dataset)
    return _PLANS[sql, name]


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(text: str) -> str:
    return "sha256:" + _hex(text)

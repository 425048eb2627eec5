"""Grants, sealed keys and participants inside one process: what tests of enclaves, brokers and homes build on.

`Bench` is one run's worth of files, keys and identity without a host. `Town` is a host on a real store with participants whose clients
reach it without a network, so that a test can answer in the host's place.
"""

from __future__ import annotations

import io
import json as json_library
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import pyarrow as pa
import requests
from flask import Flask

from app import compose as compose_host
from enclaves.evidence import Identity, attest_simulated
from enclaves.kit.appraisal import appraise, key_release_info
from enclaves.kit.columns import FOOTER, encrypt_table
from enclaves.kit.measure import checkout_root, measurement
from enclaves.kit.sealing import SealingKey, seal
from enclaves.kit.signatures import SigningKey
from enclaves.run import Inputs
from policies.agreement import Agreement
from policies.canonical import canonical, digest_bytes
from policies.declaration import Declaration
from policies.grant import Grant, grant_digest
from policies.granted import Read, Recipient
from policies.isolation import Layer
from policies.odrl import agreement_digest
from policies.plan import parse_plan
from policies.privacy import Loss, Measure, parse_epsilon
from policies.query import Plan, columns_read
from policies.request import JobRequest
from policies.schedule import schedule
from policies.statement import Nonce
from policies.training import Training
from sandbox.config import Config
from sandbox.exchange.participants import issue_code
from sandbox.host import Host
from sandbox.jobs.record import record_evidence
from sandbox.jobs.states import Job
from sandbox.jobs.worker import Worker
from sandbox.party.agreeing import compose
from sandbox.party.broker import Broker
from sandbox.party.client import Client
from sandbox.party.home import Home
from sandbox.party.publish import publish
from sandbox.web.application import make_app
from tests.support import market, terms

NOBODY = "sha256:" + "0" * 64


def grant_for(
    plan: Plan, declarations: Mapping[str, Declaration], *, loss: Loss | None = None, minimum_group: int = 1, **changes: Any
) -> Grant:
    """The grant that `plan` and `loss` entail, under no agreement: for code that looks at plan, statistics and reads only."""
    known, loss = dict(declarations), loss or parse_epsilon("1")
    columns = columns_read(plan, known)
    reads = tuple(
        Read(dataset=name, provider=known[name].provider, version=1, file_digest=NOBODY, columns=columns[name]) for name in plan.sources
    )
    grant = Grant(
        job="job-1",
        agreement=NOBODY,
        request=NOBODY,
        plan=plan,
        reads=reads,
        statistics=schedule(plan, known, loss, minimum_group),
        loss=loss,
        minimum_group=minimum_group,
        recipient=Recipient(id="institute", sealing_key=terms.key_of("institute opens")),
        enclave_kind="simulated",
        measurement=terms.MEASUREMENT,
    )
    return replace(grant, **changes)


@dataclass
class Bench:
    """Everything that one run needs, with real keys, and nothing that judges it.

    Attributes:
        tables: plaintext by dataset; `files` and `keys` are their encryption as version 1.
    """

    agreement: Agreement
    grant: Grant
    identity: Identity
    tables: dict[str, pa.Table]
    files: dict[str, bytes]
    keys: dict[str, dict[str, bytes]]
    consumer: SealingKey
    nonces: tuple[Nonce, ...]

    def sealed_keys(
        self,
        *,
        grant: Grant | None = None,
        evidence: str | None = None,
        nonces: Mapping[str, str] | None = None,
        to: bytes | None = None,
    ) -> dict[str, bytes]:
        """By provider, the granted columns' keys sealed as its broker would, or bound to something else, or `to` another key."""
        grant, sealed = grant or self.grant, {}
        for provider in sorted({read.provider for read in grant.reads}):
            held = {
                read.dataset: {name: self.keys[read.dataset][name].hex() for name in (FOOTER, *read.columns)}
                for read in grant.reads
                if read.provider == provider
            }
            nonce = (nonces or {nonce.provider: nonce.value for nonce in self.nonces})[provider]
            info = key_release_info(nonce, grant_digest(grant), evidence or self.identity.digest)
            sealed[provider] = seal(to or self.identity.sealing.public, canonical(held), info)
        return sealed

    def inputs(self, **changes: Any) -> Inputs:
        """What an honest host hands to the enclave."""
        return replace(Inputs(sealed_keys=self.sealed_keys(), files=dict(self.files)), **changes)


def encrypted(table: pa.Table, dataset: str, *, version: int = 1, keys: dict[str, bytes] | None = None) -> tuple[bytes, dict[str, bytes]]:
    """A table as an encrypted file, and its column keys."""
    keys = keys or {name: os.urandom(32) for name in (FOOTER, *table.column_names)}
    sink = io.BytesIO()
    encrypt_table(table, sink, dataset=dataset, version=version, keys=keys)
    return sink.getvalue(), keys


def bench(
    tables: dict[str, pa.Table] | None = None,
    *,
    sql: str = terms.JOIN_SQL,
    epsilon: str = "1",
    minimum_group: int = 1,
    training: Training | None = None,
    loss: Loss | None = None,
) -> Bench:
    """Lay out one run under the agreement of `tests.support.terms` with real keys and a minimum group of one's own."""
    tables = tables or {"insurer.plans": plans(40), "clinic.care": care(40)}
    consumer = SealingKey.generate()
    parties = tuple(
        replace(
            party,
            signing_key=SigningKey.generate().public.hex(),
            sealing_key=(consumer if party.id == "institute" else SealingKey.generate()).public.hex(),
        )
        for party in terms.parties()
    )
    agreement = terms.agreement(
        parties=parties, terms=(terms.terms_insurer(minimum_group=minimum_group), terms.terms_clinic(minimum_group=minimum_group))
    )
    files, keys = {}, {}
    for dataset, table in tables.items():
        files[dataset], keys[dataset] = encrypted(table, dataset)
    grant = grant_for(
        terms.plan(sql, agreement) if training is None else parse_plan(sql, agreement.by_dataset, training),
        agreement.by_dataset,
        loss=loss or parse_epsilon(epsilon),
        minimum_group=minimum_group,
        agreement=agreement_digest(agreement),
        recipient=Recipient(id="institute", sealing_key=consumer.public.hex()),
    )
    grant = replace(grant, reads=tuple(replace(read, file_digest=digest_bytes(files[read.dataset])) for read in grant.reads))
    nonces = tuple(Nonce(provider=name, value=os.urandom(32).hex()) for name in ("clinic", "insurer"))
    identity = attest_simulated(grant, nonces, terms.MEASUREMENT)
    return Bench(
        agreement=agreement, grant=grant, identity=identity, tables=tables, files=files, keys=keys, consumer=consumer, nonces=nonces
    )


def replace_identity(laid: Bench, identity: Identity) -> Bench:
    """The same bench with another enclave."""
    return replace(laid, identity=identity)


def replace_grant(laid: Bench, **changes: Any) -> Bench:
    """The same bench with another grant and a fresh enclave bound to it."""
    grant = replace(laid.grant, **changes)
    return replace(laid, grant=grant, identity=attest_simulated(grant, laid.nonces, grant.measurement))


def plans(people: int) -> pa.Table:
    """`insurer.plans` with two years per person."""
    rows = [(person, year) for person in range(people) for year in (1, 2)]
    return pa.table(
        {
            "person_id": pa.array([person for person, _ in rows], pa.int64()),
            "year": pa.array([year for _, year in rows], pa.int64()),
            "coinsurance": pa.array([(0, 25, 50, 95, 100)[person % 5] for person, _ in rows], pa.int64()),
            "female": pa.array([person // 2 % 2 for person, _ in rows], pa.int64()),
            "medical_spend": pa.array([float(person * 3 % 700) for person, _ in rows], pa.float64()),
        }
    )


def care(people: int) -> pa.Table:
    """`clinic.care` with two years per person."""
    rows = [(person, year) for person in range(people) for year in (1, 2)]
    return pa.table(
        {
            "person_id": pa.array([person for person, _ in rows], pa.int64()),
            "year": pa.array([year for _, year in rows], pa.int64()),
            "doctor_visits": pa.array([person % 13 for person, _ in rows], pa.int64()),
            "admissions": pa.array([None if person % 4 == 0 else person % 3 for person, _ in rows], pa.int64()),
        }
    )


# A host and participants in one process


@dataclass
class Answer:
    """As much of a `requests.Response` as the client reads."""

    status_code: int
    content: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json_library.loads(self.content)


@dataclass
class Direct:
    """Stands for `requests.Session`: hands a request to the application in this process.

    Attributes:
        doctor: sees (method, path with query, answer) and returns the answer that the client gets; it may raise in the network's place.
    """

    app: Flask
    doctor: Callable[[str, str, Answer], Answer] = lambda method, path, answer: answer
    sent: list[tuple[str, str]] = field(default_factory=list)

    def request(
        self, method: str, url: str, *, headers: dict[str, str], timeout: float, json: Any = None, data: Any = None, params: Any = None
    ) -> Answer:
        """Ask the application."""
        parts = urlsplit(url)
        path = parts.path.removeprefix("/api/v1") + (f"?{parts.query}" if parts.query else "")
        body = None if data is None else b"".join(data)
        with self.app.test_client().open(
            f"{parts.path}?{urlencode(params) if params else parts.query}", method=method, headers=headers, json=json, data=body
        ) as response:
            answer = Answer(response.status_code, response.get_data())
        self.sent.append((method, path))
        return self.doctor(method, path, answer)


@dataclass
class Town:
    """A host, an insurer, a clinic, an institute and an auditor with one signed agreement, below one folder."""

    folder: Path
    host: Host
    app: Flask
    clients: dict[str, Client]
    agreement: str = ""
    composed: Agreement | None = None

    def session(self, name: str) -> Direct:
        """How that participant reaches the host."""
        return cast(Direct, self.clients[name].session)

    def again(self, name: str) -> Client:
        """A second client on the same home, as after a restart."""
        return self.client(self.clients[name].home)

    def client(self, home: Home) -> Client:
        """A client of this host."""
        session: Any = Direct(self.app)
        return Client(home=home, session=session)

    def broker(self, name: str, **arguments: Any) -> Broker:
        """A broker of that participant."""
        return Broker(client=self.clients[name], **arguments)

    def request(self, label: str, sql: str = "", epsilon: str = "0.5", **changes: Any) -> JobRequest:
        """A request of the institute's; every label asks one of the usual queries as a question of its own."""
        query = sql or JOIN_SQL
        request = JobRequest(
            request_id=f"request-{label}",
            agreement=self.agreement,
            consumer="institute",
            purpose=market.PURPOSE,
            sql=market.asked_as(label, query) if query in (JOIN_SQL, COUNT_SQL) else query,
            loss=parse_epsilon(epsilon),
        )
        return replace(request, **changes)

    def spent(self) -> dict[str, int]:
        """Nano-epsilon paid by provider."""
        with self.host.store.reading() as tx:
            return {provider: loss.amount for (provider, _), loss in tx.spent().items()}

    def job(self, job_id: str) -> Job:
        """A job as the host holds it."""
        with self.host.store.reading() as tx:
            found = tx.job(job_id)
        assert found is not None
        return found

    def headers(self, kind: str, job_id: str) -> list[dict[str, Any]]:
        """The log's headers of one kind about one job."""
        with self.host.store.reading() as tx:
            found = [json_library.loads(data) for data in tx.entries(0, tx.log_size())]
        return [header for header in found if header["kind"] == kind and header["ids"].get("job") == job_id]

    def charged(self, label: str, **request: Any) -> str:
        """Submit a request of the institute's and return the charged job's id."""
        job = self.clients["institute"].submit(self.request(label, **request))
        assert job["state"] == "charged"
        return str(job["id"])

    def attested(self, job_id: str, **broker: Any) -> Identity:
        """Take a charged job, have both brokers challenge it and store its evidence; returns the enclave's identity."""
        taken = Worker(host=self.host)._take()
        assert taken is not None
        assert taken.id == job_id
        assert taken.grant is not None
        for name in ("insurer", "clinic"):
            self.broker(name, **broker).step()
        with self.host.store.reading() as tx:
            nonces = tuple(Nonce(provider=r.provider, value=r.nonce) for r in tx.key_requests(job_id) if r.nonce)
        identity = attest_simulated(taken.grant, nonces, self.host.measurement)
        attested = appraise(identity.evidence, grant=taken.grant, kinds=["simulated"], measurements=[taken.grant.measurement], nonce=None)
        record_evidence(self.host, taken, identity.evidence, attested)
        return identity

    def journal(self, name: str) -> list[dict[str, Any]]:
        """What a participant's journal holds."""
        path = self.clients[name].home.folder / "journal.jsonl"
        return [json_library.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def refusals(self, name: str) -> list[str]:
        """The codes of what a participant's journal says it refused; a broker that goes on also notes what became of the job."""
        return [note["code"] for note in self.journal(name) if note["event"] == "refused"]

    def close(self) -> None:
        """Close the store."""
        self.host.store.close()


JOIN_SQL = (
    "SELECT coinsurance, COUNT(*) AS person_years, AVG(doctor_visits) AS visits "
    "FROM insurer.plans JOIN clinic.care USING (person_id, year) GROUP BY coinsurance"
)
COUNT_SQL = "SELECT COUNT(*) AS person_years FROM insurer.plans"


def found_town(
    folder: Path,
    *,
    persons: int = 30,
    total: str = "3",
    per_job: str = "1",
    isolation: tuple[Layer, ...] = (),
    measure: Measure = "pure",
    refresh: int | None = None,
    quantum: Mapping[str, int] = MappingProxyType({}),
    **config: Any,
) -> Town:
    """Admit everybody, publish both tables and sign the agreement.

    Args:
        isolation: what both providers require.
        refresh: days after which a charge on their whole budget counts no more.
        quantum: seconds at whose multiples a run's end may be told, of the providers whose terms say so.
    """
    town = open_town(folder, homes=(), **config)
    for name in market.ROLES:
        client = town.client(Home.create(folder / "homes" / name, name, f"The {name}", "http://host.test"))
        client.join(issue_code(town.host, name))
        town.clients[name] = client
    declarations = {"insurer": market.plans_declaration("insurer"), "clinic": market.care_declaration("clinic")}
    tables = {"insurer": market.plans_table(persons), "clinic": market.care_table(persons)}
    offers = []
    for name, declaration in declarations.items():
        publish(town.clients[name], declaration, tables[name])
        offer = market.offer_on(
            declaration, "institute", measurement(checkout_root()), total=total, per_job=per_job, isolation=isolation, measure=measure
        )
        offer = replace(offer, terms=replace(offer.terms, total_refresh=refresh, quantum=quantum.get(name)))
        offers.append(town.clients[name].offer(offer)["digest"])
    composed = compose(town.clients["institute"], "study", "Coinsurance and use of care", offers, ["auditor"])
    town.agreement = town.clients["institute"].propose(composed)["digest"]
    for client in town.clients.values():
        client.sign_agreement(town.agreement)
    town.composed = composed
    return town


def open_town(
    folder: Path, *, homes: tuple[str, ...] = market.ROLES, on_step: Callable[[str], None] = lambda step: None, **config: Any
) -> Town:
    """The town whose folder that is, as after a restart of everything."""
    settings: dict[str, Any] = {"keys_timeout_s": 20.0, "poll_s": 0.02, "address_rate": 0.0, "credential_rate": 0.0, **config}
    host = compose_host(Config(data=folder / "service", origin="town.test/log", **settings), on_step)
    town = Town(folder=folder, host=host, app=make_app(host), clients={})
    town.clients = {name: town.client(Home.open(folder / "homes" / name)) for name in homes}
    if homes:
        town.agreement = town.clients["institute"].agreements()[0]["digest"]
        town.composed, _ = town.clients["institute"].agreement(town.agreement)
    return town


def copy_town(template: Path, folder: Path, **config: Any) -> Town:
    """A town of its own that begins as a closed one ended."""
    shutil.copytree(template, folder)
    return open_town(folder, **config)


@contextmanager
def brokers_running(*clients: Client) -> Iterator[None]:
    """A broker thread for each of these providers, while the context lasts."""
    stop = threading.Event()

    def serve(client: Client) -> None:
        broker = Broker(client=client)
        while not stop.is_set():
            try:
                broker.step()
            except Exception as error:  # noqa: BLE001 - like `Broker.serve`, without its waits
                client.home.note("error", code=getattr(error, "code", ""), message=str(error))
            stop.wait(0.1)

    threads = [threading.Thread(target=serve, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def network_down(*_: Any) -> Answer:
    """An answer that got lost: what the network raises in place of it."""
    raise requests.ConnectionError("the answer got lost")


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet is a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True

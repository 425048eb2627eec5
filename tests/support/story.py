"""A complete honest history, told in one process through the host's own verbs: real encryption, real enclave code, real broker answers.

Only the process boundary is missing: the enclave runs inside the worker's process, and brokers answer when the worker reaches a step.
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import pyarrow as pa

from app import compose
from enclaves.evidence import Identity, attest_simulated
from enclaves.kit.appraisal import evidence_digest, key_release_info
from enclaves.kit.columns import FOOTER, encrypt_table
from enclaves.kit.envelope import Purpose, Signed, document_digest, sign_document
from enclaves.kit.sealing import SealingKey, seal
from enclaves.kit.signatures import SigningKey
from enclaves.run import Inputs, run
from policies.agreement import Agreement, LogIdentity, Party
from policies.canonical import canonical, digest_bytes
from policies.declaration import Declaration
from policies.documents import Admission, AgreementSignature, KeyRefusalStatement, KeyReleaseStatement, VersionManifest, secret_digest
from policies.grant import Grant, grant_digest
from policies.odrl import agreement_document, offer_document, parse_agreement
from policies.privacy import parse_epsilon
from policies.statement import Nonce, SignedEvidence, SignedStatement
from sandbox.audit.export import CHECKPOINT_PATH, KEY_PATH, openings_path, render_openings
from sandbox.audit.tiles import TILE_WIDTH, layout, pack_entries, tile_hashes
from sandbox.config import Config
from sandbox.exchange import agreements, datasets, participants
from sandbox.exchange.paging import Page
from sandbox.exchange.records import Participant
from sandbox.exchange.scopes import openings_for
from sandbox.host import Host
from sandbox.jobs import keys
from sandbox.jobs.launch import EnclaveProcess
from sandbox.jobs.states import Job
from sandbox.jobs.submit import submit
from sandbox.jobs.worker import Worker
from tests.support import terms

PERSONS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Firm:
    """One participant with its private keys."""

    id: str
    signing: SigningKey
    sealing: SealingKey

    def sign(self, purpose: Purpose, body: Any) -> Signed:
        """`body` signed by this firm."""
        return sign_document(purpose, self.id, body, self.signing)


@dataclass
class Clock:
    """Milliseconds since 1970; every look moves it on by a tenth of a second."""

    at: int = terms.NOW * 1000

    def __call__(self) -> int:
        self.at += 100
        return self.at


@dataclass
class EnclaveHere:
    """An enclave in this process, with the interface of `EnclaveProcess`. With `spoil`, it is given files that are not the granted ones."""

    measurement: str
    identities: list[Identity]
    spoil: bool = False
    grant: Grant | None = None
    agreement: Agreement | None = None

    def __enter__(self) -> EnclaveHere:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    @property
    def peak_mib(self) -> int | None:
        """Nobody measures it."""
        return None

    def start(self, grant: Grant, agreement: Mapping[str, Any], nonces: list[Nonce], timeout: float) -> SignedEvidence:
        """Attest."""
        self.grant, self.agreement = grant, parse_agreement(agreement)
        self.identities.append(attest_simulated(grant, tuple(nonces), self.measurement))
        return self.identities[-1].evidence

    def run(self, sealed: Mapping[str, str], files: Mapping[str, Path], timeout: float) -> tuple[SignedStatement, bytes]:
        """Run on the files."""
        assert self.grant is not None
        assert self.agreement is not None
        contents = {dataset: path.read_bytes() + (b"x" if self.spoil else b"") for dataset, path in files.items()}
        inputs = Inputs(sealed_keys={provider: bytes.fromhex(text) for provider, text in sealed.items()}, files=contents)
        statement, release = run(self.grant, self.agreement, self.identities[-1], inputs, memory_mib=512)
        return statement, release or b""


@dataclass
class Story:
    """The firms, the host and what happened. `column_keys` by dataset are at their providers'; nobody else reads them here."""

    host: Host
    clock: Clock
    firms: dict[str, Firm] = field(default_factory=dict)
    column_keys: dict[str, dict[str, bytes]] = field(default_factory=dict)
    identities: list[Identity] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    refusing: bool = False
    agreement: Agreement | None = None

    def admit(self, name: str) -> Firm:
        """Admit a firm with fresh keys."""
        firm = self.firms[name] = Firm(id=name, signing=SigningKey.generate(), sealing=SealingKey.generate())
        code = participants.issue_code(self.host, name)
        admission = Admission(
            participant=name,
            title=name.title(),
            signing_key=firm.signing.public.hex(),
            sealing_key=firm.sealing.public.hex(),
            code_digest=secret_digest(code),
            credential_digest=secret_digest(f"credential of {name}, {code}"),
        )
        participants.admit(self.host, firm.sign("admission", admission), code)
        return firm

    def member(self, name: str) -> Participant:
        """A firm as the host knows it."""
        with self.host.store.reading() as tx:
            found = tx.participant(name)
        assert found is not None
        return found

    def declare(self, declaration: Declaration) -> None:
        """Declare a dataset."""
        provider = declaration.provider
        datasets.declare(self.host, self.member(provider), self.firms[provider].sign("declaration", declaration))

    def sealed_agreement(self, **overrides: Any) -> Agreement:
        """The agreement of `tests.support.terms` with this story's keys, log and measurement, and with `overrides`.

        `parties` are given by name and roles: every other field of them follows.
        """
        named = overrides.pop("parties", {party.id: party.roles for party in terms.parties()})
        parties = tuple(
            Party(id=n, roles=roles, signing_key=self.firms[n].signing.public.hex(), sealing_key=self.firms[n].sealing.public.hex())
            for n, roles in named.items()
        )
        held = overrides.pop("terms", (terms.terms_insurer(), terms.terms_clinic()))
        measured = tuple(replace(item, measurements=(self.host.measurement,)) for item in held)
        log = self.host.log_identity
        return terms.agreement(log=LogIdentity(origin=log.name, key=log.public.hex()), parties=parties, terms=measured, **overrides)

    def publish(self, declaration: Declaration, table: pa.Table, version: int) -> None:
        """Encrypt, upload and publish a table as the next version."""
        provider = declaration.provider
        held = self.column_keys[declaration.dataset] = {name: os.urandom(32) for name in (FOOTER, *table.column_names)}
        sink = io.BytesIO()
        encrypt_table(table, sink, dataset=declaration.dataset, version=version, keys=held)
        name, size = self.host.blobs.add([sink.getvalue()])
        with self.host.store.transaction() as tx:
            tx.add_upload(name, provider, size)
        manifest = VersionManifest(
            dataset=declaration.dataset, version=version, file_digest=name, size=size, columns=tuple(table.column_names)
        )
        datasets.publish_version(self.host, self.member(provider), self.firms[provider].sign("version", manifest))

    def agree(self, agreement: Agreement) -> str:
        """Have an agreement proposed by its first party and signed by all; returns its digest."""
        first = agreement.parties[0].id
        document = self.firms[first].sign("agreement", agreement_document(agreement))
        name = document_digest(document)
        agreements.propose(self.host, self.member(first), document)
        for party in agreement.parties:
            signature = self.firms[party.id].sign("agreement-signature", AgreementSignature(agreement=name))
            agreements.sign(self.host, self.member(party.id), signature)
        return name

    def ask(self, label: str, *, spoil: bool = False, refuse: bool = False, consumer: str = "institute", **request: Any) -> Job:
        """Submit a consumer's request and, if it is allowed, run it to its end; the job is kept under `label`."""
        asked = terms.request(request_id=f"request-{label}", consumer=consumer, **request)
        job = submit(self.host, self.member(consumer), self.firms[consumer].sign("job-request", asked))
        if job.grant is not None:
            self.work(spoil=spoil, refuse=refuse)
        with self.host.store.reading() as tx:
            ended = tx.job(job.id)
        assert ended is not None
        self.jobs[label] = ended
        return ended

    def work(self, *, spoil: bool = False, refuse: bool = False) -> None:
        """Run the oldest charged job to its end."""
        self.refusing = refuse
        enclave = EnclaveHere(measurement=self.host.measurement, identities=self.identities, spoil=spoil)
        assert Worker(host=self.host, launch=lambda: cast(EnclaveProcess, enclave)).step()

    def on_step(self, step: str) -> None:
        """Brokers challenge when a job runs and answer when its evidence is there."""
        if step not in ("running", "attested"):
            return
        for name in sorted(self.firms):
            for request, job in keys.waiting_keys(self.host, self.member(name), Page(limit=100)).items:
                if job.state != "running":
                    continue  # a failed run asks to renounce
                if request.state == "wanted":
                    keys.challenge(self.host, self.member(name), job.id, os.urandom(32).hex())
                else:
                    self._answer(self.firms[name], job, request.nonce)

    def _answer(self, firm: Firm, job: Job, nonce: str) -> None:
        assert job.grant is not None
        assert job.evidence is not None
        grant, evidence = grant_digest(job.grant), evidence_digest(job.evidence)
        if self.refusing and firm.id == "insurer":
            refusal = KeyRefusalStatement(job=job.id, grant=grant, reason="policy-refused")
            keys.refuse_keys(self.host, self.member(firm.id), firm.sign("key-refusal", refusal))
            return
        held = {
            read.dataset: {name: self.column_keys[read.dataset][name].hex() for name in (FOOTER, *read.columns)}
            for read in job.grant.reads
            if read.provider == firm.id
        }
        sealing_key = bytes.fromhex(job.evidence.evidence.sealing_key)
        sealed = seal(sealing_key, canonical(held), key_release_info(nonce, grant, evidence))
        statement = KeyReleaseStatement(job=job.id, grant=grant, evidence=evidence, sealed=digest_bytes(sealed))
        keys.accept_keys(self.host, self.member(firm.id), firm.sign("key-release", statement), sealed)


def tell(folder: Path, database: str = "") -> Story:
    """Tell the whole story in `folder`: two providers, a consumer, an auditor and a stranger; one agreement; five jobs.

    Jobs: `released` (both ledgers, epsilon 0.5), `denied` (more than a job may cost), `withheld` (wrong files, 0.25), `failed` (a provider
    refuses keys, 0.25) and `counted` (the insurer's ledger only, 0.125, on a second version of its dataset).
    """
    story = begin(folder, database)
    plans, _ = tables(random.Random(2026))
    insurer = terms.declaration_insurer()
    story.agreement = signed_terms(story)
    offer = replace(terms.offer(), terms=story.agreement.terms[0])
    datasets.make_offer(story.host, story.member("insurer"), story.firms["insurer"].sign("offer", offer_document(offer)))
    agreement = story.agree(story.agreement)
    story.ask("released", epsilon="0.5", agreement=agreement)
    story.ask("denied", epsilon="2", agreement=agreement)
    story.ask("withheld", epsilon="0.25", agreement=agreement, spoil=True)
    story.ask("failed", epsilon="0.25", agreement=agreement, refuse=True)
    story.publish(insurer, plans.slice(0, 200), 2)
    story.ask("counted", epsilon="0.125", agreement=agreement, sql=terms.COUNT_SQL)
    return story


def begin(folder: Path, database: str = "", others: tuple[str, ...] = ()) -> Story:
    """The beginning of a story in `folder`: everybody is admitted, and both datasets are published."""
    clock = Clock()
    steps: list[Story] = []
    composed = compose(Config(data=folder, database=database), on_step=lambda step: steps[0].on_step(step))
    story = Story(host=replace(composed, now=clock), clock=clock)
    steps.append(story)
    for name in ("insurer", "clinic", "institute", "auditor", "stranger", *others):
        story.admit(name)
    plans, care = tables(random.Random(2026))
    for declaration, table in ((terms.declaration_insurer(), plans), (terms.declaration_clinic(), care)):
        story.declare(declaration)
        story.publish(declaration, table, 1)
    return story


def signed_terms(story: Story) -> Agreement:
    """The agreement of `tests.support.terms` with the real keys, log and measurement."""
    measured = (story.host.measurement,)
    parties = tuple(
        replace(party, signing_key=story.firms[party.id].signing.public.hex(), sealing_key=story.firms[party.id].sealing.public.hex())
        for party in terms.parties()
    )
    log = story.host.log_identity
    return terms.agreement(
        log=LogIdentity(origin=log.name, key=log.public.hex()),
        parties=parties,
        terms=(
            terms.terms_insurer(measurements=measured, total_loss=parse_epsilon("1.5")),
            terms.terms_clinic(measurements=measured, total_loss=parse_epsilon("1.25")),
        ),
    )


def tables(draw: random.Random) -> tuple[pa.Table, pa.Table]:
    """Small tables in the shape of the RAND Health Insurance Experiment: 300 persons with 1 to 5 years each."""
    rows = [(person, year) for person in range(PERSONS) for year in range(1, draw.randint(1, 5) + 1)]
    share = {person: draw.choice((0, 25, 50, 95, 100)) for person in range(PERSONS)}
    plans = pa.table(
        {
            "person_id": [person for person, _ in rows],
            "year": [year for _, year in rows],
            "coinsurance": [share[person] for person, _ in rows],
            "female": [person % 2 for person, _ in rows],
            "medical_spend": [round(draw.expovariate(1 / 300), 2) for _ in rows],
        }
    )
    care = pa.table(
        {
            "person_id": [person for person, _ in rows],
            "year": [year for _, year in rows],
            "doctor_visits": [draw.randint(0, 12) for _ in rows],
            "admissions": [draw.choice((0, 0, 0, 1, None)) for _ in rows],
        }
    )
    return plans, care


def export(host: Host, participant: str) -> dict[str, bytes]:
    """The export that a participant would get: the whole tree, and the openings that it may read."""
    files: dict[str, bytes] = {KEY_PATH: host.log_identity.vkey.encode() + b"\n"}
    with host.store.reading() as tx:
        newest = tx.newest_checkpoint()
        assert newest is not None
        size, note = newest
        files[CHECKPOINT_PATH] = note.encode()
        for file in layout(size):
            first = file.index * TILE_WIDTH
            if file.kind == "tile":
                files[file.path] = tile_hashes(file.level, file.index, file.width, tx.node)
                continue
            files[file.path] = pack_entries(tx.entries(first, first + file.width))
            openings = openings_for(tx, participant, first, first + file.width, host.now())
            if openings:
                files[openings_path(file.index)] = render_openings(openings)
    return files

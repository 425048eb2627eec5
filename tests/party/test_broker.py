"""A key broker against a host that lies: no key leaves, and the journal says by name what was wrong."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from enclaves.evidence import Identity, attest_simulated
from enclaves.kit.appraisal import key_release_info
from enclaves.kit.columns import FOOTER
from enclaves.kit.envelope import sign_document
from enclaves.kit.sealing import seal
from enclaves.kit.signatures import SigningKey
from policies.canonical import canonical, digest_bytes, parse_json
from policies.codec import decode, encode
from policies.documents import AgreementSignature
from policies.entries import LedgerCharge
from policies.errors import Conflict, Malformed, NotFound, Tampered, Unavailable
from policies.grant import Grant, grant_digest
from policies.request import JobRequest
from policies.statement import Nonce, SignedEvidence
from sandbox.audit.checkpoint import Checkpoint, sign
from sandbox.audit.merkle import Frontier, leaf_hash
from sandbox.jobs.worker import Worker
from sandbox.party.broker import Broker
from sandbox.party.following import Follower
from sandbox.party.publish import column_keys
from sandbox.store.schema import ledgers
from tests.support.forge import Draft, drafts, find
from tests.support.runs import Answer, Direct, Town, network_down

Change = Callable[[Any], Any]


@pytest.fixture
def asked(town: Town) -> tuple[Town, str]:
    """A town with one attested job that waits for both brokers' keys."""
    job = town.charged("first")
    town.attested(job)
    return town, job


def doctor(town: Town, **changes: Change) -> None:
    """Change what the insurer hears: keyword `jobs` edits its waiting jobs, `agreement` the agreement's record."""

    def edit(method: str, path: str, answer: Answer) -> Answer:
        if path == "/key-requests" and "jobs" in changes:
            value = answer.json()
            value["key_requests"] = [{**item, "job": changes["jobs"](item["job"])} for item in value["key_requests"]]
        elif path.startswith("/agreements/sha256:") and "agreement" in changes:
            value = changes["agreement"](answer.json())
        else:
            return answer
        return Answer(answer.status_code, canonical(value))

    town.session("insurer").doctor = edit


def serve_log(session: Direct, town: Town, found: list[Draft]) -> None:
    """Let one participant see another log: the host owns the key, so its checkpoint is always well signed."""
    data = [draft.data for draft in found]
    host, before = town.host, session.doctor
    root = Frontier().extend([leaf_hash(entry) for entry in data]).root()
    note = sign(Checkpoint(origin=host.config.origin, size=len(data), root=root), host.log_key)

    def edit(method: str, path: str, answer: Answer) -> Answer:
        if path == "/log/checkpoint":
            return Answer(200, note.encode())
        if path.startswith("/log/entries"):
            first, end = (int(part.partition("=")[2]) for part in path.partition("?")[2].split("&"))
            return Answer(200, canonical({"entries": [entry.decode() for entry in data[first:end]]}))
        return before(method, path, answer)

    session.doctor = edit


def refused(town: Town, job: str, code: str, **broker: Any) -> None:
    """Let the insurer's broker answer; nothing may leave, the journal and the host's log name the reason."""
    with suppress(Conflict):  # the host takes no refusal of a grant other than its own; the run then ends for want of keys
        town.broker("insurer", **broker).step()
    kept_back(town, job)
    last = town.journal("insurer")[-1]
    assert (last["event"], last["job"], last["code"]) == ("refused", job, code)
    assert last["message"]


def kept_back(town: Town, job: str) -> None:
    """Nothing was released to this run, at home or at the host."""
    home = town.clients["insurer"].home.folder
    assert not list(home.glob("broker/*.release.json"))
    assert "released" not in [note["event"] for note in town.journal("insurer")]
    assert ("POST", "/key-requests/keys") not in town.session("insurer").sent
    with town.host.store.reading() as tx:
        request = tx.key_request(job, "insurer")
    assert request is None or (request.state != "released" and not request.sealed)


def held(town: Town, job: str) -> Grant:
    """The grant of a job."""
    grant = town.job(job).grant
    assert grant is not None
    return grant


# Without an attack


def test_an_honest_run_gets_the_granted_columns_keys_and_no_others(town: Town) -> None:
    job = town.charged("honest")
    enclave = town.attested(job)
    for name in ("insurer", "clinic"):
        assert town.broker(name).step() == 1
    with town.host.store.reading() as tx:
        requests = {request.provider: request for request in tx.key_requests(job)}
    for read in held(town, job).reads:
        request = requests[read.provider]
        info = key_release_info(request.nonce, grant_digest(held(town, job)), enclave.digest)
        opened = parse_json(enclave.sealing.open(bytes.fromhex(request.sealed), info))
        own = column_keys(town.clients[read.provider].home, read.dataset, read.version, read.file_digest, read.columns)
        assert opened == {read.dataset: {name: key.hex() for name, key in own.items()}}
        assert set(own) == {FOOTER, *read.columns}
    assert "medical_spend" not in json.dumps(town.journal("insurer"))


# The log


def test_a_rewound_log_is_refused(asked: tuple[Town, str]) -> None:
    town, job = asked
    entries = drafts(town.host)
    broker = town.broker("insurer")
    serve_log(town.session("insurer"), town, [*entries, entries[0]])
    follow(town, broker)
    serve_log(town.session("insurer"), town, entries)
    refused(town, job, "rolled-back")


def follow(town: Town, broker: Broker) -> None:
    """Let a broker see the log as it is served now."""
    assert town.composed is not None
    client = broker.client
    Follower(home=client.home, fetch=client.log_text).follow(client.checkpoint(), town.composed.log)


@pytest.mark.parametrize("longer", [False, True])
def test_a_rewritten_log_is_refused(asked: tuple[Town, str], longer: bool) -> None:
    town, job = asked
    entries = drafts(town.host)
    follow(town, town.broker("insurer"))
    rewritten = [entries[0].edited(at=1), *entries[1:], *([entries[-1]] if longer else [])]
    serve_log(town.session("insurer"), town, rewritten)
    refused(town, job, "rewritten")


def test_a_log_that_hides_entries_of_its_checkpoint_is_refused(asked: tuple[Town, str]) -> None:
    town, job = asked

    def shorten(method: str, path: str, answer: Answer) -> Answer:
        if path.startswith("/log/entries"):
            return Answer(200, canonical({"entries": answer.json()["entries"][:-1]}))
        return answer

    town.session("insurer").doctor = shorten
    refused(town, job, "rewritten")


def test_a_checkpoint_of_another_key_is_refused(asked: tuple[Town, str]) -> None:
    town, job = asked
    town.host = replace(town.host, log_key=SigningKey.generate())
    serve_log(town.session("insurer"), town, drafts(town.host))
    refused(town, job, "checkpoint-signature")


def without(entries: list[Draft], kind: Any, job: str) -> list[Draft]:
    """The log without one entry."""
    index = find(entries, kind, job=job)
    return entries[:index] + entries[index + 1 :]


def test_a_grant_that_is_not_in_the_log_is_refused(asked: tuple[Town, str]) -> None:
    town, job = asked
    serve_log(town.session("insurer"), town, without(drafts(town.host), "granted", job))
    refused(town, job, "not-granted")


def test_a_job_without_a_charge_is_refused(asked: tuple[Town, str]) -> None:
    town, job = asked
    serve_log(town.session("insurer"), town, without(drafts(town.host), "charged", job))
    refused(town, job, "not-charged")


def test_a_job_that_is_charged_twice_is_noticed(asked: tuple[Town, str]) -> None:
    town, job = asked
    entries = drafts(town.host)
    serve_log(town.session("insurer"), town, [*entries, entries[find(entries, "charged", job=job)]])
    refused(town, job, "charged-twice")


SMALLER: dict[str, Callable[[LedgerCharge, LedgerCharge], tuple[LedgerCharge, ...]]] = {
    "own charge smaller": lambda clinic, insurer: (clinic, replace(insurer, amount=insurer.amount - 1)),
    "the other's charge smaller": lambda clinic, insurer: (replace(clinic, amount=0), insurer),
    "own ledger left out": lambda clinic, insurer: (clinic,),
    "charged to another id space": lambda clinic, insurer: (clinic, replace(insurer, id_space="others")),
    "charged to another provider": lambda clinic, insurer: (clinic, replace(insurer, provider="institute")),
    "nothing charged": lambda clinic, insurer: (),
}


@pytest.mark.parametrize("how", SMALLER)
def test_a_charge_smaller_than_the_grant_is_refused(asked: tuple[Town, str], how: str) -> None:
    town, job = asked
    entries = drafts(town.host)
    index = find(entries, "charged", job=job)
    clinic, insurer = entries[index].header.losses
    entries[index] = entries[index].charging(*SMALLER[how](clinic, insurer))
    serve_log(town.session("insurer"), town, entries)
    refused(town, job, "undercharged")


# The grant


def _first(grant: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**grant, "statistics": [{**grant["statistics"][0], **changes}, *grant["statistics"][1:]]}


def _read(grant: dict[str, Any], whose: str, **changes: Any) -> dict[str, Any]:
    return {**grant, "reads": [{**r, **changes} if r["provider"] == whose else r for r in grant["reads"]]}


GRANTS: dict[str, Change] = {
    "a column more": lambda g: _read(g, "insurer", columns=["coinsurance", "medical_spend", "person_id", "year"]),
    "another file": lambda g: _read(g, "insurer", file_digest="sha256:" + "7" * 64),
    "another version": lambda g: _read(g, "insurer", version=9),
    "another's dataset as the insurer's": lambda g: _read(g, "clinic", provider="insurer"),
    "another recipient": lambda g: {**g, "recipient": {"id": "auditor", "sealing_key": g["recipient"]["sealing_key"]}},
    "another recipient's key": lambda g: {**g, "recipient": {**g["recipient"], "sealing_key": "8" * 64}},
    "less noise": lambda g: _first(g, scale=g["statistics"][0]["scale"] // 2),
    "a smaller sensitivity": lambda g: _first(g, sensitivity=1),
    "another loss": lambda g: {**g, "loss": {**g["loss"], "amount": g["loss"]["amount"] - 1}},
    "no minimum group": lambda g: {**g, "minimum_group": 1},
    "another plan": lambda g: {**g, "plan": {**g["plan"], "group_by": [], "outputs": g["plan"]["outputs"][1:]}},
    "another request": lambda g: {**g, "request": "sha256:" + "9" * 64},
}


@pytest.mark.parametrize("logged", [False, True])
@pytest.mark.parametrize("how", GRANTS)
def test_an_altered_grant_is_refused_even_if_the_log_holds_it(asked: tuple[Town, str], how: str, logged: bool) -> None:
    town, job = asked
    altered = GRANTS[how](encode(held(town, job)))
    name = grant_digest(decode(Grant, altered))
    doctor(town, jobs=lambda view: {**view, "grant": altered, "grant_digest": name})
    if logged:
        entries = drafts(town.host)
        index = find(entries, "granted", job=job)
        entries[index] = entries[index].edited(grant=name)
        serve_log(town.session("insurer"), town, entries)
    refused(town, job, "grant-mismatch" if logged else "not-granted")


def test_a_grant_under_another_job_id_is_not_run_a_second_time(asked: tuple[Town, str]) -> None:
    """Kept bytes are found by job id: under a second id the same grant would go to a second enclave."""
    town, job = asked
    assert town.broker("insurer").step() == 1
    before = town.journal("insurer")
    nonce = Nonce(provider="insurer", value=nonce_of(town, job))
    second = attest_simulated(held(town, job), (nonce,), town.host.measurement)
    view = {**town.clients["insurer"].job(job), "id": "job-other", "evidence": encode(second.evidence)}
    present(town, [{"state": "attested", "nonce": nonce.value, "job": view}])
    with pytest.raises(NotFound):  # the host knows no such job, so the refusal finds no taker
        town.broker("insurer").step()
    assert [note["event"] for note in town.journal("insurer")] == ["released", "refused"]
    assert town.journal("insurer")[-1]["code"] == "grant-job"
    assert town.journal("insurer")[:1] == before
    assert len(list(town.clients["insurer"].home.folder.glob("broker/*.release.json"))) == 1


def nonce_of(town: Town, job: str) -> str:
    """The nonce that the insurer's broker keeps for a job; once it is used up, the one that it sent."""
    kept = town.clients["insurer"].home.read(f"broker/{job}.nonce.json")["nonces"]
    if kept:
        return str(kept[-1]["nonce"])
    with town.host.store.reading() as tx:
        request = tx.key_request(job, "insurer")
    assert request is not None
    return request.nonce


def present(town: Town, listed: list[dict[str, Any]]) -> None:
    """Show the insurer's broker these key requests."""
    session = town.session("insurer")
    before = session.doctor

    def edit(method: str, path: str, answer: Answer) -> Answer:
        return Answer(200, canonical({"key_requests": listed})) if path == "/key-requests" else before(method, path, answer)

    session.doctor = edit


def test_a_second_grant_for_the_same_job_is_refused(asked: tuple[Town, str]) -> None:
    town, job = asked
    assert town.broker("insurer").step() == 1
    view = town.clients["insurer"].job(job)
    other = decode(Grant, GRANTS["less noise"](view["grant"]))
    present(town, [{"state": "attested", "nonce": "", "job": {**view, "grant": encode(other), "grant_digest": grant_digest(other)}}])
    with pytest.raises(Conflict):  # the host's own record holds the granted one
        town.broker("insurer").step()
    assert [(note["event"], note.get("code")) for note in town.journal("insurer")] == [("released", None), ("refused", "grant-replaced")]


def test_another_enclave_for_a_released_job_gets_the_kept_bytes_only(asked: tuple[Town, str]) -> None:
    town, job = asked
    assert town.broker("insurer").step() == 1
    first = kept_bytes(town, job)
    nonce = Nonce(provider="insurer", value=nonce_of(town, job))
    second = attest_simulated(held(town, job), (nonce,), town.host.measurement)
    present(town, [{"state": "attested", "nonce": "", "job": {**town.clients["insurer"].job(job), "evidence": encode(second.evidence)}}])
    town.broker("insurer").step()
    assert kept_bytes(town, job) == first
    info = key_release_info(nonce.value, grant_digest(held(town, job)), second.digest)
    with pytest.raises(Tampered):
        second.sealing.open(first, info)


def kept_bytes(town: Town, job: str) -> bytes:
    """The sealed bytes that the insurer's broker keeps for a job."""
    return bytes.fromhex(town.clients["insurer"].home.read(f"broker/{job}.release.json")["sealed"])


# Who asks, and for what


def test_sql_swapped_under_a_signature_is_refused(asked: tuple[Town, str]) -> None:
    town, job = asked
    sql = "SELECT coinsurance, SUM(medical_spend) AS s FROM insurer.plans GROUP BY coinsurance"
    doctor(town, jobs=lambda v: {**v, "signed": {**v["signed"], "body": {**v["signed"]["body"], "sql": sql}}})
    refused(town, job, "bad-signature")


def test_another_genuine_request_of_the_same_consumer_is_refused(asked: tuple[Town, str]) -> None:
    town, job = asked
    client = town.clients["institute"]
    other = sign_document("job-request", "institute", town.request("other", epsilon="0.4"), client.home.signing)
    doctor(town, jobs=lambda view: {**view, "signed": encode(other)})
    refused(town, job, "grant-mismatch")


def signed_by(town: Town, name: str, key: SigningKey | None = None) -> dict[str, Any]:
    """The first job's request as if `name` had asked."""
    request: JobRequest = replace(town.request("first"), consumer=name)
    client = town.clients.get(name)
    return dict(encode(sign_document("job-request", name, request, key or (client.home.signing if client else SigningKey.generate()))))


@pytest.mark.parametrize(("who", "code"), [("auditor", "policy-refused"), ("clinic", "policy-refused"), ("stranger", "unknown-party")])
def test_a_request_of_another_than_the_agreed_consumer_is_refused(asked: tuple[Town, str], who: str, code: str) -> None:
    town, job = asked
    doctor(town, jobs=lambda view: {**view, "signed": signed_by(town, who)})
    refused(town, job, code)


def test_a_request_signed_with_another_key_is_refused(asked: tuple[Town, str]) -> None:
    town, job = asked
    doctor(town, jobs=lambda view: {**view, "signed": signed_by(town, "institute", SigningKey.generate())})
    refused(town, job, "bad-signature")


def test_keys_of_another_provider_are_not_the_insurers_to_give(town: Town) -> None:
    job = town.charged("clinic", sql="SELECT year, AVG(doctor_visits) AS v FROM clinic.care GROUP BY year")
    taken = Worker(host=town.host)._take()
    assert taken is not None
    view = town.clients["insurer"].job(job)
    present(town, [{"state": "wanted", "nonce": "", "job": view}])
    with pytest.raises(NotFound):
        town.broker("insurer").step()
    evidence = attest_simulated(held(town, job), (Nonce(provider="insurer", value=nonce_of(town, job)),), town.host.measurement)
    present(town, [{"state": "attested", "nonce": "", "job": {**view, "evidence": encode(evidence.evidence)}}])
    with pytest.raises(NotFound):
        town.broker("insurer").step()
    kept_back(town, job)
    assert town.journal("insurer")[-1]["code"] == "nothing-granted"


# The agreement


def test_an_agreement_that_not_all_have_signed_is_refused(asked: tuple[Town, str]) -> None:
    town, job = asked
    doctor(town, agreement=lambda record: {**record, "signatures": [s for s in record["signatures"] if s["by"] != "clinic"]})
    refused(town, job, "agreement-not-active")


@pytest.mark.parametrize("what", ["another key", "another agreement"])
def test_an_agreement_with_a_forged_signature_is_refused(asked: tuple[Town, str], what: str) -> None:
    town, job = asked
    name = town.agreement if what == "another key" else "sha256:" + "5" * 64
    key = SigningKey.generate() if what == "another key" else town.clients["clinic"].home.signing
    forged = encode(sign_document("agreement-signature", "clinic", AgreementSignature(agreement=name), key))
    doctor(town, agreement=lambda r: {**r, "signatures": [forged if s["by"] == "clinic" else s for s in r["signatures"]]})
    refused(town, job, "bad-signature")


def test_an_agreement_that_was_never_signed_here_is_refused(asked: tuple[Town, str]) -> None:
    town, job = asked
    home = town.clients["insurer"].home
    (home.folder / "agreements" / f"{town.agreement.removeprefix('sha256:')}.json").unlink()
    refused(town, job, "not-found")


def test_the_kept_copy_of_an_agreement_decides_and_not_the_hosts(asked: tuple[Town, str]) -> None:
    town, _ = asked
    doctor(town, agreement=lambda record: {**record, "document": {"anything": "else"}})
    assert town.broker("insurer").step() == 1
    assert town.journal("insurer")[-1]["event"] == "released"


def test_an_expired_agreement_is_refused(town: Town) -> None:
    """The host's clock says the same as the broker's, so only the agreement's own end can refuse."""
    late = 4_000_000_010.0
    job = town.charged("late")
    town.attested(job, now=lambda: late)
    doctor(town, jobs=lambda view: {**view, "facts": {**view["facts"], "now": int(late)}})
    refused(town, job, "policy-refused", now=lambda: late)
    assert "validity" in town.journal("insurer")[-1]["message"]


@pytest.mark.parametrize("away", [-400, 25 * 3600])
def test_a_host_that_decided_at_another_time_is_refused(town: Town, away: int) -> None:
    job = town.charged("clock")
    town.attested(job, now=lambda: time.time() + away)
    refused(town, job, "clock", now=lambda: time.time() + away)


def test_a_job_that_waited_long_for_a_worker_still_gets_its_keys(town: Town) -> None:
    job = town.charged("queued")
    later = time.time() + 23 * 3600
    town.attested(job, now=lambda: later)
    town.broker("insurer", now=lambda: later).step()
    assert town.journal("insurer")[-1]["event"] == "released"


def test_a_budget_that_the_host_forgot_is_still_spent(town: Town) -> None:
    """Three charges of epsilon 1 stand in the log; the host sets its ledgers back and grants a fourth."""
    for number in range(3):
        town.charged(f"spend-{number}", epsilon="1")
        assert Worker(host=town.host)._take() is not None
    with town.host.store.transaction() as tx:
        tx.connection.execute(update(ledgers).values(amount=0))
    job = town.charged("beyond", epsilon="1")
    town.attested(job)
    refused(town, job, "policy-refused")
    assert "total_loss" in town.journal("insurer")[-1]["message"]


# The evidence

Forge = Callable[[Town, str, Nonce], SignedEvidence]


def _attested(town: Town, job: str, *nonces: Nonce, measurement: str = "", grant: Grant | None = None) -> Identity:
    return attest_simulated(grant or held(town, job), nonces, measurement or town.host.measurement)


def _resigned(town: Town, job: str, nonce: Nonce) -> SignedEvidence:
    one, other = (_attested(town, job, nonce) for _ in range(2))
    return replace(one.evidence, signature=other.evidence.signature)


EVIDENCE: dict[str, tuple[Forge, str]] = {
    "no nonce": (lambda t, j, n: _attested(t, j).evidence, "nonce"),
    "another nonce": (lambda t, j, n: _attested(t, j, replace(n, value=os.urandom(32).hex())).evidence, "nonce"),
    "the nonce as another provider's": (lambda t, j, n: _attested(t, j, replace(n, provider="clinic")).evidence, "nonce"),
    "two nonces of one provider": (lambda t, j, n: _attested(t, j, n, replace(n, value="6" * 64)).evidence, "nonce"),
    "another measurement": (lambda t, j, n: _attested(t, j, n, measurement="sha256:" + "4" * 64).evidence, "measurement"),
    "another grant": (lambda t, j, n: _attested(t, j, n, grant=replace(held(t, j), job="job-2")).evidence, "grant"),
    "another signature": (_resigned, "signature"),
}


@pytest.mark.parametrize("how", EVIDENCE)
def test_evidence_that_does_not_fit_is_refused(asked: tuple[Town, str], how: str) -> None:
    town, job = asked
    forge, code = EVIDENCE[how]
    evidence = forge(town, job, Nonce(provider="insurer", value=nonce_of(town, job)))
    doctor(town, jobs=lambda view: {**view, "evidence": encode(evidence)})
    refused(town, job, code)


def test_an_enclave_and_a_host_that_agree_on_another_measurement_are_refused(asked: tuple[Town, str]) -> None:
    """Grant, facts, log and evidence all name a measurement that the insurer's terms do not."""
    town, job = asked
    other = "sha256:" + "4" * 64
    grant = replace(held(town, job), measurement=other)
    evidence = _attested(town, job, Nonce(provider="insurer", value=nonce_of(town, job)), measurement=other, grant=grant)
    named = {"grant": encode(grant), "grant_digest": grant_digest(grant), "evidence": encode(evidence.evidence)}
    doctor(town, jobs=lambda view: {**view, **named, "facts": {**view["facts"], "measurement": other}})
    entries = drafts(town.host)
    index = find(entries, "granted", job=job)
    entries[index] = entries[index].edited(grant=grant_digest(grant))
    serve_log(town.session("insurer"), town, entries)
    refused(town, job, "policy-refused")
    assert "enclave" in town.journal("insurer")[-1]["message"]


def test_evidence_that_comes_long_after_the_challenge_is_refused(asked: tuple[Town, str]) -> None:
    town, job = asked
    refused(town, job, "nonce-expired", now=lambda: time.time() + 61)


def test_evidence_for_a_run_that_was_never_challenged_is_refused(asked: tuple[Town, str]) -> None:
    town, job = asked
    (town.clients["insurer"].home.folder / "broker" / f"{job}.nonce.json").unlink()
    refused(town, job, "nonce-expired")


def test_a_job_without_evidence_is_refused(asked: tuple[Town, str]) -> None:
    town, job = asked
    doctor(town, jobs=lambda view: {**view, "evidence": None})
    refused(town, job, "malformed")


# Names and shapes


@pytest.mark.parametrize("name", ["../../../escape", "job-1/../../x", "/etc/job", "job\n1", "", "Job-1", "job-" + "a" * 80])
@pytest.mark.parametrize("state", ["wanted", "attested"])
def test_a_job_id_that_is_no_name_touches_no_file(asked: tuple[Town, str], name: str, state: str) -> None:
    town, job = asked
    home = town.clients["insurer"].home
    before = sorted(path for path in town.folder.rglob("*") if "service" not in path.parts)
    view = town.clients["insurer"].job(job)
    present(town, [{"state": state, "nonce": "", "job": {**view, "id": name, "grant": {**view["grant"], "job": name}}}])
    with pytest.raises(Malformed):
        town.broker("insurer").step()
    kept_back(town, job)
    after = sorted(path for path in town.folder.rglob("*") if "service" not in path.parts)
    assert set(after) - set(before) <= {home.folder / "journal.jsonl"}


JUNK: tuple[Any, ...] = (
    None, [], "x", 7, {}, {"key_requests": None}, {"key_requests": [1]}, {"key_requests": [{"state": "wanted"}]},
    {"key_requests": [{"state": "attested", "nonce": "", "job": {"id": "job-1", "grant": None, "grant_digest": "x"}}]},
    {"key_requests": [{"state": "wanted", "nonce": "", "job": {"id": "../x"}}]},
)  # fmt: skip


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_no_answer_of_the_host_ends_a_broker(asked: tuple[Town, str], junk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    town, job = asked
    monkeypatch.setattr("sandbox.party.broker.time.sleep", lambda seconds: None)
    session, rounds = town.session("insurer"), iter([False, False, True])
    session.doctor = lambda method, path, answer: Answer(200, canonical(junk)) if path == "/key-requests" else answer
    town.broker("insurer").serve(lambda: next(rounds))
    kept_back(town, job)
    assert junk == {} or town.journal("insurer")[-1]["event"] in ("error", "refused")


def test_two_brokers_on_one_home_release_to_one_enclave_only(asked: tuple[Town, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The host shows each its own evidence; were both to look for kept bytes before either keeps some, two enclaves would get keys."""
    town, job = asked
    nonce = Nonce(provider="insurer", value=nonce_of(town, job))
    clients = [town.clients["insurer"], town.again("insurer")]
    both, statements = threading.Barrier(2), []

    def together(*arguments: Any) -> bytes:
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.5)
        return seal(*arguments)

    monkeypatch.setattr("sandbox.party.broker.seal", together)
    for client in clients:
        evidence, view = _attested(town, job, nonce).evidence, client.job(job)
        listed = {"key_requests": [{"state": "attested", "nonce": "", "job": {**view, "evidence": encode(evidence)}}]}
        session: Any = client.session
        session.doctor = lambda m, path, answer, listed=listed: Answer(200, canonical(listed)) if path == "/key-requests" else answer
        client.send_keys = lambda statement, sealed: statements.append((statement, sealed))  # type: ignore[method-assign]
    threads = [threading.Thread(target=Broker(client=client).step) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statements) == 2
    assert statements[0] == statements[1]
    assert [note["event"] for note in town.journal("insurer")] == ["released"]


# Losing power and losing answers


def test_a_broker_killed_between_keeping_and_sending_sends_the_same_bytes(asked: tuple[Town, str]) -> None:
    town, job = asked
    broker = town.broker("insurer")

    def killed(statement: Any, sealed: bytes) -> None:
        raise KeyboardInterrupt

    broker.client.send_keys = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        broker.step()
    kept = kept_bytes(town, job)
    Broker(client=town.again("insurer")).step()
    with town.host.store.reading() as tx:
        request = tx.key_request(job, "insurer")
    assert request is not None
    assert (request.state, bytes.fromhex(request.sealed)) == ("released", kept)
    assert [note["event"] for note in town.journal("insurer")] == ["released"]
    assert len(town.headers("key_released", job)) == 1


def test_a_lost_answer_to_sent_keys_changes_nothing(asked: tuple[Town, str]) -> None:
    town, job = asked
    session = town.session("insurer")
    session.doctor = lambda method, path, answer: network_down() if path == "/key-requests/keys" else answer
    with pytest.raises(Unavailable):
        town.broker("insurer").step()
    session.doctor = lambda method, path, answer: answer
    assert town.broker("insurer").step() == 0, "the host has the keys and asks no more"
    view = town.clients["insurer"].job(job)
    present(town, [{"state": "attested", "nonce": "", "job": view}])
    town.broker("insurer").step()
    assert len(town.headers("key_released", job)) == 1
    with town.host.store.reading() as tx:
        request = tx.key_request(job, "insurer")
    assert request is not None
    assert bytes.fromhex(request.sealed) == kept_bytes(town, job)


def test_a_broker_that_restarts_keeps_its_nonce(town: Town) -> None:
    job = town.charged("restart")
    assert Worker(host=town.host)._take() is not None
    session = town.session("insurer")
    session.doctor = lambda method, path, answer: network_down() if path.endswith("/challenge") else answer
    with pytest.raises(Unavailable):
        town.broker("insurer").step()
    kept = nonce_of(town, job)
    Broker(client=town.again("insurer")).step()
    with town.host.store.reading() as tx:
        request = tx.key_request(job, "insurer")
    assert request is not None
    assert request.nonce == kept == nonce_of(town, job)


def test_the_released_statement_names_the_bytes_that_were_sent(asked: tuple[Town, str]) -> None:
    town, job = asked
    town.broker("insurer").step()
    statement = town.clients["insurer"].home.read(f"broker/{job}.release.json")["statement"]
    assert statement["sealed"] == digest_bytes(kept_bytes(town, job))
    assert town.headers("key_released", job)[0]["ids"]["provider"] == "insurer"

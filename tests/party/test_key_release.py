"""Key release at home: evidence of a real TEE, nonces, people who are asked, data that are withdrawn, re-encrypted or destroyed."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from enclaves.evidence import attest_simulated, attest_with
from enclaves.kit.appraisal import appraise, evidence_digest
from enclaves.kit.attestation import snp
from enclaves.kit.attestation.platform import PlatformEvidence, verify_platform
from enclaves.kit.columns import FOOTER, decrypt_columns
from policies.attestation import SnpFloor
from policies.documents import KeyDestruction
from policies.errors import Conflict, EvidenceRejected, Malformed, NotFound, PolicyRefused, SandboxError, Unavailable
from policies.privacy import parse_epsilon
from policies.statement import Nonce, SignedEvidence
from sandbox.jobs.endorsing import add_endorsements
from sandbox.jobs.record import record_evidence
from sandbox.jobs.worker import Worker
from sandbox.party.approvals import add_standing, answer_held, held, remove_standing, standing_approvals
from sandbox.party.keeping import destroy, kept_versions, reencrypt, restore, withdraw
from sandbox.party.nonces import NONCE_LIFETIME_S, RENEW_S, good_nonces
from sandbox.party.pins import pin, pinned, unpin
from sandbox.party.publish import column_keys, publish
from tests.support import market
from tests.support.platforms import Chipmaker, SnpMachine
from tests.support.runs import COUNT_SQL, Town, copy_town, found_town, network_down
from tests.support.steps import Line, require_sound

PLANS = market.plans_declaration("insurer")
FLOOR = SnpFloor(bootloader=4, tee=1, snp=23, microcode=213)


@pytest.fixture
def town(template: Path, tmp_path: Path) -> Iterator[Town]:
    found = copy_town(template, tmp_path / "town")
    yield found
    found.host.publish()
    require_sound(found.host)
    found.close()


def counted(town: Town, label: str) -> str:
    """A charged job that needs the insurer only."""
    return town.charged(label, sql=COUNT_SQL, epsilon="0.1")


def taken(town: Town, job: str) -> None:
    found = Worker(host=town.host)._take()
    assert found is not None
    assert found.id == job


def state_of(town: Town, job: str) -> str:
    with town.host.store.reading() as tx:
        request = tx.key_request(job, "insurer")
    assert request is not None
    return request.state


def nonces_of(town: Town, job: str) -> tuple[Nonce, ...]:
    with town.host.store.reading() as tx:
        return tuple(Nonce(provider=r.provider, value=r.nonce) for r in tx.key_requests(job) if r.nonce)


def attest_job(town: Town, job: str, evidence: SignedEvidence | None = None) -> None:
    """Store simulated evidence of a job that its brokers have challenged, or this one."""
    found = town.job(job)
    assert found.grant is not None
    made = evidence or attest_simulated(found.grant, nonces_of(town, job), town.host.measurement).evidence  # type: ignore[arg-type]
    attested = appraise(
        made, grant=found.grant, kinds=[made.evidence.kind], measurements=[found.grant.measurement], nonce=None, at=town.host.now() / 1000
    )
    record_evidence(town.host, found, made, attested)


def last(town: Town) -> tuple[str, str]:
    """Event and code that the insurer's journal ends with."""
    note = town.journal("insurer")[-1]
    return note["event"], note.get("code", "")


# Evidence of a TEE, through the whole of a run


@pytest.fixture(scope="module")
def maker() -> Chipmaker:
    """Who stands for AMD here."""
    return Chipmaker(tcb={"bootloader": 4, "tee": 1, "snp": 23, "microcode": 213})


@pytest.fixture(scope="module")
def guarded_template(maker: Chipmaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A town at rest whose providers ask for an AMD machine with firmware of today."""
    folder, real = tmp_path_factory.mktemp("guarded") / "template", market.offer_on

    def offer_on(*arguments: Any, **named: Any) -> Any:
        offer = real(*arguments, **named)
        terms = replace(offer.terms, enclave_kinds=("amd-sev-snp",), measurements=(measured(maker),), platforms=(FLOOR,))
        return replace(offer, terms=terms)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(snp, "AMD_ROOTS", maker.roots)
        patched.setattr(market, "offer_on", offer_on)
        found_town(folder, enclave="amd-sev-snp", enclave_measurement=measured(maker)).close()
    return folder


@pytest.fixture
def machine(maker: Chipmaker, monkeypatch: pytest.MonkeyPatch) -> SnpMachine:
    """A chip of that maker's, whom everybody here takes for AMD."""
    monkeypatch.setattr(snp, "AMD_ROOTS", maker.roots)
    return SnpMachine(maker=copy.copy(maker))


def measured(maker: Chipmaker) -> str:
    evidence = PlatformEvidence(kind="amd-sev-snp", document=maker.report(bytes(64)), chain=maker.chain)
    return verify_platform(evidence, 1_780_000_000).measurement


@pytest.fixture
def guarded(guarded_template: Path, machine: SnpMachine, tmp_path: Path) -> Iterator[Town]:
    """A town of its own, like that one."""
    found = copy_town(guarded_template, tmp_path / "guarded", enclave="amd-sev-snp", enclave_measurement=measured(machine.maker))
    yield found
    found.host.publish()
    require_sound(found.host)
    found.close()


def test_a_run_in_an_agreed_tee_gets_keys_and_replays(guarded: Town, machine: SnpMachine) -> None:
    job = counted(guarded, "tee")
    taken(guarded, job)
    guarded.broker("insurer").step()
    grant = guarded.job(job).grant
    assert grant is not None
    identity = attest_with(machine, grant, nonces_of(guarded, job))  # type: ignore[arg-type]
    attest_job(guarded, job, identity.evidence)
    guarded.broker("insurer").step()
    assert state_of(guarded, job) == "released"
    assert guarded.clients["institute"].job(job)["trust"].startswith("a guest with this launch measurement")


@pytest.mark.parametrize(
    ("report", "code"),
    [
        ({"policy": 0xB0000}, "debug"),
        ({"measurement": b"\xa2" * 48}, "measurement"),
        ({"vmpl": 2}, "status"),
        ({"policy": 0x70000}, "migratable"),
    ],
)
def test_a_tee_that_is_not_good_enough_gets_no_key_and_the_log_says_why(
    guarded: Town, machine: SnpMachine, report: dict[str, Any], code: str
) -> None:
    job = counted(guarded, f"bad-{code}")
    taken(guarded, job)
    guarded.broker("insurer").step()
    grant = guarded.job(job).grant
    assert grant is not None
    machine.report = report
    evidence = attest_with(machine, grant, nonces_of(guarded, job)).evidence  # type: ignore[arg-type]
    with pytest.raises(EvidenceRejected) as caught:
        attest_job(guarded, job, evidence)
    assert caught.value.code == code, "an honest host refuses it first"
    refused_by_broker(guarded, job, evidence, code)


def refused_by_broker(town: Town, job: str, evidence: SignedEvidence, code: str) -> None:
    """A host that stores evidence without looking gets no key for it."""
    with town.host.store.transaction() as tx:
        found = tx.lock_job(job)
        assert found is not None
        tx.set_evidence(found, evidence, found.positions)
        for request in tx.key_requests(job):
            tx.set_key_request(replace(request, state="attested"))
    town.broker("insurer").step()
    assert last(town) == ("refused", code)
    assert [header["ids"]["reason"] for header in town.headers("key_refused", job)] == [code]


def test_old_firmware_gets_no_key(guarded: Town, machine: SnpMachine) -> None:
    job = counted(guarded, "old")
    taken(guarded, job)
    guarded.broker("insurer").step()
    machine.maker.tcb = machine.maker.tcb | {"microcode": 212}
    machine.maker.leaf = machine.maker.certify()
    grant = guarded.job(job).grant
    refused_by_broker(guarded, job, attest_with(machine, grant, nonces_of(guarded, job)).evidence, "tcb")  # type: ignore[arg-type]


def test_a_tee_that_vouches_for_other_keys_gets_no_key(guarded: Town, machine: SnpMachine) -> None:
    job = counted(guarded, "other-keys")
    taken(guarded, job)
    guarded.broker("insurer").step()
    grant, nonces = guarded.job(job).grant, nonces_of(guarded, job)
    first, second = (attest_with(machine, grant, nonces).evidence for _ in range(2))  # type: ignore[arg-type]
    refused_by_broker(guarded, job, replace(first, platform=second.platform), "key-binding")


def test_simulated_evidence_is_refused_where_a_tee_is_agreed(guarded: Town) -> None:
    job = counted(guarded, "pretended")
    taken(guarded, job)
    guarded.broker("insurer").step()
    grant = guarded.job(job).grant
    assert grant is not None
    refused_by_broker(guarded, job, attest_simulated(grant, nonces_of(guarded, job), grant.measurement).evidence, "kind")  # type: ignore[arg-type]


def test_a_tees_kind_without_its_word_is_refused(guarded: Town, machine: SnpMachine) -> None:
    job = counted(guarded, "no-word")
    taken(guarded, job)
    guarded.broker("insurer").step()
    evidence = attest_with(machine, guarded.job(job).grant, nonces_of(guarded, job)).evidence  # type: ignore[arg-type]
    refused_by_broker(guarded, job, replace(evidence, platform=None), "endorsement")


def test_a_host_adds_certificates_without_changing_what_the_evidence_is(guarded: Town, machine: SnpMachine, tmp_path: Path) -> None:
    job = counted(guarded, "endorsed")
    taken(guarded, job)
    guarded.broker("insurer").step()
    made = attest_with(machine, guarded.job(job).grant, nonces_of(guarded, job)).evidence  # type: ignore[arg-type]
    assert made.platform is not None
    bare = replace(made, platform=replace(made.platform, chain=()))
    for place, data in enumerate(machine.maker.chain):
        (tmp_path / f"{place}.pem").write_bytes(data)
    listed = machine.maker.revocations()
    (tmp_path / "milan.crl").write_bytes(listed.public_bytes(Encoding.DER))
    endorsed = add_endorsements(bare, tmp_path)
    assert endorsed.platform is not None
    assert bytes.fromhex(endorsed.platform.collateral) == listed.public_bytes(Encoding.PEM)
    assert evidence_digest(endorsed) == evidence_digest(bare) == evidence_digest(made)
    attest_job(guarded, job, endorsed)
    guarded.broker("insurer").step()
    assert state_of(guarded, job) == "released"


def test_a_broker_gives_no_keys_to_a_machine_whose_maker_revoked_its_chain(guarded: Town, machine: SnpMachine) -> None:
    job = counted(guarded, "revoked")
    taken(guarded, job)
    guarded.broker("insurer").step()
    evidence = attest_with(machine, guarded.job(job).grant, nonces_of(guarded, job)).evidence  # type: ignore[arg-type]
    assert evidence.platform is not None
    revoking = machine.maker.revocations(machine.maker.middle).public_bytes(Encoding.DER)
    refused_by_broker(
        guarded, job, replace(evidence, platform=replace(evidence.platform, collateral=revoking.hex())), "certificate-revoked"
    )


def test_terms_that_accept_amds_machines_say_how_old_their_firmware_may_be() -> None:
    terms = market.offer_on(PLANS, "institute", "sha256:" + "0" * 64, total="1", per_job="1").terms
    for change in (
        {"enclave_kinds": ("amd-sev-snp",)},
        {"platforms": (FLOOR,)},
        {"enclave_kinds": ("amd-sev-snp",), "platforms": (FLOOR, FLOOR)},
    ):
        with pytest.raises(Malformed):
            replace(terms, **change)  # type: ignore[arg-type]


# Nonces


def test_a_challenge_is_renewed_before_it_is_too_old_and_stays_the_same_till_then(town: Town) -> None:
    job = counted(town, "renewed")
    taken(town, job)
    now = [1000.0]
    broker = town.broker("insurer", now=lambda: now[0])

    def again() -> str:
        with town.host.store.transaction() as tx:
            request = tx.key_request(job, "insurer")
            assert request is not None
            tx.set_key_request(replace(request, state="wanted", nonce=""))
        broker.step()
        return nonces_of(town, job)[0].value

    first = again()
    now[0] += RENEW_S
    assert again() == first
    now[0] += 1
    second = again()
    assert second != first
    kept = [row["nonce"] for row in town.clients["insurer"].home.read(f"broker/{job}.nonce.json")["nonces"]]
    assert kept == [first, second], "evidence that answers the one before is still on its way"
    now[0] += NONCE_LIFETIME_S
    again()
    assert len(town.clients["insurer"].home.read(f"broker/{job}.nonce.json")["nonces"]) <= 2


def test_the_host_wants_a_fresh_nonce_while_another_broker_is_away(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.jobs import run as run_module
    from sandbox.party import nonces as nonces_module

    monkeypatch.setattr(run_module, "RENEW_NONCES_S", 0.05)
    monkeypatch.setattr(nonces_module, "RENEW_S", 0)
    line = Line(host=town.host, brokers=[])
    insurer = town.broker("insurer")
    job = town.charged("away", epsilon="0.1")
    line.until(lambda: town.job(job).state == "running")
    insurer.step()
    first = nonces_of(town, job)[0]
    line.until(lambda: state_of(town, job) == "wanted")
    assert town.clients["institute"].job(job)["waiting_for"] == ["clinic", "insurer"]
    insurer.now = lambda: time.time() + 1
    insurer.step()
    assert nonces_of(town, job)[0] != first
    line.brokers = [insurer, town.broker("clinic")]
    line.finish(job)
    assert town.job(job).state == "released"


def test_a_job_says_for_whom_it_waits(town: Town) -> None:
    job = town.charged("waits", epsilon="0.1")
    assert town.clients["institute"].job(job)["waiting_for"] == []
    taken(town, job)
    assert town.clients["institute"].job(job)["waiting_for"] == ["clinic", "insurer"]
    town.broker("insurer").step()
    assert town.clients["institute"].job(job)["waiting_for"] == ["clinic"]
    town.broker("clinic").step()
    assert town.clients["institute"].job(job)["waiting_for"] == []
    attest_job(town, job)
    town.broker("clinic").step()
    assert town.clients["institute"].job(job)["waiting_for"] == ["insurer"]
    with pytest.raises(Unavailable, match="waits for insurer"):
        town.clients["institute"].wait(job, timeout=0.01)
    assert town.clients["institute"].jobs()[0]["waiting_for"] is None, "lists do not tell"


def test_a_nonce_answers_once(town: Town) -> None:
    job, home = counted(town, "once"), town.clients["insurer"].home
    town.attested(job)
    assert good_nonces(home, job, time.time()) == nonces_of(town, job)
    town.broker("insurer").step()
    assert state_of(town, job) == "released"
    with pytest.raises(EvidenceRejected) as caught:
        good_nonces(home, job, time.time())
    assert caught.value.code == "nonce-expired"


# A person is asked


def test_a_broker_that_asks_challenges_nobody_before_a_person_approves(town: Town) -> None:
    job = counted(town, "asked")
    taken(town, job)
    asking = town.broker("insurer", ask=True)
    for _ in range(3):
        asking.step()
    home = town.clients["insurer"].home
    assert state_of(town, job) == "wanted"
    shown = held(home, "waiting")[job]["shown"]
    assert (shown["consumer"], shown["purpose"]) == ("institute", market.PURPOSE)
    assert list(shown["columns"]) == ["insurer.plans"]
    assert [note["event"] for note in town.journal("insurer")].count("asked") == 1
    answer_held(home, job, "approved")
    town.broker("insurer", ask=True).step()
    attest_job(town, job)
    town.broker("insurer", ask=True).step()
    assert state_of(town, job) == "released"


def test_a_person_who_refuses_ends_the_run_and_the_log_says_who(town: Town) -> None:
    job = counted(town, "refused")
    taken(town, job)
    town.broker("insurer", ask=True).step()
    home = town.clients["insurer"].home
    answer_held(home, job, "refused")
    town.broker("insurer", ask=True).step()
    assert state_of(town, job) == "refused"
    assert [header["ids"]["reason"] for header in town.headers("key_refused", job)] == ["person-refused"]
    with pytest.raises(Conflict):
        answer_held(home, job, "approved")
    with pytest.raises(NotFound):
        answer_held(home, "job-" + "0" * 20, "approved")


def test_keys_need_an_approval_even_where_a_run_was_challenged_without(town: Town) -> None:
    """A broker that did not ask before, or another one on the same home, has challenged."""
    job = counted(town, "unasked")
    town.attested(job)
    town.broker("insurer", ask=True).step()
    assert last(town) == ("refused", "not-approved")


def test_an_approval_is_of_one_grant_only(town: Town) -> None:
    job = counted(town, "one-grant")
    taken(town, job)
    asking = town.broker("insurer", ask=True)
    asking.step()
    home = town.clients["insurer"].home
    answer_held(home, job, "approved")
    kept = home.read(f"broker/{job}.ask.json")
    home.write(f"broker/{job}.ask.json", kept | {"grant": "sha256:" + "0" * 64})
    asking.step()
    assert last(town) == ("refused", "grant-replaced")


@pytest.mark.parametrize(
    ("conditions", "covered"),
    [
        ({}, True),
        ({"consumer": "institute", "purpose": market.PURPOSE}, True),
        ({"datasets": ("insurer.plans",)}, True),
        ({"loss": parse_epsilon("0.1")}, True),
        ({"until": 4_000_000_000}, True),
        ({"consumer": "somebody"}, False),
        ({"purpose": "advertising"}, False),
        ({"datasets": ("insurer.other",)}, False),
        ({"loss": parse_epsilon("0.09")}, False),
        ({"until": 1_000}, False),
        ({"agreement": "sha256:" + "0" * 64}, False),
    ],
)
def test_a_standing_approval_covers_what_fulfils_all_its_conditions(town: Town, conditions: dict[str, Any], covered: bool) -> None:
    job = counted(town, "standing")
    taken(town, job)
    added = add_standing(town.clients["insurer"].home, **conditions)
    town.broker("insurer", ask=True).step()
    assert state_of(town, job) == ("challenged" if covered else "wanted")
    remove_standing(town.clients["insurer"].home, added.id)
    assert standing_approvals(town.clients["insurer"].home) == ()
    with pytest.raises(NotFound):
        remove_standing(town.clients["insurer"].home, added.id)


# Pinned code


def test_a_home_that_has_pinned_other_code_releases_nothing(town: Town) -> None:
    home, job = town.clients["insurer"].home, counted(town, "pinned")
    town.attested(job)
    pin(home, "sha256:" + "0" * 64)
    town.broker("insurer").step()
    assert last(town) == ("refused", "not-pinned")
    pin(home, town.host.measurement)
    unpin(home, "sha256:" + "0" * 64)
    assert pinned(home) == (town.host.measurement,)
    again = counted(town, "pinned-again")
    town.attested(again)
    town.broker("insurer").step()
    assert state_of(town, again) == "released"
    with pytest.raises(NotFound):
        unpin(home, "sha256:" + "0" * 64)


# Data that are withdrawn, re-encrypted, destroyed


def test_withdrawn_data_get_no_key_from_the_next_run_on(town: Town) -> None:
    home, job = town.clients["insurer"].home, counted(town, "withdrawn")
    town.attested(job)
    withdraw(home, "insurer.plans", 1)
    town.broker("insurer").step()
    assert last(town) == ("refused", "data-withdrawn")
    assert [item.state for item in kept_versions(home)] == ["withdrawn"]
    restore(home, "insurer.plans")
    again = counted(town, "restored")
    town.attested(again)
    town.broker("insurer").step()
    assert state_of(town, again) == "released"
    for act in (lambda: restore(home, "insurer.plans"), lambda: withdraw(home, "insurer.none"), lambda: withdraw(home, "insurer.plans", 7)):
        with pytest.raises(NotFound):
            act()


def test_keys_that_were_released_before_a_withdrawal_are_the_same_bytes_again(town: Town) -> None:
    home, job = town.clients["insurer"].home, counted(town, "before")
    town.attested(job)
    town.session("insurer").doctor = lambda method, path, answer: network_down() if path == "/key-requests/keys" else answer
    with pytest.raises(Unavailable):
        town.broker("insurer").step()
    town.session("insurer").doctor = lambda method, path, answer: answer
    withdraw(home, "insurer.plans")
    town.broker("insurer").step()
    assert state_of(town, job) == "released"


def test_destroyed_keys_are_gone_and_the_log_says_so(town: Town) -> None:
    client, job = town.clients["insurer"], counted(town, "destroyed")
    home = client.home
    taken(town, job)
    town.broker("insurer").step()
    attest_job(town, job)
    (version,) = kept_versions(home, "insurer.plans")
    statement = destroy(client, "insurer.plans", 1)
    assert statement == KeyDestruction(dataset="insurer.plans", version=1, file_digest=version.file_digest)
    assert [item.state for item in kept_versions(home)] == ["destroyed"]
    assert not list((home.folder / "keys" / "insurer.plans").iterdir())
    town.broker("insurer").step()
    assert last(town) == ("refused", "data-destroyed")
    with pytest.raises(NotFound):
        column_keys(home, "insurer.plans", 1, version.file_digest, ("coinsurance",))
    with pytest.raises(Conflict) as caught:
        town.clients["institute"].submit(town.request("later", sql=COUNT_SQL, epsilon="0.1"))
    assert caught.value.code == "keys-destroyed"
    assert destroy(client, "insurer.plans", 1) == statement, "again is the same"
    with town.host.store.reading() as tx:
        kinds = [data for data in tx.entries(0, tx.log_size()) if b'"kind":"destroyed"' in data]
    assert len(kinds) == 1
    for wrong in (("insurer.plans", 9), ("insurer.none", 1)):
        with pytest.raises(NotFound):
            destroy(client, *wrong)
    with pytest.raises(PolicyRefused):
        reencrypt(client, "insurer.plans")


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_destruction_that_was_interrupted_goes_on(town: Town, lost: str) -> None:
    client = town.clients["insurer"]
    real = town.session("insurer").request

    def down(method: str, url: str, **arguments: Any) -> Any:
        if url.endswith("/destructions"):
            if lost == "answer":
                real(method, url, **arguments)
            network_down()
        return real(method, url, **arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(town.session("insurer"), "request", down)
        with pytest.raises(Unavailable):
            destroy(client, "insurer.plans", 1)
    assert [item.state for item in kept_versions(client.home)] == ["destroying"]
    destroy(client, "insurer.plans", 1)
    assert [item.state for item in kept_versions(client.home)] == ["destroyed"]


def test_only_the_provider_states_that_its_keys_are_gone(town: Town) -> None:
    (version,) = kept_versions(town.clients["insurer"].home)
    statement = KeyDestruction(dataset="insurer.plans", version=1, file_digest=version.file_digest)
    with pytest.raises(SandboxError) as caught:
        town.clients["clinic"].state_destruction(statement)
    assert caught.value.code == "forbidden"
    for change in ({"version": 2}, {"file_digest": "sha256:" + "0" * 64}):
        with pytest.raises(NotFound):
            town.clients["insurer"].state_destruction(replace(statement, **change))  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        town.clients["clinic"].download(version.file_digest, town.folder / "stolen")


def test_a_table_is_encrypted_anew_from_the_services_copy(town: Town) -> None:
    client = town.clients["insurer"]
    before = kept_versions(client.home)[0]
    made = reencrypt(client, "insurer.plans")
    assert made["version"] == 2
    columns = tuple(column.name for column in PLANS.columns)
    old, new = (column_keys(client.home, "insurer.plans", item.version, item.file_digest, columns) for item in kept_versions(client.home))
    assert not set(old.values()) & set(new.values())
    files = [town.host.blobs.path(digest).read_bytes() for digest in (before.file_digest, made["file_digest"])]
    tables = [
        decrypt_columns(file, dataset="insurer.plans", version=at, keys=keys, columns=columns)
        for at, file, keys in ((1, files[0], old), (2, files[1], new))
    ]
    assert tables[0].equals(tables[1])
    assert not list(client.home.folder.glob("reencrypt-*"))


def test_a_service_that_sends_another_file_is_found_out(town: Town) -> None:
    client = town.clients["insurer"]
    session = town.session("insurer")
    session.doctor = lambda method, path, answer: (
        replace(answer, content=answer.content[:-1] + b"x") if path.startswith("/uploads/") else answer
    )
    with pytest.raises(SandboxError) as caught:
        reencrypt(client, "insurer.plans")
    assert caught.value.code == "upload-digest"
    assert len(kept_versions(client.home)) == 1


def test_a_job_reads_the_version_that_it_was_granted_though_a_newer_one_comes(town: Town) -> None:
    job = counted(town, "granted-version")
    grant = town.job(job).grant
    assert grant is not None
    newer = publish(town.clients["insurer"], PLANS, market.plans_table(31))
    assert newer["version"] == 2
    line = Line(host=town.host, brokers=[town.broker("insurer")])
    line.finish(job)
    assert town.job(job).state == "released"
    assert [(read.version, read.file_digest) for read in grant.reads] == [(1, kept_versions(town.clients["insurer"].home)[0].file_digest)]


def test_an_enclave_granted_one_column_opens_no_other_and_no_other_version(town: Town) -> None:
    client = town.clients["insurer"]
    publish(client, PLANS, market.plans_table(31))
    first, second = kept_versions(client.home)
    keys = column_keys(client.home, "insurer.plans", 1, first.file_digest, ("coinsurance",))
    assert set(keys) == {FOOTER, "coinsurance"}
    files = {item.version: town.host.blobs.path(item.file_digest).read_bytes() for item in (first, second)}
    opened = decrypt_columns(files[1], dataset="insurer.plans", version=1, keys=keys, columns=["coinsurance"])
    assert opened.num_rows
    for version, column in ((1, "medical_spend"), (2, "coinsurance")):
        borrowed = keys | {column: keys["coinsurance"]}
        for held_keys in (keys, borrowed):
            with pytest.raises(SandboxError):
                decrypt_columns(files[version], dataset="insurer.plans", version=version, keys=held_keys, columns=[column])


def test_a_job_reads_the_version_it_was_granted_though_a_new_one_comes_while_it_runs(town: Town) -> None:
    job = counted(town, "granted-before")
    taken(town, job)
    town.broker("insurer").step()
    assert publish(town.clients["insurer"], PLANS, market.plans_table(40))["version"] == 2
    attest_job(town, job)
    town.broker("insurer").step()
    assert last(town)[0] == "released", "the broker decides on the versions that stood when the job was charged"
    grant = town.job(job).grant
    assert grant is not None
    assert [read.version for read in grant.reads] == [1]  # type: ignore[union-attr]
    after = town.job(counted(town, "granted-after")).grant
    assert after is not None
    assert [read.version for read in after.reads] == [2]  # type: ignore[union-attr]

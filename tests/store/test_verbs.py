"""Every verb of the store on every database, on the records of a whole honest history."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from enclaves.kit.envelope import Signed
from enclaves.kit.lineage import sign_log_rotation
from enclaves.kit.rotation import sign_rotation
from enclaves.kit.signatures import SigningKey
from policies.acts import DutyDone, JobApproval, SignedApproval, SignedDuty
from policies.agreement import LogIdentity
from policies.audit_scope import AuditScope, SignedAuditScope
from policies.canonical import digest
from policies.codec import encode
from policies.counts import Counts, Used
from policies.documents import KeyRotation, SignedRotation, secret_digest
from policies.entries import LedgerCharge, parse_header
from policies.errors import Conflict, Forbidden, Malformed, NotFound
from policies.escrow import begin as begin_exchange
from policies.exchange import exchange_digest
from policies.finding import Decision
from policies.lineage import Consent, Epoch, LogRotation, SignedEpoch
from policies.privacy import Loss
from policies.scorer import ScoreRequest
from policies.scoring_decision import ScoreFacts
from policies.tightening import SignedTightening, Tightening
from sandbox.audit.merkle import Frontier, leaf_hash, root_from_nodes, verify_inclusion
from sandbox.exchange.escrow_states import StoredExchange
from sandbox.exchange.paging import Page
from sandbox.exchange.records import Participant
from sandbox.jobs.joint_states import JointAttempt, StoredJointRelease
from sandbox.jobs.scoring_states import Scoring
from sandbox.jobs.states import Positions
from sandbox.store.database import Store, Transaction
from sandbox.store.log import NewEntry
from sandbox.store.schema import jobs
from tests.support import exchanges
from tests.support.acts import sign_exchange_act
from tests.support.service import DATABASES, fresh_database
from tests.support.story import Story, tell

ALL = Page(limit=100)


class Undo(Exception):
    """Ends a transaction without a trace."""


@pytest.fixture(scope="module", params=DATABASES)
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A history, told once per database; tests undo what they add."""
    with fresh_database(str(request.param)) as url:
        found = tell(tmp_path_factory.mktemp("story"), url)
        yield found
        found.host.store.close()


@pytest.fixture
def tx(story: Story) -> Iterator[Transaction]:
    """A transaction whose changes are undone."""
    try:
        with story.host.store.transaction() as found:
            yield found
            raise Undo
    except Undo:
        pass


def test_every_verb_of_the_store_is_exercised_here() -> None:
    verbs = {name for name in dir(Transaction) if not name.startswith("_") and callable(getattr(Transaction, name))}
    text = Path(__file__).read_text(encoding="utf-8")
    assert not {verb for verb in verbs if f".{verb}(" not in text}


def test_participants_and_codes(tx: Transaction) -> None:
    key, other = SigningKey.generate().public.hex(), SigningKey.generate().public.hex()
    tx.add_admission_code("sha256:code", "newcomer", expires_at=100)
    assert not tx.use_admission_code("sha256:code", "somebody", 50)
    assert not tx.use_admission_code("sha256:code", "newcomer", 100)
    assert not tx.code_was_used("sha256:code", "newcomer")
    assert tx.use_admission_code("sha256:code", "newcomer", 99)
    assert tx.code_was_used("sha256:code", "newcomer")
    assert not tx.use_admission_code("sha256:code", "newcomer", 99)
    newcomer = Participant(id="newcomer", title="新的参与者", signing_key=key, sealing_key=other)
    assert not tx.key_is_known(key, other)
    tx.add_participant(newcomer, secret_digest("credential"), 1)
    assert tx.key_is_known("0" * 64, other)
    assert tx.participant("newcomer") == newcomer == tx.participant_by_credential(secret_digest("credential"))
    assert tx.participant("nobody") is None
    names = [item.id for item in tx.participants(ALL).items]
    assert names == sorted(names)
    assert "newcomer" in names


def test_uploads_and_their_quota(tx: Transaction, story: Story) -> None:
    digest = "sha256:" + "ab" * 32
    before = tx.uploaded_bytes("auditor")
    tx.add_upload(digest, "auditor", 70)
    tx.add_upload(digest, "auditor", 70)
    assert tx.has_upload(digest, "auditor") == 70 == tx.uploaded_bytes("auditor") - before
    assert tx.has_upload(digest, "insurer") == 0
    tx.add_upload("sha256:" + "cd" * 32, "auditor", 30, quota=100)
    with pytest.raises(Forbidden) as refused:
        tx.add_upload("sha256:" + "ef" * 32, "auditor", 1, quota=100)
    assert refused.value.code == "upload-quota"
    assert tx.stored_bytes() >= 101
    assert tx.forget_upload(digest)
    assert tx.has_upload(digest, "auditor") == 0
    published = tx.newest_version("insurer.plans")
    assert published is not None
    assert tx.referenced([published.file_digest, digest]) == {published.file_digest}
    assert not tx.forget_upload(published.file_digest)
    assert tx.has_upload(published.file_digest, "insurer") == published.size


def test_datasets_versions_and_offers(tx: Transaction) -> None:
    known = {item.declaration.dataset: item for item in tx.datasets(ALL).items}
    assert set(known) == {"clinic.care", "insurer.plans"}
    assert known["insurer.plans"].newest == 2
    assert tx.dataset("clinic.care") == known["clinic.care"]
    assert tx.datasets(ALL, "clinic").items == (known["clinic.care"],)
    assert tx.dataset("clinic.other") is None
    with pytest.raises(Exception, match=r"(?i)unique"), tx.connection.begin_nested():
        tx.add_dataset(known["clinic.care"].declaration, known["clinic.care"].signed)
    newest = tx.newest_version("insurer.plans")
    assert newest is not None
    tx.add_version(replace(newest, version=3))
    assert tx.newest_version("insurer.plans") == replace(newest, version=3)
    assert tx.newest_version("clinic.other") is None
    assert tx.version_of_file("insurer.plans", newest.file_digest) in (newest, replace(newest, version=3))
    assert tx.version_of_file("clinic.care", newest.file_digest) is None
    assert tx.destruction(newest.file_digest) is None
    tx.destroy_keys(newest.file_digest, newest.signed)
    tx.destroy_keys(newest.file_digest, known["clinic.care"].signed)
    assert tx.destruction(newest.file_digest) == newest.signed, "the first statement counts"
    (offer,) = tx.offers(ALL).items
    assert tx.offer(offer.digest) == offer
    tx.add_offer(offer.digest, "insurer", offer.signed)
    assert tx.offers(ALL).items == (offer,)
    assert tx.offers(ALL, "clinic").items == ()


def test_agreements(tx: Transaction, story: Story) -> None:
    (digest,) = tx.agreements_of("insurer")
    stored = tx.agreement(digest)
    assert stored is not None
    assert stored.state == "active"
    assert not stored.waiting_for
    parties = [party.id for party in stored.agreement.parties]
    tx.add_agreement("sha256:other", stored.document, parties, "insurer")
    tx.lock_agreement("sha256:other")
    tx.sign_agreement("sha256:other", stored.signatures[0])
    half = tx.agreement("sha256:other")
    assert half is not None
    assert half.state == "proposed"
    assert half.signatures == stored.signatures[:1]
    tx.activate_agreement("sha256:other")
    assert tx.terms(digest) == stored.agreement
    assert tx.terms("sha256:" + "0" * 64) is None
    assert tx.terms_of("insurer") == [stored.agreement] * 2
    assert tx.terms_of("stranger") == []
    assert tx.signed_by([]) == ()
    assert tx.agreements_of("stranger") == []
    assert tx.agreements_of("insurer") == sorted([digest, "sha256:other"])
    assert tx.agreement("sha256:none") is None
    assert [item.state for item in tx.agreements("insurer", ALL, "active").items].count("active") == 2
    assert tx.agreements("stranger", ALL).items == ()


def test_ledgers(tx: Transaction) -> None:
    names = [("a_provider", "persons"), ("b_provider", "persons")]
    assert {loss.amount for loss in tx.lock_ledgers(names).values()} == {0}
    tx.charge([LedgerCharge(provider="a_provider", id_space="persons", amount=5, delta0=0)], "institute", 0)
    assert [loss.amount for loss in tx.lock_ledgers(names).values()] == [5, 0]
    assert tx.spent()["a_provider", "persons"].amount == 5


def test_a_void_charge_leaves_ledger_and_consumer_and_never_more_than_was_paid(tx: Transaction) -> None:
    ledger = ("a_provider", "persons")
    charge = LedgerCharge(provider="a_provider", id_space="persons", amount=5, delta0=2)
    tx.lock_ledgers([ledger])
    tx.charge([charge, charge], "institute", 1000)
    tx.charge([charge], "", 2000)
    tx.give_back([charge], "institute", 1000)
    spent = tx.spent()
    assert (spent[ledger].amount, spent[ledger].delta0) == (10, 4)
    assert tx.spent_for("another", spent)[ledger].amount == 5
    recent = {after: [loss.amount for loss in tx.charged_since(*ledger, after, "institute")] for after in (0, 1000, 2000)}
    assert recent == {0: [10, 10], 1000: [5, 5], 2000: [0, 0]}, "it counts no more in the period in which it was charged"
    for more, consumer in ((replace(charge, amount=11), ""), (replace(charge, amount=6), "institute"), (charge, "stranger")):
        with pytest.raises(Conflict) as refused:
            tx.give_back([more], consumer, 1000)
        assert refused.value.code == "ledger-void"


def test_a_ledger_tells_what_counts_to_one_consumer(tx: Transaction) -> None:
    ledger = ("a_provider", "persons")
    tx.lock_ledgers([ledger])
    for consumer, amount, delta0 in (("institute", 5, 2), ("stranger", 7, 0), ("institute", 1, 1), ("", 11, 0)):
        tx.charge([LedgerCharge(provider="a_provider", id_space="persons", amount=amount, delta0=delta0)], consumer, 0)
    spent = tx.spent()
    assert (spent[ledger].amount, spent[ledger].delta0) == (24, 3)
    counted = {consumer: tx.spent_for(consumer, spent)[ledger] for consumer in ("institute", "stranger", "nobody")}
    assert {consumer: (loss.amount, loss.delta0) for consumer, loss in counted.items()} == {
        "institute": (17, 3), "stranger": (18, 0), "nobody": (11, 0),
    }, "charges for nobody by name count to everybody"  # fmt: skip
    assert set(tx.spent_for("institute", {})) == set(), "only ledgers that were asked about"


def test_a_ledger_tells_what_it_was_charged_after_a_time(tx: Transaction) -> None:
    ledger = ("a_provider", "persons")
    tx.lock_ledgers([ledger])
    assert tx.charged_since("no_provider", "persons", 0, "institute") == (Loss(amount=0), Loss(amount=0))
    for consumer, at, amount in (("institute", 30, 1), ("stranger", 10, 2), ("", 20, 4), ("institute", 20, 8)):
        tx.charge([LedgerCharge(provider="a_provider", id_space="persons", amount=amount, delta0=amount)], consumer, at)
    tx.date_charge(LedgerCharge(provider="a_provider", id_space="persons", amount=16), "", 40)
    for after, spent, own in ((9, 31, 29), (10, 29, 29), (20, 17, 17), (30, 16, 16), (40, 0, 0)):
        found = tx.charged_since(*ledger, after, "institute")
        assert [loss.amount for loss in found] == [spent, own]
    assert [loss.delta0 for loss in tx.charged_since(*ledger, 10, "stranger")] == [13, 4]


def test_a_ledger_is_charged_in_the_measure_of_its_first_charge(tx: Transaction) -> None:
    tx.lock_ledgers([("a_provider", "persons")])
    tx.charge([LedgerCharge(provider="a_provider", id_space="persons", amount=5, measure="zcdp")], "institute", 0)
    with pytest.raises(Conflict) as refused:
        tx.charge([LedgerCharge(provider="a_provider", id_space="persons", amount=5)], "institute", 0)
    assert refused.value.code == "ledger-measure"
    assert (tx.spent()["a_provider", "persons"].measure, tx.spent()["a_provider", "persons"].amount) == ("zcdp", 5)


def test_a_question_is_answered_by_a_run_of_its_own_only(tx: Transaction, story: Story) -> None:
    released = story.jobs["released"]
    assert released.question
    assert tx.answered(released.question) == released
    assert tx.answered("sha256:" + "0" * 64) is None
    for name in ("failed", "withheld"):
        assert story.jobs[name].question
        assert story.jobs[name].question == released.question or tx.answered(story.jobs[name].question) is None
    for name, grant, created_at in (("later", released.grant, released.created_at + 1), ("repeats", None, released.created_at - 1)):
        request = replace(released.request, request_id=f"asked-{name}")
        tx.add_job(replace(released, id=f"job-{name}", request=request, grant=grant, created_at=created_at))
    assert tx.answered(released.question) == released, "neither a later run nor a job without one"


def test_jobs_keep_what_they_carry(tx: Transaction, story: Story) -> None:
    released = story.jobs["released"]
    assert tx.job(released.id) == released == tx.lock_job(released.id)
    assert tx.job_by_request("institute", released.request.request_id) == released
    assert tx.job_by_request("institute", "no-such-request") is None
    assert {job.id for job in tx.jobs("auditor", ALL).items} == {job.id for job in story.jobs.values()}
    assert {job.state for job in tx.jobs("auditor", ALL, state="failed").items} == {"failed"}
    first = tx.jobs("auditor", Page(limit=2))
    assert len(first.items) == 2
    assert not {job.id for job in first.items} & {job.id for job in tx.jobs("auditor", Page(limit=100, after=first.next)).items}
    assert tx.jobs("stranger", ALL).items == ()
    assert tx.counts() == {"released": 2, "denied": 1, "withheld": 1, "failed": 1}


def test_a_job_is_claimed_leased_and_moved(tx: Transaction, story: Story) -> None:
    old = story.jobs["released"]
    request = replace(old.request, request_id="another-request")
    job = replace(
        old, id="job-another", request=request, state="charged", evidence=None, signed=replace(old.signed, body=_body(old, request))
    )
    tx.add_job(job)
    assert tx.has_charged()
    claimed = tx.claim_charged("worker-1", lease_until=10.0)
    assert claimed is not None
    assert (claimed.id, claimed.worker) == ("job-another", "worker-1")
    assert tx.claim_charged("worker-2", lease_until=10.0) is None
    running = tx.move_job(claimed, "running", positions=Positions(decided=1))
    tx.renew_lease(job.id, "worker-2", 99.0)
    assert tx.leases() == {job.id: 10.0}
    tx.renew_lease(job.id, "worker-1", 99.0)
    assert tx.leases() == {job.id: 99.0}
    assert [item.id for item in tx.running_of("worker-1")] == [job.id]
    assert tx.running_of("worker-2") == []
    assert old.evidence is not None
    tx.set_evidence(running, old.evidence, replace(running.positions, attested=2))
    stored = tx.job(job.id)
    assert stored is not None
    assert stored.evidence == old.evidence
    assert stored.positions.attested == 2
    with pytest.raises(Conflict):
        tx.move_job(claimed, "running")
    tx.add_key_requests(job.id, ["clinic", "insurer"])
    (asked,) = [item for item in tx.open_key_requests("clinic", ALL).items if item.job == job.id]
    assert asked == tx.key_request(job.id, "clinic")
    assert tx.jobs_named([job.id, "job-none"]) == {job.id: tx.job(job.id)}
    assert tx.jobs_named([]) == {}
    assert tx.job_of_party(job.id, "insurer") == tx.job(job.id)
    assert tx.job_of_party(job.id, "stranger") is None
    assert tx.job_of_party("job-none", "insurer") is None
    tx.set_key_request(replace(asked, state="challenged", nonce="ab" * 32))
    assert [item.state for item in tx.key_requests(job.id)] == ["challenged", "wanted"]
    assert not [item for item in tx.open_key_requests("clinic", ALL).items if item.job == job.id]
    assert tx.key_request(job.id, "nobody") is None


def test_releases_come_back_byte_for_byte_and_once(tx: Transaction, story: Story) -> None:
    release = tx.release(story.jobs["released"].id)
    assert release is not None
    assert len(release.sealed) > 1000
    assert tx.release(story.jobs["denied"].id) is None
    with pytest.raises(Exception, match=r"(?i)unique"), tx.connection.begin_nested():
        tx.add_release(release)
    sealed = os.urandom(4096)
    tx.add_release(replace(release, job=story.jobs["failed"].id, sealed=sealed))
    again = tx.release(story.jobs["failed"].id)
    assert again is not None
    assert again.sealed == sealed


def test_the_log(tx: Transaction) -> None:
    tx.hold_log()
    size = tx.log_size()
    index = tx.append("opened", at=1, ids={"x": "y"}, body={"text": "数据"}, agreement="sha256:other")
    assert (index, tx.log_size()) == (size, size + 1)
    (data,) = tx.entries(index, index + 1)
    assert b'"opened"' in data
    assert tx.openings(index, index + 1, []) == []
    (opening,) = tx.openings(index, index + 1, ["sha256:other"])
    assert opening.body == {"text": "数据"}
    assert len(tx.openings(0, size + 1, None)) == size + 1
    assert tx.nodes(0, index, 1) == [tx.node(0, index)]
    with pytest.raises(NotFound):
        tx.node(0, size + 1)
    assert [header["kind"] for header in tx.headers_of("insurer", 0, size)].count("decided") == 5
    assert tx.headers_of("stranger", 0, size) == []
    assert tx.over_nodes(lambda node: node(0, index)) == tx.node(0, index)
    leaf, proof = tx.included(index, size + 1)
    assert leaf == data
    verify_inclusion(leaf_hash(leaf), index, size + 1, proof, tx.over_nodes(lambda node: root_from_nodes(size + 1, node)))
    assert tx.included(0, 1) == (tx.entries(0, 1)[0], ())
    with pytest.raises(Malformed):
        tx.included(size + 1, size + 1)
    with pytest.raises(NotFound):
        tx.included(size + 5, size + 6)
    tx.add_checkpoint(size + 1, "note")
    tx.add_checkpoint(size + 1, "another note")
    assert tx.newest_checkpoint() == (size + 1, "note")


def test_what_an_operator_watches(tx: Transaction) -> None:
    assert tx.at_head()
    assert tx.setting("origin") == "sandbox.local/log"
    assert tx.setting("nothing") is None
    assert tx.fix_setting("colour", "blue") == "blue" == tx.fix_setting("colour", "red")
    tx.see_worker("worker-1", 1000, 0)
    tx.see_worker("worker-2", 3000, 0)
    tx.see_worker("worker-2", 4000, 2000)
    assert 4000 in tx.workers_seen()
    assert 1000 not in tx.workers_seen()
    assert tx.workers_seen() == sorted(tx.workers_seen(), reverse=True)
    later = 10**15
    tx.see_worker("worker-3", later, 0, ("network", "uid"))
    tx.see_worker("worker-4", later + 1, 0, ("network", "filesystem"))
    assert tx.isolation_since(later) == ("network",)
    assert tx.isolation_since(later + 1) == ("network", "filesystem")
    assert tx.isolation_since(later + 2) == ()


def test_a_transaction_that_fails_leaves_nothing(story: Story) -> None:
    store: Store = story.host.store
    with store.reading() as tx:
        size = tx.log_size()
    insurer = story.member("insurer")

    def append_and_fail() -> None:
        with store.transaction() as tx:
            tx.append("opened", at=1, ids={}, body={})
            tx.add_participant(insurer, secret_digest("x"), 1)

    with pytest.raises(Conflict):
        append_and_fail()
    with store.reading() as tx:
        assert tx.log_size() == size == len(tx.entries(0, size + 10))


def _body(job: object, request: object) -> dict[str, object]:
    from policies.codec import encode

    return dict(encode(request))


def _rotation(before: Participant, old: SigningKey, sequence: int) -> tuple[SignedRotation, SigningKey]:
    """A participant's next keys, signed by the key before, and the new signing key."""
    new, sealing = SigningKey.generate(), SigningKey.generate().public.hex()
    rotation = KeyRotation(
        participant=before.id, sequence=sequence, old_key=before.signing_key, signing_key=new.public.hex(), sealing_key=sealing
    )
    return sign_rotation(rotation, old, new), new


def test_keys_are_replaced_in_a_chain_and_never_forgotten(tx: Transaction, story: Story) -> None:
    first = story.member("insurer")
    assert tx.rotation_of(first.signing_key) is None
    assert tx.rotations_to("insurer", first.signing_key) == () == tx.rotations_from(first.signing_key)
    one, key = _rotation(first, story.firms["insurer"].signing, 1)
    tx.replace_keys(first, one)
    second = tx.participant("insurer")
    assert second == replace(first, signing_key=one.rotation.signing_key, sealing_key=one.rotation.sealing_key)
    two, _ = _rotation(second, key, 2)
    tx.replace_keys(second, two)
    third = tx.participant("insurer")
    assert third is not None
    assert third.signing_key == two.rotation.signing_key
    assert tx.rotation_of(first.signing_key) == one
    assert tx.rotations_from(first.signing_key) == (one, two) == tx.rotations_to("insurer", third.signing_key)
    assert tx.rotations_from(second.signing_key) == (two,)
    assert tx.rotations_to("insurer", second.signing_key) == (one,)
    assert tx.rotations_to("clinic", third.signing_key) == ()
    for keys in (first, second, third):
        assert tx.key_is_known(keys.signing_key)
        assert tx.key_is_known(keys.sealing_key)
    with pytest.raises(Exception, match=r"(?i)unique"), tx.connection.begin_nested():
        tx.replace_keys(first, one)


def test_keys_are_revoked_and_a_participant_comes_back_under_others(tx: Transaction, story: Story) -> None:
    before = story.member("clinic")
    assert not before.revoked
    tx.revoke_keys(before, 7)
    assert tx.participant("clinic") == replace(before, revoked=True)
    anew = replace(before, title="Clinic again", signing_key=SigningKey.generate().public.hex(), sealing_key="ab" * 32)
    tx.readmit(anew, secret_digest("another credential"))
    assert tx.participant("clinic") == anew == tx.participant_by_credential(secret_digest("another credential"))
    assert tx.key_is_known(before.signing_key)
    assert tx.key_is_known(before.sealing_key)
    with pytest.raises(Exception, match=r"(?i)unique"), tx.connection.begin_nested():
        tx.revoke_keys(before, 8)


def test_a_code_is_spent_whether_it_is_known_or_not(tx: Transaction) -> None:
    tx.add_admission_code("sha256:known", "newcomer", expires_at=100)
    for name in ("sha256:known", "sha256:unknown"):
        tx.spend_code(name, "newcomer", 50)
        assert tx.code_was_used(name, "newcomer")
        assert not tx.use_admission_code(name, "newcomer", 40)


def test_what_a_restore_lost_is_remembered_until_it_is_found(tx: Transaction, story: Story) -> None:
    digest = "sha256:" + "ab" * 32
    assert not tx.upload_is_lost(digest)
    for _ in range(2):
        tx.lose_upload(digest)
        tx.lose_job("job-lost")
    assert tx.upload_is_lost(digest)
    assert tx.job_is_lost("job-lost")
    assert not tx.job_is_lost(story.jobs["released"].id)
    tx.find_upload(digest)
    assert not tx.upload_is_lost(digest)


def test_a_job_is_put_back_into_any_state(tx: Transaction, story: Story) -> None:
    ended = story.jobs["released"]
    assert tx.unfinished() == []
    tx.put_job(replace(ended, state="running", positions=Positions(decided=1)))
    assert tx.unfinished() == [ended.id]
    tx.put_job(replace(ended, state="failed", code="release-lost"))
    assert tx.job(ended.id) == replace(ended, state="failed", code="release-lost")
    assert tx.unfinished() == []


def test_ledgers_are_raised_and_never_lowered(tx: Transaction) -> None:
    tx.raise_ledgers({("insurer", "one"): Loss(amount=5)}, 0)
    tx.raise_ledgers({("insurer", "one"): Loss(amount=4), ("insurer", "another"): Loss(measure="zcdp", amount=3, delta0=2)}, 0)
    assert tx.spent()["insurer", "one"].amount == 5
    assert tx.spent()["insurer", "another"] == Loss(measure="zcdp", amount=3, delta0=2)
    tx.raise_ledgers({("insurer", "one"): Loss(amount=6, delta0=1)}, 0)
    assert tx.spent()["insurer", "one"] == Loss(amount=6, delta0=1)
    with pytest.raises(Conflict) as caught:
        tx.raise_ledgers({("insurer", "another"): Loss(amount=9)}, 0)
    assert caught.value.code == "ledger-measure"


def test_receipts_of_a_log_that_ends_are_kept(tx: Transaction, story: Story) -> None:
    stated = {story.jobs[label].id for label in ("released", "withheld", "counted")}
    assert set(tx.ended_jobs()) == stated
    job = story.jobs["released"].id
    assert tx.former_receipt(job) is None
    tx.keep_receipt(job, {"text": "收据"})
    assert tx.former_receipt(job) == {"text": "收据"}
    assert set(tx.ended_jobs()) == stated - {job}


def _epoch(story: Story, size: int) -> Epoch:
    before = LogIdentity(origin=story.host.log_identity.name, key=story.host.log_identity.public.hex())
    return Epoch(
        number=2, before=(before,), size=size, root="ab" * 32, log=replace(before, origin="other/log"), providers=("clinic",), totals=()
    )


def test_the_steps_of_the_log_come_back_in_order(tx: Transaction, story: Story) -> None:
    assert tx.log_links() == ()
    old, new = story.host.log_key, SigningKey.generate()
    origin = story.host.log_identity.name
    rotated = sign_log_rotation(LogRotation(origin=origin, old_key=old.public.hex(), key=new.public.hex()), old, new)
    begun = SignedEpoch(epoch=_epoch(story, 3), consents=(Consent(provider="clinic", signature="ab" * 64, rotations=()),))
    tx.add_log_link(rotated)
    tx.add_log_link(begun)
    assert tx.log_links() == (rotated, begun)
    tx.replace_setting("log_key", new.public.hex())
    tx.replace_setting("new_setting", "value")
    assert (tx.setting("log_key"), tx.setting("new_setting")) == (new.public.hex(), "value")


def test_entries_appended_at_once_are_those_appended_one_by_one(tx: Transaction) -> None:
    size = tx.log_size()
    drafts = [NewEntry(kind="declared", at=number, ids={"dataset": f"a.d{number}"}, body={"number": number}) for number in range(9)]
    assert tx.append_all(drafts[:1]) == size
    assert tx.append_all(drafts[1:]) == size + 1
    assert tx.log_size() == size + 9
    assert [opening.body["number"] for opening in tx.openings(size, size + 9, None)] == list(range(9))
    leaves = [leaf_hash(data) for data in tx.entries(0, size + 9)]
    assert root_from_nodes(size + 9, tx.node) == Frontier().extend(leaves).root()
    with pytest.raises(Malformed) as caught:
        tx.append_all([drafts[0], replace(drafts[0], ids={"dataset": "a" * 70_000})])
    assert caught.value.code == "too-large"
    assert tx.log_size() == size + 9, "nothing of a batch with one entry that is too large"


def test_an_epoch_ends_the_log_carries_what_it_should_and_waits_for_signatures(tx: Transaction, story: Story) -> None:
    assert tx.newest_epoch() is None
    assert story.agreement is not None
    assert len(tx.live_agreements()) == 1
    size = tx.log_size()
    former = tx.entries(0, size)
    epoch = _epoch(story, size)
    carried = tx.begin_epoch(epoch, frozenset({"admitted", "agreed"}))
    assert [data for data, _ in carried] == [data for data in former if parse_header(data).kind in ("admitted", "agreed")]
    assert (tx.log_size(), tx.newest_checkpoint(), tx.setting("log_origin")) == (0, None, "other/log")
    assert [tx.append_bytes(data, opening) for data, opening in carried] == list(range(len(carried)))
    assert len(tx.openings(0, len(carried), None)) == len(carried)
    assert tx.append_bytes(former[0], None) == len(carried), "without an opening"
    assert len(tx.openings(0, len(carried) + 1, None)) == len(carried)
    assert tx.newest_epoch() == (epoch, False)
    assert tx.epochs() == [epoch]
    assert list(tx.ended_entries(2)) == list(former)
    assert tx.ended_entries_at(1) == [former[1]]
    assert tx.ended_entries_at(size) == []
    assert tx.opening_counts() == Counts()
    assert tx.epoch_signatures(2) == {}
    tx.set_webhook("clinic", "https://hooks.example/", 1)
    tx.add_notices("epoch", digest(encode(epoch)), ["clinic"], 1)
    tx.add_notices("epoch", "sha256:" + "0" * 64, ["clinic"], 1)
    taken = tx.take_notice("clinic", 10, 20)
    assert taken is not None
    assert taken.subject == digest(encode(epoch)), "one of an epoch that is not the newest is settled"
    tx.sign_epoch(2, "clinic", "cd" * 64, "ef" * 32)
    assert tx.epoch_signatures(2) == {"clinic": ("cd" * 64, "ef" * 32)}
    assert tx.take_notice("clinic", 30, 40) is None
    assert {item.state for item in tx.notices("clinic", ALL).items} == {"settled"}
    tx.complete_epoch(2)
    assert tx.newest_epoch() == (epoch, True)


def test_what_an_epoch_counts_the_tables_count_no_more(tx: Transaction, story: Story) -> None:
    agreement = story.jobs["released"].request.agreement
    assert tx.uses(agreement)
    before = replace(_epoch(story, tx.log_size()), counts=None)
    tx.begin_epoch(before, frozenset())
    assert tx.uses(agreement), "an epoch without counts leaves them to the tables"
    used = Used(agreement=agreement, provider="insurer", consumer="institute", jobs=4)
    log = LogIdentity(origin="other/third", key="cd" * 32)
    tx.begin_epoch(replace(before, number=3, log=log, counts=Counts(uses=(used,))), frozenset())
    assert tx.uses(agreement) == []
    assert tx.released_to(agreement, "institute") == []
    assert tx.opening_counts().uses == (used,)


def test_webhooks_and_notices(tx: Transaction) -> None:
    assert tx.webhook("insurer") is None
    tx.set_webhook("insurer", "https://hooks.example/", 1)
    tx.set_webhook("insurer", "https://hooks.example/2", 1)
    webhook = tx.webhook("insurer")
    assert webhook is not None
    assert (webhook.url, webhook.failures) == ("https://hooks.example/2", 0)
    tx.add_notices("release", "job-a", ["insurer", "clinic"], 5)
    tx.add_notices("release", "job-b", ["insurer"], 6)
    assert [item.subject for item in tx.notices("insurer", ALL).items] == ["job-b", "job-a"]
    assert tx.notices("clinic", ALL).items == ()
    assert tx.due_webhooks(4, 10) == []
    assert tx.due_webhooks(5, 10) == [webhook]
    assert tx.due_webhooks(5, 10, ["insurer"]) == []
    first = tx.take_notice("insurer", 10, 100)
    assert first is not None
    assert (first.subject, first.attempts, first.next_at) == ("job-a", 1, 100)
    second = tx.take_notice("insurer", 10, 100)
    assert second is not None
    assert tx.take_notice("insurer", 10, 100) is None
    tx.end_notice(first, "delivered")
    tx.postpone_notice(second, 50)
    assert tx.notice(second.id) == replace(second, next_at=50)
    failing = tx.webhook("insurer")
    assert failing is not None
    assert failing.failures == 1
    again = tx.take_notice("insurer", 60, 200)
    assert again is not None
    tx.postpone_notice(second, 61)
    assert tx.notice(second.id) == again, "whoever took it before has no say any more"
    assert [item.id for item in tx.notices("insurer", ALL, "delivered").items] == [first.id]
    assert tx.forget_notices(100) == 1
    assert tx.notice(first.id) is None
    tx.end_notice(again, "dead")
    tx.set_webhook("insurer", "https://hooks.example/3", 300)
    revived = tx.notice(second.id)
    assert revived is not None
    assert (revived.state, revived.attempts, revived.next_at) == ("waiting", 0, 300)
    tx.set_webhook("insurer", None, 1)
    assert tx.webhook("insurer") is None
    assert tx.notice(second.id) is None


def test_scorings_and_the_rows_that_they_use_up(tx: Transaction, story: Story) -> None:
    job = tx.jobs("insurer", ALL).items[0]
    request = ScoreRequest(
        request_id="request-0001",
        agreement=job.request.agreement,
        consumer="institute",
        purpose="risk",
        model="clinic.risk",
        rows=7,
        ciphertexts="sha256:" + "ab" * 32,
    )
    scoring = Scoring(
        id="scoring-" + "0" * 20,
        state="asked",
        owner="clinic",
        request=request,
        digest="sha256:" + "cd" * 32,
        signed=Signed(purpose="score-request", by="institute", body=encode(request), signature=job.signed.signature),
        facts=ScoreFacts(now=5, rows=0, requests=0),
        decision=Decision(allowed=True, minimum_group=1, findings=()),
        statement=None,
        decided=3,
        ended=None,
        created_at=5000,
    )
    assert tx.encrypted_rows(request.agreement, "clinic.risk") == (0, 0)
    tx.add_scoring(scoring)
    assert tx.scoring(scoring.id) == scoring == tx.scoring_by_request("institute", "request-0001")
    assert tx.scoring("scoring-" + "1" * 20) is None
    assert tx.scoring_by_request("clinic", "request-0001") is None
    assert tx.open_scorings("institute") == [scoring] == tx.open_scorings("clinic")
    assert tx.open_scorings("insurer") == []
    assert tx.encrypted_rows(request.agreement, "clinic.risk") == (7, 1)
    assert tx.encrypted_rows(request.agreement, "clinic.other") == (0, 0)
    ended = replace(scoring, state="answered", statement=job.signed, ended=9)
    tx.set_scoring(ended)
    assert tx.scoring(scoring.id) == ended
    assert tx.open_scorings("clinic") == []
    assert tx.encrypted_rows(request.agreement, "clinic.risk") == (7, 1)
    assert tx.ended_scorings() == [ended]
    assert tx.former_score_receipt(scoring.id) is None
    tx.keep_score_receipt(scoring.id, {"index": 9})
    assert tx.former_score_receipt(scoring.id) == {"index": 9}
    assert tx.former_score_receipt("scoring-" + "1" * 20) is None
    tx.lose_scoring("scoring-lost", request.agreement, "clinic.risk", 5)
    tx.lose_scoring("scoring-other", request.agreement, "clinic.other", 3)
    assert tx.encrypted_rows(request.agreement, "clinic.risk") == (12, 2)
    tx.lose_scoring("scoring-lost", request.agreement, "", None)
    assert tx.scoring_is_lost("scoring-lost")
    assert not tx.scoring_is_lost(scoring.id)
    assert tx.encrypted_rows(request.agreement, "clinic.risk") == (7, 1)
    tx.set_scoring(replace(ended, state="returned"))
    assert tx.encrypted_rows(request.agreement, "clinic.risk") == (0, 0)
    assert tx.open_scorings("clinic") == []
    with pytest.raises(Exception, match=r"(?i)unique"), tx.connection.begin_nested():
        tx.add_scoring(replace(scoring, id="scoring-" + "2" * 20))


def test_attempts_at_joint_totals(tx: Transaction, story: Story) -> None:
    job = tx.jobs("insurer", ALL).items[0]
    tx.connection.execute(update(jobs).where(jobs.c.id == job.id).values(state="running"))
    first = JointAttempt(job=job.id, attempt=1, contributors=("clinic", "insurer"))
    assert tx.joint_attempt(job.id) is None
    tx.set_joint_attempt(first)
    assert [(attempt, held.id) for attempt, held in tx.running_joint()] == [(first, job.id)]
    tx.add_joint_contribution(job.id, 1, "clinic", job.signed)
    with pytest.raises(Exception, match=r"(?i)unique"), tx.connection.begin_nested():
        tx.add_joint_contribution(job.id, 1, "clinic", job.signed)
    assert tx.joint_contributions(job.id, 1) == {"clinic": job.signed}
    assert tx.joint_contributions(job.id, 2) == {}
    second = replace(first, attempt=2, contributors=("clinic", "third"), manifest=job.signed)
    tx.set_joint_attempt(second)
    tx.set_joint_total(job.id, "sha256:" + "ab" * 32, 7)
    assert tx.joint_attempt(job.id) == replace(second, total="sha256:" + "ab" * 32, since=7)
    release = StoredJointRelease(job=job.id, statement=job.signed, sealed=b"sealed")
    assert tx.joint_release(job.id) is None
    tx.add_joint_release(release)
    assert tx.joint_release(job.id) == release


def test_acts_under_an_agreement_and_what_counts_of_its_jobs(tx: Transaction, story: Story) -> None:
    job = story.jobs["released"]
    name = job.request.agreement
    first = SignedTightening(tightening=Tightening(agreement=name, dataset="insurer.plans", sequence=1, uses=5), signature="00" * 64)
    assert tx.tightenings(name) == ()
    tx.add_tightening(first)
    second = replace(first, tightening=replace(first.tightening, sequence=2, revoked=True))
    tx.add_tightening(second)
    assert tx.tightenings(name) == (first, second)
    scope = AuditScope(agreement=name, owner="insurer", auditor="stranger", sequence=1, openings=("decided",), not_before=0, not_after=9)
    assert tx.scopes_of_auditor("stranger") == {}
    given = SignedAuditScope(scope=scope, signature="00")
    ended = replace(given, scope=replace(scope, sequence=2, openings=()))
    tx.add_audit_scope(given)
    tx.add_audit_scope(ended)
    assert tx.audit_scopes(name) == (given, ended)
    assert tx.scopes_of_auditor("stranger") == {name: (given, ended)}
    (seen,) = tx.opened_under(job.positions.decided, job.positions.decided + 1, [name])
    assert (seen.agreement, seen.opening.index, parse_header(seen.data).kind) == (name, job.positions.decided, "decided")
    assert tx.opened_under(0, tx.log_size(), ["sha256:other"]) == []
    approval = SignedApproval(approval=JobApproval(agreement=name, job=job.id, request=job.request_digest), by="clinic", signature="00")
    tx.add_approval(approval)
    assert tx.approvals(name, job.id) == (approval,)
    assert tx.approvals(name, "job-other") == ()
    duty = SignedDuty(done=DutyDone(agreement=name, duty="deletion", about=job.id, number=1), by="institute", signature="00")
    tx.add_duty(duty)
    assert tx.duties_done(name) == (duty,)
    assert sorted(map(len, (providers for _, providers in tx.uses(name)))) == [1, 2, 2, 2]
    assert tx.scored(name, "institute") == []  # none of its jobs is a call; tests/audit/test_scored_calls.py has calls
    assert {item.id for item in tx.released_to(name, "institute")} == {job.id, story.jobs["counted"].id}
    assert tx.awaiting_since(story.host.now()) == []
    tx.delete_release(job.id)
    stored = tx.release(job.id)
    assert stored is not None
    assert stored.sealed == b""
    waiting = replace(job, id="job-" + "0" * 20, state="awaiting_approval", grant=None, question="")
    waiting = replace(waiting, request=replace(job.request, request_id="request-waits"))
    tx.add_job(waiting)
    assert tx.awaiting_since(waiting.created_at + 1) == [waiting.id]
    tx.decide_job(replace(waiting, state="denied", positions=Positions(decided=7)))
    decided = tx.job(waiting.id)
    assert decided is not None
    assert (decided.state, decided.positions.decided) == ("denied", 7)


def test_exchanges_and_what_was_signed_about_them(tx: Transaction, story: Story) -> None:
    agreement = next(iter(tx.agreements_of("insurer")))
    document = exchanges.exchange(exchanges.data_leg(agreement), exchanges.order_leg())
    signed = story.firms["clinic"].sign("exchange", document)
    kept = StoredExchange(
        digest=exchange_digest(document), signed=signed, exchange=document, course=begin_exchange(document, "clinic"), closed=-1, at=7
    )
    assert tx.exchange(kept.digest) is None
    tx.add_exchange(kept)
    assert tx.exchange(kept.digest) == kept
    assert tx.running_exchanges() == [kept]
    for name, seen in (("clinic", [kept]), ("insurer", [kept]), ("auditor", [kept]), ("institute", [])):
        assert list(tx.exchanges_of(name, Page(limit=5)).items) == seen
    assert tx.exchanges_of("clinic", Page(limit=5), "open").items == ()
    assert tx.live_exchanges() == [kept]
    done = sign_exchange_act(exchanges.act(document, "accept"), "insurer", story.firms["insurer"].signing)
    more = sign_exchange_act(exchanges.act(document, "withdraw"), "insurer", story.firms["insurer"].signing)
    tx.add_exchange_act(done, 8)
    tx.add_exchange_act(more, 9)
    assert [(found.at, found.signed) for found in tx.exchange_acts(kept.digest)] == [(8, done), (9, more)]
    ended = replace(kept.course, stage="withdrawn")
    tx.set_course(kept.digest, ended, 3)
    found = tx.exchange(kept.digest)
    assert found == replace(kept, course=ended, closed=3)
    assert tx.running_exchanges() == tx.live_exchanges() == []
    tx.set_course(kept.digest, replace(kept.course, stage="handed_over"))
    assert (tx.running_exchanges(), [item.digest for item in tx.live_exchanges()]) == ([], [kept.digest])


def test_cosignatures_on_checkpoints(tx: Transaction) -> None:
    newest = tx.newest_checkpoint()
    assert newest is not None
    size, note = newest
    assert (tx.checkpoint_of(size), tx.checkpoint_of(size + 1)) == (note, None)
    assert (tx.cosignatures(size), tx.cosigned_sizes()) == ({}, [])
    tx.add_cosignature(size, "sha256:a", "line 1\n")
    tx.add_cosignature(size, "sha256:a", "line 2\n")
    tx.add_cosignature(size - 1, "sha256:b", "line 3\n")
    assert tx.cosignatures(size) == {"sha256:a": "line 1\n"}
    assert (tx.cosigned_sizes(), tx.cosigned_sizes(1)) == ([size, size - 1], [size])

"""Every verb of the store on every database, on the records of a whole honest history."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from enclaves.kit.lineage import sign_log_rotation
from enclaves.kit.rotation import sign_rotation
from enclaves.kit.signatures import SigningKey
from policies.agreement import LogIdentity
from policies.documents import KeyRotation, secret_digest
from policies.entries import LedgerCharge
from policies.errors import Conflict, Forbidden, NotFound
from policies.lineage import Epoch, LogRotation
from sandbox.exchange.paging import Page
from sandbox.exchange.records import Participant
from sandbox.jobs.states import Positions
from sandbox.store.database import Store, Transaction
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
    tx.charge([LedgerCharge(provider="a_provider", id_space="persons", amount=5, delta0=0)])
    assert [loss.amount for loss in tx.lock_ledgers(names).values()] == [5, 0]
    assert tx.spent()["a_provider", "persons"].amount == 5


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


def test_keys_lineage_and_what_was_lost(tx: Transaction) -> None:
    old, new = SigningKey.generate(), SigningKey.generate()
    joined = Participant(id="rekeyed", title="Rekeyed", signing_key=old.public.hex(), sealing_key="1" * 64)
    tx.spend_code("sha256:spent", "rekeyed", 5)
    assert tx.code_was_used("sha256:spent", "rekeyed")
    tx.add_participant(joined, secret_digest("rekeyed"), 1)
    body = KeyRotation(participant="rekeyed", sequence=1, old_key=joined.signing_key, signing_key=new.public.hex(), sealing_key="2" * 64)
    signed = sign_rotation(body, old, new)
    tx.replace_keys(joined, signed)
    assert tx.rotation_of(joined.signing_key) == signed
    assert tx.rotations_from(joined.signing_key) == (signed,) == tx.rotations_to("rekeyed", body.signing_key)
    assert tx.key_is_known(joined.sealing_key)
    rekeyed = tx.participant("rekeyed")
    assert rekeyed is not None
    tx.revoke_keys(rekeyed, 9)
    found = tx.participant("rekeyed")
    assert found is not None
    assert found.revoked
    tx.readmit(replace(rekeyed, signing_key="3" * 64, sealing_key="4" * 64), secret_digest("again"))
    assert tx.key_is_known(body.signing_key)
    tx.lose_upload("sha256:lost")
    assert tx.upload_is_lost("sha256:lost")
    tx.find_upload("sha256:lost")
    assert not tx.upload_is_lost("sha256:lost")
    tx.lose_job("job-lost")
    assert tx.job_is_lost("job-lost")
    assert tx.unfinished() == []
    tx.raise_ledgers({("rekeyed", "people"): 7})
    tx.raise_ledgers({("rekeyed", "people"): 3})
    assert tx.spent()["rekeyed", "people"].amount == 7
    link = sign_log_rotation(LogRotation(origin="a/log", old_key=old.public.hex(), key=new.public.hex()), old, new)
    tx.add_log_link(link)
    assert tx.log_links() == (link,)
    tx.replace_setting("log_key", "k")
    assert tx.setting("log_key") == "k"
    assert tx.newest_epoch() is None
    assert tx.live_agreements()
    for job_id in tx.ended_jobs():
        job = tx.job(job_id)
        assert job is not None
        tx.put_job(replace(job, code="changed"))
        tx.keep_receipt(job_id, {"kept": job_id})
        assert tx.former_receipt(job_id) == {"kept": job_id}
    assert tx.ended_jobs() == []
    before = LogIdentity(origin="a/log", key=new.public.hex())
    epoch = Epoch(number=2, before=(before,), size=1, root="5" * 64, log=replace(before, origin="b"), providers=("rekeyed",), totals=())
    size = tx.log_size()
    carried = tx.begin_epoch(epoch, frozenset({"admitted"}))
    assert 0 < len(carried) < size
    assert tx.log_size() == 0
    assert [tx.append_bytes(data, opening) for data, opening in carried] == list(range(len(carried)))
    tx.sign_epoch(2, "rekeyed", "6" * 128, "3" * 64)
    assert tx.epoch_signatures(2) == {"rekeyed": ("6" * 128, "3" * 64)}
    assert tx.newest_epoch() == (epoch, False)
    tx.complete_epoch(2)
    assert tx.newest_epoch() == (epoch, True)

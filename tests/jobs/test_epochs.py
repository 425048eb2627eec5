"""A log lost for good begins anew only with totals that every provider signed; a key of the log changes only with the old one's word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app import compose, next_log_key
from enclaves.kit.envelope import sign_document
from enclaves.kit.lineage import follow_lineage, sign_log_rotation, verify_log_rotation
from enclaves.kit.signatures import SigningKey
from policies.agreement import LogIdentity
from policies.canonical import canonical, digest
from policies.codec import decode, encode
from policies.counts import Counts
from policies.entries import LedgerCharge
from policies.errors import Conflict, Forbidden, Malformed, NotFound, Refused, SandboxError, Tampered, Unavailable
from policies.lineage import Consent, Epoch, LogRotation, SignedEpoch, links_from
from policies.privacy import Loss
from sandbox.audit.checkpoint import Checkpoint, LogKey, sign
from sandbox.audit.export import LINEAGE_PATH, Export
from sandbox.audit.merkle import Frontier, leaf_hash
from sandbox.audit.receipt import Receipt, verify_receipt
from sandbox.audit.replay import replay
from sandbox.audit.verdict import Verdict
from sandbox.exchange import epochs
from sandbox.exchange.epochs import open_epoch, rotate_log_key
from sandbox.exchange.paging import Page
from sandbox.exchange.participants import issue_code
from sandbox.exchange.rotation import revoke
from sandbox.host import Host
from sandbox.jobs.delivery import Outcome, deliver_one, due
from sandbox.jobs.notices import Notice, Webhook
from sandbox.jobs.worker import Worker
from sandbox.party.acting import tighten
from sandbox.party.client import Client
from sandbox.party.epochs import compare, seen_counts, sign_epoch
from sandbox.party.exporting import export_log
from sandbox.party.home import Home
from sandbox.party.inbox import inbox
from sandbox.party.rekeying import rotate_keys
from sandbox.party.scopes import give_scope, scopes_under, take_back
from sandbox.store.backup import make_backup, restore_backup
from sandbox.store.database import Store
from sandbox.store.lineage import LineageTables
from sandbox.web.application import make_app
from tests.support import market
from tests.support.forge import drafts, sealed
from tests.support.runs import COUNT_SQL, Answer, Town, brokers_running, copy_town, found_town
from tests.support.service import DATABASES, fresh_database
from tests.support.story import export

PROVIDERS = ("insurer", "clinic")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A town at rest after one job."""
    folder = tmp_path_factory.mktemp("town") / "template"
    town = found_town(folder)
    run(town, "first")
    town.close()
    return folder


@pytest.fixture
def town(template: Path, tmp_path: Path) -> Iterator[Town]:
    copy = copy_town(template, tmp_path / "town")
    yield copy
    copy.close()


def run(town: Town, label: str) -> str:
    """One job of the institute's from request to opened release; returns its id."""
    job = town.charged(label, sql=COUNT_SQL, epsilon="0.1")
    with brokers_running(town.clients["insurer"]):
        assert Worker(host=town.host).step()
    assert town.job(job).state == "released", town.journal("insurer")[-1]
    town.clients["institute"].release(job)
    return job


def serve(town: Town, host: Host) -> None:
    """Let everybody reach the service as it is after a restart."""
    town.host, town.app = host, make_app(host)
    for name, client in town.clients.items():
        town.clients[name] = town.client(client.home)


def restart(town: Town, **options: Any) -> None:
    """Compose the service anew over the same data."""
    town.host.store.close()
    serve(town, compose(replace(town.host.config, origin="town.test/log"), **options))


def begin(town: Town, totals: dict[tuple[str, str], Loss] | None = None, counts: Iterable[Counts] = (), *, new_key: bool = False) -> Epoch:
    """Open an epoch as the operator does, and start the service again."""
    if new_key:
        restart(town, lost_log_key=True)
    _, epoch = open_epoch(town.host, totals or {}, counts)
    restart(town)
    return epoch


def replayed(town: Town, key: LogKey | None = None, **changed: bytes) -> Verdict:
    files = export(town.host, "auditor")
    with town.host.store.reading() as tx:
        files[LINEAGE_PATH] = canonical({"links": encode(tx.log_links())})
    files.update(changed)
    return replay(files.__getitem__, key or town.host.log_identity)


# A new key of the log


def test_the_log_changes_its_key_and_everybody_follows(town: Town, tmp_path: Path) -> None:
    institute, before = town.clients["institute"], town.host.log_identity
    job = run(town, "before")
    old = decode(Receipt, institute.receipt(job))
    for _ in range(2):
        serve(town, rotate_log_key(town.host, next_log_key(town.host.config.data)))
        restart(town)
        run(town, f"after-{town.host.log_identity.key_id.hex()}")
    assert town.host.log_identity.public != before.public
    agreement = town.clients["institute"].signed_agreement(town.agreement)
    assert verify_receipt(old, agreement)
    new = decode(Receipt, town.clients["institute"].receipt(job))
    assert [link.kind for link in new.lineage] == ["signed-log-rotation/1"] * 2
    assert verify_receipt(new, agreement)
    for wrong in ((), new.lineage[:1], new.lineage[::-1]):
        with pytest.raises(Tampered):
            verify_receipt(replace(new, lineage=wrong), agreement)
    for key in (before, town.host.log_identity):
        verdict = replayed(town, key)
        assert verdict.ok, verdict.mismatches
    assert not replayed(town, LogKey(name=before.name, public=SigningKey.generate().public)).ok
    size = export_log(town.clients["auditor"], tmp_path / "out", log_of(town.host))
    assert size == len(drafts(town.host))
    exported = Export(read=lambda path: (tmp_path / "out" / path).read_bytes())
    assert replay(exported.read, before).ok
    assert exported.former_keys(town.host.log_identity)[0] == before == exported.log_keys(before)[0]
    assert exported.log_keys(before)[-1] == town.host.log_identity


def log_of(host: Host) -> LogIdentity:
    return LogIdentity(origin=host.log_identity.name, key=host.log_identity.public.hex())


def test_new_agreements_name_the_new_key_and_old_ones_cannot_be_proposed(town: Town) -> None:
    assert town.composed is not None
    serve(town, rotate_log_key(town.host, next_log_key(town.host.config.data)))
    with pytest.raises(Conflict) as caught:
        town.clients["institute"].propose(replace(town.composed, uid="old"))
    assert caught.value.code == "other-log"
    town.agreement = town.clients["institute"].propose(replace(town.composed, uid="new", log=log_of(town.host)))["digest"]
    for client in town.clients.values():
        client.sign_agreement(town.agreement)
    run(town, "under-new")
    assert replayed(town).ok


@pytest.mark.parametrize(("first", "second"), [("before", "before"), ("before", "after"), ("after", "before"), ("after", "")])
def test_a_rotation_of_the_log_key_that_dies_is_finished(town: Town, first: str, second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Died(Exception):
        pass

    def die(*_: object) -> None:
        raise Died

    for where in filter(None, (first, second)):
        with monkeypatch.context() as patch, suppress(Died):
            patch.setattr(LineageTables, "add_log_link", die) if where == "before" else patch.setattr(Host, "publish", die)
            rotate_log_key(town.host, next_log_key(town.host.config.data))
        restart(town)
    if not (town.host.config.data / "log.key.next").exists() and first == second == "before":
        raise AssertionError("the drafted key was lost")
    if not [draft for draft in drafts(town.host) if draft.header.kind == "log_rotated"]:
        serve(town, rotate_log_key(town.host, next_log_key(town.host.config.data)))
        restart(town)
    town.host.publish()
    run(town, "afterwards")
    assert replayed(town).ok


def test_a_process_that_still_has_the_old_key_publishes_nothing(town: Town) -> None:
    stale = town.host
    rotate_log_key(town.host, next_log_key(town.host.config.data))
    with stale.store.transaction() as tx:
        tx.append("declared", at=1, ids={"dataset": "a.b", "declaration": "c"}, body={})
    with pytest.raises(Unavailable) as caught:
        stale.publish()
    assert caught.value.code == "log-key-replaced"


def test_a_key_of_the_log_without_the_old_keys_word_is_refused(town: Town) -> None:
    old, new = town.host.log_key, SigningKey.generate()
    rotation = LogRotation(origin="town.test/log", old_key=old.public.hex(), key=new.public.hex())
    good = sign_log_rotation(rotation, old, new)
    assert verify_log_rotation(good) == rotation
    for bad in (
        sign_log_rotation(rotation, new, new),
        sign_log_rotation(rotation, old, old),
        replace(good, rotation=replace(rotation, origin="other/log")),
        replace(good, old_signature="zz"),
    ):
        with pytest.raises(Tampered):
            verify_log_rotation(bad)
    agreement = town.clients["insurer"].signed_agreement(town.agreement)
    assert follow_lineage(agreement, (good,)).log.key == new.public.hex()
    foreign = sign_log_rotation(replace(rotation, old_key=new.public.hex(), key=old.public.hex()), new, old)
    for links in ((foreign,), (good, good)):
        with pytest.raises(Tampered):
            follow_lineage(agreement, links)
    assert links_from(rotation.old, (good,)) == (good,)
    assert links_from(rotation.log, (good,)) == ()


def test_after_the_rotation_the_old_key_signs_nothing_that_counts(town: Town) -> None:
    """Whoever stole the old key shows a longer log that it signs itself."""
    old, insurer = town.host.log_key, town.clients["insurer"]
    serve(town, rotate_log_key(town.host, next_log_key(town.host.config.data)))
    insurer = town.clients["insurer"]
    insurer.signed_agreement(town.agreement)
    data = [draft.data for draft in drafts(town.host)]
    root = Frontier().extend([leaf_hash(entry) for entry in data]).root()
    note = sign(Checkpoint(origin=town.host.config.origin, size=len(data), root=root), old)

    def edit(method: str, path: str, answer: Answer) -> Answer:
        return Answer(200, note.encode()) if path == "/log/checkpoint" else answer

    town.session("insurer").doctor = edit
    with pytest.raises(Tampered) as caught:
        insurer.followed_agreement(town.agreement)
    assert caught.value.code in ("log-key", "checkpoint-signature")
    files = {**export(town.host, "auditor"), "checkpoint": note.encode()}
    assert replay(files.__getitem__, LogKey(name=town.host.config.origin, public=old.public)).promises["log"] == "broken"


# A new log


@pytest.mark.parametrize(("kind", "new_key"), list(zip(DATABASES, (True, False), strict=True)))
def test_a_lost_log_begins_anew_once_every_provider_has_signed(tmp_path: Path, kind: str, new_key: bool) -> None:
    with fresh_database(kind) as first, fresh_database(kind) as second:
        town = found_town(tmp_path / "town", database=first)
        done = run(town, "first")
        opened = town.clients["institute"].release(done)[0]
        rotate_keys(town.clients["clinic"])
        host = town.host
        make_backup(host.store, host.blobs, host.log_key, host.log_identity, tmp_path / "backup", now=1)
        lost = run(town, "lost")
        town.clients["clinic"].followed_agreement(town.agreement)
        paid = town.spent()["insurer"]
        key = host.log_key.to_bytes()
        host.store.close()
        config = replace(host.config, data=tmp_path / "data", database=second)
        store = Store(config.database_url)
        restore_backup(tmp_path / "backup", store, config.data, origin="town.test/log", log_key=key, accept_rewind=True)
        store.close()
        if new_key:
            (config.data / "log.key").unlink()
            with pytest.raises(Tampered):
                compose(config)
        serve(town, compose(config, lost_log_key=new_key))
        low = begin(town, new_key=new_key)
        assert low.total("insurer", "study-person") < paid
        for name in PROVIDERS:
            with pytest.raises(Refused) as short:
                sign_epoch(town.clients[name])
            assert short.value.code == "epoch-totals"
        with pytest.raises(Unavailable) as caught:
            town.charged("early", sql=COUNT_SQL)
        assert caught.value.code == "epoch-unsigned"
        assert "insurer" in caught.value.message
        shown = {(total.provider, total.id_space): total.seen for total in compare(town.clients["clinic"], low)}
        begin(town, shown)
        with pytest.raises(Refused, match="1 instead of 2") as fewer:
            sign_epoch(town.clients["clinic"])
        assert fewer.value.code == "epoch-counts"
        epoch = begin(town, shown, [seen_counts(town.clients["clinic"])])
        assert (epoch.number, epoch.before, epoch.size) == (4, low.before, low.size)
        assert epoch.total("insurer", "study-person") == paid
        sign_epoch(town.clients["insurer"])
        with pytest.raises(Unavailable):
            town.charged("early", sql=COUNT_SQL)
        with pytest.raises(SandboxError):
            town.clients["insurer"].followed_agreement(town.agreement)
        sign_epoch(town.clients["clinic"])
        sign_epoch(town.clients["clinic"])
        assert town.spent()["insurer"] == paid
        job = run(town, "anew")
        assert town.spent()["insurer"] > paid
        assert town.clients["institute"].release(done)[0] == opened
        with pytest.raises(NotFound):
            town.clients["institute"].job(lost)
        agreement = town.clients["institute"].signed_agreement(town.agreement)
        receipt = decode(Receipt, town.clients["institute"].receipt(job))
        assert verify_receipt(receipt, agreement).checkpoint.origin == "town.test/log/epoch-4"
        verdict = replayed(town)
        assert verdict.ok, verdict.mismatches
        assert verdict.ledgers["insurer/study-person"] == town.spent()["insurer"]
        manifest = make_backup(town.host.store, town.host.blobs, town.host.log_key, town.host.log_identity, tmp_path / "two", now=2)
        assert manifest.vkey == town.host.log_identity.vkey
        town.close()


def test_two_epochs_and_a_rotation_lead_an_old_agreement_to_the_log_in_force(town: Town) -> None:
    for name in PROVIDERS:
        town.clients[name].signed_agreement(town.agreement)
    begin(town)
    for name in PROVIDERS:
        sign_epoch(town.clients[name])
    run(town, "second")
    serve(town, rotate_log_key(town.host, next_log_key(town.host.config.data)))
    restart(town)
    rotate_keys(town.clients["insurer"])
    run(town, "third")
    begin(town)
    for name in PROVIDERS:
        sign_epoch(town.clients[name])
    job = run(town, "fourth")
    receipt = decode(Receipt, town.clients["institute"].receipt(job))
    assert [link.kind for link in receipt.lineage] == ["signed-epoch/1", "signed-log-rotation/1", "signed-epoch/1"]
    assert verify_receipt(receipt, town.clients["institute"].signed_agreement(town.agreement))
    verdict = replayed(town)
    assert verdict.ok, verdict.mismatches


def test_a_revoked_provider_need_not_sign_and_its_agreements_stay_closed(town: Town) -> None:
    revoke(town.host, "clinic")
    epoch = begin(town)
    assert epoch.providers == ("insurer",)
    sign_epoch(town.clients["insurer"])
    with pytest.raises(Conflict) as caught:
        town.charged("under-it", sql="")
    assert caught.value.code == "party-revoked"
    with pytest.raises(Tampered):
        town.clients["institute"].followed_agreement(town.agreement)


# Attacks on an epoch


def test_an_epoch_is_signed_by_its_providers_with_their_keys_in_force_and_no_other(town: Town) -> None:
    town.clients["insurer"].signed_agreement(town.agreement)
    old = town.clients["insurer"].home.signing
    rotate_keys(town.clients["insurer"])
    epoch = begin(town)
    institute = town.clients["institute"]
    with pytest.raises(Forbidden):
        institute.send_epoch_signature(epoch)
    insurer = town.clients["insurer"]
    stolen = sign_document("epoch", "insurer", epoch, old)
    with pytest.raises(Forbidden):
        insurer._post("/epoch/signatures", {"signed": encode(stolen)})
    with pytest.raises(Conflict) as caught:
        insurer.send_epoch_signature(replace(epoch, totals=()))
    assert caught.value.code == "other-epoch"


def test_an_epoch_is_told_to_its_providers_until_they_have_signed(town: Town) -> None:
    with town.host.store.transaction() as tx:
        for name in ("insurer", "clinic", "institute"):
            tx.set_webhook(name, f"https://{name}.example/", 1)
    first, second = begin(town), begin(town, {("insurer", "study-person"): Loss(amount=10**10)})
    with town.host.store.reading() as tx:
        told = {name: [(item.kind, item.subject) for item in tx.notices(name, Page(limit=10)).items] for name in town.clients}
    both = {("epoch", digest(encode(epoch))) for epoch in (first, second)}
    assert {name: set(items) for name, items in told.items() if items} == {"insurer": both, "clinic": both}
    inboxes = {name: listed(client) for name, client in town.clients.items()}
    assert inboxes == {"insurer": [second.log.origin], "clinic": [second.log.origin], "institute": [], "auditor": []}
    sign_epoch(town.clients["insurer"])
    assert listed(town.clients["insurer"]) == []
    sent: list[tuple[str, str]] = []

    def send(host: Host, webhook: Webhook, notice: Notice) -> Outcome:
        sent.append((webhook.participant, notice.subject))
        return "delivered"

    for webhook in due(town.host, set(), 10):
        while deliver_one(town.host, webhook, send) is not None:
            pass
    assert sent == [("clinic", digest(encode(second)))], "neither an epoch that was replaced nor one that its receiver has signed"


def listed(client: Client) -> list[str]:
    """Epochs in a participant's inbox."""
    return [item.name for item in inbox(client.home, [], [], [], client.epoch())]


def test_no_epoch_no_signature(town: Town) -> None:
    with pytest.raises(NotFound):
        town.clients["insurer"].epoch()
    with pytest.raises(NotFound):
        sign_epoch(town.clients["insurer"])


def test_a_host_that_lowers_totals_after_the_signatures_is_refused(town: Town) -> None:
    begin(town)
    for name in PROVIDERS:
        sign_epoch(town.clients[name])
    history = drafts(town.host)
    opened = history[0]
    lower = tuple(replace(loss, amount=1) for loss in opened.header.losses)
    cheap = opened.edited(lambda body: body["epoch"].update(totals=encode(lower))).charging(*lower)
    for first in (opened.charging(*lower), cheap):
        data = [draft.data for draft in [first, *history[1:]]]
        root = Frontier().extend([leaf_hash(entry) for entry in data]).root()
        note = sign(Checkpoint(origin=town.host.config.origin, size=len(data), root=root), town.host.log_key)

        def edit(method: str, path: str, answer: Answer, note: str = note, data: list[bytes] = data) -> Answer:
            if path == "/log/checkpoint":
                return Answer(200, note.encode())
            if path.startswith("/log/entries"):
                start, end = (int(part.partition("=")[2]) for part in path.partition("?")[2].split("&"))
                return Answer(200, canonical({"entries": [entry.decode() for entry in data[start:end]]}))
            return answer

        town.session("insurer").doctor = edit
        with pytest.raises(Tampered) as caught:
            town.clients["insurer"].followed_agreement(town.agreement)
        assert caught.value.code == "bad-epoch"
        verdict = replay({**sealed([first, *history[1:]], town.host.log_key, town.host.config.origin)}.__getitem__, town.host.log_identity)
        assert not verdict.ok


def test_a_lineage_with_a_forged_or_missing_consent_is_refused(town: Town) -> None:
    for name in PROVIDERS:
        town.clients[name].signed_agreement(town.agreement)
    agreement = town.clients["insurer"].signed_agreement(town.agreement)
    epoch = begin(town)
    for name in PROVIDERS:
        sign_epoch(town.clients[name])
    with town.host.store.reading() as tx:
        link = tx.log_links()[-1]
    assert isinstance(link, SignedEpoch)
    assert follow_lineage(agreement, (link,)).log == epoch.log
    lower = replace(epoch, totals=(LedgerCharge(provider="insurer", id_space="study-person", amount=1),))
    stranger = SigningKey.generate()
    forged = sign_document("epoch", "insurer", lower, stranger).signature
    for bad in (
        replace(link, consents=link.consents[:1]),
        replace(link, consents=()),
        replace(link, epoch=lower),
        replace(link, epoch=lower, consents=(Consent(provider="insurer", signature=forged, rotations=()), link.consents[0])),
    ):
        with pytest.raises(Tampered) as caught:
            follow_lineage(agreement, (bad,))
        assert caught.value.code == "bad-epoch"


def test_a_broker_accepts_the_new_log_only_through_the_epoch_that_it_signed_at_home(town: Town) -> None:
    begin(town)
    for name in PROVIDERS:
        sign_epoch(town.clients[name])
    insurer = town.clients["insurer"]
    shutil.rmtree(insurer.home.folder / "epochs")
    with pytest.raises(Tampered) as caught:
        insurer.followed_agreement(town.agreement)
    assert caught.value.code == "bad-epoch"
    sign_epoch(insurer)
    insurer.followed_agreement(town.agreement)


def test_an_epoch_signed_with_a_key_that_its_provider_had_replaced_is_refused(town: Town) -> None:
    """The host has the insurer's old key, and shows the institute an epoch that the insurer never saw."""
    old = town.clients["insurer"].home.signing
    rotate_keys(town.clients["insurer"])
    town.clients["institute"].signed_agreement(town.agreement)
    epoch = begin(town)
    for name in PROVIDERS:
        sign_epoch(town.clients[name])
    with town.host.store.reading() as tx:
        link = tx.log_links()[-1]
    assert isinstance(link, SignedEpoch)
    consents = tuple(
        Consent(provider="insurer", signature=sign_document("epoch", "insurer", epoch, old).signature, rotations=())
        if consent.provider == "insurer"
        else consent
        for consent in link.consents
    )

    def edit(method: str, path: str, answer: Answer) -> Answer:
        if path != "/log/lineage":
            return answer
        return Answer(200, canonical({"links": [encode(replace(link, consents=consents))]}))

    town.session("institute").doctor = edit
    with pytest.raises(Tampered) as caught:
        town.clients["institute"].followed_agreement(town.agreement)
    assert caught.value.code == "bad-epoch"


def test_an_agreement_of_a_log_that_ended_cannot_be_signed_any_more(town: Town) -> None:
    assert town.composed is not None
    name = town.clients["institute"].propose(replace(town.composed, uid="late"))["digest"]
    begin(town)
    for provider in PROVIDERS:
        sign_epoch(town.clients[provider])
    with pytest.raises(Conflict) as caught:
        town.clients["insurer"].sign_agreement(name)
    assert caught.value.code == "other-log"


@pytest.mark.parametrize(
    ("first", "second"),
    [("begin", "carry"), ("carry", "publish"), ("publish", "begin"), ("publish", "publish"), ("carry", "carry"), ("publish", "")],
)
def test_an_epoch_that_dies_at_any_step_and_again_can_be_opened(
    town: Town, first: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(Exception):
        pass

    def die(*_: object) -> None:
        raise Died

    spent = town.spent()
    for where in filter(None, (first, second)):
        before = drafts(town.host)
        with monkeypatch.context() as patch, suppress(Died):
            if where == "publish":
                patch.setattr(Host, "publish", die)
            else:
                patch.setattr(epochs, "_complete_if_signed" if where == "carry" else "_keep_receipts", die)
            restart(town, lost_log_key=True)
            open_epoch(town.host, {})
        restart(town)
        assert where == "publish" or drafts(town.host) == before
    epoch = begin(town)
    assert {total.provider: total.amount for total in epoch.totals if total.amount} == {k: v for k, v in spent.items() if v}
    for name in PROVIDERS:
        sign_epoch(town.clients[name])
    run(town, "afterwards")
    verdict = replayed(town)
    assert verdict.ok, verdict.mismatches


def test_epochs_are_read_strictly() -> None:
    one, two = (LogIdentity(origin=f"log/{n}", key=n * 64) for n in ("a", "b"))
    good = Epoch(number=2, before=(one,), size=3, root="c" * 64, log=two, providers=("clinic", "insurer"), totals=())
    assert decode(Epoch, json.loads(json.dumps(encode(good)))) == good
    charge = LedgerCharge(provider="insurer", id_space="people", amount=1)
    for changes in (
        {"number": 1},
        {"size": -1},
        {"root": "c"},
        {"before": ()},
        {"before": (one, two)},
        {"providers": ("insurer", "clinic")},
        {"totals": (charge, charge)},
    ):
        with pytest.raises(Malformed):
            replace(good, **changes)  # type: ignore[arg-type]


def test_nobody_else_joins_under_a_home_that_followed_another_log(town: Town, tmp_path: Path) -> None:
    begin(town)
    newcomer = town.client(Home.create(tmp_path / "late", "late", "Late", "http://host.test"))
    newcomer.join(issue_code(town.host, "late"))
    assert newcomer.epoch()["waiting_for"] == ["clinic", "insurer"]
    assert [item["id"] for item in newcomer.participants()] == sorted([*market.ROLES, "late"])


def test_who_signed_an_epoch_pays_from_no_ledger_of_the_log_before_it_any_more(town: Town) -> None:
    """The host goes on with the log that it said had ended, where the budget is spent a second time."""
    insurer, old = town.clients["insurer"], town.host
    insurer.followed_agreement(town.agreement)
    data, key, origin = [draft.data for draft in drafts(old)], old.log_key, old.config.origin
    root = Frontier().extend([leaf_hash(entry) for entry in data]).root()
    note = sign(Checkpoint(origin=origin, size=len(data), root=root), key)
    begin(town)
    sign_epoch(town.clients["insurer"])
    insurer = town.clients["insurer"]
    town.session("insurer").doctor = lambda method, path, answer: Answer(200, note.encode()) if path == "/log/checkpoint" else answer
    with pytest.raises(Tampered) as caught:
        insurer.followed_agreement(town.agreement)
    assert caught.value.code == "rolled-back"


def test_what_a_provider_tightened_and_what_it_gave_to_auditors_counts_in_the_next_log(town: Town) -> None:
    insurer = town.clients["insurer"]
    tighten(insurer, town.agreement, "insurer.plans", output_rows=50)
    given = give_scope(insurer, town.agreement, "auditor", ("decided",))
    begin(town)
    for name in PROVIDERS:
        sign_epoch(town.clients[name])
    insurer = town.clients["insurer"]
    assert scopes_under(insurer, town.agreement) == (given,)
    run(town, "after")
    taken = take_back(insurer, town.agreement, "auditor")
    assert taken.scope.sequence == 2
    tighten(insurer, town.agreement, "insurer.plans", output_rows=40)
    run(town, "tighter")
    files = export(town.host, "insurer")
    with town.host.store.reading() as tx:
        files[LINEAGE_PATH] = canonical({"links": encode(tx.log_links())})
    verdict = replay(files.__getitem__, town.host.log_identity)
    assert verdict.ok, verdict.mismatches

"""A charge comes back only where every broker has signed that the grant is dead, and no lie of a host brings it back otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app import compose
from enclaves.kit.envelope import sign_document
from enclaves.kit.signatures import SigningKey
from policies.canonical import canonical
from policies.documents import GrantRenunciation, SignedRenunciation
from policies.entries import LedgerCharge
from policies.errors import BudgetExhausted, Conflict, SandboxError, Tampered, Unavailable
from policies.grant import grant_digest
from policies.privacy import Loss
from sandbox.audit.checkpoint import Checkpoint, sign
from sandbox.audit.export import Export
from sandbox.audit.merkle import Frontier, leaf_hash
from sandbox.exchange.epochs import open_epoch
from sandbox.exchange.paging import Page
from sandbox.jobs import keys as host_keys
from sandbox.jobs.record import record_failure
from sandbox.jobs.recovery import recover
from sandbox.jobs.worker import Worker
from sandbox.party.rekeying import rotate_keys
from sandbox.party.voids import renounce
from sandbox.store.backup import make_backup, restore_backup
from sandbox.store.database import Store
from sandbox.store.jobs import JobTables
from tests.support import market
from tests.support.forge import Draft, drafts, find, forged, fresh
from tests.support.runs import COUNT_SQL, Answer, Town, copy_town, found_town, network_down, open_town
from tests.support.steps import require_sound
from tests.support.story import export

PROVIDERS = ("insurer", "clinic")


def dead(town: Town, label: str, **request: Any) -> str:
    """A job whose run failed while it waited for keys; nobody has answered yet."""
    job = town.charged(label, **request)
    taken = Worker(host=town.host)._take()
    assert taken is not None
    assert taken.id == job
    record_failure(town.host, job, "keys-timeout")
    return job


def void(town: Town, label: str, **request: Any) -> str:
    """A job whose charge is void."""
    job = dead(town, label, **request)
    for name in PROVIDERS:
        town.broker(name).step()
    assert town.headers("voided", job)
    return job


def own_total(town: Town, name: str, provider: str = "") -> Loss:
    """What a participant's own copy of the log says of a provider's ledger."""
    _, followed = town.clients[name].followed_agreement(town.agreement)
    return followed.total(provider or name, market.plans_declaration("insurer").id_space)


def last(town: Town, name: str) -> tuple[str, str]:
    note = town.journal(name)[-1]
    return note["event"], note.get("code", "")


# The honest way


def test_a_charge_stays_until_the_last_broker_has_renounced_the_grant(town: Town) -> None:
    job = dead(town, "dead", epsilon="0.5")
    before = town.spent()
    assert before == dict.fromkeys(PROVIDERS, 500_000_000)
    assert town.broker("insurer").step() == 1
    assert town.spent() == before
    assert (len(town.headers("renounced", job)), town.headers("voided", job)) == (1, [])
    assert town.broker("clinic").step() == 1
    assert town.spent() == dict.fromkeys(PROVIDERS, 0)
    (entry,) = town.headers("voided", job)
    assert sorted(loss["provider"] for loss in entry["losses"]) == sorted(PROVIDERS), "one entry voids the charge in all ledgers"
    assert [town.broker(name).step() for name in PROVIDERS] == [0, 0], "nobody is asked again"
    assert [own_total(town, name).amount for name in PROVIDERS] == [0, 0]
    assert own_total(town, "institute", "insurer").amount == 0, "a consumer's copy of the log says so too"
    assert town.job(job).state == "failed"
    require_sound(town.host)


def test_a_budget_that_came_back_pays_for_another_run(town: Town) -> None:
    for label in ("one", "two", "three"):
        void(town, label, epsilon="1")
    jobs = [town.charged(f"paid-{n}", epsilon="1") for n in range(3)]  # the whole budget
    with pytest.raises(BudgetExhausted):
        town.clients["institute"].submit(town.request("too-much", epsilon="0.1"))
    town.attested(jobs[0])
    assert [town.broker(name).step() for name in PROVIDERS] == [1, 1]
    assert [len(town.headers("key_released", jobs[0]))] == [2], "brokers find the same totals as the host"
    town.host.publish()
    require_sound(town.host)


def test_a_void_charge_leaves_the_period_of_a_renewed_budget(tmp_path: Path) -> None:
    """Host, brokers and replay agree on what was charged in the last seven days."""
    town = found_town(tmp_path, total="1", refresh=7)
    try:
        void(town, "dead", epsilon="1")
        job = town.charged("paid", epsilon="1")
        with pytest.raises(BudgetExhausted):
            town.clients["institute"].submit(town.request("too-much", epsilon="0.1"))
        town.attested(job)
        assert [town.broker(name).step() for name in PROVIDERS] == [1, 1]
        assert len(town.headers("key_released", job)) == 2, "brokers find the same charges of these days as the host"
        town.host.publish()
        require_sound(town.host)
    finally:
        town.close()


def test_of_one_consumer_s_part_as_much_comes_back(town: Town) -> None:
    void(town, "dead", epsilon="0.5")
    with town.host.store.reading() as tx:
        spent = tx.spent()
        assert {loss.amount for loss in tx.spent_for("another", spent).values()} == {0}
        assert {loss.amount for loss in tx.spent_for("institute", spent).values()} == {0}


def test_one_provider_alone_voids_what_reads_it_alone(town: Town) -> None:
    job = dead(town, "count", sql=COUNT_SQL, epsilon="0.2")
    assert town.broker("clinic").step() == 0, "it is not asked"
    assert town.broker("insurer").step() == 1
    assert town.headers("voided", job)
    assert town.spent()["insurer"] == 0


def test_keys_that_were_rotated_in_between_renounce_as_well(town: Town) -> None:
    job = dead(town, "dead")
    town.broker("insurer").step()
    rotate_keys(town.clients["insurer"])
    rotate_keys(town.clients["clinic"])
    town.broker("clinic").step()
    assert town.headers("voided", job)
    assert [own_total(town, name).amount for name in PROVIDERS] == [0, 0]
    require_sound(town.host)


def test_a_run_that_died_behind_its_evidence_is_renounced(town: Town) -> None:
    job = town.charged("attested")
    town.attested(job)
    record_failure(town.host, job, "enclave-died")
    for name in PROVIDERS:
        town.broker(name).step()
    assert town.headers("voided", job)
    require_sound(town.host)


# Keys that were released


def test_a_broker_that_released_keys_never_renounces_even_where_they_were_lost_on_the_way(town: Town) -> None:
    job = town.charged("lost")
    town.attested(job)
    session = town.session("insurer")
    session.doctor = lambda method, path, answer: network_down() if path == "/key-requests/keys" else answer
    with town.host.store.transaction() as tx:  # what it sends does not arrive either
        request = tx.key_request(job, "insurer")
        assert request is not None
        tx.set_key_request(replace(request, state="attested"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(host_keys, "accept_keys", _nothing_arrives)
        with pytest.raises(SandboxError):
            town.broker("insurer").step()
    session.doctor = lambda method, path, answer: answer
    assert (town.clients["insurer"].home.folder / f"broker/{job}.release.json").is_file()
    record_failure(town.host, job, "keys-timeout")
    for _ in range(2):
        for name in PROVIDERS:
            town.broker(name).step()
    assert last(town, "insurer") == ("refused", "keys-released")
    assert [header["ids"]["provider"] for header in town.headers("renounced", job)] == ["clinic"]
    assert not town.headers("voided", job)
    assert set(town.spent().values()) == {500_000_000}
    require_sound(town.host)


def _nothing_arrives(*_: Any) -> Any:
    raise Unavailable("lost on the way")


def test_nobody_is_asked_where_one_broker_s_keys_are_in_the_log(town: Town) -> None:
    job = town.charged("half")
    town.attested(job)
    assert town.broker("clinic").step() == 1
    record_failure(town.host, job, "keys-timeout")
    assert [town.broker(name).step() for name in PROVIDERS] == [0, 0]
    assert set(town.spent().values()) == {500_000_000}


def test_a_renounced_grant_gets_no_key_whatever_the_host_says(town: Town) -> None:
    job = town.charged("revived")
    town.attested(job)
    record_failure(town.host, job, "keys-timeout")
    town.broker("insurer").step()
    session = town.session("insurer")
    session.doctor = _revive(town, job)
    for state in ("attested", "wanted", "attested"):
        session.doctor = _revive(town, job, state)
        with_error = _quietly(town.broker("insurer").step)
        assert with_error in (None, "key-state", "key-binding", "challenged")
    assert ("POST", "/key-requests/keys") not in session.sent
    assert last(town, "insurer") == ("refused", "grant-dead")


def test_a_home_that_forgot_what_it_renounced_finds_it_in_the_log(town: Town) -> None:
    job = town.charged("forgotten")
    town.attested(job)
    record_failure(town.host, job, "keys-timeout")
    town.broker("insurer").step()
    (town.clients["insurer"].home.folder / f"broker/{job}.dead.json").unlink()
    town.session("insurer").doctor = _revive(town, job)
    _quietly(town.broker("insurer").step)
    assert last(town, "insurer") == ("refused", "grant-dead")
    assert ("POST", "/key-requests/keys") not in town.session("insurer").sent


def _quietly(step: Callable[[], Any]) -> str | None:
    try:
        step()
    except SandboxError as error:
        return error.code
    return None


def _revive(town: Town, job: str, state: str = "attested") -> Callable[[str, str, Answer], Answer]:
    """A host that shows a dead run as one that waits."""
    with town.host.store.reading() as tx:
        request = tx.key_request(job, "insurer")
    assert request is not None

    def edit(_method: str, path: str, answer: Answer) -> Answer:
        if path != "/key-requests":
            return answer
        record = town.clients["clinic"].job(job) | {"state": "running"}
        waiting = {"state": state, "nonce": request.nonce, "job": record}
        return Answer(200, canonical({"key_requests": [waiting], "next": None}))

    return edit


# A host that lies


def serve(town: Town, name: str, found: list[Draft]) -> None:
    """Let a participant see another log: the host owns its key."""
    data = [draft.data for draft in found]
    root = Frontier().extend([leaf_hash(entry) for entry in data]).root()
    note = sign(Checkpoint(origin=town.host.config.origin, size=len(data), root=root), town.host.log_key)

    def edit(_method: str, path: str, answer: Answer) -> Answer:
        if path == "/log/checkpoint":
            return Answer(200, note.encode())
        if path.startswith("/log/entries"):
            first, end = (int(part.partition("=")[2]) for part in path.partition("?")[2].split("&"))
            return Answer(200, canonical({"entries": [entry.decode() for entry in data[first:end]]}))
        return answer

    town.session(name).doctor = edit


def forge_void(town: Town, job: str, **signers: SigningKey) -> list[Draft]:
    """The log with renunciations that these keys signed, and a void that follows from them."""
    found = drafts(town.host)
    charge = found[find(found, "charged", job=job)].header
    grant = charge.ids["grant"]
    for name, key in signers.items():
        signed = sign_document("grant-renunciation", name, GrantRenunciation(job=job, grant=grant), key)
        entry = SignedRenunciation(renunciation=GrantRenunciation(job=job, grant=grant), provider=name, signature=signed.signature)
        found.append(fresh("renounced", charge.at, entry.to_ids(), {}))
    ids = {key: charge.ids[key] for key in ("job", "agreement", "grant", "consumer")}
    found.append(fresh("voided", charge.at, ids, {}, charge.losses))
    return found


def test_a_forged_void_gives_a_broker_s_own_ledger_nothing_back(town: Town) -> None:
    job = dead(town, "dead")
    forger = SigningKey.generate()
    serve(town, "insurer", forge_void(town, job, insurer=forger, clinic=forger))
    assert own_total(town, "insurer").amount == 500_000_000


def test_a_void_that_another_provider_did_not_sign_gives_nothing_back(town: Town) -> None:
    job = dead(town, "dead")
    town.broker("insurer").step()
    serve(town, "insurer", forge_void(town, job, clinic=SigningKey.generate()))
    assert own_total(town, "insurer").amount == 500_000_000, "its own word alone is not enough"


def test_a_void_of_keys_that_were_released_gives_nothing_back(town: Town) -> None:
    job = town.charged("released", sql=COUNT_SQL)
    town_insurer = town.clients["insurer"].home
    town_insurer.write(f"broker/{job}.release.json", {"statement": {}, "sealed": ""})
    serve(town, "insurer", forge_void(town, job, insurer=SigningKey.generate()))
    assert own_total(town, "insurer").amount == 500_000_000


def test_a_home_restored_from_before_it_renounced_counts_the_charge(town: Town) -> None:
    job = void(town, "dead")
    assert own_total(town, "insurer").amount == 0
    (town.clients["insurer"].home.folder / f"broker/{job}.dead.json").unlink()
    assert own_total(town, "insurer").amount == 500_000_000


@pytest.mark.parametrize("how", ["unsigned", "more", "another consumer", "twice", "uncharged"])
def test_a_void_that_does_not_follow_from_charge_and_renunciations_ends_the_following(town: Town, how: str) -> None:
    job = void(town, "dead")
    found = drafts(town.host)
    at = find(found, "voided")
    if how == "unsigned":
        del found[find(found, "renounced", provider="clinic")]
    elif how == "more":
        found[at] = found[at].charging(*(replace(loss, amount=loss.amount * 2) for loss in found[at].header.losses))
    elif how == "another consumer":
        found[at] = found[at].edited(consumer="auditor")
    elif how == "twice":
        found.append(found[at])
    else:
        found[at] = found[at].edited(job=job[:-1] + ("0" if job[-1] != "0" else "1"))
    fork = town.again("auditor")
    shutil.rmtree(fork.home.folder / "logs", ignore_errors=True)
    town.clients["auditor"] = fork
    serve(town, "auditor", found)
    with pytest.raises(Tampered) as refused:
        own_total(town, "auditor", "insurer")
    assert refused.value.code == "bad-void"


def test_a_rewind_behind_the_void_is_refused(town: Town) -> None:
    void(town, "dead")
    own_total(town, "insurer")
    found = drafts(town.host)
    serve(town, "insurer", found[: find(found, "voided")])
    with pytest.raises(Tampered) as refused:
        own_total(town, "insurer")
    assert refused.value.code == "rolled-back"


# What replay re-derives


def _key_of(town: Town, name: str) -> SigningKey:
    return town.clients[name].home.signing


def _without_a_broker(_town: Town, found: list[Draft], _job: str) -> int:
    del found[find(found, "renounced", provider="clinic")]
    return find(found, "voided")


def _signed_by_another(town: Town, found: list[Draft], job: str) -> int:
    at = find(found, "renounced", provider="clinic")
    body = GrantRenunciation(job=job, grant=found[at].header.ids["grant"])
    found[at] = found[at].edited(signature=sign_document("grant-renunciation", "clinic", body, _key_of(town, "insurer")).signature)
    return at


def _of_another_grant(town: Town, found: list[Draft], job: str) -> int:
    at, other = find(found, "renounced", provider="clinic"), "sha256:" + "5" * 64
    signed = sign_document("grant-renunciation", "clinic", GrantRenunciation(job=job, grant=other), _key_of(town, "clinic"))
    found[at] = found[at].edited(grant=other, signature=signed.signature)
    return at


def _by_a_stranger(town: Town, found: list[Draft], job: str) -> int:
    at = find(found, "renounced", provider="clinic")
    body = GrantRenunciation(job=job, grant=found[at].header.ids["grant"])
    signed = sign_document("grant-renunciation", "auditor", body, _key_of(town, "auditor"))
    found[at] = found[at].edited(provider="auditor", signature=signed.signature)
    return at


def _gives_back_more(_town: Town, found: list[Draft], _job: str) -> int:
    at = find(found, "voided")
    found[at] = found[at].charging(*(replace(loss, amount=loss.amount + 1) for loss in found[at].header.losses))
    return at


def _gives_back_to_another_ledger(_town: Town, found: list[Draft], _job: str) -> int:
    at = find(found, "voided")
    found[at] = found[at].charging(LedgerCharge(provider="clinic", id_space="others", amount=1), *found[at].header.losses)
    return at


def _renounced_twice(_town: Town, found: list[Draft], _job: str) -> int:
    at = find(found, "renounced", provider="clinic")
    found.insert(at, found[at])
    return at + 1


def _voided_twice(_town: Town, found: list[Draft], _job: str) -> int:
    found.append(found[find(found, "voided")])
    return len(found) - 1


def _before_the_run_failed(_town: Town, found: list[Draft], job: str) -> int:
    at = find(found, "renounced", provider="insurer")
    found.insert(find(found, "failed", job=job), found.pop(at))
    return find(found, "renounced", provider="insurer")


FORGERIES: dict[Callable[[Town, list[Draft], str], int], str] = {
    _without_a_broker: "budgets",
    _signed_by_another: "signatures",
    _of_another_grant: "budgets",
    _by_a_stranger: "budgets",
    _gives_back_more: "budgets",
    _gives_back_to_another_ledger: "budgets",
    _renounced_twice: "order",
    _voided_twice: "order",
    _before_the_run_failed: "order",
}


@pytest.fixture(scope="module")
def voided(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Town, str]]:
    """A town with one void charge, for tests that change nothing."""
    found = copy_town(template, tmp_path_factory.mktemp("voided") / "town")
    yield found, void(found, "dead")
    found.close()


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__[1:])
def test_a_forged_void_is_named_by_replay_and_gives_nothing_back(voided: tuple[Town, str], forge: Any) -> None:
    town, job = voided
    found = drafts(town.host)
    at = forge(town, found, job)
    verdict = forged(found, town)  # type: ignore[arg-type]
    assert verdict.promises[FORGERIES[forge]] == "broken"  # type: ignore[index]
    assert verdict.mismatches[0].index == at, verdict.mismatches
    kept = {total.amount for total in verdict.totals.values()}
    assert kept == ({0} if forge in (_renounced_twice, _voided_twice) else {500_000_000})


def test_an_honest_void_replays_and_its_totals_are_nothing(voided: tuple[Town, str]) -> None:
    town, _ = voided
    verdict = forged(drafts(town.host), town)  # type: ignore[arg-type]
    assert verdict.ok
    assert {total.amount for total in verdict.totals.values()} == {0}
    bare = forged([replace(draft, salt=None) for draft in drafts(town.host)], town)  # type: ignore[arg-type]
    assert bare.promises["budgets"] == "unopened", "who cannot read the agreement cannot tell who has to sign"
    assert {total.amount for total in bare.totals.values()} == {0}, "sums need no opening"


# Faults


@pytest.mark.parametrize("applied", [False, True], ids=["lost", "applied then lost"])
def test_a_renunciation_whose_answer_is_lost_counts_once(town: Town, applied: bool) -> None:
    job = dead(town, "dead")
    town.broker("clinic").step()
    session = town.session("insurer")
    if applied:
        session.doctor = lambda _, path, answer: network_down() if path == "/key-requests/renunciations" else answer
        with pytest.raises(Unavailable):
            town.broker("insurer").step()
        session.doctor = lambda _, path, answer: answer
    else:  # it died between what it kept and what it sent
        home = town.clients["insurer"].home
        agreement, _ = town.clients["insurer"].followed_agreement(town.agreement)
        grant = town.job(job).grant
        assert grant is not None
        renounce(home, grant, agreement)  # type: ignore[arg-type]
        assert not town.headers("voided", job)
    for _ in range(2):
        town.broker("insurer").step()
    assert (len(town.headers("renounced", job)), len(town.headers("voided", job))) == (2, 1)
    assert town.spent() == dict.fromkeys(PROVIDERS, 0)
    require_sound(town.host)


@pytest.mark.parametrize("verb", ["give_back", "lock_ledgers", "set_key_request"])
def test_a_host_that_dies_while_it_voids_a_charge_has_done_nothing_or_all(town: Town, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = dead(town, "dead")
    town.broker("insurer").step()
    before = town.spent()

    def die(*_: Any) -> None:
        raise Unavailable("the process is gone")

    with monkeypatch.context() as patched:
        patched.setattr(JobTables, verb, die)
        with pytest.raises(Unavailable):
            town.broker("clinic").step()
    assert (town.spent(), len(town.headers("renounced", job)), town.headers("voided", job)) == (before, 1, [])
    town.broker("clinic").step()
    assert town.headers("voided", job)
    assert town.spent() == dict.fromkeys(PROVIDERS, 0)


def test_the_same_renunciation_again_is_the_same_and_another_is_none(town: Town) -> None:
    job = dead(town, "dead")
    client = town.clients["insurer"]
    town.broker("insurer").step()
    body = GrantRenunciation(job=job, grant=str(town.headers("charged", job)[0]["ids"]["grant"]))
    client.send_renunciation(sign_document("grant-renunciation", "insurer", body, client.home.signing))
    assert len(town.headers("renounced", job)) == 1
    other = replace(body, grant="sha256:" + "1" * 64)
    with pytest.raises(Conflict) as refused:
        client.send_renunciation(sign_document("grant-renunciation", "insurer", other, client.home.signing))
    assert refused.value.code == "key-binding"
    paid = town.charged("alive")
    assert Worker(host=town.host)._take() is not None
    grant = town.job(paid).grant
    assert grant is not None
    alive = GrantRenunciation(job=paid, grant=grant_digest(grant))
    with pytest.raises(Conflict) as early:
        client.send_renunciation(sign_document("grant-renunciation", "insurer", alive, client.home.signing))
    assert early.value.code == "key-state"


def test_a_new_epoch_opens_with_what_is_left_and_asks_for_nothing_of_the_log_before(town: Town) -> None:
    void(town, "void", epsilon="0.25")
    dead(town, "dead", epsilon="0.5")
    _, epoch = open_epoch(town.host, {})
    assert {total.amount for total in epoch.totals} == {500_000_000}
    with town.host.store.reading() as tx:
        assert {request.renounced for job in tx.jobs_named(_jobs(town)) for request in tx.key_requests(job)} == {""}


def _jobs(town: Town) -> list[str]:
    with town.host.store.reading() as tx:
        return [job.id for job in tx.jobs("auditor", Page(limit=100)).items]


def test_a_restored_service_gets_void_charges_back_from_exports(town: Town, tmp_path: Path) -> None:
    job = dead(town, "dead")
    host = town.host
    make_backup(host.store, host.blobs, host.log_key, host.log_identity, tmp_path / "backup", now=1)
    for name in PROVIDERS:
        town.broker(name).step()
    found = export(host, "auditor")
    assert town.spent() == dict.fromkeys(PROVIDERS, 0)
    town.close()
    folder = tmp_path / "again"
    shutil.copytree(town.folder, folder)
    shutil.rmtree(folder / "service")
    config = replace(host.config, data=folder / "service")
    store = Store(config.database_url)
    restore_backup(tmp_path / "backup", store, config.data, origin=config.origin, log_key=host.log_key.to_bytes(), accept_rewind=True)
    store.close()
    restored = compose(config)
    with restored.store.reading() as tx:
        assert {loss.amount for loss in tx.spent().values()} == {500_000_000}
    recover(restored, [Export(read=found.__getitem__)])
    restored.publish()
    with restored.store.reading() as tx:
        assert {loss.amount for loss in tx.spent().values()} == {0}
    restored.store.close()
    later = open_town(folder)
    assert [later.broker(name).step() for name in PROVIDERS] == [0, 0], "nobody is asked twice"
    assert later.headers("voided", job)
    assert own_total(later, "insurer").amount == 0
    require_sound(later.host)
    later.close()

"""Keys of participants are replaced and revoked: what was signed before stays, what is signed after counts under the new keys only."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import pytest

from enclaves.kit.envelope import sign_document
from enclaves.kit.rotation import keys_in_force, sign_rotation, verify_rotation
from enclaves.kit.sealing import SealingKey
from enclaves.kit.signatures import SigningKey
from policies.codec import encode
from policies.documents import KeyRotation, SignedRotation
from policies.entries import Header
from policies.errors import Conflict, Forbidden, Malformed, NotFound, SandboxError, Tampered, Unauthenticated, Unavailable
from sandbox.audit.keyring import Keyring
from sandbox.audit.replay import replay
from sandbox.exchange.participants import issue_code
from sandbox.exchange.rotation import revoke
from sandbox.party.home import Home
from sandbox.party.inbox import inbox
from sandbox.party.rekeying import rejoin, rotate_keys
from tests.support import market
from tests.support.forge import Draft, drafts, fresh
from tests.support.runs import COUNT_SQL, Town, brokers_running, network_down
from tests.support.story import export

LATE = "c" * 64


def run(town: Town, label: str, sql: str = COUNT_SQL) -> str:
    """One job of the institute's from request to opened release; returns its id."""
    from sandbox.jobs.worker import Worker

    job = town.charged(label, sql=sql, epsilon="0.1")
    with brokers_running(town.clients["insurer"], town.clients["clinic"]):
        assert Worker(host=town.host).step()
    assert town.job(job).state == "released"
    town.clients["institute"].release(job)
    return job


def require_replays(town: Town) -> None:
    files = export(town.host, "auditor")
    verdict = replay(files.__getitem__, town.host.log_identity)
    assert verdict.ok, verdict.mismatches


def statement(town: Town, name: str, **changes: object) -> SignedRotation:
    """A rotation of a participant's, signed as it should be unless `old` or `new` says otherwise."""
    home = town.clients[name].home
    new = SigningKey.generate()
    body = KeyRotation(
        participant=name,
        sequence=1,
        old_key=home.signing.public.hex(),
        signing_key=new.public.hex(),
        sealing_key=SealingKey.generate().public.hex(),
    )
    return sign_rotation(replace(body, **changes), home.signing, new)  # type: ignore[arg-type]


# Without an attack


def test_everybody_rotates_and_everything_goes_on_and_replays(town: Town) -> None:
    before = run(town, "before")
    old = town.clients["institute"].home.sealing.public.hex()
    for name in market.ROLES:
        rotate_keys(town.clients[name])
    after = run(town, "after", sql="")
    grant = town.job(after).grant
    assert grant is not None
    assert grant.recipient.sealing_key == town.clients["institute"].home.sealing.public.hex() != old
    assert [signed.rotation.sequence for signed in grant.recipient.rotations] == [1]
    for name in market.ROLES:
        rotate_keys(town.clients[name])
    run(town, "again", sql=COUNT_SQL + " WHERE year = 1")
    again = town.again("institute")
    for job in (before, after):
        release, receipt = again.release(job)
        assert release.statistics == receipt.grant.statistics
    require_replays(town)


def test_a_grant_without_rotations_is_spelled_as_ever(town: Town) -> None:
    grant = town.job(town.charged("plain")).grant
    assert "rotations" not in json.dumps(encode(grant))
    assert "rotations" not in json.dumps(encode(town.job(town.clients["institute"].jobs()[0]["id"]).facts))


def test_an_agreement_made_under_old_keys_may_be_signed_with_new_ones(town: Town) -> None:
    assert town.composed is not None
    name = town.clients["institute"].propose(replace(town.composed, uid="study-two"))["digest"]
    town.clients["clinic"].sign_agreement(name)
    rotate_keys(town.clients["clinic"])
    rotate_keys(town.clients["insurer"])
    for who in ("insurer", "institute", "auditor"):
        town.clients[who].sign_agreement(name)
    for who in market.ROLES:
        assert town.again(who).signed_agreement(name) == replace(town.composed, uid="study-two")
    require_replays(town)


def test_a_home_folded_by_older_code_is_folded_again_and_still_notices_a_rewind(town: Town) -> None:
    run(town, "first")
    home = town.clients["insurer"].home
    path = next((home.folder / "logs").iterdir())
    kept = json.loads(path.read_text())
    older = {name: kept[name] for name in ("frontier", "charges", "grants", "versions", "checkpoint")}
    path.write_text(json.dumps(older))
    rotate_keys(town.clients["institute"])
    _, followed = town.again("insurer").followed_agreement(town.agreement)
    assert len(followed.keyring.rotations) == 1
    assert followed.charges.items() >= kept["charges"].items()
    rewritten = json.loads(path.read_text())
    del rewritten["keyring"]
    rewritten["frontier"] = json.loads(json.dumps(kept["frontier"]).replace("0", "1", 3))
    path.write_text(json.dumps(rewritten))
    with pytest.raises(SandboxError):
        town.again("insurer").followed_agreement(town.agreement)


# Interrupted


@pytest.mark.parametrize("broken", ["never sent", "answer lost", "former", "sequence", "sealing", "signing", "draft"])
@pytest.mark.parametrize("again", ["", "signing"])
def test_a_rotation_interrupted_anywhere_and_again_is_finished_by_the_next_call(
    town: Town, broken: str, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = town.clients["institute"]
    old, before = client.home.signing.public, client.home.sealing.public.hex()
    for where in filter(None, (broken, again)):
        with monkeypatch.context() as patch, suppress(Unavailable, OSError):
            interrupt(patch, town, where)
            rotate_keys(town.again("institute"))
    town.session("institute").doctor = lambda method, path, answer: answer
    done = rotate_keys(client) if (client.home.folder / "next-keys.json").exists() or client.home.signing.public == old else None
    assert done is None or done.sequence == 1
    assert client.home.rotations == 1
    assert not (client.home.folder / "next-keys.json").exists()
    assert [key.public for key, _ in client.home.former()] == [old]
    assert client.home.sealing_of(before).public.hex() == before
    with town.host.store.reading() as tx:
        known = tx.participant("institute")
    assert known is not None
    assert (known.signing_key, known.sealing_key) == (client.home.signing.public.hex(), client.home.sealing.public.hex())
    assert town.charged("on-with-it")


def interrupt(patch: pytest.MonkeyPatch, town: Town, where: str) -> None:
    """Break the next rotation of the institute's at one of its steps."""
    files = {"former": "former-keys.json", "sequence": "rotations.json", "sealing": "sealing.key", "signing": "signing.key"}
    if where in ("never sent", "answer lost"):
        from sandbox.party.client import Client

        announce = Client.announce_rotation

        def lose(client: Client, signed: SignedRotation) -> None:
            if where == "answer lost":
                announce(client, signed)
            network_down_typed()

        patch.setattr(Client, "announce_rotation", lose)
    elif where == "draft":
        patch.setattr(Home, "forget_next", lambda home: broken_disk())
    else:
        write = Home.write_bytes

        def fail(home: Home, name: str, data: bytes) -> None:
            if name == files[where]:
                broken_disk()
            write(home, name, data)

        patch.setattr(Home, "write_bytes", fail)


def network_down_typed() -> None:
    raise Unavailable("gone", code="unreachable")


def broken_disk() -> None:
    raise OSError("the machine died")


# Attacks on a rotation


def announced(town: Town, who: str, signed: SignedRotation) -> SandboxError:
    """The error with which the host answers a rotation."""
    before = drafts(town.host)
    with pytest.raises(SandboxError) as caught:
        town.clients[who].announce_rotation(signed)
    assert len(drafts(town.host)) == len(before)
    return caught.value


def test_a_rotation_signed_only_by_the_new_key_is_rejected(town: Town) -> None:
    home, new = town.clients["insurer"].home, SigningKey.generate()
    body = replace(statement(town, "insurer").rotation, signing_key=new.public.hex())
    assert isinstance(announced(town, "insurer", sign_rotation(body, new, new)), Forbidden)
    assert isinstance(announced(town, "insurer", sign_rotation(body, home.signing, home.signing)), Forbidden)


def test_a_replayed_rotation_is_rejected_and_the_same_again_is_the_same(town: Town) -> None:
    client = town.clients["insurer"]
    first = statement(town, "insurer")
    assert client.announce_rotation(first) == client.announce_rotation(first)
    fork = statement(town, "insurer")  # the old key signs a second time, as whoever stole it would
    assert announced(town, "insurer", fork).code == "key-not-in-force"


def test_a_rotation_of_another_participant_is_rejected(town: Town) -> None:
    assert announced(town, "clinic", statement(town, "insurer")).code == "bad-signature"
    assert announced(town, "clinic", statement(town, "clinic", participant="insurer")).code == "bad-signature"


def test_a_rotation_to_keys_in_use_or_out_of_turn_is_rejected(town: Town) -> None:
    known = town.clients["clinic"].home.sealing.public.hex()
    assert announced(town, "insurer", statement(town, "insurer", sealing_key=known)).code == "key-known"
    assert announced(town, "insurer", statement(town, "insurer", sequence=2)).code == "rotation-sequence"
    old = town.clients["clinic"].home.sealing.public.hex()
    rotate_keys(town.clients["clinic"])
    assert announced(town, "insurer", statement(town, "insurer", sealing_key=old)).code == "key-known"


def test_a_request_signed_by_the_old_key_after_the_rotation_is_refused(town: Town) -> None:
    institute = town.clients["institute"]
    old = institute.home.signing
    rotate_keys(institute)
    signed = sign_document("job-request", "institute", town.request("old"), old)
    with pytest.raises(Forbidden):
        institute._post("/jobs", {"signed": encode(signed)})
    with town.host.store.transaction() as tx:  # authenticated before the rotation, decided after it
        from sandbox.exchange.rotation import require_in_force

        known = tx.participant("institute")
        assert known is not None
        with pytest.raises(Forbidden):
            require_in_force(tx, replace(known, signing_key=old.public.hex()))


def test_a_host_that_lets_the_old_key_ask_gets_no_keys_and_does_not_replay(town: Town) -> None:
    """The host colludes with whoever stole the old key: it takes the request as if nothing had happened."""
    from sandbox.jobs import submit

    institute = town.clients["institute"]
    with town.host.store.reading() as tx:
        member = tx.participant("institute")
    assert member is not None
    signed = sign_document("job-request", "institute", town.request("stolen", sql=COUNT_SQL), institute.home.signing)
    rotate_keys(institute)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submit, "require_in_force", lambda tx, caller: None)
        patch.setattr(submit, "require_carried", lambda tx, stored, names: None)
        job = submit.submit(town.host, member, signed)
    from sandbox.jobs.worker import Worker

    with brokers_running(town.clients["insurer"]):
        Worker(host=town.host).step()
    assert town.job(job.id).code == "keys-refused"
    assert town.refusals("insurer")[-1] == "bad-signature"
    verdict = replay(export(town.host, "auditor").__getitem__, town.host.log_identity)
    assert verdict.promises["signatures"] == "broken"


def test_a_host_that_keeps_to_the_old_sealing_key_is_refused(town: Town) -> None:
    from sandbox.jobs.worker import Worker
    from sandbox.store.keys import KeyTables

    rotate_keys(town.clients["institute"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeyTables, "rotations_from", lambda tables, key: ())
        patch.setattr("sandbox.jobs.submit.require_carried", lambda tx, stored, names: None)
        job = town.charged("stale", sql=COUNT_SQL)
    with brokers_running(town.clients["insurer"]):
        Worker(host=town.host).step()
    assert town.job(job).code == "keys-refused"
    assert town.refusals("insurer")[-1] == "grant-mismatch"
    verdict = replay(export(town.host, "auditor").__getitem__, town.host.log_identity)
    assert verdict.promises["decisions"] == "broken"


def folded(*entries: Draft) -> Keyring:
    ring = Keyring()
    for index, draft in enumerate(entries):
        ring.fold(index, draft.header)
    return ring


def entry(signed: SignedRotation, **ids: str) -> Draft:
    return fresh("rotated", 1, {**signed.to_ids(), **ids}, {})


def chain(length: int, name: str = "insurer") -> tuple[list[SigningKey], list[SignedRotation]]:
    """Keys and the rotations between them."""
    keys = [SigningKey.generate() for _ in range(length + 1)]
    signed = [
        sign_rotation(
            KeyRotation(
                participant=name,
                sequence=at + 1,
                old_key=keys[at].public.hex(),
                signing_key=keys[at + 1].public.hex(),
                sealing_key=SealingKey.generate().public.hex(),
            ),
            keys[at],
            keys[at + 1],
        )
        for at in range(length)
    ]
    return keys, signed


def test_the_key_in_force_is_the_one_of_the_place_in_the_log() -> None:
    keys, signed = chain(3)
    ring = folded(*(entry(item) for item in signed))
    assert [ring.signing_key(keys[0].public.hex(), before) for before in range(4)] == [key.public.hex() for key in keys]
    assert ring.signing_key(keys[1].public.hex()) == keys[3].public.hex()
    assert Keyring.from_json(json.loads(json.dumps(ring.to_json()))) == ring
    assert ring.copy() == ring


def test_an_invented_forked_reordered_or_foreign_rotation_is_tampering() -> None:
    keys, signed = chain(2)
    _, others = chain(1)
    stranger = SigningKey.generate()
    bad = {
        "invented": [entry(sign_rotation(replace(signed[0].rotation, signing_key=stranger.public.hex()), stranger, stranger))],
        "signed by the new key only": [entry(replace(signed[0], old_signature=signed[0].new_signature))],
        "signed by the old key only": [entry(replace(signed[0], new_signature=signed[0].old_signature))],
        "reordered": [entry(signed[1])],
        "replayed": [entry(signed[0]), entry(signed[0])],
        "forked": [entry(signed[0]), entry(sign_rotation(replace(others[0].rotation, old_key=keys[0].public.hex()), keys[0], stranger))],
        "of another participant": [
            entry(signed[0]),
            entry(sign_rotation(replace(signed[1].rotation, participant="clinic"), keys[1], keys[2])),
        ],
        "going back": [
            entry(signed[0]),
            entry(sign_rotation(replace(signed[1].rotation, signing_key=keys[0].public.hex()), keys[1], keys[0])),
        ],
        "saying more": [entry(signed[0], more="x")],
        "another number": [entry(signed[0], sequence="01")],
    }
    for how, entries in bad.items():
        with pytest.raises(Tampered) as caught:
            folded(*entries)
        assert caught.value.code == "bad-rotation", how


def test_keys_follow_from_the_agreement_or_not_at_all() -> None:
    _, signed = chain(2)
    party = market_party(signed[0].rotation.old_key)
    assert keys_in_force(party, tuple(signed))[1] == signed[1].rotation.sealing_key
    assert keys_in_force(party, ()) == (party.signing_key, party.sealing_key)
    for wrong in (signed[1:], signed[::-1], [signed[0], signed[0]], chain(1)[1]):
        with pytest.raises((Malformed, Tampered)):
            keys_in_force(party, tuple(wrong))
    with pytest.raises(Tampered):
        keys_in_force(party, (replace(signed[0], old_signature=signed[0].new_signature),))
    with pytest.raises(Tampered):
        verify_rotation(replace(signed[0], rotation=replace(signed[0].rotation, sealing_key=LATE)))


def market_party(signing: str) -> object:
    from policies.agreement import Party

    return Party(id="insurer", roles=("provider",), signing_key=signing, sealing_key="a" * 64)


# Revoked


@pytest.mark.parametrize("who", ["institute", "insurer"])
def test_after_a_revocation_nothing_new_starts_and_brokers_give_no_keys(town: Town, who: str) -> None:
    waiting = town.charged("waiting", sql=COUNT_SQL)
    revoke(town.host, who)
    with pytest.raises(Unauthenticated) as caught:
        town.clients[who].jobs()
    assert caught.value.code == "revoked"
    if who == "insurer":
        with pytest.raises(Conflict) as refused:
            town.charged("later", sql=COUNT_SQL)
        assert refused.value.code == "party-revoked"
        with pytest.raises(Conflict):
            town.clients["institute"].check(town.request("checked", sql=COUNT_SQL))
    else:
        from sandbox.jobs.worker import Worker

        with brokers_running(town.clients["insurer"]):
            Worker(host=town.host).step()
        assert town.job(waiting).code == "keys-refused"
        assert town.refusals("insurer")[-1] == "party-revoked"
    require_replays(town)


def test_a_participant_revokes_its_own_keys_and_joins_again_but_agreements_do_not_carry_over(town: Town) -> None:
    institute = town.clients["institute"]
    done = run(town, "done")
    institute.revoke_keys()
    with pytest.raises(Unauthenticated):
        institute.revoke_keys()
    rejoin(institute, issue_code(town.host, "institute"))
    for attempt in (lambda: town.charged("later"), lambda: institute.check(town.request("later"))):
        with pytest.raises(Conflict) as caught:
            attempt()
        assert caught.value.code == "party-revoked"
    assert town.composed is not None
    parties = tuple(
        replace(party, signing_key=institute.home.signing.public.hex(), sealing_key=institute.home.sealing.public.hex())
        if party.id == "institute"
        else party
        for party in town.composed.parties
    )
    spent = town.spent()
    again = replace(town.composed, uid="anew", parties=parties)
    with pytest.raises(Conflict):
        institute.propose(replace(town.composed, uid="old-keys"))
    town.agreement = institute.propose(again)["digest"]
    for client in town.clients.values():
        client.sign_agreement(town.agreement)
    rotate_keys(institute)
    run(town, "anew")
    assert town.spent()["insurer"] > spent["insurer"]
    assert institute.release(done)[0].loss.amount  # sealed to keys that the home still has
    require_replays(town)


def test_a_rejoining_that_lost_its_answer_is_repeated(town: Town) -> None:
    client = town.clients["clinic"]
    revoke(town.host, "clinic")
    with pytest.raises(Conflict):
        revoke(town.host, "clinic")
    with pytest.raises(NotFound):
        revoke(town.host, "nobody")
    code = issue_code(town.host, "clinic")
    town.session("clinic").doctor = network_down
    with pytest.raises(Unavailable):
        rejoin(client, code)
    town.session("clinic").doctor = lambda method, path, answer: answer
    with pytest.raises(Conflict):
        rotate_keys(client)
    rejoin(client, code)
    assert client.jobs() == []
    assert [header["kind"] for header in all_headers(town)].count("readmitted") == 1
    with pytest.raises(Conflict):
        issue_code(town.host, "clinic")


def all_headers(town: Town) -> list[dict[str, object]]:
    with town.host.store.reading() as tx:
        return [json.loads(data) for data in tx.entries(0, tx.log_size())]


def test_a_revocation_is_signed_by_the_key_that_it_revokes_or_by_nobody() -> None:
    keys, signed = chain(1)
    from policies.documents import KeyRevocation

    def revoked(by: str, key: SigningKey, signer: SigningKey) -> Header:
        body = KeyRevocation(participant="insurer", signing_key=key.public.hex())
        signature = "" if by == "operator" else sign_document("key-revocation", "insurer", body, signer).signature
        return fresh("revoked", 1, {"participant": "insurer", "key": key.public.hex(), "by": by, "signature": signature}, {}).header

    for header in (revoked("operator", keys[0], keys[0]), revoked("insurer", keys[0], keys[0])):
        ring = Keyring()
        ring.fold(5, header)
        assert ring.signing_key(keys[0].public.hex()) is None
        assert ring.signing_key(keys[0].public.hex(), 5) == keys[0].public.hex()
        for more in (header, entry(signed[0]).header):
            with pytest.raises(Tampered):
                ring.fold(6, more)
    for header in (revoked("insurer", keys[0], keys[1]), revoked("clinic", keys[0], keys[0])):
        with pytest.raises(Tampered) as caught:
            Keyring().fold(0, header)
        assert caught.value.code == "bad-revocation"


def test_the_inbox_still_reads_after_a_rotation(town: Town) -> None:
    rotate_keys(town.clients["insurer"])
    client = town.clients["insurer"]
    assert inbox(client.home, client.agreements(), client.key_requests(), client.jobs()) == ()

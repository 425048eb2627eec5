"""The host's side of key release over HTTP: only the asked provider, only for this grant and this enclave, only once."""

from __future__ import annotations

import time

import pytest

from enclaves.kit.envelope import sign_document
from policies.canonical import digest_bytes
from policies.codec import encode
from policies.documents import KeyRefusalStatement, KeyReleaseStatement
from tests.http.conftest import Ran
from tests.support.doors import KEY_DOORS, Door, expect_problem, flaws, get

OTHER = "sha256:" + "0" * 64

BAD = {
    "challenge": {
        "another nonce": ({"nonce": "ee" * 32}, 409, "challenged"),
        "a short nonce": ({"nonce": "ee" * 31}, 400, "malformed"),
        "a long nonce": ({"nonce": "ee" * 33}, 400, "malformed"),
        "a nonce in capitals": ({"nonce": "EE" * 32}, 400, "malformed"),
        "no hexadecimal": ({"nonce": "zz" * 32}, 400, "malformed"),
    },
    "keys": {
        "another job": ({"job": "job-00000000000000000000"}, 404, "not-found"),
        "a job with a path": ({"job": "../../etc/passwd"}, 404, "not-found"),
        "a job with a NUL": ({"job": "job-\x00"}, 400, "malformed"),
        "another grant": ({"grant": OTHER}, 409, "key-binding"),
        "another enclave": ({"evidence": OTHER}, 409, "key-binding"),
        "other sealed bytes": ({"sealed": OTHER}, 400, "malformed"),
        "no digest": ({"grant": "x"}, 400, "malformed"),
        "a later kind": ({"kind": "key-release/2"}, 400, "malformed"),
    },
    "refusals": {
        "another job": ({"job": "job-00000000000000000000"}, 404, "not-found"),
        "another grant": ({"grant": OTHER}, 409, "key-binding"),
        "a reason with an escape": ({"reason": "\x1b[2J"}, 400, "malformed"),
        "a reason with a path": ({"reason": "../x"}, 400, "malformed"),
        "a long reason": ({"reason": "x" * 61}, 400, "malformed"),
    },
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_broker_that_says_something_else_changes_nothing(ran: Ran, name: str) -> None:
    door, wrong = KEY_DOORS[name](ran.market, ran.waiting), []
    before = ran.market.service.state()
    for case, (change, status, code) in BAD[name].items():
        if found := flaws(door.post(door.request(door.document | change)), status, code):
            wrong.append(f"{case}: {found}")
    assert not wrong, "\n".join(wrong)
    assert ran.market.service.state() == before


@pytest.mark.parametrize("sealed", ["", "00", "zz", "é", "0", "00" * 600_000, None, 7])
def test_sealed_keys_are_those_of_the_statement_or_refused(ran: Ran, sealed: object) -> None:
    door = KEY_DOORS["keys"](ran.market, ran.waiting)
    before = ran.market.service.state()
    large = isinstance(sealed, str) and len(sealed) > 1 << 20
    expect_problem(door.post(door.request() | {"sealed": sealed}), 413 if large else 400)
    assert ran.market.service.state() == before


@pytest.mark.parametrize("role", ["institute", "auditor"])
@pytest.mark.parametrize("name", list(KEY_DOORS))
def test_who_was_not_asked_cannot_answer(ran: Ran, name: str, role: str) -> None:
    door = KEY_DOORS[name](ran.market, ran.waiting)
    client = ran.market.clients[role]
    own = Door(
        path=door.path, market=door.market, caller=client, signer=client if door.signer else None, purpose=door.purpose,
        document=door.document, beside=door.beside,
    )  # fmt: skip
    before = ran.market.service.state()
    expect_problem(own.post(own.request()), 404, "not-found")
    assert ran.market.service.state() == before


def test_no_provider_can_answer_for_another(ran: Ran) -> None:
    """The insurer's statement with the clinic's credential, and the clinic's own statement over the insurer's sealed bytes."""
    door, clinic = KEY_DOORS["keys"](ran.market, ran.waiting), ran.market.clients["clinic"]
    before = ran.market.service.state()
    expect_problem(door.post(door.request(), credential=f"Bearer {clinic.home.credential}"), 403, "bad-signature")
    assert ran.market.service.state() == before


@pytest.mark.parametrize("job", ["released", "refused"])
def test_an_ended_run_takes_no_answer(ran: Ran, job: str) -> None:
    market, name = ran.market, getattr(ran, job)
    before = market.service.state()
    insurer = market.clients["insurer"].home
    record = market.clients["insurer"].job(name)
    sealed = b"late"
    release = KeyReleaseStatement(job=name, grant=record["grant_digest"], evidence=OTHER, sealed=digest_bytes(sealed))
    refusal = KeyRefusalStatement(job=name, grant=record["grant_digest"], reason="too-late")
    for path, purpose, statement, beside in (
        ("/key-requests/keys", "key-release", release, {"sealed": sealed.hex()}),
        ("/key-requests/refusals", "key-refusal", refusal, {}),
    ):
        signed = encode(sign_document(purpose, insurer.participant, statement, insurer.signing))  # type: ignore[arg-type]
        door = Door(path=path, market=market, caller=market.clients["insurer"], document={})
        expect_problem(door.post({"signed": signed, **beside}), 409, "key-state")
    challenge = Door(path=f"/key-requests/{name}/challenge", market=market, caller=market.clients["insurer"], document={"nonce": "dd" * 32})
    expect_problem(challenge.post(challenge.document), 409)
    assert market.service.state() == before


def test_the_same_challenge_again_is_the_same(ran: Ran) -> None:
    door = KEY_DOORS["challenge"](ran.market, ran.waiting)
    before = ran.market.service.state()
    answer = door.post(door.request())
    assert (answer.status_code, answer.json()) == (200, {"state": "attested"})
    assert ran.market.service.state() == before


def test_only_the_asked_brokers_see_what_waits(ran: Ran) -> None:
    for role in ("insurer", "clinic"):
        waiting = ran.market.clients[role].key_requests()
        assert [(item["job"]["id"], item["state"]) for item in waiting] == [(ran.waiting, "attested")]
    for role in ("institute", "auditor"):
        assert ran.market.clients[role].key_requests() == []


def test_a_refusal_ends_the_run_is_logged_and_the_charge_is_void_once_all_brokers_renounce(ran: Ran) -> None:
    record = ran.market.clients["institute"].job(ran.refused)
    assert (record["state"], record["code"]) == ("failed", "keys-refused")
    service, deadline, named = ran.market.service, time.monotonic() + 60, list[str]()
    while "voided" not in named:
        assert time.monotonic() < deadline, named
        named = [header["kind"] for header in service.headers() if header["ids"].get("job") == ran.refused]
    assert named == ["decided", "charged", "granted", "running", "key_refused", "failed", "renounced", "renounced", "voided"]
    clinic = ran.market.name("clinic")
    assert service.spent(clinic) == sum(
        loss["amount"] * (-1 if header["kind"] == "voided" else 1)
        for header in service.headers()
        for loss in header["losses"]
        if loss["provider"] == clinic
    )
    expect_problem(get(ran.market.clients["institute"], f"/jobs/{ran.refused}/release"), 404, "not-found")

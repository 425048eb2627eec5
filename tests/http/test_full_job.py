"""One job all the way over HTTP with real processes: submitted, charged, attested, run, released, verified."""

from __future__ import annotations

import dataclasses

import pytest

from policies.codec import decode, encode
from policies.errors import EvidenceRejected, NotFound, Tampered
from policies.odrl import agreement_digest
from policies.privacy import NANO
from sandbox.audit.receipt import Receipt, verify_receipt
from sandbox.party.client import Client
from tests.http.conftest import Ran
from tests.support.chance import near
from tests.support.doors import get
from tests.support.market import YEARS


def test_the_release_verifies_and_lies_near_the_truth(ran: Ran) -> None:
    market = ran.market
    release, receipt = market.clients["institute"].release(ran.released)
    plans, care = market.tables["insurer"].to_pylist(), market.tables["clinic"].to_pylist()
    visits = {(row["person_id"], row["year"]): row["doctor_visits"] for row in care}
    assert len(plans) == 300 * len(YEARS)
    assert [cell.keys for cell in release.cells] == [(0,), (25,), (95,)]
    for cell in release.cells:
        joined = [visits[row["person_id"], row["year"]] for row in plans if row["coinsurance"] == cell.keys[0]]
        count, mean = cell.figures
        assert near(count, len(joined))
        assert near(mean, sum(joined) / len(joined))
        assert float(count.low) < float(count.value) < float(count.high)
    assert receipt.grant.loss.amount == 2 * NANO


def test_every_party_can_verify_the_receipt_and_only_the_consumer_opens(ran: Ran) -> None:
    market = ran.market
    agreement = market.clients["auditor"].signed_agreement(market.agreement)
    assert agreement_digest(agreement) == market.agreement
    for role in ("institute", "insurer", "clinic", "auditor"):
        receipt = decode(Receipt, market.clients[role].receipt(ran.released))
        assert verify_receipt(receipt, agreement).checkpoint.size > receipt.index
    for role in ("insurer", "clinic", "auditor"):
        with pytest.raises(NotFound):
            market.clients[role].release(ran.released)


def test_a_changed_receipt_or_sealed_release_is_noticed(ran: Ran) -> None:
    market = ran.market
    agreement = market.clients["institute"].signed_agreement(market.agreement)
    answer = get(market.clients["institute"], f"/jobs/{ran.released}/release").json()
    receipt, sealed = decode(Receipt, answer["receipt"]), bytes.fromhex(answer["sealed"])
    assert verify_receipt(receipt, agreement, sealed)
    flipped = sealed[:40] + bytes([sealed[40] ^ 1]) + sealed[41:]
    with pytest.raises(Tampered):
        verify_receipt(receipt, agreement, flipped)
    with pytest.raises(Tampered):
        verify_receipt(dataclasses.replace(receipt, index=receipt.index - 1), agreement, sealed)
    other = dataclasses.replace(receipt.grant, job="job-00000000000000000000")
    with pytest.raises(EvidenceRejected):
        verify_receipt(dataclasses.replace(receipt, grant=other), agreement, sealed)


def test_the_same_request_again_gets_the_same_sealed_bytes_and_no_second_charge(ran: Ran) -> None:
    market, institute = ran.market, ran.market.clients["institute"]
    before = market.service.state()
    first = get(institute, f"/jobs/{ran.released}/release")
    again = institute.submit(ran.request)
    assert (again["id"], again["state"]) == (ran.released, "released")
    second = get(institute, f"/jobs/{ran.released}/release")
    assert first.json()["sealed"] == second.json()["sealed"]
    assert market.service.state() == before


def test_the_log_tells_the_whole_way_in_the_durable_order(ran: Ran) -> None:
    named = [header["kind"] for header in ran.market.service.headers() if header["ids"].get("job") == ran.released]
    assert named == ["decided", "charged", "granted", "running", "attested", "key_released", "key_released", "released"]
    record = ran.market.clients["auditor"].job(ran.released)
    assert record["positions"]["charged"] < record["positions"]["attested"] < record["positions"]["ended"]
    assert "simulated" in str(record["evidence"])
    assert record["trust"]


def test_another_credential_or_none_reads_nothing(ran: Ran) -> None:
    for path in ("/participants", "/me", "/datasets", "/offers", "/agreements", "/ledgers", "/jobs", "/key-requests",
                 f"/jobs/{ran.released}",
                 f"/jobs/{ran.released}/release", f"/jobs/{ran.released}/receipt", f"/agreements/{ran.market.agreement}",
                 "/log/checkpoint", "/log/entries?from=0&to=1", "/log/openings?from=0&to=1", "/log/consistency?from=1&to=2",
                 "/log/tile/entries/000.p/1"):  # fmt: skip
        impostor = Client(home=ran.market.clients["institute"].home)
        response = impostor.session.get(ran.market.service.api + path, headers={"Authorization": "Bearer " + "x" * 43}, timeout=60)
        assert response.status_code == 401, path
        assert response.headers["Content-Type"] == "application/problem+json"


def test_openings_are_for_the_parties_of_their_agreement(ran: Ran) -> None:
    """The insurer of the agreement may open the decision; a participant outside gets public entries only."""
    market = ran.market
    position = market.clients["insurer"].job(ran.released)["positions"]["decided"]
    path = f"/log/openings?from={position}&to={position + 1}"
    assert get(market.clients["insurer"], path).json()["openings"][0]["body"]["signed"]["body"] == encode(ran.request)
    from tests.support.market import join

    outside = join(market.service, (name := f"outsider_{market.service.next_tag()}"), market.service.code(name))
    assert get(outside, path).json() == {"openings": []}
    entry = get(outside, f"/log/entries?from={position}&to={position + 1}").json()["entries"][0]
    assert "SELECT" not in entry

"""An agreement in rho over a real server: what is foreseen, what is explained, the same question twice, and another consumer's."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from policies.codec import decode
from policies.errors import PolicyRefused
from policies.privacy import Loss, parse_loss
from policies.request import JobRequest
from policies.statement import Release
from sandbox.audit.receipt import Receipt
from sandbox.party.agreeing import compose
from sandbox.party.client import Client
from sandbox.party.publish import publish
from tests.support.doors import get
from tests.support.market import PURPOSE, YEARS, care_declaration, care_table, join, offer_on, plans_declaration, plans_table
from tests.support.service import Service, running

PERSONS = 300
JOIN = (
    "SELECT coinsurance, COUNT(*) AS person_years, AVG(doctor_visits) AS visits "
    "FROM insurer.plans JOIN clinic.care USING (person_id, year) GROUP BY coinsurance"
)
REWORDED = (
    "select P.coinsurance, count(*) as person_years, avg(C.doctor_visits) as visits "
    "from insurer.plans P join clinic.care C on (C.year = P.year and P.person_id = C.person_id) group by 1"
)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Two providers whose ledgers are in rho, and two consumers, on a service with a worker and both brokers."""

    service: Service
    clients: dict[str, Client]
    agreement: str

    def request(self, consumer: str, rho: str, sql: str = JOIN) -> JobRequest:
        return JobRequest(
            request_id="r-" + secrets.token_hex(8), agreement=self.agreement, consumer=consumer, purpose=PURPOSE, sql=sql,
            loss=parse_loss("zcdp", rho),
        )  # fmt: skip

    def answered(self, request: JobRequest) -> tuple[str, Release, Receipt, str]:
        """Job, release, receipt and sealed bytes of a request that is allowed."""
        client = self.clients[request.consumer]
        job = str(client.submit(request)["id"])
        assert client.wait(job, 120)["state"] == "released"
        release, receipt = client.release(job)
        assert isinstance(release, Release)
        assert isinstance(receipt, Receipt)
        return job, release, receipt, str(get(client, f"/jobs/{job}/release").json()["sealed"])

    def spent(self) -> dict[str, int]:
        return {name: self.service.spent(name) for name in ("insurer", "clinic")}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    with running(tmp_path_factory.mktemp("rho"), worker=True) as service:
        clients = {name: join(service, name, service.code(name)) for name in ("insurer", "clinic", "institute", "agency")}
        measurement = clients["institute"].service()["enclave"]["measurement"]
        consumers, offers = ("institute", "agency"), []
        tables = {plans_declaration("insurer"): plans_table(PERSONS), care_declaration("clinic"): care_table(PERSONS)}
        for declaration, table in tables.items():
            provider = clients[declaration.provider]
            publish(provider, declaration, table)
            offer = offer_on(declaration, "institute", measurement, total="0.8", per_job="0.3", measure="zcdp")
            offers.append(provider.offer(replace(offer, terms=replace(offer.terms, assignees=consumers, recipients=consumers)))["digest"])
        agreement = clients["institute"].propose(compose(clients["institute"], "rho-study", "In rho", offers, []))["digest"]
        for client in clients.values():
            client.sign_agreement(agreement)
        with service.brokers(clients["insurer"], clients["clinic"]):
            yield Study(service=service, clients=clients, agreement=agreement)


def test_what_is_foreseen_in_rho_is_what_is_released_and_another_half_width_says_what_it_costs(study: Study) -> None:
    institute, request = study.clients["institute"], study.request("institute", "0.1")
    foreseen = institute.check(request, rows=500, half_widths={"person_years": "20"})
    outputs = {output["name"]: output for output in foreseen["outputs"]}
    assert foreseen["accepted"]
    assert {output["mechanism"] for output in outputs.values()} == {"discrete-gaussian"}
    assert foreseen["loss"]["measure"] == "zcdp"
    wanted = institute.check(replace(request, loss=decode(Loss, foreseen["needed"])))
    assert wanted["loss"]["measure"] == "zcdp"
    assert float(wanted["outputs"][0]["half_width"]) <= 20, "what it says it needs is enough"
    assert study.spent() == {"insurer": 0, "clinic": 0}, "asking beforehand costs nothing"
    _, release, receipt, _ = study.answered(request)
    assert receipt.grant.loss == request.loss
    assert study.spent() == {"insurer": request.loss.amount, "clinic": request.loss.amount}
    assert [cell.keys for cell in release.cells] == [(0,), (25,), (95,)]
    half = float(outputs["person_years"]["half_width"])
    for cell in release.cells:
        count = cell.figures[0]
        assert float(count.high) - float(count.value) == pytest.approx(half, abs=1), "the interval is the one that was foreseen"
    assert sum(float(cell.figures[0].value) for cell in release.cells) == pytest.approx(PERSONS * len(YEARS), abs=6 * half)


def test_a_request_in_rho_that_is_denied_is_told_what_would_do(study: Study) -> None:
    before = study.spent()
    for consumer, request, rule, change in (
        ("institute", study.request("institute", "0.4"), "job_loss", ("ask-loss", "rho 0.3")),
        ("agency", replace(study.request("agency", "0.1"), purpose="marketing"), "purpose", ("state-purpose", PURPOSE)),
    ):
        found = study.clients[consumer].check(request)
        denied = [finding for finding in found["decision"]["findings"] if not finding["allowed"]]
        assert not found["accepted"]
        assert {finding["rule"] for finding in denied} >= {rule}
        assert found["reason"]
        assert found["explanation"]["remains"] == []
        assert [item["action"] for item in found["explanation"]["changes"]] == [change[0]]
        assert change[1] in found["explanation"]["changes"][0]["text"]
        with pytest.raises(PolicyRefused):
            study.clients[consumer].submit(request)
    assert study.spent() == before


def test_the_same_question_twice_is_free_and_another_consumers_is_not(study: Study) -> None:
    first = study.request("institute", "0.05")
    job, release, receipt, sealed = study.answered(first)
    paid = study.spent()
    again = study.request("institute", "0.05", REWORDED)
    foreseen = study.clients["institute"].check(again)
    assert (foreseen["accepted"], foreseen["loss"]["amount"]) == (True, 0)
    other, repeated, told, bytes_again = study.answered(again)
    assert other != job
    assert (repeated, bytes_again) == (release, sealed), "the very same sealed bytes"
    assert told.repeated is not None
    assert told.grant == receipt.grant
    assert study.spent() == paid
    louder, _, _, dearer = study.answered(study.request("institute", "0.06"))
    assert louder not in (job, other)
    assert dearer != sealed, "another loss is another question"
    paid = study.spent()
    foreseen = study.clients["agency"].check(study.request("agency", "0.05"))
    assert foreseen["loss"]["amount"] == first.loss.amount
    _, theirs, bill, own = study.answered(study.request("agency", "0.05"))
    assert study.spent() == {name: amount + first.loss.amount for name, amount in paid.items()}, "charged anew"
    assert bill.repeated is None
    assert own != sealed
    assert [cell.figures for cell in theirs.cells] != [cell.figures for cell in release.cells], "and drawn anew"

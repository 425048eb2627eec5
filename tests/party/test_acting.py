"""Approving, paying, tightening and deleting through the client, and key brokers that hold to all of it from their own copy of the log."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from policies.conditions import Approvals, Payment
from policies.entries import parse_header
from policies.errors import PolicyRefused, Unavailable
from sandbox.cli import cli
from sandbox.party.acting import approve, cancel, confirm_payment, tighten
from sandbox.party.keeping import destroy
from sandbox.party.scopes import give_scope
from tests.support.runs import COUNT_SQL, Answer, Direct, Town, network_down


class Twice(Direct):
    """Every request that changes something goes out twice and is answered the same."""

    def request(self, method: str, url: str, **arguments: Any) -> Answer:
        """Ask the application."""
        answer = super().request(method, url, **arguments)
        if method == "POST":
            again = super().request(method, url, **arguments)
            assert (again.status_code, again.content) == (answer.status_code, answer.content)
        return answer


def agree(town: Town, **insurer: Any) -> None:
    """Go on under another agreement, with changed terms of the insurer."""
    assert town.composed is not None
    changed = tuple(replace(t, **insurer) if t.dataset.startswith("insurer.") else t for t in town.composed.terms)
    town.composed = replace(town.composed, uid="further", terms=changed)
    town.agreement = town.clients["institute"].propose(town.composed)["digest"]
    for client in town.clients.values():
        client.sign_agreement(town.agreement)


def test_brokers_release_keys_for_a_job_that_was_approved_and_paid(town: Town) -> None:
    agree(town, approvals=Approvals(need=2, of=("insurer", "clinic")), payment=Payment(amount="10", currency="CNY", per="job"), uses=3)
    institute = town.clients["institute"]
    with pytest.raises(PolicyRefused):
        institute.submit(town.request("unpaid"))
    confirm_payment(town.clients["insurer"], town.agreement, "institute")
    waiting = institute.submit(town.request("paid"))
    assert waiting["state"] == "awaiting_approval"
    assert approve(town.clients["clinic"], waiting["id"])["state"] == "awaiting_approval"
    assert approve(town.clients["insurer"], waiting["id"])["state"] == "charged"
    town.attested(waiting["id"])
    for name in ("insurer", "clinic"):
        town.broker(name).step()
        assert len(town.headers("key_released", waiting["id"])) == 1 + (name == "clinic")


def test_acts_that_are_sent_twice_count_once(town: Town) -> None:
    agree(town, approvals=Approvals(need=1, of=("insurer", "clinic")), payment=Payment(amount="10", currency="CNY", per="job"))
    for client in town.clients.values():
        client.session = cast(Any, Twice(town.app))
    confirm_payment(town.clients["insurer"], town.agreement, "institute")
    waiting = town.clients["institute"].submit(town.request("twice"))
    assert approve(town.clients["clinic"], waiting["id"])["state"] == "charged"
    confirm_payment(town.clients["insurer"], town.agreement, "institute")
    taken_back = town.clients["institute"].submit(town.request("taken-back", epsilon="0.01"))
    assert cancel(town.clients["institute"], taken_back["id"])["state"] == "cancelled"
    tighten(town.clients["insurer"], town.agreement, "insurer.plans", minimum_group=500)
    destroy(town.clients["insurer"], "insurer.plans", 1)
    give_scope(town.clients["insurer"], town.agreement, "auditor", ("decided",))
    with town.host.store.reading() as tx:
        kinds = Counter(parse_header(data).kind for data in tx.entries(0, tx.log_size()))
    counted = ("duty_done", "approved", "charged", "cancelled", "tightened", "destroyed", "audit_scoped")
    assert [kinds[kind] for kind in counted] == [2, 1, 1, 1, 1, 1, 1]


def test_the_own_broker_obeys_a_tightening_that_the_service_never_got(town: Town) -> None:
    job = town.charged("suppressed")
    town.attested(job)
    insurer = town.clients["insurer"]
    session, honest = town.session("insurer"), town.session("insurer").doctor
    session.doctor = lambda method, path, answer: network_down() if path.endswith("/tightenings") else answer
    with pytest.raises(Unavailable):
        tighten(insurer, town.agreement, "insurer.plans", revoked=True)
    session.doctor = honest
    town.broker("insurer").step()
    assert town.headers("key_released", job) == []
    assert [header["ids"]["provider"] for header in town.headers("key_refused", job)] == ["insurer"]


def test_every_broker_obeys_a_tightening_in_the_log_also_after_the_charge(town: Town) -> None:
    job = town.charged("raised")
    town.attested(job)
    tighten(town.clients["insurer"], town.agreement, "insurer.plans", minimum_group=500)
    town.broker("clinic").step()
    assert town.headers("key_released", job) == []
    assert town.clients["clinic"].tightenings(town.agreement)[0]["tightening"]["minimum_group"] == 500


def test_a_check_says_what_would_pass_without_charging(town: Town) -> None:
    before = town.spent()
    answer = town.clients["institute"].check(town.request("check", sql=COUNT_SQL, epsilon="9"))
    assert not answer["allowed"]
    assert [change["action"] for change in answer["explanation"]["changes"]] == ["ask-loss"]
    assert answer["explanation"]["remains"] == []
    assert town.spent() == before


def test_the_commands_name_what_they_need(town: Town) -> None:
    home = str(town.clients["insurer"].home.folder)
    done = CliRunner().invoke(cli, ["agreement", "tighten", "--home", home, "--dataset", "insurer.plans", town.agreement])
    assert done.exception is not None
    assert "--revoke" in str(done.exception)

"""A broker against a host that forgets what one consumer has spent, or grants in a measure that nobody agreed to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from policies.errors import BudgetExhausted, PolicyRefused
from policies.finding import Decision
from policies.privacy import parse_epsilon, parse_loss
from sandbox.jobs import submit as host_submit
from sandbox.jobs.worker import Worker
from sandbox.store.schema import consumer_charges, ledgers
from tests.support import market
from tests.support.runs import COUNT_SQL, Town, copy_town, found_town


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A town at rest whose providers let one consumer have a third of the total."""
    folder, real = tmp_path_factory.mktemp("capped") / "template", market.offer_on

    def offer_on(*arguments: Any, **named: Any) -> Any:
        offer = real(*arguments, **named)
        return replace(offer, terms=replace(offer.terms, consumer_loss=parse_epsilon("1")))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(market, "offer_on", offer_on)
        found_town(folder).close()
    return folder


@pytest.fixture
def town(template: Path, tmp_path: Path) -> Iterator[Town]:
    found = copy_town(template, tmp_path / "town")
    yield found
    found.close()


def refused(town: Town, job: str, rule: str) -> None:
    """The insurer's broker keeps its keys back and says which rule of its own copy denies."""
    town.broker("insurer").step()
    last = town.journal("insurer")[-1]
    assert (last["event"], last["job"], last["code"]) == ("refused", job, "policy-refused")
    assert rule in last["message"]
    assert not list(town.clients["insurer"].home.folder.glob("broker/*.release.json"))
    assert town.headers("key_released", job) == []


def test_what_one_consumer_has_spent_is_known_at_home_and_its_bound_kept(town: Town) -> None:
    spent = town.charged("spent", sql=COUNT_SQL, epsilon="1")
    assert Worker(host=town.host)._take() is not None
    with pytest.raises(BudgetExhausted) as denied:
        town.clients["institute"].submit(town.request("honest", sql="SELECT COUNT(*) AS n FROM insurer.plans", epsilon="0.5"))
    assert "consumer_loss" in str(denied.value)
    with town.host.store.transaction() as tx:  # the host forgets whom the charge was for, and so that anything is spent
        tx.connection.execute(update(consumer_charges).values(amount=0, consumer="nobody"))
        tx.connection.execute(update(ledgers).values(amount=0))
    job = town.charged("beyond", sql="SELECT COUNT(*) AS m FROM insurer.plans", epsilon="0.5")
    town.attested(job)
    refused(town, job, "consumer_loss")
    assert town.headers("charged", spent)


def test_a_grant_in_a_measure_that_was_not_agreed_gets_no_keys(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    request = replace(town.request("rho", sql=COUNT_SQL), loss=parse_loss("zcdp", "0.1"))
    with pytest.raises(PolicyRefused):
        town.clients["institute"].submit(request)
    monkeypatch.setattr(host_submit, "decide", lambda *_: Decision(allowed=True, findings=(), minimum_group=5))
    job = str(town.clients["institute"].submit(replace(request, request_id="request-rho-again"))["id"])
    monkeypatch.undo()
    (charge,) = town.headers("charged", job)
    assert {loss["measure"] for loss in charge["losses"]} == {"zcdp"}, "the host charges what it grants"
    town.attested(job)
    refused(town, job, "job_loss")

"""The inbox lists what waits for a participant, and nothing once it is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from policies.errors import Malformed
from sandbox.cli import cli
from sandbox.jobs.worker import Worker
from sandbox.party.agreeing import compose
from sandbox.party.client import Client
from sandbox.party.inbox import Item, inbox, was_read
from tests.support.market import asked_as
from tests.support.runs import COUNT_SQL, Town, brokers_running, found_town


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    found = found_town(tmp_path_factory.mktemp("town"))
    yield found
    found.close()


def waiting(client: Client) -> tuple[Item, ...]:
    return inbox(client.home, client.agreements(), client.key_requests(), client.jobs())


def test_an_agreement_waits_until_it_is_signed(town: Town) -> None:
    institute, insurer = town.clients["institute"], town.clients["insurer"]
    assert waiting(insurer) == ()
    offers = [offer["digest"] for offer in institute.offers()]
    name = institute.propose(compose(institute, "second", "A second study", offers, []))["digest"]
    assert waiting(insurer) == (Item(kind="agreement", name=name, title="A second study", command=f"agreement show {name}"),)
    insurer.sign_agreement(name)
    assert waiting(insurer) == ()


def test_an_epoch_waits_for_each_provider_until_it_has_signed(town: Town) -> None:
    home = town.clients["insurer"].home
    state = {"epoch": {"number": 2, "log": {"origin": "town.test/log/epoch-2"}}, "waiting_for": ["insurer"]}
    title = "the log begins anew, epoch 2"
    expected = Item(kind="epoch", name="town.test/log/epoch-2", title=title, command="party epoch show")
    assert inbox(home, [], [], [], state) == (expected,)
    assert inbox(home, [], [], [], state | {"waiting_for": ["clinic"]}) == ()


def test_a_run_waits_for_the_broker_and_the_release_for_its_reader(town: Town) -> None:
    insurer, institute = town.clients["insurer"], town.clients["institute"]
    job = town.charged("inbox", sql=COUNT_SQL)
    assert [item for item in waiting(institute) if item.kind == "release"] == []
    worker = Worker(host=town.host)
    taken = worker._take()
    assert taken is not None
    assert [(item.kind, item.name, item.command) for item in waiting(insurer)] == [("key-request", job, "party broker")]
    with brokers_running(insurer):
        worker._run(taken)
    assert waiting(insurer) == ()
    unread = [item for item in waiting(institute) if item.kind == "release"]
    assert [(item.name, item.title, item.command) for item in unread] == [(job, asked_as("inbox", COUNT_SQL), f"job release {job}")]
    assert not was_read(institute.home, job)
    institute.release(job)
    assert was_read(institute.home, job)
    assert [item for item in waiting(institute) if item.kind == "release"] == []


def test_a_release_of_somebody_else_waits_for_nobody_here(town: Town) -> None:
    job = {"id": "job-1", "consumer": "institute", "state": "released", "signed": {"body": {"sql": "SELECT 1"}}}
    assert inbox(town.clients["insurer"].home, [], [], [job]) == ()
    assert len(inbox(town.clients["institute"].home, [], [], [job])) == 1


def test_a_job_id_that_is_a_path_is_refused(town: Town) -> None:
    with pytest.raises(Malformed):
        was_read(town.clients["institute"].home, "../identity.json")


def test_the_command_prints_the_items(town: Town, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clinic = town.clients["clinic"]
    offers = [offer["digest"] for offer in clinic.offers()]
    name = clinic.propose(compose(clinic, "third", "A third study", offers, []))["digest"]
    monkeypatch.setattr("sandbox.cli.participant.client_of", lambda folder: clinic)
    listed = json.loads(CliRunner().invoke(cli, ["party", "inbox", "--home", str(tmp_path), "--json"]).stdout)
    assert {"kind": "agreement", "name": name, "title": "A third study", "command": f"agreement show {name}"} in listed
    assert "A third study" in CliRunner().invoke(cli, ["party", "inbox", "--home", str(tmp_path)]).stdout

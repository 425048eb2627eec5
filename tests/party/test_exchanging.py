"""Insurer and clinic exchange figures for a model with their clients, real brokers and a real enclave, every message sent twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from click.testing import CliRunner, Result

from policies.agreement import Role
from policies.canonical import digest_bytes
from policies.conditions import DAY_S
from policies.entries import parse_header
from policies.errors import Conflict, Malformed, NotFound, PolicyRefused, Tampered
from policies.exchange import ExchangeAct
from policies.privacy import parse_loss
from policies.statement import Release
from sandbox.audit.replay import replay
from sandbox.cli import cli, exchange
from sandbox.exchange import escrow
from sandbox.jobs.worker import Worker
from sandbox.party import exchanges
from sandbox.party.inbox import inbox
from tests.party.test_acting import Twice
from tests.party.test_modelling import FORM
from tests.support.runs import Town, brokers_running, found_town
from tests.support.story import export

VISITS = "SELECT AVG(doctor_visits) AS visits, COUNT(*) AS years FROM clinic.care"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Both providers are consumers, too, under terms for exchanges only; every message goes out twice. In the end the log replays."""
    found = found_town(tmp_path_factory.mktemp("town") / "town", persons=200, total="50", per_job="2", measure="zcdp")
    assert found.composed is not None
    roles: dict[str, tuple[Role, ...]] = {"insurer": ("provider", "consumer"), "clinic": ("provider", "consumer")}
    parties = tuple(replace(party, roles=roles.get(party.id, party.roles)) for party in found.composed.parties)
    names = ("insurer", "clinic")
    terms = tuple(replace(item, assignees=names, recipients=names, exchange_only=True) for item in found.composed.terms)
    found.composed = replace(found.composed, uid="exchanges", parties=parties, terms=terms)
    found.agreement = found.clients["institute"].propose(found.composed)["digest"]
    for client in found.clients.values():
        client.sign_agreement(found.agreement)
        client.session = cast(Any, Twice(found.app))
    yield found
    verdict = replay(export(found.host, "auditor").__getitem__, found.host.log_identity)
    assert not verdict.mismatches
    found.close()


def form(town: Town, folder: Path, uid: str, test: str = "-1", **changes: Any) -> Path:
    """The file of an exchange: figures for the insurer, a model for the clinic."""
    (folder / "spend.yaml").write_text(FORM + f'test: {{metric: r2, least: "{test}"}}\n')
    leg = {"agreement": town.agreement, "purpose": "health-economics"}
    now = datetime.now(UTC)
    document = {
        "uid": uid,
        "title": "Figures for a model",
        "accept_by": f"{now + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}",
        "deadline": f"{now + timedelta(days=30):%Y-%m-%dT%H:%M:%SZ}",
        "arbiter": "auditor",
        "legs": [
            {"kind": "data", "giver": "clinic", "receiver": "insurer", "ask": {"sql": VISITS, "rho": "0.5"}, **leg},
            {"kind": "model", "giver": "insurer", "receiver": "clinic", "ask": {"form": "spend.yaml", "rho": "2"}, **leg},
        ],
        **changes,
    }
    path = folder / f"{uid}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def worked(town: Town) -> None:
    """Run the oldest charged job."""
    with brokers_running(town.clients["insurer"], town.clients["clinic"]):
        assert Worker(host=town.host).step()


def shown(town: Town, monkeypatch: pytest.MonkeyPatch, who: str, *arguments: str) -> Result:
    """What a command of a participant's prints."""
    monkeypatch.setattr(exchange, "client_of", lambda folder: town.clients[who])
    done = CliRunner().invoke(cli, ["exchange", *arguments, "--home", str(town.clients[who].home.folder)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def waits(town: Town, who: str) -> list[str]:
    """Commands of the participant's inbox."""
    client = town.clients[who]
    items = inbox(client.home, [], [], client.jobs(), None, exchanges.listed(client))
    return [item.command.partition(" sha256:")[0] for item in items]


def kinds(town: Town, name: str) -> Counter[str]:
    """Number of entries by kind about an exchange."""
    with town.host.store.reading() as tx:
        headers = [parse_header(data) for data in tx.entries(0, tx.log_size())]
    return Counter(header.kind for header in headers if header.ids.get("exchange") == name)


def test_figures_for_a_model_from_the_proposal_to_the_model(town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = json.loads(shown(town, monkeypatch, "clinic", "open", str(form(town, tmp_path, "story")), "--json").stdout)
    name = opened["digest"]
    assert waits(town, "insurer") == ["exchange status"]
    assert "waits for" in shown(town, monkeypatch, "insurer", "accept", name).output
    insurer, clinic = town.clients["insurer"], town.clients["clinic"]
    assert (waits(town, "insurer"), waits(town, "clinic")) == (["exchange run --leg 1"], ["exchange run --leg 2"])
    first, second = (exchanges.run(client, name, leg)["id"] for client, leg in ((insurer, 1), (clinic, 2)))
    for _ in range(2):
        worked(town)
    for client, job in ((insurer, first), (clinic, second)):
        with pytest.raises(Conflict) as held:
            client.release(job)
        assert held.value.code == "in-escrow"
    assert waits(town, "insurer") == ["exchange acknowledge --leg 1"]
    assert exchanges.acknowledge(insurer, name, 1)["course"]["stage"] == "both_in_escrow"
    with pytest.raises(Conflict):
        exchanges.receive(insurer, name, 1)
    assert "handed_over" in shown(town, monkeypatch, "clinic", "acknowledge", "--leg", "2", name).output
    assert waits(town, "clinic") == [f"job release {second}"]
    release, record = exchanges.receive(clinic, name, 2)
    assert isinstance(release, Release)
    assert release.model is not None
    assert record["course"]["second"]["received"]
    assert insurer.release(first)[0].cells
    status = shown(town, monkeypatch, "auditor", "status", name).output
    assert all(word in status for word in ("handed_over", "received", "insurer", "clinic", "r2"))
    assert "Figures for a model" in shown(town, monkeypatch, "clinic", "status").output
    assert kinds(town, name) == {"exchange_proposed": 1, "exchange_act": 4, "handed_over": 1, "decided": 2}


def test_a_model_that_does_not_pass_its_test_is_never_handed_over(town: Town, tmp_path: Path) -> None:
    insurer, clinic = town.clients["insurer"], town.clients["clinic"]
    for number in range(12):  # noise may bring a metric to its top
        name = exchanges.propose(clinic, exchanges.read_exchange(form(town, tmp_path, f"untested-{number}", test="1")))["digest"]
        exchanges.accept(insurer, name)
        job = exchanges.run(clinic, name, 2)["id"]
        worked(town)
        assert clinic.job(job)["state"] == "released"
        if town.headers("released", job)[0]["ids"]["accepted"] == "no":
            break
        exchanges.withdraw(clinic, name)
    assert town.headers("released", job)[0]["ids"]["accepted"] == "no"
    assert exchanges.known(clinic, name).course.stage == "returned"
    with pytest.raises(NotFound) as gone:
        clinic.release(job)
    assert gone.value.code == "returned"
    assert waits(town, "clinic") == []


def test_a_release_without_the_hand_over_in_the_log_is_refused(town: Town, tmp_path: Path) -> None:
    insurer, clinic = town.clients["insurer"], town.clients["clinic"]
    order = {"kind": "order", "giver": "insurer", "receiver": "clinic", "document": digest_bytes(b"order")}
    path = form(town, tmp_path, "leaky")
    document = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**document, "legs": [document["legs"][0], order]}))
    name = exchanges.propose(clinic, exchanges.read_exchange(path))["digest"]
    exchanges.accept(insurer, name)
    job = exchanges.run(insurer, name, 1)["id"]
    worked(town)
    honest = insurer.receipt(job)
    with town.host.store.reading() as tx:
        stored = tx.release(job)
    assert stored is not None
    session = cast(Any, insurer.session)

    def leak(method: str, path: str, answer: Any) -> Any:
        """The host gives the insurer its release before the hand-over."""
        if not path.endswith("/release"):
            return answer
        body = json.dumps({"receipt": honest, "sealed": stored.sealed.hex()}).encode()
        return replace(answer, status_code=200, content=body)

    before, session.doctor = session.doctor, leak
    with pytest.raises(Tampered) as refused:
        insurer.release(job)
    assert refused.value.code == "not-handed-over"
    session.doctor = before
    assert exchanges.give(insurer, name, 2)["course"]["stage"] == "both_in_escrow"
    reasons = tmp_path / "reasons.txt"
    reasons.write_text("the order is for another year")
    exchanges.dispute(clinic, name, digest_bytes(reasons.read_bytes()))
    assert waits(town, "insurer") == ["exchange status"]
    exchanges.resolve(town.clients["auditor"], name, "return")
    with pytest.raises(NotFound):
        insurer.release(job)


def test_a_right_is_used_after_the_hand_over(town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    insurer, clinic = town.clients["insurer"], town.clients["clinic"]
    right = {"kind": "scenario", "giver": "insurer", "receiver": "clinic", "agreement": town.agreement, "purpose": "health-economics"}
    path = form(town, tmp_path, "right")
    document = yaml.safe_load(path.read_text())
    document["legs"][1] = {**right, "jobs": 1, "until": f"{datetime.now(UTC) + timedelta(days=60):%Y-%m-%dT%H:%M:%SZ}"}
    path.write_text(yaml.safe_dump(document))
    name = exchanges.propose(clinic, exchanges.read_exchange(path))["digest"]
    exchanges.accept(insurer, name)
    exchanges.run(insurer, name, 1)
    worked(town)
    asked = ("use", "--leg", "2", "--rho", "0.5", "--timeout", "60", name, "SELECT COUNT(*) AS years FROM insurer.plans")
    with pytest.raises(PolicyRefused):
        shown(town, monkeypatch, "clinic", *asked)
    assert waits(town, "insurer") == ["exchange acknowledge --leg 1", "exchange give --leg 2"]
    exchanges.give(insurer, name, 2)
    exchanges.acknowledge(insurer, name, 1)
    assert exchanges.acknowledge(clinic, name, 2)["course"]["stage"] == "handed_over"
    leg = exchanges.kept(clinic, name).leg(2)
    with pytest.raises(Malformed):
        exchanges.run(clinic, name, 2)
    job = exchanges.use(clinic, name, 2, "SELECT COUNT(*) AS years FROM insurer.plans", parse_loss("zcdp", "0.5"))["id"]
    worked(town)
    assert clinic.release(job)[0].cells
    assert leg.jobs == 1
    with pytest.raises(PolicyRefused):
        shown(town, monkeypatch, "clinic", *asked)
    assert exchanges.right_of(clinic, None) is None
    with pytest.raises(Malformed):
        exchanges.use(insurer, name, 1, "SELECT 1", parse_loss("zcdp", "0.5"))


ORDER = digest_bytes(b"invoice 9: 4000 for figures on visits")
SPENT = "SELECT COUNT(*) AS years FROM insurer.plans"


def opened(town: Town, folder: Path, kind: str, uid: str, by: str = "clinic") -> str:
    """An exchange that was proposed: figures of the clinic's for the insurer, and money or a scenario for the clinic."""
    path = form(town, folder, uid)
    document = yaml.safe_load(path.read_text())
    back: dict[str, Any] = {"kind": kind, "giver": "insurer", "receiver": "clinic"}
    if kind == "money":
        back["document"] = ORDER
    else:
        until = f"{datetime.now(UTC) + timedelta(days=90):%Y-%m-%dT%H:%M:%SZ}"
        back |= {"agreement": town.agreement, "purpose": "health-economics", "jobs": 1, "until": until}
    path.write_text(yaml.safe_dump({**document, "legs": [document["legs"][0], back]}))
    return str(exchanges.propose(town.clients[by], exchanges.read_exchange(path))["digest"])


def both_given(town: Town, folder: Path, kind: str, uid: str) -> tuple[str, str]:
    """The exchange with both legs in escrow, and the job of the first."""
    insurer, clinic = town.clients["insurer"], town.clients["clinic"]
    name = opened(town, folder, kind, uid)
    exchanges.accept(insurer, name)
    job = str(exchanges.run(insurer, name, 1)["id"])
    worked(town)
    assert exchanges.give(insurer, name, 2)["course"]["stage"] == "both_in_escrow"
    assert {exchanges.known(who, name).course.stage for who in (insurer, clinic)} == {"both_in_escrow"}
    return name, job


def days_later(town: Town, days: int) -> None:
    """The worker looks at the clock so many days from now."""
    escrow.sweep(replace(town.host, now=lambda: town.host.now() + days * DAY_S * 1000))


def nobody_has_anything(town: Town, name: str, job: str = "") -> None:
    """The release is gone and stays charged, and the right cannot be used."""
    insurer, clinic = town.clients["insurer"], town.clients["clinic"]
    if job:
        with pytest.raises(NotFound) as gone:
            insurer.release(job)
        assert gone.value.code == "returned"
        assert town.headers("charged", job)
    if exchanges.kept(clinic, name).leg(2).form == "right":
        with pytest.raises(PolicyRefused):
            exchanges.use(clinic, name, 2, SPENT, parse_loss("zcdp", "0.5"))
    assert not kinds(town, name)["handed_over"]


PAID = pytest.mark.parametrize("kind", ["money", "scenario"])


@PAID
def test_figures_for_money_or_a_scenario_through_a_dispute_to_the_hand_over(town: Town, tmp_path: Path, kind: str) -> None:
    insurer, clinic = town.clients["insurer"], town.clients["clinic"]
    name, job = both_given(town, tmp_path, kind, f"paid-{kind}")
    assert waits(town, "clinic") == ["exchange acknowledge --leg 2"]
    with pytest.raises(Conflict) as held:
        insurer.release(job)
    assert held.value.code == "in-escrow"
    exchanges.dispute(insurer, name, digest_bytes(b"visits of another year"))
    with pytest.raises(Conflict):
        exchanges.acknowledge(clinic, name, 2)
    exchanges.resolve(clinic, name, "continue")
    assert exchanges.resolve(insurer, name, "continue")["course"]["stage"] == "both_in_escrow"
    exchanges.acknowledge(clinic, name, 2)
    with pytest.raises(Conflict):
        exchanges.receive(insurer, name, 1)
    assert exchanges.acknowledge(insurer, name, 1)["course"]["stage"] == "handed_over"
    release, record = exchanges.receive(insurer, name, 1)
    assert isinstance(release, Release)
    assert release.cells
    assert record["course"]["first"]["received"]
    decided = 1
    if kind == "scenario":
        used = exchanges.use(clinic, name, 2, SPENT, parse_loss("zcdp", "0.5"))["id"]
        worked(town)
        assert clinic.release(used)[0].cells
        with pytest.raises(PolicyRefused):
            exchanges.use(clinic, name, 2, SPENT + " WHERE year > 1", parse_loss("zcdp", "0.5"))
        decided = 3
    with pytest.raises(Conflict) as late:
        exchanges.dispute(clinic, name, ORDER)
    assert late.value.code == "exchange-state"
    # accept, give, dispute, two resolutions, two acknowledgements, received
    assert kinds(town, name) == {"exchange_proposed": 1, "exchange_act": 8, "handed_over": 1, "decided": decided}


@PAID
def test_a_proposal_that_is_refused_or_not_accepted_in_time_moves_nothing(town: Town, tmp_path: Path, kind: str) -> None:
    insurer, clinic = town.clients["insurer"], town.clients["clinic"]
    spent = town.spent()
    name = opened(town, tmp_path, kind, f"refused-{kind}")
    assert exchanges.refuse(insurer, name)["course"]["stage"] == "refused"
    with pytest.raises(NotFound):
        exchanges.run(insurer, name, 1)
    with pytest.raises(Conflict):
        exchanges.give(insurer, opened_and_kept(insurer, clinic, name), 2)
    assert kinds(town, name) == {"exchange_proposed": 1, "exchange_act": 1}
    late = opened(town, tmp_path, kind, f"late-{kind}")
    days_later(town, 2)
    with pytest.raises(Conflict) as over:
        exchanges.accept(insurer, late)
    assert over.value.code == "exchange-state"
    assert exchanges.known(clinic, late).course.stage == "expired"
    assert kinds(town, late) == {"exchange_proposed": 1, "exchange_ended": 1}
    for ended in (name, late):
        nobody_has_anything(town, ended)
    assert town.spent() == spent


def opened_and_kept(client: Any, proposer: Any, name: str) -> str:
    """The exchange, kept in a home that never accepted it: whoever refused may still send acts."""
    exchanges._keep(client, exchanges.kept(proposer, name))
    return name


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("money", "deadline"),
        ("scenario", "deadline"),
        ("money", "undecided"),
        ("scenario", "return"),
        ("money", "withdrawn in dispute"),
        ("scenario", "withdrawn"),
    ],
)
def test_what_is_in_escrow_for_money_or_a_scenario_returns(town: Town, tmp_path: Path, kind: str, end: str) -> None:
    insurer, clinic = town.clients["insurer"], town.clients["clinic"]
    spent = town.spent()
    name, job = both_given(town, tmp_path, kind, f"{end.replace(' ', '-')}-{kind}")
    exchanges.acknowledge(clinic, name, 2)
    if end in ("undecided", "return", "withdrawn in dispute"):
        exchanges.dispute(clinic, name, digest_bytes(b"nothing was paid"))
    if end in ("deadline", "undecided"):
        days_later(town, {"deadline": 31, "undecided": 15}[end])
        assert exchanges.known(insurer, name).record["reason"] == end
    elif end == "return":
        for who in (insurer, clinic):
            exchanges.resolve(who, name, "return")
    else:
        exchanges.withdraw(insurer, name)
    assert exchanges.known(clinic, name).course.stage == "returned"
    nobody_has_anything(town, name, job)
    with pytest.raises(Conflict):
        exchanges.acknowledge(insurer, name, 1)
    assert town.spent()["clinic"] > spent.get("clinic", 0), "persons' data were used"
    listed = [item for who in (insurer, clinic) for item in inbox(who.home, [], [], who.jobs(), None, exchanges.listed(who))]
    assert not [item.command for item in listed if name in item.command or job in item.command]


@pytest.mark.parametrize("who", ["clinic", "insurer"])
def test_no_keys_leave_for_a_job_whose_exchange_has_ended_and_its_charge_is_void(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Whoever withdraws while the job waits: data that nobody may get are not even read. What one withdrew from, one knows by oneself."""
    insurer, clinic = town.clients["insurer"], town.clients["clinic"]
    spent = town.spent()
    name = opened(town, tmp_path, "money", f"queued-{who}")
    exchanges.accept(insurer, name)
    job = exchanges.run(insurer, name, 1)["id"]
    assert exchanges.withdraw(town.clients[who], name)["course"]["stage"] == "withdrawn"
    if who == "clinic":  # the service tells it that all goes on
        seen = exchanges.known(clinic, name)
        monkeypatch.setattr(exchanges, "known", lambda *_: replace(seen, course=replace(seen.course, stage="open")))
    worked(town)
    monkeypatch.undo()
    assert (town.job(job).state, town.job(job).code) == ("failed", "keys-refused")
    assert not town.headers("key_released", job)
    assert any(note.get("code") == "exchange-over" and note.get("job") == job for note in town.journal("clinic"))
    town.broker("clinic").step()
    assert town.headers("voided", job)
    assert town.spent() == spent


def test_nothing_else_than_what_was_agreed_is_acknowledged(town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    insurer, clinic = town.clients["insurer"], town.clients["clinic"]
    name = exchanges.propose(clinic, exchanges.read_exchange(form(town, tmp_path, "swapped")))["digest"]
    with pytest.raises(NotFound):
        exchanges.run(insurer, name, 1)  # not accepted here
    exchanges.accept(insurer, name)
    with pytest.raises(Conflict):
        exchanges.acknowledge(insurer, name, 1)
    exchanges.run(insurer, name, 1)
    worked(town)
    other = town.job(insurer.jobs(state="released", consumer="insurer")[-1]["id"])
    session = cast(Any, insurer.session)
    fetch = insurer.fetch

    def swap(path: str) -> dict[str, Any]:
        """The receipt of an earlier release in place of this leg's."""
        return fetch(f"/jobs/{other.id}/receipt" if path.endswith("/receipt") else path)

    monkeypatch.setattr(insurer, "fetch", swap)
    with pytest.raises(Tampered):
        exchanges.acknowledge(insurer, name, 1)
    monkeypatch.undo()
    assert session is insurer.session
    assert exchanges.withdraw(clinic, name)["course"]["stage"] == "returned"


def test_forms_that_make_no_exchange_are_malformed(town: Town, tmp_path: Path) -> None:
    good = yaml.safe_load(form(town, tmp_path, "forms").read_text())
    leg = good["legs"][0]
    for wrong in (
        {"legs": [leg]},
        {"legs": "two"},
        {"deadline": "tomorrow"},
        {"legs": [{**leg, "ask": {"sql": VISITS}}, good["legs"][1]]},
        {"legs": [{**leg, "ask": {"sql": VISITS, "rho": "1", "epsilon": "1"}}, good["legs"][1]]},
        {"legs": [{**leg, "ask": {"sql": VISITS, "form": "x", "rho": "1"}}, good["legs"][1]]},
        {"legs": [{**leg, "price": "1"}, good["legs"][1]]},
        {"surprise": 1},
    ):
        path = tmp_path / "wrong.yaml"
        path.write_text(yaml.safe_dump({**good, **wrong}))
        with pytest.raises(Malformed):
            exchanges.read_exchange(path)
    with pytest.raises(Malformed):
        exchanges.bound(exchanges.read_exchange(form(town, tmp_path, "bound")), 3)
    with pytest.raises(Malformed):
        exchanges.act(town.clients["clinic"], ExchangeAct(exchange=town.agreement, act="give", leg=0))

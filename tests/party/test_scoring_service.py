"""An owner offers a model with its client, another firm asks it through a real enclave process, and the owner sees how it is used."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from enclaves.kit.artefact import onnx_bytes
from enclaves.kit.measure import checkout_root, measurement
from policies.agreement import ColumnTerm, Offer
from policies.canonical import canonical
from policies.codec import encode
from policies.errors import Malformed, NotFound, PolicyRefused
from policies.privacy import parse_epsilon
from policies.request import JobRequest
from policies.scoring import predicted
from sandbox.cli import serving as commands
from sandbox.cli.models import model as model_command
from sandbox.exchange.participants import issue_code
from sandbox.jobs.worker import Worker
from sandbox.party.agreeing import compose
from sandbox.party.deciding import require_decided
from sandbox.party.home import Home
from sandbox.party.publish import publish
from sandbox.party.serving import model_from, offer_model, usage_of
from tests.support import scoring
from tests.support.market import PURPOSE
from tests.support.runs import Town, brokers_running, open_town

TERMS = """
assignees: [institute]
purposes: [health-economics]
from: 2020-01-01
until: 2100-01-01
enclaves: [simulated]
scored_rows: {rows: 60, days: 30}
score_decimals: 2
"""
ROWS: list[tuple[int, int, int | None]] = [(7, 0, 0), (3, 25, 4), (12, 95, 20), (5, 0, None)]
GRID: list[tuple[int, int, int | None]] = [(10 * p + v, plan, v) for p, plan in enumerate((0, 25, 95)) for v in range(6)]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An insurer with an offered model, an institute with rows and an offer on them to itself, and their agreement."""
    folder = tmp_path_factory.mktemp("town") / "town"
    found = open_town(folder, homes=())
    for name in ("insurer", "institute", "auditor"):
        found.clients[name] = found.client(Home.create(folder / "homes" / name, name, f"The {name}", "http://host.test"))
        found.clients[name].join(issue_code(found.host, name))
    (folder / "terms.yaml").write_text(TERMS)
    (folder / "model.json").write_bytes(canonical(encode(scoring.risk_model())))
    offered = _run(found, "insurer", "offer", "--dataset", "insurer.risk", "--title", "Risk", "--terms", folder / "terms.yaml",
                   folder / "model.json")  # fmt: skip
    publish(found.clients["institute"], scoring.people_declaration(), scoring.people_table(ROWS))
    own = scoring.people_terms(
        assignees=("institute",), recipients=("institute",), purposes=(PURPOSE,), measurements=(measurement(checkout_root()),),
        not_before=1, not_after=4_102_444_800,
        columns=tuple(ColumnTerm(column=name, operations=("feature", "filter")) for name in ("person_id", "plan", "visits")),
    )  # fmt: skip
    mine = Offer(uid="own-rows", title="Own rows", declaration=scoring.people_declaration(), terms=own)
    assert json.loads(offered)["copied_by_rows"] == scoring.risk_model().width
    offers = [json.loads(offered)["digest"], found.clients["institute"].offer(mine)["digest"]]
    found.composed = compose(found.clients["institute"], "risk", "Scores of risk", offers, ["auditor"])
    found.agreement = found.clients["institute"].propose(found.composed)["digest"]
    for client in found.clients.values():
        client.sign_agreement(found.agreement)
    yield found
    found.close()


def _run(town: Town, who: str, *arguments: Any) -> str:
    """What a command of `sandbox model` prints for that participant, with `--json`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(commands, "client_of", lambda _: town.clients[who])
        done = CliRunner().invoke(model_command, [*map(str, arguments), "--home", str(town.folder), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def call(town: Town, label: str, **changes: Any) -> JobRequest:
    asked = town.request(label, scoring.SQL, loss=scoring.NOTHING, scoring=scoring.call(model="insurer.risk", rows=10, decimals=2))
    return replace(asked, **changes)


def run_next(town: Town) -> None:
    with brokers_running(town.clients["insurer"], town.clients["institute"]):
        assert Worker(host=town.host).step()


@pytest.fixture(scope="module")
def asked(town: Town) -> str:
    """A call that was released; returns the job."""
    job = town.clients["institute"].submit(call(town, "first"))
    run_next(town)
    return str(job["id"])


def test_the_asker_gets_rounded_scores_and_the_owner_none(town: Town, asked: str) -> None:
    printed = json.loads(_run(town, "institute", "ask", "--agreement", town.agreement, "--purpose", PURPOSE, "--model", "insurer.risk",
                              "--by", "who", "--rows", 10, "--request-id", "request-first", scoring.SQL))  # fmt: skip
    model = scoring.risk_model()
    meant = {who: f"{predicted(model, {'plan': plan, 'visits': visits})[0]:.2f}" for who, plan, visits in ROWS}
    assert printed["job"] == asked
    assert {score["row"]: score["values"] for score in printed["scores"]} == {who: [value] for who, value in meant.items()}
    with pytest.raises(NotFound):
        town.clients["insurer"].release(asked)


def test_scores_are_printed_as_csv(town: Town, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "client_of", lambda _: town.clients["institute"])
    arguments = ["ask", "--home", str(town.folder), "--agreement", town.agreement, "--purpose", PURPOSE, "--model", "insurer.risk",
                 "--by", "who", "--rows", "10", "--request-id", "request-first", scoring.SQL]  # fmt: skip
    printed = list(csv.reader(io.StringIO(CliRunner().invoke(model_command, arguments, catch_exceptions=False).stdout)))
    assert printed[0] == ["who", "probability"]
    assert len(printed) == 1 + len(ROWS)
    assert asked


def test_the_owner_sees_calls_rows_and_suspicions_and_no_row(town: Town, asked: str) -> None:
    publish(town.clients["institute"], scoring.people_declaration(), scoring.people_table(GRID))
    probing = call(town, "grid", scoring=scoring.call(model="insurer.risk", rows=18, decimals=2))
    town.clients["institute"].submit(probing)
    run_next(town)
    (usage,) = usage_of(town.clients["insurer"], "insurer.risk")
    assert (usage.consumer, usage.calls, usage.rows, usage.released, usage.suspected) == ("institute", 2, 28, 2, 1)
    assert (usage.versions, usage.few) == (2, 1), "four rows are too few to say anything of"
    assert usage.quota == "60 rows in 30 days"
    shown = json.loads(_run(town, "insurer", "status", "insurer.risk"))
    assert shown == [encode(usage)]
    with pytest.raises(PolicyRefused) as refused:
        town.clients["institute"].submit(call(town, "beyond", scoring=scoring.call(model="insurer.risk", rows=33, decimals=2)))
    assert [f["rule"] for f in refused.value.findings if not f["allowed"]] == ["scored_rows"]
    assert asked


def test_a_broker_holds_the_quota_by_its_own_copy_of_the_log(town: Town, asked: str) -> None:
    """A host that states fewer scored rows than the log has gets no keys."""
    insurer = town.clients["insurer"]
    _, followed = insurer.followed_agreement(town.agreement)
    assert town.composed is not None
    job, grant = insurer.job(asked), town.job(asked).grant
    assert grant is not None
    now = town.host.now() / 1000
    require_decided(insurer.home, job, grant, town.composed, followed, now)
    first = followed.scored[town.agreement][0]
    spent = replace(followed, scored={town.agreement: [{**first, "rows": 51, "index": first["index"] - 1}]})
    with pytest.raises(PolicyRefused, match="scored_rows"):
        require_decided(insurer.home, job, grant, town.composed, spent, now)


@pytest.mark.parametrize("name", ["model.onnx", "model.pickle"])
def test_a_model_from_elsewhere_is_refused_before_anything_runs_it(town: Town, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(onnx_bytes(scoring.risk_model()) if name.endswith("onnx") else b"\x80\x04cos\nsystem\n.")
    with pytest.raises(Malformed) as refused:
        model_from(town.clients["insurer"], str(file))
    assert refused.value.code == "foreign-model"


def test_terms_that_say_too_little_publish_nothing(town: Town) -> None:
    insurer = town.clients["insurer"]
    with pytest.raises(Malformed):
        offer_model(insurer, scoring.risk_model(), "insurer.other", "Other", {"assignees": ["institute"]})
    assert "insurer.other" not in {item["signed"]["body"]["dataset"] for item in insurer.datasets()}
    with pytest.raises(NotFound):
        model_from(insurer, "nothing-of-that-name")


def test_a_call_that_asks_for_loss_is_no_request(town: Town) -> None:
    with pytest.raises(Malformed, match="cost no privacy loss"):
        call(town, "paid", loss=parse_epsilon("0.1"))

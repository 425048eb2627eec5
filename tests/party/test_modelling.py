"""A consumer trains with its client against a real service and enclave process, reads the card, and scores rows of its own."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from enclaves.kit.artefact import checked_onnx
from policies.errors import Malformed, NotFound, PolicyRefused
from policies.privacy import parse_loss
from policies.request import JobRequest
from policies.statement import Release
from sandbox.audit.receipt import Receipt
from sandbox.jobs.worker import Worker
from sandbox.party.modelling import card_of, model_of, read_training, score_file
from tests.support.chance import NORMAL, near
from tests.support.runs import Town, brokers_running, found_town

FORM = """
sql: |
  SELECT coinsurance AS plan, doctor_visits AS visits, medical_spend AS spend
  FROM insurer.plans JOIN clinic.care USING (person_id, year)
learner: {kind: linear, clip: "4"}
features:
  - {column: plan, encoding: categories}
  - {column: visits, encoding: log, centre: "2"}
label: {column: spend, encoding: log, upper: "2000"}
held_out: 30
"""


WRONG_FORMS = [
    "features: []",
    FORM.replace("held_out: 30", "held_out: 99"),
    FORM + "pickle: yes\n",
    FORM.replace("sql:", "query:"),
]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = found_town(tmp_path_factory.mktemp("town") / "town", persons=200, total="5", per_job="2", measure="zcdp")
    yield found
    found.close()


def asked(town: Town, form: Path, **changes: Any) -> JobRequest:
    sql, training = read_training(form)
    return replace(town.request("train"), sql=sql, training=training, loss=parse_loss("zcdp", "2"), **changes)


@pytest.fixture(scope="module")
def trained(town: Town, tmp_path_factory: pytest.TempPathFactory) -> tuple[Release, Receipt]:
    form = tmp_path_factory.mktemp("form") / "spend.yaml"
    form.write_text(FORM)
    institute = town.clients["institute"]
    assert institute.check(asked(town, form))["decision"]["allowed"]
    job = institute.submit(asked(town, form))
    with brokers_running(town.clients["insurer"], town.clients["clinic"]):
        assert Worker(host=town.host).step()
    release, receipt = institute.release(str(job["id"]))
    assert isinstance(release, Release)
    return release, receipt


def test_the_card_says_what_was_trained_on_at_what_loss(town: Town, trained: tuple[Release, Receipt]) -> None:
    assert town.composed is not None
    card = card_of(*trained, town.composed)
    assert card["datasets"] == [{"dataset": read.dataset, "version": 1, "file": read.file_digest} for read in trained[1].grant.reads]
    assert card["loss"] == "rho 2"
    assert float(card["epsilon"]) > 8
    assert [metric["name"] for metric in card["metrics"]] == ["r2", "rmse"]
    assert near(SimpleNamespace(**card["persons"]), 200, NORMAL, also=20)
    assert card["predicts"]["column"] == "spend"


def test_the_file_runs_in_plain_onnxruntime_and_scores_rows_alike(trained: tuple[Release, Receipt], tmp_path: Path) -> None:
    found = model_of(trained[0])
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["visits", "plan"], [3, 25], ["", ""], [20, 0]])
    session = onnxruntime.InferenceSession(checked_onnx(found.model), providers=["CPUExecutionProvider"])
    plain = session.run(None, {"visits": np.array([[3.0], [np.nan], [20.0]]), "plan": np.array([[25], [-1], [0]])})[0]
    scored = np.array(list(score_file(found.model, path)))
    assert np.allclose(scored, plain)
    assert (scored > -1).all()


@pytest.mark.parametrize("cells", [[["visits"], [3]], [["visits", "plan"], ["many", 25]]])
def test_rows_that_the_model_cannot_read_are_refused_by_line(
    trained: tuple[Release, Receipt], tmp_path: Path, cells: list[list[Any]]
) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(cells)
    found = model_of(trained[0])
    with pytest.raises(Malformed, match="line 2"):
        list(score_file(found.model, path))


def test_a_column_that_is_not_to_be_learned_from_is_refused_with_its_name(town: Town, tmp_path: Path) -> None:
    form = tmp_path / "form.yaml"
    form.write_text(FORM.replace("coinsurance AS plan", "year AS plan"))
    with pytest.raises(PolicyRefused) as refused:
        town.clients["institute"].submit(asked(town, form, request_id="request-year"))
    assert any(finding["column"] == "insurer.plans.year" for finding in refused.value.findings if not finding["allowed"])


def test_an_aggregate_has_no_model(trained: tuple[Release, Receipt]) -> None:
    with pytest.raises(NotFound):
        model_of(replace(trained[0], model=None))


@pytest.mark.parametrize("text", WRONG_FORMS)
def test_forms_that_say_too_little_or_too_much_are_refused(tmp_path: Path, text: str) -> None:
    form = tmp_path / "form.yaml"
    form.write_text(text)
    with pytest.raises(Malformed):
        read_training(form)

"""A model over rows that stay at home, from the command that asks for it to the file that other tools run, and its replay."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from policies.agreement import LogIdentity
from policies.errors import PolicyRefused, Tampered
from policies.joint_documents import JointRelease
from policies.scoring import predicted
from sandbox.audit.joint_receipt import JointReceipt
from sandbox.audit.receipt import log_key
from sandbox.audit.replay import replay
from sandbox.cli import cli
from sandbox.party.exporting import export_log
from sandbox.party.modelling import card_of, model_of, read_training
from sandbox.party.verify import require_model
from tests.support.chance import NORMAL, near
from tests.support.pool import MODEL_SQL, TRAINING, teaching
from tests.support.pooled import PoolMarket, finish_without, open_pool, work_in_this_process
from tests.support.service import Service, running

FORM = """
learner: {kind: linear, clip: "8"}
features:
  - {column: days, encoding: scaled}
  - {column: region, encoding: categories}
  - {column: age_band, encoding: categories}
label: {column: amount, encoding: scaled, upper: "1500"}
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without a worker: tests run their own."""
    with running(tmp_path_factory.mktemp("pooled"), "sqlite") as found:
        yield found


@pytest.fixture(scope="module")
def market(alone: Service) -> PoolMarket:
    """Three insurers whose terms allow models and no totals."""
    return open_pool(alone, terms_of=teaching)


@contextmanager
def everybody_serves(market: PoolMarket, without: list[str]) -> Iterator[None]:
    ended = threading.Event()
    threads = [threading.Thread(target=part.serve, args=(ended.is_set,)) for part in market.parts(without)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def card(market: PoolMarket, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `sandbox model train --pool` prints, with children of their own for everybody's part."""
    form = tmp_path_factory.mktemp("form") / "amount.yaml"
    form.write_text(FORM)
    home = str(market.clients[market.analyst].home.folder)
    options = ["--agreement", market.agreement, "--purpose", "claims-statistics", "--rho", "2", "--pool", "pool.claims", "--json"]
    with market.working(), everybody_serves(market, []):
        done = CliRunner().invoke(cli, ["model", "train", "--home", home, *options, str(form)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_the_card_names_members_terms_fit_and_coefficients(market: PoolMarket, card: dict[str, Any]) -> None:
    assert [read["dataset"] for read in card["datasets"]] == [f"{name}.claims" for name in market.insurers]
    assert (card["pool"], card["key_holder"], card["noise"]) == ("pool.claims", market.notary, "two-sided")
    assert (card["loss"], card["metrics_of"]) == ("rho 2", "the noised sums that made the model")
    assert [(c["column"], c["category"]) for c in card["coefficients"]] == [
        ("", None),
        ("days", None),
        ("region", "south"),
        ("age_band", "40-64"),
        ("age_band", "65+"),
    ]
    days = card["coefficients"][1]
    assert near(SimpleNamespace(**days), 20, NORMAL), "amounts grow by 20 a day"
    assert near(SimpleNamespace(**card["persons"]), 600, NORMAL)


def test_the_file_runs_in_plain_onnxruntime_as_the_law_says_the_model_means(
    market: PoolMarket, card: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "amount.onnx"
    home = str(market.clients[market.analyst].home.folder)
    shown = CliRunner().invoke(cli, ["model", "card", "--home", home, card["job"], "--onnx", str(file)], catch_exceptions=False)
    assert "age_band = 65+" in shown.stdout
    model = model_of(market.clients[market.analyst].release(card["job"])[0]).model
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    rows = {"days": [[3.0], [np.nan], [99.0]], "region": [["north"], ["south"], ["nowhere"]], "age_band": [["65+"], [""], ["0-39"]]}
    scored = session.run(None, {name: np.array(cells, object if name != "days" else np.float64) for name, cells in rows.items()})[0]
    own = [predicted(model, {name: cells[index][0] for name, cells in rows.items()}) for index in range(3)]
    assert np.allclose(np.array(scored).reshape(-1), np.array(own).reshape(-1), rtol=1e-4)


def test_the_log_replays_and_holds_nothing_of_the_model(market: PoolMarket, card: dict[str, Any], tmp_path: Path) -> None:
    client = market.clients[market.analyst]
    log = client.service()["log"]
    identity = LogIdentity(origin=log["origin"], key=log["key"])
    export_log(client, tmp_path / "export", identity)
    verdict = replay(lambda path: (tmp_path / "export" / path).read_bytes(), log_key(identity))
    assert verdict.mismatches == ()
    assert verdict.promises["releases"] in ("ok", "unopened")
    header = next(h for h in market.service.headers() if h["kind"] == "joint_released" and h["ids"]["job"] == card["job"])
    assert set(header["ids"]) == {"job", "agreement", "grant", "manifest", "total", "statement", "sealed"}


def test_a_key_holder_that_seals_another_kind_of_model_is_noticed(market: PoolMarket, card: dict[str, Any]) -> None:
    client = market.clients[market.analyst]
    release, receipt = client.release(card["job"])
    assert isinstance(release, JointRelease)
    assert isinstance(receipt, JointReceipt)
    assert release.model is not None
    agreement, model = client.signed_agreement(market.agreement), release.model.model
    assert card_of(release, receipt, agreement)["model_digest"] == card["model_digest"]
    wider = tuple(replace(f, upper=10**6) if f.column == "days" else f for f in model.features)
    for forged in (
        replace(release, model=None),
        replace(release, model=replace(release.model, model=replace(model, features=wider))),
        replace(release, model=replace(release.model, model=replace(model, label=None, link="logistic"))),
    ):
        with pytest.raises(Tampered) as noticed:
            require_model(forged, receipt.grant, agreement)
        assert noticed.value.code == "release-model"


def test_terms_that_allow_totals_only_refuse_the_model_and_the_other_way_round(market: PoolMarket) -> None:
    with pytest.raises(PolicyRefused):
        market.submit(sql="SELECT AVG(amount) AS mean FROM pool.claims")
    swapped = replace(TRAINING, features=(replace(TRAINING.features[0], column="amount"),), label=replace(TRAINING.features[0]))
    with pytest.raises(PolicyRefused) as refused:
        market.submit(sql="SELECT days, amount FROM pool.claims", training=swapped)
    denied = {finding["column"] for finding in refused.value.findings if not finding["allowed"]}
    assert denied == {f"{name}.claims.days" for name in market.insurers}


def test_without_a_contributor_that_drops_out_there_is_a_model_of_the_others(
    market: PoolMarket, card: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    work_in_this_process(monkeypatch)
    job, gone = market.submit(sql=MODEL_SQL, training=TRAINING, rho="2"), market.insurers[2]
    assert finish_without(market, job, gone)["state"] == "released"
    release, _ = market.clients[market.analyst].release(job)
    assert isinstance(release, JointRelease)
    assert release.contributors == market.insurers[:2]
    assert release.model is not None


def test_a_form_names_its_rows_by_a_query_or_by_a_pool(tmp_path: Path) -> None:
    form = tmp_path / "form.yaml"
    form.write_text(FORM)
    assert read_training(form, "pool.claims")[0] == "SELECT days, region, age_band, amount FROM pool.claims"

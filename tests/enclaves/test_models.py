"""A trained model leaves as integers and as an ONNX file that predicts the same, and files from elsewhere are held to a little."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import enclaves.learn.release
from enclaves.kit.appraisal import release_info
from enclaves.kit.artefact import MAX_BYTES, checked_onnx, onnx_bytes, require_agreement, require_modest, score_onnx
from enclaves.learn.fit import predict
from enclaves.learn.rows import encode_rows
from enclaves.run import run
from policies.canonical import parse_json
from policies.codec import decode
from policies.errors import Malformed, Tampered
from policies.grant import grant_digest
from policies.model import WEIGHT_BITS, Model, Tree
from policies.privacy import parse_loss
from policies.scoring import predicted
from policies.statement import Release
from policies.task import Task
from policies.training import Encoded, Input, Linear, Logistic, Means, Training, Trees
from tests.support.runs import Bench, bench

NUMBER = Encoded(column="number", encoding="scaled", decimals=1, lower=-50, upper=100, centre=0)
AMOUNT = Encoded(column="amount", encoding="log", decimals=2, lower=0, upper=100_000, centre=500)
PLACE = Encoded(column="place", encoding="categories", categories=(10, 20, 30))
NAME = Encoded(column="name", encoding="categories", categories=("a", "b"))
FEATURES = (NUMBER, AMOUNT, PLACE, NAME)
WIDTH = 6
ONE = 1 << WEIGHT_BITS


def weights(rows: int, width: int = WIDTH) -> tuple[tuple[int, ...], ...]:
    chance = np.random.default_rng(rows)
    return tuple(tuple(int(v) for v in chance.integers(-2 * ONE, 2 * ONE, width)) for _ in range(rows))


TREES = tuple(Tree(coordinates=(1 + i, 2, 3), thresholds=(10 * i, 512, 512), leaves=(ONE, -ONE, ONE // 3, i * ONE // 7)) for i in range(5))
VALUE = Encoded(column="y", encoding="scaled", decimals=2, lower=0, upper=1000, centre=500)
SPEND = Encoded(column="y", encoding="log", lower=0, upper=20_000, centre=60)
MODELS = {
    "linear": Model(link="identity", features=FEATURES, label=VALUE, weights=weights(1)),
    "log label": Model(link="identity", features=FEATURES, label=SPEND, weights=weights(1)),
    "logistic": Model(link="logistic", features=FEATURES, label=PLACE, weights=weights(1)),
    "softmax": Model(link="softmax", features=FEATURES, label=PLACE, weights=weights(3)),
    "k-means": Model(link="nearest", features=FEATURES, label=None, weights=weights(4, WIDTH - 1)),
    "trees": Model(link="logistic", features=FEATURES, label=PLACE, trees=TREES),
    "trees of numbers": Model(link="identity", features=FEATURES, label=VALUE, trees=TREES),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_file_predicts_what_the_model_predicts(name: str) -> None:
    data = onnx_bytes(MODELS[name])
    assert data == onnx_bytes(MODELS[name])
    require_agreement(MODELS[name], data)


@pytest.mark.parametrize("name", ["linear", "logistic", "trees", "k-means"])
def test_a_file_of_another_model_is_noticed(name: str) -> None:
    model = MODELS[name]
    other = (
        replace(model, trees=tuple(replace(t, leaves=t.leaves[::-1]) for t in model.trees))
        if model.trees
        else replace(model, weights=tuple(tuple(-v for v in row) for row in model.weights))
    )
    with pytest.raises(Tampered):
        require_agreement(model, onnx_bytes(other))


def test_missing_numbers_and_unknown_categories_score_as_the_centre_and_as_none() -> None:
    data = onnx_bytes(MODELS["logistic"])
    at_centre = {"number": [0.0], "amount": [5.0], "place": [10], "name": ["a"]}
    nothing = {"number": [float("nan")], "amount": [float("nan")], "place": [77], "name": ["zz"]}
    assert np.allclose(score_onnx(data, at_centre), score_onnx(data, nothing))


def test_columns_that_the_model_does_not_take_are_refused() -> None:
    data = onnx_bytes(MODELS["logistic"])
    for wrong in (
        {},
        {"number": ["x"], "amount": [5.0], "place": [10], "name": ["a"]},
        {"number": [1.0, 2.0], "amount": [5.0], "place": [1], "name": ["a"]},
    ):
        with pytest.raises(Malformed) as refused:
            score_onnx(data, wrong)
        assert refused.value.code == "onnx"


# Files from elsewhere


def changed(change: Any) -> bytes:
    model = onnx.ModelProto.FromString(onnx_bytes(MODELS["linear"]))
    change(model)
    return bytes(model.SerializeToString())


def _external(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret"


def _inner_graph(model: Any) -> None:
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node[0].attribute.append(helper.make_attribute("then_branch", inner))


HOSTILE = {
    "an operator of its own": lambda m: m.graph.node.append(helper.make_node("Shell", ["number"], ["x"], domain="evil")),
    "an operator that is not needed": lambda m: m.graph.node.append(helper.make_node("Loop", [], ["x"])),
    "a known operator of another domain": lambda m: m.graph.node.append(helper.make_node("Add", [], ["x"], domain="evil")),
    "data outside of the file": _external,
    "a graph inside a node": _inner_graph,
    "a function": lambda m: m.functions.append(helper.make_function("evil", "f", [], [], [], [helper.make_opsetid("", 17)])),
    "too many nodes": lambda m: m.graph.node.extend([helper.make_node("Add", ["a", "b"], ["c"])] * 20_001),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_ask_for_more_are_refused(name: str) -> None:
    with pytest.raises(Malformed) as refused:
        require_modest(changed(HOSTILE[name]))
    assert refused.value.code == "onnx"


@pytest.mark.parametrize("data", [b"", b"\x80\x04\x95pickle", b"\x00" * 100, b"{}", b"\xff" * (MAX_BYTES + 1)])
def test_what_is_no_onnx_file_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        score_onnx(data, {})


# A run


SQL = (
    "SELECT p.coinsurance AS plan, p.medical_spend AS spend, c.doctor_visits AS visits, c.admissions > 0 AS admitted "
    "FROM insurer.plans AS p JOIN clinic.care AS c USING (person_id, year) WHERE year <= 2"
)
CHOSEN = (Input(column="plan", encoding="categories"), Input(column="visits", encoding="log"))
SPENT = Input(column="spend", encoding="log", upper="1000")
ADMITTED = Input(column="admitted", encoding="categories")
TRAININGS = {
    "logistic": Training(learner=Logistic(steps=2), features=(*CHOSEN, SPENT), label=ADMITTED, held_out=30),
    "trees": Training(learner=Trees(rounds=2, depth=2), features=(*CHOSEN, SPENT), label=ADMITTED, held_out=30),
    "linear": Training(learner=Linear(), features=(*CHOSEN, ADMITTED), label=SPENT, held_out=30),
    "k-means": Training(learner=Means(clusters=2), features=(*CHOSEN, SPENT, ADMITTED)),
}


def laid(name: str, minimum_group: int = 1) -> Bench:
    return bench(sql=SQL, training=TRAININGS[name], loss=parse_loss("zcdp", "1"), minimum_group=minimum_group)


def released(found: Bench) -> Release:
    statement, sealed = run(found.grant, found.agreement, found.identity, found.inputs(), memory_mib=256)
    assert statement.statement.withheld is None
    assert sealed is not None
    plain = found.consumer.open(sealed, release_info(grant_digest(found.grant)))
    return decode(Release, parse_json(plain[4 : 4 + int.from_bytes(plain[:4], "big")]))


@pytest.mark.parametrize("name", TRAININGS)
def test_a_run_releases_a_model_with_its_file_and_metrics(name: str) -> None:
    found = released(laid(name))
    assert found.model is not None
    assert [figure.name for figure in found.cells[0].figures] == ["people"]
    checked_onnx(found.model.model)
    assert [metric.name for metric in found.model.metrics] == {"linear": ["r2", "rmse"], "k-means": []}.get(name, ["auc"])


def test_below_the_minimum_group_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enclaves.learn.release, "learn", lambda *args: pytest.fail("trained"))
    found = released(laid("logistic", minimum_group=10_000))
    assert found.cells[0].suppressed
    assert found.model is None


def test_a_grant_with_less_noise_or_more_draws_is_withheld() -> None:
    found = laid("logistic")
    for wrong in ({"draws": 3}, {"scale": 1}, {"amount": 10**9}):
        statistics = tuple(replace(s, **wrong) if s.name == "gradients" else s for s in found.grant.statistics)
        statement, _ = run(replace(found.grant, statistics=statistics), found.agreement, found.identity, found.inputs(), memory_mib=256)
        assert statement.statement.withheld == "grant-mismatch"


def test_what_a_run_reads_are_the_rows_that_the_query_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the plain tables: 40 people with two years each, cut, transformed and grouped by hand."""
    seen: list[Any] = []
    original = enclaves.learn.release.read_rows
    monkeypatch.setattr(enclaves.learn.release, "read_rows", lambda *args: seen.append(original(*args)) or seen[-1])
    found = laid("logistic")
    released(found)
    rows, held = seen[0]
    care, plans = (found.tables[name].to_pydict() for name in ("clinic.care", "insurer.plans"))
    known = sum(value is not None for value in care["admissions"])
    assert len(rows) == known
    assert int(rows.y.sum()) == sum(value is not None and value > 0 for value in care["admissions"])
    spend = {
        (p, y): round((np.log1p(min(s, 1000.0)) - np.log1p(1000) / 2) / (np.log1p(1000) / 2) * 1024)
        for p, y, s in zip(plans["person_id"], plans["year"], plans["medical_spend"], strict=True)
    }
    wanted = sorted(spend[p, y] for p, y, a in zip(care["person_id"], care["year"], care["admissions"], strict=True) if a is not None)
    assert np.allclose(sorted(rows.z[:, -1].tolist()), wanted, atol=2)
    assert all(len(set(held[rows.persons == person].tolist())) == 1 for person in np.unique(rows.persons))


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": ()},
        {"weights": weights(1, WIDTH - 1)},
        {"weights": ((2**41,) * WIDTH,)},
        {"trees": TREES},
        {"weights": (), "trees": (replace(TREES[0], coordinates=(1, 2, WIDTH)),)},
    ],
)
def test_models_that_contradict_themselves_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        replace(MODELS["linear"], **wrong)


@pytest.mark.parametrize("name", MODELS)
def test_what_the_enclave_measures_is_what_the_model_means(name: str) -> None:
    """Predictions of the array code inside, against the plain arithmetic of the law."""
    model = MODELS[name]
    chance = np.random.default_rng(2)
    numbers, amounts = chance.integers(-50, 101, 50), chance.integers(0, 100_001, 50)
    places, names = chance.integers(-1, 3, 50), chance.integers(-1, 2, 50)
    unlabelled = Task(learner=Means(clusters=2), features=FEATURES, label=None, held_out=0, rows=1)
    coded = {"number": numbers, "amount": amounts, "place": places, "name": names}
    inside = predict(model, encode_rows(coded, np.arange(50), unlabelled).z).reshape(50, -1)
    if model.link == "identity" and model.label is not None:
        inside = inside * model.label.reach + model.label.offset
        inside = np.expm1(inside) if model.label.encoding == "log" else inside
    for index in range(50):
        row = {
            "number": numbers[index] / 10,
            "amount": amounts[index] / 100,
            "place": None if places[index] < 0 else (10, 20, 30)[places[index]],
            "name": None if names[index] < 0 else "ab"[names[index]],
        }
        assert np.allclose(inside[index], predicted(model, row))


def test_predictions_of_the_model_use_its_own_integers() -> None:
    z = np.array([[1024, 0, 0, 0, 0, 0]], np.int16)
    assert predict(MODELS["linear"], z)[0] == MODELS["linear"].weights[0][0] / ONE

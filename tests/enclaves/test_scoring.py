"""Scores inside an enclave are what the model means, whatever the rows; models without sense are not used; probing is told from life."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.kit.offered import model_table
from enclaves.learn.probing import FEWEST_ROWS, probing_of
from enclaves.learn.rows import MISSING
from enclaves.learn.service import Unscored, encoded_rows, read_model, rounded, scores_of
from policies.canonical import canonical
from policies.codec import encode
from policies.errors import Malformed
from policies.model import Model, Tree
from policies.scoring import predicted
from policies.service import MODEL_COLUMN, PART_CHARACTERS, PART_COLUMN, copied_by, model_declaration, model_parts, parse_model
from policies.training import Encoded
from tests.support.scoring import one

FEATURES = (
    Encoded(column="plan", encoding="categories", categories=("a", "b", "c")),
    Encoded(column="spend", encoding="log", decimals=2, lower=0, upper=200_000, centre=1_000),
    Encoded(column="age", encoding="scaled", lower=18, upper=90, centre=54),
)
NUMBER = Encoded(column="y", encoding="log", decimals=2, lower=0, upper=90_000, centre=500)
BOTH = Encoded(column="y", encoding="categories", categories=(0, 1))
THREE = Encoded(column="y", encoding="categories", categories=(0, 1, 2))
ROW = (one(0.1), one(-0.5), one(0.25), one(1.5), one(-1.0))
TREE = Tree(coordinates=(3, 1, 4), thresholds=(100, 512, -200), leaves=(one(-1), one(0.5), one(0.25), one(2)))

MODELS = {
    "number": Model(link="identity", features=FEATURES, label=NUMBER, weights=(ROW,)),
    "chance": Model(link="logistic", features=FEATURES, label=BOTH, weights=(ROW,)),
    "chances": Model(link="softmax", features=FEATURES, label=THREE, weights=(ROW, ROW[::-1], (one(0.5), *ROW[1:]))),
    "trees": Model(link="logistic", features=FEATURES, label=BOTH, trees=(TREE, TREE)),
    "cluster": Model(link="nearest", features=FEATURES, label=None, weights=(ROW[1:], ROW[:4])),
}

CELLS = st.tuples(
    st.sampled_from(["a", "b", "c", "d", None]),
    st.one_of(st.none(), st.integers(-1_000, 30_000_000)),
    st.one_of(st.none(), st.integers(-50, 300)),
)


@pytest.mark.parametrize("name", MODELS)
@given(rows=st.lists(CELLS, min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_scores_are_what_the_model_means(name: str, rows: list[tuple[Any, ...]]) -> None:
    model = MODELS[name]
    codes = {"a": 0, "b": 1, "c": 2}
    columns = {
        "plan": np.array([codes.get(plan, -1) for plan, _, _ in rows]),
        "spend": np.array([MISSING if spend is None else spend for _, spend, _ in rows]),
        "age": np.array([MISSING if age is None else age for _, _, age in rows]),
    }
    found = scores_of(model, encoded_rows(columns, {"plan": 0, "spend": 3, "age": 0}, model.features))
    for (plan, spend, age), scored in zip(rows, found, strict=True):
        meant = predicted(model, {"plan": plan, "spend": None if spend is None else spend / 1000, "age": age})
        assert np.allclose(scored, meant, rtol=1e-6, atol=1e-6)


def test_numbers_are_rounded_and_zero_has_no_sign() -> None:
    assert rounded(np.array([[0.125, -0.004], [2.5, 1e15]]), 2) == [("0.12", "0.00"), ("2.50", "1000000000000000.00")]
    assert rounded(np.array([[3.0]]), 0) == [("3",)]


def test_a_score_without_bound_stays_a_number() -> None:
    steep = replace(MODELS["number"], weights=((2**40, 0, 0, 0, 0),))
    assert scores_of(steep, encoded_rows({"plan": np.array([0]), "spend": np.array([0]), "age": np.array([0])}, dict.fromkeys(
        ("plan", "spend", "age"), 0), FEATURES)).tolist() == [[1e15]]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_model_in_parts_is_read_back_whatever_the_order_of_its_parts(name: str) -> None:
    model = MODELS[name]
    text = "".join(model_parts(model))
    table = pa.table({PART_COLUMN: pa.array([1, 0], pa.int64()), MODEL_COLUMN: [text[50:], text[:50]]})
    assert read_model(table) == model
    assert parse_model(model_parts(model)) == model


def test_a_large_model_has_several_parts() -> None:
    leaves = tuple(one(index / 64) for index in range(64))
    tree = Tree(coordinates=tuple(1 + index % 4 for index in range(63)), thresholds=(100,) * 63, leaves=leaves)
    large = Model(link="logistic", features=FEATURES, label=BOTH, trees=(tree,) * 200)
    parts = model_parts(large)
    assert len(parts) > 1
    assert max(map(len, parts)) <= PART_CHARACTERS
    assert read_model(model_table(large)) == large


SPOILED: dict[str, dict[str, Any]] = {
    "no reach": {"features": (replace(FEATURES[1], lower=1_000, upper=1_000), *FEATURES[2:])},
    "centre outside": {"features": (FEATURES[0], FEATURES[1], replace(FEATURES[2], centre=17))},
    "logarithm of less than nothing": {"features": (FEATURES[0], replace(FEATURES[1], lower=-5), FEATURES[2])},
    "one category": {"features": (replace(FEATURES[0], categories=("a",)), *FEATURES[1:])},
    "categories of two types": {"features": (replace(FEATURES[0], categories=("a", 1, "c")), *FEATURES[1:])},
    "a feature twice": {"features": (FEATURES[0], FEATURES[2], FEATURES[2])},
    "too many outputs": {"weights": (ROW, ROW)},
    "no label": {"label": None},
    "a link of another kind": {"link": "identity"},
}


@pytest.mark.parametrize("name", SPOILED)
def test_models_without_sense_are_not_used(name: str) -> None:
    document = encode(MODELS["chance"]) | {key: encode(value) for key, value in SPOILED[name].items()}
    table = pa.table({PART_COLUMN: pa.array([0], pa.int64()), MODEL_COLUMN: [canonical(document).decode()]})
    with pytest.raises(Unscored) as refused:
        read_model(table)
    assert refused.value.code == "model-unreadable"


@pytest.mark.parametrize("text", ["", "{}", "\x08\x08\x12\x07sandbox", '{"kind":"model/1"}', "[" * 100_000, "null", None])
def test_what_is_no_model_is_not_parsed_further(text: str | None) -> None:
    """An ONNX file, or whatever else an owner encrypts, is text that no JSON of a model begins with."""
    with pytest.raises(Unscored):
        read_model(pa.table({PART_COLUMN: pa.array([0], pa.int64()), MODEL_COLUMN: pa.array([text], pa.string())}))


def test_a_model_beyond_the_size_is_refused() -> None:
    with pytest.raises(Malformed, match="at most"):
        parse_model(["x" * (4 << 20), "x"])


def test_the_declaration_of_a_model_opens_nothing_to_people() -> None:
    declared = model_declaration("insurer.risk", "Risk")
    assert declared.public
    assert [column.domain for column in declared.columns] == [None, None]


def _life(rows: int, seed: int) -> Any:
    """Rows as people are: correlated, skewed, some features continuous."""
    draw = np.random.default_rng(seed)
    age = draw.integers(18, 90, rows)
    plan = draw.choice([0, 25, 50, 95], rows, p=[0.4, 0.3, 0.2, 0.1])
    visits = np.minimum(20, draw.poisson(1 + age / 30))
    chronic = (draw.random(rows) < age / 200).astype(int)
    spend = np.rint(draw.lognormal(4 + chronic, 1.2)).astype(int)
    return np.column_stack([age, plan, visits, chronic, spend])


@pytest.mark.parametrize("rows", [8, 40, 300, 3_000])
@pytest.mark.parametrize("seed", range(5))
def test_rows_met_in_life_are_not_suspected(rows: int, seed: int) -> None:
    assert probing_of(_life(rows, seed)) == "none"
    narrow = _life(rows, seed)[:, [1, 2, 3]]
    assert probing_of(narrow) == ("few" if len(np.unique(narrow, axis=0)) < FEWEST_ROWS else "none")


BASE = [40, 25, 3, 0, 200]


def _one_at_a_time() -> Any:
    return np.array([BASE] + [[*BASE[:at], BASE[at] + step, *BASE[at + 1 :]] for at in range(5) for step in range(1, 6)])


def _grid() -> Any:
    return np.array([[age, plan, visits, 0, 200] for age in range(20, 80, 10) for plan in (0, 25, 50) for visits in range(4)])


def _lines() -> Any:
    """From many rows as in life, single features moved to one other value each."""
    starts = _life(60, 9)
    moved = starts.copy()
    moved[np.arange(60), np.arange(60) % 5] += 7
    return np.concatenate([starts, moved])


@pytest.mark.parametrize("rows", [_one_at_a_time(), _grid(), _lines()], ids=["one feature at a time", "grid", "lines"])
def test_rows_made_to_copy_a_model_are_suspected_in_any_order(rows: Any) -> None:
    assert probing_of(rows) == "suspected"
    order = list(range(len(rows)))
    random.Random(3).shuffle(order)
    assert probing_of(rows[order]) == "suspected"


def test_of_a_few_rows_it_is_said_that_they_are_few() -> None:
    assert probing_of(_one_at_a_time()[: FEWEST_ROWS - 1]) == "few"
    assert probing_of(np.zeros((0, 3), np.int64)) == "few"
    assert probing_of(np.zeros((500, 3), np.int64)) == "few"
    assert probing_of(np.arange(500).reshape(-1, 1)) == "none"


def test_a_grid_over_fifty_small_versions_is_told_of_fifty_times_and_fifty_honest_batches_never() -> None:
    """No version knows of another: the owner counts the words."""
    grid = np.array([[age, plan, visits, 0, 200] for age in range(20, 70, 5) for plan in range(7) for visits in range(5)])
    cuts = np.array_split(np.random.default_rng(11).permutation(grid), 50)
    assert {probing_of(cut) for cut in cuts} == {"few"}
    assert [probing_of(_life(150, seed)) for seed in range(50)] == ["none"] * 50


def _rows_of_z(draw: Any, count: int, width: int) -> Any:
    return np.column_stack([np.full(count, 1024), draw.integers(-1024, 1025, (count, width - 1))]).astype(np.int16)


@pytest.mark.parametrize("name", ["number", "chance", "chances"])
def test_as_many_rows_as_are_said_to_be_enough_copy_a_model_and_one_less_does_not(name: str) -> None:
    """Equations on rows of the asker's choice: below that number a model with the same answers differs elsewhere."""
    model = MODELS[name]
    model = replace(model, label=replace(NUMBER, encoding="scaled", lower=-90_000)) if name == "number" else model
    enough = copied_by(model)
    assert enough == model.width
    draw = np.random.default_rng(5)
    z, true = _rows_of_z(draw, enough, enough) / 1024, np.array(model.weights, float) / 2**20
    answers = scores_of(model, (z * 1024).astype(np.int16))
    if model.link == "identity":
        assert model.label is not None
        linear, wanted = (answers - model.label.offset) / model.label.reach, true.T
    elif model.link == "logistic":
        linear, wanted = np.log(answers / (1 - answers)), true.T
    else:  # probabilities know weights up to what is common to all classes
        linear, wanted = np.log(answers[:, 1:] / answers[:, :1]), (true[1:] - true[0]).T
    assert np.allclose(np.linalg.solve(z, linear), wanted, atol=1e-3)
    free = np.linalg.svd(z[:-1])[2][-1]  # no answer to the first rows moves along it
    assert np.allclose(z[:-1] @ free, 0, atol=1e-9)
    assert abs(z[-1] @ free) > 1e-3


def test_trees_and_clusters_say_what_is_known_of_them() -> None:
    assert copied_by(MODELS["trees"]) == 1 + 2 * 3
    assert copied_by(MODELS["cluster"]) is None

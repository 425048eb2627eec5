"""A scoring service: what a call asks, and how a model is a dataset that only enclaves read.

A model is published as a public table of text parts (`model_declaration`): encrypted at home like every dataset, its keys released by its
owner's broker to an attested enclave, its one column of text open to nothing but the operation `score`. A call scores rows of the asker's
own, whose columns go nowhere but into the model, and the scores go to the asker alone; so no privacy loss is charged. What is metered are
rows, by the number that the call states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from policies.canonical import canonical, parse_json
from policies.codec import decode, encode
from policies.declaration import Column, Declaration
from policies.errors import Malformed
from policies.model import Model
from policies.names import require_dataset, require_name
from policies.training import Encoded
from policies.typed_values import MAX_EXPRESSION_DECIMALS

MODEL_COLUMN = "model"
PART_COLUMN = "part"
PART_CHARACTERS = 60_000
MAX_MODEL_BYTES = 4 << 20
"""Longest canonical JSON of a model that an enclave parses."""

MAX_SCORED_ROWS = 50_000
"""Most rows of one call: their scores fit into a release."""

MAX_SCORE_DECIMALS = 6

Probing = Literal["none", "few", "suspected"]
"""All that anybody but the asker learns of the rows of a call: whether they look made to copy the model (`enclaves.learn.probing`), or are
too few for saying so. Who spreads probes over small versions is told `few` each time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """Which model scores the rows of a query.

    Attributes:
        model: dataset that holds the model.
        rows: most rows that the call has; so many are counted against the quota, however many there are.
        decimals: of the scores that are answered.
        by: the column of the query that tells its rows apart; it comes back beside each score. All others are features.
    """

    kind: Literal["scoring/1"] = "scoring/1"
    model: str
    rows: int
    decimals: int
    by: str

    def __post_init__(self) -> None:
        require_dataset(self.model, "model")
        require_name(self.by, "by")
        if not 1 <= self.rows <= MAX_SCORED_ROWS:
            raise Malformed(f"must lie between 1 and {MAX_SCORED_ROWS}", where="rows")
        if not 0 <= self.decimals <= MAX_SCORE_DECIMALS:
            raise Malformed(f"must lie between 0 and {MAX_SCORE_DECIMALS}", where="decimals")


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The answer for one row: its name, and the rounded prediction, one number or one for each class, as decimal strings."""

    row: int | str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What a call releases to its asker, in the order of the rows' names.

    Attributes:
        output: what a score is: `prediction`, `probability`, `probabilities` or `cluster`.
    """

    output: str
    scores: tuple[Score, ...]


def model_declaration(dataset: str, title: str) -> Declaration:
    """Return the declaration of a dataset that holds a model."""
    return Declaration(
        dataset=dataset,
        title=title,
        unit="",
        id_space="",
        rows_per_unit=1,
        unique_key=(PART_COLUMN,),
        columns=(Column(name=PART_COLUMN, type="integer"), Column(name=MODEL_COLUMN, type="text")),
        public=True,
    )


def holds_model(declaration: Declaration) -> bool:
    """Whether a dataset is declared as one that holds a model, whatever its title is."""
    return declaration == model_declaration(declaration.dataset, declaration.title)


def model_parts(model: Model) -> tuple[str, ...]:
    """Return a model as text of canonical JSON, in parts. Raises Malformed (code `model-too-large`)."""
    text = canonical(encode(model)).decode()
    if len(text.encode()) > MAX_MODEL_BYTES:
        raise Malformed(f"a model of more than {MAX_MODEL_BYTES} bytes cannot be offered", code="model-too-large")
    return tuple(text[at : at + PART_CHARACTERS] for at in range(0, len(text), PART_CHARACTERS))


def parse_model(parts: Sequence[str]) -> Model:
    """Return the model that parts of text spell, in their order.

    Nothing but numbers, names and lists is read, each held to the bounds of `policies.model`; there are no operators to run.

    Raises:
        Malformed: too long, not the JSON of a model, or a model without sense.
    """
    text = "".join(parts)
    if len(text) > MAX_MODEL_BYTES:
        raise Malformed(f"a model has at most {MAX_MODEL_BYTES} bytes", code="model-too-large")
    model = decode(Model, parse_json(text.encode(), limit=MAX_MODEL_BYTES))
    require_usable(model)
    return model


def copied_by(model: Model) -> int | None:
    """Return how many rows, well chosen and answered without rounding, are enough to copy a model; None for clusters.

    Once the link is undone, answers are linear in the weights, or of trees whose splits are known in the leaves' values: so many equations
    solve for them (Tramer et al. 2016). With fewer, models that differ elsewhere give the same answers.
    """
    if model.link == "nearest":
        return None
    return 1 + sum(len(tree.leaves) - 1 for tree in model.trees) if model.trees else model.width


def require_usable(model: Model) -> None:
    """Raise Malformed for a model whose arithmetic has no sense: features without reach, too few or too many outputs for its link."""
    names = [feature.column for feature in model.features]
    if not names or len(set(names)) != len(names):
        raise Malformed("needs features, each once", where="features")
    for feature in (*model.features, *([model.label] if model.label is not None else [])):
        _require_sane(feature)
    outputs = 1 if model.trees else len(model.weights)
    number = model.label is not None and model.label.encoding != "categories"
    fits = {
        "identity": number and outputs == 1,
        "logistic": model.label is not None and outputs == 1,
        "softmax": model.label is not None and not model.trees and outputs > 2,
        "nearest": not model.trees and outputs >= 2,
    }
    if not fits[model.link]:
        raise Malformed(f"{outputs} outputs do not fit `{model.link}`", where="link")


def _require_sane(item: Encoded) -> None:
    require_name(item.column, "column")
    if item.encoding == "categories":
        kinds = {type(category) for category in item.categories}
        if len(set(item.categories)) != len(item.categories) or len(item.categories) < 2 or len(kinds) != 1:
            raise Malformed("needs distinct categories of one type", where=item.column)
        return
    bounded = item.lower <= item.centre <= item.upper and item.lower < item.upper and 0 <= item.decimals <= MAX_EXPRESSION_DECIMALS
    if not bounded or (item.encoding == "log" and item.lower < 0):
        raise Malformed("needs bounds around its centre, not negative under `log`", where=item.column)

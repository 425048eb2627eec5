"""A market with a scoring service: the insurer owns a model, the institute has rows of its own, the clinic has rows of its own too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa

from policies.agreement import Agreement, ColumnTerm, Terms
from policies.declaration import Column, Declaration
from policies.model import WEIGHT_BITS, Model
from policies.privacy import Loss
from policies.service import MODEL_COLUMN, Scoring, model_declaration
from policies.training import Encoded
from tests.support import terms

MODEL = "insurer.risk"
PEOPLE = "institute.people"
SQL = "SELECT person_id AS who, plan, visits FROM institute.people"
SCORING = Scoring(model=MODEL, rows=50, decimals=3, by="who")
NOTHING = Loss(amount=0)


def one(value: float) -> int:
    """A real number as a weight."""
    return round(value * (1 << WEIGHT_BITS))


def risk_model() -> Model:
    """Chance of an admission by plan (one of three) and visits (0 to 20, by log)."""
    return Model(
        link="logistic",
        features=(
            Encoded(column="plan", encoding="categories", categories=(0, 25, 95)),
            Encoded(column="visits", encoding="log", lower=0, upper=20, centre=2),
        ),
        label=Encoded(column="admitted", encoding="categories", categories=(0, 1)),
        weights=((one(-1.5), one(0.4), one(-0.7), one(1.25)),),
    )


def people_declaration(dataset: str = PEOPLE) -> Declaration:
    """Rows of the asker's own: several for one person."""
    return Declaration(
        dataset=dataset,
        title="People to score",
        unit="person_id",
        id_space="own",
        rows_per_unit=1,
        unique_key=("person_id",),
        columns=(
            Column(name="person_id", type="integer"),
            Column(name="plan", type="integer", domain=(0, 25, 95)),
            Column(name="visits", type="integer", lower="0", upper="20", nullable=True),
        ),
    )


def people_table(rows: list[tuple[int, int, int | None]]) -> pa.Table:
    """Rows of (person, plan, visits)."""
    persons, plans, visits = zip(*rows, strict=True)
    kinds = pa.schema([("person_id", pa.int64()), ("plan", pa.int64()), ("visits", pa.int64())])
    return pa.table({"person_id": persons, "plan": plans, "visits": visits}, schema=kinds)


def model_terms(**overrides: Any) -> Terms:
    """The owner lets the institute, and the clinic, have rows scored."""
    own = {
        "dataset": MODEL,
        "assignees": ("institute", "clinic"),
        "recipients": ("institute", "clinic"),
        "columns": (ColumnTerm(column=MODEL_COLUMN, operations=("score",)),),
        "minimum_group": 1,
    }
    return terms.terms_insurer(**{**own, **overrides})


def people_terms(**overrides: Any) -> Terms:
    """The institute's terms on its own rows: they are features, and name themselves."""
    own = {
        "dataset": PEOPLE,
        "assignees": ("institute", "clinic"),
        "recipients": ("institute", "clinic"),
        "columns": tuple(ColumnTerm(column=name, operations=("feature", "filter")) for name in ("person_id", "plan", "visits")),
        "minimum_group": 1,
    }
    return terms.terms_insurer(**{**own, **overrides})


ROLES: dict[str, tuple[Any, ...]] = {
    "insurer": ("provider",),
    "clinic": ("consumer",),
    "institute": ("provider", "consumer"),
    "auditor": ("auditor",),
}


def market(**model: Any) -> Agreement:
    """The agreement, with changes to the terms of the model."""
    return terms.agreement(
        parties=tuple(terms.party(name, *roles) for name, roles in ROLES.items()),
        declarations=(model_declaration(MODEL, "Risk of admission"), people_declaration()),
        terms=(model_terms(**model), people_terms()),
    )


def call(**changes: Any) -> Scoring:
    """A call of the service."""
    return replace(SCORING, **changes)

"""A training run's part of the release: rows from the locked database, the model, its metrics and its ONNX file, checked against itself."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from enclaves.kit.artefact import onnx_bytes, score_onnx
from enclaves.kit.expressions import Fragment, expression_sql, joined, listed
from enclaves.kit.relations import rows_of
from enclaves.kit.tables import Connection, columns_of
from enclaves.learn.fit import predict, train
from enclaves.learn.rows import MISSING, Array, Rows, encode_rows
from policies.canonical import digest_bytes
from policies.declaration import Declaration
from policies.grant import Grant
from policies.model import MAX_TEXT, Model, ModelRelease
from policies.schedule import task_of
from policies.shape import shape
from policies.training import Encoded, Means, Task

PROBES = 256
AGREED = 0.98
"""Part of the probes on which both ways of predicting must agree; a value on the border of two fixed-point steps may fall either way."""

TOLERANCE = 1e-5


class Disagreement(Exception):
    """The ONNX file predicts something else than the model that it was made from."""


def learn(grant: Grant, declarations: Mapping[str, Declaration], connection: Connection, loaded: Mapping[str, str]) -> ModelRelease:
    """Return the model that a grant's training asks for.

    Args:
        connection: a database whose tables, named by `loaded`, hold at most the declared rows of every unit.

    Raises:
        LossExceeded: training costs more than granted.
        Disagreement: the ONNX file is not the model.
    """
    task = task_of(grant.plan, shape(grant.plan.source, declarations))
    rows, held = read_rows(grant, task, declarations, connection, loaded)
    model, metrics = train(rows, held, task, grant.statistics)
    data = onnx_bytes(model)
    require_agreement(model, data)
    text = base64.b64encode(data).decode()
    parts = tuple(text[start : start + MAX_TEXT] for start in range(0, len(text), MAX_TEXT))
    return ModelRelease(model=model, metrics=metrics, onnx=parts, onnx_digest=digest_bytes(data))


def read_rows(
    grant: Grant, task: Task, declarations: Mapping[str, Declaration], connection: Connection, loaded: Mapping[str, str]
) -> tuple[Rows, Array]:
    """Return the encoded rows of a plan, and which of them belong to persons who are held out.

    Who is held out follows from a hash of the person's id alone, so nobody's presence moves anybody else to the other side.
    """
    plan = grant.plan
    source = rows_of(plan.source, declarations, loaded, (f"r{index}" for index in itertools.count()))
    encodings = {item.column: item for item in (*task.features, *([task.label] if task.label else []))}
    inputs = [
        joined(f"{{}} AS i{index}", _input(encodings[item.name], expression_sql(item.expression, source.columns)))
        for index, item in enumerate(plan.inputs)
    ]
    where = Fragment(sql="") if plan.where is None else joined(" WHERE {}", expression_sql(plan.where, source.columns))
    found = columns_of(
        connection,
        joined(
            f"SELECT dense_rank() OVER (ORDER BY {source.unit}) AS p, (hash({source.unit}) % 100)::BIGINT AS h, {{}} FROM {{}}{{}}",  # noqa: S608
            listed(", ", inputs),
            source.source,
            where,
        ),
    )
    columns = {item.name: found[f"i{index}"] for index, item in enumerate(plan.inputs)}
    label = task.label.column if task.label else None
    rows = encode_rows(columns, found["p"], task)
    known = np.ones(len(found["p"]), bool)
    if label is not None:
        known = columns[label] >= 0 if task.classes else columns[label] != MISSING
    ids, first = np.unique(found["p"][known], return_index=True)
    side = found["h"][known][first] < task.held_out
    return rows, np.asarray(side[rows.persons]) if len(ids) else np.zeros(0, bool)


def _input(item: Encoded, value: Fragment) -> Fragment:
    """An input as a 64-bit integer: the index of a category or -1, a number or `MISSING`."""
    if item.encoding != "categories":
        return joined("coalesce(CAST({} AS BIGINT), {})", value, Fragment(sql="CAST(? AS BIGINT)", parameters=(MISSING,)))
    kind = "VARCHAR" if isinstance(item.categories[0], str) else "BIGINT"
    cases = [Fragment(sql=f"WHEN CAST(? AS {kind}) THEN {index}", parameters=(name,)) for index, name in enumerate(item.categories)]
    return joined(f"CASE CAST({{}} AS {kind}) {{}} ELSE -1 END", value, listed(" ", cases))


def require_agreement(model: Model, data: bytes) -> None:
    """Raise Disagreement unless an ONNX file predicts what its model predicts, on rows that follow from the declared bounds alone."""
    public = np.random.default_rng(0)
    raw: dict[str, list[Any]] = {}
    coded: dict[str, Array] = {}
    for feature in model.features:
        if feature.encoding == "categories":
            index = public.integers(0, len(feature.categories), PROBES)
            raw[feature.column], coded[feature.column] = [feature.categories[i] for i in index], index
            continue
        values = public.integers(feature.lower, feature.upper + 1, PROBES)
        values[:3] = feature.lower, feature.upper, MISSING
        shown = values / 10.0**feature.decimals
        raw[feature.column], coded[feature.column] = np.where(values == MISSING, np.nan, shown).tolist(), values
    unlabelled = Task(learner=Means(clusters=2), features=model.features, label=None, held_out=0, rows=1)
    own = predict(model, encode_rows(coded, np.arange(PROBES), unlabelled).z)
    if model.link == "identity" and model.label is not None:
        own = own * model.label.reach + model.label.offset
        own = np.expm1(own) if model.label.encoding == "log" else own
    found = np.asarray(score_onnx(data, raw), np.float64).reshape(PROBES, -1)
    close = np.isclose(found, own.reshape(PROBES, -1), rtol=TOLERANCE, atol=TOLERANCE).all(axis=1)
    if close.mean() < AGREED:
        raise Disagreement

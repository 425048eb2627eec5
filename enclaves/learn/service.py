"""A call of a scoring service inside the enclave: the owner's model and the asker's rows in, rounded scores for the asker out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from enclaves.aggregate import Stored
from enclaves.kit.columns import StoredColumns
from enclaves.kit.expressions import Fragment, expression_sql, joined, listed
from enclaves.kit.relations import rows_of
from enclaves.kit.tables import columns_of, load_table, open_database
from enclaves.learn.fit import predict
from enclaves.learn.probing import probing_of
from enclaves.learn.release import input_sql, opened
from enclaves.learn.rows import MISSING, Array
from policies.declaration import Declaration
from policies.errors import Malformed
from policies.expression import typed
from policies.grant import Grant
from policies.model import Model
from policies.query import NamedExpression, Plan
from policies.service import MAX_MODEL_BYTES, MAX_SCORED_ROWS, MODEL_COLUMN, PART_COLUMN, Probing, Score, Scores, parse_model
from policies.shape import shape
from policies.training import UNIT, Encoded
from policies.typed_values import Typed

OUTPUTS = {"identity": "prediction", "logistic": "probability", "softmax": "probabilities", "nearest": "cluster"}
LARGEST = 1e15
"""Most that a score is, either way: numbers beyond keep no decimals."""


class Unscored(Exception):
    """Ends a call without scores, with the word that may be said of it."""

    def __init__(self, code: Literal["model-unreadable", "model-mismatch", "rows-exceeded"]) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """The scores, and the word about the rows that the statement carries."""

    scores: Scores
    probing: Probing


def score(grant: Grant, declarations: Mapping[str, Declaration], files: Mapping[str, Stored], *, memory_mib: int) -> Scored:
    """Return the scores that a grant's call asks for, rounded as it says.

    The model is read, and held against the query's columns, before any row is: what is said of it depends on no row.

    Raises:
        Unscored: the model cannot be read or has other features than the query's columns, or there are more rows than the call stated.
        OutOfMemory, MemoryError: the rows need more than `memory_mib`.
        Tampered: stored columns cannot be decrypted.
    """
    plan = grant.plan
    assert plan.scoring is not None
    scope = shape(plan.source, declarations).scope
    known = {item.name: typed(item.expression, scope) for item in plan.inputs}
    model = read_model(files[plan.scoring.model])
    _require_same_columns(model, plan, known)
    found, published = _read(grant, model, known, declarations, files, memory_mib)
    names, columns = found[plan.scoring.by], {feature.column: found[feature.column] for feature in model.features}
    if len(names) > plan.scoring.rows:
        raise Unscored("rows-exceeded")
    z = encoded_rows(columns, {name: kind.decimals for name, kind in known.items()}, model.features)
    values = rounded(scores_of(model, z), 0 if model.link == "nearest" else plan.scoring.decimals)
    scores = tuple(Score(row=_name(name), values=row) for name, row in zip(names.tolist(), values, strict=True))
    asked, all_rows = (probing_of(np.column_stack([read[f.column] for f in model.features])) for read in (columns, published))
    # `few` is said of versions: of parts of a larger one it would tell how many rows WHERE left.
    return Scored(scores=Scores(output=OUTPUTS[model.link], scores=scores), probing="suspected" if asked == "suspected" else all_rows)


def read_model(stored: Stored) -> Model:
    """Return the model that a table of parts spells. Raises Unscored."""
    if isinstance(stored, StoredColumns) and stored.decoded_bytes() > 4 * MAX_MODEL_BYTES:
        raise Unscored("model-unreadable")
    table = opened(stored)
    try:
        parts = sorted(zip(table.column(PART_COLUMN).to_pylist(), table.column(MODEL_COLUMN).to_pylist(), strict=True))
        return parse_model([text for _, text in parts])
    except (Malformed, TypeError, OverflowError, ValueError, KeyError) as error:
        raise Unscored("model-unreadable") from error


def encoded_rows(columns: Mapping[str, Array], decimals: Mapping[str, int], features: Sequence[Encoded]) -> Array:
    """Return rows as a model's vectors z, int16, (rows, width), as `policies.scoring.encoded` has them.

    Args:
        columns: int64 by feature: numbers in the fixed point of the query's column, categories as their index or -1, `MISSING` for NULL.
        decimals: of that fixed point.
    """
    count = len(next(iter(columns.values())))
    z = [np.full(count, UNIT)]
    for feature in features:
        values = columns[feature.column]
        if feature.encoding == "categories":
            z += [np.where(values == index, UNIT, 0) for index in range(1, len(feature.categories))]
        else:
            z.append(_coordinate(values, decimals[feature.column], feature))
    return np.column_stack(z).astype(np.int16)


def _coordinate(values: Array, decimals: int, feature: Encoded) -> Array:
    scale = 10.0**feature.decimals
    real = np.clip(values / 10.0**decimals, feature.lower / scale, feature.upper / scale)
    real = np.log1p(real) if feature.encoding == "log" else real
    found = np.clip(np.rint((real - feature.offset) * (UNIT / feature.reach)), -UNIT, UNIT)
    found[values == MISSING] = 0
    return np.asarray(found)


def scores_of(model: Model, z: Array) -> Array:
    """Return predictions in the label's own units, (rows, outputs)."""
    found = np.asarray(predict(model, z), np.float64).reshape(len(z), -1)
    if model.link == "identity":
        assert model.label is not None
        found = found * model.label.reach + model.label.offset
        with np.errstate(over="ignore"):
            found = np.expm1(found) if model.label.encoding == "log" else found
    return np.clip(np.nan_to_num(found, nan=0.0, posinf=LARGEST, neginf=-LARGEST), -LARGEST, LARGEST)


def rounded(values: Array, decimals: int) -> list[tuple[str, ...]]:
    """Return numbers as decimal strings with so many decimals; there is no negative zero."""
    zero = f"{0:.{decimals}f}"
    shown = [[f"{value:.{decimals}f}" for value in row] for row in values.tolist()]
    return [tuple(zero if text == f"-{zero}" else text for text in row) for row in shown]


def _require_same_columns(model: Model, plan: Plan, known: Mapping[str, Typed]) -> None:
    """The query's columns are the model's features, of types that its encodings take, and one that names rows."""
    assert plan.scoring is not None
    named = {item.name for item in plan.inputs} - {plan.scoring.by}
    if named != {feature.column for feature in model.features} or known[plan.scoring.by].type == "decimal":
        raise Unscored("model-mismatch")
    for feature in model.features:
        kind = known[feature.column]
        text = kind.type == "text"
        takes = text == isinstance(feature.categories[0], str) if feature.encoding == "categories" else not text
        if not takes or (feature.encoding == "categories" and kind.type == "decimal"):
            raise Unscored("model-mismatch")


def _read(
    grant: Grant,
    model: Model,
    known: Mapping[str, Typed],
    declarations: Mapping[str, Declaration],
    files: Mapping[str, Stored],
    memory_mib: int,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The named rows of the query in the order of their names, one more than stated at most; and the features of whatever was published.

    All of a unit's rows count: they are own. What WHERE leaves out is looked at, so that many calls on parts of a version are seen as one.
    """
    plan, encodings = grant.plan, {feature.column: feature for feature in model.features}
    assert plan.scoring is not None
    loaded = {dataset: f"d{index}" for index, dataset in enumerate(plan.tables)}
    with open_database(memory_mib=memory_mib, threads=2) as connection:
        for read in grant.reads:
            if read.dataset not in loaded:
                continue
            table, declaration = opened(files[read.dataset]), declarations[read.dataset]
            load_table(connection, loaded[read.dataset], table, declaration, read.columns, bounded=False, unique=False)
        source = rows_of(plan.source, declarations, loaded, (f"r{index}" for index in itertools.count()))

        def column(item: NamedExpression) -> Fragment:
            value = expression_sql(item.expression, source.columns)
            if item.name in encodings:
                return input_sql(encodings[item.name], value)
            return joined(f"CAST({{}} AS {'VARCHAR' if known[item.name].type == 'text' else 'BIGINT'})", value)

        shown = [joined(f"{{}} AS i{index}", column(item)) for index, item in enumerate(plan.inputs)]
        where = Fragment(sql="") if plan.where is None else joined(" WHERE {}", expression_sql(plan.where, source.columns))
        every = joined("SELECT {} FROM {}", listed(", ", shown), source.source)
        rows = joined("{}{}", every, where)
        by = next(index for index, item in enumerate(plan.inputs) if item.name == plan.scoring.by)
        order = ", ".join(f"i{index}" for index in sorted(range(len(plan.inputs)), key=lambda index: index != by))
        ordered = joined(f"SELECT * FROM ({{}}) WHERE i{by} IS NOT NULL ORDER BY {order} LIMIT {plan.scoring.rows + 1}", rows)  # noqa: S608
        found = columns_of(connection, ordered)
        features = ", ".join(f"i{index}" for index, item in enumerate(plan.inputs) if item.name in encodings)
        looked = joined(f"SELECT {features} FROM ({{}}) ORDER BY {features} LIMIT {MAX_SCORED_ROWS}", every)  # noqa: S608
        published = columns_of(connection, looked)
    places = [(f"i{index}", item.name) for index, item in enumerate(plan.inputs)]
    return {name: found[at] for at, name in places}, {name: published[at] for at, name in places if name in encodings}


def _name(value: int | str) -> int | str:
    return value if isinstance(value, str) else int(value)

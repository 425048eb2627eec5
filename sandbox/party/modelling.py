"""Models at home: the form that asks for one, the card that goes with one, and scoring a table with one."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from enclaves.kit.artefact import checked_onnx, score_onnx
from policies.agreement import Agreement
from policies.canonical import digest_bytes
from policies.codec import decode, encode
from policies.conversion import DISPLAY_DELTA, epsilon_at
from policies.division import verify_contribution
from policies.errors import Malformed, NotFound, Tampered
from policies.grant import AnyGrant, Grant
from policies.joint_documents import JointRelease
from policies.joint_grant import JointGrant
from policies.model import WEIGHT_BITS, Model, ModelRelease
from policies.names import require_dataset
from policies.privacy import units_to_decimal
from policies.statement import Release
from policies.training import Encoded, Training
from sandbox.audit.joint_receipt import AnyReceipt
from sandbox.party.forms import read_form
from sandbox.party.verify import OpenedRelease

MOST_ROWS = 1_000_000
"""Most rows of one table that is scored."""


def read_training(path: Path, pool: str | None = None) -> tuple[str, Training]:
    """Return the query of rows (`sql`) and the training that a YAML or JSON form asks for.

    Args:
        pool: whose columns of the same names are features and label, where the form has no query.

    Raises:
        Malformed: an unreadable form, or not one of query and pool.
    """
    form = dict(read_form(path))
    sql = form.pop("sql", None)
    if not isinstance(sql, str) and (sql is not None or pool is None):
        raise Malformed("needs `sql`, the query whose columns are features and label", where="sql")
    if sql is not None and pool is not None:
        raise Malformed("the form has a query, which names the pool itself; leave out one of the two", where="sql")
    training = decode(Training, {"kind": "training/1", **form})
    return sql or _columns_of(training, require_dataset(str(pool), "pool")), training


def _columns_of(training: Training, pool: str) -> str:
    inputs = (*training.features, *([training.label] if training.label else []))
    return f"SELECT {', '.join(item.column for item in inputs)} FROM {pool}"  # noqa: S608 - names of letters, digits and underscores


def model_of(release: object) -> ModelRelease:
    """Return the model of a release. Raises NotFound if it has none."""
    if not isinstance(release, (Release, JointRelease)) or release.model is None:
        raise NotFound("this release holds no model: it was no training, or too few persons took part", code="no-model")
    return release.model


def card_of(release: OpenedRelease, receipt: AnyReceipt, agreement: Agreement) -> dict[str, Any]:
    """Return the model card of a verified release: what it was trained on, under which terms, at what loss, and how well it does.

    Every figure on it is either a document or was released with noise; nothing is looked up in data.
    """
    found, grant = model_of(release), receipt.grant
    assert isinstance(grant, (Grant, JointGrant))
    assert isinstance(release, (Release, JointRelease))
    training = grant.plan.training
    assert training is not None
    people = release.cells[0].figures[0]
    return {
        "kind": "model-card/1",
        "job": grant.job,
        "agreement": grant.agreement,
        "title": agreement.title,
        "log_entry": receipt.index,
        "model_digest": found.digest,
        "onnx_digest": digest_bytes(checked_onnx(found.model)),
        "parameters": found.model.size,
        "learner": training.learner.kind,
        "predicts": None if found.model.label is None else _described(found.model.label),
        "features": [_described(feature) for feature in found.model.features],
        "persons": {"value": people.value, "low": people.low, "high": people.high},
        "held_out_percent": training.held_out,
        "metrics": [{"name": m.name, "value": m.value, "low": m.low, "high": m.high} for m in found.metrics],
        "loss": release.loss.text,
        "epsilon": epsilon_at(release.loss),
        "delta": units_to_decimal(DISPLAY_DELTA, 12),
        "protects": "all rows of one person, present or absent",
        "intervals": "95 %, of the noise; not of the choice of persons",
        **(_in_enclave(release, grant, agreement) if isinstance(release, Release) else _of_pool(release, grant, agreement)),
        **_contributions(found, grant),
    }


def _in_enclave(release: Release, grant: AnyGrant, agreement: Agreement) -> dict[str, Any]:
    """What only a model that an enclave trained has on its card."""
    assert isinstance(grant, Grant)
    return {
        "datasets": [{"dataset": read.dataset, "version": read.version, "file": read.file_digest} for read in grant.reads],
        "terms": [{"dataset": read.dataset, "purposes": list(agreement.terms_of(read.dataset).purposes)} for read in grant.reads],
        "metrics_of": "held-out persons",
        "enclave_kind": release.enclave_kind,
        "measurement": grant.measurement,
    }


def _of_pool(release: JointRelease, grant: AnyGrant, agreement: Agreement) -> dict[str, Any]:
    """What only a model from the sums of a pool has on its card. Rows stayed at home, so there are no versions and no enclave."""
    assert isinstance(grant, JointGrant)
    members = [grant.pool.member_of(name) for name in release.contributors]
    return {
        "datasets": [{"dataset": member} for member in members],
        "terms": [{"dataset": member, "purposes": list(agreement.terms_of(member).purposes)} for member in members],
        "metrics_of": "the noised sums that made the model",
        "coefficients": _coefficients(model_of(release)),
        "pool": grant.pool.dataset,
        "key_holder": grant.pool.key_holder,
        "noise": grant.pool.noise,
        "manifest": release.manifest,
    }


def _coefficients(found: ModelRelease) -> list[dict[str, Any]]:
    """Weights with intervals in the scale of the label: what a change by one unit of a (transformed) feature, or a category, adds."""
    model = found.model
    assert model.label is not None
    names: list[tuple[str, str | int | None, float]] = [("", None, 1.0)]
    for feature in model.features:
        if feature.encoding == "categories":
            names += [(feature.column, category, 1.0) for category in feature.categories[1:]]
        else:
            names.append((feature.column, None, feature.reach))
    lines = []
    for (column, category, reach), weight, interval in zip(names, model.weights[0], found.intervals, strict=True):
        unit = model.label.reach / reach / (1 << WEIGHT_BITS)
        shown = {name: f"{value * unit:.6g}" for name, value in (("value", weight), ("low", interval.low), ("high", interval.high))}
        lines.append({"column": column, "category": category, **shown})
    return lines


def _contributions(found: ModelRelease, grant: Grant | JointGrant) -> dict[str, Any]:
    """What every firm contributed, once it was derived anew from the worths beside it. Raises Tampered."""
    asked = grant.plan.training is not None and grant.plan.training.division is not None
    if found.contribution is None:
        if asked:
            raise Tampered("the release lacks the contributions that were asked for", code="contribution-mismatch")
        return {}
    return {"contribution": encode(verify_contribution(found.contribution, grant.plan))}


def _described(item: Encoded) -> dict[str, Any]:
    if item.encoding == "categories":
        return {"column": item.column, "encoding": item.encoding, "categories": list(item.categories)}
    bounds = {name: units_to_decimal(getattr(item, name), item.decimals) for name in ("lower", "upper", "centre")}
    return {"column": item.column, "encoding": item.encoding, **bounds}


def score_file(model: Model, path: Path) -> Iterator[list[float]]:
    """Yield what a model's ONNX file predicts for every row of a CSV file whose columns are its features, empty where missing.

    Raises:
        Malformed: a missing column, a cell that is no number, too many rows, or a file that is not acceptable.
    """
    rows = _csv_rows(path)
    columns = {feature.column: [_cell(row, feature, number) for number, row in enumerate(rows, 2)] for feature in model.features}
    if not rows:
        return
    for scored in score_onnx(checked_onnx(model), columns):
        yield [float(value) for value in scored.reshape(-1)]


def read_rows(path: Path, features: Sequence[Encoded]) -> list[dict[str, float | int | str]]:
    """Return the features of every row of a CSV file, empty cells as missing. Raises Malformed as `score_file`."""
    return [{item.column: _cell(row, item, number) for item in features} for number, row in enumerate(_csv_rows(path), 2)]


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = []
        for row in csv.DictReader(file):
            rows.append(row)
            if len(rows) > MOST_ROWS:
                raise Malformed(f"more than {MOST_ROWS} rows", where=path.name)
    return rows


def _cell(row: dict[str, Any], feature: Encoded, line: int) -> float | int | str:
    """One cell as the model reads it."""
    text = row.get(feature.column)
    if text is None:
        raise Malformed(f"line {line} has no column `{feature.column}`", where=feature.column, code="unknown-column")
    try:
        if feature.encoding != "categories":
            return float(text) if text else float("nan")
        if isinstance(feature.categories[0], str):
            return str(text)
        # A number that is no category counts as none of them, as an empty cell does.
        return int(text) if text else min(int(value) for value in feature.categories) - 1
    except ValueError as error:
        raise Malformed(f"line {line}: `{text[:40]}` is no number", where=feature.column) from error

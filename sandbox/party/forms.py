"""Declarations and offers as people write them: small YAML forms that become the typed documents of the law."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml

from policies.agreement import ColumnTerm, Offer, Terms
from policies.codec import decode, encode
from policies.declaration import Declaration
from policies.errors import Malformed
from policies.privacy import parse_epsilon

_TERMS = {
    "assignees", "recipients", "purposes", "from", "until", "minimum_group", "epsilon_per_job", "epsilon_total", "enclaves",
    "measurements", "columns",
}  # fmt: skip


def read_form(path: Path) -> dict[str, Any]:
    """Return a YAML (or JSON) file as a mapping. Raises Malformed."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Malformed(f"{path.name} is not a readable YAML file") from error
    if not isinstance(value, dict):
        raise Malformed(f"{path.name} must hold a mapping")
    return value


def declaration_of(form: dict[str, Any]) -> Declaration:
    """Return the declaration that a form spells; `columns` is a mapping from name to its properties. Raises Malformed."""
    columns = form.get("columns")
    if not isinstance(columns, dict):
        raise Malformed("must map column names to their properties", where="columns")
    listed = [{"name": name, **_column(name, properties)} for name, properties in columns.items()]
    return decode(Declaration, {**form, "columns": listed})


def _column(name: str, properties: Any) -> dict[str, Any]:
    if not isinstance(properties, dict):
        raise Malformed("must be a mapping", where=f"columns.{name}")
    return {key: str(value) if key in ("lower", "upper") and value is not None else value for key, value in properties.items()}


def offer_of(form: dict[str, Any], declaration: Declaration, measurement: str) -> Offer:
    """Return the offer that a form spells for a declared dataset.

    Args:
        measurement: reference value that the terms pin unless the form lists `measurements`: that of the provider's own checkout.

    Raises:
        Malformed: with the field.
    """
    unknown = sorted(set(form) - {"uid", "title", "dataset", "terms"})
    if unknown or not isinstance(form.get("terms"), dict):
        raise Malformed(f"unknown field `{unknown[0]}`" if unknown else "needs `terms`", where="offer")
    if form.get("dataset") != declaration.dataset:
        raise Malformed(f"is for `{form.get('dataset')}`, the declaration for `{declaration.dataset}`", where="dataset")
    return Offer(
        uid=decode(str, form.get("uid"), "uid"),
        title=decode(str, form.get("title"), "title"),
        declaration=declaration,
        terms=_terms(form["terms"], declaration.dataset, measurement),
    )


def _terms(form: dict[str, Any], dataset: str, measurement: str) -> Terms:
    unknown = sorted(set(form) - _TERMS)
    if unknown:
        raise Malformed(f"unknown term `{unknown[0]}`; known: {', '.join(sorted(_TERMS))}", where="terms", code="unknown-term")
    missing = sorted(_TERMS - {"measurements", "recipients"} - set(form))
    if missing:
        raise Malformed(f"term `{missing[0]}` is missing", where="terms")
    columns = decode(dict[str, tuple[str, ...]], form["columns"], "terms.columns")
    value = {
        "dataset": dataset,
        "assignees": form["assignees"],
        "recipients": form.get("recipients", form["assignees"]),
        "purposes": form["purposes"],
        "not_before": _seconds(form["from"], "terms.from"),
        "not_after": _seconds(form["until"], "terms.until"),
        "minimum_group": form["minimum_group"],
        "job_loss": encode(parse_epsilon(str(form["epsilon_per_job"]), "terms.epsilon_per_job")),
        "total_loss": encode(parse_epsilon(str(form["epsilon_total"]), "terms.epsilon_total")),
        "enclave_kinds": form["enclaves"],
        "measurements": form.get("measurements", [measurement]),
        "columns": [encode(ColumnTerm(column=name, operations=operations)) for name, operations in columns.items()],  # type: ignore[arg-type]
    }
    return decode(Terms, value, "terms")


def _seconds(value: Any, where: str) -> int:
    """A YAML date, or a UTC time, in seconds since 1970."""
    if isinstance(value, datetime):
        return int(value.replace(tzinfo=value.tzinfo or UTC).timestamp())
    if isinstance(value, date):
        return int(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp())
    raise Malformed("must be a date like 2026-01-31 or a UTC time like 2026-01-31T00:00:00Z", where=where)

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
    """Return the declaration that a form spells; `columns` is a mapping from name to its properties. Raises Malformed.

    A column's `source`, its name in the provider's own file, is for publishing only and no part of the declaration.
    """
    listed = [{"name": name, **_column(name, properties)} for name, properties in _columns(form).items()]
    return decode(Declaration, {**form, "columns": listed})


def sources_of(form: dict[str, Any]) -> dict[str, str]:
    """Return the names in the provider's file of those declared columns that are called otherwise there. Raises Malformed."""
    listed = {name: properties for name, properties in _columns(form).items() if isinstance(properties, dict)}
    sources = {name: of["source"] for name, of in listed.items() if "source" in of}
    for name, source in sources.items():
        if not isinstance(source, str):
            raise Malformed("must be a column's name in the file, as text", where=f"columns.{name}.source")
    return sources


def yaml_line(key: str, value: Any, *, indent: int = 0) -> str:
    """Return `key: value` as one line of YAML; a list is written in brackets."""
    return f"{' ' * indent}{yaml_scalar(key)}: {yaml_scalar(value)}"


def yaml_scalar(value: Any) -> str:
    """Return a text, a number or a list of them on one line of YAML; a text that YAML would take for something else is quoted."""
    # A control character or a line separator survives only as an escape inside double quotes.
    escaped = any(not item.isprintable() for item in (value if isinstance(value, list) else [value]) if isinstance(item, str))
    style = '"' if escaped else None
    text = yaml.safe_dump(value, default_flow_style=True, default_style=style, allow_unicode=True, width=float("inf"))
    return str(text).removesuffix(_END).rstrip()


_END = "...\n"
"""What PyYAML writes after a scalar that stands alone."""


def _columns(form: dict[str, Any]) -> dict[str, Any]:
    columns = form.get("columns")
    if not isinstance(columns, dict):
        raise Malformed("must map column names to their properties", where="columns")
    return columns


def _column(name: str, properties: Any) -> dict[str, Any]:
    if not isinstance(properties, dict):
        raise Malformed("must be a mapping", where=f"columns.{name}")
    known = {key: value for key, value in properties.items() if key != "source"}
    return {key: str(value) if key in ("lower", "upper") and value is not None else value for key, value in known.items()}


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

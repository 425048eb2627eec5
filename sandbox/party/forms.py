"""Declarations as people write them: small YAML forms that become the typed documents of the law. Offers: `sandbox.party.term_forms`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from policies.codec import decode, encode
from policies.declaration import Declaration, parse_date
from policies.errors import Malformed
from policies.joint import Pool
from policies.model import Model
from policies.scorer import Scorer
from policies.scorer import scorer_of as describe


def read_form(path: Path) -> dict[str, Any]:
    """Return a YAML (or JSON) file as a mapping. Raises Malformed."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Malformed(f"{path.name} is not a readable YAML file") from error
    if not isinstance(value, dict):
        raise Malformed(f"{path.name} must hold a mapping")
    return value


class _StrictLoader(yaml.SafeLoader):
    """YAML without aliases, explicit tags and repeated keys: what is written is what is meant, and a small file stays small."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.YAMLError("anchors and aliases are not accepted")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError("tags are not accepted")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep=deep)
        if len(found) != len(node.value):
            raise yaml.YAMLError("a key stands twice")
        return found


def read_declarations(path: Path) -> tuple[Declaration, ...]:
    """Return the declarations that a YAML or JSON file lists, each with `columns` as a list or as a mapping by name.

    Raises:
        Malformed: an unreadable or too large file, aliases, tags or repeated keys, a declaration that is none, or a dataset twice.
    """
    try:
        text = path.read_bytes()
        if len(text) > MAX_SCHEMA:
            raise Malformed(f"{path.name} is larger than {MAX_SCHEMA} bytes", code="too-large")
        value = yaml.load(text.decode("utf-8"), Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        why = str(error).splitlines()[0] if isinstance(error, yaml.YAMLError) else type(error).__name__
        raise Malformed(f"{path.name} is not a readable YAML file: {why[:200]}") from error
    forms = value if isinstance(value, list) else [value]
    if not all(isinstance(form, dict) for form in forms):
        raise Malformed(f"{path.name} must hold a list of declarations")
    found = tuple(_listed_declaration(form, f"[{number}]") for number, form in enumerate(forms))
    if len({declaration.dataset for declaration in found}) != len(found):
        raise Malformed(f"{path.name} declares a dataset twice")
    return found


MAX_SCHEMA = 4 << 20
"""Largest file of declarations, bytes."""


def _listed_declaration(form: dict[str, Any], where: str) -> Declaration:
    columns = form.get("columns")
    if isinstance(columns, dict):
        return declaration_of(form)
    if not isinstance(columns, list) or not all(isinstance(column, dict) for column in columns):
        raise Malformed("must list columns, or map their names to their properties", where=f"{where}.columns")
    return decode(Declaration, {**form, "columns": [_column(str(column.get("name")), column) for column in columns]}, where)


def declaration_of(form: dict[str, Any]) -> Declaration:
    """Return the declaration that a form spells; `columns` is a mapping from name to its properties. Raises Malformed.

    Dates are written as such, bounds and domains alike. A public table needs no unit, id space and rows per unit.

    A column's `source`, its name in the provider's own file, is for publishing only and no part of the declaration.
    """
    listed = [{"name": name, **_column(name, properties)} for name, properties in _columns(form).items()]
    nobody = {"unit": "", "id_space": "", "rows_per_unit": 1} if form.get("public") is True else {}
    return decode(Declaration, {**nobody, **form, "columns": listed})


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
    if known.get("type") == "date" and isinstance(known.get("domain"), list):
        known["domain"] = [parse_date(str(value), f"columns.{name}.domain") for value in known["domain"]]
    return {key: str(value) if key in ("lower", "upper") and value is not None else value for key, value in known.items()}


def pool_of(form: dict[str, Any]) -> Pool:
    """Return the pool of a form: `dataset`, `members`, `key_holder`, `rows`, and, where they differ from these, `noise` (two-sided),
    `coalition` (0), `dropout` (rerun, with distributed noise fail) and `fewest` (2). Raises Malformed.
    """
    noise = form.get("noise", "two-sided")
    given = {"noise": noise, "coalition": 0, "dropout": "rerun" if noise == "two-sided" else "fail", "fewest": 2}
    return decode(Pool, given | form)


def scorer_of(form: dict[str, Any]) -> Scorer:
    """Return what an agreement says of a model that scores encrypted rows: `dataset`, `rows`, and, where it is not 0, `step`, with either
    `model`, the path of the owner's own model file, or what that file says of it: `features`, `label`, `link`, `outputs`. Raises Malformed.
    """
    if "model" not in form:
        return decode(Scorer, form)
    model = read_model(Path(str(form["model"])))
    given = {name: value for name, value in form.items() if name != "model"}
    return decode(Scorer, encode(describe(model, str(form.get("dataset")), 1)) | given)


def read_model(path: Path) -> Model:
    """Return the model of a JSON or YAML file: of a release (`model/1`), as integers. Raises Malformed."""
    return decode(Model, {"kind": "model/1", **read_form(path)})

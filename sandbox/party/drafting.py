"""Drafting a declaration from a local file. Schema is read off the file; what protects people is asked, never read off the data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from policies.declaration import MAX_DECIMALS, Column, Declaration
from policies.errors import Malformed
from sandbox.party.forms import yaml_line, yaml_scalar

if TYPE_CHECKING:
    from enclaves.kit.profile import ColumnProfile

MAX_NAME = 40
BOUNDS_LEAK = "Bounds read off the data tell everybody who reads the declaration the largest and smallest value: give what is possible."
DOMAIN_LEAKS = "A domain read off the data tells everybody which values occur: give all values that are possible."

QUESTIONS: dict[str, tuple[str, str]] = {
    "dataset": ("--dataset", "id of the dataset, PROVIDER.NAME with your own participant id first"),
    "title": ("--title", "title, for people"),
    "unit": ("--unit", "privacy unit: the column that says whom a row is about; no file can tell whom you want to protect"),
    "id_space": (
        "--id-space",
        "id space: a label for the set of ids, the same at every provider who knows the same people by the same ids",
    ),
    "unique_key": ("--key", "unique key: the columns, with the unit, that no two rows may share, also in later versions; comma-separated"),
    "rows_per_unit": (
        "--rows-per-unit",
        "most rows of one unit that count: more is dropped, and noise grows with it; the data's own maximum leaks",
    ),
}
"""What must not be guessed: its flag and one line that says why or what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftColumn:
    """A column under the name that it gets in the declaration."""

    name: str
    profile: ColumnProfile

    @property
    def numeric(self) -> bool:
        """Whether it may have bounds."""
        return self.profile.kind in ("integer", "decimal", "date")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What a person said. None, or absent from a mapping, means not yet; a None inside a mapping means none.

    Attributes:
        bounds: (lower, upper) as decimal strings by column name.
        domains: values as written, by column name.
        rest_open: columns without an answer get neither bounds nor domain.
        groups_per_unit, rows_per_group: further contribution bounds; never asked for.
        public: the table protects nobody: unit, id space and rows per unit are not asked for.
    """

    dataset: str | None = None
    title: str | None = None
    unit: str | None = None
    id_space: str | None = None
    unique_key: tuple[str, ...] | None = None
    rows_per_unit: int | None = None
    bounds: Mapping[str, tuple[str, str] | None] = field(default_factory=dict)
    domains: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    rest_open: bool = False
    groups_per_unit: int | None = None
    rows_per_group: int | None = None
    public: bool = False


def name_columns(profiles: Sequence[ColumnProfile]) -> tuple[tuple[DraftColumn, ...], tuple[str, ...]]:
    """Return the columns that can be declared, with fitting and distinct names, and a note for each that changed or was left out."""
    columns: list[DraftColumn] = []
    notes: list[str] = []
    for position, profile in enumerate(profiles, 1):
        if profile.kind is None:
            notes.append(f"column `{profile.source}` is left out: it holds {profile.holds}; convert it to text or integers to declare it")
            continue
        name = _fitting(profile.source, position, {column.name for column in columns})
        columns.append(DraftColumn(name=name, profile=profile))
        if name != profile.source:
            notes.append(f"column `{profile.source}` is called `{name}` in the declaration; `source` keeps its name in the file")
        if profile.decimals > MAX_DECIMALS:
            notes.append(f"column `{name}` has {profile.decimals} fractional digits, and {MAX_DECIMALS} are the most: round the file first")
    if not columns:
        raise Malformed("the file has no column that can be declared", code="unreadable")
    return tuple(columns), tuple(notes)


def undecided(columns: Sequence[DraftColumn], answers: Answers) -> tuple[DraftColumn, ...]:
    """Return the columns outside the key for which neither bounds nor a domain were given or declined, though one would be useful."""
    if answers.rest_open:
        return ()
    decided = {*answers.bounds, *answers.domains, *(answers.unique_key or ()), answers.unit}
    return tuple(c for c in columns if c.name not in decided and (c.numeric or c.profile.few is not None))


def questions(answers: Answers) -> dict[str, tuple[str, str]]:
    """Return the questions that apply: of a public table, none about a privacy unit."""
    return {key: question for key, question in QUESTIONS.items() if not answers.public or key not in ("unit", "id_space", "rows_per_unit")}


def missing(columns: Sequence[DraftColumn], answers: Answers) -> list[str]:
    """Return one line per question that has no answer yet, with the flag that answers it."""
    lines = [f"{flag}: {why}" for key, (flag, why) in questions(answers).items() if getattr(answers, key) is None]
    for column in undecided(columns, answers):
        both = [f"--bounds {column.name}=LOWER:UPPER"] * column.numeric + [f"--domain {column.name}=A,B,..."] * (
            column.profile.kind != "decimal"
        )
        lines.append(f"{' or '.join(both)}, or --rest-open: {BOUNDS_LEAK if column.numeric else DOMAIN_LEAKS}")
    return lines


def form_of(columns: Sequence[DraftColumn], answers: Answers) -> dict[str, Any]:
    """Return the declaration's YAML form. Raises Malformed for an answer that is missing or names no column."""
    lines = missing(columns, answers)
    if lines:
        raise Malformed("these cannot be read off the data:\n  " + "\n  ".join(lines), code="answers-missing")
    known = {column.name for column in columns}
    if answers.public and any(getattr(answers, name) is not None for name in ("unit", "id_space", "rows_per_unit", "groups_per_unit")):
        raise Malformed("a public table has no privacy unit and no contribution bounds", where="public")
    unit = [] if answers.public else [str(answers.unit)]
    for name in (*answers.bounds, *answers.domains, *(answers.unique_key or ()), *unit):
        if name not in known:
            raise Malformed(f"there is no column `{name}`; there are {', '.join(sorted(known))}", code="unknown-column")
    unit_terms = {"unit": answers.unit, "id_space": answers.id_space, "rows_per_unit": answers.rows_per_unit}
    groups = {"groups_per_unit": answers.groups_per_unit, "rows_per_group": answers.rows_per_group}
    return {
        "kind": "declaration/1",
        "dataset": answers.dataset,
        "title": answers.title,
        **({"public": True} if answers.public else unit_terms),
        **{name: bound for name, bound in groups.items() if bound is not None},
        "unique_key": list(answers.unique_key or ()),
        "columns": {column.name: _properties(column, answers) for column in columns},
    }


def render_form(form: Mapping[str, Any], columns: Sequence[DraftColumn], notes: Sequence[str]) -> str:
    """Return the form as YAML with comments: notes on top, and beside each column what a person may still want to say."""
    lines = [
        "# A draft. Everybody who may see the dataset reads the declaration; these comments stay here.",
        *(f"# {_shown(n)}" for n in notes),
    ]
    lines += [yaml_line(key, value) for key, value in form.items() if key != "columns"]
    lines.append("columns:")
    for column in columns:
        lines.append(f"  {yaml_scalar(column.name)}:")
        properties = form["columns"][column.name]
        lines += [yaml_line(key, value, indent=4) for key, value in properties.items()]
        lines += [f"    # {_shown(comment)}" for comment in _suggestions(column, properties, form)]
    return "\n".join(lines) + "\n"


_DRAFT_LOSSES = [
    "  epsilon_per_job: 0.1  # most privacy loss of one job; or rho_per_job and rho_total, best for many small releases",
    "  epsilon_total: 0.1  # most of all jobs on your data of this id space together, under whatever agreement; never given back",
    "  # epsilon_per_consumer: 0.1  # most of all jobs of one consumer together",
    "  # delta0_per_job: 0.000001  # lets group keys be discovered in the data; with delta0_total",
]


def draft_offer(declaration: Declaration, today: date) -> str:
    """Return an offer form for a declared dataset that is valid and allows nobody anything: its lists are empty, to be filled in."""
    name = declaration.dataset.partition(".")[2]
    lines = [
        "# A draft that allows nothing: an empty list allows nobody, no purpose and no use. Fill in what you want to allow.",
        yaml_line("uid", f"{declaration.provider}-{name}"[:60]) + "  # short name of this offer",
        yaml_line("title", f"Offer of {declaration.title}"),
        yaml_line("dataset", declaration.dataset),
        "terms:",
        "  assignees: []  # participants who may ask, for example [institute]",
        "  purposes: []  # labels that a request may state, for example [health-economics]",
        f"  from: {today}",
        f"  until: {today + timedelta(days=90)}  # exclusive",
        "  minimum_group: 20  # cells with fewer units, by a noised count, show no figures",
        *([] if declaration.public else _DRAFT_LOSSES),
        "  enclaves: []  # [simulated] trusts the operator of the machine with plaintext",
        "  columns:",
    ]
    for column in declaration.columns:
        lines.append(f"    {yaml_scalar(column.name)}: []  # {', '.join(_operations(column, declaration))}")
    return "\n".join(lines) + "\n"


def _operations(column: Column, declaration: Declaration) -> list[str]:
    """What a query could use a column for, if it were allowed."""
    possible = ["join_key"] * (column.name in declaration.unique_key)
    if column.name == declaration.unit:
        return possible
    possible += ["filter", "count", "distinct"]
    possible += ["group_by", "output"] * (column.domain is not None)
    possible += ["group_by", "output", "discover"] * (column.domain is None and column.type != "decimal" and not declaration.public)
    possible += ["sum", "avg", "variance", "covariance"] * (column.lower is not None and column.type != "date")
    return possible + ["quantile"] * (column.lower is not None)


def _properties(column: DraftColumn, answers: Answers) -> dict[str, Any]:
    profile = column.profile
    properties: dict[str, Any] = {"type": profile.kind}
    if column.name != profile.source:
        properties["source"] = profile.source
    if profile.kind == "decimal":
        properties["decimals"] = min(profile.decimals, MAX_DECIMALS)
    bounds, domain = answers.bounds.get(column.name), answers.domains.get(column.name)
    if bounds is not None:
        properties |= {"lower": bounds[0], "upper": bounds[1]}
    if domain is not None:
        properties["domain"] = [_integer(value, column.name) if profile.kind == "integer" else value for value in domain]
    if profile.nulls and column.name != answers.unit:
        properties["nullable"] = True
    return properties


def _suggestions(column: DraftColumn, properties: Mapping[str, Any], form: Mapping[str, Any]) -> list[str]:
    comments = []
    if column.profile.few is not None and "domain" not in properties and column.name != form.get("unit"):
        values = yaml_line("domain", list(column.profile.few))
        comments += [values, f"^ values in this file, to group by. {DOMAIN_LEAKS}"]
    if column.numeric and "lower" not in properties and column.name not in form["unique_key"]:
        comments.append(f"without lower and upper it can be neither summed nor averaged. {BOUNDS_LEAK}")
    return comments


def _fitting(source: str, position: int, taken: set[str]) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", source.lower()).strip("_") if not re.fullmatch(r"[a-z][a-z0-9_]*", source) else source
    if not re.match(r"[a-z]", name):
        name = f"column_{name or position}" if not name or name[0].isdigit() else f"column_{position}"
    name, number = name[:MAX_NAME], 1
    fitting = name
    while fitting in taken:
        number += 1
        fitting = f"{name[: MAX_NAME - len(str(number)) - 1]}_{number}"
    return fitting


def _integer(text: str, name: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,15}", text.strip()):
        raise Malformed(f"`{_shown(text)[:40]}` is no integer", where=f"columns.{name}.domain")
    return int(text)


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)

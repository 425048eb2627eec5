"""The published profile: its JSON-LD context, its JSON Schema and one page per term, all made from the vocabulary that the law reads."""

from __future__ import annotations

import json
from typing import Any

from policies.odrl import PROFILE
from policies.vocabulary import TERMS, Term
from sandbox.web.odrl_shapes import AGREEMENT, OFFER
from sandbox.web.shapes import REFERENCE, Shapes

SCHEMA = "https://json-schema.org/draft/2020-12/schema"


def profile_files() -> dict[str, str]:
    """Return the files of the profile, by path below its folder."""
    files = {"context.jsonld": _json(context()), "schema.json": _json(schema()), "README.md": overview()}
    return files | {f"terms/{slug(term)}.md": page(term) for term in TERMS}


def context() -> dict[str, Any]:
    """Return the JSON-LD context of what ODRL's own does not name: every `sb:` member, with its type where it is not text."""
    own = [term.name for term in TERMS if term.name.startswith("sb:")]
    members = ["sb:title", "sb:log", "sb:party", "sb:declaration", "sb:text", "sb:amount", "sb:currency", "sb:per", "sb:before"]
    members += ["sb:informed", "sb:afterDays", "sb:recipients", "sb:purposes", "sb:measure", "sb:epsilon", "sb:rho", "sb:delta0"]
    structured = {"sb:log", "sb:party", "sb:declaration", "sb:column"}
    terms = {name: {"@id": name, "@type": "@json"} if name in structured else {"@id": name} for name in sorted({*own, *members})}
    return {"@context": {"sb": f"{PROFILE}#", "odrl": "http://www.w3.org/ns/odrl/2/", **terms}}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of offers and agreements. The law is stricter: a document has one spelling."""
    shapes = Shapes()
    kinds = [shapes.of(kind) if not isinstance(kind, dict) else shapes.titled(kind) for kind in (OFFER, AGREEMENT)]
    found = {"$schema": SCHEMA, "$id": PROFILE, "anyOf": kinds, "$defs": shapes.components}
    moved: dict[str, Any] = json.loads(json.dumps(found).replace(REFERENCE, "#/$defs/"))
    return moved


def slug(term: Term) -> str:
    """Name of a term's page."""
    return term.field.replace("_", "-")


def page(term: Term) -> str:
    """Return the page of a term."""
    spelled = f"`{term.name}` `{term.operator}`" if term.operator else f"`{term.name}`"
    lines = [
        f"# {spelled}",
        "",
        f"A {term.place}; {'may be left out' if term.optional else 'stands in every permission'}. In forms and findings: `{term.field}`.",
        "",
        f"- **value**: {term.value}",
        f"- **holds if**: {term.meaning}",
        f"- **enforced by**: {', '.join(f'`{place}`' for place in term.enforced)}",
        f"- **tests**: `tests/policies/test_terms.py::test_allows[{term.field}]`, `test_denies[{term.field}]`",
    ]
    return "\n".join(lines) + "\n"


def overview() -> str:
    """Return the table of terms: what enforces each, and which tests allow and deny by it."""
    rows = [
        f"| [{term.name}](terms/{slug(term)}.md) {term.operator} | {term.place} | "
        f"{'<br>'.join(f'`{place}`' for place in term.enforced)} | `test_allows[{term.field}]` | `test_denies[{term.field}]` |"
        for term in TERMS
    ]
    head = [
        f"# The profile `{PROFILE}`",
        "",
        "Offers and agreements are ODRL 2.2 under this profile: [context](context.jsonld), [JSON Schema](schema.json), one page per term.",
        "Made by `sandbox policy profile`; a test compares. The tests are in `tests/policies/test_terms.py`.",
        "",
        "| term | place | enforced by | allows | denies |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n"

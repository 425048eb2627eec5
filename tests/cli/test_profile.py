"""The published profile is what the vocabulary says, its schema accepts every document of the law, and pages exist for every term."""

from __future__ import annotations

import json
import random
from pathlib import Path

from jsonschema import Draft202012Validator

from policies.odrl import agreement_document, offer_document
from policies.vocabulary import TERMS
from sandbox.web.profile import profile_files
from tests.support import terms as standard
from tests.support.policies import QUERIES, random_agreement

PROFILE = Path(__file__).parent.parent.parent / "policies" / "profile"


def test_the_files_are_those_that_the_vocabulary_makes() -> None:
    found = {path.relative_to(PROFILE).as_posix(): path.read_text(encoding="utf-8") for path in PROFILE.rglob("*") if path.is_file()}
    assert found == profile_files(), "run: sandbox policy profile policies/profile"
    assert len([name for name in found if name.startswith("terms/")]) == len(TERMS)


def test_the_schema_accepts_what_the_law_writes_and_refuses_unknown_terms() -> None:
    validator = Draft202012Validator(json.loads((PROFILE / "schema.json").read_text(encoding="utf-8")))
    draw = random.Random(5)
    plans = [standard.plan(sql) for sql in QUERIES]
    for document in (offer_document(standard.offer()), *(agreement_document(random_agreement(draw, plans)) for _ in range(10))):
        assert not list(validator.iter_errors(document))
    document = agreement_document(standard.agreement())
    document["permission"][0]["constraint"][0]["leftOperand"] = "sb:mood"
    assert list(validator.iter_errors(document))


def test_the_context_names_every_own_term() -> None:
    named = json.loads((PROFILE / "context.jsonld").read_text(encoding="utf-8"))["@context"]
    assert {term.name for term in TERMS if term.name.startswith("sb:")} <= set(named)

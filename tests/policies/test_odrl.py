"""A signed document has one meaning, and a meaning one document: no mutation is ever ignored."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.agreement import Agreement, ColumnTerm, Terms
from policies.canonical import canonical, digest, parse_json
from policies.derive import OPERATIONS
from policies.errors import Malformed
from policies.odrl import (
    PROFILE,
    agreement_digest,
    agreement_document,
    offer_document,
    parse_agreement,
    parse_offer,
    parse_timestamp,
    timestamp,
)
from policies.privacy import Loss
from tests.support.terms import (
    NOT_AFTER,
    NOT_BEFORE,
    agreement,
    declaration_clinic,
    declaration_insurer,
    digest_of,
    offer,
    parties,
    party,
    terms_clinic,
    terms_insurer,
)

Path = tuple[str | int, ...]


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, child in children:
        yield from _paths(child, (*path, step))


def _get(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def _mutated(document: Any, path: Path, change: Callable[[Any, Any], None]) -> Any:
    """A copy of `document`, fresh along `path`, in which `change(container, last step)` has run."""
    mutant = container = copy.copy(document)
    for step in path[:-1]:
        container[step] = copy.copy(container[step])
        container = container[step]
    change(container, path[-1])
    return mutant


def _set(value: Any) -> Callable[[Any, Any], None]:
    return lambda container, step: container.__setitem__(step, value)


def _insert(value: Any) -> Callable[[Any, Any], None]:
    return lambda container, step: container.insert(step, value)


def _delete(container: Any, step: Any) -> None:
    del container[step]


def _replacements(value: Any) -> list[Any]:
    """Values of other types or other spellings than `value`."""
    if isinstance(value, str):
        return [value + "x", value.upper(), f" {value}", [value], {"@value": value}, None, 1]
    if isinstance(value, bool):
        return [not value, int(value), str(value), None]
    if isinstance(value, int):
        return [value + 1, -value - 1, float(value), str(value), bool(value), [value], None]
    if value is None:
        return [False, 0, "", [], {}, "1"]
    if isinstance(value, list):
        return [value[::-1], [*value, *value[-1:]], [*value, None], {}, None, ""]
    return [[value], list(value), None, "", {**value, "odrl:more": 1}, {**value, "@id": "x"}]


def _mutants(document: Any) -> Iterator[tuple[str, Any]]:
    for path in _paths(document):
        if not path:
            continue
        shown, value = "/".join(map(str, path)), _get(document, path)
        yield f"drop {shown}", _mutated(document, path, _delete)
        if isinstance(path[-1], int):
            yield f"repeat {shown}", _mutated(document, path, _insert(value))
        for replacement in _replacements(value):
            if type(replacement) is not type(value) or replacement != value:
                yield f"{shown} := {replacement!r:.60}", _mutated(document, path, _set(replacement))


SMALL = agreement(
    declarations=(declaration_insurer(), declaration_clinic(columns=declaration_clinic().columns[:3])),
    terms=(terms_insurer(columns=terms_insurer().columns[3:]), terms_clinic(columns=terms_clinic().columns[:1])),
)
"""An agreement with few columns: every mutant of it is parsed."""


@pytest.mark.parametrize(
    ("parse", "render", "typed"),
    [(parse_agreement, agreement_document, SMALL), (parse_offer, offer_document, offer())],
    ids=["agreement", "offer"],
)
def test_no_single_mutation_is_ignored(parse: Any, render: Any, typed: Any) -> None:
    document = render(typed)
    accepted = total = 0
    for label, mutant in _mutants(document):
        total += 1
        try:
            read = parse(mutant)
        except Malformed:
            continue
        accepted += 1
        assert read != typed, label
        assert canonical(render(read)) == canonical(mutant), label
        assert digest(render(read)) != digest(document), label
    assert total > 1000
    assert 0 < accepted < total / 3


def _terms() -> st.SearchStrategy[Terms]:
    losses = st.integers(1, 10**11).map(lambda amount: Loss(amount=amount))
    slugs = st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True)
    names = [column.name for column in declaration_insurer().columns]
    operations = st.lists(st.sampled_from(OPERATIONS), unique=True).map(tuple)
    columns = st.dictionaries(st.sampled_from(names), operations).map(
        lambda chosen: tuple(ColumnTerm(column=name, operations=allowed) for name, allowed in chosen.items())
    )
    return st.builds(
        terms_insurer,
        purposes=st.lists(slugs, max_size=3).map(tuple),
        not_before=st.integers(0, NOT_BEFORE),
        not_after=st.integers(NOT_BEFORE + 1, 253_402_300_799),
        columns=columns,
        minimum_group=st.integers(1, 1_000_000),
        job_loss=losses,
        total_loss=losses,
        recipients=st.sampled_from([(), ("institute",)]),
        measurements=st.lists(st.sampled_from([digest_of("a"), digest_of("b")])).map(tuple),
    )


@given(_terms(), st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20))
@settings(max_examples=40, deadline=None)
def test_agreement_round_trips_through_its_document(terms: Terms, title: str) -> None:
    signed = agreement(title=title, terms=(terms, terms_clinic()))
    document = agreement_document(signed)
    assert parse_agreement(parse_json(canonical(document))) == signed
    assert digest(document) == agreement_digest(signed)


@given(_terms())
@settings(max_examples=40, deadline=None)
def test_offer_round_trips_through_its_document(terms: Terms) -> None:
    offered = offer(terms=terms)
    assert parse_offer(parse_json(canonical(offer_document(offered)))) == offered


@given(_terms(), _terms())
@settings(max_examples=30, deadline=None)
def test_different_terms_have_different_digests(one: Terms, other: Terms) -> None:
    digests = {agreement_digest(agreement(terms=(terms, terms_clinic()))) for terms in (one, other)}
    assert (len(digests) == 1) == (one == other)


def _constraints(document: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["permission"][0]["constraint"]
    return found


def _document() -> dict[str, Any]:
    return json.loads(canonical(agreement_document(agreement())))  # type: ignore[no-any-return]


def _refusal(document: Any) -> Malformed:
    with pytest.raises(Malformed) as refused:
        parse_agreement(document)
    return refused.value


@pytest.mark.parametrize(
    ("left", "operator"),
    [
        ("spatial", "isAnyOf"),
        ("sb:minimumgroup", "gteq"),
        ("sb:minimumGroup", "gt"),
        ("purpose", "isNoneOf"),
        ("dateTime", "lteq"),
        ("https://www.w3.org/ns/odrl/2/purpose", "isAnyOf"),
        ("\x1b[2J", "isAnyOf"),
        (None, "isAnyOf"),
        (["purpose"], "isAnyOf"),
        ("purpose", {"@id": "isAnyOf"}),
    ],
)
def test_unknown_constraint_is_refused_and_not_skipped(left: Any, operator: Any) -> None:
    document = _document()
    _constraints(document).append({"leftOperand": left, "operator": operator, "rightOperand": ["x"]})
    error = _refusal(document)
    assert error.code == "unknown-term"
    assert error.where == "permission[0].constraint[9]"
    assert str(error).isprintable()


def test_duplicate_constraint_is_refused() -> None:
    document = _document()
    _constraints(document).append({"leftOperand": "sb:minimumGroup", "operator": "gteq", "rightOperand": 1})
    assert "appears twice" in str(_refusal(document))


@pytest.mark.parametrize("index", range(9))
def test_missing_constraint_is_refused(index: int) -> None:
    document = _document()
    del _constraints(document)[index]
    assert "is missing" in str(_refusal(document))


def test_constraints_in_another_order_are_refused() -> None:
    document = _document()
    _constraints(document).reverse()
    assert _refusal(document).code == "not-canonical"


@pytest.mark.parametrize("field", ["prohibition", "obligation", "duty", "inheritFrom", "refinement", "sb:extra", "\x1b[2J"])
def test_rule_that_the_law_does_not_read_is_refused(field: str) -> None:
    document = {**_document(), field: []}
    assert str(_refusal(document)).isprintable()
    document = _document()
    document["permission"][0][field] = []
    assert _refusal(document).code == "not-canonical"
    document = _document()
    _constraints(document)[0][field] = []
    assert _refusal(document).code == "not-canonical"


@pytest.mark.parametrize(
    "change",
    [
        {"@context": "http://www.w3.org/ns/odrl.jsonld"},
        {"@context": ["http://www.w3.org/ns/odrl.jsonld"]},
        {"@context": ["http://www.w3.org/ns/odrl.jsonld", {"sb": "urn:evil#"}]},
        {"@context": ["http://www.w3.org/ns/odrl.jsonld", {"sb": PROFILE + "#"}, {"permission": "sb:nothing"}]},
        {"@context": None},
        {"profile": "urn:sandbox:odrl-profile:2"},
        {"profile": [PROFILE]},
        {"@type": "Offer"},
        {"@type": "Set"},
        {"@type": ["Agreement"]},
        {"uid": "urn:sandbox:offer:rand-hie-2026"},
        {"uid": "rand-hie-2026"},
        {"uid": "urn:sandbox:agreement:../x"},
        {"uid": "urn:sandbox:agreement:"},
        {"conflict": "perm"},
        {"conflict": "invalid"},
        {"permission": []},
        {"permission": {}},
        {"permission": [None, None]},
        {"permission": [{}] * 1001},
        {"sb:title": "bell \x07"},
        {"sb:declaration": []},
        {"sb:party": []},
        {"sb:log": {"origin": "a b", "key": "00" * 32}},
    ],
    ids=lambda change: str(change)[:60],
)
def test_frame_of_another_profile_is_refused(change: dict[str, Any]) -> None:
    _refusal({**_document(), **change})


@pytest.mark.parametrize("document", [None, [], "", 1, {}, {"@type": "Agreement"}, [{}]])
def test_document_of_another_shape_is_refused(document: Any) -> None:
    _refusal(document)
    with pytest.raises(Malformed):
        parse_offer(document)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (1, "2026-01-01T00:00:00+00:00"),
        (1, "2026-01-01T00:00:00.0Z"),
        (1, "2026-1-1T0:0:0Z"),
        (1, "2026-02-30T00:00:00Z"),
        (1, "2026-01-01"),
        (1, "1969-12-31T23:59:59Z"),
        (1, "\u0662\u0660\u0662\u0666-01-01T00:00:00Z"),
        (1, NOT_BEFORE),
        (2, "2025-01-01T00:00:00Z"),
        (2, "2026-01-01T00:00:00Z"),
        (4, True),
        (4, "10"),
        (4, 0),
        (4, 1_000_001),
        (5, "1"),
        (5, 1),
        (5, {"sb:measure": "pure", "sb:epsilon": 1}),
        (5, {"sb:measure": "pure", "sb:epsilon": "1.0"}),
        (5, {"sb:measure": "pure", "sb:epsilon": "1e0"}),
        (5, {"sb:measure": "pure", "sb:epsilon": "NaN"}),
        (5, {"sb:measure": "pure", "sb:epsilon": "0"}),
        (5, {"sb:measure": "pure", "sb:epsilon": "0.0000000001"}),
        (5, {"sb:measure": "zcdp", "sb:epsilon": "1"}),
        (5, {"sb:measure": "pure", "sb:epsilon": "1", "sb:delta": "0"}),
        (3, ["auditor"]),
        (3, ["nobody"]),
        (3, "institute"),
        (7, ["sgx"]),
        (7, "simulated"),
        (8, ["sha256:00"]),
        (0, ["Public Health"]),
        (0, "public-health-research"),
    ],
    ids=str,
)
def test_constraint_with_a_bad_value_is_refused(index: int, value: Any) -> None:
    document = _document()
    _constraints(document)[index]["rightOperand"] = value
    _refusal(document)


@pytest.mark.parametrize(
    "change",
    [
        {"parties": parties()[:2]},
        {"parties": parties()[2:]},
        {"parties": (*parties(), party("insurer", "auditor"))},
        {"parties": (*parties(), party("other", "auditor", signing_key=parties()[0].signing_key))},
        {"parties": (*parties(), party("other", "auditor", signing_key=parties()[0].sealing_key))},
        {"parties": (*(p for p in parties() if p.id != "institute"), party("institute", "auditor"))},
        {"parties": (*(p for p in parties() if p.id != "insurer"), party("insurer", "consumer"))},
        {"terms": (terms_clinic(), terms_insurer())},
        {"terms": (terms_insurer(),)},
        {"terms": (), "declarations": ()},
        {"declarations": (declaration_insurer(), declaration_insurer()), "terms": (terms_insurer(), terms_insurer())},
        {"declarations": (declaration_insurer(columns=declaration_clinic().columns), declaration_clinic())},
        {"uid": "Has Space"},
    ],
    ids=lambda change: str(sorted(change)),
)
def test_agreement_without_its_signatories_or_datasets_cannot_be_built(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        agreement(**change)


def test_assigner_must_be_the_provider_of_the_dataset() -> None:
    document = _document()
    document["permission"][0]["assigner"] = "clinic"
    assert _refusal(document).code == "not-canonical"


def test_offer_has_exactly_one_permission() -> None:
    document = offer_document(offer())
    for count in (0, 2):
        with pytest.raises(Malformed, match="one permission"):
            parse_offer({**document, "permission": document["permission"] * count})


def test_offer_and_agreement_are_not_mistaken_for_each_other() -> None:
    with pytest.raises(Malformed):
        parse_offer(agreement_document(agreement()))
    with pytest.raises(Malformed):
        parse_agreement(offer_document(offer()))


@given(st.integers(0, 253_402_300_799))
def test_times_round_trip(seconds: int) -> None:
    assert parse_timestamp(timestamp(seconds), "at") == seconds


def test_known_times() -> None:
    assert timestamp(0) == "1970-01-01T00:00:00Z"
    assert timestamp(253_402_300_799) == "9999-12-31T23:59:59Z"
    assert timestamp(NOT_AFTER) == "2027-01-01T00:00:00Z"


def test_agreement_looks_up_only_what_it_names() -> None:
    signed: Agreement = agreement()
    assert signed.party("clinic").roles == ("provider",)
    assert signed.has_party("auditor")
    assert not signed.has_party("nobody")
    assert signed.terms_of("clinic.care").minimum_group == 25
    with pytest.raises(Malformed) as refused:
        signed.party("nobody")
    assert refused.value.code == "unknown-party"
    with pytest.raises(Malformed) as refused:
        signed.terms_of("clinic.other")
    assert refused.value.code == "unknown-dataset"
    assert dataclasses.replace(signed) == signed

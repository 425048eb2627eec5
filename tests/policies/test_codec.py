"""Every document type survives encode, canonical bytes, parse and decode; whatever deviates is refused at its path."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.agreement import Agreement, Offer
from policies.canonical import canonical, parse_json
from policies.codec import MAX_ITEMS, MAX_STRING, decode, encode
from policies.decide import decide
from policies.declaration import Column, Declaration
from policies.entries import Header, LedgerCharge, Opening, commit
from policies.errors import Malformed
from policies.finding import Decision
from policies.grant import Grant, make_grant
from policies.query import Plan
from policies.request import Facts, JobRequest
from policies.statement import Cell, Evidence, Figure, Nonce, Release, SignedEvidence, SignedStatement, Statement
from tests.support.terms import (
    MEASUREMENT,
    agreement,
    declaration_clinic,
    declaration_insurer,
    digest_of,
    facts,
    key_of,
    offer,
    plan,
    request,
    spent,
)

RICH_SQL = (
    "SELECT year, COUNT(*) AS n, AVG(medical_spend) AS spend, COUNT(admissions) AS admitted FROM insurer.plans "
    "JOIN clinic.care USING (person_id, year) WHERE NOT (female = 1 AND coinsurance IN (0, 95)) "
    "AND (admissions IS NULL OR doctor_visits BETWEEN 1 AND 9) GROUP BY year"
)


def _grant() -> Grant:
    decision = decide(request(), agreement(), plan(), facts())
    return make_grant(digest_of("a"), digest_of("r"), request(), agreement(), plan(), facts(), decision)


def _evidence() -> Evidence:
    return Evidence(
        kind="simulated",
        measurement=MEASUREMENT,
        nonces=(Nonce(provider="insurer", value=key_of("nonce")),),
        grant=digest_of("grant"),
        sealing_key=key_of("run opens"),
        signing_key=key_of("run signs"),
    )


def _statement(**overrides: Any) -> Statement:
    grant = _grant()
    stated = Statement(
        grant=digest_of("grant"),
        evidence=digest_of("evidence"),
        sealed=digest_of("sealed"),
        withheld=None,
        statistics=grant.statistics,
        loss=grant.loss,
    )
    return dataclasses.replace(stated, **overrides)


def _release() -> Release:
    figure = Figure(name="people", value="41", low="35", high="47")
    return Release(
        grant=digest_of("grant"),
        enclave_kind="simulated",
        key_names=("region", "year"),
        cells=(
            Cell(keys=("north", 1), suppressed=False, figures=(figure,)),
            Cell(keys=("south", 2), suppressed=True, figures=()),
        ),
        minimum_group=10,
        statistics=_grant().statistics,
        loss=_grant().loss,
    )


def _header() -> Header:
    return Header(
        kind="charged",
        at=1_780_272_000_123,
        ids={"job": "job-1", "agreement": digest_of("agreement")},
        losses=(LedgerCharge(provider="insurer", id_space="rand-hie", amount=500_000_000),),
        commitment=commit(b"\x07" * 32, {"plan": "body"}),
    )


DOCUMENTS = [
    declaration_insurer(),
    declaration_clinic(),
    Column(name="region", type="text", domain=("north", "south"), nullable=True, description="Where\nthey live"),
    agreement(),
    offer(),
    request(),
    facts(spent=(spent("0.25"),)),
    plan(),
    plan(RICH_SQL),
    decide(request(), agreement(), plan(), facts()),
    decide(request(consumer="auditor"), agreement(), plan(), facts()),
    _grant(),
    _evidence(),
    SignedEvidence(evidence=_evidence(), signature="ab" * 64),
    _statement(),
    SignedStatement(statement=_statement(sealed=None, withheld="input-tampered"), signature="ab" * 64),
    _release(),
    _header(),
    Opening(index=7, salt="0a" * 32, body={"plan": encode(plan()), "note": None}),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_document_round_trips_through_canonical_bytes(document: Any) -> None:
    data = canonical(encode(document))
    again = decode(type(document), parse_json(data))
    assert again == document
    assert canonical(encode(again)) == data


def test_the_round_trips_cover_every_top_level_document() -> None:
    kinds = {Declaration, Agreement, Offer, JobRequest, Facts, Plan, Decision, Grant, SignedEvidence, SignedStatement, Release}
    assert kinds | {Header, Opening} <= {type(document) for document in DOCUMENTS}


def _dataclass_paths(value: Any, where: str = "") -> list[tuple[str, Any]]:
    """Every dataclass inside a document with the path that the codec gives it."""
    found = []
    if dataclasses.is_dataclass(value):
        found.append((where, value))
        for field in dataclasses.fields(value):
            found += _dataclass_paths(getattr(value, field.name), f"{where}.{field.name}" if where else field.name)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            found += _dataclass_paths(item, f"{where}[{index}]")
    return found


WRONG: dict[Any, list[Any]] = {int: [True, "1", 1.0, None], str: [1, None, ["a"]], bool: [0, 1, "true", None]}


def _at(root: Any, where: str) -> Any:
    for step in where.replace("[", ".[").split("."):
        if step:
            root = root[int(step[1:-1])] if step.startswith("[") else root[step]
    return root


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_unknown_field_is_refused_at_its_path_in_every_part(document: Any) -> None:
    for where, _ in _dataclass_paths(document):
        value = encode(document)
        _at(value, where)["extra"] = 1
        with pytest.raises(Malformed) as refused:
            decode(type(document), value)
        assert (refused.value.where, refused.value.code) == (where or None, "unknown-field"), where


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_missing_field_is_refused_at_its_path_in_every_part(document: Any) -> None:
    for where, part in _dataclass_paths(document):
        for field in dataclasses.fields(part):
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if not required:
                continue
            value = encode(document)
            del _at(value, where)[field.name]
            with pytest.raises(Malformed, match="is missing") as refused:
                decode(type(document), value)
            assert refused.value.where == (f"{where}.{field.name}" if where else field.name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_wrong_type_is_refused_at_its_path_in_every_part(document: Any) -> None:
    for where, part in _dataclass_paths(document):
        hints = typing.get_type_hints(type(part))
        for field in dataclasses.fields(part):
            for bad in WRONG.get(hints[field.name], []):
                value = encode(document)
                _at(value, where)[field.name] = bad
                with pytest.raises(Malformed) as refused:
                    decode(type(document), value)
                assert refused.value.where == (f"{where}.{field.name}" if where else field.name)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"title": "bell \x07"}, "title"),
        ({"title": "nul \x00"}, "title"),
        ({"title": "return \r"}, "title"),
        ({"title": "delete \x7f"}, "title"),
        ({"title": "csi \x9b31m"}, "title"),
        ({"title": "half \ud83d"}, "title"),
        ({"title": "x" * (MAX_STRING + 1)}, "title"),
        ({"unique_key": ["person_id"] * (MAX_ITEMS + 1)}, "unique_key"),
        ({"unique_key": "person_id"}, "unique_key"),
        ({"unique_key": {"0": "person_id"}}, "unique_key"),
        ({"unique_key": ["person_id", 7]}, "unique_key[1]"),
        ({"columns": [None]}, "columns[0]"),
        ({"columns": [{"name": "a", "type": "float"}]}, "columns[0].type"),
        ({"columns": [{"name": "a", "type": ["integer"]}]}, "columns[0].type"),
        ({"columns": [{"name": "a", "type": "integer", "domain": [1, True]}]}, "columns[0].domain[1]"),
        ({"columns": [{"name": "a", "type": "integer", "domain": [1, 1.0]}]}, "columns[0].domain[1]"),
        ({"columns": [{"name": "a", "type": "integer", "domain": [None]}]}, "columns[0].domain[0]"),
        ({"columns": [{"name": "A", "type": "integer"}]}, "columns[0].name"),
        ({"columns": [{"name": "a", "type": "integer", "lower": "1e3", "upper": "2"}]}, "columns[0].lower"),
        ({"kind": "declaration/2"}, "kind"),
        ({"rows_per_unit": 0}, "rows_per_unit"),
    ],
)
def test_bad_value_is_refused_at_its_path(change: dict[str, Any], where: str) -> None:
    with pytest.raises(Malformed) as refused:
        decode(Declaration, {**encode(declaration_insurer()), **change})
    assert refused.value.where == where
    assert str(refused.value).isprintable()


def test_newline_tab_and_any_script_are_text() -> None:
    title = "Pläne\tund\nKosten 费用 \U0001f3e5"
    assert decode(Declaration, {**encode(declaration_insurer()), "title": title}).title == title


def test_field_name_that_would_drive_a_terminal_is_not_printed() -> None:
    with pytest.raises(Malformed) as refused:
        decode(Declaration, {**encode(declaration_insurer()), "\x1b[2J": 1})
    assert str(refused.value).isprintable()


def test_version_literal_is_an_integer_and_nothing_that_equals_it() -> None:
    for wrong in (True, 1.0, "1", 2, None):
        with pytest.raises(Malformed) as refused:
            decode(Header, {**encode(_header()), "v": wrong})
        assert refused.value.where == "v"


def test_field_with_a_default_may_be_left_out() -> None:
    column = decode(Column, {"name": "a", "type": "integer"})
    assert column == Column(name="a", type="integer")


@pytest.mark.parametrize("value", [None, 1, "text", [], True, [{}]])
def test_document_that_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(Malformed, match="must be an object"):
        decode(JobRequest, value)


@pytest.mark.parametrize("kind", [None, "", "plan/1", "select", 1, ["compare"], {}])
def test_condition_of_unknown_kind_is_refused(kind: Any) -> None:
    value = encode(plan())
    value["where"]["kind"] = kind
    with pytest.raises(Malformed) as refused:
        decode(Plan, value)
    assert refused.value.where == "where"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([type(document) for document in DOCUMENTS]), JSON)
def test_arbitrary_json_is_malformed_and_nothing_worse(cls: type, value: Any) -> None:
    with pytest.raises(Malformed):
        decode(cls, value)


@given(st.sampled_from(DOCUMENTS), st.data())
def test_document_with_one_field_replaced_decodes_or_is_malformed(document: Any, data: st.DataObject) -> None:
    where, part = data.draw(st.sampled_from(_dataclass_paths(document)))
    field = data.draw(st.sampled_from([field.name for field in dataclasses.fields(part)]))
    value = encode(document)
    _at(value, where)[field] = data.draw(JSON)
    try:
        again = decode(type(document), value)
    except Malformed:
        return
    assert decode(type(document), encode(again)) == again

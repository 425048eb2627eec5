"""`party infer` reads the schema off a file and nothing else: what protects people is asked, and has no default from the data."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.kit.profile import ColumnProfile, profile
from enclaves.kit.sources import read_table
from policies.decide import decide
from policies.declaration import Declaration
from policies.errors import Conflict, Malformed
from policies.names import require_name
from sandbox.cli import cli
from sandbox.party.drafting import Answers, draft_offer, form_of, name_columns, render_form
from sandbox.party.forms import declaration_of, sources_of
from sandbox.party.term_forms import offer_of
from tests.support import terms

CSV = "Person ID,Year,Site,Amount,Postcode\n7,1,north,1.50,01234\n7,2,south,,00001\n9,1,north,2.25,99999\n"
FLAGS = [
    *("--dataset", "clinic.visits", "--title", "Visits: all", "--unit", "person_id", "--id-space", "people"),
    *("--key", "person_id,year", "--rows-per-unit", "3"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "visits.csv"
    path.write_text(CSV, encoding="utf-8")
    return path


def infer(file: Path, *arguments: str, answers: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["party", "infer", str(file), *arguments], input=answers)


def drafted(text: str) -> tuple[Declaration, dict[str, str]]:
    form = yaml.safe_load(text)
    return declaration_of(form), sources_of(form)


def test_the_draft_is_a_declaration_that_publishes_the_file(file: Path) -> None:
    done = infer(file, *FLAGS, "--bounds", "amount=0:10.5", "--domain", "site=north,south,west", "--rest-open")
    declared, sources = drafted(done.stdout)
    assert [(c.name, c.type, c.decimals, c.nullable) for c in declared.columns] == [
        ("person_id", "integer", 0, False),
        ("year", "integer", 0, False),
        ("site", "text", 0, False),
        ("amount", "decimal", 2, True),
        ("postcode", "text", 0, False),
    ]
    assert declared.column("amount").bounds == (0, 1050)
    assert declared.column("site").domain == ("north", "south", "west")
    assert sources == {"person_id": "Person ID", "year": "Year", "site": "Site", "amount": "Amount", "postcode": "Postcode"}
    assert read_table(file, declared, sources).num_rows == 3


def test_without_a_terminal_everything_that_is_missing_is_listed(file: Path) -> None:
    done = infer(file)
    assert isinstance(done.exception, Malformed)
    assert done.exception.code == "answers-missing"
    for flag in ("--dataset", "--title", "--unit", "--id-space", "--key", "--rows-per-unit", "--bounds amount", "--domain site"):
        assert flag in done.exception.message
    assert "kind:" not in done.stdout


def test_no_bound_and_no_domain_is_ever_taken_from_the_data(file: Path) -> None:
    declared, _ = drafted(infer(file, *FLAGS, "--rest-open").stdout)
    assert all(column.lower is None and column.domain is None for column in declared.columns)


def test_few_values_are_suggested_as_a_comment_only(file: Path) -> None:
    text = infer(file, *FLAGS, "--rest-open").stdout
    assert "    # domain: [north, south]" in text.splitlines()


def test_questions_show_no_value_of_the_data_and_a_bare_return_is_no_answer(file: Path) -> None:
    answers = "clinic.visits\nVisits\n\nperson_id\npeople\nperson_id,year\nmany\n3\nnorth,south\nwide\n0:100\n"
    done = infer(file, "--ask", answers=answers)
    declared, _ = drafted(done.stdout)
    assert (declared.unit, declared.rows_per_unit, declared.unique_key) == ("person_id", 3, ("person_id", "year"))
    assert declared.column("site").domain == ("north", "south")
    assert declared.column("amount").bounds == (0, 10_000)
    questions = [line for line in done.stderr.splitlines() if ": " in line and not line.startswith("note:")]
    assert not [line for line in questions if any(value in line for value in ("2.25", "1.50", "01234", "99999"))]


def test_a_key_that_does_not_identify_rows_is_refused(file: Path) -> None:
    done = infer(file, *FLAGS, "--rest-open", "--key", "person_id")
    assert isinstance(done.exception, Malformed)
    assert done.exception.code == "key-not-unique"


def test_an_existing_file_is_not_overwritten(file: Path, tmp_path: Path) -> None:
    output = tmp_path / "draft.yaml"
    assert infer(file, *FLAGS, "--rest-open", "--output", str(output)).exit_code == 0
    written = output.read_text()
    assert isinstance(infer(file, *FLAGS, "--rest-open", "--output", str(output)).exception, Conflict)
    assert output.read_text() == written


def test_kinds_of_a_parquet_file_become_declared_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "flag": [True, False, True],
            "share": [0.5, 0.25, None],
            "third": [1 / 3, 2 / 3, 1.0],
            "money": pa.array(["1.10", "2.00", "3.00"]).cast(pa.decimal128(12, 4)),
            "day": pa.array([1, 2, 3], pa.date32()),
        }
    )
    pq.write_table(table, tmp_path / "t")
    found = {p.source: (p.kind, p.decimals) for p in profile(tmp_path / "t")}
    assert found == {"flag": ("integer", 0), "share": ("decimal", 2), "third": ("decimal", 6), "money": ("decimal", 1), "day": ("date", 0)}
    columns, notes = name_columns(profile(tmp_path / "t"))
    assert "day" in [column.name for column in columns]
    assert notes == ()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=8))
def test_any_column_names_become_distinct_fitting_names_that_lead_back(names: list[str]) -> None:
    profiles = [ColumnProfile(source=name, kind="text", holds="text", few=("a", name or "b")) for name in names]
    columns, _ = name_columns(profiles)
    assert [require_name(column.name, "name") for column in columns] == list(dict.fromkeys(column.name for column in columns))
    first = columns[0].name
    answers = Answers(dataset="a.b", title="T", unit=first, id_space="s", unique_key=(first,), rows_per_unit=1, rest_open=True)
    form = form_of(columns, answers)
    read_back = yaml.safe_load(render_form(form, columns, ()))
    assert read_back == form
    sources = sources_of(read_back)
    assert [sources.get(column.name, column.name) for column in columns] == names


def test_the_source_name_stays_out_of_the_signed_declaration(file: Path) -> None:
    declared, sources = drafted(infer(file, *FLAGS, "--rest-open").stdout)
    assert sources
    assert "Person ID" not in repr(declared)


def test_a_drafted_offer_is_valid_and_allows_nothing() -> None:
    declared = terms.declaration_insurer()
    offer = offer_of(yaml.safe_load(draft_offer(declared, date(2026, 5, 1))), declared, terms.MEASUREMENT)
    assert offer.terms.assignees == offer.terms.recipients == offer.terms.purposes == offer.terms.enclave_kinds == ()
    assert not any(term.operations for term in offer.terms.columns)
    signed = terms.agreement(terms=(offer.terms, terms.terms_clinic()))
    decision = decide(terms.request(), signed, terms.plan(signed=signed), terms.facts())
    denied = {finding.rule for finding in decision.findings if not finding.allowed and finding.dataset == "insurer.plans"}
    assert {"assignee", "purpose", "recipient", "enclave"} <= denied


def test_a_drafted_offer_names_the_uses_that_each_column_has() -> None:
    text = draft_offer(terms.declaration_insurer(), date(2026, 5, 1))
    assert "    medical_spend: []  # filter, count, distinct, sum, avg, variance, covariance, quantile" in text.splitlines()
    assert "    coinsurance: []  # filter, count, distinct, group_by, output" in text.splitlines()
    assert "    person_id: []  # join_key" in text.splitlines()

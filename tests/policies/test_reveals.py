"""What outputs reveal: the same operations as the deciding derivation finds, with the way and place of every downgrade."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from policies.agreement import ColumnTerm
from policies.codec import encode
from policies.derive import ColumnRef, derive
from policies.explain import explain
from policies.plan import parse_plan
from policies.query import Plan
from policies.reveals import Reveal, origin_of, reveals
from sandbox.cli import cli
from sandbox.party.checking import statements
from tests.support import queries
from tests.support import terms as standard
from tests.support.sql import declarations

CORPUS = Path(__file__).parent / "corpus"
NESTED = (
    "SELECT SUM(s.spend) AS total\n"
    "FROM (SELECT person_id, SUM(CASE WHEN year = 1 THEN medical_spend ELSE 0 END) AS spend\n"
    "      FROM insurer.plans WHERE female = 1 GROUP BY person_id) AS s"
)


def told(sql: str, *recipients: str) -> tuple[Reveal, ...]:
    return reveals(parse_plan(sql, standard.agreement().by_dataset), recipients or ("institute",), sql)


def by_name(found: tuple[Reveal, ...]) -> dict[tuple[str, str], Reveal]:
    return {(reveal.column.column, reveal.output): reveal for reveal in found}


def require_as_derived(plan: Plan, sql: str = "") -> None:
    """Every operation on a column that the deciding derivation names is found, and no other."""
    found = reveals(plan, ("institute",), sql)
    uses = derive(plan)
    assert {(r.column, c) for r in found for c in r.constraints} == {(use.column, use.operation) for use in uses}
    for use in uses:
        assert origin_of(found, use.column, use.operation, use.output) is not None or use.operation == "filter", use


@pytest.mark.parametrize("sql", list(statements((CORPUS / "accepted.sql").read_text())))
def test_both_derivations_find_the_same_operations_on_the_corpus(sql: str) -> None:
    require_as_derived(parse_plan(sql, declarations()), sql)


@given(st.data())
def test_both_derivations_find_the_same_operations_on_random_plans(data: st.DataObject) -> None:
    grant, _ = data.draw(queries.cases())
    require_as_derived(grant.plan)


def test_every_downgrade_is_named_with_its_place_from_the_column_on() -> None:
    found = by_name(told(NESTED))
    assert {key: (r.level, r.constraints) for key, r in found.items()} == {
        ("female", ""): ("hidden", ("filter",)),
        ("medical_spend", "total"): ("noised", ("sum",)),
        ("year", ""): ("hidden", ("filter",)),
        ("year", "total"): ("hidden", ("filter",)),
    }
    texts = {key: [origin.text for origin in r.origins] for key, r in found.items()}
    assert texts["medical_spend", "total"] == ["column insurer.plans.medical_spend reached output total through SUM at 2:25, SUM at 1:8"]
    assert texts["female", ""] == ["column insurer.plans.female decided which rows take part through WHERE at 3:32"]
    assert "through CASE at 2:39, SUM at 2:25, SUM at 1:8" in texts["year", "total"][0]


def test_what_reaches_one_output_in_several_ways_needs_all_of_them_to_be_allowed() -> None:
    sql = "SELECT COUNT(CASE WHEN medical_spend > 3 THEN medical_spend END) AS n FROM insurer.plans"
    assert by_name(told(sql))["medical_spend", "n"].constraints == ("filter", "count")


def test_join_keys_are_hidden_and_group_keys_are_as_public_as_their_domain() -> None:
    sql = "SELECT coinsurance, COUNT(*) AS n FROM insurer.plans JOIN clinic.care USING (person_id, year) GROUP BY coinsurance"
    found = {(str(r.column), r.output): (r.level, r.constraints) for r in told(sql)}
    assert found == {
        ("clinic.care.person_id", ""): ("hidden", ("join_key",)),
        ("clinic.care.year", ""): ("hidden", ("join_key",)),
        ("insurer.plans.person_id", ""): ("hidden", ("join_key",)),
        ("insurer.plans.year", ""): ("hidden", ("join_key",)),
        ("insurer.plans.coinsurance", ""): ("domain", ("group_by",)),
        ("insurer.plans.coinsurance", "coinsurance"): ("domain", ("output",)),
    }


def test_keys_that_are_found_in_the_data_are_shared_values() -> None:
    found = by_name(told("SELECT doctor_visits, COUNT(*) AS n FROM clinic.care GROUP BY doctor_visits"))
    assert (found["doctor_visits", "doctor_visits"].level, found["doctor_visits", ""].level) == ("shared", "shared")
    assert found["doctor_visits", ""].constraints == ("group_by", "discover")


def test_the_owner_of_a_column_knows_it_plainly_and_of_others_no_more_than_anybody() -> None:
    sql = "SELECT SUM(medical_spend) AS total, SUM(admissions) AS stays FROM insurer.plans JOIN clinic.care USING (person_id, year)"
    found = {(r.recipient, r.column.column, r.output): (r.level, r.implied) for r in told(sql, "institute", "insurer") if r.output}
    assert found == {
        ("institute", "medical_spend", "total"): ("noised", False),
        ("insurer", "medical_spend", "total"): ("plain", True),
        ("institute", "admissions", "stays"): ("noised", False),
        ("insurer", "admissions", "stays"): ("noised", False),
    }


def test_a_denial_says_how_the_column_got_where_it_may_not_be() -> None:
    columns = tuple(
        ColumnTerm(column=c.column, operations=("avg",)) if c.column == "medical_spend" else c for c in standard.terms_insurer().columns
    )
    agreement = standard.agreement(terms=(standard.terms_insurer(columns=columns), standard.terms_clinic()))
    plan = parse_plan(NESTED, agreement.by_dataset)
    found = explain(standard.request(sql=NESTED), agreement, plan, standard.facts())
    assert found.origins == ("column insurer.plans.medical_spend reached output total through SUM at 2:25, SUM at 1:8",)
    allowed = explain(standard.request(sql=standard.COUNT_SQL), standard.agreement(), standard.plan(standard.COUNT_SQL), standard.facts())
    assert allowed.origins == ()


def test_sql_check_tells_what_each_output_reveals(tmp_path: Path) -> None:
    schema, query = tmp_path / "schema.json", tmp_path / "query.sql"
    schema.write_text(json.dumps([encode(standard.declaration_insurer())]))
    query.write_text(NESTED)
    lines: list[dict[str, Any]] = []
    for options in ([], ["--reveals"]):
        result = CliRunner().invoke(cli, ["sql", "check", "--schema", str(schema), *options, str(query)])
        assert result.exit_code == 0, result.output
        lines.append(json.loads(result.output))
    assert "reveals" not in lines[0]
    (total,) = (row for row in lines[1]["reveals"] if row["output"] == "total" and row["level"] == "noised")
    assert (total["column"], total["constraints"]) == ("insurer.plans.medical_spend", ["sum"])
    assert total["how"][0].endswith("through SUM at 2:25, SUM at 1:8")


def test_a_use_that_a_plan_does_not_have_has_no_origin() -> None:
    assert origin_of(told(NESTED), ColumnRef(dataset="insurer.plans", column="coinsurance"), "sum", "total") is None

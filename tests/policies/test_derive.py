"""Each use of a column is named with its origin."""

from __future__ import annotations

import pytest

from policies.derive import OPERATIONS, Use, derive
from policies.plan import parse_plan
from policies.query import columns_read
from tests.support.sql import declarations
from tests.support.terms import agreement, plan


def _rows(sql: str) -> list[tuple[str, str, str, str | None, str]]:
    return [(str(use.column), use.operation, use.reveals, use.output, use.clause) for use in derive(plan(sql))]


def test_count_of_rows_names_no_column() -> None:
    assert derive(plan("SELECT COUNT(*) AS n FROM insurer.plans")) == ()


def test_every_clause_is_the_origin_of_its_use() -> None:
    sql = (
        "SELECT coinsurance AS plan, COUNT(*) AS n, SUM(medical_spend) AS spend, AVG(medical_spend) AS mean, "
        "COUNT(admissions) AS admitted FROM insurer.plans JOIN clinic.care USING (year, person_id) "
        "WHERE female = 1 AND (doctor_visits > 2 OR admissions IS NULL) GROUP BY coinsurance"
    )
    assert _rows(sql) == [
        ("insurer.plans.person_id", "join_key", "hidden", None, "JOIN ... ON insurer.plans.person_id"),
        ("clinic.care.person_id", "join_key", "hidden", None, "JOIN ... ON clinic.care.person_id"),
        ("insurer.plans.year", "join_key", "hidden", None, "JOIN ... ON insurer.plans.year"),
        ("clinic.care.year", "join_key", "hidden", None, "JOIN ... ON clinic.care.year"),
        ("insurer.plans.female", "filter", "hidden", None, "WHERE ... insurer.plans.female ..."),
        ("clinic.care.doctor_visits", "filter", "hidden", None, "WHERE ... clinic.care.doctor_visits ..."),
        ("clinic.care.admissions", "filter", "hidden", None, "WHERE ... clinic.care.admissions ..."),
        ("insurer.plans.coinsurance", "group_by", "domain", None, "GROUP BY insurer.plans.coinsurance"),
        ("insurer.plans.coinsurance", "output", "domain", "plan", "SELECT insurer.plans.coinsurance AS plan"),
        ("insurer.plans.medical_spend", "sum", "noised", "spend", "SELECT SUM(insurer.plans.medical_spend) AS spend"),
        ("insurer.plans.medical_spend", "avg", "noised", "mean", "SELECT AVG(insurer.plans.medical_spend) AS mean"),
        ("clinic.care.admissions", "count", "noised", "admitted", "SELECT COUNT(clinic.care.admissions) AS admitted"),
    ]


@pytest.mark.parametrize(
    "condition",
    [
        "female = 1",
        "NOT female = 1",
        "female IN (0, 1)",
        "female IS NOT NULL",
        "female BETWEEN 0 AND 1",
        "year = 1 OR (year = 2 AND NOT (year = 3 OR female <> 0))",
        "1 = female",
    ],
)
def test_filter_is_found_however_deep_it_stands(condition: str) -> None:
    uses = derive(plan(f"SELECT COUNT(*) AS n FROM insurer.plans WHERE {condition}"))
    assert ("insurer.plans.female", "filter") in {(str(use.column), use.operation) for use in uses}


def test_one_use_is_named_once_however_often_it_is_written() -> None:
    uses = _rows("SELECT COUNT(*) AS n FROM insurer.plans WHERE year = 1 OR year = 2 OR year IN (3, 4)")
    assert uses == [("insurer.plans.year", "filter", "hidden", None, "WHERE ... insurer.plans.year ...")]


def test_every_output_of_a_column_is_a_use_of_its_own() -> None:
    uses = derive(plan("SELECT SUM(medical_spend) AS a, SUM(medical_spend) AS b FROM insurer.plans"))
    assert [(use.operation, use.output) for use in uses] == [("sum", "a"), ("sum", "b")]


def test_average_does_not_pass_as_count_or_sum() -> None:
    uses = derive(plan("SELECT AVG(doctor_visits) AS mean FROM clinic.care"))
    assert [use.operation for use in uses] == ["avg"]


def test_uses_cover_the_columns_of_the_plan_and_nothing_else() -> None:
    asked = plan()
    used = {(use.column.dataset, use.column.column) for use in derive(asked)}
    read = {(dataset, name) for dataset, names in columns_read(asked, agreement().by_dataset).items() for name in names}
    assert used == read
    assert {str(use.column) for use in derive(asked) if use.operation == "filter"} == {"insurer.plans.female"}
    assert {use.operation for use in derive(asked)} <= set(OPERATIONS)


def test_unit_is_read_but_not_used_without_a_join() -> None:
    asked = plan("SELECT AVG(doctor_visits) AS mean FROM clinic.care")
    assert columns_read(asked, agreement().by_dataset) == {"clinic.care": ("doctor_visits", "person_id", "year")}
    assert [str(use.column) for use in derive(asked)] == ["clinic.care.doctor_visits"]
    assert all(isinstance(use, Use) for use in derive(asked))


def _uses(sql: str) -> set[tuple[str, str, str]]:
    return {(str(use.column), use.operation, use.reveals) for use in derive(parse_plan(sql, declarations()))}


@pytest.mark.parametrize(
    "aggregate",
    [
        "SUM(CASE WHEN female = 1 THEN doctor_visits END)",
        "SUM(doctor_visits) FILTER (WHERE female = 1)",
        "SUM(IF(female = 1, doctor_visits, 0))",
        "COUNT(CASE WHEN female = 1 THEN 1 END)",
        "COUNT(NULLIF(female, 0))",
        "COUNT(1 / (doctor_visits - 3)) FILTER (WHERE female IS NULL)",
        "COUNT_IF(female IN (1))",
        "SUM(CAST(female = 1 AS INTEGER))",
        "SUM(doctor_visits * CAST(NOT female <> 1 AS INTEGER))",
    ],
)
def test_condition_inside_an_aggregate_is_a_filter_and_no_value(aggregate: str) -> None:
    uses = _uses(f"SELECT {aggregate} AS n FROM insurer.plans JOIN clinic.care USING (person_id, year)")
    assert ("insurer.plans.female", "filter", "hidden") in uses
    assert not {use for use in uses if use[:2] == ("insurer.plans.female", "sum")}


def test_what_decides_whether_a_counted_expression_is_null_is_a_filter() -> None:
    uses = _uses("SELECT COUNT(10 / (doctor_visits - 3)) AS n FROM clinic.care")
    assert uses == {("clinic.care.doctor_visits", "filter", "hidden"), ("clinic.care.doctor_visits", "count", "noised")}
    assert _uses("SELECT COUNT(admissions) AS n FROM clinic.care") == {("clinic.care.admissions", "count", "noised")}


def test_aggregate_per_unit_is_used_as_the_query_around_it_uses_it() -> None:
    inner = "SELECT person_id, SUM(doctor_visits) AS v, MAX(admissions) AS a FROM clinic.care WHERE year = 2 GROUP BY person_id"
    assert _uses(f"SELECT AVG(v) AS mean FROM ({inner}) q") == {
        ("clinic.care.year", "filter", "hidden"),
        ("clinic.care.doctor_visits", "avg", "noised"),
    }
    assert ("clinic.care.admissions", "filter", "hidden") in _uses(f"SELECT AVG(v) AS mean FROM ({inner}) q WHERE a > 1")
    grouped = _uses(f"SELECT a, COUNT(*) AS n FROM ({inner}) q GROUP BY a")
    assert {("clinic.care.admissions", "discover", "shared"), ("clinic.care.admissions", "group_by", "domain")} <= grouped


def test_condition_inside_an_aggregate_per_unit_is_a_filter_and_a_key_of_it_is_a_group_key() -> None:
    inner = "SELECT person_id, COUNT(*) FILTER (WHERE admissions > 0) AS a FROM clinic.care GROUP BY person_id"
    assert _uses(f"SELECT AVG(a) AS mean FROM ({inner}) q") == {("clinic.care.admissions", "filter", "hidden")}
    assert ("clinic.care.admissions", "group_by", "domain") in _uses(f"SELECT a, COUNT(*) AS n FROM ({inner}) q GROUP BY a")


def test_join_through_a_subquery_uses_the_keys_of_both_sides() -> None:
    uses = _uses(
        "SELECT AVG(v) AS mean FROM (SELECT person_id, SUM(doctor_visits) AS v FROM clinic.care GROUP BY person_id) q "
        "JOIN insurer.plans p ON p.person_id = q.person_id"
    )
    assert {("clinic.care.person_id", "join_key", "hidden"), ("insurer.plans.person_id", "join_key", "hidden")} <= uses


def test_key_that_is_computed_needs_every_column_that_it_reads() -> None:
    uses = _uses("SELECT CASE WHEN female = 1 THEN coinsurance ELSE 0 END AS k, COUNT(*) AS n FROM insurer.plans GROUP BY k")
    for column in ("female", "coinsurance"):
        assert {(f"insurer.plans.{column}", "group_by", "domain"), (f"insurer.plans.{column}", "output", "domain")} <= uses

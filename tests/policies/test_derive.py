"""Each use of a column is named with its origin."""

from __future__ import annotations

import pytest

from policies.derive import OPERATIONS, Use, derive
from policies.query import columns_of, columns_read
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
        ("insurer.plans.person_id", "join_key", "hidden", None, "JOIN ... USING (person_id)"),
        ("insurer.plans.year", "join_key", "hidden", None, "JOIN ... USING (year)"),
        ("clinic.care.person_id", "join_key", "hidden", None, "JOIN ... USING (person_id)"),
        ("clinic.care.year", "join_key", "hidden", None, "JOIN ... USING (year)"),
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
    assert {str(column) for column in columns_of(asked.where)} == {"insurer.plans.female"}
    assert {use.operation for use in derive(asked)} <= set(OPERATIONS)


def test_unit_is_read_but_not_used_without_a_join() -> None:
    asked = plan("SELECT AVG(doctor_visits) AS mean FROM clinic.care")
    assert columns_read(asked, agreement().by_dataset) == {"clinic.care": ("doctor_visits", "person_id", "year")}
    assert [str(use.column) for use in derive(asked)] == ["clinic.care.doctor_visits"]
    assert all(isinstance(use, Use) for use in derive(asked))

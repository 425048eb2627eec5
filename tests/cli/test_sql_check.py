"""`sandbox sql check`: one line per statement, without data, and a schema that says what it means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from policies.codec import encode
from policies.errors import Malformed
from sandbox.cli import cli
from sandbox.party.checking import read_schema, statements
from tests.support.sql import declarations

CORPUS = Path(__file__).parent.parent / "policies" / "corpus"
SCHEMA = """
- dataset: shop.sales
  title: Sales
  unit: customer
  id_space: customers
  rows_per_unit: 20
  unique_key: [customer, day]
  columns:
    - {name: customer, type: integer}
    - {name: day, type: date, lower: 2026-01-01, upper: "2026-12-31"}
    - {name: amount, type: decimal, decimals: 2, lower: 0, upper: 500}
"""


def _check(tmp_path: Path, schema: str, sql: str, *options: str) -> list[dict[str, Any]]:
    (tmp_path / "schema.yaml").write_text(schema)
    (tmp_path / "q.sql").write_text(sql)
    arguments = ["sql", "check", "--schema", str(tmp_path / "schema.yaml"), str(tmp_path / "q.sql"), *options]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


def test_every_statement_gets_one_line_with_its_place_in_the_file(tmp_path: Path) -> None:
    lines = _check(tmp_path, SCHEMA, "SELECT COUNT(*) FROM shop.sales; -- a ; b\n/* ; */\n\nSELECT ';',\n customer FROM shop.sales;\n")
    assert [(line["statement"], line["accepted"]) for line in lines] == [(1, True), (2, False)]
    assert lines[0]["reason"] == "1 noised statistics for epsilon 1"
    assert lines[1]["where"] == "line 4, column 8"
    assert lines[1]["where"] in lines[1]["reason"]
    assert {line["file"] for line in lines} == {str(tmp_path / "q.sql")}


def test_the_corpus_is_checked_in_one_call(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps([encode(declaration) for declaration in declarations().values()]))
    files = [str(CORPUS / name) for name in ("accepted.sql", "refused.sql")]
    result = CliRunner().invoke(cli, ["sql", "check", "--schema", str(tmp_path / "schema.json"), *files], catch_exceptions=False)
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert len(lines) > 90
    assert all(line["accepted"] == line["file"].endswith("accepted.sql") for line in lines)
    assert all(line["reason"] for line in lines)


def test_delta0_is_planned_for_where_keys_are_discovered_only(tmp_path: Path) -> None:
    sql = "SELECT customer, COUNT(*) FROM shop.sales GROUP BY 1; SELECT COUNT(*) FROM shop.sales"
    assert [line["accepted"] for line in _check(tmp_path, SCHEMA, sql)] == [True, True]
    none = _check(tmp_path, SCHEMA, sql, "--delta0", "0")
    assert [(line["accepted"], line["code"]) for line in none] == [(False, "delta0-missing"), (True, None)]
    assert "rho 0.5" in _check(tmp_path, SCHEMA, sql, "--rho", "0.5")[1]["reason"]


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (("--epsilon", "0"), "--epsilon"),
        (("--epsilon", "much"), "--epsilon"),
        (("--epsilon", ""), "--epsilon"),
        (("--rho", "-1"), "--rho"),
        (("--delta0", "2"), "--delta0"),
        (("--epsilon", "1", "--rho", "1"), "--epsilon"),
    ],
)
def test_losses_that_are_none_are_refused_by_their_option(options: tuple[str, ...], where: str, tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    (tmp_path / "q.sql").write_text("SELECT COUNT(*) FROM shop.sales")
    arguments = ["sql", "check", "--schema", str(tmp_path / "schema.yaml"), str(tmp_path / "q.sql"), *options]
    with pytest.raises(Malformed) as refused:
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert refused.value.where == where


def test_files_of_other_systems_are_read_with_their_places(tmp_path: Path) -> None:
    found = _check(tmp_path, "\ufeff" + SCHEMA, "\ufeffSELECT COUNT(*) FROM shop.sales;\r\nSELECT COUNT(*)\r\nFROM shop.none")
    assert [(line["accepted"], line["where"]) for line in found] == [(True, None), (False, "line 3, column 6")]


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA + SCHEMA,
        SCHEMA.replace("title: Sales", "title: Sales\n  title: Others"),
        SCHEMA.replace("title: Sales", "title: &a Sales"),
        SCHEMA.replace("title: Sales", "title: !!python/object:os.system {}"),
        SCHEMA.replace("title: Sales", "title: !!str Sales"),
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
        SCHEMA.replace("rows_per_unit", "rows"),
        SCHEMA.replace("rows_per_unit: 20", "rows_per_unit: 0"),
        "[" * 5000,
        "- 1",
        "{}",
        "",
        "\x00",
    ],
    ids=range(13),
)
def test_schema_that_is_none_is_refused(tmp_path: Path, schema: str) -> None:
    (tmp_path / "schema.yaml").write_text(schema)
    with pytest.raises(Malformed):
        read_schema(tmp_path / "schema.yaml")


def test_columns_by_name_and_as_a_list_are_the_same_declaration(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text(SCHEMA)
    named = (
        SCHEMA.replace("- {name: customer, ", "customer: {").replace("- {name: day, ", "day: {").replace("- {name: amount, ", "amount: {")
    )
    (tmp_path / "map.yaml").write_text(named)
    assert read_schema(tmp_path / "list.yaml") == read_schema(tmp_path / "map.yaml")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a;b", ["a", "\nb".strip()]),
        ("a';'b; c", ["a';'b", " c"]),
        ('a";"b', ['a";"b']),
        ("-- only;\n ; ;", []),
        ("a -- x;\n;b", ["a -- x;\n", "\nb"]),
        ("/* ; */ a", ["/* ; */ a"]),
        ("a'", ["a'"]),
    ],
)
def test_statements_end_at_semicolons_outside_quotes_and_comments(text: str, found: list[str]) -> None:
    assert list(statements(text)) == found


def test_a_query_is_read_from_standard_input(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    arguments = ["sql", "check", "--schema", str(tmp_path / "schema.yaml"), "-"]
    result = CliRunner().invoke(cli, arguments, input="\ufeffSELECT COUNT(*) FROM shop.sales", catch_exceptions=False)
    assert [(line["file"], line["accepted"]) for line in map(json.loads, result.output.splitlines())] == [("-", True)]
    result = CliRunner().invoke(cli, arguments, input=b"SELECT '\xff'")
    assert isinstance(result.exception, Malformed)

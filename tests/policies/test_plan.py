"""What the query language accepts has one exact plan; all else is refused by name, fast, and with nothing but Malformed."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.canonical import canonical, parse_json
from policies.codec import decode, encode
from policies.declaration import Column, Declaration
from policies.errors import Malformed
from policies.plan import MAX_CONDITION_DEPTH, MAX_NESTING, MAX_OUTPUTS, MAX_TERMS, PARSER_VERSION, parse_plan
from policies.privacy import parse_epsilon
from policies.query import (
    MAX_SQL,
    AggregateOutput,
    AllOf,
    AnyOf,
    ColumnRef,
    Compare,
    IsNull,
    KeyOutput,
    Not,
    OneOf,
    Plan,
    cells,
    require_sound,
    schedule,
)
from tests.support.terms import JOIN_SQL, declaration_clinic, declaration_insurer

_INSURER = declaration_insurer()
_REGION = Column(name="region", type="text", domain=("north", "south"))
_WIDE = Column(name="postcode", type="integer", domain=tuple(range(2500)))
DECLARATIONS: dict[str, Declaration] = {
    "insurer.plans": replace(_INSURER, columns=(*_INSURER.columns, _REGION, _WIDE)),
    "clinic.care": declaration_clinic(),
    "clinic.trial": declaration_clinic(dataset="clinic.trial", id_space="trial-2026"),
    "registry.births": declaration_clinic(dataset="registry.births", unique_key=("person_id",)),
}


def _column(name: str, dataset: str = "insurer.plans") -> ColumnRef:
    return ColumnRef(dataset=dataset, column=name)


def _parse(sql: str) -> Plan:
    return parse_plan(sql, DECLARATIONS)


def _where(condition: str) -> Plan:
    return _parse(f"SELECT COUNT(*) AS n FROM insurer.plans WHERE {condition}")


SELECT = "SELECT COUNT(*) FROM insurer.plans"
JOIN = "SELECT COUNT(*) FROM insurer.plans p JOIN clinic.care c"

REFUSED = [
    # statements
    ("", "one statement is accepted, not 0"),
    (";;", "one statement is accepted, not 0"),
    (f"{SELECT}; {SELECT}", "one statement is accepted, not 2"),
    (f"{SELECT}; DROP TABLE insurer.plans", "one statement is accepted, not 2"),
    (f"{SELECT} UNION ALL {SELECT}", "(Union) is not a SELECT"),
    (f"{SELECT} INTERSECT {SELECT}", "(Intersect) is not a SELECT"),
    (f"{SELECT} EXCEPT {SELECT}", "(Except) is not a SELECT"),
    ("DROP TABLE insurer.plans", "(Drop) is not a SELECT"),
    ("CREATE TABLE a AS SELECT 1", "(Create) is not a SELECT"),
    ("INSERT INTO insurer.plans VALUES (1)", "(Insert) is not a SELECT"),
    ("UPDATE insurer.plans SET year = 1", "(Update) is not a SELECT"),
    ("DELETE FROM insurer.plans", "(Delete) is not a SELECT"),
    ("COPY insurer.plans TO '/tmp/out.csv'", "(Copy) is not a SELECT"),
    ("ATTACH '/etc/passwd' AS a", "(Attach) is not a SELECT"),
    ("PRAGMA database_list", "(Pragma) is not a SELECT"),
    ("SET memory_limit = '1TB'", "(Set) is not a SELECT"),
    ("INSTALL httpfs", "is not a SELECT"),
    ("LOAD httpfs", "is not a SELECT"),
    ("EXPLAIN SELECT 1", "is not a SELECT"),
    ("DESCRIBE insurer.plans", "(Describe) is not a SELECT"),
    ("FROM insurer.plans", "SELECT * is not accepted"),
    ("VALUES (1)", "is not"),
    ("SELECT COUNT(*) FROM", "is not valid SQL"),
    ("SELECT COUNT(*) AS n FROM insurer.plans WHERE year = 'a", "is not valid SQL"),
    ("SELECT (COUNT(*) FROM insurer.plans", "is not valid SQL"),
    # clauses
    ("WITH a AS (SELECT 1) SELECT COUNT(*) FROM insurer.plans", "WITH is not accepted in SELECT"),
    (f"{SELECT} HAVING COUNT(*) > 5", "HAVING is not accepted in SELECT"),
    (f"{SELECT} ORDER BY 1", "ORDER is not accepted in SELECT"),
    (f"{SELECT} LIMIT 1", "LIMIT is not accepted in SELECT"),
    (f"{SELECT} LIMIT 0", "LIMIT is not accepted in SELECT"),
    (f"{SELECT} OFFSET 1", "OFFSET is not accepted in SELECT"),
    (f"{SELECT} QUALIFY 1 = 1", "QUALIFY is not accepted in SELECT"),
    (f"{SELECT} WINDOW w AS (ORDER BY year)", "WINDOWS is not accepted in SELECT"),
    (f"{SELECT} USING SAMPLE 10", "SAMPLE is not accepted"),
    ("SELECT COUNT(*) FROM insurer.plans TABLESAMPLE (1 ROWS)", "is not"),
    (f"{SELECT} FOR UPDATE", "LOCKS is not accepted in SELECT"),
    ("SELECT DISTINCT COUNT(*) FROM insurer.plans", "DISTINCT is not accepted in SELECT"),
    ("SELECT COUNT(*) INTO x FROM insurer.plans", "INTO is not accepted in SELECT"),
    # sources
    ("SELECT COUNT(*)", "has no FROM"),
    ("SELECT COUNT(*) FROM plans", "needs its provider: write provider.plans"),
    ("SELECT COUNT(*) FROM insurer.other", "no dataset `insurer.other` in this agreement; it has clinic.care"),
    ("SELECT COUNT(*) FROM a.insurer.plans", "CATALOG is not accepted in table"),
    ("SELECT COUNT(*) FROM (SELECT * FROM insurer.plans)", "(Subquery) cannot be read from"),
    ("SELECT COUNT(*) FROM (VALUES (1)) AS t(x)", "cannot be read from"),
    ("SELECT COUNT(*) FROM read_csv('/etc/passwd')", "cannot be read from"),
    ("SELECT COUNT(*) FROM range(10)", "cannot be read from"),
    ("SELECT COUNT(*) FROM '/etc/passwd'", "must be 1 to 40 of a-z"),
    ("SELECT COUNT(*) FROM 'data.parquet'", "must be 1 to 40 of a-z"),
    ('SELECT COUNT(*) FROM "../../insurer"."plans"', "must be 1 to 40 of a-z"),
    ('SELECT COUNT(*) FROM insurer."plans.parquet"', "must be 1 to 40 of a-z"),
    ('SELECT COUNT(*) FROM insurer."Plans"', "must be 1 to 40 of a-z"),
    ('SELECT COUNT(*) FROM insurer."plans\u202e"', "must be 1 to 40 of a-z"),
    ("SELECT COUNT(*) FROM \u0456nsurer.plans", "must be 1 to 40 of a-z"),
    ("SELECT COUNT(*) FROM insurer.plans AS t(a, b)", "COLUMNS is not accepted in alias"),
    ("SELECT COUNT(*) FROM insurer.plans AT (VERSION => 1)", "is not"),
    # joins
    ("SELECT COUNT(*) FROM insurer.plans, clinic.care", "cross joins are not accepted"),
    ("SELECT COUNT(*) FROM insurer.plans CROSS JOIN clinic.care", "only an inner JOIN"),
    ("SELECT COUNT(*) FROM insurer.plans NATURAL JOIN clinic.care", "only an inner JOIN"),
    ("SELECT COUNT(*) FROM insurer.plans POSITIONAL JOIN clinic.care", "only an inner JOIN"),
    ("SELECT COUNT(*) FROM insurer.plans ASOF JOIN clinic.care USING (person_id, year)", "only an inner JOIN"),
    ("SELECT COUNT(*) FROM insurer.plans LEFT JOIN clinic.care USING (person_id, year)", "only an inner JOIN"),
    ("SELECT COUNT(*) FROM insurer.plans RIGHT JOIN clinic.care USING (person_id, year)", "only an inner JOIN"),
    ("SELECT COUNT(*) FROM insurer.plans FULL JOIN clinic.care USING (person_id, year)", "only an inner JOIN"),
    ("SELECT COUNT(*) FROM insurer.plans SEMI JOIN clinic.care USING (person_id, year)", "only an inner JOIN"),
    ("SELECT COUNT(*) FROM insurer.plans ANTI JOIN clinic.care USING (person_id, year)", "only an inner JOIN"),
    ("SELECT COUNT(*) FROM insurer.plans JOIN clinic.care", "needs USING (...) or ON"),
    ("SELECT COUNT(*) FROM insurer.plans JOIN insurer.plans USING (person_id, year)", "joined with itself"),
    ("SELECT COUNT(*) FROM insurer.plans a JOIN insurer.plans b USING (person_id, year)", "joined with itself"),
    ("SELECT COUNT(*) FROM insurer.plans a JOIN clinic.care a USING (person_id, year)", "names two tables"),
    (f"{JOIN} USING (person_id)", "whole unique key of both datasets: (person_id, year) of insurer.plans"),
    (f"{JOIN} USING (year)", "whole unique key"),
    (f"{JOIN} USING (person_id, year, female)", "whole unique key"),
    (f"{JOIN} USING (person_id, person_id)", "whole unique key"),
    (f"{JOIN} ON p.person_id = c.person_id", "whole unique key"),
    (f"{JOIN} ON p.person_id = c.person_id AND p.year = c.year AND p.year = c.year", "whole unique key"),
    (f"{JOIN} ON p.person_id = c.person_id OR p.year = c.year", "is not accepted in ON"),
    (f"{JOIN} ON p.person_id = c.person_id AND p.year < c.year", "is not accepted in ON"),
    (f"{JOIN} ON p.person_id = c.person_id AND p.year = c.doctor_visits", "must equate a key column"),
    (f"{JOIN} ON p.person_id = c.person_id AND p.year = p.year", "must equate a key column"),
    (f"{JOIN} ON p.person_id = c.person_id AND p.year = c.year + 1", "is not a column name"),
    (f"{JOIN} ON true", "is not accepted in ON"),
    (f"{JOIN} ON p.person_id = c.person_id AND p.year = c.year AND p.female = 1", "is not a column name"),
    ("SELECT COUNT(*) FROM insurer.plans JOIN clinic.trial USING (person_id, year)", "do not identify the same privacy units"),
    ("SELECT COUNT(*) FROM clinic.care JOIN registry.births USING (person_id)", "whole unique key"),
    ("SELECT COUNT(*) FROM clinic.care JOIN registry.births USING (person_id, year)", "whole unique key"),
    ("SELECT COUNT(*) FROM insurer.plans JOIN (SELECT 1) x USING (year)", "cannot be read from"),
    ("SELECT COUNT(*) FROM insurer.plans, LATERAL (SELECT 1)", "cannot be read from"),
    ("SELECT COUNT(*) FROM insurer.plans JOIN clinic.care USING (person_id, year) JOIN clinic.trial USING (year)", "not 3"),
    # outputs
    ("SELECT FROM insurer.plans", "no aggregate"),
    ("SELECT * FROM insurer.plans", "SELECT * is not accepted; rows never leave"),
    ("SELECT p.* FROM insurer.plans p", "SELECT * is not accepted"),
    ("SELECT COLUMNS('.*') FROM insurer.plans", "is not accepted in SELECT"),
    ("SELECT COUNT(*), * EXCLUDE (year) FROM insurer.plans", "SELECT * is not accepted"),
    ("SELECT person_id FROM insurer.plans", "raw values never leave"),
    ("SELECT year, COUNT(*) FROM insurer.plans", "raw values never leave"),
    ("SELECT female, COUNT(*) FROM insurer.plans GROUP BY year", "raw values never leave"),
    ("SELECT 1 FROM insurer.plans", "(Literal) is not accepted in SELECT"),
    ("SELECT COUNT(*), 'x' FROM insurer.plans", "(Literal) is not accepted in SELECT"),
    ("SELECT MIN(medical_spend) FROM insurer.plans", "(Min) is not accepted in SELECT"),
    ("SELECT MAX(year) FROM insurer.plans", "(Max) is not accepted in SELECT"),
    ("SELECT MEDIAN(year) FROM insurer.plans", "(Median) is not accepted in SELECT"),
    ("SELECT STDDEV(medical_spend) FROM insurer.plans", "is not accepted in SELECT"),
    ("SELECT ANY_VALUE(person_id) FROM insurer.plans", "is not accepted in SELECT"),
    ("SELECT LIST(person_id) FROM insurer.plans", "is not accepted in SELECT"),
    ("SELECT STRING_AGG(region, ',') FROM insurer.plans", "is not accepted in SELECT"),
    ("SELECT COUNT_IF(year = 1) FROM insurer.plans", "is not accepted in SELECT"),
    ("SELECT APPROX_COUNT_DISTINCT(year) FROM insurer.plans", "is not accepted in SELECT"),
    ("SELECT sleep_ms(1000) FROM insurer.plans", "is not accepted in SELECT"),
    ("SELECT random() FROM insurer.plans", "(Rand) is not accepted in SELECT"),
    ("SELECT error('x') FROM insurer.plans", "is not accepted in SELECT"),
    ("SELECT read_text('/etc/passwd') FROM insurer.plans", "is not accepted in SELECT"),
    ("SELECT getenv('HOME') FROM insurer.plans", "is not accepted in SELECT"),
    ("SELECT current_setting('x') FROM insurer.plans", "is not accepted in SELECT"),
    ("SELECT nextval('s') FROM insurer.plans", "is not accepted in SELECT"),
    ("SELECT now() FROM insurer.plans", "is not accepted in SELECT"),
    ("SELECT (SELECT COUNT(*) FROM clinic.care) FROM insurer.plans", "(Subquery) is not accepted in SELECT"),
    ("SELECT COUNT(*) OVER () FROM insurer.plans", "(Window) is not accepted in SELECT"),
    ("SELECT SUM(year) OVER (ORDER BY year) FROM insurer.plans", "(Window) is not accepted in SELECT"),
    ("SELECT COUNT(*) FILTER (WHERE year = 1) FROM insurer.plans", "(Filter) is not accepted in SELECT"),
    ("SELECT COUNT(*) + 1 FROM insurer.plans", "(Add) is not accepted in SELECT"),
    ("SELECT -COUNT(*) FROM insurer.plans", "(Neg) is not accepted in SELECT"),
    ("SELECT CAST(COUNT(*) AS DOUBLE) FROM insurer.plans", "(Cast) is not accepted in SELECT"),
    ("SELECT COUNT(*)::INT FROM insurer.plans", "(Cast) is not accepted in SELECT"),
    ("SELECT CASE WHEN year = 1 THEN 1 END FROM insurer.plans", "(Case) is not accepted in SELECT"),
    ("SELECT COUNT() FROM insurer.plans", "is not accepted inside COUNT"),
    ("SELECT COUNT(year, female) FROM insurer.plans", "EXPRESSIONS is not accepted in COUNT"),
    ("SELECT COUNT(1) FROM insurer.plans", "is not accepted inside COUNT"),
    ("SELECT COUNT(DISTINCT person_id) FROM insurer.plans", "COUNT(DISTINCT ...) is not accepted"),
    ("SELECT SUM(DISTINCT medical_spend) FROM insurer.plans", "SUM(DISTINCT ...) is not accepted"),
    ("SELECT SUM(*) FROM insurer.plans", "is not accepted inside SUM"),
    ("SELECT SUM(medical_spend * 1000) FROM insurer.plans", "(Mul) is not accepted inside SUM"),
    ("SELECT SUM(CAST(year AS DOUBLE)) FROM insurer.plans", "(Cast) is not accepted inside SUM"),
    ("SELECT SUM(CASE WHEN person_id = 7 THEN 1 ELSE 0 END) FROM insurer.plans", "(Case) is not accepted inside SUM"),
    ("SELECT AVG(SUM(medical_spend)) FROM insurer.plans", "(Sum) is not accepted inside AVG"),
    ("SELECT AVG(year) FROM insurer.plans", "AVG(insurer.plans.year) needs declared bounds"),
    ("SELECT SUM(region) FROM insurer.plans", "SUM(insurer.plans.region) needs declared bounds"),
    ("SELECT COUNT(*) AS n, COUNT(year) AS n FROM insurer.plans", "output names must be distinct"),
    ('SELECT COUNT(*) AS "a b" FROM insurer.plans', "must be 1 to 40 of a-z"),
    ('SELECT COUNT(*) AS "\'; DROP" FROM insurer.plans', "must be 1 to 40 of a-z"),
    ("SELECT " + ", ".join(f"COUNT(*) AS c{i}" for i in range(MAX_OUTPUTS + 1)) + " FROM insurer.plans", "at most 100"),
    # columns
    ("SELECT COUNT(nothing) FROM insurer.plans", "unknown column `nothing`"),
    ("SELECT COUNT(doctor_visits) FROM insurer.plans", "unknown column `doctor_visits`"),
    ("SELECT COUNT(x.year) FROM insurer.plans", "unknown table `x`"),
    ("SELECT COUNT(clinic.care.year) FROM insurer.plans", "unknown table `clinic.care`"),
    ("SELECT COUNT(insurer.plans.nothing) FROM insurer.plans", "has no column `nothing`"),
    ("SELECT COUNT(rowid) FROM insurer.plans", "unknown column `rowid`"),
    # grouping
    ("SELECT person_id, COUNT(*) FROM insurer.plans GROUP BY person_id", "needs a declared domain"),
    ("SELECT medical_spend, COUNT(*) FROM insurer.plans GROUP BY medical_spend", "needs a declared domain"),
    ("SELECT COUNT(*) FROM insurer.plans GROUP BY year", "group key `insurer.plans.year` must also be selected"),
    ("SELECT year FROM insurer.plans GROUP BY year", "has no aggregate"),
    ("SELECT year, COUNT(*) FROM insurer.plans GROUP BY year, year", "names a column twice"),
    ("SELECT year, COUNT(*) FROM insurer.plans GROUP BY 1", "is not a column name"),
    ("SELECT year, COUNT(*) FROM insurer.plans GROUP BY year % 2", "is not a column name"),
    ("SELECT year, COUNT(*) FROM insurer.plans GROUP BY ALL", "GROUP BY"),
    ("SELECT year, COUNT(*) FROM insurer.plans GROUP BY ROLLUP (year)", "(Rollup) is not a column name"),
    ("SELECT year, COUNT(*) FROM insurer.plans GROUP BY CUBE (year)", "(Cube) is not a column name"),
    ("SELECT year, COUNT(*) FROM insurer.plans GROUP BY GROUPING SETS ((year), ())", "(GroupingSets) is not a column name"),
    ("SELECT postcode, year, COUNT(*) FROM insurer.plans GROUP BY postcode, year", "more than 10000 combinations"),
    # conditions
    (f"{SELECT} WHERE true", "(Boolean) is not accepted in WHERE"),
    (f"{SELECT} WHERE 1 = 1", "compare a column with a constant"),
    (f"{SELECT} WHERE female", "(Column) is not accepted in WHERE"),
    (f"{SELECT} WHERE year = female", "with another column is not accepted"),
    (f"{SELECT} WHERE year + 1 = 2", "no functions or arithmetic"),
    (f"{SELECT} WHERE year = 1 + 1", "(Add) is not a constant"),
    (f"{SELECT} WHERE year = NULL", "(Null) is not a constant"),
    (f"{SELECT} WHERE year = TRUE", "(Boolean) is not a constant"),
    (f"{SELECT} WHERE year = 0xFF", "is not valid SQL"),
    (f"{SELECT} WHERE year = - - 1", "is not a constant"),
    (f"{SELECT} WHERE year = CAST('1' AS INT)", "(Cast) is not a constant"),
    (f"{SELECT} WHERE year = random()", "(Rand) is not a constant"),
    (f"{SELECT} WHERE year = (SELECT 1)", "(Subquery) is not a constant"),
    (f"{SELECT} WHERE year = ANY (SELECT 1)", "is not a constant"),
    (f"{SELECT} WHERE year = ?", "(Placeholder) is not a constant"),
    (f"{SELECT} WHERE year = $1", "is not a constant"),
    (f"{SELECT} WHERE year IN (SELECT 1)", "QUERY is not accepted in IN"),
    (f"{SELECT} WHERE year IN (female)", "is not a constant"),
    (f"{SELECT} WHERE year IN (1, NULL)", "is not a constant"),
    (f"{SELECT} WHERE (year, female) IN ((1, 1))", "is not a column name"),
    (f"{SELECT} WHERE EXISTS (SELECT 1)", "(Exists) is not accepted in WHERE"),
    (f"{SELECT} WHERE year IS TRUE", "only IS NULL and IS NOT NULL"),
    (f"{SELECT} WHERE year IS DISTINCT FROM 1", "is not accepted in WHERE"),
    (f"{SELECT} WHERE region LIKE 'n%'", "(Like) is not accepted in WHERE"),
    (f"{SELECT} WHERE region ~ 'n'", "is not accepted in WHERE"),
    (f"{SELECT} WHERE regexp_matches(region, 'n')", "is not accepted in WHERE"),
    (f"{SELECT} WHERE sleep_ms(9) = 1", "no functions or arithmetic"),
    (f"{SELECT} WHERE COUNT(*) > 1", "no functions or arithmetic"),
    (f"{SELECT} WHERE year BETWEEN 1 AND female", "is not a constant"),
    (f"{SELECT} WHERE year BETWEEN SYMMETRIC 2 AND 1", "SYMMETRIC is not accepted in BETWEEN"),
    (f"{SELECT} WHERE 1 < year < 3", "no functions or arithmetic"),
    (f"{SELECT} WHERE year = 1 XOR female = 1", "is not"),
    (f"{SELECT} WHERE year & 1 = 1", "no functions or arithmetic"),
    (f"{SELECT} WHERE year = '1'", "is a number; compare it with a number"),
    (f"{SELECT} WHERE region = 1", "is text; compare it with a quoted string"),
    (f"{SELECT} WHERE region = -'a'", "is text; compare it with a quoted string"),
    (f"{SELECT} WHERE year = 1.5", "at most 0 fractional digits"),
    (f"{SELECT} WHERE medical_spend > 0.001", "at most 2 fractional digits"),
    (f"{SELECT} WHERE year = 1e3", "is not a plain decimal number"),
    (f"{SELECT} WHERE year < 1e999999999", "is not a plain decimal number"),
    (f"{SELECT} WHERE year < 9007199254740992", "is too large"),
    (f"{SELECT} WHERE medical_spend < 90071992547409.92", "is too large"),
    (f"{SELECT} WHERE year = 1.00000000000000000000000000000001", "is not a plain decimal number"),
    (f"{SELECT} WHERE region = 'a\rb'", "control character"),
    (f"{SELECT} WHERE region = 'a\x7fb'", "control character"),
    (f"{SELECT} WHERE region = 'a\ud800b'", "control character or a lone surrogate"),
    (f"{SELECT} WHERE region = E'a\\x01'", "is not a constant"),
    (f"{SELECT} WHERE year IN ({', '.join('1' for _ in range(MAX_TERMS + 1))})", "IN needs 1 to 500 constants"),
    (f"{SELECT} WHERE {' AND '.join(['year=1'] * (MAX_TERMS + 1))}", "WHERE has more than 500 terms"),
    (f"{SELECT} WHERE {' OR '.join(['year=1'] * 1800)}", "WHERE has more than 500 terms"),
    (f"{SELECT} WHERE {'NOT ' * (MAX_CONDITION_DEPTH + 1)} year = 1", "more than 10 levels deep"),
    (f"{SELECT} WHERE {'(year=1 AND (year=2 OR ' * 6} year=3 {'))' * 6}", "more than 10 levels deep"),
    # bytes
    (f"{SELECT}\x00", "control character"),
    (f"{SELECT}\x1b", "control character"),
    (f"{SELECT} WHERE year = 1\x0c", "control character"),
]


@pytest.mark.parametrize(("sql", "fragment"), REFUSED, ids=[ascii(sql[-60:]) for sql, _ in REFUSED])
def test_construct_outside_the_language_is_refused_by_name(sql: str, fragment: str) -> None:
    with pytest.raises(Malformed) as refused:
        _parse(sql)
    assert fragment in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600


DEEP = {
    "a million characters": SELECT + " " * 1_000_000,
    "a million digits": f"{SELECT} WHERE year = {'1' * 1_000_000}",
    "digits up to the limit": f"{SELECT} WHERE year = {'1' * 19_000}",
    "parentheses": f"{SELECT} WHERE {'(' * 5000}year = 1{')' * 5000}",
    "parentheses behind closing ones in a string": f"{SELECT} WHERE region = '{')' * 5000}' AND {'(' * 5000}year=1{')' * 5000}",
    "negations": f"{SELECT} WHERE {'NOT ' * 4000}year = 1",
    "signs": f"{SELECT} WHERE year = {'- ' * 9000}1",
    "brackets": f"{SELECT} WHERE year = {'[' * 9000}",
    "braces": f"{SELECT} WHERE year = {'{1:' * 4000}",
    "cases": f"{SELECT} WHERE {'CASE WHEN ' * 1500}1",
    "casts": f"{SELECT} WHERE year{'::INT' * 3000} = 1",
    "arithmetic": f"{SELECT} WHERE {'1+' * 9000}1 = year",
    "functions": f"SELECT {'f(' * MAX_NESTING}1{')' * MAX_NESTING} FROM insurer.plans",
    "lambdas": f"SELECT f({'x -> ' * 3000}1) FROM insurer.plans",
    "conjunctions in ON": f"{JOIN} ON {' AND '.join(['p.year=c.year'] * 1000)}",
    "a thousand joins": "SELECT COUNT(*) FROM insurer.plans" + " JOIN a.b USING (x)" * 1000,
    "a thousand comma joins": "SELECT COUNT(*) FROM insurer.plans" + ", a.b" * 3000,
    "a thousand unions": SELECT[:20] + " UNION SELECT 1" * 1200,
    "a thousand statements": "SELECT 1;" * 2000,
    "a thousand outputs": "SELECT " + "COUNT(*)," * 2000 + "1 FROM insurer.plans",
    "a long name": f"SELECT COUNT({'a' * 15_000}) FROM insurer.plans",
    "a long alias": f"SELECT COUNT(*) AS {'a' * 15_000} FROM insurer.plans",
    "quotes": f"{SELECT} WHERE region = {chr(39) * 9001}",
    "open comments": SELECT + "/*" * 9000,
    "dollar quotes": SELECT + "$a$" * 6000,
}


@pytest.mark.parametrize("sql", DEEP.values(), ids=DEEP.keys())
def test_huge_query_is_refused_within_seconds(sql: str) -> None:
    started = time.perf_counter()
    with pytest.raises(Malformed) as refused:
        _parse(sql)
    assert time.perf_counter() - started < 5
    assert len(str(refused.value)) < 600


def test_query_of_the_longest_length_is_read() -> None:
    padding = " " * (MAX_SQL - len(SELECT))
    assert _parse(SELECT + padding) == _parse(SELECT)
    with pytest.raises(Malformed, match="longer than 20000"):
        _parse(SELECT + padding + " ")


def test_most_terms_and_deepest_condition_have_a_canonical_form_inside_documents() -> None:
    widest = _where(" OR ".join(["year=1"] * MAX_TERMS))
    assert isinstance(widest.where, AnyOf)
    assert len(widest.where.terms) == MAX_TERMS
    deep = "year = 1"
    for level in range(MAX_CONDITION_DEPTH):
        deep = f"(female IN (1, 0) {'AND' if level % 2 else 'OR'} {deep})"
    deepest = _where(deep)
    document = {"entry": {"grant": {"plan": encode(deepest)}}}
    assert decode(Plan, parse_json(canonical(document))["entry"]["grant"]["plan"]) == deepest


def test_accepted_join_has_its_exact_plan() -> None:
    visits = _column("doctor_visits", "clinic.care")
    assert _parse(JOIN_SQL) == Plan(
        sources=("insurer.plans", "clinic.care"),
        join=("person_id", "year"),
        where=Compare(column=_column("female"), operator="=", value=1),
        group_by=(_column("coinsurance"),),
        outputs=(
            KeyOutput(name="coinsurance", column=_column("coinsurance")),
            AggregateOutput(name="years", function="COUNT"),
            AggregateOutput(name="visits", function="AVG", column=visits),
            AggregateOutput(name="spend", function="SUM", column=_column("medical_spend")),
        ),
    )


def test_accepted_count_has_default_names_by_position() -> None:
    asked = _parse("SELECT COUNT(*), COUNT(person_id), SUM(medical_spend), AVG(medical_spend) m FROM insurer.plans")
    assert [output.name for output in asked.outputs] == ["count_rows_0", "count_person_id_1", "sum_medical_spend_2", "m"]
    assert (asked.sources, asked.join, asked.where, asked.group_by) == (("insurer.plans",), (), None, ())


def _compare(column: str, operator: Any, value: int | str) -> Compare:
    return Compare(column=_column(column), operator=operator, value=value)


CONDITIONS = [
    ("year = 1", _compare("year", "=", 1)),
    ("year <> -1", _compare("year", "<>", -1)),
    ("year != 1", _compare("year", "<>", 1)),
    ("medical_spend >= 12.5", _compare("medical_spend", ">=", 1250)),
    ("medical_spend < .5", _compare("medical_spend", "<", 50)),
    ("medical_spend > -0.10", _compare("medical_spend", ">", -10)),
    ("region = 'north'", _compare("region", "=", "north")),
    ("region <> 'it''s \u00e9'", _compare("region", "<>", "it's \u00e9")),
    ("region < ''", _compare("region", "<", "")),
    ("year IN (3, 1)", OneOf(column=_column("year"), values=(3, 1))),
    ("region NOT IN ('a')", Not(term=OneOf(column=_column("region"), values=("a",)))),
    ("year IS NULL", IsNull(column=_column("year"))),
    ("year IS NOT NULL", Not(term=IsNull(column=_column("year")))),
    ("year BETWEEN 1 AND 3", AllOf(terms=(_compare("year", ">=", 1), _compare("year", "<=", 3)))),
    ("NOT year = 1", Not(term=_compare("year", "=", 1))),
    (
        "year = 1 AND female = 0 OR year = 2",
        AnyOf(terms=(AllOf(terms=(_compare("year", "=", 1), _compare("female", "=", 0))), _compare("year", "=", 2))),
    ),
    (
        "year = 1 AND (female = 0 OR year = 2)",
        AllOf(terms=(_compare("year", "=", 1), AnyOf(terms=(_compare("female", "=", 0), _compare("year", "=", 2))))),
    ),
    (
        "NOT (year = 1 AND female = 0)",
        Not(term=AllOf(terms=(_compare("year", "=", 1), _compare("female", "=", 0)))),
    ),
]


@pytest.mark.parametrize(("condition", "expected"), CONDITIONS, ids=[condition for condition, _ in CONDITIONS])
def test_accepted_condition_has_its_exact_plan(condition: str, expected: Any) -> None:
    assert _where(condition).where == expected


EQUIVALENT = [
    ("year = 1", "1 = year"),
    ("year < 2", "2 > year"),
    ("year <= 2", "2 >= year"),
    ("year > 2", "2 < year"),
    ("year >= 2", "2 <= year"),
    ("year <> 2", "2 != year"),
    ("year = 1", "YEAR = 1"),
    ("year = 1", "Insurer.Plans.Year = 1"),
    ("year = 1", "plans.year = 1"),
    ("year = 1", '"year" = 1'),
    ("year = 1", "((year = 1))"),
    ("year = 1", "year = 1.00"),
    ("year = 1", "year = 1 -- AND female = 1"),
    ("year = 1", "/* female = 1 AND */ year = 1"),
    ("year BETWEEN 1 AND 3", "year >= 1 AND year <= 3"),
    ("year BETWEEN 1 AND 3 AND female = 1", "(year >= 1 AND (year <= 3 AND female = 1))"),
    ("year = 1 OR year = 2 OR year = 3", "year = 1 OR (year = 2 OR year = 3)"),
    ("year NOT IN (1)", "NOT year IN (1)"),
    ("medical_spend > 5", "medical_spend > 5.0"),
]


@pytest.mark.parametrize(("one", "other"), EQUIVALENT, ids=[other for _, other in EQUIVALENT])
def test_equivalent_conditions_give_the_same_plan(one: str, other: str) -> None:
    assert _where(one) == _where(other)


@pytest.mark.parametrize(
    "join",
    [
        "p JOIN clinic.care c USING (person_id, year)",
        "p JOIN clinic.care c USING (year, person_id)",
        "p INNER JOIN clinic.care AS c USING (person_id, year)",
        "p inner join CLINIC.Care c using (PERSON_ID, Year)",
        "p JOIN clinic.care c ON p.person_id = c.person_id AND p.year = c.year",
        "p JOIN clinic.care c ON p.year = c.year AND c.person_id = p.person_id",
        "p JOIN clinic.care c ON ((c.year = p.year) AND (p.person_id = c.person_id))",
        "JOIN clinic.care ON plans.person_id = care.person_id AND insurer.plans.year = clinic.care.year",
    ],
)
def test_equivalent_joins_give_the_same_plan(join: str) -> None:
    asked = _parse(f"SELECT year, COUNT(*) AS n, AVG(doctor_visits) AS v FROM insurer.plans {join} GROUP BY year")
    assert asked == Plan(
        sources=("insurer.plans", "clinic.care"),
        join=("person_id", "year"),
        group_by=(_column("year"),),
        outputs=(
            KeyOutput(name="year", column=_column("year")),
            AggregateOutput(name="n", function="COUNT"),
            AggregateOutput(name="v", function="AVG", column=_column("doctor_visits", "clinic.care")),
        ),
    )


def test_column_of_both_datasets_that_is_no_key_needs_its_table() -> None:
    shared = Column(name="female", type="integer")
    clinic = declaration_clinic(columns=(*declaration_clinic().columns, shared))
    sql = "SELECT COUNT({}) AS n FROM insurer.plans JOIN clinic.care USING (person_id, year)"
    with pytest.raises(Malformed, match="is in both datasets; write it with its table"):
        parse_plan(sql.format("female"), {**DECLARATIONS, "clinic.care": clinic})
    asked = parse_plan(sql.format("care.female"), {**DECLARATIONS, "clinic.care": clinic})
    assert asked.outputs[0].column == _column("female", "clinic.care")


def test_cells_are_the_product_of_the_domains() -> None:
    sql = "SELECT year, coinsurance, female, COUNT(*) AS n FROM insurer.plans GROUP BY year, coinsurance, female"
    assert cells(_parse(sql), DECLARATIONS) == 5 * 5 * 2
    assert cells(_parse(SELECT), DECLARATIONS) == 1


def test_parser_version_names_the_parser_and_its_release() -> None:
    name, _, release = PARSER_VERSION.partition("/")
    assert name == "sqlglot"
    assert release[0].isdigit()


FORGED: list[tuple[dict[str, Any], str]] = [
    ({"sources": ("insurer.plans", "clinic.nothing")}, "unknown-column"),
    ({"sources": ("clinic.care", "registry.births")}, "unknown-column"),
    ({"join": ("person_id",)}, "join-key"),
    ({"join": ("year", "person_id")}, "join-key"),
    ({"join": ("person_id", "person_id", "year")}, "join-key"),
    ({"sources": ("insurer.plans",), "join": ()}, "unknown-column"),
    ({"where": _compare("nothing", "=", 1)}, "unknown-column"),
    ({"where": Not(term=Compare(column=_column("year", "clinic.trial"), operator="=", value=1))}, "unknown-column"),
    ({"where": Compare(column=_column("year", "no.such"), operator="=", value=1)}, "unknown-dataset"),
    ({"where": _compare("year", "=", "1")}, "malformed"),
    ({"where": AllOf(terms=(_compare("region", "=", 1),))}, "malformed"),
    ({"where": OneOf(column=_column("year"), values=(1, "2"))}, "malformed"),
    ({"group_by": (_column("year", "clinic.trial"),)}, "unknown-column"),
    ({"group_by": (_column("coinsurance"), _column("coinsurance"))}, "malformed"),
    ({"group_by": ()}, "raw-column"),
    ({"group_by": (_column("person_id"), _column("coinsurance"))}, "domain-missing"),
]


@pytest.mark.parametrize(("change", "code"), FORGED, ids=[f"{next(iter(change))} {code}" for change, code in FORGED])
def test_plan_that_no_query_has_gets_no_schedule(change: dict[str, Any], code: str) -> None:
    forged = replace(_parse(JOIN_SQL), **change)
    with pytest.raises(Malformed) as refused:
        schedule(forged, DECLARATIONS, parse_epsilon("1"), 10)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "output",
    [
        KeyOutput(name="person", column=_column("person_id")),
        KeyOutput(name="years", column=_column("coinsurance")),
        AggregateOutput(name='n"; DROP', function="COUNT"),
        AggregateOutput(name="n", function="SUM", column=_column("year")),
        AggregateOutput(name="n", function="SUM", column=_column("medical_spend", "clinic.care")),
        AggregateOutput(name="n", function="AVG", column=_column("doctor_visits", "clinic.trial")),
    ],
)
def test_forged_output_gets_no_schedule(output: KeyOutput | AggregateOutput) -> None:
    good = _parse(JOIN_SQL)
    with pytest.raises(Malformed):
        schedule(replace(good, outputs=(*good.outputs, output)), DECLARATIONS, parse_epsilon("1"), 10)


def test_plan_on_an_unknown_dataset_gets_no_schedule() -> None:
    with pytest.raises(Malformed) as refused:
        schedule(replace(_parse(SELECT), sources=("insurer.nothing",)), DECLARATIONS, parse_epsilon("1"), 10)
    assert refused.value.code == "unknown-dataset"


def test_join_over_different_units_gets_no_schedule() -> None:
    good = _parse(JOIN_SQL)
    trial = replace(DECLARATIONS["clinic.care"], id_space="trial-2026")
    with pytest.raises(Malformed) as refused:
        schedule(good, {**DECLARATIONS, "clinic.care": trial}, parse_epsilon("1"), 10)
    assert refused.value.code == "join-unit"


@pytest.mark.parametrize(
    "change",
    [
        {"sources": ()},
        {"sources": ("insurer.plans", "insurer.plans")},
        {"sources": ("insurer.plans", "clinic.care", "clinic.trial")},
        {"sources": ("insurer.plans",)},
        {"join": ()},
        {"outputs": ()},
        {"outputs": (KeyOutput(name="coinsurance", column=_column("coinsurance")),)},
    ],
    ids=str,
)
def test_plan_without_sense_cannot_be_built(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        replace(_parse(JOIN_SQL), **change)


# Fuzzing: queries from a grammar of the accepted language, then damaged.

_KEYS = ("year", "coinsurance", "female", "region")
_LEAVES = st.one_of(
    st.builds("{} {} {}".format, st.sampled_from(_KEYS[:3]), st.sampled_from(["=", "<>", "<=", ">"]), st.integers(-9, 99)),
    st.builds("{} IN ({}, {})".format, st.sampled_from(_KEYS[:3]), st.integers(0, 9), st.integers(0, 9)),
    st.builds("medical_spend BETWEEN {} AND {}".format, st.integers(0, 9), st.integers(9, 99)),
    st.builds("{} IS {}NULL".format, st.sampled_from(_KEYS), st.sampled_from(["", "NOT "])),
    st.builds("region = '{}'".format, st.text("ab \u00e9\u8d39", max_size=4)),
)
_CONDITIONS = st.recursive(
    _LEAVES,
    lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from(["AND", "OR"]), inner) | inner.map("NOT ({})".format),
    max_leaves=8,
)


@st.composite
def _queries(draw: st.DrawFn) -> str:
    keys = draw(st.lists(st.sampled_from(_KEYS), unique=True, max_size=3))
    joined = draw(st.booleans())
    aggregates = ["COUNT(*)", "COUNT(female)", "SUM(medical_spend)", "AVG(medical_spend)"]
    if joined:
        aggregates += ["AVG(doctor_visits)", "COUNT(admissions)"]
    outputs = keys + draw(st.lists(st.sampled_from(aggregates), min_size=1, max_size=4))
    sql = f"SELECT {', '.join(outputs)} FROM insurer.plans"
    if joined:
        sql += " JOIN clinic.care USING (year, person_id)"
    if draw(st.booleans()):
        sql += f" WHERE {draw(_CONDITIONS)}"
    return sql + (f" GROUP BY {', '.join(keys)}" if keys else "")


@given(_queries())
@settings(max_examples=150, deadline=None)
def test_every_query_of_the_language_has_a_sound_plan_that_round_trips(sql: str) -> None:
    asked = _parse(sql)
    require_sound(asked, DECLARATIONS)
    assert decode(Plan, parse_json(canonical(encode(asked)))) == asked
    assert _parse(sql) == asked
    assert schedule(asked, DECLARATIONS, parse_epsilon("1"), 10)


_VOCABULARY = """
SELECT FROM WHERE GROUP BY JOIN USING ON AND OR NOT IN IS NULL BETWEEN AS COUNT SUM AVG HAVING LIMIT ORDER DISTINCT UNION
WITH OVER CASE WHEN END CAST EXISTS LATERAL PIVOT UNPIVOT VALUES LEFT FULL INTERVAL DATE STRUCT MAP ARRAY FILTER SAMPLE TRY
insurer clinic plans care year female ( ) [ ] { } , . * ; : :: = <> < > + - / % ' " $ $$ ? -> => || @ # ~ ! ^ & | \\ 0 1 1.5
1e9 0x 'x' \u00e9 \u202e \x00 \ud800 -- /* */ read_csv random sleep_ms
"""
_WORDS = _VOCABULARY.split()


def _accepts_or_refuses(sql: str) -> None:
    try:
        asked = _parse(sql)
    except Malformed:
        return
    require_sound(asked, DECLARATIONS)
    assert decode(Plan, parse_json(canonical(encode(asked)))) == asked


@given(st.text(max_size=60) | st.lists(st.sampled_from(_WORDS), max_size=25).map(" ".join))
@settings(max_examples=200, deadline=None)
def test_random_text_is_malformed_and_nothing_worse(sql: str) -> None:
    _accepts_or_refuses(sql)


@given(_queries(), st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_query_is_malformed_or_has_a_sound_plan(sql: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(sql)))
        end = data.draw(st.integers(start, min(len(sql), start + 12)))
        inserted = data.draw(st.sampled_from(["", " ", *_WORDS]) | st.text(max_size=3))
        sql = sql[:start] + inserted + sql[end:]
    _accepts_or_refuses(sql)

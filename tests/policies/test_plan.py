"""What the query language accepts has one exact plan; all else is refused by name and place, fast, and with nothing but Malformed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from policies.canonical import canonical, parse_json
from policies.codec import decode, encode
from policies.errors import Malformed
from policies.expression import Call, Constant, Ref
from policies.plan import PARSER_VERSION, parse_plan
from policies.privacy import parse_loss
from policies.query import (
    MAX_OUTPUTS,
    MAX_SQL,
    AggregateOutput,
    Equality,
    Having,
    Join,
    Key,
    KeyOutput,
    Order,
    PerUnit,
    Plan,
    Table,
    UnitColumn,
)
from policies.schedule import schedule
from policies.shape import require_sound
from sandbox.party.checking import statements
from tests.support.sql import declarations, templates
from tests.support.terms import JOIN_SQL

DECLARATIONS = declarations()
CORPUS = Path(__file__).parent / "corpus"
ACCEPTED = [s.strip() for s in statements((CORPUS / "accepted.sql").read_text())]
REFUSED = [(s.partition("-- because: ")[2].partition("\n")[0], s) for s in statements((CORPUS / "refused.sql").read_text())]
SELECT = "SELECT COUNT(*) AS n FROM insurer.plans"


def _parse(sql: str) -> Plan:
    return parse_plan(sql, DECLARATIONS)


def _ref(column: str, table: str = "t0") -> Ref:
    return Ref(table=table, column=column)


def _integer(value: int) -> Constant:
    return Constant(value=value, type="integer")


def _call(function: Any, *arguments: Any) -> Call:
    return Call(function=function, arguments=arguments)


@pytest.mark.parametrize("sql", ACCEPTED)
def test_corpus_query_is_accepted_with_a_schedule(sql: str) -> None:
    plan = _parse(sql)
    assert decode(Plan, parse_json(canonical(encode(plan)))) == plan
    for measure in ("pure", "zcdp"):
        loss = parse_loss(measure, "1", "0.000001" if plan.discovers else "0")  # type: ignore[arg-type]
        assert sum(s.amount for s in schedule(plan, DECLARATIONS, loss, 10)) <= loss.amount


@pytest.mark.parametrize(("reason", "sql"), REFUSED, ids=[reason for reason, _ in REFUSED])
def test_corpus_query_is_refused_by_name(reason: str, sql: str) -> None:
    assert reason
    with pytest.raises(Malformed) as refused:
        _parse(sql)
    assert reason in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600
    assert re.fullmatch(r"line \d+, column \d+", refused.value.where or "")


PLACES = [
    ("SELECT COUNT(*),\n  random()\nFROM insurer.plans", "line 2, column 3"),
    ("SELECT COUNT(*)\nFROM insurer.plans\nWHERE year = 1 AND sleep_ms(9) = 1", "line 3, column 20"),
    ("SELECT COUNT(nothing) FROM insurer.plans", "line 1, column 14"),
    ("SELECT COUNT(*) FROM insurer.plans\nCROSS JOIN clinic.care", "line 2, column 12"),
    ("SELECT COUNT(*) FROM insurer.plans WHERE region = 1 AND year = 1", "line 1, column 42"),
    ("SELECT year,\n SUM(person_id) FROM insurer.plans GROUP BY year", "line 2, column 2"),
    ("SELECT COUNT(* FROM insurer.plans", "line 1, column 19"),
    ("SELECT COUNT(*)\nFROM insurer.plans WHERE region = 'north", "line 2, column 35"),
    ("SELECT COUNT(*) FROM insurer.plans\n WHERE \x01 = 1", "line 2, column 8"),
    (f"SELECT COUNT(*) FROM insurer.plans\nWHERE {'(' * 41}year = 1{')' * 41}", "line 2, column 47"),
    ("SELECT COUNT(*) FROM insurer.plans;\n DROP TABLE insurer.plans", "line 2, column 2"),
    ("SELECT WIDTH_BUCKET(medical_spend, , 2000, 8) AS b, COUNT(*) AS n FROM insurer.plans GROUP BY b", "line 1, column 8"),
]


@pytest.mark.parametrize(("sql", "place"), PLACES)
def test_refusal_tells_the_place(sql: str, place: str) -> None:
    with pytest.raises(Malformed) as refused:
        _parse(sql)
    assert refused.value.where == place


MORE_REFUSED = [
    ("", "one statement is accepted, not 0"),
    (f"{SELECT}; {SELECT}", "one statement is accepted, not 2"),
    (f"{SELECT} USING SAMPLE 10", "SAMPLE is not accepted"),
    ("SELECT COUNT(*) FROM insurer.plans TABLESAMPLE (1 ROWS)", "is not"),
    (f"{SELECT} FOR UPDATE", "LOCKS is not accepted in SELECT"),
    ("SELECT COUNT(*) INTO x FROM insurer.plans", "INTO is not accepted in SELECT"),
    ("SELECT COUNT(*)", "has no FROM"),
    ("SELECT COUNT(*) FROM plans", "needs its provider: write provider.plans"),
    ("SELECT COUNT(*) FROM insurer.other", "no dataset `insurer.other` in this agreement; it has clinic.care"),
    ("SELECT COUNT(*) FROM a.insurer.plans", "CATALOG is not accepted in table"),
    ('SELECT COUNT(*) FROM "../../insurer"."plans"', "must be 1 to 40 of a-z"),
    ("SELECT COUNT(*) FROM \u0456nsurer.plans", "must be 1 to 40 of a-z"),
    ("SELECT COUNT(*) FROM insurer.plans AS t(a, b)", "COLUMNS is not accepted in alias"),
    ("SELECT COUNT(*) FROM insurer.plans NATURAL JOIN clinic.care", "only an inner JOIN"),
    ("SELECT COUNT(*) FROM insurer.plans ASOF JOIN clinic.care USING (person_id, year)", "only an inner JOIN"),
    ("SELECT COUNT(*) FROM insurer.plans SEMI JOIN clinic.care USING (person_id, year)", "only an inner JOIN"),
    ("SELECT COUNT(*) FROM insurer.plans JOIN insurer.plans USING (person_id, year)", "names two tables"),
    ("SELECT COUNT(*), COUNT(year) AS n, COUNT(female) AS n FROM insurer.plans", "`n` stands twice"),
    ('SELECT COUNT(*) AS "a b" FROM insurer.plans', "must be 1 to 40 of a-z"),
    ("SELECT " + ", ".join(f"COUNT(*) AS c{i}" for i in range(MAX_OUTPUTS + 1)) + " FROM insurer.plans", "at most 100"),
    ("SELECT COUNT(clinic.care.year) FROM insurer.plans", "unknown table `clinic.care`"),
    ("SELECT year, COUNT(*) FROM insurer.plans GROUP BY year, 1", "a key twice"),
    ("SELECT postcode, year, COUNT(*) FROM insurer.plans GROUP BY postcode, year", "more than 10000 combinations"),
    ("SELECT COUNT(*) FROM insurer.plans JOIN clinic.care USING (person_id) WHERE year = 1", "write it with its table"),
    (f"{SELECT} WHERE year = 1e3", "is not a plain decimal number"),
    (f"{SELECT} WHERE year < 9007199254740992", "2^53 - 1"),
    (f"{SELECT} WHERE region = 'a\x7fb'", "control character"),
    (f"{SELECT} WHERE region = 'a\ud800b'", "control character or a lone surrogate"),
    (f"{SELECT}\x00", "control character"),
    (f"{SELECT} WHERE born = '2026-02-30'", "stands beside a date and is no day"),
    (f"{SELECT} WHERE year = 1.5", "needs declared bounds"),
    (f"{SELECT} HAVING COUNT(*) > 5 OR COUNT(*) < 3", "is not accepted in HAVING"),
    (f"{SELECT} HAVING n > COUNT(*)", "compare a selected aggregate with a number"),
    (f"{SELECT} ORDER BY year", "reads noised outputs only"),
    (f"{SELECT} ORDER BY 2", "is no position in SELECT"),
    ("SELECT COUNT(*) FROM (SELECT COUNT(*) AS n FROM ref.regions) q", "must group by the privacy unit"),
    ("SELECT COUNT(*) FROM (SELECT person_id, medical_spend FROM insurer.plans GROUP BY person_id) q", "neither aggregated nor a key"),
    ("SELECT AVG(m) AS a FROM (SELECT person_id, MEDIAN(medical_spend) AS m FROM insurer.plans GROUP BY person_id) q", "per privacy unit"),
    ("SELECT COUNT(*) FROM clinic.care c JOIN (SELECT p.person_id FROM insurer.plans p JOIN clinic.care d USING (person_id)) q "
     "USING (person_id)", "must come first in FROM"),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "fragment"), MORE_REFUSED, ids=[ascii(sql[-60:]) for sql, _ in MORE_REFUSED])
def test_construct_outside_the_language_is_refused(sql: str, fragment: str) -> None:
    with pytest.raises(Malformed) as refused:
        _parse(sql)
    assert fragment in str(refused.value)
    assert str(refused.value).isprintable()


_CTES = "WITH a0 AS (SELECT person_id FROM insurer.plans)" + "".join(
    f", a{i} AS (SELECT x.person_id FROM a{i - 1} x JOIN a{i - 1} y USING (person_id))" for i in range(1, 30)
)
HUGE = {
    "a million characters": SELECT + " " * 1_000_000,
    "a thousand-way join": SELECT + "".join(f" JOIN clinic.care c{i} USING (person_id)" for i in range(400)),
    "ten thousand parentheses": f"{SELECT} WHERE {'(' * 9_000}year = 1{')' * 9_000}",
    "ten thousand brackets": f"{SELECT} WHERE year = {'[' * 9_000}",
    "many negations": f"{SELECT} WHERE {'NOT ' * 4_900}year = 1",
    "many signs": f"{SELECT} WHERE year = {'- ' * 9_000}1",
    "many terms": f"{SELECT} WHERE {' OR '.join(f'year={i}' for i in range(1_500))}",
    "many summands": f"SELECT SUM(year{'+year' * 3_900}) FROM insurer.plans",
    "many quotients": f"SELECT SUM(medical_spend{'/2' * 9_000}) FROM insurer.plans",
    "nested cases": f"SELECT SUM({'CASE WHEN female = 1 THEN ' * 500}1{' END' * 500}) FROM insurer.plans",
    "subqueries that double": f"{_CTES} SELECT COUNT(*) FROM a29",
    "nested subqueries": "SELECT COUNT(*) FROM " + "(SELECT person_id FROM " * 30 + "insurer.plans" + ") q" * 30,
    "wide domains": "SELECT SUM("
    + "+".join(["doctor_visits % 9999"] * 480)
    + ") FROM clinic.care WHERE 1=2 OR 3=CASE WHEN 2=1 THEN 'a' END",
}


@pytest.mark.parametrize("sql", HUGE.values(), ids=HUGE.keys())
def test_huge_query_is_refused(sql: str) -> None:
    with pytest.raises(Malformed):
        _parse(sql)


@pytest.mark.parametrize("sql", ["DROP TABLE insurer.plans", "SET x = region", "COPY a TO '/tmp/b'", f"{SELECT} WHERE random(7) = 1"])
def test_no_part_of_a_query_reaches_a_log_by_the_parser(sql: str, caplog: pytest.LogCaptureFixture, capsys: Any) -> None:
    with pytest.raises(Malformed):
        _parse(sql)
    assert (caplog.records, *capsys.readouterr()) == ([], "", "")


def test_query_of_the_longest_length_is_read() -> None:
    padded = SELECT + " " * (MAX_SQL - len(SELECT))
    assert _parse(padded) == _parse(SELECT)
    with pytest.raises(Malformed, match="longer than"):
        _parse(padded + " ")


def test_accepted_join_has_its_exact_plan() -> None:
    assert _parse(JOIN_SQL) == Plan(
        source=Join(
            left=Table(alias="t0", dataset="insurer.plans"),
            right=Table(alias="t1", dataset="clinic.care"),
            on=tuple(Equality(left=_ref(name), right=_ref(name, "t1")) for name in ("person_id", "year")),
        ),
        where=_call("=", _ref("female"), _integer(1)),
        group_by=(Key(expression=_ref("coinsurance"), source="declared"),),
        outputs=(
            KeyOutput(name="coinsurance", key=0),
            AggregateOutput(name="years", function="COUNT"),
            AggregateOutput(name="visits", function="AVG", arguments=(_ref("doctor_visits", "t1"),)),
            AggregateOutput(name="spend", function="SUM", arguments=(_ref("medical_spend"),)),
        ),
    )


def test_subquery_per_unit_has_its_exact_plan() -> None:
    plan = _parse(
        "WITH s AS (SELECT person_id AS who, SUM(medical_spend) AS total FROM insurer.plans WHERE year < 3 GROUP BY 1 HAVING COUNT(*) > 1) "
        "SELECT AVG(total + 1) AS mean FROM s HAVING mean BETWEEN 1 AND 9.50 ORDER BY 1 DESC LIMIT 1"
    )
    assert plan == Plan(
        source=PerUnit(
            alias="q0",
            source=Table(alias="t0", dataset="insurer.plans"),
            by=_ref("person_id"),
            where=_call("<", _ref("year"), _integer(3)),
            unit="unit",
            columns=(UnitColumn(name="c0", function="SUM", argument=_ref("medical_spend")), UnitColumn(name="c1", function="COUNT")),
        ),
        where=_call(">", _ref("c1", "q0"), _integer(1)),
        outputs=(AggregateOutput(name="mean", function="AVG", arguments=(_call("add", _ref("c0", "q0"), _integer(1)),)),),
        having=(Having(output="mean", operator="<=", value="9.5"), Having(output="mean", operator=">=", value="1")),
        order=(Order(output="mean", descending=True),),
        limit=1,
    )


def test_keys_tell_where_their_values_come_from() -> None:
    plan = _parse(
        "SELECT p.year, r.area, p.region, YEAR(p.born) AS y, COUNT(*) AS n FROM insurer.plans p JOIN ref.regions r USING (region) "
        "GROUP BY 1, 2, 3, 4"
    )
    assert [key.source for key in plan.group_by] == ["declared", "public", "discovered", "declared"]


def test_default_names_tell_function_column_and_position() -> None:
    plan = _parse("SELECT COUNT(*), SUM(medical_spend), MEDIAN(medical_spend + 1), COUNT(DISTINCT person_id) FROM insurer.plans")
    assert [output.name for output in plan.outputs] == [
        "count_rows_0", "sum_medical_spend_1", "quantile_medical_spend_2", "count_units_rows_3",
    ]  # fmt: skip


EQUIVALENT = [
    ("year = 1", "1 = year"),
    ("year < 3", "3 > YEAR"),
    ("year < 3", "((((year)) < (3)))"),
    ("NOT year = 1", "year <> 1"),
    ("NOT NOT year = 1", "year = 1"),
    ("NOT year < 3", "year >= 3"),
    ("year BETWEEN 1 AND 3", "year <= 3 AND year >= 1"),
    ("year = 1 AND (female = 1 AND coinsurance = 0)", "coinsurance = 0 AND year = 1 AND female = 1 AND year = 1"),
    ("year = 1 OR female = 1", "female = 1 OR (year = 1)"),
    ("year IN (2, 1, 2)", "year IN (1, 2)"),
    ("year IN (1)", "year = 1"),
    ("year NOT IN (1, 2)", "NOT (year IN (2, 1))"),
    ("medical_spend = 1.50", "medical_spend = 1.5"),
    ("medical_spend + 1 + 2 > 5", "2 + (medical_spend + 1) > 5"),
    ("medical_spend * 2 * 3 > 5", "3 * (2 * medical_spend) > 5"),
    ("born = '1970-01-31'", "born = DATE '1970-01-31'"),
    ("year = female", "female = year"),
    ("year > female", "female < year"),
    ("region IS NOT NULL", "NOT region IS NULL"),
    ("region NOT LIKE 'a%'", "NOT (region LIKE 'a%')"),
    ("medical_spend > IF(female = 1, 5, 6)", "medical_spend > CASE WHEN female = 1 THEN 5 ELSE 6 END"),
    ("YEAR(born) = 1970", "EXTRACT(year FROM born) = 1970"),
    ("year = - - 1", "year = 1"),
]


@pytest.mark.parametrize(("one", "other"), EQUIVALENT, ids=[other for _, other in EQUIVALENT])
def test_equivalent_conditions_give_the_same_plan(one: str, other: str) -> None:
    assert _parse(f"{SELECT} WHERE {one}") == _parse(f"{SELECT} WHERE {other}")


@pytest.mark.parametrize(
    "join",
    [
        "insurer.plans JOIN clinic.care USING (person_id, year)",
        "INSURER.Plans inner join Clinic.CARE using (YEAR, person_id, year)",
        "insurer.plans a JOIN clinic.care b ON b.year = a.year AND (a.person_id = b.person_id)",
        "(SELECT * FROM insurer.plans) x JOIN clinic.care AS y USING (year, person_id)",
        "(SELECT medical_spend, person_id AS who, year AS y FROM insurer.plans) x JOIN clinic.care c ON x.who = c.person_id AND y = c.year",
    ],
)
def test_equivalent_joins_give_the_same_plan(join: str) -> None:
    wanted = "SELECT SUM(medical_spend) AS s FROM insurer.plans JOIN clinic.care USING (person_id, year)"
    assert _parse(f"SELECT SUM(medical_spend) AS s FROM {join}") == _parse(wanted)


def test_group_keys_by_name_alias_position_and_expression_are_the_same() -> None:
    plans = {
        canonical(encode(_parse(f"SELECT FLOOR(medical_spend / 50) AS b, COUNT(*) AS n FROM insurer.plans GROUP BY {key}")))
        for key in ("b", "1", "FLOOR(medical_spend / 50)", "floor((plans.medical_spend) / 50)")
    }
    assert len(plans) == 1


def test_parser_version_names_the_parser_its_release_and_the_language() -> None:
    assert re.fullmatch(r"sqlglot/[0-9.]+ plan/2", PARSER_VERSION)


FORGED = [
    {"having": (Having(output="coinsurance", operator=">", value="1"),)},
    {"source": Join(left=Table(alias="t0", dataset="insurer.plans"), right=Table(alias="t0", dataset="clinic.care"), on=())},
    {"where": _ref("female")},
    {"where": _call("=", _ref("secret"), _integer(1))},
    {"where": Constant(value=7, type="boolean")},
    {"group_by": (Key(expression=_ref("medical_spend"), source="declared"),)},
    {"group_by": (Key(expression=_ref("coinsurance"), source="public"),)},
    {"source": Table(alias='"; DROP', dataset="insurer.plans")},
]


@pytest.mark.parametrize("change", FORGED, ids=[str(i) for i in range(len(FORGED))])
def test_plan_that_no_query_has_is_unsound(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        require_sound(replace(_parse(JOIN_SQL), **change), DECLARATIONS)


def _try(sql: str) -> Plan:
    try:
        return _parse(sql)
    except Malformed as error:
        # Random arithmetic may ask for more than is kept; everything else is a fault of the parser.
        assume(error.code not in ("bounds-too-wide", "too-many-cells") and "decimals" not in error.message)
        raise


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(templates())
def test_plan_round_trips_and_does_not_depend_on_aliases(template: str) -> None:
    plan = _try(template.format(p="p", c="c"))
    require_sound(plan, DECLARATIONS)
    assert decode(Plan, parse_json(canonical(encode(plan)))) == plan
    assert _parse(template.format(p="t1", c="t0")) == plan
    assert _parse(template.format(p="Zed", c="plans").replace(" AND ", "\n and /* x */ ")) == plan


_WORDS = (
    "SELECT", "COUNT(*)", "FROM", "insurer.plans", "WHERE", "year", "=", "1", "(", ")", "GROUP BY", "HAVING", "ORDER BY", "LIMIT", "WITH",
    "a", "AS", "JOIN", "USING", "CASE", "WHEN", "THEN", "END", "OVER", ",", "SUM(medical_spend)", "NULL", "'x'", "-", "FILTER", "IN",
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(_WORDS), max_size=25).map(" ".join))
def test_random_text_is_malformed_and_nothing_worse(sql: str) -> None:
    try:
        require_sound(_parse(sql), DECLARATIONS)
    except Malformed:
        pass


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ACCEPTED), st.data())
def test_damaged_query_is_malformed_or_has_a_sound_plan(sql: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(sql)))
    damaged = sql[:start] + data.draw(st.sampled_from(_WORDS) | st.just("")) + sql[start + data.draw(st.integers(0, 5)) :]
    try:
        require_sound(_parse(damaged), DECLARATIONS)
    except Malformed:
        pass

"""Declarations for queries in SQL of every kind, and random SQL that is accepted."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from policies.declaration import Column, Declaration
from tests.support.terms import declaration_clinic, declaration_insurer


def declarations() -> dict[str, Declaration]:
    """Two protected tables of one id space, one of another, and a public table of regions."""
    insurer = declaration_insurer()
    extra = (
        Column(name="region", type="text"),
        Column(name="born", type="date", lower="1900-01-01", upper="2000-12-31"),
        Column(name="postcode", type="integer", domain=tuple(range(2500))),
    )
    regions = Declaration(
        dataset="ref.regions",
        title="Regions and their areas",
        unit="",
        id_space="",
        rows_per_unit=1,
        unique_key=("region",),
        columns=(Column(name="region", type="text"), Column(name="area", type="text")),
        public=True,
    )
    listed = (
        replace(insurer, columns=(*insurer.columns, *extra)),
        declaration_clinic(),
        declaration_clinic(dataset="clinic.trial", id_space="trial-2026"),
        regions,
    )
    return {declaration.dataset: declaration for declaration in listed}


_NUMBERS = ("{p}.medical_spend", "{c}.doctor_visits", "{c}.admissions", "3", "0.25")
_CONDITIONS = (
    "{p}.female = 1", "{c}.admissions IS NULL", "{p}.region LIKE 'n%'", "{p}.born < '1950-06-01'", "{p}.year IN (1, 2)",
    "{c}.doctor_visits BETWEEN 1 AND 5", "{p}.coinsurance <> 95",
)  # fmt: skip
_KEYS = ("{p}.year", "{p}.coinsurance", "{p}.region", "YEAR({p}.born)", "FLOOR({p}.medical_spend / 50)", "{p}.female = 1")


def _number(depth: int) -> st.SearchStrategy[str]:
    if depth == 0:
        return st.sampled_from(_NUMBERS)
    inner = _number(depth - 1)
    return st.one_of(
        inner,
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.sampled_from(("ABS", "FLOOR", "ROUND", "SIGN")), inner).map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(st.sampled_from(("LEAST", "GREATEST", "COALESCE")), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        st.tuples(_condition(depth - 1), inner, inner).map(lambda t: f"CASE WHEN {t[0]} THEN {t[1]} ELSE {t[2]} END"),
    )


def _condition(depth: int) -> st.SearchStrategy[str]:
    if depth == 0:
        return st.sampled_from(_CONDITIONS)
    inner = _condition(depth - 1)
    return st.one_of(
        inner,
        st.tuples(inner, st.sampled_from(("AND", "OR")), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda t: f"NOT ({t})"),
        st.tuples(_number(depth - 1), st.sampled_from(("<", "<=", ">", ">=", "=", "<>")), _number(depth - 1)).map(" ".join),
    )


def templates() -> st.SearchStrategy[str]:
    """Queries over a join with `{p}` and `{c}` for the tables' aliases; arithmetic may ask for more decimals than are kept."""
    aggregate = st.one_of(
        st.just("COUNT(*)"),
        st.just("COUNT(DISTINCT {p}.person_id)"),
        st.tuples(st.sampled_from(("SUM", "AVG", "STDDEV", "MEDIAN", "COUNT")), _number(2)).map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(st.sampled_from(("SUM", "AVG")), _number(1), _condition(1)).map(lambda t: f"{t[0]}({t[1]}) FILTER (WHERE {t[2]})"),
    )

    def query(parts: tuple[list[str], list[str], str | None, bool]) -> str:
        keys, aggregates, where, ordered = parts
        selected = [f"{key} AS k{i}" for i, key in enumerate(keys)] + [f"{a} AS a{i}" for i, a in enumerate(aggregates)]
        tail = (f" WHERE {where}" if where else "") + (f" GROUP BY {', '.join(f'k{i}' for i in range(len(keys)))}" if keys else "")
        join = "FROM insurer.plans AS {p} JOIN clinic.care AS {c} ON {c}.person_id = {p}.person_id AND {p}.year = {c}.year"
        return f"SELECT {', '.join(selected)} {join}{tail}{' ORDER BY a0 DESC LIMIT 7' if ordered else ''}"

    return st.tuples(
        st.lists(st.sampled_from(_KEYS), max_size=2, unique=True),
        st.lists(aggregate, min_size=1, max_size=3),
        st.none() | _condition(2),
        st.booleans(),
    ).map(query)

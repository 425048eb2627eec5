"""Noise: the mechanism's own privacy map, its distribution, and that nothing but noised values tells two neighbouring tables apart."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import enclaves.gate
from enclaves.aggregate import Exact, aggregate
from enclaves.dp import LossExceeded, add_noise
from enclaves.gate import pad, pass_gate
from policies.grant import Grant
from policies.privacy import NANO, SCALE_UNIT, Loss, Statistic, scale_for
from policies.query import MAX_SUM
from tests.support import terms
from tests.support.runs import care, grant_for, plans

DRAWS = 20_000
WIDEST = 2**53 - 1
"""The widest scale that a schedule may have; up to here the map, which rounds up by as much as one part in 2^52, has room."""


def statistic(*, sensitivity: int, scale: float, amount: int) -> Statistic:
    """A statistic by hand: `scale` in plain numbers, `amount` in nano-epsilon."""
    return Statistic(quantity="rows", sensitivity=sensitivity, amount=amount, scale=int(scale * SCALE_UNIT))


# The map


@pytest.mark.parametrize(
    ("sensitivity", "scale", "epsilon"),
    [(3, 30.0, 0.1), (1, 1.0, 1.0), (1, 10.0, 0.1), (7, 2.0, 3.5), (5, 40.0, 0.125), (10_000, 2048.0, 4.8828125)],
)
def test_the_map_is_sensitivity_over_scale(sensitivity: int, scale: float, epsilon: float) -> None:
    paid = math.ceil(epsilon * NANO) + 1
    assert len(add_noise([0, 1], statistic(sensitivity=sensitivity, scale=scale, amount=paid))) == 2
    with pytest.raises(LossExceeded):
        add_noise([0, 1], statistic(sensitivity=sensitivity, scale=scale, amount=paid - 2))


@given(sensitivity=st.integers(1, 2**41), amount=st.integers(1, 100 * NANO))
@settings(max_examples=150, deadline=None)
def test_every_scheduled_scale_stays_within_its_amount_and_a_slightly_smaller_one_does_not(sensitivity: int, amount: int) -> None:
    scale = scale_for(sensitivity, amount)
    if scale > WIDEST:
        return
    add_noise([0], Statistic(quantity="rows", sensitivity=sensitivity, amount=amount, scale=scale))
    smaller = scale - max(2, scale // 10**6)
    if smaller > 0:
        with pytest.raises(LossExceeded):
            add_noise([0], Statistic(quantity="rows", sensitivity=sensitivity, amount=amount, scale=smaller))


def test_a_grant_whose_scale_is_too_small_is_not_answered_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    grant = _grant("SELECT COUNT(*) AS n FROM insurer.plans")
    weak = replace(grant.statistics[-1], scale=grant.statistics[-1].scale // 2)
    exact = Exact(keys=((),), vectors={s.name: (100,) for s in grant.statistics})
    with pytest.raises(LossExceeded):
        pass_gate(exact, replace(grant, statistics=(*grant.statistics[:-1], weak)), terms.agreement().by_dataset)


def test_the_largest_exact_values_are_noised_and_not_wrapped_around() -> None:
    noised = add_noise([MAX_SUM, -MAX_SUM] * 50, statistic(sensitivity=2**41, scale=2.0**32, amount=100_000 * NANO))
    assert all(abs(found - value) < 2.0**32 * 50 for found, value in zip(noised, [MAX_SUM, -MAX_SUM] * 50, strict=True))


# The distribution


def pmf(scale: float, value: int) -> float:
    """P(X = value) for the discrete Laplace distribution: (1 - p) / (1 + p) * p^|value| with p = exp(-1 / scale) (Ghosh et al. 2009)."""
    p = math.exp(-1.0 / scale)
    return (1.0 - p) / (1.0 + p) * p ** abs(value)


@pytest.mark.parametrize("scale", [0.75, 12.5])
def test_noise_has_the_discrete_laplace_distribution(scale: float) -> None:
    """Chi-square goodness of fit. By Laurent and Massart (2000, lemma 1) a chi-square value of k degrees exceeds
    k + 2 sqrt(k x) + 2 x with probability below exp(-x); x = 17 makes that 4e-8."""
    drawn = Counter(add_noise([0] * DRAWS, statistic(sensitivity=1, scale=scale, amount=10 * NANO)))
    reach = next(t for t in range(1, 10_000) if DRAWS * pmf(scale, t + 1) < 25)
    expected = {value: DRAWS * pmf(scale, value) for value in range(-reach, reach + 1)}
    observed = {value: drawn.pop(value, 0) for value in expected}
    outside = (DRAWS - sum(expected.values())) / 2
    bins = [*((observed[v], expected[v]) for v in expected), (sum(n for v, n in drawn.items() if v > 0), outside)]
    bins.append((sum(n for v, n in drawn.items() if v < 0), outside))
    chi_square = sum((found - wanted) ** 2 / wanted for found, wanted in bins)
    degrees, x = len(bins) - 1, 17.0
    assert sum(found for found, _ in bins) == DRAWS
    assert chi_square <= degrees + 2 * math.sqrt(degrees * x) + 2 * x


def test_noise_is_fresh_for_every_cell_and_every_call() -> None:
    wide = statistic(sensitivity=1, scale=2.0**30, amount=NANO)
    drawn = [value for _ in range(5) for value in add_noise([0] * 200, wide)]
    assert len(set(drawn)) == len(drawn)


# The recorder: neighbouring tables differ in noised values only


SQL = (
    "SELECT COUNT(*) AS n FROM insurer.plans",
    "SELECT coinsurance, COUNT(*) AS n, AVG(medical_spend) AS a FROM insurer.plans GROUP BY coinsurance",
    terms.JOIN_SQL,
    "SELECT year, AVG(admissions) AS a, COUNT(admissions) AS n FROM clinic.care GROUP BY year",
)


def _grant(sql: str, minimum_group: int = 10) -> Grant:
    declarations = terms.agreement().by_dataset
    return grant_for(terms.plan(sql), declarations, loss=Loss(amount=NANO), minimum_group=minimum_group)


@pytest.mark.parametrize("minimum_group", [1, 10])
@pytest.mark.parametrize("sql", SQL)
def test_neighbouring_tables_make_the_same_calls_and_the_same_release_once_the_noised_values_are_the_same(
    sql: str, minimum_group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant, declarations = _grant(sql, minimum_group), terms.agreement().by_dataset
    whole = {"insurer.plans": plans(60), "clinic.care": care(60)}
    gone = 7
    neighbour = {name: table.filter([p != gone for p in table.column("person_id").to_pylist()]) for name, table in whole.items()}
    recorded: list[list[tuple[tuple[int, ...], Statistic]]] = []
    releases = []
    for tables in (whole, neighbour):
        calls: list[tuple[tuple[int, ...], Statistic]] = []

        def record(values: tuple[int, ...], asked: Statistic, calls: list[tuple[tuple[int, ...], Statistic]] = calls) -> list[int]:
            calls.append((tuple(values), asked))
            return [(9, 40, 0, -3)[(cell + len(calls)) % 4] for cell in range(len(values))]

        monkeypatch.setattr(enclaves.gate, "add_noise", record)
        releases.append(pass_gate(aggregate(grant, declarations, tables, memory_mib=256), grant, declarations))
        recorded.append(calls)
    first, second = recorded
    assert [asked for _, asked in first] == [asked for _, asked in second] == list(grant.statistics)
    assert [len(values) for values, _ in first] == [len(values) for values, _ in second]
    moved = [sum(abs(a - b) for a, b in zip(one, other, strict=True)) for (one, _), (other, _) in zip(first, second, strict=True)]
    assert all(by <= asked.sensitivity for by, asked in zip(moved, grant.statistics, strict=True))
    assert any(moved), "the unit that is gone took part"
    assert pad(releases[0]) == pad(releases[1])

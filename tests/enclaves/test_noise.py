"""Noise: the mechanisms' own privacy maps, their distributions, and that nothing but noised values tells two neighbouring tables apart."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import opendp.prelude as dp
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import enclaves.gate
from enclaves.aggregate import MAX_SUM, Exact, aggregate
from enclaves.dp import CHUNK, LossExceeded, add_noise, discover
from enclaves.gate import pad, pass_gate
from policies.declaration import Column, Declaration
from policies.errors import Malformed
from policies.expression import Ref
from policies.grant import Grant, grant_digest
from policies.privacy import NANO, SCALE_UNIT, Loss, scale_for, sigma_for
from policies.query import AggregateOutput, Having, Key, KeyOutput, Order, Plan, Table
from policies.schedule import MAX_SCALE, Measured, Statistic, threshold_for
from tests.support.queries import LEFT, PLACES, UNITS, Source, cases, grant_of

DRAWS = 20_000


def statistic(
    *, sensitivity: int, scale: float, amount: int, mechanism: Any = "laplace", threshold: int | None = None, quantity: Any = "rows"
) -> Statistic:
    """A statistic by hand: `scale` in plain numbers, `amount` in nano-units of its measure."""
    return Statistic(
        name=quantity, measured=Measured(quantity=quantity), mechanism=mechanism, sensitivity=sensitivity, amount=amount,
        scale=int(scale * SCALE_UNIT), threshold=threshold,
    )  # fmt: skip


# The map


@pytest.mark.parametrize(
    ("sensitivity", "scale", "epsilon"),
    [(3, 30.0, 0.1), (1, 1.0, 1.0), (1, 10.0, 0.1), (7, 2.0, 3.5), (5, 40.0, 0.125), (10_000, 2048.0, 4.8828125)],
)
def test_the_map_of_laplace_is_sensitivity_over_scale(sensitivity: int, scale: float, epsilon: float) -> None:
    paid = math.ceil(epsilon * NANO) + 1
    assert len(add_noise([0, 1], statistic(sensitivity=sensitivity, scale=scale, amount=paid))) == 2
    with pytest.raises(LossExceeded):
        add_noise([0, 1], statistic(sensitivity=sensitivity, scale=scale, amount=paid - 2))


@pytest.mark.parametrize(("squared", "scale", "rho"), [(3, 30.0, 3 / 1800), (1, 1.0, 0.5), (45, 10.0, 0.225), (2**40, 2.0**21, 0.125)])
def test_the_map_of_gauss_is_squared_sensitivity_over_twice_the_variance(squared: int, scale: float, rho: float) -> None:
    """At sigma 30 and squared sensitivity 3 that is rho 0.0016667."""
    paid = math.ceil(rho * NANO) + 1
    assert len(add_noise([0, 1], statistic(sensitivity=squared, scale=scale, amount=paid, mechanism="gaussian"))) == 2
    with pytest.raises(LossExceeded):
        add_noise([0, 1], statistic(sensitivity=squared, scale=scale, amount=paid - 2, mechanism="gaussian"))


@given(sensitivity=st.integers(1, 2**80), amount=st.integers(1, 100 * NANO), mechanism=st.sampled_from(["laplace", "gaussian"]))
@settings(max_examples=150, deadline=None)
def test_every_scheduled_scale_stays_within_its_amount_and_a_slightly_smaller_one_does_not(
    sensitivity: int, amount: int, mechanism: str
) -> None:
    scale = sigma_for(sensitivity, amount) if mechanism == "gaussian" else scale_for(sensitivity, amount)
    assume(scale <= MAX_SCALE and (mechanism == "gaussian" or sensitivity < 2**62))
    held = replace(statistic(sensitivity=sensitivity, scale=1.0, amount=amount, mechanism=mechanism), scale=scale)
    add_noise([0], held)
    smaller = scale - max(2, scale // 10**6)
    if smaller > 0:
        with pytest.raises(LossExceeded):
            add_noise([0], replace(held, scale=smaller))


@given(cells=st.integers(1, 1000), amount=st.integers(10**6, 10**10), delta0=st.integers(1, 10**9), gaussian=st.booleans())
@settings(max_examples=100, deadline=None)
def test_the_threshold_of_the_law_is_within_delta0_by_the_mechanisms_own_map(cells: int, amount: int, delta0: int, gaussian: bool) -> None:
    scale = sigma_for(cells, amount) if gaussian else scale_for(cells, amount)
    assume(scale <= MAX_SCALE)
    mechanism = "gaussian" if gaussian else "laplace"
    held = replace(statistic(sensitivity=cells, scale=1.0, amount=amount, mechanism=mechanism, quantity="units"), scale=scale)
    held = replace(held, threshold=threshold_for(held, cells, delta0))
    assert len(discover([1], held, delta0)) == 1


def test_known_answers_of_thresholds_and_conversion() -> None:
    """Sensitivity 3 keys, scale 3, more than 60 units: (1.0, 3.6023e-9). Gaussian at sigma / sensitivity = 30: epsilon(1e-6) = 0.133847."""
    held = statistic(sensitivity=3, scale=3.0, amount=NANO + 1, threshold=61, quantity="units")
    assert discover([1000], held, 3_603)[0] is not None
    with pytest.raises(LossExceeded):
        discover([1000], held, 3_602)
    gauss = (dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")) >> dp.m.then_gaussian(scale=30.0)
    assert dp.c.make_zCDP_to_approxDP(gauss).map(1.0).epsilon(1e-6) == pytest.approx(0.133847, abs=1e-6)


def test_a_key_that_one_unit_holds_practically_never_leaves() -> None:
    held = replace(statistic(sensitivity=3, scale=1.0, amount=NANO, quantity="units"), scale=scale_for(3, NANO))
    held = replace(held, threshold=threshold_for(held, 3, 1))
    assert not any(value is not None for value in discover([1] * 300, held, 1)), "each leaves with a third of 10^-12"
    assert all(value is not None for value in discover([1000] * 10, held, 1))


def test_without_a_threshold_nothing_is_discovered() -> None:
    with pytest.raises(LossExceeded):
        discover([1000], statistic(sensitivity=1, scale=10.0, amount=NANO, quantity="units"), 10**6)


def test_a_grant_whose_scale_is_too_small_is_not_answered_at_all() -> None:
    source = people(40)
    grant = ask(source)
    weak = replace(grant.statistics[-1], scale=grant.statistics[-1].scale // 2)
    exact = Exact(keys=((),), vectors={s.name: (100,) * max(1, s.measured.bins) for s in grant.statistics})
    with pytest.raises(LossExceeded):
        pass_gate(exact, replace(grant, statistics=(*grant.statistics[:-1], weak)), {LEFT: source.declaration})


@pytest.mark.parametrize("mechanism", ["laplace", "gaussian"])
def test_the_largest_exact_values_are_noised_and_not_wrapped_around(mechanism: str) -> None:
    noised = add_noise([MAX_SUM, -MAX_SUM] * 50, statistic(sensitivity=1, scale=2.0**32, amount=NANO, mechanism=mechanism))
    assert all(abs(found - value) < 2.0**32 * 50 for found, value in zip(noised, [MAX_SUM, -MAX_SUM] * 50, strict=True))


# The distribution


def pmf(mechanism: str, scale: float, value: int) -> float:
    """P(X = value): (1 - p) / (1 + p) * p^|value| with p = exp(-1 / scale), or exp(-value^2 / (2 sigma^2)) over its sum."""
    if mechanism == "laplace":
        p = math.exp(-1.0 / scale)
        return (1.0 - p) / (1.0 + p) * p ** abs(value)
    total = sum(math.exp(-(x * x) / (2 * scale * scale)) for x in range(-int(12 * scale) - 2, int(12 * scale) + 3))
    return math.exp(-(value * value) / (2 * scale * scale)) / total


@pytest.mark.parametrize("mechanism", ["laplace", "gaussian"])
@pytest.mark.parametrize("scale", [0.75, 12.5])
def test_noise_has_its_distribution(mechanism: str, scale: float) -> None:
    """Chi-square goodness of fit, also over the seam between two calls. By Laurent and Massart (2000, lemma 1) a chi-square value of k
    degrees exceeds k + 2 sqrt(k x) + 2 x with probability below exp(-x); x = 25 makes that 2e-11."""
    assert DRAWS > CHUNK
    drawn = Counter(add_noise([0] * DRAWS, statistic(sensitivity=1, scale=scale, amount=10 * NANO, mechanism=mechanism)))
    reach = next(t for t in range(1, 10_000) if DRAWS * pmf(mechanism, scale, t + 1) < 25)
    expected = {value: DRAWS * pmf(mechanism, scale, value) for value in range(-reach, reach + 1)}
    observed = {value: drawn.pop(value, 0) for value in expected}
    outside = (DRAWS - sum(expected.values())) / 2
    bins = [*((observed[v], expected[v]) for v in expected), (sum(n for v, n in drawn.items() if v > 0), outside)]
    bins.append((sum(n for v, n in drawn.items() if v < 0), outside))
    chi_square = sum((found - wanted) ** 2 / max(wanted, 1.0) for found, wanted in bins)
    degrees, x = len(bins) - 1, 25.0
    assert sum(found for found, _ in bins) == DRAWS
    assert chi_square <= degrees + 2 * math.sqrt(degrees * x) + 2 * x


@pytest.mark.parametrize("mechanism", ["laplace", "gaussian"])
def test_noise_is_fresh_for_every_cell_and_every_call(mechanism: str) -> None:
    wide = statistic(sensitivity=1, scale=2.0**31, amount=NANO, mechanism=mechanism)
    drawn = [value for _ in range(5) for value in add_noise([0] * 200, wide)]
    assert len(set(drawn)) >= len(drawn) - 3, "two of a thousand draws fall together once in ten thousand runs, four times over never"


# The recorder: neighbouring tables differ in noised values only


def people(count: int) -> Source:
    """`left.rows` with two rows per person."""
    declaration = Declaration(
        dataset=LEFT, title="Rows", unit="pid", id_space="people", rows_per_unit=2, unique_key=("pid", "turn"),
        columns=(
            Column(name="pid", type="integer"),
            Column(name="turn", type="integer", domain=(0, 1, 2)),
            Column(name="x", type="integer", lower="0", upper="100", nullable=True),
            Column(name="word", type="text"),
        ),
    )  # fmt: skip
    rows = [(person, turn) for person in range(count) for turn in (0, 1)]
    table = pa.table(
        {
            "pid": [person for person, _ in rows],
            "turn": [turn for _, turn in rows],
            "x": [None if person % 7 == 3 else person * 3 % 101 for person, _ in rows],
            "word": ["abc"[person % 3] for person, _ in rows],
        }
    )
    return Source(declaration=declaration, table=table, units=tuple(person for person, _ in rows))


def ask(source: Source, *, discover: bool = False, minimum_group: int = 10) -> Grant:
    """Several aggregates by a declared, or by a discovered key too."""
    x = Ref(table="t", column="x")
    keys = [Key(expression=Ref(table="t", column="turn"), source="declared")]
    if discover:
        keys.append(Key(expression=Ref(table="t", column="word"), source="discovered"))
    plan = Plan(
        source=Table(alias="t", dataset=LEFT),
        group_by=tuple(keys),
        outputs=(
            *(KeyOutput(name=f"key{index}", key=index) for index in range(len(keys))),
            AggregateOutput(name="n", function="COUNT"),
            AggregateOutput(name="a", function="AVG", arguments=(x,)),
            AggregateOutput(name="v", function="VAR_SAMP", arguments=(x,)),
            AggregateOutput(name="q", function="QUANTILE", arguments=(x,), fraction="0.5"),
        ),
        having=(Having(output="n", operator=">", value="3"),),
        order=(Order(output="n", descending=True),),
        limit=5,
    )  # fmt: skip
    loss = Loss(measure="zcdp" if discover else "pure", amount=NANO, delta0=10**6 if discover else 0)
    return grant_of(plan, {LEFT: source.declaration}, loss=loss, minimum_group=minimum_group)


def recorded(
    grant: Grant, held: dict[str, Source], tables: dict[str, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Any], bytes]:
    """Every call of a mechanism during a run whose noised values are frozen, and the release, without its grant's digest."""
    calls: list[tuple[int, Statistic]] = []

    def freeze(values: Any, asked: Statistic, *_: Any) -> list[int]:
        calls.append((len(values), asked))
        return [(9, 40, 0, -3, 25)[(cell + len(calls)) % 5] for cell in range(len(values))]

    monkeypatch.setattr(enclaves.gate, "add_noise", freeze)
    monkeypatch.setattr(enclaves.gate, "discover", freeze)
    declarations = {name: source.declaration for name, source in held.items()}
    exact = aggregate(grant, declarations, tables, memory_mib=256, threads=1)
    return calls, pad(pass_gate(exact, grant, declarations))


@pytest.mark.parametrize("minimum_group", [1, 10])
@pytest.mark.parametrize("discover", [False, True])
def test_neighbouring_tables_make_the_same_calls_and_the_same_release_once_the_noised_values_are_the_same(
    discover: bool, minimum_group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = people(60)
    grant = ask(source, discover=discover, minimum_group=minimum_group)
    first, second = (recorded(grant, {LEFT: source}, {LEFT: table}, monkeypatch) for table in (source.table, source.without(7)))
    assert first == second
    assert {asked for _, asked in first[0]} == set(grant.statistics)


@given(case=cases(), unit=st.integers(0, UNITS - 1))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_accepted_plan_takes_another_course_without_one_unit(case: tuple[Grant, dict[str, Source]], unit: int) -> None:
    """Calls, statistics, columns, order and status are the same, whoever is missing. Keys that only the data know are noised units."""
    grant, held = case
    assume(not grant.plan.discovers)
    with pytest.MonkeyPatch.context() as monkeypatch:
        first, second = (
            recorded(grant, held, tables, monkeypatch)
            for tables in (
                {name: s.table for name, s in held.items()},
                {name: s.table if name == PLACES else s.without(unit) for name, s in held.items()},
            )
        )
    assert first == second


@pytest.mark.parametrize("measure", ["pure", "zcdp"])
@pytest.mark.parametrize("function", ["SUM", "AVG", "VAR_POP"])
def test_wide_bounds_are_counted_in_steps_that_a_grant_can_hold_or_refused(function: Any, measure: Any) -> None:
    """Numbers in documents are at most 2^53 - 1: a sensitivity beyond would make a grant that nobody can name."""
    wide = Column(name="x", type="integer", lower=str(-(2**30)), upper=str(2**52))
    declaration = replace(people(1).declaration, columns=(*people(1).declaration.columns[:2], wide))
    plan = Plan(
        source=Table(alias="t", dataset=LEFT),
        outputs=(AggregateOutput(name="o", function=function, arguments=(Ref(table="t", column="x"),)),),
    )
    try:
        grant = grant_of(plan, {LEFT: declaration}, loss=Loss(measure=measure, amount=NANO))
    except Malformed:
        return
    assert grant_digest(grant).startswith("sha256:")
    source = Source(declaration=declaration, table=pa.table({"pid": [1, 2], "turn": [0, 0], "x": [2**52, 5]}), units=(1, 2))
    exact = aggregate(grant, {LEFT: declaration}, {LEFT: source.table}, memory_mib=256)
    assert len(pass_gate(exact, grant, {LEFT: declaration}).cells) == 1


def test_a_schedule_that_does_not_fit_its_plan_is_no_release() -> None:
    source = people(20)
    grant = ask(source)
    exact = aggregate(grant, {LEFT: source.declaration}, {LEFT: source.table}, memory_mib=256)
    with pytest.raises(Malformed):
        pass_gate(exact, replace(grant, statistics=grant.statistics[:-1]), {LEFT: source.declaration})

"""Joint totals from tables to sealed figures: exact without noise, covered with it, and nothing where somebody does not keep to it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from enclaves import joint, joint_sum
from enclaves.kit import he
from policies.errors import Malformed
from policies.joint import Pool
from policies.joint_documents import JointRelease
from policies.joint_grant import value_count
from policies.privacy import SCALE_UNIT
from tests.support.attempt import Attempt
from tests.support.chance import least_covered
from tests.support.pool import (
    BANDS,
    REGIONS,
    SQL,
    claims_pool,
    claims_table,
    distributed,
    insurers,
)

NAMES = insurers(3)
TABLES = {name: claims_table(300, seed=index, first_person=index * 1000) for index, name in enumerate(NAMES)}


class Round(Attempt):
    """One attempt of three insurers with the claims of this file."""

    def __init__(self, pool: Pool, sql: str = SQL, rho: str = "0.5") -> None:
        super().__init__(pool, TABLES, sql, rho)


def straight() -> dict[tuple[str, str], tuple[int, int]]:
    """Number and sum (in cents) of all claims by cell, added up in plain Python."""
    found = {cell: [0, 0] for cell in itertools.product(REGIONS, BANDS)}
    for table in TABLES.values():
        for row in table.to_pylist():
            cell = found[row["region"], row["age_band"]]
            cell[0] += 1
            cell[1] += round(row["amount"] * 100)
    return {cell: (count, cents) for cell, (count, cents) in found.items()}


@pytest.fixture(scope="module")
def two_sided() -> Round:
    return Round(claims_pool(NAMES))


@pytest.fixture
def without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything as it is but for the noise, which is zero."""
    for module in (joint, joint_sum):
        monkeypatch.setattr(module, "add_noise", lambda values, statistic: [int(v) for v in values])
    monkeypatch.setattr(joint, "draw_share", lambda count, scale: [0] * count)


@pytest.mark.usefixtures("without_noise")
@pytest.mark.parametrize("pool", [claims_pool(NAMES), distributed(NAMES), claims_pool(NAMES, rows=10**7)], ids=["two", "shared", "wide"])
def test_without_noise_the_total_is_the_plain_total(pool: Pool) -> None:
    attempt = Round(pool)
    release = attempt.open(attempt.total(attempt.contributions()))
    assert isinstance(release, JointRelease)
    figures = {tuple(cell.keys): {f.name: f.value for f in cell.figures} for cell in release.cells}
    for cell, (count, cents) in straight().items():
        assert figures[cell]["claims"] == str(count)
        assert round(float(figures[cell]["total"]) * 100) == cents
        assert float(figures[cell]["mean"]) == pytest.approx(cents / count / 100, abs=1e-4)
    assert release.contributors == NAMES


@pytest.mark.usefixtures("without_noise")
def test_every_aggregate_that_is_a_sum_is_answered() -> None:
    """Variances, deviations, quantiles, histograms and covariances come from the same totals as in an enclave."""
    sql = (
        "SELECT VAR_POP(days) AS v, STDDEV(amount) AS s, PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY amount) AS m, "
        "COUNT(*) FILTER (WHERE amount < 100) AS small, CORR(days, amount) AS r, COVAR_POP(days, amount) AS c, "
        "REGR_SLOPE(amount, days) AS slope, REGR_INTERCEPT(amount, days) AS base FROM pool.claims"
    )
    attempt = Round(claims_pool(NAMES), sql)
    release = attempt.open(attempt.total(attempt.contributions()))
    assert isinstance(release, JointRelease)
    found = {f.name: float(f.value) for f in release.cells[0].figures}
    rows = [row for table in TABLES.values() for row in table.to_pylist()]
    amounts, days = (np.array([float(row[name]) for row in rows]) for name in ("amount", "days"))
    assert found["v"] == pytest.approx(days.var(), rel=1e-6)
    assert found["s"] == pytest.approx(amounts.std(ddof=1), rel=1e-4)
    assert found["m"] == pytest.approx(np.median(amounts), abs=55)  # a bin is 50 wide
    assert found["small"] == (amounts < 100).sum()
    assert found["r"] == pytest.approx(np.corrcoef(days, amounts)[0, 1], abs=1e-4)
    assert found["c"] == pytest.approx(np.cov(days, amounts, bias=True)[0, 1], rel=1e-4)
    assert (found["slope"], found["base"]) == pytest.approx(tuple(np.polyfit(days, amounts, 1)), rel=1e-3)


@pytest.mark.parametrize("pool", [claims_pool(NAMES), distributed(NAMES, coalition=1)], ids=["two-sided", "distributed"])
def test_intervals_cover_and_the_noise_is_as_large_as_granted(pool: Pool) -> None:
    """Many counts of each cell, which cost no more than one and have noise of their own each."""
    limits = range(50, 500, 50)
    counts = ", ".join(f"COUNT(*) FILTER (WHERE amount < {limit}) AS below_{limit}" for limit in limits)
    attempt = Round(pool, f"SELECT region, age_band, COUNT(*) AS claims, {counts} FROM pool.claims GROUP BY region, age_band", "0.2")
    truth = {(cell, "claims"): count for cell, (count, _) in straight().items()}
    rows = [row for table in TABLES.values() for row in table.to_pylist()]
    for cell, limit in itertools.product(straight(), limits):
        truth[cell, f"below_{limit}"] = sum((row["region"], row["age_band"]) == cell and row["amount"] < limit for row in rows)
    sigmas = {attempt.grant.total_noise(s, 3) / SCALE_UNIT for s in attempt.grant.statistics if s.name != "units"}
    assert len(sigmas) == 1
    parts, errors, covered = attempt.contributions() if pool.noise == "two-sided" else None, [], 0
    for _ in range(12):
        release = attempt.open(attempt.total(parts or attempt.contributions()))
        assert isinstance(release, JointRelease)
        for keys, figure in ((c.keys, figure) for c in release.cells if not c.suppressed for figure in c.figures):
            exact = truth[tuple(keys), figure.name]  # type: ignore[index]
            errors.append(int(figure.value) - exact)
            covered += float(figure.low) <= exact <= float(figure.high)
    assert len(errors) >= 600
    # Of 600 draws seven standard deviations; without one of its two shares the noise would have 0.71 of what is granted.
    assert 0.8 < float(np.sqrt(np.mean(np.square(errors)))) / sigmas.pop() < 1.2
    assert covered >= least_covered(len(errors))


def test_the_host_adds_full_noise_and_so_does_the_key_holder(two_sided: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    """What either knows it can take away; the other's is left."""
    drawn: list[list[int]] = []
    for module in (joint, joint_sum):
        monkeypatch.setattr(module, "add_noise", lambda values, statistic: drawn.append([statistic.scale]) or list(values))
    release = two_sided.open(two_sided.total(two_sided.contributions()))
    assert isinstance(release, JointRelease)
    granted = [[s.scale] for s in two_sided.grant.statistics]
    assert drawn == granted + granted


def test_the_sum_of_the_same_contributions_is_never_the_same_bytes() -> None:
    """With distributed noise the host adds an encryption of zeros, so that the sum does not tell what it was made of."""
    attempt = Round(distributed(NAMES))
    parts = attempt.contributions()
    assert attempt.total(parts) != attempt.total(parts)


# --- what does not keep to it


def test_a_poisoned_total_is_not_released(two_sided: Round) -> None:
    """A contributor that encrypts more than it may hold: nobody sees it before the total, and then nothing is released."""
    grant = two_sided.grant
    values = np.full(value_count(grant, two_sided.declarations), grant.scheme.largest, dtype=np.int64)
    parts = two_sided.contributions()
    extra = he.encrypt(grant.parameters, two_sided.pair.public, he.pack(grant.parameters, values, grant.scheme.largest))
    base = he.read_ciphertexts(grant.parameters, parts[NAMES[0]], len(extra)).copy()
    he.add_into(grant.parameters, base, extra)
    assert two_sided.open(two_sided.total(parts | {NAMES[0]: he.write_ciphertexts(base)})) == "aborted"


def test_a_missing_contribution_leaves_masks_that_nobody_can_take_away(two_sided: Round) -> None:
    parts = two_sided.contributions()
    del parts[NAMES[2]]
    assert two_sided.open(two_sided.total(parts)) == "aborted"


def test_a_contribution_that_is_counted_twice_is_not_released(two_sided: Round) -> None:
    parts = two_sided.contributions()
    assert two_sided.open(two_sided.total(parts | {NAMES[1]: parts[NAMES[0]]})) == "aborted"


def test_a_contribution_of_another_attempt_is_not_released(two_sided: Round) -> None:
    other = Round(claims_pool(NAMES))
    assert two_sided.open(two_sided.total(two_sided.contributions() | {NAMES[0]: other.contribution(NAMES[0])})) == "aborted"


@pytest.mark.parametrize(
    "bad", [b"", b"x", bytes(65536), b"\xff" * 65536, b"\x0a\x02\x80\x20"], ids=["empty", "short", "zeros", "ones", "protobuf"]
)
def test_bytes_that_are_no_ciphertexts_name_their_contributor(two_sided: Round, bad: bytes) -> None:
    with pytest.raises(joint_sum.Rejected) as rejected:
        two_sided.total(two_sided.contributions() | {NAMES[1]: bad})
    assert rejected.value.contributor == NAMES[1]
    assert rejected.value.code.startswith("he-")


@pytest.mark.parametrize("bad", [b"", bytes(65536), b"\xff" * 65536], ids=["empty", "zeros", "ones"])
def test_a_host_that_sends_something_else_learns_one_bit(two_sided: Round, bad: bytes) -> None:
    assert two_sided.open(bad) == "aborted"


def test_more_rows_or_more_than_the_bounds_are_refused_before_encryption(two_sided: Round) -> None:
    small = Round(claims_pool(NAMES, rows=100))
    with pytest.raises(Malformed) as refused:
        small.contribution(NAMES[0])
    assert refused.value.code == "pool-rows"
    grant = two_sided.grant
    two_sided.grant = replace(grant, bounds=tuple(1 for _ in grant.bounds))
    try:
        with pytest.raises(Malformed) as beyond:
            two_sided.contribution(NAMES[0])
    finally:
        two_sided.grant = grant
    assert beyond.value.code == "pool-rows"


def test_rows_beyond_the_contribution_bound_count_no_more_than_it(without_noise: Any) -> None:
    """A unit with a hundred rows moves a total by three: contributors bound at home as an enclave would."""
    attempt = Round(claims_pool(NAMES))
    crowd = pa.table(
        {
            "person": [1] * 100,
            "claim": list(range(100)),
            "region": ["north"] * 100,
            "age_band": ["65+"] * 100,
            "amount": [10.0] * 100,
            "days": [1] * 100,
        }
    )
    tables = {NAMES[0]: crowd, NAMES[1]: TABLES[NAMES[1]].slice(0, 0), NAMES[2]: TABLES[NAMES[2]].slice(0, 0)}
    attempt.grant = replace(attempt.grant, minimum_group=1)
    release = attempt.open(attempt.total({name: attempt.contribution(name, tables[name]) for name in NAMES}))
    assert isinstance(release, JointRelease)
    counts = {tuple(cell.keys): cell.figures[0].value for cell in release.cells}
    assert counts["north", "65+"] == "3"


def test_cells_of_few_units_over_all_contributors_are_suppressed(without_noise: Any) -> None:
    attempt = Round(claims_pool(NAMES))
    few = {name: TABLES[name].slice(0, 1) for name in NAMES}
    release = attempt.open(attempt.total({name: attempt.contribution(name, few[name]) for name in NAMES}))
    assert isinstance(release, JointRelease)
    assert all(cell.suppressed and not cell.figures for cell in release.cells)

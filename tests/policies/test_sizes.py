"""Whether a release can fit is known before anything is spent; the bound is never above what a release has."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.aggregate import aggregate
from enclaves.gate import pad, pass_gate
from policies.declaration import Column, Declaration
from policies.errors import Malformed
from policies.granted import MAX_RELEASE
from policies.plan import parse_plan
from policies.privacy import Loss
from policies.sizes import least_bytes, require_releasable
from tests.support.queries import grant_of

ROWS = Declaration(
    dataset="a.rows", title="Rows", unit="pid", id_space="people", rows_per_unit=3, unique_key=("pid",),
    columns=(
        Column(name="pid", type="integer"),
        Column(name="place", type="integer", domain=tuple(range(100))),
        Column(name="word", type="text", domain=tuple(f"word {n}" for n in range(100)), nullable=True),
        Column(name="x", type="integer", lower="0", upper="9"),
    ),
)  # fmt: skip
EMPTY = pa.table(
    {"pid": pa.array([], pa.int64()), "place": pa.array([], pa.int64()), "word": pa.array([], pa.string()), "x": pa.array([], pa.int64())}
)


@given(
    keys=st.sampled_from(["", "place", "word"]),
    outputs=st.integers(1, 5),
    limit=st.none() | st.integers(0, 20),
    minimum=st.sampled_from([1, 5]),
)
@settings(max_examples=20, deadline=None)
def test_no_release_is_smaller_than_the_bound(keys: str, outputs: int, limit: int | None, minimum: int) -> None:
    items = [*([keys] if keys else []), *(f"SUM(x + {n}) AS s{n}" for n in range(outputs))]
    tail = f" GROUP BY {keys}" if keys else ""
    tail += "" if limit is None else f" ORDER BY s0 LIMIT {limit}"
    plan = parse_plan(f"SELECT {', '.join(items)} FROM a.rows{tail}", {"a.rows": ROWS})
    grant = grant_of(plan, {"a.rows": ROWS}, loss=Loss(amount=10**9), minimum_group=minimum)
    release = pad(pass_gate(aggregate(grant, {"a.rows": ROWS}, {"a.rows": EMPTY}, memory_mib=64), grant, {"a.rows": ROWS}))
    assert least_bytes(plan, {"a.rows": ROWS}, minimum) <= len(release)


def test_what_could_only_be_withheld_is_refused_with_a_way_out() -> None:
    many = ", ".join(f"SUM(x + {n}) AS s{n}" for n in range(12))
    sql = f"SELECT place, word, {many} FROM a.rows GROUP BY place, word"
    declared = {"a.rows": replace(ROWS, columns=tuple(replace(c, nullable=False) for c in ROWS.columns))}
    plan = parse_plan(sql, declared)
    with pytest.raises(Malformed, match="LIMIT") as caught:
        require_releasable(plan, declared, 1)
    assert caught.value.code == "release-too-large"
    require_releasable(parse_plan(f"{sql} ORDER BY s0 LIMIT 100", declared), declared, 1)
    assert least_bytes(plan, declared, 20) < MAX_RELEASE, "all cells may be suppressed"

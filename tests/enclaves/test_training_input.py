"""Rows and requests that no learner hopes for: they train like any others or are refused in words, and tell of nobody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from enclaves.kit.appraisal import release_info
from enclaves.run import run
from policies.canonical import parse_json
from policies.codec import decode
from policies.errors import Malformed
from policies.grant import grant_digest
from policies.odrl import agreement_digest
from policies.plan import parse_plan
from policies.privacy import parse_loss
from policies.schedule import schedule
from policies.statement import Release
from policies.training import Input, Learner, Linear, Logistic, Means, Training, Trees
from tests.support import terms
from tests.support.runs import Bench, bench, care, plans, replace_grant

SQL = (
    "SELECT coinsurance AS plan, medical_spend AS spend, doctor_visits AS visits, admissions AS stays, female AS sex, year > 1 AS late "
    "FROM insurer.plans JOIN clinic.care USING (person_id, year)"
)
RHO = parse_loss("zcdp", "1")
NUMBERS = ("spend", "visits", "stays")


def asked(learner: Learner) -> Training:
    """All columns of both firms as features."""
    features = [Input(column="plan", encoding="categories"), Input(column="sex", encoding="categories")]
    features += [Input(column=name, encoding="scaled") for name in NUMBERS]
    late = Input(column="late", encoding="categories")
    if isinstance(learner, Means):
        return Training(learner=learner, features=(*features, late))
    if isinstance(learner, Linear):
        return Training(learner=learner, features=(*features[:2], *features[3:], late), label=features[2])
    return Training(learner=learner, features=tuple(features), label=late, held_out=20)


LEARNERS: dict[str, Learner] = {
    "linear": Linear(),
    "logistic": Logistic(steps=3),
    "trees": Trees(rounds=3, depth=2, bins=4),
    "k-means": Means(clusters=3, steps=2),
}


def released(laid: Bench, memory_mib: int = 512) -> Release:
    """What a run releases; it is never withheld for what rows hold."""
    signed, sealed = run(laid.grant, laid.agreement, laid.identity, laid.inputs(), memory_mib=memory_mib)
    assert signed.statement.withheld is None
    assert sealed is not None
    opened = laid.consumer.open(sealed, release_info(grant_digest(laid.grant)))
    return decode(Release, parse_json(opened[4 : 4 + int.from_bytes(opened[:4], "big")], limit=4 << 20))


def spoiled(column: str, values: Any) -> dict[str, pa.Table]:
    """Forty persons of whom one column holds something else."""
    tables = {"insurer.plans": plans(40), "clinic.care": care(40)}
    name = next(name for name, table in tables.items() if column in table.column_names)
    table = tables[name]
    cells = pa.array(values[: table.num_rows], table.schema.field(column).type)
    tables[name] = table.set_column(table.column_names.index(column), column, cells)
    return tables


ROWS = 80
TABLES: dict[str, dict[str, pa.Table]] = {
    "not a number": spoiled("medical_spend", [float("nan"), float("inf"), float("-inf"), 3.5] * (ROWS // 4)),
    "all missing": spoiled("admissions", [None] * ROWS),
    "constant": spoiled("doctor_visits", [7] * ROWS),
    "categories outside": spoiled("coinsurance", [17, -1, 2**40, 25] * (ROWS // 4)),
    "beyond the bounds": spoiled("doctor_visits", [2**62, -(2**62), 0, 5] * (ROWS // 4)),
    "one class": {"insurer.plans": plans(40).filter(pa.array([True, False] * 40)), "clinic.care": care(40)},
    "fewer rows than features": {"insurer.plans": plans(1), "clinic.care": care(1)},
    "nobody": {"insurer.plans": plans(0), "clinic.care": care(0)},
}


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("name", TABLES)
def test_whatever_rows_hold_a_model_of_numbers_is_released(name: str, learner: str) -> None:
    found = released(bench(TABLES[name], sql=SQL, training=asked(LEARNERS[learner]), loss=RHO)).model
    assert found is not None
    numbers = [*(v for row in found.model.weights for v in row), *(leaf for tree in found.model.trees for leaf in tree.leaves)]
    assert np.isfinite(np.array(numbers, float)).all()
    assert all(float(metric.low) <= float(metric.value) <= float(metric.high) for metric in found.metrics)


def test_a_model_larger_than_agreed_is_withheld() -> None:
    laid = bench(sql=SQL, training=asked(Trees(rounds=12, depth=5, bins=4)), loss=RHO)
    assert released(laid).model is not None
    agreement = replace(laid.agreement, terms=tuple(replace(item, output_bytes=8192) for item in laid.agreement.terms))
    other = replace_grant(laid, agreement=agreement_digest(agreement))
    statement, sealed = run(other.grant, agreement, other.identity, other.inputs(), memory_mib=512)
    assert (statement.statement.withheld, sealed) == ("output-limit", None)


@pytest.mark.parametrize("rho", ["0", "-1", "nan", "inf", "1e3", "1001", "999999999999", "0x1", ""])
def test_losses_without_sense_are_refused(rho: str) -> None:
    with pytest.raises(Malformed):
        parse_loss("zcdp", rho)


@pytest.mark.parametrize("rho", ["0.000000001", "0.00000002"])
def test_a_loss_that_buys_only_noise_is_refused_before_it_is_charged(rho: str) -> None:
    plan = parse_plan(SQL, terms.agreement().by_dataset, asked(Trees(rounds=200, depth=6)))
    with pytest.raises(Malformed) as refused:
        schedule(plan, terms.agreement().by_dataset, parse_loss("zcdp", rho), 10)
    assert refused.value.code in ("loss-too-small", "malformed")

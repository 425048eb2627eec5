"""The test on which a model is accepted: what may be asked, what passes, and that an enclave cannot leave its verdict out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from enclaves.kit.appraisal import STATEMENT_PURPOSE, Attested, evidence_digest, verify_statement
from enclaves.kit.signatures import SigningKey
from enclaves.run import run
from policies.acceptance import Acceptance
from policies.canonical import canonical
from policies.codec import decode, encode
from policies.errors import Malformed, Tampered
from policies.model import Metric, passes
from policies.privacy import parse_loss
from policies.statement import SignedStatement, Statement, verdict_of
from policies.task import resolve
from policies.training import Input, Linear, Logistic, Means, Training
from policies.typed_values import Typed
from tests.support.runs import bench, care, plans

SPEND = Training(
    learner=Linear(clip="4"),
    features=(Input(column="visits", encoding="scaled"),),
    label=Input(column="spend", encoding="scaled"),
    held_out=30,
    test=Acceptance(metric="r2", least="0.5"),
)
SQL = "SELECT doctor_visits AS visits, medical_spend AS spend FROM insurer.plans JOIN clinic.care USING (person_id, year)"
KNOWN = {name: Typed(type="integer", lower=0, upper=9) for name in ("visits", "spend")} | {
    "high": Typed(type="integer", domain=(0, 1)),
    "kind": Typed(type="integer", domain=(0, 1, 2)),
}


def metric(value: str, name: Any = "r2") -> Metric:
    return Metric(name=name, value=value, low=value, high=value)


@pytest.mark.parametrize(("value", "least", "wanted"), [("0.5000", "0.5", True), ("0.4999", "0.5", False), ("-1.0000", "-1", True)])
def test_a_metric_passes_from_the_threshold_on(value: str, least: str, wanted: bool) -> None:
    test = Acceptance(metric="r2", least=least)
    assert passes((metric("0.1", "rmse"), metric(value)), test) is wanted
    assert not passes((metric("1.0000", "auc"),), test)
    assert not passes((), test)


@pytest.mark.parametrize("wrong", [{"least": "1.0001"}, {"least": "-2"}, {"least": "0.50001"}, {"least": "nan"}, {"metric": "scores"}])
def test_a_threshold_that_is_none_and_outputs_per_row_are_malformed(wrong: dict[str, str]) -> None:
    with pytest.raises(Malformed):
        decode(Acceptance, {"metric": "auc", "least": "0.7", **wrong})


@pytest.mark.parametrize(
    ("learner", "label", "metrics"),
    [
        (Linear(), Input(column="spend", encoding="scaled"), "r2"),
        (Logistic(), Input(column="high", encoding="categories"), "auc"),
        (Logistic(), Input(column="kind", encoding="categories"), "accuracy"),
        (Means(clusters=2), None, ""),
    ],
)
def test_a_model_is_tested_on_a_metric_that_it_has(learner: Any, label: Input | None, metrics: str) -> None:
    for name in ("auc", "accuracy", "r2"):
        test = Acceptance(metric=name, least="0.1")  # type: ignore[arg-type]
        training = replace(SPEND, learner=learner, label=label, test=test)
        known = {"visits": KNOWN["visits"]} | ({label.column: KNOWN[label.column]} if label else {})
        if name == metrics:
            resolve(training, known, 1)
            continue
        with pytest.raises(Malformed) as refused:
            resolve(training, known, 1)
        assert refused.value.code == "unknown-metric"


def test_nothing_is_tested_where_nobody_is_held_out() -> None:
    with pytest.raises(Malformed):
        replace(SPEND, held_out=0)
    assert "test" not in encode(replace(SPEND, test=None))


def test_an_enclave_states_a_verdict_where_there_is_a_test_and_nowhere_else() -> None:
    for training, wanted in ((SPEND, {"yes", "no"}), (replace(SPEND, test=None), {None})):
        found = bench(
            {"insurer.plans": plans(60), "clinic.care": care(60)}, sql=SQL, training=training, loss=parse_loss("zcdp", "5"), minimum_group=1
        )
        signed, sealed = run(found.grant, found.agreement, found.identity, found.inputs(), memory_mib=512)
        assert sealed is not None
        assert isinstance(signed.statement, Statement)
        evidence = found.identity.evidence
        attested = Attested(evidence=evidence.evidence, digest=evidence_digest(evidence))
        assert verdict_of(verify_statement(signed, attested, found.grant)) in wanted
        other = replace(signed.statement, accepted="yes" if wanted == {None} else None)
        with pytest.raises(Tampered):
            verify_statement(_signed(other, found.identity.signing), attested, found.grant)


def _signed(statement: Statement, key: SigningKey) -> SignedStatement:
    return SignedStatement(statement=statement, signature=key.sign(STATEMENT_PURPOSE, canonical(encode(statement))).hex())

"""Losses in two measures: one spelling each in agreements, never mixed, and old agreements keep their digests."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from policies.agreement import Terms
from policies.canonical import digest
from policies.decide import decide
from policies.derive import derive
from policies.errors import Malformed
from policies.expression import Ref
from policies.odrl import agreement_document, offer_document, parse_agreement, parse_offer
from policies.privacy import Loss, parse_epsilon, parse_loss
from policies.query import AggregateOutput, Equality, Join, PerUnit, Plan, Table, UnitColumn
from policies.schedule import schedule
from policies.shape import contribution, require_sound
from tests.support import terms

ZCDP: dict[str, Any] = {"job_loss": parse_loss("zcdp", "0.1", "0.000001"), "total_loss": parse_loss("zcdp", "0.5", "0.00001")}


def document(own: Terms) -> dict[str, Any]:
    return offer_document(terms.offer(terms=own))


def bound(shown: dict[str, Any], operand: str) -> Any:
    return next(c["rightOperand"] for c in shown["permission"][0]["constraint"] if c["leftOperand"] == operand)


@pytest.mark.parametrize(
    "own",
    [
        terms.terms_insurer(),
        terms.terms_insurer(**ZCDP),
        terms.terms_insurer(consumer_loss=parse_epsilon("2")),
        terms.terms_insurer(**ZCDP, consumer_loss=parse_loss("zcdp", "0.25")),
        terms.terms_insurer(job_loss=parse_loss("pure", "1", "0.000001"), total_loss=parse_loss("pure", "3", "0.00001")),
    ],
)
def test_terms_in_either_measure_read_back(own: Terms) -> None:
    assert parse_offer(json.loads(json.dumps(document(own)))).terms == own


def test_each_measure_has_one_spelling() -> None:
    shown = document(terms.terms_insurer(**ZCDP))
    assert bound(shown, "sb:jobLoss") == {"sb:measure": "zcdp", "sb:rho": "0.1", "sb:delta0": "0.000001"}
    assert bound(document(terms.terms_insurer()), "sb:jobLoss") == {"sb:measure": "pure", "sb:epsilon": "1"}


@pytest.mark.parametrize(
    "loss",
    [
        {"sb:measure": "pure", "sb:epsilon": "1", "sb:delta0": "0"},
        {"sb:measure": "pure", "sb:epsilon": "1.0"},
        {"sb:measure": "pure", "sb:rho": "1"},
        {"sb:measure": "zcdp", "sb:epsilon": "1"},
        {"sb:measure": "zcdp", "sb:rho": "0.1"},
        {"sb:measure": "renyi", "sb:epsilon": "1"},
        {"sb:measure": "pure", "sb:epsilon": "1", "sb:delta0": "1"},
        {"sb:measure": "pure", "sb:epsilon": "1", "sb:delta0": "0.9999999999999"},
        {"sb:measure": ["pure"], "sb:epsilon": "1"},
        {"sb:measure": "pure", "sb:epsilon": 1},
        "1",
    ],
)
def test_other_spellings_and_mixed_measures_are_refused(loss: Any) -> None:
    shown = copy.deepcopy(document(terms.terms_insurer()))
    for constraint in shown["permission"][0]["constraint"]:
        if constraint["leftOperand"] == "sb:jobLoss":
            constraint["rightOperand"] = loss
    with pytest.raises(Malformed):
        parse_offer(shown)


def test_the_bound_per_consumer_is_optional_and_stands_once() -> None:
    shown = document(terms.terms_insurer(consumer_loss=parse_epsilon("2")))
    constraints = shown["permission"][0]["constraint"]
    (own,) = [c for c in constraints if c["leftOperand"] == "sb:consumerLoss"]
    with pytest.raises(Malformed):
        parse_offer(shown | {"permission": [shown["permission"][0] | {"constraint": [*constraints, own]}]})
    with pytest.raises(Malformed):  # one order
        parse_offer(shown | {"permission": [shown["permission"][0] | {"constraint": [own, *(c for c in constraints if c != own)]}]})


def test_agreements_of_the_first_version_keep_their_digests() -> None:
    """Every agreement in the golden log is still spelled as it was signed."""
    folder = Path(__file__).parents[1] / "golden" / "foundation" / "export" / "openings"
    seen = 0
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                signed = json.loads(line).get("body", {}).get("signed", {})
                if signed.get("body", {}).get("@type") == "Agreement":
                    assert digest(agreement_document(parse_agreement(signed["body"]))) == digest(signed["body"])
                    seen += 1
    assert seen


def count_plan() -> Plan:
    return Plan(source=Table(alias="t0", dataset="insurer.plans"), outputs=(AggregateOutput(name="n", function="COUNT"),))


def join_plan() -> Plan:
    on = tuple(Equality(left=Ref(table="t0", column=name), right=Ref(table="t1", column=name)) for name in ("person_id", "year"))
    left, right = Table(alias="t0", dataset="insurer.plans"), Table(alias="t1", dataset="clinic.care")
    return Plan(source=Join(left=left, right=right, on=on), outputs=(AggregateOutput(name="n", function="COUNT"),))


def failing(plan: Plan, own: tuple[Terms, Terms], loss: Loss, **facts: Any) -> dict[str, str]:
    request = terms.request(loss=loss)
    decision = decide(request, terms.agreement(terms=own), plan, terms.facts(**facts))
    return {f.rule: f.message for f in decision.findings if not f.allowed}


def test_a_join_of_two_measures_is_refused_by_a_finding_of_its_own() -> None:
    own = (terms.terms_insurer(), terms.terms_clinic(**ZCDP))
    found = failing(join_plan(), own, parse_epsilon("0.5"))
    assert "insurer.plans in epsilon, clinic.care in rho" in found["measure"]
    assert "measure" not in failing(count_plan(), own, parse_epsilon("0.5"))


def test_a_loss_in_the_other_measure_is_refused() -> None:
    own = (terms.terms_insurer(**ZCDP), terms.terms_clinic(**ZCDP))
    assert failing(join_plan(), own, parse_loss("zcdp", "0.1")) == {}
    assert {"job_loss", "total_loss"} <= failing(join_plan(), own, parse_epsilon("0.05")).keys()


def test_a_repeated_question_passes_the_budget_rules_only() -> None:
    own = (terms.terms_insurer(), terms.terms_clinic())
    spent = (terms.spent("3"),)
    assert failing(count_plan(), own, parse_epsilon("0.5"), spent=spent).keys() == {"total_loss"}
    assert failing(count_plan(), own, parse_epsilon("0.5"), spent=spent, repeats="job-1") == {}
    assert failing(count_plan(), own, parse_epsilon("0.5"), repeats="job-1", now=terms.NOT_AFTER).keys() == {"validity"}


def test_one_row_per_unit_is_bounded_even_where_groups_are_declared() -> None:
    """With 1 row, 1 group and 1 row per group no bound by cell is stricter, and one of both is enforced all the same."""
    declared = terms.declaration_insurer(rows_per_unit=1, groups_per_unit=1, rows_per_group=1)
    found = contribution(count_plan(), {declared.dataset: declared})
    assert found.bounded_by_rows or found.bounded_by_cell
    assert (found.cells, found.per_cell, found.rows) == (1, 1, 1)


def test_an_alias_stands_for_one_relation() -> None:
    """A subquery under its table's alias would hide a filter on one column behind the aggregate of another."""
    inner = PerUnit(
        alias="t0",
        source=Table(alias="t0", dataset="insurer.plans"),
        by=Ref(table="t0", column="person_id"),
        unit="person_id",
        columns=(UnitColumn(name="female", function="SUM", argument=Ref(table="t0", column="medical_spend")),),
    )
    plan = Plan(source=inner, outputs=(AggregateOutput(name="n", function="COUNT"),))
    with pytest.raises(Malformed, match="same alias"):
        require_sound(plan, terms.agreement().by_dataset)
    with pytest.raises(Malformed, match="same alias"):
        schedule(plan, terms.agreement().by_dataset, parse_epsilon("1"), 1)
    assert derive(plan) is not None

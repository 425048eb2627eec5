"""Deny by default: each rule allows and denies, a denial says what to change, and no provider can be outvoted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import rules
from policies.agreement import ColumnTerm
from policies.canonical import canonical
from policies.codec import encode
from policies.decide import decide
from policies.errors import BudgetExhausted, PolicyRefused, outcome
from policies.expression import Call, Constant, Ref
from policies.finding import Decision, Finding, refusal
from policies.odrl import timestamp
from policies.privacy import NANO, Loss, parse_epsilon
from policies.query import Equality, Join, Key, Table
from policies.request import SpentFact
from policies.rules import RULES
from tests.support.terms import (
    COUNT_SQL,
    JOIN_SQL,
    NOT_AFTER,
    NOT_BEFORE,
    NOW,
    agreement,
    declaration_clinic,
    declaration_insurer,
    digest_of,
    facts,
    parties,
    party,
    plan,
    request,
    spent,
    terms_clinic,
    terms_insurer,
    terms_open,
)

CARE_SQL = "SELECT AVG(doctor_visits) AS visits FROM clinic.care"


def _failed(decision: Decision) -> list[Finding]:
    return [finding for finding in decision.findings if not finding.allowed]


def _denial(decision: Decision, rule: str) -> Finding:
    """The one finding that denies, if it is of `rule`."""
    assert not decision.allowed
    (finding,) = _failed(decision)
    assert finding.rule == rule
    return finding


FACTS = ("now", "measurement", "enclave_kind", "versions", "spent")


def _decide(
    sql: str = COUNT_SQL, *, insurer: dict[str, Any] | None = None, clinic: dict[str, Any] | None = None, **changed: Any
) -> Decision:
    """Decide `sql` under the standard agreement with changed terms, facts (any of `FACTS`) or request (all else)."""
    signed = agreement(terms=(terms_insurer(**(insurer or {})), terms_clinic(**(clinic or {}))))
    stated = {name: changed.pop(name) for name in FACTS if name in changed}
    return decide(request(**changed), signed, plan(sql), facts(**stated))


def test_request_within_all_terms_is_allowed_with_a_finding_per_rule_and_dataset() -> None:
    decision = _decide(JOIN_SQL)
    assert decision.allowed
    assert _failed(decision) == []
    expected = [(rule, dataset) for dataset in ("insurer.plans", "clinic.care") for rule in RULES]
    assert [(finding.rule, finding.dataset) for finding in decision.findings] == [*expected, ("schedule", "")]
    assert all(finding.remedy is None for finding in decision.findings)


def test_consumer_who_may_not_ask_is_denied() -> None:
    finding = _denial(_decide(insurer={"assignees": ()}), "assignee")
    assert finding.remedy is None
    rivals = agreement(
        parties=(*parties(), party("rival", "consumer")),
        terms=(terms_insurer(recipients=("institute", "rival")), terms_clinic()),
    )
    finding = _denial(decide(request(consumer="rival"), rivals, plan(COUNT_SQL), facts()), "assignee")
    assert "`rival` asks; may ask: institute" in finding.message
    assert finding.remedy == "ask as one of institute"
    assert decide(request(consumer="institute"), rivals, plan(COUNT_SQL), facts()).allowed


def test_consumer_who_may_not_receive_is_denied() -> None:
    finding = _denial(_decide(insurer={"recipients": ()}), "recipient")
    assert finding.dataset == "insurer.plans"


@pytest.mark.parametrize("consumer", ["insurer", "auditor", "nobody"])
def test_party_that_is_no_consumer_is_denied(consumer: str) -> None:
    assert [finding.rule for finding in _failed(_decide(consumer=consumer))] == ["assignee", "recipient"]


def test_purpose_that_was_not_agreed_is_denied() -> None:
    assert _decide(purpose="actuarial-review").allowed
    finding = _denial(_decide(purpose="marketing"), "purpose")
    assert "purpose `marketing`" in finding.message
    assert finding.remedy == "state one of public-health-research, actuarial-review"


def test_validity_is_half_open() -> None:
    assert _decide(now=NOT_BEFORE).allowed
    assert _decide(now=NOT_AFTER - 1).allowed
    early = _denial(_decide(now=NOT_BEFORE - 1), "validity")
    assert early.remedy == f"wait until {timestamp(NOT_BEFORE)}"
    assert _denial(_decide(now=NOT_AFTER), "validity").remedy == "sign a new agreement"


COLUMN_DENIALS = [
    (
        "SELECT SUM(medical_spend) AS s FROM insurer.plans WHERE medical_spend > 10",
        ("insurer.plans.medical_spend", "filter", "WHERE ... insurer.plans.medical_spend ..."),
        "drop the condition on `insurer.plans.medical_spend`",
    ),
    (
        "SELECT COUNT(medical_spend) AS n FROM insurer.plans",
        ("insurer.plans.medical_spend", "count", "SELECT COUNT(insurer.plans.medical_spend) AS n"),
        "use SUM(insurer.plans.medical_spend) instead",
    ),
    (
        "SELECT COUNT(*) AS n, COUNT(DISTINCT year) AS m FROM insurer.plans",
        ("insurer.plans.year", "distinct", "SELECT COUNT_DISTINCT(insurer.plans.year) AS m"),
        "drop `m` from SELECT",
    ),
    (
        "SELECT SUM(admissions) AS s FROM clinic.care",
        ("clinic.care.admissions", "sum", "SELECT SUM(clinic.care.admissions) AS s"),
        "use COUNT(clinic.care.admissions) instead",
    ),
]


@pytest.mark.parametrize(("sql", "origin", "remedy"), COLUMN_DENIALS, ids=[sql for sql, _, _ in COLUMN_DENIALS])
def test_use_of_a_column_that_is_not_allowed_names_its_origin_and_remedy(sql: str, origin: tuple[str, ...], remedy: str) -> None:
    finding = _denial(_decide(sql), "columns")
    column, operation, clause = origin
    assert finding.column == column
    assert finding.clause == clause
    assert f"column `{column}` may not be used for `{operation}`" in finding.message
    assert finding.remedy == remedy


def test_group_key_is_denied_for_grouping_and_for_its_labels() -> None:
    decision = _decide("SELECT female, COUNT(*) AS n FROM insurer.plans GROUP BY female")
    assert [(f.rule, f.column, f.clause, f.remedy) for f in _failed(decision)] == [
        ("columns", "insurer.plans.female", clause, "drop `insurer.plans.female` from SELECT and GROUP BY")
        for clause in ("GROUP BY insurer.plans.female", "SELECT insurer.plans.female AS female")
    ]


def test_join_needs_the_key_columns_of_both_providers() -> None:
    without_key = tuple(term for term in terms_clinic().columns if term.column != "year")
    finding = _denial(_decide(JOIN_SQL, clinic={"columns": without_key}), "columns")
    assert (finding.dataset, finding.column) == ("clinic.care", "clinic.care.year")
    assert "it allows nothing" in finding.message
    assert finding.remedy == "do not join this dataset"


def test_column_without_a_term_allows_nothing() -> None:
    assert not _decide(CARE_SQL, clinic={"columns": ()}).allowed
    assert not _decide(CARE_SQL, clinic={"columns": (ColumnTerm(column="doctor_visits", operations=()),)}).allowed
    assert _decide(CARE_SQL, clinic={"columns": (ColumnTerm(column="doctor_visits", operations=("avg",)),)}).allowed


def test_strictest_minimum_group_wins() -> None:
    assert _decide(JOIN_SQL).minimum_group == 25
    assert _decide(JOIN_SQL, insurer={"minimum_group": 40}).minimum_group == 40
    assert _decide(COUNT_SQL).minimum_group == 10
    assert _decide(COUNT_SQL, insurer={"minimum_group": 1}).minimum_group == 1
    (finding,) = (f for f in _decide(COUNT_SQL).findings if f.rule == "minimum_group")
    assert finding.allowed
    assert "below 10 units" in finding.message


def test_job_that_costs_more_than_one_job_may_is_denied() -> None:
    assert _decide(epsilon="1").allowed
    finding = _denial(_decide(epsilon="1.000000001"), "job_loss")
    assert finding.message == "epsilon 1.000000001 asked; one job may cost at most epsilon 1"
    assert finding.remedy == "ask for epsilon 1 or less"


def test_ledger_that_cannot_pay_is_denied_to_the_last_nano_epsilon() -> None:
    assert _decide(epsilon="0.5", spent=(spent("2.5"),)).allowed
    finding = _denial(_decide(epsilon="0.5", spent=(spent("2.500000001"),)), "total_loss")
    assert finding.message == "ledger insurer/rand-hie: epsilon 2.500000001 of epsilon 3 spent, epsilon 0.5 asked"
    assert finding.remedy == "ask for epsilon 0.499999999 or less"


@pytest.mark.parametrize("paid", ["3", "99"])
def test_exhausted_ledger_is_denied(paid: str) -> None:
    finding = _denial(_decide(epsilon="0.000001", spent=(spent(paid),)), "total_loss")
    assert finding.remedy == "no budget is left; agree on a new one"


def test_each_ledger_is_looked_at_alone() -> None:
    exhausted = spent("99", provider="clinic"), spent("99", id_space="other"), spent("99", provider="other")
    assert _decide(COUNT_SQL, spent=exhausted).allowed
    finding = _denial(_decide(JOIN_SQL, spent=exhausted), "total_loss")
    assert finding.dataset == "clinic.care"


@pytest.mark.parametrize("stated", [{"measurement": digest_of("another enclave")}, {"enclave_kind": "sgx"}, {"measurement": ""}])
def test_enclave_of_another_kind_or_measurement_is_denied(stated: dict[str, Any]) -> None:
    _denial(_decide(**stated), "enclave")


def test_terms_without_a_measurement_allow_no_enclave() -> None:
    _denial(_decide(insurer={"measurements": ()}), "enclave")
    _denial(_decide(insurer={"enclave_kinds": ()}), "enclave")


def test_dataset_without_a_version_is_denied() -> None:
    finding = _denial(_decide(CARE_SQL, versions=facts().versions[:1]), "version")
    assert finding.dataset == "clinic.care"
    assert finding.remedy == "wait until the provider publishes a version"


def test_loss_too_small_to_split_is_denied() -> None:
    finding = _denial(_decide(JOIN_SQL, epsilon="0.000000001"), "schedule")
    assert "too small" in finding.message


PER_PROVIDER: list[dict[str, Any]] = [
    {"assignees": ()},
    {"recipients": ()},
    {"purposes": ("actuarial-review",)},
    {"purposes": ()},
    {"not_after": NOW},
    {"not_before": NOW + 1},
    {"columns": ()},
    {"job_loss": parse_epsilon("0.499999999")},
    {"total_loss": parse_epsilon("0.499999999")},
    {"enclave_kinds": ()},
    {"measurements": (digest_of("another enclave"),)},
]


@pytest.mark.parametrize("provider", ["insurer", "clinic"])
@pytest.mark.parametrize("change", PER_PROVIDER, ids=lambda change: f"{next(iter(change))}")
def test_one_provider_who_does_not_allow_is_enough(provider: str, change: dict[str, Any]) -> None:
    decision = _decide(JOIN_SQL, **{provider: change})
    assert not decision.allowed
    assert {finding.dataset for finding in _failed(decision)} == {"insurer.plans" if provider == "insurer" else "clinic.care"}


@pytest.mark.parametrize("change", PER_PROVIDER, ids=lambda change: f"{next(iter(change))}")
def test_provider_whose_data_is_not_read_has_no_say(change: dict[str, Any]) -> None:
    assert _decide(COUNT_SQL, clinic=change).allowed


def _raise(case: Any) -> Any:
    raise RuntimeError("a fault")


def _raise_late(case: Any) -> Any:
    yield case.finding("late", True, "fine so far")
    raise KeyError("a fault")


@pytest.mark.parametrize(
    "broken",
    [_raise, _raise_late, lambda case: iter(()), lambda case: None],
    ids=["at once", "late", "silent", "none"],
)
@pytest.mark.parametrize("name", list(RULES))
def test_rule_that_raises_or_finds_nothing_denies(name: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rules.RULES, name, broken)
    finding = _denial(_decide(COUNT_SQL), name)
    assert finding.message == "the rule could not be established"
    assert finding.dataset == "insurer.plans"


def test_unknown_dataset_is_denied() -> None:
    stranger = replace(plan(COUNT_SQL), source=Table(alias="t0", dataset="rival.plans"))
    decision = decide(request(), agreement(), stranger, facts())
    assert not decision.allowed
    assert [(f.rule, f.dataset) for f in _failed(decision)] == [("dataset", "rival.plans"), ("schedule", "")]
    assert isinstance(refusal(decision), PolicyRefused)


PLANS, CARE = Table(alias="t0", dataset="insurer.plans"), Table(alias="t1", dataset="clinic.care")
YEAR = Ref(table="t0", column="year")


@pytest.mark.parametrize(
    "change",
    [
        {"source": PLANS},
        {"source": Join(left=PLANS, right=CARE, on=(Equality(left=YEAR, right=Ref(table="t1", column="year")),))},
        {"source": Join(left=PLANS, right=replace(CARE, alias="t0"), on=())},
        {"where": Call(function="=", arguments=(Ref(table="t9", column="x"), Constant(type="integer", value=1)))},
        {"where": YEAR},
        {"group_by": (Key(expression=Ref(table="t9", column="x"), source="declared"),)},
        {"group_by": (Key(expression=Ref(table="t0", column="person_id"), source="declared"),)},
        {"group_by": (Key(expression=YEAR, source="public"),)},
    ],
    ids=[
        "column of an unread dataset",
        "join without the unit",
        "one alias for two tables",
        "unknown filter",
        "filter that is no condition",
        "unknown group key",
        "raw column",
        "protected column as a public key",
    ],
)
def test_forged_plan_is_denied_even_under_the_widest_terms(change: dict[str, Any]) -> None:
    insurer, clinic = declaration_insurer(), declaration_clinic()
    widest = agreement(terms=(terms_open(insurer), terms_open(clinic)))
    assert decide(request(), widest, plan(), facts()).allowed
    decision = decide(request(), widest, replace(plan(), **change), facts())
    assert "schedule" in {finding.rule for finding in _failed(decision)}
    assert isinstance(refusal(decision), PolicyRefused)


def test_decision_is_a_pure_function_of_its_inputs() -> None:
    inputs = request(), agreement(), plan(), facts(spent=(spent("1"),))
    before = canonical([encode(value) for value in inputs])
    first = decide(*inputs)
    assert all(decide(*inputs) == first for _ in range(3))
    assert decide(request(), agreement(), plan(), facts(spent=(spent("1"),))) == first
    assert canonical([encode(value) for value in inputs]) == before


def test_budget_alone_is_budget_exhausted() -> None:
    error = refusal(_decide(JOIN_SQL, epsilon="0.5", spent=(spent("2.9"), spent("2.4", provider="clinic"))))
    assert isinstance(error, BudgetExhausted)
    assert error.code == "budget-exhausted"
    assert [finding["rule"] for finding in error.findings] == ["total_loss", "total_loss"]
    assert outcome(error) == (403, 3)


@pytest.mark.parametrize("change", [{"purpose": "marketing"}, {"epsilon": "1.5"}, {"now": NOT_AFTER}], ids=str)
def test_budget_with_any_other_rule_is_policy_refused(change: dict[str, Any]) -> None:
    error = refusal(_decide(COUNT_SQL, **{"spent": (spent("2.9"),), "epsilon": "0.5", **change}))
    assert isinstance(error, PolicyRefused)
    assert {finding["rule"] for finding in error.findings} > {"total_loss"}


def test_refusal_tells_rule_dataset_message_and_remedy_of_failures_only() -> None:
    error = refusal(_decide(purpose="marketing"))
    assert isinstance(error, PolicyRefused)
    assert str(error) == (
        "refused by purpose (insurer.plans): purpose `marketing`; agreed: public-health-research, actuarial-review; "
        "smallest change: state one of public-health-research, actuarial-review"
    )
    assert [finding["allowed"] for finding in error.findings] == [False]
    assert canonical(list(error.findings))


def test_decision_without_findings_is_a_policy_refusal() -> None:
    error = refusal(Decision(allowed=False, minimum_group=1, findings=()))
    assert type(error) is PolicyRefused
    assert "no rule allows it" in str(error)


LOSSES = st.integers(1, 5 * NANO).map(lambda amount: Loss(amount=amount))


@given(LOSSES, LOSSES, LOSSES, st.integers(0, 6 * NANO))
def test_remedy_of_a_loss_rule_passes_that_rule(asked: Loss, job_loss: Loss, total_loss: Loss, paid: int) -> None:
    terms = {"job_loss": job_loss, "total_loss": total_loss}
    ledger = (SpentFact(provider="insurer", id_space="rand-hie", spent=Loss(amount=paid)),)
    decision = _decide(insurer=terms, spent=ledger, loss=asked)
    for finding in _failed(decision):
        if finding.rule not in ("job_loss", "total_loss") or finding.remedy == "no budget is left; agree on a new one":
            continue
        assert finding.remedy is not None
        epsilon = finding.remedy.removeprefix("ask for epsilon ").removesuffix(" or less")
        again = _decide(insurer=terms, spent=ledger, epsilon=epsilon)
        assert finding.rule not in {failed.rule for failed in _failed(again)}
        more = _decide(insurer=terms, spent=ledger, loss=parse_epsilon(epsilon) + Loss(amount=1))
        assert finding.rule in {failed.rule for failed in _failed(more)}, "the remedy is the smallest change"


@given(LOSSES, LOSSES, LOSSES, st.integers(0, 6 * NANO))
def test_allowed_charge_never_exceeds_any_bound(asked: Loss, job_loss: Loss, total_loss: Loss, paid: int) -> None:
    ledger = (SpentFact(provider="insurer", id_space="rand-hie", spent=Loss(amount=paid)),)
    decision = _decide(insurer={"job_loss": job_loss, "total_loss": total_loss}, spent=ledger, loss=asked)
    failed = {finding.rule for finding in _failed(decision)} - {"schedule"}
    assert ("job_loss" in failed) == (asked.amount > job_loss.amount)
    assert ("total_loss" in failed) == (paid + asked.amount > total_loss.amount)
    assert not decision.allowed or not failed

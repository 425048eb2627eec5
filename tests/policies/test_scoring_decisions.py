"""Who may have encrypted rows scored, for what, when and how many: every condition with what it lets pass and what it stops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.agreement import Agreement
from policies.conditions import Approvals, RowQuota, Window
from policies.errors import Malformed
from policies.odrl import agreement_digest, agreement_document, parse_agreement
from policies.scorer import BLOCK, CIPHERTEXT_BYTES, KEY_BYTES, Scorer, answer_bytes, request_bytes, scorer_of
from policies.scoring_decision import OTHERS, ScoreFacts, decide_scoring
from policies.tightening import SignedTightening, Tightening
from policies.training import Encoded
from sandbox.party.term_forms import compiled, form_of
from tests.support.scored import risk_agreement, risk_model, risk_request, risk_scorer, risk_terms

NOW = 1_780_272_000  # a Monday, midnight
FACTS = ScoreFacts(now=NOW, rows=0, requests=0)


def failing(agreement: Agreement, facts: ScoreFacts = FACTS, **changes: Any) -> list[str]:
    """Names of the rules that deny."""
    decision = decide_scoring(risk_request(agreement_digest(agreement), **changes), agreement, facts)
    assert decision.allowed == all(finding.allowed for finding in decision.findings)
    return [finding.rule for finding in decision.findings if not finding.allowed]


def agreed(**terms: Any) -> Agreement:
    return risk_agreement(terms=(risk_terms(**terms),))


def test_what_was_agreed_is_allowed() -> None:
    assert failing(risk_agreement()) == []


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("assignee", {"consumer": "lender"}),
        ("purpose", {"purpose": "marketing"}),
        ("model", {"model": "lender.other"}),
        ("rows", {"rows": 10_001}),
    ],
)
def test_a_request_beyond_what_was_agreed_is_denied(rule: str, changes: dict[str, Any]) -> None:
    assert rule in failing(risk_agreement(), **changes)


@pytest.mark.parametrize(("used", "rows", "allowed"), [(9_900, 100, True), (9_901, 100, False), (10_000, 1, False), (0, 10_000, True)])
def test_rows_are_counted_to_the_last_one(used: int, rows: int, allowed: bool) -> None:
    assert failing(risk_agreement(), replace(FACTS, rows=used, requests=3), rows=rows) == ([] if allowed else ["rows"])


CONDITIONS: list[tuple[str, dict[str, Any], ScoreFacts]] = [
    ("validity", {"not_after": NOW}, FACTS),
    ("validity", {"not_before": NOW + 1}, FACTS),
    ("recipient", {"recipients": ()}, FACTS),
    ("output_rows", {"output_rows": 99}, FACTS),
    ("uses", {"uses": 2}, replace(FACTS, requests=2)),
    ("windows", {"windows": (Window(days=("tue",), begins="00:00", ends="12:00"),)}, FACTS),
]


@pytest.mark.parametrize(("rule", "terms", "facts"), CONDITIONS, ids=[f"{rule}-{i}" for i, (rule, *_) in enumerate(CONDITIONS)])
def test_every_condition_denies(rule: str, terms: dict[str, Any], facts: ScoreFacts) -> None:
    assert failing(agreed(**terms), facts) == [rule]


def test_conditions_that_hold_allow() -> None:
    window = Window(days=("mon",), begins="00:00", ends="12:00")
    assert failing(agreed(output_rows=100, uses=2, windows=(window,), not_after=NOW + 1), replace(FACTS, requests=1)) == []


@pytest.mark.parametrize("name", OTHERS)
def test_a_term_that_nothing_holds_here_denies_and_is_not_passed_over(name: str) -> None:
    values: dict[str, Any] = {
        "recipient_jurisdictions": ("DE",),
        "pre_approved": ("sha256:" + "a1" * 32,),
        "output_kinds": ("table",),
        "approvals": Approvals(need=1, of=("lender",)),
        "notify": ("lender",),
        "attribution": "by the lender",
        "delete_after": 7,
        "quantum": 60,
        "scored_rows": RowQuota(rows=10, days=30),
        "score_decimals": 2,
        "withhold_probing": True,
    }
    if name == "payment":
        from policies.conditions import Payment

        values["payment"] = Payment(amount="1", currency="EUR", per="job")
    assert failing(agreed(**{name: values[name]})) == [name]


def test_tightenings_count() -> None:
    agreement = risk_agreement()
    for change, rule in (({"revoked": True}, "standing"), ({"output_rows": 5}, "output_rows"), ({"uses": 0}, "uses")):
        tightening = Tightening(agreement=agreement_digest(agreement), dataset="lender.risk", sequence=1, **change)  # type: ignore[arg-type]
        assert rule in failing(agreement, replace(FACTS, tightenings=(SignedTightening(tightening=tightening, signature="0" * 128),)))


def test_agreements_with_scorers_are_spelled_one_way_and_others_keep_their_bytes() -> None:
    agreement = risk_agreement()
    document = agreement_document(agreement)
    assert parse_agreement(document) == agreement
    assert compiled(form_of(document)) == document
    plain = agreement_document(replace(agreement, scorers=()))
    assert "sb:scorer" not in plain
    assert document == plain | {"sb:scorer": document["sb:scorer"]}
    with pytest.raises(Malformed):
        parse_agreement({**plain, "sb:scorer": []})


WRONG: dict[str, dict[str, Any]] = {
    "no features": {"features": ()},
    "a feature twice": {"features": (risk_model().features[0],) * 2},
    "bounds that are one": {"features": (Encoded(column="age", encoding="scaled", lower=1, upper=1),)},
    "two outputs of one": {"outputs": 2},
    "a number of nothing": {"link": "identity"},
    "no rows": {"rows": 0},
    "a step that is none": {"step": "-0.1"},
    "a step beyond the scores": {"step": "1.1"},
    "a step in letters": {"step": "ten"},
}


@pytest.mark.parametrize("what", WRONG)
def test_descriptions_that_make_no_sense_are_refused(what: str) -> None:
    with pytest.raises(Malformed):
        risk_scorer(**WRONG[what])


def test_a_scorer_is_of_declared_columns_and_within_their_domains() -> None:
    wrong = Encoded(column="home", encoding="categories", categories=("rented", "castle"))
    for changes in ({"dataset": "bank.risk"}, {"features": (wrong,)}, {"features": (replace(wrong, column="shoe_size"),)}):
        with pytest.raises(Malformed):
            risk_agreement(scorers=(replace(risk_scorer(), **changes),))  # type: ignore[arg-type]
    with pytest.raises(Malformed):
        risk_agreement(scorers=(risk_scorer(), risk_scorer()))


def test_trees_and_clusters_are_no_weighted_sums() -> None:
    with pytest.raises(Malformed) as refused:
        scorer_of(replace(risk_model(), link="nearest", weights=((1, 1, 1, 1),)), "lender.risk", 5)
    assert refused.value.code == "scoring-model"


@given(rows=st.integers(1, 2**20), width=st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_sizes_follow_from_the_request_alone(rows: int, width: int) -> None:
    names = tuple(Encoded(column=f"c{index}", encoding="scaled", lower=0, upper=1) for index in range(width))
    scorer = Scorer(dataset="lender.risk", features=names, link="logistic", outputs=1, rows=rows)
    count = -(-rows // BLOCK)
    assert answer_bytes(scorer, rows) == count * CIPHERTEXT_BYTES
    if count * width <= 4096:
        assert request_bytes(scorer, rows) == KEY_BYTES + count * width * CIPHERTEXT_BYTES
        return
    with pytest.raises(Malformed) as refused:
        request_bytes(scorer, rows)
    assert refused.value.code == "scoring-too-large"

"""No term without enforcement, a request that it allows and one that it denies; no unknown term in a document."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import rules_conditions
from policies.agreement import Agreement, ColumnTerm, Terms
from policies.attestation import TdxFloor
from policies.codec import decode, encode
from policies.conditions import DAYS, Approvals, Division, Onward, Payment, RowQuota, Window
from policies.decide import decide
from policies.derive import OPERATIONS
from policies.errors import Malformed
from policies.escrow import Course
from policies.exchange import Asked, Bound, Exchange, Leg, exchange_digest
from policies.finding import Decision
from policies.odrl import agreement_document, parse_agreement
from policies.plan import parse_plan
from policies.privacy import parse_epsilon, parse_loss
from policies.questions import plan_digest, template_digest
from policies.request import ExchangeFact, OnwardUse, RecentFact, ScoredFact, UsesFact, VersionFact
from policies.rules_conditions import CONDITIONS
from policies.service import Scoring
from policies.tightening import SignedTightening, Tightening
from policies.training import Input, Linear, Training
from policies.vocabulary import TERMS
from tests.support import scoring
from tests.support.terms import (
    COUNT_SQL,
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

GROUPED = "SELECT coinsurance, COUNT(*) AS people FROM insurer.plans GROUP BY coinsurance"
MONDAY = Window(days=("mon",), begins="00:00", ends="24:00")
"""`NOW`, 2026-06-01, is a Monday."""
SIGNATURE = "00" * 64


ROOT = Path(__file__).parent.parent.parent
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Given(NamedTuple):
    """One request: changed terms of the insurer, changed facts, changed request, its SQL, changed parties, and whether rows are scored."""

    terms: Mapping[str, Any] = NOTHING
    facts: Mapping[str, Any] = NOTHING
    request: Mapping[str, Any] = NOTHING
    sql: str = COUNT_SQL
    parties: Mapping[str, str] = NOTHING
    scoring: Scoring | None = None
    training: Training | None = None


def tightening(**change: Any) -> tuple[SignedTightening, ...]:
    """The insurer's first tightening."""
    return (
        SignedTightening(
            tightening=Tightening(agreement=digest_of("a"), dataset="insurer.plans", sequence=1, **change), signature=SIGNATURE
        ),
    )


def uses(**counts: int) -> dict[str, Any]:
    return {"uses": (UsesFact(provider="insurer", **{"jobs": 0, "own": 0, **counts}),)}


def recent(amount: str, own: str = "0.000000001", days: int = 30) -> RecentFact:
    """What the insurer's ledger was charged lately, and the part of it for the institute."""
    return RecentFact(provider="insurer", id_space="rand-hie", days=days, spent=parse_epsilon(amount), own=parse_epsilon(own))


PAID = Payment(amount="100", currency="CNY", per="job")
ONWARD = Onward(recipients=("auditor",), purposes=("supervision",))
HARDENED = TdxFloor(statuses=("UpToDate", "SWHardeningNeeded"))
TWO = Approvals(need=2, of=("insurer", "clinic", "institute"))
FOR_OTHERS = ColumnTerm(column="medical_spend", operations=("sum",), recipients=("auditor",))
FOR_INSTITUTE = ColumnTerm(column="medical_spend", operations=("sum",), recipients=("institute",))
SUM_SQL = "SELECT SUM(medical_spend) AS spend FROM insurer.plans"

ORDERED = Exchange(
    uid="count-for-order",
    title="A number for an order",
    accept_by=NOW + 1,
    deadline=NOW + 1,
    dispute_days=1,
    legs=(
        Leg(
            kind="data",
            giver="insurer",
            receiver="institute",
            agreement=request().agreement,
            purpose="public-health-research",
            ask=Asked(sql=COUNT_SQL, loss=request().loss),
        ),
        Leg(kind="order", giver="institute", receiver="insurer", document=digest_of("order")),
    ),
)
BOUND = Bound(exchange=exchange_digest(ORDERED), leg=1)
EXCHANGED = ExchangeFact(exchange=ORDERED, course=Course(stage="open", proposer="insurer"))


def scored(terms: dict[str, Any], before: int | None = None, **call: Any) -> Given:
    """A call of the insurer's scoring service after so many scored rows."""
    stated = {"versions": MODEL_VERSIONS} | ({} if before is None else {"scored": (ScoredFact(dataset=scoring.MODEL, rows=before),)})
    return Given(terms, stated, {"loss": scoring.NOTHING}, scoring.SQL, scoring=scoring.call(**call))


def divided(agreed: Division | None, asked: Division) -> Given:
    """A training whose worth is to be divided, under terms of both providers that say how."""
    learned = Training(
        learner=Linear(),
        features=(Input(column="plan", encoding="categories"), Input(column="visits", encoding="scaled")),
        label=Input(column="spend", encoding="scaled"),
        division=asked,
    )
    sql = (
        "SELECT coinsurance AS plan, doctor_visits AS visits, medical_spend AS spend "
        "FROM insurer.plans JOIN clinic.care USING (person_id, year)"
    )
    return Given({"division": agreed}, {}, {"loss": RHO}, sql, training=learned)


RHO = parse_loss("zcdp", "0.5")
MODEL_VERSIONS = tuple(VersionFact(dataset=name, version=1, file_digest=digest_of(name)) for name in (scoring.PEOPLE, scoring.MODEL))
HALVES = Division(method="shapley", amount=100)
MONTHLY = RowQuota(rows=100, days=30)

CASES: dict[str, tuple[Given, Given]] = {
    "assignees": (Given(), Given(terms={"assignees": ()})),
    "columns": (Given({"columns": (FOR_INSTITUTE,)}, sql=SUM_SQL), Given({"columns": (FOR_OTHERS,)}, sql=SUM_SQL)),
    "purposes": (Given({"purposes": ("public-health-research",)}), Given({"purposes": ("actuarial-review",)})),
    "not_before": (Given(facts={"now": NOT_BEFORE}), Given(facts={"now": NOT_BEFORE - 1})),
    "not_after": (Given(facts={"now": NOT_AFTER - 1}), Given(facts={"now": NOT_AFTER})),
    "recipients": (Given(), Given({"recipients": ()})),
    "minimum_group": (Given({"minimum_group": 2}), Given({"minimum_group": 2}, request={"loss": parse_epsilon("0.000000001")})),
    "job_loss": (Given({"job_loss": parse_epsilon("0.5")}), Given({"job_loss": parse_epsilon("0.499999999")})),
    "total_loss": (Given(facts={"spent": (spent("2.5"),)}), Given(facts={"spent": (spent("2.6"),)})),
    "consumer_loss": (
        Given({"consumer_loss": parse_epsilon("1")}, {"consumer_spent": (spent("0.5"),)}),
        Given({"consumer_loss": parse_epsilon("1")}, {"consumer_spent": (spent("0.6"),)}),
    ),
    "total_refresh": (
        Given({"total_refresh": 30}, {"spent": (spent("90"),), "recent": (recent("2.5"),)}),
        Given({"total_refresh": 30}, {"spent": (spent("90"),), "recent": (recent("2.6"),)}),
    ),
    "consumer_refresh": (
        Given(
            {"consumer_loss": parse_epsilon("1"), "consumer_refresh": 30},
            {"consumer_spent": (spent("2"),), "recent": (recent("2", "0.5"),)},
        ),
        Given({"consumer_loss": parse_epsilon("1"), "consumer_refresh": 30}, {"recent": (recent("2", "0.6"),)}),
    ),
    "enclave_kinds": (Given(), Given({"enclave_kinds": ()})),
    "measurements": (Given(), Given(facts={"measurement": digest_of("another")})),
    "platforms": (
        Given({"enclave_kinds": ("simulated", "intel-tdx"), "platforms": (HARDENED,)}),
        Given({"enclave_kinds": ("intel-tdx",), "platforms": (HARDENED,)}),
    ),
    "isolation": (
        Given({"isolation": ("network", "uid")}, {"isolation": ("network", "filesystem", "uid")}),
        Given({"isolation": ("network", "uid")}, {"isolation": ("network", "filesystem")}),
    ),
    "uses": (Given({"uses": 3}, uses(jobs=2)), Given({"uses": 3}, uses(jobs=3))),
    "scored_rows": (scored({"scored_rows": MONTHLY}, 50, rows=50), scored({"scored_rows": MONTHLY}, 51, rows=50)),
    "score_decimals": (scored({"score_decimals": 3}, decimals=3), scored({"score_decimals": 2}, decimals=3)),
    "withhold_probing": (scored({"withhold_probing": True}), scored({"withhold_probing": True, "recipients": ()})),
    "division": (divided(HALVES, HALVES), divided(HALVES, replace(HALVES, amount=99))),
    "windows": (Given({"windows": (MONDAY,)}), Given({"windows": (replace(MONDAY, days=("tue",)),)})),
    "enclave_jurisdictions": (
        Given({"enclave_jurisdictions": ("CN", "DE")}, {"enclave_jurisdiction": "DE"}),
        Given({"enclave_jurisdictions": ("CN",)}, {"enclave_jurisdiction": "DE"}),
    ),
    "recipient_jurisdictions": (
        Given({"recipient_jurisdictions": ("CN",)}, parties={"institute": "CN"}),
        Given({"recipient_jurisdictions": ("CN",)}, parties={"institute": "US"}),
    ),
    "no_debug": (Given({"no_debug": True}, {"enclave_debug": False}), Given({"no_debug": True}, {"enclave_debug": True})),
    "evidence_age": (Given({"evidence_age": 30}), Given({"evidence_age": 30, "measurements": ()})),
    "pre_approved": (
        Given({"pre_approved": (plan_digest(plan(COUNT_SQL)),)}),
        Given({"pre_approved": (digest_of("another plan"),)}),
    ),
    "output_kinds": (Given({"output_kinds": ("number",)}), Given({"output_kinds": ("number",)}, sql=GROUPED)),
    "output_rows": (Given({"output_rows": 5}, sql=GROUPED), Given({"output_rows": 4}, sql=GROUPED)),
    "output_bytes": (Given({"output_bytes": 4096}), Given({"output_bytes": 4096, "recipients": ()})),
    "quantum": (Given({"quantum": 60}), Given({"quantum": 60, "recipients": ()})),
    "approvals": (
        Given({"approvals": TWO}, {"approved_by": ("clinic", "insurer")}),
        Given({"approvals": TWO}, {"approved_by": ("institute",)}),
    ),
    "exchange_only": (
        Given({"exchange_only": True}, {"exchange": EXCHANGED}, {"exchange": BOUND}),
        Given({"exchange_only": True}),
    ),
    "payment": (Given({"payment": PAID}, uses(jobs=1, own=1, paid=2)), Given({"payment": PAID}, uses(jobs=1, own=1, paid=1))),
    "notify": (Given({"notify": ("auditor",)}), Given({"notify": ("auditor",), "purposes": ()})),
    "attribution": (Given({"attribution": "Data: Insurer"}), Given({"attribution": "Data: Insurer", "purposes": ()})),
    "delete_after": (Given({"delete_after": 30}), Given({"delete_after": 30}, {"overdue": ("job-1",)})),
    "onward": (
        Given({"onward": ONWARD}, request={"onward": (OnwardUse(recipient="auditor", purpose="supervision"),)}),
        Given({"onward": ONWARD}, request={"onward": (OnwardUse(recipient="auditor", purpose="marketing"),)}),
    ),
    "standing": (Given(facts={"tightenings": tightening(minimum_group=50)}), Given(facts={"tightenings": tightening(revoked=True)})),
}
"""Field of a term -> a request that it allows and one that it denies. What a later step enforces denies here by a fault beside it; its own
denial is named in `LATER`."""

LATER = {
    "evidence_age": "tests/party/test_broker_terms.py::test_keys_are_not_released_to_evidence_older_than_the_terms_say",
    "platforms": "tests/enclaves/test_attestation.py::test_an_intel_platform_has_to_be_in_an_agreed_state",
    "output_bytes": "tests/enclaves/test_output_terms.py::test_a_release_above_the_agreed_bytes_is_withheld",
    "quantum": "tests/jobs/test_quantum.py::test_an_end_before_the_quantum_of_the_terms_is_found_by_a_replay",
    "withhold_probing": "tests/audit/test_scored_calls.py::test_rows_made_to_copy_the_model_are_told_of_and_withheld_where_agreed",
    "notify": "tests/jobs/test_acts.py::test_parties_to_be_informed_get_notice_of_a_release",
    "attribution": "tests/jobs/test_acts.py::test_the_words_of_the_provider_are_shown_with_the_release",
}
"""Terms that the decision only announces, and the test of their enforcement later on the way."""


def signed(given: Given) -> Agreement:
    """The standard agreement, or the one with a scoring service, with the changes of a case."""
    if given.scoring is not None:
        return scoring.market(**given.terms)
    if given.training is not None:
        bounds = {"job_loss": RHO, "total_loss": RHO, **given.terms}
        return agreement(terms=(terms_open(declaration_insurer(), **bounds), terms_open(declaration_clinic(), **bounds)))
    changed = tuple(replace(item, jurisdiction=given.parties.get(item.id)) for item in parties())
    return agreement(parties=changed, terms=(terms_insurer(**given.terms), terms_clinic()))


def decided(given: Given) -> Decision:
    """The decision on a case."""
    under = signed(given)
    asked = request(**{"sql": given.sql, **given.request}, scoring=given.scoring, training=given.training)
    return decide(asked, under, parse_plan(given.sql, under.by_dataset, given.training, given.scoring), facts(**given.facts))


def failed(decision: Decision) -> list[str]:
    """The rules that deny."""
    return [finding.rule for finding in decision.findings if not finding.allowed]


@pytest.mark.parametrize("term", CASES)
def test_allows(term: str) -> None:
    decision = decided(CASES[term][0])
    assert decision.allowed, failed(decision)


@pytest.mark.parametrize("term", CASES)
def test_denies(term: str) -> None:
    decision = decided(CASES[term][1])
    assert not decision.allowed
    if term in CONDITIONS and term not in LATER:
        assert set(failed(decision)) == {term}


def test_what_is_enforced_later_is_tested_there() -> None:
    for place in LATER.values():
        file, _, name = place.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), place


def test_every_term_has_an_enforcing_function_a_request_that_it_allows_and_one_that_it_denies() -> None:
    assert {term.field for term in TERMS} == set(CASES)
    own = {field.name for field in fields(Terms)} - {"dataset"}
    assert own <= {term.field for term in TERMS}
    assert set(CONDITIONS) <= {term.field for term in TERMS}
    for term in TERMS:
        for place in term.enforced:
            module, _, name = place.rpartition(".")
            assert callable(getattr(importlib.import_module(module), name)), place


@pytest.mark.parametrize("term", [term for term in CASES if term != "standing"])
def test_a_term_is_written_into_the_document_and_read_back(term: str) -> None:
    for case in CASES[term]:
        found = signed(case)
        assert parse_agreement(agreement_document(found)) == found


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_that_raises_or_says_nothing_denies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise OverflowError

    given = CASES[name][0]
    assert decided(given).allowed
    condition = CONDITIONS[name]
    silent = replace(condition, rule=lambda case: iter(()))
    for changed in (replace(condition, rule=broken), silent, replace(silent, applies=broken, also=broken)):
        monkeypatch.setitem(rules_conditions.CONDITIONS, name, changed)
        decision = decided(given)
        assert set(failed(decision)) == {name}


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("duty", [{"action": "sing"}]),
        ("duty", [{"action": "attribute", "sb:text": "x"}, {"action": "attribute", "sb:text": "x"}]),
        ("duty", [{"action": "delete", "sb:afterDays": 1, "sb:unless": "asked"}]),
        ("duty", [{"action": "compensate", "sb:amount": "1", "sb:currency": "CNY", "sb:per": "job"}]),
        ("duty", []),
        ("prohibition", []),
        ("constraint", [{"leftOperand": "sb:noDebug", "operator": "eq", "rightOperand": False}]),
        ("constraint", [{"leftOperand": "count", "operator": "lt", "rightOperand": 1}]),
        ("constraint", [{"leftOperand": "spatial", "operator": "isAnyOf", "rightOperand": ["DE"]}]),
    ],
)
def test_an_unknown_term_or_another_spelling_makes_no_agreement(member: str, value: list[Any]) -> None:
    document = agreement_document(agreement())
    permission = document["permission"][0]
    permission[member] = [*permission.get(member, []), *value] if member == "constraint" else value
    with pytest.raises(Malformed):
        parse_agreement(document)


@pytest.mark.parametrize(
    "change",
    [
        {"approvals": Approvals(need=1, of=("stranger",))},
        {"notify": ("stranger",)},
        {"onward": Onward(recipients=("stranger",), purposes=())},
        {"columns": (ColumnTerm(column="year", operations=("filter",), recipients=("stranger",)),)},
    ],
)
def test_terms_speak_of_parties_only(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        agreement(terms=(terms_insurer(**change), terms_clinic()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Approvals(need=0, of=("insurer",)),
        lambda: Approvals(need=2, of=("insurer",)),
        lambda: Approvals(need=1, of=("insurer", "insurer")),
        lambda: Payment(amount="0", currency="CNY", per="job"),
        lambda: Payment(amount="1", currency="yuan", per="job"),
        lambda: Window(days=(), begins="00:00", ends="24:00"),
        lambda: Window(days=("tue", "mon"), begins="00:00", ends="24:00"),
        lambda: Window(days=("mon",), begins="12:00", ends="12:00"),
        lambda: Window(days=("mon",), begins="0:00", ends="12:00"),
        lambda: Window(days=("mon",), begins="00:00", ends="24:01"),
        lambda: party("x", "consumer", jurisdiction="de"),
        lambda: terms_insurer(uses=-1),
        lambda: terms_insurer(output_rows=0),
        lambda: terms_insurer(output_bytes=4095),
        lambda: terms_insurer(evidence_age=0),
        lambda: terms_insurer(quantum=0),
        lambda: terms_insurer(quantum=86_401),
        lambda: terms_insurer(delete_after=0),
        lambda: terms_insurer(attribution=""),
        lambda: terms_insurer(total_refresh=0),
        lambda: terms_insurer(total_refresh=3651),
        lambda: terms_insurer(consumer_refresh=30),
        lambda: terms_insurer(pre_approved=("sha256:1",)),
        lambda: terms_insurer(enclave_jurisdictions=("DE", "DE")),
    ],
)
def test_a_term_that_means_nothing_is_malformed(make: Any) -> None:
    with pytest.raises(Malformed):
        make()


def test_an_author_who_is_an_approver_never_decides_alone() -> None:
    one = Approvals(need=1, of=("institute", "insurer"))
    assert one.missing(("institute",), "institute") == 1
    assert one.missing(("insurer",), "institute") == 0
    assert one.missing(("institute", "insurer"), "institute") == 0
    assert one.missing(("clinic",), "institute") == 1


def test_a_template_digest_forgets_constants_and_nothing_else() -> None:
    def template(sql: str) -> str:
        return template_digest(plan(sql))

    base = template("SELECT COUNT(*) AS n FROM insurer.plans WHERE year = 1")
    assert template("SELECT COUNT(*) AS n FROM insurer.plans WHERE year = 4") == base
    assert template("SELECT COUNT(*) AS n FROM insurer.plans WHERE year <> 1") != base
    assert template("SELECT COUNT(*) AS n FROM insurer.plans WHERE female = 1") != base
    assert plan_digest(plan("SELECT COUNT(*) AS n FROM insurer.plans WHERE year = 4")) != base


@given(st.integers(0, 2**33), st.sampled_from(DAYS), st.integers(0, 1438), st.integers(1, 1440))
def test_the_next_start_of_a_window_lies_in_it_and_none_comes_before(now: int, day: Any, begins: int, length: int) -> None:
    ends = min(1440, begins + length)
    clock = "{:02d}:{:02d}".format
    window = Window(days=(day,), begins=clock(*divmod(begins, 60)), ends=clock(*divmod(ends, 60)))
    start = window.next_start(now)
    assert window.holds(start)
    assert now <= start < now + 7 * 86_400 + 1
    assert window.holds(now) == (start == now)
    assert start == now or not window.holds(start - 1)


def test_what_several_terms_of_a_column_allow_a_recipient_adds_up() -> None:
    shared = ColumnTerm(column="medical_spend", operations=("avg",))
    terms = terms_insurer(columns=(shared, FOR_INSTITUTE, FOR_OTHERS))
    assert set(terms.operations("medical_spend", "institute")) == {"avg", "sum"}
    assert set(terms.operations("medical_spend", "clinic")) == {"avg"}
    assert terms.operations("year", "institute") == ()
    assert set(terms.operations("medical_spend")) == {"avg"} <= set(OPERATIONS)


def test_facts_and_requests_of_before_keep_their_bytes() -> None:
    assert set(encode(facts())) == {"now", "enclave_kind", "measurement", "versions", "spent"}
    assert "onward" not in encode(request())
    assert decode(type(facts()), encode(facts())) == facts()


def test_tightened_bounds_replace_looser_ones_and_never_loosen() -> None:
    lower = tightening(job_loss=parse_epsilon("0.4"), minimum_group=5, uses=0)
    decision = decided(Given(facts={"tightenings": lower, **uses(jobs=0)}))
    assert failed(decision) == ["job_loss", "uses"]
    assert decision.minimum_group == 10
    assert (
        decided(Given(facts={"tightenings": tightening(job_loss=parse_epsilon("5"))}, request={"loss": parse_epsilon("2")})).allowed
        is False
    )


@pytest.mark.parametrize(
    ("change", "now", "allowed"),
    [
        ({"suspended_until": NOW + 1}, NOW, False),
        ({"suspended_until": NOW}, NOW, True),
        ({"not_after": NOW}, NOW, False),
        ({"not_after": NOW + 1}, NOW, True),
        ({"not_after": 5}, NOT_BEFORE, False),
    ],
)
def test_suspended_and_ended_terms_deny(change: dict[str, Any], now: int, allowed: bool) -> None:
    assert decided(Given(facts={"tightenings": tightening(**change), "now": now})).allowed is allowed

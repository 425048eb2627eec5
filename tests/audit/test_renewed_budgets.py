"""Bounds that are renewed: enforced by the host, followed at home, and derived again from the times of the charges."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from policies.agreement import Agreement
from policies.budgets import budgets, period_begins
from policies.conditions import DAY_S
from policies.decide import decide
from policies.entries import LedgerCharge
from policies.errors import Tampered
from policies.explain import explain
from policies.finding import Decision
from policies.privacy import LARGEST, Loss, parse_epsilon
from policies.request import Facts, RecentFact, SpentFact
from sandbox.audit.backtest import Candidate, history_under
from sandbox.audit.charge_times import ChargeTimes
from sandbox.audit.export import Export
from sandbox.audit.merkle import Frontier, leaf_hash
from sandbox.audit.replay import Known
from sandbox.jobs.preview import check, foresee
from sandbox.party.deciding import require_timely_charge
from sandbox.party.followed import EPOCH, Followed
from sandbox.store.schema import charges
from sandbox.web.ledgers_api import renewed_bounds
from tests.support import terms
from tests.support.forge import Draft, drafts, find, forged, fresh, replayed, require_named
from tests.support.story import Story, begin, export

dated = import_module("sandbox.store.migrations.versions.0014_charges").dated
DAYS = 7
LEDGER = ("insurer", "rand-hie")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Epsilon 1 a week in all, 0.75 a week for one consumer: spent in the first week, and asked for again in the second."""
    story = begin(tmp_path_factory.mktemp("renewed"), others=("bureau",))
    asking = ("institute", "bureau")
    both: dict[str, Any] = {"assignees": asking, "recipients": asking, "total_loss": parse_epsilon("1"), "total_refresh": DAYS}
    story.agreement = story.sealed_agreement(
        parties={"insurer": ("provider",), "clinic": ("provider",), **dict.fromkeys(asking, ("consumer",))},
        terms=(
            terms.terms_insurer(**both, consumer_loss=parse_epsilon("0.75"), consumer_refresh=DAYS),
            terms.terms_clinic(**both),
        ),
    )
    agreement = story.agree(story.agreement)

    def ask(label: str, epsilon: str, where: str, consumer: str = "institute") -> None:
        sql = f"SELECT COUNT(*) AS people FROM insurer.plans WHERE {where}"
        story.ask(label, agreement=agreement, sql=sql, epsilon=epsilon, consumer=consumer)

    ask("first", "0.5", "year = 1")
    ask("own", "0.375", "year = 2")
    ask("bureau", "0.5", "year = 3", "bureau")
    ask("all", "0.125", "year = 4", "bureau")
    story.clock.at += (DAYS * DAY_S - 3600) * 1000
    ask("early", "0.25", "year = 5", "bureau")
    story.clock.at += 3600 * 1000
    ask("later", "0.75", "year = 1")
    return story


@pytest.fixture
def told(house: Story) -> list[Draft]:
    return drafts(house.host)


def _decided(agreement: Agreement, facts: Facts) -> Decision:
    return decide(terms.request(sql=terms.COUNT_SQL), agreement, terms.plan(terms.COUNT_SQL), facts)


def denied(story: Story, label: str) -> set[str]:
    return {finding.rule for finding in story.jobs[label].decision.findings if not finding.allowed}


def test_a_budget_is_renewed_when_its_charges_are_old_enough_and_not_before(house: Story) -> None:
    assert {label: denied(house, label) for label in house.jobs} == {
        "first": set(), "own": {"consumer_loss"}, "bureau": set(), "all": {"total_loss"}, "early": {"total_loss"}, "later": set(),
    }  # fmt: skip
    with house.host.store.reading() as tx:
        assert tx.spent()[LEDGER] == parse_epsilon("1.75"), "what was ever paid is not renewed"
    assert house.jobs["later"].facts.recent[0].spent.amount == 0


def test_the_log_with_renewed_budgets_replays(house: Story) -> None:
    verdict = replayed(export(house.host, "institute"), house)
    assert verdict.ok, verdict.mismatches


def test_the_store_dates_every_charge_as_the_log_does(house: Story, told: list[Draft]) -> None:
    """The revision that adds the table reads the charges of before from the log in the same way."""
    expected = [row for draft in told for row in dated(draft.data)]
    with house.host.store.reading() as tx:
        rows = [dict(row) for row in tx.connection.execute(select(charges).order_by(charges.c.number)).mappings()]
    assert len(expected) == 3
    assert [{name: row[name] for name in expected[0]} for row in rows] == expected


def test_every_home_counts_what_the_host_states(house: Story, told: list[Draft]) -> None:
    followed = Followed()
    for index, draft in enumerate(told):
        followed = followed.noted(draft.header, index)
    for label in ("first", "bureau", "later"):
        job = house.jobs[label]
        own = followed.recent_before(job.id, *LEDGER, DAYS, job.request.consumer, job.facts.now)
        assert own == job.facts.recent[0]


def test_an_understated_recent_sum_is_named(house: Story, told: list[Draft]) -> None:
    at = find(told, "decided", job=house.jobs["all"].id)
    told[at] = told[at].edited(
        lambda body: body["facts"]["recent"][0].update(spent={"measure": "pure", "amount": 600_000_000, "delta0": 0})
    )
    assert at in {m.index for m in forged(told, house).mismatches if m.promise == "budgets"}


def test_recent_sums_that_are_left_out_are_named(house: Story, told: list[Draft]) -> None:
    at = find(told, "decided", job=house.jobs["first"].id)
    told[at] = told[at].edited(lambda body: body["facts"].pop("recent"))
    assert at in {m.index for m in forged(told, house).mismatches if m.promise == "budgets"}


def test_a_charge_above_the_renewed_bound_is_named(house: Story, told: list[Draft]) -> None:
    def more(story: Story, history: list[Draft]) -> int:
        at = find(history, "charged", job=story.jobs["bureau"].id)
        history[at] = history[at].charging(*(replace(loss, amount=loss.amount + 1) for loss in history[at].header.losses))
        return at

    require_named(house, told, more, "budgets")


def test_a_backdated_charge_is_named_by_replay_and_refused_by_brokers(house: Story, told: list[Draft]) -> None:
    """A charge that is entered as older than it is would be forgotten too early."""
    job = house.jobs["first"]
    at, decided = find(told, "charged", job=job.id), find(told, "decided", job=house.jobs["all"].id)
    told[at] = told[at].edited(at=told[at].header.at - DAYS * DAY_S * 1000)
    assert decided in {m.index for m in forged(told, house).mismatches if m.promise == "budgets"}
    followed = Followed()
    for index, draft in enumerate(told):
        followed = followed.noted(draft.header, index)
    assert house.agreement is not None
    assert job.grant is not None
    require_timely_charge(house.jobs["bureau"].grant, house.agreement, house.jobs["bureau"].facts, followed)  # type: ignore[arg-type]
    with pytest.raises(Tampered) as refused:
        require_timely_charge(job.grant, house.agreement, job.facts, followed)  # type: ignore[arg-type]
    assert refused.value.code == "charge-time"


def test_totals_of_a_new_epoch_count_from_when_it_opens() -> None:
    total = LedgerCharge(provider="insurer", id_space="rand-hie", amount=5)
    now = 400 * DAY_S
    opened = fresh("epoch_opened", (now - 6 * DAY_S) * 1000, {"epoch": "e", "number": "2", "origin": "o", "key": "k"}, {}, (total,))
    followed = replace(Followed().noted(opened.header, 0), frontier=Frontier().append(leaf_hash(opened.data)))
    assert followed.times == {EPOCH: opened.header.at}
    assert followed.recent_before("", *LEDGER, DAYS, "institute", now).spent.amount == 5
    assert followed.recent_before("", *LEDGER, DAYS, "institute", now + DAY_S).spent.amount == 0


def test_check_foresees_what_is_left_and_the_explanation_when_to_come_again(house: Story) -> None:
    assert house.agreement is not None
    job = house.jobs["later"]
    asked = terms.request(
        request_id="request-again", agreement=job.request.agreement, sql=job.request.sql + " AND female = 1", epsilon="0.5"
    )
    preview = check(house.host, house.member("institute"), asked)
    assert not preview.decision.allowed
    assert foresee(preview, asked, rows=None, half_widths={}).remaining[0].loss.amount == 0
    found = explain(asked, house.agreement, preview.plan, preview.facts)
    assert [(change.action, change.what) for change in found.changes] == [("wait-until", str(preview.facts.now + DAYS * DAY_S))]
    assert found.remains == ()


def test_a_consumer_sees_what_of_its_renewed_budgets_is_charged(house: Story) -> None:
    assert house.agreement is not None
    job = house.jobs["bureau"]
    with house.host.store.reading() as tx:
        found = list(renewed_bounds(tx, house.agreement, "bureau", house.jobs["all"].facts.now))
    assert [(ledger, view.own, view.days, view.most.epsilon) for ledger, view in found] == [
        (("clinic", "rand-hie"), False, DAYS, "1"), (LEDGER, False, DAYS, "1"), (LEDGER, True, DAYS, "0.75"),
    ]  # fmt: skip
    assert {view.agreement for _, view in found} == {job.request.agreement}
    assert [view.spent.amount / 1e9 for _, view in found] == [0, 1.75, 0.5], "the charge of the later week is on the ledger, too"


def _changed(house: Story, **change: Any) -> Agreement:
    assert house.agreement is not None
    return replace(house.agreement, terms=tuple(replace(item, **change) for item in house.agreement.terms))


@pytest.mark.parametrize(
    ("change", "own", "as_it_was"),
    [
        pytest.param({}, {}, {}, id="the agreement itself"),
        pytest.param(
            {"total_refresh": None, "consumer_refresh": None, "consumer_loss": None},
            {"own": True, "bureau": False, "all": True, "later": False},
            {"own": True, "later": False},
            id="a budget that is never renewed",
        ),
        pytest.param({"total_refresh": 6, "total_loss": parse_epsilon("1")}, {"early": True}, {"early": True}, id="a shorter period"),
        pytest.param({"total_refresh": 300}, {"later": False}, {"later": False}, id="a longer period"),
    ],
)
def test_a_candidate_renews_by_its_own_periods(
    house: Story, change: dict[str, Any], own: dict[str, bool], as_it_was: dict[str, bool]
) -> None:
    """`history_under` goes on from the candidate's own decisions, the backtest beside a replay from the ledgers as they were."""
    candidate, labels = _changed(house, **change), {job.id: label for label, job in house.jobs.items()}
    files = export(house.host, "institute")
    history = history_under(Export(read=files.__getitem__), house.host.log_identity, candidate)
    assert {labels[item.job]: item.candidate for item in history.differ} == own
    known = Known(candidate=Candidate(terms={item.dataset: item for item in candidate.terms}))
    verdict = replayed(files, house, known=known)
    assert {labels[item.job]: item.candidate for item in verdict.differences or ()} == as_it_was
    assert verdict.ok


def test_a_ledger_that_has_paid_the_largest_loss_pays_no_more_however_often_it_is_renewed() -> None:
    insurer = terms.terms_insurer(total_refresh=30)
    agreement = terms.agreement(terms=(insurer, terms.terms_clinic()))
    recent = RecentFact(provider="insurer", id_space="rand-hie", days=30, spent=Loss(amount=0), own=Loss(amount=0))
    for paid, allowed in ((LARGEST.amount - 500_000_000, True), (LARGEST.amount - 499_999_999, False)):
        spent = (SpentFact(provider="insurer", id_space="rand-hie", spent=Loss(amount=paid)),)
        decision = _decided(agreement, terms.facts(spent=spent, recent=(recent,)))
        assert decision.allowed == allowed


def test_a_renewed_bound_denies_where_nothing_is_stated_of_its_period() -> None:
    agreement = terms.agreement(terms=(terms.terms_insurer(total_refresh=30), terms.terms_clinic()))
    assert not _decided(agreement, terms.facts()).allowed


def test_bounds_of_one_ledger_with_and_without_a_period_are_kept_apart() -> None:
    agreement = terms.agreement(terms=(terms.terms_insurer(total_refresh=30), terms.terms_clinic()))
    found = {(b.provider, b.days, b.own) for b in budgets(agreement, ("insurer.plans", "clinic.care"))}
    assert found == {("insurer", 30, False), ("clinic", None, False)}


_CHARGES = st.lists(st.tuples(st.integers(-5, 50), st.integers(0, 9), st.integers(0, 9), st.sampled_from(["", "a", "b"])), max_size=30)


@given(_CHARGES, st.integers(-6, 51), st.sampled_from([None, "a", "b", "c"]))
def test_sums_after_a_time_are_those_of_a_plain_list(made: list[tuple[int, int, int, str]], after: int, consumer: str | None) -> None:
    times = ChargeTimes()
    for charge in made:
        times.add(*charge)
    counted = [c for c in made if c[0] > after and (consumer is None or c[3] in ("", consumer))]
    assert times.after(after, consumer) == (sum(c[1] for c in counted), sum(c[2] for c in counted))


@given(st.lists(st.tuples(st.integers(0, 40 * DAY_S), st.integers(1, 6)), max_size=60), st.integers(1, 9), st.integers(1, 6))
def test_any_span_of_n_periods_costs_at_most_n_times_the_bound(asked: list[tuple[int, int]], days: int, most: int) -> None:
    """The worst case that the documentation states, over whatever is asked whenever."""
    times = ChargeTimes()
    granted: list[tuple[int, int]] = []
    for now, amount in sorted(asked):
        if times.after(period_begins(now, days))[0] + amount <= most:
            times.add(now * 1000, amount, 0, "")
            granted.append((now, amount))
    for begins, _ in granted:
        for periods in (1, 2, 3):
            spanned = sum(amount for at, amount in granted if begins <= at < begins + periods * days * DAY_S)
            assert spanned <= periods * most

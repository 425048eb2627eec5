"""Ledgers in two measures, bounds per consumer and tables of nobody: charged, followed at home, and derived again by replay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from policies.declaration import Column, Declaration
from policies.entries import LedgerCharge, parse_header
from policies.errors import Conflict
from policies.privacy import Loss, parse_epsilon, parse_loss
from sandbox.audit.judge import RULES
from sandbox.audit.totals import Total
from sandbox.party.following import Followed
from tests.support import terms
from tests.support.forge import Draft, drafts, find, forged, replayed, require_named
from tests.support.story import Story, begin, export

RHO = parse_loss("zcdp", "0.5", "0.00001")
COUNT = "SELECT COUNT(*) AS people FROM insurer.plans"
REGIONS = Declaration(
    dataset="office.regions",
    title="Plans and what they are called",
    unit="",
    id_space="",
    rows_per_unit=1,
    unique_key=("coinsurance",),
    public=True,
    columns=(
        Column(name="coinsurance", type="integer", domain=(0, 25, 50, 95, 100)),
        Column(name="label", type="text", domain=("free", "low", "half", "high", "none")),
    ),
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """An agreement in rho with a bound per consumer and a public table; and one in epsilon on the same ledgers, which comes too late."""
    story = begin(tmp_path_factory.mktemp("measures"), others=("bureau", "office"))
    story.declare(REGIONS)
    story.publish(REGIONS, pa.table({"coinsurance": [0, 25, 50, 95, 100], "label": ["free", "low", "half", "high", "none"]}), 1)
    asking = ("institute", "bureau")
    both: dict[str, Any] = {"assignees": asking, "recipients": asking}
    parties = {"insurer": ("provider",), "clinic": ("provider",), "office": ("provider",), **dict.fromkeys(asking, ("consumer",))}
    zcdp = both | {"job_loss": parse_loss("zcdp", "0.3", "0.00001"), "total_loss": RHO}
    declarations = (terms.declaration_insurer(), terms.declaration_clinic(), REGIONS)
    public = terms.terms_open(REGIONS, **both)
    story.agreement = story.sealed_agreement(
        parties=parties,
        declarations=declarations,
        terms=(
            terms.terms_open(terms.declaration_insurer(), **zcdp, consumer_loss=parse_loss("zcdp", "0.3", "0.00001")),
            terms.terms_clinic(**zcdp),
            public,
        ),
    )
    agreement = story.agree(story.agreement)
    ask(story, "first", agreement, "0.2")
    ask(story, "capped", agreement, "0.15", sql=COUNT + " WHERE female = 1")
    ask(story, "bureau", agreement, "0.15", consumer="bureau")
    ask(story, "labelled", agreement, "0.05", sql=_labelled(), consumer="institute")
    ask(story, "exhausted", agreement, "0.125", consumer="bureau", sql=COUNT + " WHERE female = 0")
    late = story.sealed_agreement(uid="late", parties=parties, declarations=declarations, terms=(
        terms.terms_insurer(**both), terms.terms_clinic(**both), public))  # fmt: skip
    story.ask("pure", agreement=story.agree(late), sql=COUNT, epsilon="0.5")
    return story


def ask(story: Story, label: str, agreement: str, rho: str, *, sql: str = COUNT, consumer: str = "institute") -> None:
    story.ask(label, agreement=agreement, sql=sql, loss=parse_loss("zcdp", rho), consumer=consumer)


def _labelled() -> str:
    return (
        "SELECT r.label, COUNT(*) AS people FROM insurer.plans AS p JOIN office.regions AS r ON p.coinsurance = r.coinsurance "
        "GROUP BY r.label"
    )


@pytest.fixture
def told(house: Story) -> list[Draft]:
    return drafts(house.host)


def denials(story: Story, label: str) -> dict[str, str]:
    return {f.rule: f"{f.message}; {f.remedy}" for f in story.jobs[label].decision.findings if not f.allowed}


def test_jobs_are_charged_in_rho_and_the_log_replays(house: Story) -> None:
    with house.host.store.reading() as tx:
        assert tx.spent()["insurer", "rand-hie"] == Loss(measure="zcdp", amount=400_000_000)
    verdict = replayed(export(house.host, "institute"), house)
    assert verdict.ok, verdict.mismatches
    assert verdict.totals == {"insurer/rand-hie": Total(measure="zcdp", amount=400_000_000)}
    assert house.jobs["first"].state == "released"


def test_one_consumer_stays_within_its_bound_and_another_has_its_own(house: Story) -> None:
    assert denials(house, "capped").keys() == {"consumer_loss"}
    assert "`institute` on ledger insurer/rand-hie: rho 0.2 of rho 0.3" in denials(house, "capped")["consumer_loss"]
    assert house.jobs["bureau"].decision.allowed
    assert [(fact.provider, fact.spent.amount) for fact in house.jobs["bureau"].facts.consumer_spent] == [("insurer", 0)]


def test_the_sum_over_all_consumers_has_its_bound_too(house: Story) -> None:
    assert denials(house, "exhausted").keys() == {"total_loss"}
    assert "ask for rho 0.1, delta0 0.00001 or less" in denials(house, "exhausted")["total_loss"]


def test_a_ledger_keeps_the_measure_of_its_first_charge(house: Story) -> None:
    assert denials(house, "pure") == {"total_loss": denials(house, "pure")["total_loss"]}
    assert "this ledger pays in rho" in denials(house, "pure")["total_loss"]
    pure = LedgerCharge(provider="insurer", id_space="rand-hie", amount=1)
    with house.host.store.transaction() as tx:
        tx.lock_ledgers([("insurer", "rand-hie")])
        with pytest.raises(Conflict) as refused:
            tx.charge([pure], "institute", 0)
    assert refused.value.code == "ledger-measure"


def test_a_public_table_charges_nobody_and_its_provider_gives_the_keys(house: Story, told: list[Draft]) -> None:
    job = house.jobs["labelled"]
    assert job.state == "released", job.code
    charged = told[find(told, "charged", job=job.id)].header
    assert [loss.provider for loss in charged.losses] == ["insurer"]
    assert charged.ids["public"] == "office"
    released = {d.header.ids["provider"] for d in told if d.header.kind == "key_released" and d.header.ids["job"] == job.id}
    assert released == {"insurer", "office"}


def test_charges_at_home_are_counted_by_measure_and_consumer(told: list[Draft], house: Story) -> None:
    followed = Followed()
    for index, draft in enumerate(told):
        followed = followed.noted(draft.header, index)
    ledger, last = ("insurer", "rand-hie"), house.jobs["labelled"].id
    assert followed.spent_before(last, *ledger) == Loss(measure="zcdp", amount=350_000_000)
    assert followed.consumer_spent_before(last, *ledger, "institute") == Loss(measure="zcdp", amount=200_000_000)
    assert followed.consumer_spent_before(last, *ledger, "bureau").amount == 150_000_000
    assert followed.consumer_spent_before(last, *ledger, "nobody").amount == 0


def test_charges_that_name_nobody_count_to_everybody(told: list[Draft], house: Story) -> None:
    followed = Followed()
    for index, draft in enumerate(told):
        ids = {name: value for name, value in draft.header.ids.items() if name != "consumer"}
        followed = followed.noted(replace(draft.header, ids=ids), index)
    last = house.jobs["labelled"].id
    assert followed.consumer_spent_before(last, "insurer", "rand-hie", "bureau").amount == 350_000_000
    with house.host.store.reading() as tx:
        assert tx.spent_for("nobody", {("insurer", "rand-hie"): Loss(measure="zcdp", amount=500_000_000)}) == {
            ("insurer", "rand-hie"): Loss(measure="zcdp", amount=100_000_000)
        }


def _charged(story: Story, history: list[Draft], label: str) -> int:
    return find(history, "charged", job=story.jobs[label].id)


def _in_epsilon(story: Story, history: list[Draft]) -> int:
    at = _charged(story, history, "first")
    history[at] = history[at].charging(*(replace(loss, measure="pure") for loss in history[at].header.losses))
    return at


def _for_another_consumer(story: Story, history: list[Draft]) -> int:
    at = _charged(story, history, "bureau")
    history[at] = history[at].edited(consumer="institute")
    return at


def _for_nobody(story: Story, history: list[Draft]) -> int:
    at = _charged(story, history, "labelled")
    header = history[at].header
    history[at] = replace(history[at], header=replace(header, ids={k: v for k, v in header.ids.items() if k != "consumer"}))
    return at


def _more_delta0(story: Story, history: list[Draft]) -> int:
    at = _charged(story, history, "first")
    history[at] = history[at].charging(*(replace(loss, delta0=1) for loss in history[at].header.losses))
    return at


@pytest.mark.parametrize("forge", [_in_epsilon, _for_another_consumer, _for_nobody, _more_delta0])
def test_a_charge_in_another_measure_or_for_somebody_else_is_named(house: Story, told: list[Draft], forge: Any) -> None:
    require_named(house, told, forge, "budgets")


def test_a_consumers_spending_that_is_understated_is_named(house: Story, told: list[Draft]) -> None:
    at = find(told, "decided", job=house.jobs["capped"].id)
    told[at] = told[at].edited(lambda body: body["facts"]["consumer_spent"][0]["spent"].update(amount=1))
    assert at in {m.index for m in forged(told, house).mismatches if m.promise == "budgets"}


def test_a_charge_of_the_first_logs_keeps_its_bytes() -> None:
    old = (
        b'{"at":1,"commitment":"sha256:' + b"0" * 64 + b'","ids":{"agreement":"a","grant":"g","job":"j"},"kind":"charged",'
        b'"losses":[{"amount":5,"delta0":0,"id_space":"people","provider":"insurer"}],"v":1}'
    )
    header = parse_header(old)
    assert header.losses[0].measure == "pure"
    assert header.ids.keys() - RULES["charged"].optional == RULES["charged"].ids


def test_totals_in_one_agreement_have_one_measure() -> None:
    with pytest.raises(Exception, match="one measure"):
        terms.terms_insurer(job_loss=parse_loss("zcdp", "0.1"), total_loss=parse_epsilon("1"))

"""A model is tested on rows of its receiver that took no part in training: one bit, charged to their own ledger, a few times at most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from policies.acceptance import Acceptance
from policies.codec import decode, encode
from policies.declaration import Declaration
from policies.errors import Malformed, NotFound, SandboxError
from policies.exchange import Asked, Exchange, Leg
from policies.plan import parse_plan
from policies.privacy import Loss, parse_loss
from policies.training import Input, Logistic, Training, Trees
from sandbox.audit.replay import replay
from sandbox.exchange import escrow
from sandbox.jobs.states import Job
from tests.support import exchanges as ex
from tests.support import terms
from tests.support.story import Story, begin, export

RHO = parse_loss("zcdp", "2")
SQL = "SELECT coinsurance AS plan, female AS female FROM insurer.plans"
OWN = "SELECT share AS plan, woman AS female FROM clinic.trial WHERE share < 200"
TRAINING = Training(
    learner=Logistic(steps=3),
    features=(Input(column="plan", encoding="categories"),),
    label=Input(column="female", encoding="categories"),
    test=Acceptance(metric="auc", least="0.7", sql=OWN),
)
PERSONS, ROWS = 400, 3


def trial(**overrides: Any) -> Declaration:
    """`clinic.trial`: patients of whom the clinic knows plan and sex, three rows of each at most."""
    insurer = terms.declaration_insurer()
    named = {"coinsurance": "share", "female": "woman"}
    columns = tuple(replace(c, name=named.get(c.name, c.name)) for c in insurer.columns if c.name != "medical_spend")
    return replace(insurer, dataset="clinic.trial", title="Trial", id_space="trial", rows_per_unit=ROWS, columns=columns, **overrides)


def told_by_plan(persons: int, women: Any, plan: str, sex: str, **more: list[float]) -> pa.Table:
    """Three years of every person; whether a woman is `women` of the plan's share."""
    rows = [(person, year) for person in range(persons) for year in (1, 2, 3)]
    shares = [(0, 25, 50, 95, 100)[person % 5] for person, _ in rows]
    return pa.table({"person_id": [p for p, _ in rows], "year": [y for _, y in rows], plan: shares, sex: list(map(women, shares)), **more})


def by_plan(share: int) -> int:
    return int(share >= 50)


TABLES = {
    "good": lambda: told_by_plan(PERSONS, by_plan, "share", "woman"),
    "other way round": lambda: told_by_plan(PERSONS, lambda share: 1 - by_plan(share), "share", "woman"),
    "one class": lambda: told_by_plan(PERSONS, lambda share: 1, "share", "woman"),
    "few persons": lambda: told_by_plan(4, by_plan, "share", "woman"),
    "no rows": lambda: told_by_plan(PERSONS, by_plan, "share", "woman").slice(0, 0),
}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The insurer's plans tell women, and the clinic has a table of its own. In the end all of it replays."""
    found = begin(tmp_path_factory.mktemp("own"))
    spend = [1.0] * (PERSONS * 3)
    found.publish(terms.declaration_insurer(), told_by_plan(PERSONS, by_plan, "coinsurance", "female", medical_spend=spend), 2)
    found.declare(trial())
    yield found
    assert not replay(export(found.host, "insurer").__getitem__, found.host.log_identity).mismatches
    found.host.store.close()


def agreed(story: Story, uid: str, own: Loss = parse_loss("zcdp", "20"), output_bytes: int | None = None) -> str:
    """An agreement in rho under which the insurer gives models for exchanges only, and the clinic has them tested."""
    shared: dict[str, Any] = {
        "assignees": ("insurer", "clinic"), "recipients": ("insurer", "clinic"), "job_loss": RHO, "minimum_group": 20,
    }  # fmt: skip
    given = terms.terms_open(
        terms.declaration_insurer(), total_loss=parse_loss("zcdp", "90"), exchange_only=True, output_bytes=output_bytes, **shared
    )
    tested = terms.terms_open(trial(), total_loss=own, **shared)
    return story.agree(
        story.sealed_agreement(parties=ex.roles(), declarations=(terms.declaration_insurer(), trial()), terms=(given, tested), uid=uid)
    )


def model_leg(agreement: str, training: Training = TRAINING, jobs: int = 2) -> Leg:
    """The insurer gives the clinic a model."""
    ask = Asked(sql=SQL, loss=RHO, training=training)
    return Leg(kind="model", giver="insurer", receiver="clinic", agreement=agreement, purpose=ex.PURPOSE, ask=ask, jobs=jobs)


def order() -> Leg:
    """The clinic orders something."""
    return Leg(kind="order", giver="clinic", receiver="insurer", document=ex.ORDER)


def begun(story: Story, uid: str, **leg: Any) -> Exchange:
    name = agreed(story, uid, **{key: leg.pop(key) for key in ("own", "output_bytes") if key in leg})
    return ex.begun(story, name, first=order(), second=model_leg(name, **leg), uid=uid)


_versions = iter(range(1, 99))


def tried(story: Story, document: Exchange, table: str, label: str) -> Job:
    """Publish the clinic's table and ask the model's job to its end."""
    story.publish(trial(), TABLES[table](), next(_versions))
    return ex.delivered(story, document, 2, label)


def verdict(story: Story, job: Job) -> str:
    """What the log says in public of the test of a job."""
    with story.host.store.reading() as tx:
        release = tx.release(job.id)
    assert release is not None
    return str(release.statement.statement.accepted)  # type: ignore[union-attr]


def test_a_model_that_is_good_on_the_receivers_own_rows_is_handed_over(story: Story) -> None:
    document = begun(story, "good")
    job = tried(story, document, "good", "good")
    assert (job.state, verdict(story, job), ex.stage(story, document)) == ("released", "yes", "one_in_escrow")
    assert job.grant is not None
    assert {read.provider for read in job.grant.reads} == {"insurer", "clinic"}, "the receiver's broker releases the keys of its own table"
    with story.host.store.reading() as tx:
        spent = tx.spent()
    assert spent["clinic", "trial"] == spent["insurer", "rand-hie"] == RHO
    ex.did(story, "clinic", document, "give", 1, ex.ORDER)
    ex.did(story, "insurer", document, "acknowledge", 1, ex.ORDER)
    ex.did(story, "clinic", document, "acknowledge", 2, ex.sealed_of(story, document, 2))
    assert len(ex.handed(story, job)) > 1000


@pytest.mark.parametrize("table", ["other way round", "one class", "few persons", "no rows"])
def test_a_model_that_cannot_be_shown_to_be_good_there_is_not(story: Story, table: str) -> None:
    document = begun(story, table.replace(" ", "-"), jobs=1, training=replace(TRAINING, test=replace(TRAINING.test, least="0.6")))
    job = tried(story, document, table, table.replace(" ", "-"))
    assert (job.state, verdict(story, job)) == ("released", "no")
    assert ex.stage(story, document) == "returned"
    with pytest.raises(NotFound):
        ex.handed(story, job)


def test_a_model_larger_than_agreed_is_withheld_by_name_costs_its_loss_and_gives_nothing(story: Story) -> None:
    forest = replace(TRAINING, learner=Trees(rounds=12, depth=5, bins=4))
    with story.host.store.reading() as tx:
        before = tx.spent().get(("insurer", "rand-hie"), Loss(measure="zcdp", amount=0)).amount
    document = begun(story, "too-large", jobs=1, training=forest, output_bytes=8192)
    job = tried(story, document, "good", "too-large")
    assert (job.state, job.code, ex.stage(story, document)) == ("withheld", "output-limit", "returned")
    with story.host.store.reading() as tx:
        release = tx.release(job.id)
        assert release is not None
        assert release.sealed == b""
        assert tx.spent()["insurer", "rand-hie"].amount == before + RHO.amount


def test_attempts_are_limited_and_each_is_charged(story: Story) -> None:
    document = begun(story, "attempts", jobs=2)
    with story.host.store.reading() as tx:
        before = tx.spent().get(("clinic", "trial"), Loss(measure="zcdp", amount=0)).amount
    assert verdict(story, tried(story, document, "other way round", "attempt-1")) == "no"
    assert ex.stage(story, document) == "open"
    assert verdict(story, ex.delivered(story, document, 2, "attempt-2")) == "no"
    assert ex.stage(story, document) == "returned"
    with story.host.store.reading() as tx:
        assert tx.spent()["clinic", "trial"].amount == before + 2 * RHO.amount
    assert ex.charged(story, document, 2, "attempt-3").state == "denied"


def test_a_test_that_the_receivers_own_budget_cannot_pay_is_denied(story: Story) -> None:
    with story.host.store.reading() as tx:
        spent = tx.spent().get(("clinic", "trial"), Loss(measure="zcdp", amount=0)).amount
    document = begun(story, "budget", own=Loss(measure="zcdp", amount=spent + RHO.amount - 1))
    story.publish(trial(), TABLES["good"](), next(_versions))
    job = ex.charged(story, document, 2, "budget")
    assert job.state == "denied"
    assert {(f.rule, f.dataset) for f in job.decision.findings if not f.allowed} == {("total_loss", "clinic.trial")}


def test_anothers_table_is_refused_in_an_exchange_and_outside_of_one(story: Story) -> None:
    name = agreed(story, "foreign")
    foreign = replace(TRAINING, test=replace(TRAINING.test, sql=SQL))
    own = replace(model_leg(name), giver="clinic", receiver="insurer", ask=Asked(sql=OWN, loss=RHO, training=foreign))
    own = replace(own, giver="insurer", receiver="clinic")
    now = story.clock.at // 1000
    document = ex.exchange(order(), own, uid="foreign", accept_by=now + 86_400, deadline=now + 30 * 86_400)
    with pytest.raises(Malformed, match=r"insurer\.plans") as refused:
        escrow.propose(story.host, story.member("clinic"), story.firms["clinic"].sign("exchange", document))
    assert refused.value.code == "test-table"
    job = story.ask("outside", consumer="insurer", agreement=name, sql=SQL, loss=RHO, training=TRAINING)
    assert ("test_table", "clinic.trial") in {(f.rule, f.dataset) for f in job.decision.findings if not f.allowed}


@pytest.mark.parametrize(
    ("own", "code"),
    [
        (SQL, "test-table"),
        (OWN.replace("woman AS female", "woman AS other"), "unknown-column"),
        (OWN.replace("share AS plan", "share > 20 AS plan"), "test-columns"),
        (OWN.replace("share AS plan, ", ""), "unknown-column"),
        ("SELECT COUNT(*) AS plan FROM clinic.trial", "sql"),
        ("SELECT person_id AS plan, woman AS female FROM clinic.trial", "raw-column"),
        ("SELECT share AS plan, woman AS female FROM clinic.other", "unknown-dataset"),
        ("", "sql"),
    ],
)
def test_rows_of_a_test_that_do_not_fit_are_refused_before_anything_is_spent(own: str, code: str) -> None:
    declarations = {d.dataset: d for d in (terms.declaration_insurer(), trial())}
    with pytest.raises(Malformed) as refused:
        parse_plan(SQL, declarations, replace(TRAINING, test=replace(TRAINING.test, sql=own)))
    assert refused.value.code == code


@pytest.mark.parametrize("wrong", [{"metric": "predictions"}, {"metric": "scores"}, {"rows": 5}, {"least": "2"}])
def test_a_test_answers_one_bit_and_nothing_per_row(wrong: dict[str, Any]) -> None:
    with pytest.raises(SandboxError):
        decode(Acceptance, {**encode(TRAINING.test), **wrong})


def test_a_test_has_held_out_persons_or_rows_of_its_own() -> None:
    with pytest.raises(Malformed, match="one of the two"):
        replace(TRAINING, held_out=30)
    with pytest.raises(Malformed, match="one of the two"):
        replace(TRAINING, test=replace(TRAINING.test, sql=None))

"""An exchange between insurer and clinic: the insurer gets figures from the clinic's table, the clinic a model or an order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from policies.agreement import Agreement
from policies.exchange import Asked, Bound, Exchange, ExchangeAct, Leg, exchange_digest
from policies.odrl import agreement_digest
from policies.privacy import parse_epsilon
from policies.request import JobRequest
from sandbox.exchange import escrow
from sandbox.exchange.escrow import Shown
from sandbox.jobs import handout
from sandbox.jobs.states import Job
from sandbox.jobs.submit import submit
from tests.support import terms
from tests.support.story import Story

PURPOSE = "public-health-research"
VISITS_SQL = "SELECT AVG(doctor_visits) AS visits, COUNT(*) AS years FROM clinic.care"
SPEND_SQL = "SELECT SUM(medical_spend) AS spend FROM insurer.plans"
BOTH_SQL = "SELECT COUNT(*) AS years, SUM(medical_spend) AS spend FROM insurer.plans JOIN clinic.care USING (person_id, year)"
ORDER = terms.digest_of("purchase order 17")


def data_leg(agreement: str, **overrides: Any) -> Leg:
    """The clinic gives the insurer average visits."""
    ask = Asked(sql=VISITS_SQL, loss=parse_epsilon("0.25"))
    leg = Leg(kind="data", giver="clinic", receiver="insurer", agreement=agreement, purpose=PURPOSE, ask=ask, jobs=2)
    return replace(leg, **overrides)


def back_leg(agreement: str, **overrides: Any) -> Leg:
    """The insurer gives the clinic the sum of spending."""
    ask = Asked(sql=SPEND_SQL, loss=parse_epsilon("0.25"))
    leg = Leg(kind="data", giver="insurer", receiver="clinic", agreement=agreement, purpose=PURPOSE, ask=ask, jobs=2)
    return replace(leg, **overrides)


def order_leg(**overrides: Any) -> Leg:
    """The insurer orders something from the clinic."""
    return replace(Leg(kind="order", giver="insurer", receiver="clinic", document=ORDER), **overrides)


def scenario_leg(agreement: str, **overrides: Any) -> Leg:
    """The clinic may evaluate on the insurer's table, twice."""
    leg = Leg(
        kind="scenario",
        giver="insurer",
        receiver="clinic",
        agreement=agreement,
        purpose=PURPOSE,
        jobs=2,
        until=terms.NOW + 90 * 86_400,
    )
    return replace(leg, **overrides)


def exchange(first: Leg, second: Leg, **overrides: Any) -> Exchange:
    """An exchange of the clinic with the insurer that is open for a day and ends after thirty."""
    document = Exchange(
        uid="visits-for-spend",
        title="Visits for spending",
        accept_by=terms.NOW + 86_400,
        deadline=terms.NOW + 30 * 86_400,
        dispute_days=7,
        legs=(first, second),
        arbiter="auditor",
    )
    return replace(document, **overrides)


def act(document: Exchange, name: str, leg: int = 0, about: str = "", number: int = 1) -> ExchangeAct:
    """An act on an exchange."""
    return ExchangeAct(exchange=exchange_digest(document), act=name, leg=leg, about=about, number=number)  # type: ignore[arg-type]


def request_of(document: Exchange, number: int, **overrides: Any) -> JobRequest:
    """The request that the job of a leg makes."""
    leg = document.leg(number)
    ask = leg.ask or Asked(sql=SPEND_SQL, loss=parse_epsilon("0.25"))
    asked = terms.request(
        request_id=f"request-of-leg-{number}",
        agreement=leg.agreement,
        consumer=leg.receiver,
        purpose=leg.purpose,
        sql=ask.sql,
        training=ask.training,
        exchange=Bound(exchange=exchange_digest(document), leg=number, form=leg.form),  # type: ignore[arg-type]
    )
    return replace(asked, loss=ask.loss, **overrides)


def roles() -> dict[str, tuple[str, ...]]:
    """Roles under which both participants give and receive."""
    return {
        "insurer": ("provider", "consumer"),
        "clinic": ("provider", "consumer"),
        "institute": ("consumer",),
        "auditor": ("auditor",),
    }


def both_terms(**overrides: Any) -> tuple[Any, Any]:
    """Terms of both for each other, for jobs of exchanges only."""
    shared: dict[str, Any] = {"assignees": ("insurer", "clinic"), "recipients": ("insurer", "clinic"), "exchange_only": True}
    return terms.terms_insurer(**{**shared, **overrides}), terms.terms_clinic(**{**shared, "minimum_group": 10, **overrides})


def agreement() -> Agreement:
    """An agreement under which both give and receive."""
    parties = tuple(terms.party(name, *held) for name, held in roles().items())  # type: ignore[arg-type]
    return terms.agreement(parties=parties, terms=both_terms())


def digest() -> str:
    """The digest of `agreement()`."""
    return agreement_digest(agreement())


# --- in a story


def agreed(story: Story, uid: str = "both-ways", **overrides: Any) -> str:
    """An agreement of a story under which both give and receive, for exchanges only."""
    budget = {"total_loss": parse_epsilon("50")}
    return story.agree(story.sealed_agreement(parties=roles(), terms=both_terms(**{**budget, **overrides}), uid=uid))


def propose(story: Story, document: Exchange, by: str = "clinic") -> Shown:
    """Propose an exchange."""
    return escrow.propose(story.host, story.member(by), story.firms[by].sign("exchange", document))


def did(story: Story, by: str, document: Exchange, name: str, leg: int = 0, about: str = "", number: int = 1) -> Shown:
    """Do something about an exchange."""
    item = act(document, name, leg, about, number)
    return escrow.act(story.host, story.member(by), story.firms[by].sign("exchange-act", item))


def begun(story: Story, agreement: str, **overrides: Any) -> Exchange:
    """An exchange of figures for an order that both have signed; with `second`, for that leg."""
    second = overrides.pop("second", order_leg())
    first = overrides.pop("first", data_leg(agreement))
    now = story.clock.at // 1000
    document = exchange(first, second, **{"accept_by": now + 86_400, "deadline": now + 30 * 86_400, **overrides})
    propose(story, document)
    did(story, "insurer", document, "accept")
    return document


def charged(story: Story, document: Exchange, number: int, label: str, **overrides: Any) -> Job:
    """Submit the job of a leg."""
    asked = request_of(document, number, request_id=f"request-{label}", **overrides)
    signed = story.firms[asked.consumer].sign("job-request", asked)
    return submit(story.host, story.member(asked.consumer), signed)


def delivered(story: Story, document: Exchange, number: int, label: str) -> Job:
    """Run the job of a leg to its end."""
    job = charged(story, document, number, label)
    assert job.state == "charged", job.decision
    story.work()
    return stored(story, job.id)


def stored(story: Story, name: str) -> Job:
    """A job as it is stored."""
    with story.host.store.reading() as tx:
        job = tx.job(name)
    assert job is not None
    return job


def handed(story: Story, job: Job) -> bytes:
    """The sealed release of a job, as its recipient would get it."""
    with story.host.store.reading() as tx:
        return handout.release(tx, stored(story, job.id), story.host.now())[1]


def stage(story: Story, document: Exchange) -> str:
    """How far an exchange got."""
    with story.host.store.reading() as tx:
        found = tx.exchange(exchange_digest(document))
    assert found is not None
    return found.course.stage


def sealed_of(story: Story, document: Exchange, leg: int) -> str:
    """Digest of what is in escrow for a leg."""
    with story.host.store.reading() as tx:
        found = tx.exchange(exchange_digest(document))
    assert found is not None
    return found.course.held(leg).given


def completed(story: Story, document: Exchange, label: str) -> Job:
    """Bring an exchange of a job for an order to its hand-over."""
    job = delivered(story, document, 1, label)
    did(story, "insurer", document, "give", 2, ORDER)
    did(story, "insurer", document, "acknowledge", 1, sealed_of(story, document, 1))
    did(story, "clinic", document, "acknowledge", 2, ORDER)
    return job

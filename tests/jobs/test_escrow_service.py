"""Scores for an order: the right to a scoring service is handed over with what it is paid with, used up to its quota, never one-sided."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from enclaves.kit.offered import model_table
from policies.conditions import RowQuota
from policies.exchange import Bound, Exchange, Leg, exchange_digest
from policies.finding import Finding
from policies.request import JobRequest
from sandbox.audit.replay import replay
from sandbox.exchange import escrow
from sandbox.jobs.preview import check
from sandbox.jobs.states import Job
from sandbox.jobs.submit import submit
from tests.jobs.test_escrow_crashes import STRIDE, in_child, taken
from tests.support import exchanges as ex
from tests.support import scoring, terms
from tests.support.service import DATABASES, fresh_database
from tests.support.story import Story, begin, export

ROWS: list[tuple[int, int, int | None]] = [(7, 0, 0), (3, 25, 4), (12, 95, 20)]
QUOTA = RowQuota(rows=9, days=None)


@pytest.fixture(scope="module", params=DATABASES if os.environ.get("SANDBOX_FULL") else DATABASES[:1])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The insurer's model and the institute's rows are published. In the end all of it replays."""
    with fresh_database(str(request.param)) as url:
        found = begin(tmp_path_factory.mktemp("service"), url)
        agreement = scoring.market()
        for declaration, table in zip(agreement.declarations, (model_table(scoring.risk_model()), scoring.people_table(ROWS)), strict=True):
            found.declare(declaration)
            found.publish(declaration, table, 1)
        yield found
        assert not replay(export(found.host, "insurer").__getitem__, found.host.log_identity).mismatches
        found.host.store.close()


def service_for_order(story: Story, uid: str, jobs: int = 4) -> Exchange:
    """The insurer gives the right to so many calls, the institute an order; proposed by nobody yet."""
    market = scoring.market(scored_rows=QUOTA, score_decimals=2, exchange_only=True)
    agreement = story.agree(story.sealed_agreement(parties=scoring.ROLES, declarations=market.declarations, terms=market.terms, uid=uid))
    now = story.clock.at // 1000
    right = Leg(
        kind="service", giver="insurer", receiver="institute", agreement=agreement, purpose=ex.PURPOSE, jobs=jobs, until=now + 300 * 86_400
    )
    order = Leg(kind="order", giver="institute", receiver="insurer", document=ex.ORDER)
    return ex.exchange(right, order, uid=uid, accept_by=now + 20 * 86_400, deadline=now + 60 * 86_400)


def call(document: Exchange, label: str, rows: int = 3, **changes: Any) -> JobRequest:
    """A call of the service by the right of leg 1."""
    leg = document.leg(1)
    bound = Bound(exchange=exchange_digest(document), leg=1, form="right")
    asked = {"exchange": bound, "scoring": scoring.call(rows=rows, decimals=2), **changes}
    return terms.request(
        request_id=f"call-{label}", agreement=leg.agreement, consumer="institute", purpose=leg.purpose, sql=scoring.SQL,
        loss=scoring.NOTHING, **asked,
    )  # fmt: skip


def submitted(story: Story, request: JobRequest) -> Job:
    """The job that a request makes."""
    return submit(story.host, story.member("institute"), story.firms["institute"].sign("job-request", request))


def scored(story: Story, request: JobRequest) -> Job:
    """The call, run to its end."""
    job = submitted(story, request)
    assert job.state == "charged", job.decision
    story.work()
    return ex.stored(story, job.id)


def denials(findings: Iterable[Finding]) -> set[str]:
    """Rules that deny."""
    return {finding.rule for finding in findings if not finding.allowed}


def denied_by(job: Job) -> set[str]:
    """Rules that deny a job."""
    assert job.state == "denied"
    return denials(job.decision.findings)


def usable(story: Story, document: Exchange) -> bool:
    """Whether the service would score now."""
    found = check(story.host, story.member("institute"), call(document, "looked")).decision
    assert not denials(found.findings) - {"exchange_only"}
    return found.allowed


def both_or_neither(story: Story, document: Exchange) -> None:
    """The right can be used once the order is handed over, and not before."""
    assert usable(story, document) is (ex.stage(story, document) == "handed_over")


def handed(story: Story, document: Exchange) -> None:
    """Bring an exchange to its hand-over, looking at each step."""
    ex.propose(story, document, "institute")
    steps = [
        ("insurer", "accept", 0, ""), ("insurer", "give", 1, document.leg(1).thing), ("institute", "give", 2, ex.ORDER),
        ("institute", "acknowledge", 1, document.leg(1).thing), ("insurer", "acknowledge", 2, ex.ORDER),
    ]  # fmt: skip
    for who, name, leg, about in steps:
        assert not usable(story, document)
        ex.did(story, who, document, name, leg, about)
    both_or_neither(story, document)


def test_scores_are_asked_by_the_right_after_the_hand_over_up_to_rows_and_calls(story: Story) -> None:
    document = service_for_order(story, "honest")
    ex.propose(story, document, "institute")
    assert denied_by(submitted(story, call(document, "early"))) == {"exchange_only"}
    handed(story, document)
    assert denied_by(submitted(story, call(document, "outside", exchange=None))) == {"exchange_only"}
    job = scored(story, call(document, "first"))
    assert job.state == "released"
    assert ex.handed(story, job), "scores by a right are in no escrow"
    for number in (2, 3):
        assert scored(story, call(document, f"call-{number}")).state == "released"
    assert denied_by(submitted(story, call(document, "rows"))) == {"scored_rows"}, "nine rows are the quota of the terms"
    assert escrow.read(story.host, story.member("insurer"), exchange_digest(document)).stored.course.first.charged == 3


def test_calls_beyond_those_of_the_leg_and_after_its_end_are_denied(story: Story) -> None:
    document = service_for_order(story, "calls", jobs=1)
    handed(story, document)
    assert scored(story, call(document, "only")).state == "released"
    assert denied_by(submitted(story, call(document, "second"))) == {"exchange_only"}
    other = service_for_order(story, "until")
    handed(story, other)
    story.clock.at = (other.leg(1).until or 0) * 1000
    assert denied_by(submitted(story, call(other, "late"))) >= {"exchange_only"}


def test_every_step_of_a_service_leg_dies_at_its_calls_and_the_right_is_never_had_alone(story: Story) -> None:
    story.clock.at = terms.NOW * 1000 + 10**9
    document = service_for_order(story, "dying")
    right = document.leg(1).thing
    steps = [
        ("insurer", "accept", 0, ""), ("insurer", "give", 1, right), ("institute", "give", 2, ex.ORDER),
        ("insurer", "acknowledge", 2, ex.ORDER), ("institute", "acknowledge", 1, right),
    ]  # fmt: skip
    ex.propose(story, document, "institute")
    for number, (who, name, leg, about) in enumerate(steps, 1):

        def step(who: str = who, name: str = name, leg: int = leg, about: str = about) -> None:
            ex.did(story, who, document, name, leg, about)

        last = number == len(steps)
        for deaths in range(0, 80, 1 if STRIDE == 1 else 4 if last else 12):
            code = in_child(story, step, deaths)
            story.host.publish()
            both_or_neither(story, document)
            if code == 0:
                break
        assert usable(story, document) is last


def test_a_call_that_dies_at_any_step_is_charged_once(story: Story) -> None:
    story.clock.at = terms.NOW * 1000 + 2 * 10**9
    document = service_for_order(story, "charged")
    handed(story, document)
    request = call(document, "dies")
    assert taken(story, [], lambda: submitted(story, request), 4 * STRIDE) > 0
    course = escrow.read(story.host, story.member("institute"), exchange_digest(document)).stored.course
    assert course.first.charged == 1
    story.work()
    assert ex.stored(story, submitted(story, request).id).state == "released"

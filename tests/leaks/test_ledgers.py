"""Attacks by asking often: repetition, rewriting, differencing and many debits at once cost what they tell, or tell nothing new."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from policies.errors import BudgetExhausted
from sandbox.audit.replay import replay
from sandbox.host import Host
from sandbox.jobs.submit import submit
from tests.support import terms
from tests.support.runs import COUNT_SQL, JOIN_SQL, Town, found_town
from tests.support.steps import Line, require_sound
from tests.support.story import begin, export, signed_terms

REWRITTEN = (
    COUNT_SQL,
    "select count(*) as person_years from insurer.plans as p",
    "SELECT COUNT(*) AS person_years\nFROM insurer.plans -- again",
    "WITH p AS (SELECT person_id, year FROM insurer.plans) SELECT COUNT(*) AS person_years FROM p",
)
"""One question in four spellings; the last one is another plan, which costs again."""


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    found = found_town(tmp_path / "town", total="1")
    yield found
    found.close()


def asked(town: Town, label: str, sql: str, epsilon: str = "0.1") -> tuple[str, bytes]:
    """Ask in the institute's name and run it: the job, and the sealed release."""
    client = town.clients["institute"]
    record = client.submit(replace(town.request(label, epsilon=epsilon), sql=sql))
    if record["state"] == "charged":
        Line(host=town.host, brokers=[town.broker(name) for name in ("insurer", "clinic")]).finish(str(record["id"]))
    return str(record["id"]), bytes.fromhex(client._get(f"/jobs/{record['id']}/release")["sealed"])


def test_noise_does_not_average_away_by_asking_again_or_in_other_words(town: Town) -> None:
    answers = [asked(town, f"again-{n}", sql) for n, sql in enumerate((*REWRITTEN[:3], *REWRITTEN[:3]))]
    assert len({sealed for _, sealed in answers}) == 1, "one draw, the same sealed bytes"
    assert len({job for job, _ in answers}) == 6
    assert town.spent()["insurer"] == 100_000_000, "charged once"
    _, other = asked(town, "rewritten", REWRITTEN[3])
    assert town.spent()["insurer"] in (100_000_000, 200_000_000)
    assert (town.spent()["insurer"] == 100_000_000) == (other == answers[0][1]), "a draw of its own is a charge of its own"
    town.host.publish()
    assert replay(export(town.host, "auditor").__getitem__, town.host.log_identity).ok


def test_the_difference_of_two_questions_costs_both(town: Town) -> None:
    """All, and all but one group: what their difference tells of the group is paid twice, and a third question finds nothing left."""
    asked(town, "all-of-them", COUNT_SQL, "0.5")
    asked(town, "all-but-one", "SELECT COUNT(*) AS person_years FROM insurer.plans WHERE year <> 3", "0.5")
    assert town.spent()["insurer"] == 1_000_000_000
    with pytest.raises(BudgetExhausted):
        town.clients["institute"].submit(town.request("third", sql="SELECT COUNT(*) AS n FROM insurer.plans WHERE year = 3", epsilon="0.1"))
    with pytest.raises(BudgetExhausted):
        town.clients["institute"].submit(town.request("joined", sql=JOIN_SQL, epsilon="0.1"))
    assert town.spent()["clinic"] == 0, "what one ledger cannot pay, none pays"


def test_of_64_debits_at_once_exactly_as_many_pass_as_the_ledger_can_pay(tmp_path: Path) -> None:
    """The insurer's ledger has epsilon 1.5; sixty-four ask for 0.125 each."""
    story = begin(tmp_path / "host")
    story.agreement = signed_terms(story)
    agreement = story.agree(story.agreement)
    signed = [
        story.firms["institute"].sign(
            "job-request",
            terms.request(
                request_id=f"request-debit-{n}", epsilon="0.125", agreement=agreement, sql=f"{terms.COUNT_SQL} WHERE year < {n + 2}"
            ),
        )
        for n in range(64)
    ]
    with ThreadPoolExecutor(64) as pool:
        states = list(pool.map(lambda document: submit(story.host, story.member("institute"), document).state, signed))
    assert (states.count("charged"), states.count("denied")) == (12, 52)
    assert spent(story.host) == 1_500_000_000
    story.host.publish()
    require_sound(story.host)


def spent(host: Host) -> int:
    """What the insurer's ledgers have paid."""
    with host.store.reading() as tx:
        return sum(loss.amount for (provider, _), loss in tx.spent().items() if provider == "insurer")

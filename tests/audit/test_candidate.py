"""History under candidate terms: what would have been decided otherwise, and what follows from it for later budgets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policies.agreement import Agreement
from policies.errors import Malformed
from policies.privacy import parse_epsilon
from sandbox.audit.backtest import History, history_under
from sandbox.audit.export import Export
from tests.support.story import Story, export


def tried(story: Story, candidate: Agreement, reader: str = "insurer", name: str | None = None) -> History:
    files = export(story.host, reader)
    return history_under(Export(read=files.__getitem__), story.host.log_identity, candidate, name)


def candidate(story: Story, **insurer: object) -> Agreement:
    assert story.agreement is not None
    first, *others = story.agreement.terms
    return replace(story.agreement, terms=(replace(first, **insurer), *others))  # type: ignore[arg-type]


def test_the_agreement_itself_changes_nothing(story: Story) -> None:
    found = tried(story, candidate(story))
    assert (found.decisions, found.unopened, found.differ, found.unread) == (5, 0, [], [])


def test_a_stricter_candidate_denies_and_a_looser_one_allows(story: Story) -> None:
    stricter = tried(story, candidate(story, job_loss=parse_epsilon("0.3")))
    assert [(d.job, d.logged, d.candidate) for d in stricter.differ] == [(story.jobs["released"].id, True, False)]
    assert "job_loss (insurer.plans)" in stricter.differ[0].why[0]
    looser = candidate(story)
    looser = replace(looser, terms=tuple(replace(t, job_loss=parse_epsilon("9"), total_loss=parse_epsilon("9")) for t in looser.terms))
    assert [(d.job, d.logged, d.candidate) for d in tried(story, looser).differ] == [(story.jobs["denied"].id, False, True)]


def test_budgets_are_carried_forward_as_they_would_have_become(story: Story) -> None:
    total = candidate(story, total_loss=parse_epsilon("0.6"))
    assert [d.job for d in tried(story, total).differ] == [story.jobs[name].id for name in ("withheld", "failed", "counted")]
    freed = candidate(story, job_loss=parse_epsilon("0.3"), total_loss=parse_epsilon("0.63"))
    assert [d.job for d in tried(story, freed).differ] == [story.jobs["released"].id]


def test_what_is_not_opened_is_said_and_an_unknown_agreement_refused(story: Story) -> None:
    with pytest.raises(Malformed):
        tried(story, candidate(story), reader="stranger")
    with pytest.raises(Malformed):
        tried(story, replace(candidate(story), uid="another"))

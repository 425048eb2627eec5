"""A log that begins anew ends what was under way in both legs alike, by name, in the epoch that providers sign; rights go on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.canonical import canonical
from policies.codec import encode
from policies.errors import Malformed, SandboxError
from policies.escrow import Course, Held
from policies.exchange import Exchange, exchange_digest
from policies.lineage import CarriedExchange, Epoch
from sandbox.audit.export import LINEAGE_PATH
from sandbox.audit.replay import replay
from sandbox.exchange import escrow
from sandbox.exchange.epochs import epoch_state, open_epoch, sign_epoch
from tests.support import exchanges as ex
from tests.support.service import DATABASES, fresh_database
from tests.support.story import Story, begin, export


@pytest.fixture(params=DATABASES if os.environ.get("SANDBOX_FULL") else DATABASES[:1])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Everybody is admitted; in the end the log in force replays."""
    with fresh_database(str(request.param)) as url:
        found = begin(tmp_path_factory.mktemp("epoch"), url)
        yield found
        assert mismatches(found) == []
        found.host.store.close()


def mismatches(story: Story, files: dict[str, bytes] | None = None) -> list[str]:
    """What a replay of the log in force finds wrong."""
    files = dict(files or export(story.host, "insurer"))
    with story.host.store.reading() as tx:
        files[LINEAGE_PATH] = canonical({"links": encode(tx.log_links())})
    return [item.what for item in replay(files.__getitem__, story.host.log_identity).mismatches]


def begin_anew(story: Story, signers: tuple[str, ...] = ("insurer", "clinic")) -> Epoch:
    """Open an epoch and have it signed."""
    story.host, epoch = open_epoch(story.host, {})
    for name in signers:
        sign_epoch(story.host, story.member(name), story.firms[name].sign("epoch", epoch))
    assert not signers or epoch_state(story.host).complete
    return epoch


def refused(story: Story, by: str, document: Exchange, name: str, leg: int = 0, about: str = "") -> str:
    """The code with which an act is refused."""
    with pytest.raises(SandboxError) as error:
        ex.did(story, by, document, name, leg, about)
    return error.value.code


def test_what_was_under_way_returns_to_both_and_the_epoch_names_it(story: Story) -> None:
    name = ex.agreed(story, "many")
    now = story.clock.at // 1000
    proposed = ex.exchange(ex.data_leg(name), ex.order_leg(), uid="proposed", accept_by=now + 86_400, deadline=now + 30 * 86_400)
    ex.propose(story, proposed)
    half = ex.begun(story, name, uid="half")
    first = ex.delivered(story, half, 1, "half")
    both = ex.begun(story, name, second=ex.back_leg(name), uid="both")
    jobs = [ex.delivered(story, both, leg, f"both-{leg}") for leg in (1, 2)]
    ex.did(story, "insurer", both, "acknowledge", 1, ex.sealed_of(story, both, 1))
    running = ex.begun(story, name, uid="running")
    ex.charged(story, running, 1, "running")
    disputed = ex.begun(story, name, uid="disputed")
    ex.did(story, "clinic", disputed, "dispute", about=ex.ORDER)
    gone = ex.begun(story, name, uid="gone")
    ex.did(story, "clinic", gone, "withdraw")
    epoch = begin_anew(story)
    ended = {exchange_digest(d): "expired" if d is proposed else "returned" for d in (proposed, half, both, running, disputed)}
    assert {item.exchange: item.course.stage for item in epoch.exchanges} == ended
    for document in (half, both, running, disputed):
        shown = escrow.read(story.host, story.member("clinic"), exchange_digest(document))
        assert (shown.stored.course.stage, shown.reason) == ("returned", "epoch")
        assert refused(story, "clinic", document, "withdraw") == "exchange-state"
    assert refused(story, "insurer", proposed, "accept") == "exchange-state"
    for job in (first, *jobs):
        with story.host.store.reading() as tx:
            release = tx.release(job.id)
        assert release is not None
        assert release.sealed == b"", "what was in escrow is deleted, of both legs"
        with pytest.raises(SandboxError, match="return"):
            ex.handed(story, job)
    assert refused(story, "insurer", gone, "withdraw") == "other-log"


def test_an_exchange_is_proposed_anew_under_the_same_agreement(story: Story) -> None:
    name = ex.agreed(story, "anew")
    ex.delivered(story, ex.begun(story, name, uid="before"), 1, "before")
    begin_anew(story)
    assert len(ex.handed(story, ex.completed(story, ex.begun(story, name, uid="after"), "after"))) > 4096


def test_a_right_that_was_handed_over_goes_on_with_the_jobs_that_are_left(story: Story) -> None:
    name = ex.agreed(story, "rights")
    document = ex.begun(story, name, second=ex.scenario_leg(name), uid="rights")
    ex.delivered(story, document, 1, "rights")
    ex.did(story, "insurer", document, "give", 2, name)
    ex.did(story, "insurer", document, "acknowledge", 1, ex.sealed_of(story, document, 1))
    ex.did(story, "clinic", document, "acknowledge", 2, name)
    assert ex.delivered(story, document, 2, "use-1").state == "released"
    epoch = begin_anew(story)
    assert [(item.course.stage, item.course.second.charged) for item in epoch.exchanges] == [("handed_over", 1)]
    assert ex.did(story, "insurer", document, "received", 1, ex.sealed_of(story, document, 1)).stored.course.first.received
    assert ex.delivered(story, document, 2, "use-2").state == "released"
    assert ex.charged(story, document, 2, "use-3").state == "denied"
    assert begin_anew(story).exchanges == (), "nothing is left of the right"


def test_an_epoch_that_nobody_signed_is_replaced_by_one_that_names_the_same(story: Story) -> None:
    half = ex.begun(story, ex.agreed(story, "twice"), uid="twice")
    ex.delivered(story, half, 1, "twice")
    first, second = begin_anew(story, ()), begin_anew(story)
    assert first.exchanges == second.exchanges != ()
    assert ex.stage(story, half) == "returned"


def test_a_log_in_which_an_ended_exchange_goes_on_is_a_mismatch(tmp_path: Path) -> None:
    story = begin(tmp_path)
    half = ex.begun(story, ex.agreed(story, "goes-on"), uid="goes-on")
    begin_anew(story)
    assert mismatches(story) == []
    with story.host.store.transaction() as tx:  # a host that forgets what the epoch says
        tx.hold_log()
        tx.set_course(exchange_digest(half), Course(stage="open", proposer="clinic"))
    ex.did(story, "insurer", half, "give", 2, ex.ORDER)
    found = mismatches(story)
    assert len(found) == 1
    assert "the exchange is returned" in found[0]
    story.host.store.close()


@pytest.mark.parametrize(
    ("course", "said"),
    [
        (Course(stage="both_in_escrow", proposer="clinic"), "no exchange goes on"),
        (Course(stage="handed_over", proposer="clinic", first=Held(given=ex.ORDER, acknowledged=True)), "one-sided"),
        (Course(stage="handed_over", proposer="clinic", first=Held(given=ex.ORDER), second=Held(given=ex.ORDER)), "one-sided"),
    ],
)
def test_no_epoch_carries_half_an_exchange(course: Course, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        CarriedExchange(exchange=ex.ORDER, course=course)

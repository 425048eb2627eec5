"""An operator that forges an exchange (alone, or in league with one side) is caught and named, and nobody else is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enclaves.kit.signatures import SigningKey
from policies.acts import DutyDone
from policies.tightening import Tightening
from sandbox.audit.verdict import Promise
from sandbox.exchange import escrow
from sandbox.exchange.tightening import tighten
from sandbox.jobs.duties import report_duty
from tests.support import exchanges as ex
from tests.support import terms
from tests.support.acts import sign_exchange_act
from tests.support.forge import Draft, drafts, find, forged, fresh
from tests.support.story import Story, begin

OTHER = SigningKey.generate()


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """One exchange that was handed over, received and deleted; one that returned for revoked terms; a job outside that was denied."""
    folder: Path = tmp_path_factory.mktemp("traded")
    story = begin(folder)
    name = ex.agreed(story, "traded", delete_after=30)
    done = ex.begun(story, name, second=ex.back_leg(name), uid="done")
    jobs = [ex.delivered(story, done, leg, f"done-{leg}") for leg in (1, 2)]
    ex.did(story, "insurer", done, "acknowledge", 1, ex.sealed_of(story, done, 1))
    ex.did(story, "clinic", done, "acknowledge", 2, ex.sealed_of(story, done, 2))
    ex.did(story, "insurer", done, "received", 1, ex.sealed_of(story, done, 1))
    deletion = DutyDone(agreement=name, duty="deletion", about=jobs[0].id, number=1)
    report_duty(story.host, story.member("insurer"), story.firms["insurer"].sign("duty-done", deletion))
    ended = ex.begun(story, name, uid="ended")
    ex.delivered(story, ended, 1, "ended")
    ex.charged(story, ended, 1, "outside", exchange=None)
    tightening = Tightening(agreement=name, dataset="clinic.care", sequence=1, revoked=True)
    tighten(story.host, story.member("clinic"), story.firms["clinic"].sign("tightening", tightening))
    assert escrow.sweep(story.host) == 1
    return story


Change = Callable[[Story, list[Draft]], int]


def _first(found: list[Draft]) -> str:
    return found[find(found, "exchange_proposed")].header.ids["exchange"]


def _without(kind: Any, then: Any, **ids: str) -> Change:
    """Leave an entry out; the next of kind `then` no longer follows."""

    def change(_: Story, found: list[Draft]) -> int:
        at = find(found, kind, **ids)
        del found[at]
        return next(index for index, draft in enumerate(found) if index >= at and draft.header.kind == then)

    return change


def _edited(kind: Any, where: dict[str, str] | None = None, **ids: str) -> Change:
    def change(_: Story, found: list[Draft]) -> int:
        at = find(found, kind, **(where or {}))
        found[at] = found[at].edited(**ids)
        return at

    return change


def _early_hand_over(_: Story, found: list[Draft]) -> int:
    """The host hands over before the second acknowledgement."""
    at, over = find(found, "exchange_act", act="acknowledge", leg="2"), find(found, "handed_over")
    moved = found.pop(over)
    found.insert(at, replace(moved, header=replace(moved.header, at=found[at].header.at)))
    return at


def _one_sided(_: Story, found: list[Draft]) -> int:
    """Leg 1 is handed over when leg 2 is not even in escrow."""
    end = [index for index, draft in enumerate(found) if draft.header.kind == "released"][1]
    over = found[find(found, "handed_over")]
    given = found[find(found, "released")].header.ids
    ids = {"exchange": _first(found), "first": given["sealed"], "second": "", "jobs": given["job"]}
    found.insert(end, fresh("handed_over", over.header.at, ids, {}))
    return end


def _received_before(_: Story, found: list[Draft]) -> int:
    """The insurer says that it has what was not handed over."""
    at, told = find(found, "handed_over"), find(found, "exchange_act", act="received")
    found.insert(at, found.pop(told))
    return at


def _deleted_before(_: Story, found: list[Draft]) -> int:
    """The insurer deletes what it should not have had yet."""
    at, deletion = find(found, "handed_over"), find(found, "duty_done")
    found.insert(at, found.pop(deletion))
    return at


def _by_another(_: Story, found: list[Draft]) -> int:
    """Nobody but the clinic signs for the clinic."""
    at = find(found, "exchange_act", act="acknowledge", leg="2")
    ids = found[at].header.ids
    document = ex.ExchangeAct(exchange=ids["exchange"], act="acknowledge", leg=2, about=ids["about"])
    found[at] = fresh("exchange_act", found[at].header.at, sign_exchange_act(document, "clinic", OTHER).to_ids(), {})
    return at


def _of_the_receiver(story: Story, found: list[Draft]) -> int:
    """The giver cannot acknowledge its own leg."""
    at = find(found, "exchange_act", act="acknowledge", leg="2")
    ids = found[at].header.ids
    document = ex.ExchangeAct(exchange=ids["exchange"], act="acknowledge", leg=2, about=ids["about"])
    signed = sign_exchange_act(document, "insurer", story.firms["insurer"].signing)
    found[at] = fresh("exchange_act", found[at].header.at, signed.to_ids(), {})
    return at


def _late_hand_over(_: Story, found: list[Draft]) -> int:
    at = find(found, "handed_over")
    found[at] = found[at].edited(at=found[at].header.at + 40 * 86_400_000)
    return at


def _twice(kind: Any) -> Change:
    def change(_: Story, found: list[Draft]) -> int:
        at = find(found, kind)
        found.insert(at + 1, found[at])
        return at + 1

    return change


def _unbound_in_header(_: Story, found: list[Draft]) -> int:
    """The header hides that a job is part of an exchange."""
    at = next(index for index, draft in enumerate(found) if "exchange" in draft.header.ids and draft.header.kind == "decided")
    ids = {name: value for name, value in found[at].header.ids.items() if name not in ("exchange", "leg")}
    found[at] = replace(found[at], header=replace(found[at].header, ids=ids))
    return at


def _other_course(_: Story, found: list[Draft]) -> int:
    """The decision states that nothing was charged before."""
    at = [index for index, draft in enumerate(found) if draft.header.kind == "decided" and "exchange" in draft.header.ids][1]

    def change(body: dict[str, Any]) -> None:
        body["facts"]["exchange"]["course"]["disputes"] = 3

    found[at] = found[at].edited(change)
    return at


def _allowed_outside(_: Story, found: list[Draft]) -> int:
    """A denied job outside of the exchange is let through."""
    at = next(index for index, draft in enumerate(found) if draft.header.kind == "decided" and draft.header.ids["allowed"] == "no")

    def change(body: dict[str, Any]) -> None:
        body["decision"]["allowed"] = True
        for finding in body["decision"]["findings"]:
            finding["allowed"] = True

    found[at] = found[at].edited(change, allowed="yes")
    return at


FORGERIES: dict[str, tuple[Change, Promise, str]] = {
    "handed over before both acknowledged": (_early_hand_over, "releases", "handed over while"),
    "one leg alone": (_one_sided, "releases", "one-sided"),
    "received before": (_received_before, "releases", "one-sided"),
    "deleted before": (_deleted_before, "releases", "one-sided"),
    "handed over after the deadline": (_late_hand_over, "releases", "deadline"),
    "another release": (_edited("handed_over", second=terms.digest_of("another")), "releases", "another release"),
    "another job's release": (_edited("handed_over", jobs="job-00"), "releases", "other jobs"),
    "handed over twice": (_twice("handed_over"), "releases", "handed over while"),
    "acknowledged by a stranger's key": (_by_another, "signatures", "signature"),
    "acknowledged by the giver": (_of_the_receiver, "order", "does this"),
    "an act twice": (_twice("exchange_act"), "order", "the exchange is"),
    "an altered act": (_edited("exchange_act", {"act": "accept"}, act="refuse"), "signatures", "signature"),
    "never accepted": (_without("exchange_act", "decided", act="accept"), "decisions", "course"),
    "an acknowledgement kept back": (_without("exchange_act", "handed_over", act="acknowledge", leg="2"), "releases", "handed over while"),
    "never proposed": (_without("exchange_proposed", "exchange_act"), "order", "never proposed"),
    "proposed twice": (_twice("exchange_proposed"), "order", "twice"),
    "another exchange in the header": (_edited("exchange_proposed", exchange=terms.digest_of("x")), "signatures", "header names another"),
    "ended for another reason": (_edited("exchange_ended", reason="deadline"), "order", "ended for `deadline`"),
    "ended before its time": (_without("tightened", "exchange_ended"), "order", "ended for"),
    "a job that hides its leg": (_unbound_in_header, "signatures", "another exchange or leg"),
    "another course stated": (_other_course, "decisions", "stated course"),
    "a job outside let through": (_allowed_outside, "decisions", ""),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_exchange_is_named(traded: Story, name: str) -> None:
    forge, promise, words = FORGERIES[name]
    history = drafts(traded.host)
    at = forge(traded, history)
    verdict = forged(history, traded)
    found = [item for item in verdict.mismatches if item.index == at and item.promise == promise and words in item.what]
    assert found, verdict.mismatches
    assert min(item.index for item in verdict.mismatches if item.index is not None) == at


def test_the_honest_history_replays_whole_and_in_parts(traded: Story) -> None:
    for processes in (1, 3):
        verdict = forged(drafts(traded.host), traded, processes=processes)
        assert verdict.mismatches == ()
        assert verdict.promises["releases"] == "ok"


def test_without_the_document_nothing_of_the_exchange_is_called_ok(traded: Story) -> None:
    history = drafts(traded.host)
    at = find(history, "exchange_proposed")
    history[at] = replace(history[at], salt=None)
    verdict = forged(history, traded)
    assert verdict.mismatches == ()
    assert verdict.promises["releases"] == "unopened"
    assert not verdict.ok

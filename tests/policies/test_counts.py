"""A log that goes on from an epoch counts what one long log would: at home, in a replay, and in what the next epoch opens with."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclaves.kit.signatures import SigningKey
from policies.agreement import LogIdentity
from policies.canonical import canonical, digest, parse_json
from policies.codec import decode, encode
from policies.counts import Asked, Called, Counts, Tally, Used, rows_since
from policies.entries import Header, LedgerCharge
from policies.errors import Malformed
from policies.lineage import Epoch
from sandbox.audit import judge_lineage, judge_policy, judge_scorings
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.folds import Entry
from sandbox.audit.state import State
from sandbox.party.followed import Followed

AGREEMENTS = tuple("sha256:" + letter * 64 for letter in "ab")
PROVIDERS, CONSUMERS, MODELS = ("clinic", "insurer"), ("bureau", "institute"), ("clinic.one", "insurer.two")
LEDGER = ("insurer", "people")
OLD = LogIdentity(origin="log.test/one", key="1" * 64)
NEW = LogIdentity(origin="log.test/one/epoch-2", key=SigningKey.from_bytes(b"k" * 32).public.hex())
KEY = LogKey(name=NEW.origin, public=bytes.fromhex(NEW.key))

Step = tuple[str, str, str, str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("charged", "called", "asked", "refused", "returned", "paid")),
        st.sampled_from(AGREEMENTS), st.sampled_from(CONSUMERS), st.sampled_from(MODELS), st.integers(1, 50),
    ),
    max_size=25,
)  # fmt: skip


def headers(steps: list[Step]) -> list[Header]:
    """A log of these steps, some of them in the same second."""
    found, paid, waiting = [], Counter[tuple[str, str]](), list[dict[str, str]]()
    for number, (what, agreement, consumer, model, amount) in enumerate(steps):
        ids = {"agreement": agreement, "model": model, "rows": str(amount)}
        losses: tuple[LedgerCharge, ...] = ()
        if what in ("charged", "called"):
            ids |= {"job": f"j-{number}", "grant": "g", "consumer": consumer, "public": model.partition(".")[0]}
            losses = (LedgerCharge(provider=LEDGER[0], id_space=LEDGER[1], amount=amount, measure="zcdp"),)
            if what == "charged":
                del ids["rows"], ids["model"]
        elif what == "paid":
            paid[agreement, consumer] += 1
            duty = {"duty": "payment", "about": consumer, "number": str(paid[agreement, consumer])}
            ids = {"agreement": agreement, **duty, "participant": "insurer", "signature": "0" * 128}
        elif what == "returned" and waiting:
            asked = waiting.pop()
            ids = {"scoring": asked["scoring"], "agreement": asked["agreement"], "statement": "s", "code": "owner-silent"}
        else:
            ids |= {"scoring": f"s-{number}", "request": "r", "allowed": "yes" if what == "asked" else "no"}
            waiting += [ids] if what == "asked" else []
        ends = {"score_returned"} if "code" in ids else {"score_decided"}
        kind: Any = {"charged": "charged", "called": "charged", "paid": "duty_done"}.get(what, *ends)
        found.append(Header(kind=kind, at=10_000 + 700 * number, ids=ids, losses=losses, commitment="sha256:" + "0" * 64))
    return found


def epoch_of(tally: Tally, losses: tuple[LedgerCharge, ...]) -> Epoch:
    return Epoch(number=2, before=(OLD,), size=1, root="0" * 64, log=NEW, providers=(), totals=losses, counts=tally.counts())


def opened(epoch: Epoch) -> Header:
    ids = {"epoch": digest(encode(epoch)), "number": "2", "origin": NEW.origin, "key": NEW.key}
    return Header(kind="epoch_opened", at=1, ids=ids, losses=epoch.totals, commitment="sha256:" + "0" * 64)


def split(steps: list[Step], at: int) -> tuple[list[Header], list[Header], Epoch]:
    """The former log, the entries of the new one after its opening, and the epoch between them."""
    log = headers(steps)
    decided = {header.ids["scoring"]: number for number, header in enumerate(log) if header.kind == "score_decided"}
    # A request ends in the log in which it was decided: a new one begins after what was still to be returned.
    while crossing := [n for n, header in enumerate(log) if header.kind == "score_returned" and decided[header.ids["scoring"]] < at <= n]:
        at = crossing[-1] + 1
    former, after = log[:at], log[at:]
    tally = Tally()
    for header in former:
        tally.note(header)
    paid = sum(loss.amount for header in former for loss in header.losses)
    totals = (LedgerCharge(provider=LEDGER[0], id_space=LEDGER[1], amount=paid, measure="zcdp"),) if paid else ()
    carried = [header for header in former if header.kind == "duty_done"]
    return former, [*carried, *after], decode(Epoch, parse_json(canonical(encode(epoch_of(tally, totals)))))


def home(log: list[Header], epoch: Epoch | None) -> Followed:
    """What a home folds."""
    followed = Followed() if epoch is None else replace(Followed(), opening=epoch.counts or Counts())
    for index, header in enumerate(log if epoch is None else [opened(epoch), *log]):
        followed = followed.noted(header, index)
    return followed


def auditor(log: list[Header], epoch: Epoch | None) -> State:
    """What a replay folds, whatever else it finds wrong with this bare log."""
    state = State(log=KEY)
    start = 0 if epoch is None else 1
    if epoch is not None:
        judge_lineage.epoch_opened(state, Entry(index=0, header=opened(epoch), body={"epoch": encode(epoch)}))
    for index, header in enumerate(log, start):
        entry = Entry(index=index, header=header, body=None)
        if header.kind == "charged":
            for loss in header.losses:
                state.charge(loss, header.ids["consumer"], header.at)
            judge_policy.note_charge(state, entry)
        elif header.kind == "duty_done":
            judge_policy.duty_done(state, entry)
        elif header.kind == "score_returned":
            judge_scorings.returned(state, entry)
        else:
            judge_scorings.decided(state, entry)
    return state


def folded(state: State) -> Any:
    calls = {key: sorted((at // 1000, rows) for rows, at in found) for key, found in state.acts.scored.items() if found}
    by_second = {key: {at: sum(rows for when, rows in found if when == at) for at, _ in found} for key, found in calls.items()}
    asked = {key: (found.rows, found.requests) for key, found in state.scored.items() if found.requests}
    uses = {key: dict(found) for key, found in state.acts.uses.items() if found}
    return uses, by_second, asked, dict(state.acts.paid), state.ledgers.get(LEDGER)


@given(steps=STEPS, at=st.integers(0, 25))
def test_a_log_that_goes_on_from_an_epoch_counts_as_one_long_log(steps: list[Step], at: int) -> None:
    long = headers(steps)
    _, after, epoch = split(steps, at)
    one, two = home(long, None), home(after, epoch)
    ends = len(long) + len(after) + 1
    assert one.tally_before(ends).counts() == two.tally_before(ends).counts()
    assert one.total(*LEDGER) == two.total(*LEDGER)
    assert {k: [row["ids"] for row in rows] for k, rows in one.acts.items()} == {
        k: [row["ids"] for row in rows] for k, rows in two.acts.items()
    }
    assert folded(auditor(long, None)) == folded(auditor(after, epoch))
    assert not [item.what for item in auditor(after, epoch).found.mismatches if item.promise == "order"], "payments go on in order"


@given(steps=STEPS.filter(bool), at=st.integers(1, 25))
def test_every_count_that_is_lowered_is_seen_and_none_that_is_not(steps: list[Step], at: int) -> None:
    former, _, epoch = split(steps, at)
    seen = home(former, None).tally_before(len(former))
    counts = epoch.counts
    assert counts is not None
    assert seen.fewer_in(Tally.of(counts)) == ()
    for lowered in lower(counts):
        (found, *_) = seen.fewer_in(Tally.of(lowered))
        assert found.opens < found.seen
        assert found.agreement in found.text
    assert bool(seen.fewer_in(Tally.of(None))) == (counts != Counts())


def lower(counts: Counts) -> list[Counts]:
    """The counts with one thing less, or with the same rows a second earlier, so that a quota is rid of them sooner."""
    found = [replace(counts, uses=tuple(x for x in counts.uses if x != used)) for used in counts.uses]
    for called in counts.scored:
        earlier = tuple((at - 1, rows) for at, rows in called.calls)
        if all(one[0] < other[0] for one, other in pairwise(earlier)):
            changed = replace(called, calls=earlier)
            found.append(replace(counts, scored=tuple(changed if x == called else x for x in counts.scored)))
    for asked in counts.encrypted:
        for changed_asked in (replace(asked, rows=asked.rows - 1), replace(asked, requests=asked.requests - 1)):
            found.append(replace(counts, encrypted=tuple(changed_asked if x == asked else x for x in counts.encrypted)))
    return found


@given(steps=STEPS, others=STEPS)
def test_what_several_homes_saw_is_raised_to_the_most_of_each(steps: list[Step], others: list[Step]) -> None:
    one, other, both = Tally(), Tally(), Tally()
    for tally, log in ((one, steps), (other, others)):
        for header in headers(log):
            tally.note(header)
        both.raise_to(tally.counts())
    assert one.fewer_in(both) == other.fewer_in(both) == ()


def test_counts_are_read_strictly() -> None:
    used = Used(agreement=AGREEMENTS[0], provider="insurer", consumer="", jobs=1)
    called = Called(agreement=AGREEMENTS[0], model="insurer.two", consumer="bureau", calls=((1, 2), (5, 1)))
    assert rows_since(Counter(dict(called.calls)), 2) == 1
    for make in (
        lambda: Counts(uses=(used, used)),
        lambda: replace(used, jobs=-1),
        lambda: replace(used, agreement="x"),
        lambda: replace(called, calls=()),
        lambda: replace(called, calls=((5, 1), (1, 2))),
        lambda: replace(called, calls=((1, -2),)),
        lambda: Asked(agreement=AGREEMENTS[0], model="two", rows=1, requests=1),
    ):
        with pytest.raises(Malformed):
            make()


def test_after_an_epoch_that_says_no_counts_a_decision_may_state_more_than_its_log_has_and_never_less() -> None:
    """The service counted on through such an epoch: what it rightly denied is no mismatch."""
    first = replace(epoch_of(Tally(), ()), counts=None)
    assert "counts" not in encode(first)
    state = auditor([], first)
    assert state.states((3, 1), (2, 1))
    assert not state.states((1, 1), (2, 1))
    assert not auditor([], epoch_of(Tally(), ())).states((3, 1), (2, 1))

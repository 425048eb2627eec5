"""Logs of encrypted scorings that somebody forged: a replay names the entry and what is broken. Keys are at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from enclaves.kit.envelope import Signed, document_digest, sign_document
from enclaves.kit.sealing import SealingKey
from enclaves.kit.signatures import SigningKey
from policies.codec import encode
from policies.decide import LAW_VERSION
from policies.documents import Admission, AgreementSignature
from policies.entries import EntryKind, Header, commit
from policies.odrl import agreement_digest, agreement_document
from policies.scorer import ScoreReturn, ScoreStatement, scoring_id
from policies.scoring_decision import ScoreFacts, decide_scoring
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.export import Opened
from sandbox.audit.judge import judge_entry
from sandbox.audit.state import State
from tests.support.scored import risk_agreement, risk_request, risk_scorer

NOW = 1_780_272_000
LOG = LogKey(name="log.example/risk", public=bytes.fromhex("0b" * 32))


@dataclass
class Row:
    """One entry before it is made."""

    kind: EntryKind
    ids: dict[str, str]
    body: dict[str, Any]
    at: int = NOW


class World:
    """An honest history: lender and bank agree on 150 rows; 100 are asked for and answered, then 50.

    Args:
        answer_s: within which the lender answers.
    """

    def __init__(self, answer_s: int = 600) -> None:
        self.keys = {name: (SigningKey.generate(), SealingKey.generate()) for name in ("lender", "bank")}
        self.agreement = risk_agreement(self.keys, scorers=(risk_scorer(rows=150, answer_s=answer_s),))
        self.name = agreement_digest(self.agreement)
        self.rows: list[Row] = []
        self._exchange()
        self.asked = [self.ask(100, 0, 0), self.ask(50, 100, 1)]
        self.answer(self.asked[0])

    def sign(self, purpose: Any, by: str, body: Any) -> Signed:
        return sign_document(purpose, by, body, self.keys[by][0])

    def _exchange(self) -> None:
        for name, (signing, sealing) in self.keys.items():
            admission = Admission(
                participant=name,
                title=name,
                signing_key=signing.public.hex(),
                sealing_key=sealing.public.hex(),
                code_digest="sha256:" + "1" * 64,
                credential_digest="sha256:" + signing.public.hex(),
            )
            self.rows.append(Row("admitted", {"participant": name}, {"signed": encode(self.sign("admission", name, admission))}))
        for declaration in self.agreement.declarations:
            signed = self.sign("declaration", declaration.provider, declaration)
            ids = {"dataset": declaration.dataset, "declaration": document_digest(signed)}
            self.rows.append(Row("declared", ids, {"signed": encode(signed)}))
        signed = self.sign("agreement", "bank", agreement_document(self.agreement))
        self.rows.append(Row("proposed", {"agreement": self.name, "participant": "bank"}, {"signed": encode(signed)}))
        for name in self.keys:
            signed = self.sign("agreement-signature", name, AgreementSignature(agreement=self.name))
            self.rows.append(Row("signed", {"agreement": self.name, "participant": name}, {"signed": encode(signed)}))
        self.rows.append(Row("agreed", {"agreement": self.name}, {"agreement": self.name}))

    def ask(self, rows: int, used: int, requests: int, by: str = "bank") -> str:
        """A decided request; its digest."""
        request = risk_request(self.name, rows=rows, request_id=f"request-{len(self.rows):04d}", consumer=by)
        signed, facts = self.sign("score-request", by, request), ScoreFacts(now=NOW, rows=used, requests=requests)
        decision, name = decide_scoring(request, self.agreement, facts), document_digest(signed)
        ids = {"scoring": scoring_id(name), "agreement": self.name, "model": "lender.risk", "request": name, "rows": str(rows)}
        body = {"signed": encode(signed), "facts": encode(facts), "decision": encode(decision), "law": LAW_VERSION}
        self.rows.append(Row("score_decided", ids | {"allowed": "yes" if decision.allowed else "no"}, body))
        return name

    def answer(self, name: str, by: str = "lender", at: int = NOW) -> None:
        """The owner's answer."""
        statement = ScoreStatement(scoring=scoring_id(name), request=name, scores="sha256:" + "5c" * 32, refused=None)
        signed = self.sign("score-statement", by, statement)
        ids = {"scoring": scoring_id(name), "agreement": self.name, "statement": document_digest(signed), "scores": str(statement.scores)}
        self.rows.append(Row("score_answered", ids, {"signed": encode(signed)}, at))

    def give_back(self, name: str, by: str = "bank", at: int = NOW + 600, **changes: Any) -> None:
        """The client's return of a request."""
        signed = self.sign("score-return", by, ScoreReturn(scoring=scoring_id(name), request=name, reason="owner-silent"))
        decided = next(row for row in self.rows if row.ids.get("request") == name)
        ids = {"scoring": scoring_id(name), "agreement": self.name, "statement": document_digest(signed), "code": "owner-silent"}
        body = {"signed": encode(signed), "request": decided.body["signed"]}
        self.rows.append(Row("score_returned", ids | changes, body, at))

    def judged(self, *, all_counted: bool = True) -> list[tuple[str, str]]:
        """(kind, promise) of everything that a replay finds; of a log that opened with an epoch without counts if not `all_counted`."""
        state = State(log=LOG, all_counted=all_counted)
        for index, row in enumerate(self.rows):
            commitment = commit(bytes(32), row.body)
            header = Header(kind=row.kind, at=row.at * 1000, ids=row.ids, commitment=commitment)
            judge_entry(state, index, header, Opened(commitment=commitment, body=row.body))
        return [(mismatch.kind, mismatch.promise) for mismatch in state.found.mismatches]


def test_an_honest_history_has_no_mismatch() -> None:
    assert World().judged() == []


def test_rows_beyond_those_agreed_are_denied_in_the_log_and_use_up_nothing() -> None:
    world = World()
    world.ask(1, 150, 2)
    world.ask(1, 150, 2)
    assert world.judged() == []
    assert world.rows[-1].ids["allowed"] == "no"


def last(world: World, kind: str) -> Row:
    return next(row for row in reversed(world.rows) if row.kind == kind)


def say(world: World, **ids: str) -> None:
    last(world, "score_decided").ids.update(ids)


FORGED: dict[str, tuple[Callable[[World], object], str]] = {
    "rows that were used are not counted": (lambda w: w.ask(100, 0, 0), "budgets"),
    "a denial is called an allowance": (lambda w: (w.ask(60, 150, 2), say(w, allowed="yes")), "decisions"),
    "the header counts fewer rows than were asked for": (lambda w: say(w, rows="5"), "signatures"),
    "rows are no number": (lambda w: say(w, rows="-5"), "decisions"),
    "a decision about another model": (lambda w: say(w, model="lender.other"), "signatures"),
    "the decision says more than follows": (
        lambda w: last(w, "score_decided").body["decision"].update(findings=[]), "decisions",
    ),
    "another law": (lambda w: last(w, "score_decided").body.update(law="law/1"), "decisions"),
    "a decision of another time": (
        lambda w: last(w, "score_decided").body["facts"].update(now=NOW - 1000), "decisions",
    ),
    "a request that somebody else signed": (
        lambda w: last(w, "score_decided").body["signed"].update(by="lender"), "signatures",
    ),
    "the same decision twice": (lambda w: w.rows.append(last(w, "score_decided")), "order"),
    "an answer twice": (lambda w: w.answer(w.asked[0]), "order"),
    "an answer to nothing": (lambda w: w.answer("sha256:" + "9" * 64), "order"),
    "an answer by the client": (lambda w: w.answer(w.asked[1], by="bank"), "signatures"),
    "rows given back a second too early": (lambda w: w.give_back(w.asked[1], at=NOW + 599), "budgets"),
    "rows given back twice": (lambda w: (w.give_back(w.asked[1]), w.give_back(w.asked[1])), "order"),
    "rows given back of what was answered": (lambda w: w.give_back(w.asked[0]), "order"),
    "rows given back by the owner": (lambda w: w.give_back(w.asked[1], by="lender"), "signatures"),
    "rows given back of another request": (lambda w: w.give_back(w.asked[1], statement="sha256:" + "9" * 64), "releases"),
    "rows given back for another reason": (lambda w: w.give_back(w.asked[1], code="owner-dead"), "releases"),
    "a return that holds another request": (
        lambda w: (w.give_back(w.asked[1]), last(w, "score_returned").body.update(request=w.rows[-4].body["signed"])), "releases",
    ),
    "an answer after the rows were given back": (lambda w: (w.give_back(w.asked[1]), w.answer(w.asked[1])), "order"),
    "an answer after its time": (lambda w: w.answer(w.asked[1], at=NOW + 600), "releases"),
    "rows given back count a second time": (lambda w: (w.give_back(w.asked[1]), w.ask(100, 50, 1)), "budgets"),
    "other scores than were signed": (lambda w: last(w, "score_answered").ids.update(scores="sha256:" + "0" * 64), "releases"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_entry_is_named(what: str) -> None:
    world = World()
    act, promise = FORGED[what]
    act(world)
    found = world.judged()
    assert promise in {broken for _, broken in found}
    assert {kind for kind, _ in found} <= {"score_decided", "score_answered", "score_returned"}


def test_rows_that_were_given_back_may_be_asked_for_again() -> None:
    world = World()
    world.give_back(world.asked[1])
    world.ask(50, 100, 1)
    assert world.judged() == []
    assert world.rows[-1].ids["allowed"] == "yes"


def test_without_an_agreed_time_no_rows_come_back() -> None:
    """Agreements of before name none; in them rows are used up whether or not the owner answers."""
    world = World(answer_s=0)
    world.give_back(world.asked[1], at=NOW + 10**9)
    assert world.judged() == [("score_returned", "budgets")]


def test_a_return_that_cannot_be_read_gives_its_rows_back_all_the_same() -> None:
    """An auditor without the opening counts as the host does, and says that it could not see why."""
    world = World()
    world.give_back(world.asked[1])
    world.ask(50, 100, 1)
    state = State(log=LOG)
    for index, row in enumerate(world.rows):
        opened = None if row.kind == "score_returned" else Opened(commitment=(commitment := commit(bytes(32), row.body)), body=row.body)
        commitment = commit(bytes(32), row.body)
        judge_entry(state, index, Header(kind=row.kind, at=row.at * 1000, ids=row.ids, commitment=commitment), opened)
    assert not state.found.mismatches
    assert "budgets" in state.found.missing


def test_a_host_counts_the_rows_of_its_log_and_more_only_where_the_log_before_it_left_no_counts() -> None:
    world = World()
    world.rows = [row for row in world.rows if not row.kind.startswith("score")]
    world.ask(10, 140, 7)
    assert world.judged(all_counted=False) == []
    assert world.judged() == [("score_decided", "budgets")]

"""Judging encrypted scorings: the decision follows from request, agreement and facts, rows add up, and the model's owner signed the end, or
its client, after the agreed time, that there was none.

That an answer is the agreed model's, and that its numbers were made as coarse as the agreement says, rests on the owner: it is encrypted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from enclaves.kit.envelope import Signed, document_digest
from policies.codec import decode, encode
from policies.decide import LAW_VERSION
from policies.errors import Malformed
from policies.finding import Decision
from policies.scorer import ScoreRequest, ScoreReturn, ScoreStatement, scoring_id
from policies.scoring_decision import ScoreFacts, decide_scoring
from sandbox.audit.folds import Entry, ScoringFold
from sandbox.audit.judge_exchange import signed_body
from sandbox.audit.state import State

SKEW_S = 60
"""How far the time of a decision's facts may lie from that of its entry."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecidedBody:
    """The body of `score_decided`."""

    signed: Signed
    facts: ScoreFacts
    decision: Decision
    law: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReturnedBody:
    """The body of `score_returned`: the return, and the request that it is of."""

    signed: Signed
    request: Signed


def decided(state: State, entry: Entry) -> None:
    """A request by a party, decided as the agreement entails; an allowed one uses up its rows."""
    ids = entry.ids
    name, scored = ids["scoring"], state.scored[ids["agreement"], ids["model"]]
    if not state.require(entry, name not in state.scorings, "order", f"{name} is decided twice"):
        return
    state.require(entry, name == scoring_id(ids["request"]), "signatures", f"{name} is not the name of this request")
    allowed, rows = ids["allowed"] == "yes", _rows(ids)
    state.scorings[name] = ScoringFold(
        model=ids["model"], agreement=ids["agreement"], request=ids["request"], rows=rows, at=entry.header.at, open=allowed
    )
    before = (scored.rows, scored.requests)
    if allowed:
        scored.rows, scored.requests = scored.rows + rows, scored.requests + 1
    if entry.body is None:
        return
    body = decode(DecidedBody, entry.body)
    request = decode(ScoreRequest, body.signed.body)
    agreement = state.agreement(request.agreement)
    named = None if agreement is None else agreement.party(request.consumer).signing_key
    state.verify(entry, body.signed, "score-request", request.consumer, named)
    header = (ids["agreement"], ids["model"], ids["request"], ids["rows"])
    same = (request.agreement, request.model, document_digest(body.signed), str(request.rows)) == header
    state.require(entry, same, "signatures", "the header names another request than was signed")
    if agreement is None:
        state.cannot("decisions")
        return
    _judge_facts(state, entry, body.facts, before)
    state.require(entry, body.law == LAW_VERSION, "decisions", f"`{body.law[:20]}` decides no scoring")
    own = decide_scoring(request, agreement, body.facts)
    state.require(entry, encode(own) == encode(body.decision), "decisions", "the decision is not the one that follows")
    state.require(entry, own.allowed == allowed, "decisions", "the header says otherwise than the decision")


def _judge_facts(state: State, entry: Entry, facts: ScoreFacts, before: tuple[int, int]) -> None:
    same = state.states((facts.rows, facts.requests), before)
    what = f"stated are {facts.rows} rows of {facts.requests} requests; the log has {before[0]} of {before[1]}"
    state.require(entry, same, "budgets", what)
    near = abs(facts.now - entry.header.at // 1000) <= SKEW_S
    state.require(entry, near, "decisions", "the decision is of another time than its entry")
    known = tuple(state.acts.tightenings[entry.ids["agreement"]])
    state.require(entry, facts.tightenings == known, "decisions", "the decision looks at other tightenings than the log has")


def ended(state: State, entry: Entry) -> None:
    """The end of an allowed request, once, as the model's owner signed it, within the agreed time."""
    ids, fold = entry.ids, _closed(state, entry)
    if fold is None or entry.body is None:
        return
    signed = signed_body(entry)
    statement, owner = decode(ScoreStatement, signed.body), fold.model.partition(".")[0]
    agreement = state.agreement(fold.agreement)
    named = None if agreement is None else agreement.party(owner).signing_key
    state.verify(entry, signed, "score-statement", owner, named)
    until = None if agreement is None else agreement.scorer_of(fold.model).answered_until(fold.at)
    state.require(entry, until is None or entry.header.at < until, "releases", "the time to answer was over")
    stated: dict[str, Any] = {"scores": statement.scores} if statement.scores is not None else {"code": statement.refused}
    stated |= {"scoring": statement.scoring, "agreement": fold.agreement, "statement": document_digest(signed)}
    same = stated == dict(ids) and statement.request == fold.request
    kind = "score_answered" if statement.scores is not None else "score_refused"
    state.require(entry, same and kind == entry.header.kind, "releases", "the header names another end than the owner signed")


def returned(state: State, entry: Entry) -> None:
    """The rows of an allowed request that has no answer, given back once, after the agreed time, as its client signed."""
    ids, fold = entry.ids, _closed(state, entry)
    if fold is None:
        return
    scored = state.scored[fold.agreement, fold.model]
    scored.rows, scored.requests = scored.rows - fold.rows, scored.requests - 1
    if entry.body is None:
        return
    body = decode(ReturnedBody, entry.body)
    back, agreement = decode(ScoreReturn, body.signed.body), state.agreement(fold.agreement)
    consumer = decode(ScoreRequest, body.request.body).consumer
    named = None if agreement is None else agreement.party(consumer).signing_key
    state.verify(entry, body.signed, "score-return", consumer, named)
    stated = {"scoring": back.scoring, "agreement": fold.agreement, "statement": document_digest(body.signed), "code": back.reason}
    same = stated == dict(ids) and back.request == document_digest(body.request) == fold.request
    state.require(entry, same, "releases", "the header names another return than was signed")
    if agreement is None:
        state.cannot("budgets")
        return
    until = agreement.scorer_of(fold.model).answered_until(fold.at)
    state.require(entry, until is not None and entry.header.at >= until, "budgets", "rows come back before the agreed time, or without one")


def _closed(state: State, entry: Entry) -> ScoringFold | None:
    """The allowed request that this entry ends; None, and reported, where there is none, or it has ended."""
    fold = state.scorings.get(entry.ids["scoring"])
    if fold is None or not fold.open or fold.agreement != entry.ids["agreement"]:
        state.report(entry, "order", f"{entry.ids['scoring']}: ends without an allowed request, or twice")
        return None
    fold.open = False
    return fold


def _rows(ids: dict[str, str]) -> int:
    if not ids["rows"].isdecimal() or len(ids["rows"]) > 12:
        raise Malformed("the header states no number of rows")
    return int(ids["rows"])

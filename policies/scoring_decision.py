"""The decision on encrypted rows that a model is to score: the owner's terms, and how many rows are left. Pure.

No privacy ledger is charged: the rows are the client's own. What is metered is the model: every allowed request uses up its rows. Where the
agreement names a time to answer within, rows of a request that the log shows no answer to may be returned after it; otherwise never.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from policies.agreement import Agreement, Terms
from policies.codec import omitted
from policies.errors import Malformed
from policies.finding import Decision, Finding, make_finding
from policies.odrl import timestamp
from policies.scorer import Scorer, ScoreRequest, request_bytes
from policies.tightening import SignedTightening, standing, tightened

OTHERS = (
    "recipient_jurisdictions",
    "pre_approved",
    "output_kinds",
    "approvals",
    "quantum",
    "payment",
    "notify",
    "attribution",
    "delete_after",
    "scored_rows",
    "score_decimals",
    "withhold_probing",
)
"""Fields of `Terms` that nothing holds for encrypted scoring: where one stands, every request is denied."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreFacts:
    """What a decision looks at besides documents.

    Attributes:
        now: seconds since 1970.
        rows, requests: of all requests to this model under the agreement that were allowed before and not returned.
        tightenings: of the agreement, whose signatures the caller has verified.
    """

    now: int
    rows: int
    requests: int
    tightenings: tuple[SignedTightening, ...] = omitted(())


def decide_scoring(request: ScoreRequest, agreement: Agreement, facts: ScoreFacts) -> Decision:
    """Return the decision on a request under an agreement whose signatures the caller has verified. All findings must allow."""
    try:
        scorer = agreement.scorer_of(request.model)
        within = tightened(agreement, facts.tightenings)
        findings = tuple(_findings(request, scorer, within.terms_of(request.model), facts))
        smallest = within.terms_of(request.model).minimum_group
    except Malformed as error:
        findings, smallest = (make_finding("model", request.model, False, error.message, None, None, None),), 1
    return Decision(allowed=all(finding.allowed for finding in findings), minimum_group=smallest, findings=findings)


def _findings(request: ScoreRequest, scorer: Scorer, terms: Terms, facts: ScoreFacts) -> Iterator[Finding]:
    def found(rule: str, allowed: bool, message: str, remedy: str | None = None) -> Finding:
        return make_finding(rule, scorer.dataset, allowed, message, None, None, None if allowed else remedy)

    who, now = request.consumer, facts.now
    yield found("assignee", who in terms.assignees, f"`{who}` asks; may ask: {', '.join(terms.assignees)}")
    yield found("recipient", who in terms.recipients, f"`{who}` receives; may receive: {', '.join(terms.recipients)}")
    yield found("purpose", request.purpose in terms.purposes, f"purpose `{request.purpose}`; agreed: {', '.join(terms.purposes)}")
    valid = f"valid from {timestamp(terms.not_before)} until {timestamp(terms.not_after)}"
    yield found("validity", terms.not_before <= now < terms.not_after, valid)
    why = standing(scorer.dataset, facts.tightenings, now)
    yield found("standing", not why, f"the terms are {why or 'in force'}")
    left = scorer.rows - facts.rows
    remedy = f"ask for {left} rows or less" if left > 0 else "sign a new agreement"
    yield found("rows", request.rows <= left, f"{facts.rows} of {scorer.rows} rows are used; {request.rows} are asked for", remedy)
    if terms.output_rows is not None:
        most = terms.output_rows
        yield found("output_rows", request.rows <= most, f"{request.rows} rows; one request may have {most}", f"ask for {most} or less")
    if terms.uses is not None:
        yield found("uses", facts.requests < terms.uses, f"{facts.requests} of {terms.uses} requests are made", "sign a new agreement")
    if terms.windows is not None:
        opens = min((window.next_start(now) for window in terms.windows), default=None)
        shown = "; ".join(window.text for window in terms.windows)
        yield found("windows", opens == now, f"asked at {timestamp(now)}; open: {shown or 'never'}")
    for name in OTHERS:
        if getattr(terms, name) not in (None, False, ()):
            yield found(name, False, f"nothing holds the term `{name}` for encrypted scoring")
    try:
        size = request_bytes(scorer, request.rows)
    except Malformed as error:
        yield found("size", False, error.message, "ask for fewer rows at a time")
    else:
        yield found("size", True, f"{size} bytes of ciphertexts")

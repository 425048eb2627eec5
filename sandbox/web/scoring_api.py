"""Encrypted scoring: one function per operation of sandbox/web/routes.py."""

from __future__ import annotations

from flask import Response

from policies.finding import refusal
from sandbox.jobs import scorings
from sandbox.jobs.scoring_states import Scoring
from sandbox.web.answers import reply
from sandbox.web.auth import host
from sandbox.web.joint_api import chunks
from sandbox.web.models import Query, SignedOnly
from sandbox.web.operation import Call
from sandbox.web.problems import of_error
from sandbox.web.scoring_views import Scorings, ScoringView
from sandbox.web.views import Uploaded


def ask(call: Call[Query, SignedOnly]) -> Response:
    """Decide a signed request. A denied one answers 403 with the findings and the scoring that holds the logged decision."""
    scoring = scorings.ask(host(), call.who, call.body.signed.document())
    if scoring.state == "denied":
        error = refusal(scoring.decision)
        error.where = scoring.id
        return of_error(error)
    return reply(_view(scoring), 201)


def list_scorings(call: Call[Query, None]) -> Response:
    """Scorings of the caller's that have not ended."""
    return reply(Scorings(scorings=tuple(map(_view, scorings.of_caller(host(), call.who)))))


def one_scoring(call: Call[Query, None], scoring_id: str) -> Response:
    """One scoring of the caller's."""
    return reply(_view(scorings.find(host(), call.who, scoring_id)))


def add_score_file(call: Call[Query, None], scoring_id: str) -> Response:
    """Stream the caller's part of a scoring to the host."""
    digest, size = scorings.add_file(host(), call.who, scoring_id, chunks())
    return reply(Uploaded(digest=digest, size=size), 201)


def score_file(call: Call[Query, None], scoring_id: str, name: str) -> Response:
    """The other side's file."""
    path = scorings.file_of(host(), call.who, scoring_id, name)
    return Response(path.read_bytes(), mimetype="application/octet-stream", headers={"Cache-Control": "private, no-store"})


def accept_score_statement(call: Call[Query, SignedOnly]) -> Response:
    """How a scoring ended."""
    return reply(_view(scorings.accept_statement(host(), call.who, call.body.signed.document())))


def accept_score_return(call: Call[Query, SignedOnly]) -> Response:
    """A client takes back the rows of a request that its owner let pass."""
    return reply(_view(scorings.accept_return(host(), call.who, call.body.signed.document())))


def score_receipt(call: Call[Query, None], scoring_id: str) -> Response:
    """The receipt of a scoring that has ended."""
    return reply(scorings.receipt(host(), call.who, scoring_id))


def _view(scoring: Scoring) -> ScoringView:
    return ScoringView(
        id=scoring.id,
        state=scoring.state,
        owner=scoring.owner,
        signed=scoring.signed,
        facts=scoring.facts,
        decision=scoring.decision,
        statement=None if scoring.state == "returned" else scoring.statement,
        returned=scoring.statement if scoring.state == "returned" else None,
        created_at=scoring.created_at,
    )

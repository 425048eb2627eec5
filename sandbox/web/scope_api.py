"""Audit scopes over HTTP: one function per operation of sandbox/web/scope_routes.py."""

from __future__ import annotations

from flask import Response

from sandbox.exchange import scopes
from sandbox.web.answers import reply
from sandbox.web.auth import host
from sandbox.web.log_api import page_of
from sandbox.web.models import Query, RangeQuery, SignedOnly
from sandbox.web.operation import Call
from sandbox.web.scope_views import AuditScopes, OpeningDecisions


def give_scope(call: Call[Query, SignedOnly]) -> Response:
    """Say what an auditor's credential opens of the caller's entries."""
    return reply(scopes.give_scope(host(), call.who, call.body.signed.document()), 201)


def list_scopes(call: Call[Query, None], digest: str) -> Response:
    """The audit scopes under an agreement."""
    return reply(AuditScopes(scopes=scopes.scopes_of(host(), call.who, digest)))


def explain_openings(call: Call[RangeQuery, None]) -> Response:
    """Why the caller's scopes open the entries of a range, or do not."""
    first, end = page_of(call.query)
    return reply(OpeningDecisions(decisions=scopes.decided_openings(host(), call.who, first, end)))

"""Who calls: a bearer credential, looked up by its digest."""

from __future__ import annotations

from flask import current_app, request

from policies.errors import Unauthenticated
from sandbox.exchange.participants import authenticate
from sandbox.exchange.records import Participant
from sandbox.host import Host


def host() -> Host:
    """The composed service of this application."""
    found: Host = current_app.extensions["sandbox"]
    return found


def caller() -> Participant:
    """The participant who makes this request. Raises Unauthenticated."""
    scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not 20 <= len(credential) <= 200:
        raise Unauthenticated("send your credential as `Authorization: Bearer ...`")
    return authenticate(host(), credential)

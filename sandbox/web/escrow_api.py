"""Exchanges of two legs: one function per operation of sandbox/web/routes.py."""

from __future__ import annotations

from flask import Response

from sandbox.exchange import escrow
from sandbox.web.answers import reply
from sandbox.web.auth import host
from sandbox.web.escrow_views import Exchanges, exchange_view
from sandbox.web.models import ExchangesQuery, Query, SignedOnly, cursor_of
from sandbox.web.operation import Call


def propose_exchange(call: Call[Query, SignedOnly]) -> Response:
    """Propose an exchange."""
    return reply(exchange_view(escrow.propose(host(), call.who, call.body.signed.document())), 201)


def act_on_exchange(call: Call[Query, SignedOnly]) -> Response:
    """Do something about an exchange."""
    return reply(exchange_view(escrow.act(host(), call.who, call.body.signed.document())))


def list_exchanges(call: Call[ExchangesQuery, None]) -> Response:
    """The caller's exchanges."""
    found = escrow.listed(host(), call.who, call.query.page(int, str), call.query.stage)
    return reply(Exchanges(exchanges=tuple(map(exchange_view, found.items)), next=cursor_of(found.next)))


def one_exchange(call: Call[Query, None], digest: str) -> Response:
    """One exchange of the caller's."""
    return reply(exchange_view(escrow.read(host(), call.who, digest)))

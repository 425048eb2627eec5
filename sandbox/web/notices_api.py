"""Webhooks and the notices to them: one function per operation of sandbox/web/routes.py."""

from __future__ import annotations

from flask import Response

from sandbox.jobs.notices import parse_target
from sandbox.web.answers import notice_view, reply
from sandbox.web.auth import host
from sandbox.web.models import NoticesQuery, Query, WebhookBody, cursor_of
from sandbox.web.operation import Call
from sandbox.web.views import Notices, WebhookView


def set_webhook(call: Call[Query, WebhookBody]) -> Response:
    """Set or remove the caller's webhook."""
    url, config = call.body.url, host().config
    if url is not None:
        parse_target(url, plain=config.webhook_http, private=config.webhook_private)
    with host().store.transaction() as tx:
        tx.set_webhook(call.who.id, url, host().now())
    return reply(WebhookView(url=url, failing=False))


def webhook(call: Call[Query, None]) -> Response:
    """The caller's webhook."""
    with host().store.reading() as tx:
        found = tx.webhook(call.who.id)
    return reply(WebhookView(url=found.url if found else None, failing=found is not None and found.failures > 0))


def list_notices(call: Call[NoticesQuery, None]) -> Response:
    """Notices to the caller's webhook, newest first."""
    with host().store.reading() as tx:
        found = tx.notices(call.who.id, call.query.page(int, str), call.query.state)
    return reply(Notices(notices=tuple(map(notice_view, found.items)), next=cursor_of(found.next)))

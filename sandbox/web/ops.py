"""What an operator needs of the web service: health, readiness, metrics, a log of requests, rate limits and quotas of uploads."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterable, Iterator

from flask import Flask, Response, g, request
from werkzeug.middleware.proxy_fix import ProxyFix

from enclaves.kit.signatures import SigningKey
from policies.documents import secret_digest
from policies.errors import Forbidden, SandboxError
from sandbox.audit.checkpoint import open_checkpoint
from sandbox.exchange.records import Participant
from sandbox.host import Host
from sandbox.web.answers import reply
from sandbox.web.limits import Buckets
from sandbox.web.metrics import CONTENT_TYPE, Metrics

PROBES = ("/healthz", "/readyz", "/metrics")
"""Not limited in rate: whoever watches the service must see it when it is busy."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger("sandbox.request")


def install(app: Flask, host: Host) -> None:
    """Add probes, metrics, request log and rate limits to `app`."""
    if host.config.proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=host.config.proxies, x_proto=host.config.proxies)  # type: ignore[method-assign]
    _install_requests(app, Metrics(host) if host.config.metrics else None)
    _install_limits(app, host)

    @app.get("/readyz")
    def readyz() -> Response:
        """Whether this process can do all of its work; says for each part `ok` or a word for what is wrong."""
        checks = ready(host)
        good = all(found == "ok" for found in checks.values())
        return reply({"ok": good, "checks": checks}, 200 if good else 503)


def ready(host: Host) -> dict[str, str]:
    """Check each part that the service depends on. Never raises.

    Returns:
        `database`, `schema`, `log_key`, `checkpoint`, `uploads`: each `ok` or a word for what is wrong.
    """
    checks = dict.fromkeys(("database", "schema", "log_key", "checkpoint", "uploads"), "unknown")
    checks["uploads"] = "ok" if host.blobs.writable() else "not-writable"
    try:
        with host.store.reading() as tx:
            newest, size, fixed = tx.newest_checkpoint(), tx.log_size(), tx.setting("log_key")
            checks["database"] = "ok"
            checks["schema"] = "ok" if tx.at_head() else "not-at-head"
    except SandboxError as error:
        checks["schema" if checks["database"] == "ok" else "database"] = error.code
        return checks
    checks["log_key"] = _log_key_state(host, fixed)
    try:
        opened = None if newest is None else open_checkpoint(newest[1], host.log_identity)
        checks["checkpoint"] = "ok" if opened is None or opened.size <= size else "ahead-of-the-log"
    except SandboxError as error:
        checks["checkpoint"] = error.code
    return checks


def within_quota(host: Host, who: Participant, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Pass an upload on as long as it fits into its participant's quota. Raises Forbidden (code `upload-quota`)."""
    quota = host.config.upload_quota_bytes
    if not quota:
        yield from chunks
        return
    with host.store.reading() as tx:
        used = tx.uploaded_bytes(who.id)
    for chunk in chunks:
        used += len(chunk)
        if used > quota:
            raise Forbidden(f"your uploads may take {quota} bytes together", code="upload-quota")
        yield chunk


def _log_key_state(host: Host, fixed: str | None) -> str:
    """The key on disk, not the one in memory: the next start will need it."""
    try:
        found = SigningKey.from_bytes((host.config.data / "log.key").read_bytes()).public
    except (OSError, SandboxError, ValueError):
        return "missing"
    return "ok" if found.hex() == fixed and found == host.log_key.public else "another-key"


def _install_requests(app: Flask, metrics: Metrics | None) -> None:
    @app.before_request
    def begin() -> None:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        g.began = time.monotonic()

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.request_id
        seconds = time.monotonic() - g.began
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.method in METHODS else "other"
        if metrics is not None:
            metrics.count(route, method, response.status_code, seconds)
        if route not in PROBES:
            extra = {"request_id": g.request_id, "method": method, "route": route, "status": response.status_code}
            level = logging.WARNING if response.status_code >= 500 else logging.INFO
            _log.log(level, "request", extra=extra | {"ms": round(seconds * 1000, 1), "code": g.get("problem_code")})
        return response

    if metrics is not None:

        @app.get("/metrics")
        def exposition() -> Response:
            """Metrics for Prometheus."""
            return Response(metrics.text(), content_type=CONTENT_TYPE)


def _install_limits(app: Flask, host: Host) -> None:
    addresses, credentials = Buckets(rate=host.config.address_rate), Buckets(rate=host.config.credential_rate)

    @app.before_request
    def limit() -> None:
        if request.path in PROBES:
            return
        addresses.take(request.remote_addr or "")
        credential = request.headers.get("Authorization")
        if credential:
            credentials.take(secret_digest(credential))

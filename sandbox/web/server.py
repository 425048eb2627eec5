"""A worker of gunicorn that answers requests which never reach the application as the application would: with problem documents."""

from __future__ import annotations

import logging
from ssl import SSLError
from typing import Any

from gunicorn.http import errors
from gunicorn.util import write_nonblock
from gunicorn.workers.gthread import ThreadWorker

from policies.canonical import canonical
from sandbox.web.headers import ALWAYS, CONTENT_POLICY

UNREADABLE: dict[type[Exception], tuple[int, str, str]] = {
    errors.LimitRequestLine: (414, "uri-too-long", "URI Too Long"),
    errors.LimitRequestHeaders: (431, "header-fields-too-large", "Request Header Fields Too Large"),
    errors.InvalidResponseHeader: (500, "internal", "Internal Server Error"),
    errors.InvalidResponseHeaderName: (500, "internal", "Internal Server Error"),
    errors.ConfigurationProblem: (500, "internal", "Internal Server Error"),
    errors.ParseException: (400, "unreadable-request", "Bad Request"),
    Exception: (500, "internal", "Internal Server Error"),
}
"""Status, code and reason of what the server cannot pass on; the first class that fits counts."""

_log = logging.getLogger("sandbox.server")


class AnsweringWorker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threads, with this service's answers to what cannot be read."""

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:  # noqa: ARG002
        """Answer and log an error outside the application; neither quotes the request."""
        if isinstance(exc, SSLError):
            return  # no answer can be read by whoever speaks no TLS
        status, code, reason = next(told for kind, told in UNREADABLE.items() if isinstance(exc, kind))
        if status >= 500:
            _log.error("a request failed outside the application", extra={"status": status, "code": code}, exc_info=exc)
        else:
            _log.warning("a request could not be read", extra={"status": status, "code": code})
        try:
            write_nonblock(client, answer(status, code, reason))
        except OSError:
            return  # the caller is gone


def answer(status: int, code: str, reason: str) -> bytes:
    """A whole HTTP answer that holds a problem document; the connection ends with it."""
    body = canonical({"type": f"urn:sandbox:problem:{code}", "status": status, "code": code, "title": reason})
    headers = {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "Content-Security-Policy": CONTENT_POLICY,
        **ALWAYS,
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body

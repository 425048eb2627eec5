"""Headers of every answer: what a browser must not do with it, and validators for conditional reads."""

from __future__ import annotations

import hashlib

from flask import Response, request

CONTENT_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Nothing that the API answers may load, run or be framed; pages set their own policy."""

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def secure(response: Response) -> None:
    """Set the security headers."""
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("Content-Security-Policy", CONTENT_POLICY)
    response.headers.update(ALWAYS)
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"


def validate(response: Response) -> Response:
    """Give a whole answer to a read its ETag, and answer 304 where the client says that it has it."""
    if request.method not in ("GET", "HEAD") or response.status_code != 200 or response.is_streamed:
        return response
    response.set_etag(hashlib.sha256(response.get_data()).hexdigest())
    response.make_conditional(request)
    if response.status_code == 304:
        response.headers.pop("Content-Type", None)
    return response

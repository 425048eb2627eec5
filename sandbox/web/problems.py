"""Errors as problem+json (RFC 9457). A typed error tells its code and message; anything else tells nothing."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, current_app, g
from werkzeug.exceptions import HTTPException

from policies.canonical import canonical
from policies.errors import Refused, SandboxError, TooMany, outcome


def problem(status: int, code: str, title: str, **members: Any) -> Response:
    """Return a problem document. What it quotes of a request holds no control characters."""
    members = {name: _printable(value) if isinstance(value, str) else value for name, value in members.items()}
    title = _printable(title)
    g.problem_code = code
    body = {"type": f"urn:sandbox:problem:{code}", "status": status, "code": code, "title": title}
    body |= {name: value for name, value in members.items() if value}
    return Response(canonical(body), status=status, mimetype="application/problem+json")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def of_error(error: SandboxError) -> Response:
    """Return the problem document of a typed error."""
    status, _ = outcome(error)
    findings = list(error.findings) if isinstance(error, Refused) else []
    response = problem(status, error.code, error.message, where=error.where, findings=findings)
    if isinstance(error, TooMany):
        response.headers["Retry-After"] = str(error.retry_after)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def install(app: Flask) -> None:
    """Make `app` answer every error as a problem document."""
    app.register_error_handler(SandboxError, of_error)

    def of_http(error: HTTPException) -> Response:
        status = error.code or 500
        response = problem(status, error.name.lower().replace(" ", "-"), error.name)
        if status == 405:
            response.headers.update({k: v for k, v in error.get_headers() if k == "Allow"})
        return response

    def of_anything(error: Exception) -> Response:
        current_app.logger.error("unexpected %s", type(error).__name__, exc_info=error)
        return problem(500, "internal", "Internal error")

    app.register_error_handler(HTTPException, of_http)
    app.register_error_handler(Exception, of_anything)

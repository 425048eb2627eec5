"""The Flask application over a composed host."""

from __future__ import annotations

from functools import cache
from typing import Any

from flask import Flask, Response, request
from werkzeug.routing import BaseConverter

from policies.errors import NotFound
from policies.names import PATTERNS
from sandbox.host import Host
from sandbox.web import ops, problems
from sandbox.web.events import Streams
from sandbox.web.headers import secure, validate
from sandbox.web.models import finish_body
from sandbox.web.openapi import describe
from sandbox.web.routes import OPERATIONS


class DigestConverter(BaseConverter):
    """A part of a path that is a digest, and so is no other word: a neighbour like `/agreements/signatures` keeps its own methods."""

    regex = PATTERNS["require_digest"]


@cache
def _description() -> dict[str, Any]:
    """The API's description: the same for every application, and not made before somebody asks."""
    return describe(OPERATIONS)


def make_app(host: Host) -> Flask:
    """Return the WSGI application. It holds no state besides `host` and the number of its open event streams."""
    app = Flask("sandbox", static_folder=None)
    app.extensions["sandbox"] = host
    app.extensions["sandbox-streams"] = Streams()
    app.extensions["sandbox-openapi"] = _description
    app.config["SANDBOX_JSON_BYTES"] = host.config.json_bytes
    app.url_map.strict_slashes = True
    app.url_map.converters["digest"] = DigestConverter
    app.url_map.merge_slashes = False
    problems.install(app)
    ops.install(app, host)
    for operation in OPERATIONS:
        app.add_url_rule(operation.path, endpoint=operation.name, view_func=operation.serve, methods=[operation.method])

    @app.before_request
    def refuse_unprintable_names() -> None:
        """Nothing that a path can name holds such characters, and PostgreSQL takes no NUL even to look it up."""
        if not all(str(value).isprintable() for value in (request.view_args or {}).values()):
            raise NotFound("there is no such thing")

    @app.after_request
    def harden(response: Response) -> Response:
        if response.status_code >= 400:
            finish_body()
        response = validate(response)
        secure(response)
        return response

    return app

"""The Flask application over a composed host."""

from __future__ import annotations

from flask import Flask, Response, request

from policies.errors import NotFound
from sandbox.host import Host
from sandbox.web import exchange_api, jobs_api, log_api, ops, problems
from sandbox.web.models import finish_body


def make_app(host: Host) -> Flask:
    """Return the WSGI application. It holds no state besides `host`."""
    app = Flask("sandbox", static_folder=None)
    app.extensions["sandbox"] = host
    app.config["SANDBOX_JSON_BYTES"] = host.config.json_bytes
    app.url_map.strict_slashes = True
    app.url_map.merge_slashes = False
    problems.install(app)
    ops.install(app, host)
    for blueprint in (exchange_api.api, jobs_api.api, log_api.api):
        app.register_blueprint(blueprint)

    @app.before_request
    def refuse_unprintable_names() -> None:
        """Nothing that a path can name holds such characters, and PostgreSQL takes no NUL even to look it up."""
        if not all(str(value).isprintable() for value in (request.view_args or {}).values()):
            raise NotFound("there is no such thing")

    @app.after_request
    def harden(response: Response) -> Response:
        if response.status_code >= 400:
            finish_body()
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return app

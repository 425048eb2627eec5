"""GET /api/v1/openapi.json and the page that shows it: rendered on the server, with nothing loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from flask import Response, current_app, render_template_string

from policies.canonical import canonical
from sandbox.web.models import Query
from sandbox.web.operation import Call

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
code,pre{font:14px/1.4 ui-monospace,monospace}pre{overflow:auto;background:#f4f4f4;padding:.75rem}
h3 code{background:none;font-size:1rem}h3{margin-top:2rem}table{border-collapse:collapse;width:100%}
td,th{border:1px solid #bbb;padding:.25rem .5rem;text-align:left;vertical-align:top}a{color:#0645ad}
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ api.info.title }}: API</title>
<style>{{ style|safe }}</style></head><body>
<h1>{{ api.info.title }}: API {{ api.info.version }}</h1>
<p>{{ api.info.description }}</p>
<p>The same as a document for programs: <a href="openapi.json">openapi.json</a> (OpenAPI {{ api.openapi }}).</p>
<ul>{% for path, methods in api.paths.items() %}{% for method, operation in methods.items() %}
<li><a href="#{{ operation.operationId }}"><code>{{ method|upper }} {{ path }}</code></a> {{ operation.summary }}</li>
{% endfor %}{% endfor %}</ul>
{% macro shape(schema) %}{% if schema["$ref"] %}<a href="#{{ name_of(schema) }}"><code>{{ name_of(schema) }}</code></a>
{% else %}<details><summary>schema</summary><pre>{{ pretty(schema) }}</pre></details>{% endif %}{% endmacro %}
<h2>Operations</h2>
{% for path, methods in api.paths.items() %}{% for method, operation in methods.items() %}
<section id="{{ operation.operationId }}"><h3><code>{{ method|upper }} {{ path }}</code></h3>
<p><strong>{{ operation.summary }}</strong>{% if operation.description != operation.summary %} {{ operation.description }}{% endif %}
{% if not operation.security %}No credential is needed.{% endif %}</p>
{% if operation.parameters %}<table><tr><th>parameter</th><th>in</th><th>meaning</th><th>form</th></tr>
{% for item in operation.parameters %}<tr><td><code>{{ item.name }}</code>{{ " (needed)" if item.required }}</td><td>{{ item.in }}</td>
<td>{{ item.description }}</td><td><code>{{ pretty(item.schema) }}</code></td></tr>{% endfor %}</table>{% endif %}
{% if operation.requestBody %}{% for type, content in operation.requestBody.content.items() %}
<p>Body: <code>{{ type }}</code> {{ shape(content.schema) }}</p>{% endfor %}{% endif %}
<table><tr><th>status</th><th>meaning</th><th>body</th></tr>{% for status, answer in operation.responses.items() %}
<tr><td>{{ status }}</td><td>{{ answer.description }}</td><td>{% for type, content in (answer.content or {}).items() %}
<code>{{ type }}</code> {{ shape(content.schema) }}{% endfor %}</td></tr>{% endfor %}</table></section>
{% endfor %}{% endfor %}
<h2>Schemas</h2>
{% for name, schema in api.components.schemas.items() %}
<section id="{{ name }}"><h3><code>{{ name }}</code></h3><p>{{ schema.description or "" }}</p><pre>{{ pretty(schema) }}</pre></section>
{% endfor %}
</body></html>
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
PAGE_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def openapi(_call: Call[Query, None]) -> Response:
    """The description of this API."""
    return Response(_document(current_app.extensions["sandbox-openapi"]), mimetype="application/json")


def docs(_call: Call[Query, None]) -> Response:
    """The description of this API as a page."""
    page = _page(current_app.extensions["sandbox-openapi"])
    return Response(page, mimetype="text/html", headers={"Content-Security-Policy": PAGE_POLICY})


# Anybody may ask for them, so they are written once.


@cache
def _document(describe: Callable[[], dict[str, Any]]) -> bytes:
    return canonical(describe())


@cache
def _page(describe: Callable[[], dict[str, Any]]) -> str:
    return render_template_string(PAGE, api=describe(), style=STYLE, pretty=_pretty, name_of=_name_of)


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _name_of(schema: dict[str, str]) -> str:
    return schema["$ref"].rpartition("/")[2]

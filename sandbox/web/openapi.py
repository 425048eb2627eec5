"""The API's description as an OpenAPI 3.1 document, generated from the operations that the service serves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from sandbox.web.models import Query
from sandbox.web.operation import Media, Operation
from sandbox.web.shapes import Shapes
from sandbox.web.views import Problem

VERSION = "1"

INTRODUCTION = """\
Jobs on data that nobody hands over. Participants call this API with a bearer credential that they chose at admission.

What binds a firm is a signed document: an Ed25519 signature over canonical JSON (RFC 8785). The same document again is the same thing, so
every write may be repeated after a lost answer; an upload is named by its digest; a job request carries a request id of its own. Errors are
problem documents (RFC 9457) with a stable `code`. Listings come in pages: follow `next` until it is null. Reads carry an ETag and answer
304 to a matching If-None-Match."""

_PART = re.compile(r"<(?:\w+:)?(\w+)>")


def describe(operations: Iterable[Operation]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of these operations."""
    shapes = Shapes()
    problem = shapes.of(Problem)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(template(operation.path), {})[operation.method.lower()] = _described(operation, shapes, problem)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Data Collaboration Sandbox",
            "version": VERSION,
            "description": INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(shapes.components.items())),
            "securitySchemes": {
                "credential": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The credential that the participant chose (32 random bytes) and whose digest it signed at admission.",
                }
            },
        },
    }


def template(path: str) -> str:
    """A Flask path as OpenAPI spells it."""
    return _PART.sub(r"{\1}", path)


def _described(operation: Operation, shapes: Shapes, problem: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description or operation.summary,
        "security": [{"credential": []}] if operation.secured else [],
        "parameters": _parameters(operation, shapes),
        "responses": _responses(operation, shapes, problem),
    }
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": _content(operation, shapes)}
    return found


def _parameters(operation: Operation, shapes: Shapes) -> list[dict[str, Any]]:
    parts = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": operation.parts[name].description,
            "schema": {"type": "string", "pattern": operation.parts[name].pattern},
        }
        for name in _PART.findall(operation.path)
    ]
    query = shapes.model(operation.query) if operation.query is not Query else {"properties": {}}
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": name in query.get("required", ()),
            "description": _description(schema),
            "schema": _without_null(schema),
        }
        for name, schema in query["properties"].items()
    ]
    headers = [
        {"name": name, "in": "header", "required": False, "description": meaning, "schema": {"type": "string"}}
        for name, meaning in operation.headers.items()
    ]
    return [*parts, *parameters, *headers]


def _description(schema: dict[str, Any]) -> str:
    """What a parameter means; for one that may be left out, it is said of the value."""
    found = [item.get("description") for item in (schema, *schema.get("anyOf", ()))]
    return str(next(text for text in found if text))


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that may be left out: absence is what a model's None means, and nothing spells null in a query."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "title", "description", "default")}
    if schema.get("default") is not None:
        rest["default"] = schema["default"]
    return {key: value for key, value in (options[0] if options else {}).items() if key != "description"} | rest


def _content(operation: Operation, shapes: Shapes) -> dict[str, Any]:
    body = operation.body
    if isinstance(body, Media):
        return {body.type: {"schema": {"type": "string", "contentMediaType": body.type, "description": body.description}}}
    assert body is not None
    schema = shapes.model(body)
    if operation.document is not None:
        name = next(name for name in ("signed", "request") if name in schema["properties"])
        inner = shapes.signed(operation.document) if name == "signed" else shapes.of(operation.document.body)
        schema["properties"][name] = inner
    return {"application/json": {"schema": schema}}


def _responses(operation: Operation, shapes: Shapes, problem: dict[str, Any]) -> dict[str, Any]:
    answer = operation.answer
    if isinstance(answer, Media):
        kind = "object" if answer.type == "application/json" else "string"
        success: dict[str, Any] = {"description": answer.description, "content": {answer.type: {"schema": {"type": kind}}}}
    else:
        summary = (answer.__doc__ or "").strip().partition("\n")[0] if isinstance(answer, type) else operation.summary
        success = {"description": summary, "content": {"application/json": {"schema": shapes.of(answer)}}}
    found: dict[str, Any] = {str(operation.status): success}
    if operation.conditional:
        success["headers"] = {"ETag": {"description": "Digest of the answer.", "schema": {"type": "string"}}}
        found["304"] = {"description": "The client has this answer already, as its If-None-Match says."}
    for status in operation.statuses:
        found[str(status)] = {"description": HTTPStatus(status).phrase, "content": {"application/problem+json": {"schema": problem}}}
    return found

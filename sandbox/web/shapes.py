"""JSON Schemas (draft 2020-12, as OpenAPI 3.1 uses it) of what the API sends and takes, read from the types that the code itself uses.

Frozen dataclasses are described by the type hints that `policies.codec` decodes by, and by the names that their `__post_init__` requires;
pydantic models describe themselves. Nothing is written twice, so nothing can disagree.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools
import inspect
import textwrap
import types
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel

from enclaves.kit.envelope import Purpose, Signed
from policies.canonical import MAX_INTEGER
from policies.codec import MAX_ITEMS, MAX_STRING
from policies.names import PATTERNS

Schema = dict[str, Any]

REFERENCE = "#/components/schemas/"
SIGNATURE = "^[0-9a-f]{128}$"
PRINTABLE = r"^[^\u0000-\u0008\u000b-\u001f\u007f-\u009f]*$"


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """What a signed envelope holds: for `Annotated[Signed, Document(...)]` and for request bodies with a member `signed`.

    Attributes:
        body: the dataclass of the body, or a finished schema with a title where the wire form is not that of one dataclass. Such a schema
            may hold types where it means their schemas.
    """

    purpose: Purpose
    body: type[Any] | Any


@dataclass(kw_only=True)
class Shapes:
    """Collects component schemas while it describes types. `components` is the `components.schemas` of the document."""

    components: dict[str, Schema] = field(default_factory=dict)

    def of(self, hint: Any) -> Schema:
        """The schema of a type hint of the codec. Raises TypeError for one that the codec does not know."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is Annotated:
            extra = arguments[1]
            return self.signed(extra) if isinstance(extra, Document) else self.titled(extra)
        if hint is Any:
            return {}
        if hint in (str, int, bool):
            return _plain(hint)
        if origin is typing.Literal:
            return {"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)}
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [{"type": "null"} if option is type(None) else self.of(option) for option in arguments]}
        if origin is tuple:
            return {"type": "array", "items": self.of(arguments[0]), "maxItems": MAX_ITEMS}
        if origin is dict:
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return {"enum": [member.value for member in hint]}
        if dataclasses.is_dataclass(hint):
            return self._dataclass(hint)
        raise TypeError(f"no schema for {hint!r}")

    def signed(self, document: Document) -> Schema:
        """The schema of a signed envelope that holds this document."""
        name = f"Signed.{document.purpose}"
        if name not in self.components:
            self.components[name] = {}
            body = self.titled(document.body) if isinstance(document.body, dict) else self.of(document.body)
            schema = self.of(Signed)
            self.components[name] = self.components[schema["$ref"].removeprefix(REFERENCE)] | {
                "description": f"A document signed for `{document.purpose}`: Ed25519 over canonical JSON (RFC 8785).",
                "properties": {
                    "purpose": {"const": document.purpose},
                    "by": {"type": "string", "pattern": f"^{PATTERNS['require_name']}$"},
                    "body": body,
                    "signature": {"type": "string", "pattern": SIGNATURE},
                },
            }
        return {"$ref": REFERENCE + name}

    def titled(self, schema: Schema) -> Schema:
        """A reference to a finished schema, kept under its title. Types among its values are described."""
        name = schema["title"]
        if name not in self.components:
            self.components[name] = {}
            self.components[name] = self._filled(schema)
        return {"$ref": REFERENCE + name}

    def model(self, model: type[BaseModel]) -> Schema:
        """The schema of a pydantic model; what it refers to becomes components."""
        schema = model.model_json_schema(ref_template=REFERENCE + "{model}")
        for name, inner in schema.pop("$defs", {}).items():
            self.components.setdefault(name, inner)
        return schema

    def _filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._filled(item) for item in value]
        return value if isinstance(value, str | int | None) else self.of(value)

    def _dataclass(self, hint: Any) -> Schema:
        name = f"{hint.__module__.rpartition('.')[2]}.{hint.__name__}"
        if name not in self.components:
            self.components[name] = {}  # a plan's conditions refer to themselves
            hints, patterns = typing.get_type_hints(hint, include_extras=True), _patterns(hint)
            properties, required = {}, []
            for item in dataclasses.fields(hint):
                schema = self.of(hints[item.name])
                if item.name in patterns and hints[item.name] is str:
                    schema = {"type": "string", "pattern": f"^{patterns[item.name]}$"}
                properties[item.name] = schema
                if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                    required.append(item.name)
            self.components[name] = {
                "type": "object",
                "description": inspect.cleandoc(hint.__doc__ or ""),
                "properties": properties,
                "required": required,
                "additionalProperties": False,
            }
        return {"$ref": REFERENCE + name}


def _plain(hint: type[Any]) -> Schema:
    if hint is int:
        return {"type": "integer", "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER}
    return {"type": "boolean"} if hint is bool else {"type": "string", "maxLength": MAX_STRING, "pattern": PRINTABLE}


@functools.cache
def _patterns(hint: type[Any]) -> dict[str, str]:
    """Field -> pattern, for every `require_...(self.field, ...)` that the dataclass's own `__post_init__` states."""
    check = hint.__dict__.get("__post_init__")
    if check is None:
        return {}
    tree = ast.parse(textwrap.dedent(inspect.getsource(check)))
    return {
        call.args[0].attr: PATTERNS[call.func.id]
        for statement in tree.body[0].body  # type: ignore[attr-defined]
        if isinstance(statement, ast.Expr) and isinstance(call := statement.value, ast.Call)
        if isinstance(call.func, ast.Name) and call.func.id in PATTERNS
        if isinstance(call.args[0], ast.Attribute)
    }

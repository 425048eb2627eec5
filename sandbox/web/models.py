"""Shapes of request bodies: pydantic at the door. What firms sign is parsed further by the law's own codec."""

from __future__ import annotations

from typing import Any, TypeVar

from flask import current_app, request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import UnsupportedMediaType

from enclaves.kit.envelope import Signed
from policies.canonical import parse_json
from policies.codec import decode
from policies.errors import Malformed

DRAIN_BYTES = 64 << 20
"""Most that is read of a body that nobody wants."""


class Body(BaseModel):
    """A JSON request body: no unknown fields, no coercion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SignedBody(Body):
    """A signed document."""

    purpose: str = Field(max_length=40)
    by: str = Field(max_length=40)
    body: dict[str, Any]
    signature: str = Field(min_length=128, max_length=128)

    def document(self) -> Signed:
        """The typed envelope. Raises Malformed."""
        return decode(Signed, self.model_dump())


class AdmissionBody(Body):
    """Admission of a participant with its one-time code."""

    signed: SignedBody
    code: str = Field(min_length=8, max_length=200)


class SignedOnly(Body):
    """A request that is a signed document and nothing else."""

    signed: SignedBody


class CheckBody(Body):
    """A job request to be decided without charge; it need not be signed."""

    request: dict[str, Any]


class ChallengeBody(Body):
    """A broker's nonce (64 hex digits)."""

    nonce: str = Field(min_length=64, max_length=64)


class KeysBody(Body):
    """A broker's signed statement and the keys that it sealed (hex)."""

    signed: SignedBody
    sealed: str = Field(max_length=2 << 20)


T = TypeVar("T", bound=Body)


def read_bytes(size: int) -> bytes:
    """Read at most `size` bytes of the request's body. Raises Malformed (code `truncated-body`) if it breaks off."""
    try:
        return request.stream.read(size)
    except Exception as error:
        # Every web server has an error of its own for this.
        raise Malformed("the body ended early or is wrongly chunked", code="truncated-body") from error


def finish_body() -> None:
    """Read what a refused request still sends, within bounds: closing instead would reset the connection, and the answer be lost."""
    left = DRAIN_BYTES
    try:
        while left > 0 and (chunk := read_bytes(min(left, 1 << 16))):
            left -= len(chunk)
    except Malformed:
        return  # there is nothing more to come


def read_body(kind: type[T]) -> T:
    """Return the request's JSON body as `kind`. Raises Malformed, naming the field, and UnsupportedMediaType for another content type."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaType
    limit = current_app.config["SANDBOX_JSON_BYTES"]
    value = parse_json(read_bytes(limit + 1), limit=limit)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise Malformed(str(first["msg"]), where=".".join(str(part) for part in first["loc"])) from error

"""Shapes of requests: pydantic at the door. What firms sign is parsed further by the law's own codec."""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any, Literal, TypeVar

from flask import current_app, request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from werkzeug.exceptions import UnsupportedMediaType

from enclaves.kit.envelope import Signed
from policies.canonical import MAX_INTEGER, canonical, parse_json
from policies.codec import decode
from policies.errors import Malformed, TooLarge
from policies.escrow import Stage
from policies.names import PATTERNS
from sandbox.audit.checkpoint import MAX_NOTE_BYTES
from sandbox.exchange.paging import Page, Position
from sandbox.jobs.notices import NoticeState
from sandbox.jobs.states import JobState

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


class RotationBody(Body):
    """A rotation of keys, signed with the old signing key; `countersignature` is the new one's on the same (128 hex digits)."""

    signed: SignedBody
    countersignature: str = Field(pattern="^[0-9a-f]{128}$")


class SignedOnly(Body):
    """A request that is a signed document and nothing else."""

    signed: SignedBody


class CheckBody(Body):
    """A job request to be decided without charge; it need not be signed.

    `rows` of a cell are assumed for what is a ratio of noised sums; `half_widths` by output ask for the loss that they would need.
    """

    request: dict[str, Any]
    rows: Annotated[int, Field(ge=1, le=10**9)] | None = None
    half_widths: Annotated[dict[str, Annotated[str, Field(max_length=40)]], Field(max_length=100)] | None = None


class ChallengeBody(Body):
    """A broker's nonce (64 hex digits)."""

    nonce: str = Field(pattern=f"^{PATTERNS['require_key']}$")


class WebhookBody(Body):
    """Where notices go: a URL beginning with https://, or null for nowhere."""

    url: Annotated[str, Field(max_length=500)] | None


class NoteBody(Body):
    """A checkpoint as a signed note with the cosignatures of witnesses."""

    note: str = Field(max_length=MAX_NOTE_BYTES)


class KeysBody(Body):
    """A broker's signed statement and the keys that it sealed (hex)."""

    signed: SignedBody
    sealed: str = Field(max_length=2 << 20)


def _whole(value: Any) -> Any:
    """A query parameter's digits as a number; anything else is left for the model to refuse."""
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,16}", value, re.ASCII) else value


Name = Annotated[str, Field(pattern=f"^{PATTERNS['require_name']}$", description="Id of a participant.")]
Digest = Annotated[str, Field(pattern=f"^{PATTERNS['require_digest']}$", description="Digest that names an agreement.")]
Whole = Annotated[int, Field(ge=0, le=MAX_INTEGER, description="Index of an entry."), BeforeValidator(_whole)]


class Query(BaseModel):
    """Query parameters: each at most once, none unknown."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Paged(Query):
    """A page of a listing."""

    limit: Annotated[int, Field(ge=1, le=200, description="Most items of the page."), BeforeValidator(_whole)] = 50
    cursor: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,400}$", description="`next` of the page before; opaque.")] | None = None

    def page(self, *kinds: type[str] | type[int]) -> Page:
        """The page, in a listing sorted by keys of these kinds. Raises Malformed (code `cursor`) for a cursor of another listing."""
        return Page(limit=self.limit, after=None if self.cursor is None else _read_cursor(self.cursor, kinds))


class OfProvider(Paged):
    """A page of what providers publish."""

    provider: Name | None = None


class AgreementsQuery(Paged):
    """A page of agreements."""

    state: Literal["proposed", "active"] | None = Field(None, description="Only those in this state.")


class JobsQuery(Paged):
    """A page of jobs."""

    state: JobState | None = Field(None, description="Only those in this state.")
    consumer: Name | None = None
    agreement: Digest | None = None


class ExchangesQuery(Paged):
    """A page of exchanges."""

    stage: Stage | None = Field(None, description="Only those at this stage.")


class NoticesQuery(Paged):
    """A page of notices."""

    state: NoticeState | None = Field(None, description="Only those in this state.")


class RangeQuery(Query):
    """A range of the log's entries, `from` inclusive and `to` exclusive."""

    first: Whole = Field(alias="from")
    end: Whole = Field(alias="to")


def _read_cursor(text: str, kinds: tuple[type[str] | type[int], ...]) -> Position:
    try:
        value = parse_json(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, Malformed) as error:
        raise Malformed("this cursor was not given out", where="cursor", code="cursor") from error
    fits = isinstance(value, list) and [type(item) for item in value] == list(kinds)
    if not fits or not all(isinstance(item, int) or (item.isprintable() and len(item) <= 200) for item in value):
        raise Malformed("this cursor was not given out by this listing", where="cursor", code="cursor")
    return tuple(value)


def cursor_of(position: Position | None) -> str | None:
    """The cursor that continues after `position`; None at the end of a listing."""
    return None if position is None else base64.urlsafe_b64encode(canonical(list(position))).rstrip(b"=").decode()


T = TypeVar("T", bound=Body)
Q = TypeVar("Q", bound=Query)


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
    """Return the request's JSON body as `kind`.

    Raises:
        Malformed: naming the field. TooLarge: above the configured size. UnsupportedMediaType: another content type.
    """
    if request.mimetype != "application/json":
        raise UnsupportedMediaType
    limit = current_app.config["SANDBOX_JSON_BYTES"]
    data = read_bytes(limit + 1)
    if len(data) > limit:
        raise TooLarge(f"the document is larger than {limit} bytes")
    if request.content_length is not None and len(data) != request.content_length:
        raise Malformed("the body is shorter than announced", code="truncated-body")
    return _validated(kind, parse_json(data, limit=limit))


def read_query(kind: type[Q]) -> Q:
    """Return the request's query parameters as `kind`. Raises Malformed, naming the parameter; also for one that is given twice."""
    values = request.args.to_dict(flat=False)
    for name, found in values.items():
        if len(found) > 1:
            raise Malformed("is given more than once", where=name[:60])
    return _validated(kind, {name: found[0] for name, found in values.items()})


M = TypeVar("M", bound=BaseModel)


def _validated(kind: type[M], value: Any) -> M:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise Malformed(str(first["msg"]), where=".".join(str(part)[:60] for part in first["loc"]) or None) from error

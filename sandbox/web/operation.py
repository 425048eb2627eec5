"""One operation of the API: its route, what it takes, what it answers. Serving and describing read the same value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Generic, Literal, TypeVar

from flask import Response

from policies.errors import Unauthenticated
from sandbox.exchange.records import Participant
from sandbox.web.auth import caller
from sandbox.web.models import Body, Query, read_body, read_query
from sandbox.web.shapes import Document

Q = TypeVar("Q")
B = TypeVar("B")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[Q, B]):
    """An authenticated request as a view gets it.

    Attributes:
        caller: who makes it; None for an operation that needs no credential.
    """

    caller: Participant | None
    query: Q
    body: B

    @property
    def who(self) -> Participant:
        """The participant who makes this request. Raises Unauthenticated."""
        if self.caller is None:
            raise Unauthenticated("send your credential as `Authorization: Bearer ...`")
        return self.caller


@dataclass(frozen=True, kw_only=True, slots=True)
class Media:
    """An answer or a body that is not JSON: its type and, in words, what it is."""

    type: str
    description: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PathPart:
    """A variable part of a path."""

    pattern: str
    description: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One method on one path.

    Attributes:
        path: as Flask spells it, with `<name>` for its variable parts.
        answer: dataclass of a JSON answer or a union of them, or another media type.
        document: what the member `signed` of the body holds.
        errors: statuses of problem documents, besides those that any operation of its kind may answer.
        secured: whether it needs a credential; nothing of the request is read before the credential is found valid.
        headers: request headers that it reads, with what they mean.
    """

    method: Literal["GET", "POST"]
    path: str
    view: Callable[..., Response]
    summary: str
    tag: str
    answer: type[Any] | UnionType | Media
    description: str = ""
    status: int = 200
    query: type[Query] = Query
    body: type[Body] | Media | None = None
    document: Document | None = None
    parts: Mapping[str, PathPart] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    secured: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the operation; unique."""
        return self.view.__name__

    @property
    def conditional(self) -> bool:
        """Whether the answer has an ETag and If-None-Match is honoured."""
        return self.method == "GET" and not (isinstance(self.answer, Media) and self.answer.type == "text/event-stream")

    @property
    def statuses(self) -> tuple[int, ...]:
        """Statuses of all problem documents that this operation may answer; 414 and 431 are the web server's own."""
        found = {400, 414, 429, 431, 500, 503, *self.errors}
        found |= {401} if self.secured else set()
        found |= {404} if self.parts else set()
        found |= {413} if self.body is not None else set()
        found |= {415} if isinstance(self.body, type) else set()
        return tuple(sorted(found))

    def serve(self, **parts: str) -> Response:
        """Answer the current request."""
        who = caller() if self.secured else None
        query = read_query(self.query)
        body = read_body(self.body) if isinstance(self.body, type) else None
        return self.view(Call(caller=who, query=query, body=body), **parts)

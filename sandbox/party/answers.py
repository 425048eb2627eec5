"""What the client sends and hears, besides JSON: bodies of known length, and problem documents as typed errors."""

from __future__ import annotations

import json
from collections.abc import Iterator

from policies.errors import (
    BudgetExhausted,
    Conflict,
    Forbidden,
    Malformed,
    NotFound,
    PolicyRefused,
    Refused,
    ReleaseWithheld,
    SandboxError,
    Tampered,
    TooMany,
    Unauthenticated,
    Unavailable,
)

_BY_STATUS: dict[int, type[SandboxError]] = {
    400: Malformed,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: Malformed,
    429: TooMany,
    503: Unavailable,
}
_BY_CODE: dict[str, type[Refused]] = {kind.code: kind for kind in (Refused, PolicyRefused, BudgetExhausted, ReleaseWithheld)}


class Sized:
    """An iterable body of known length, so that the upload carries Content-Length and is not chunked."""

    def __init__(self, chunks: Iterator[bytes], length: int) -> None:
        self._chunks, self._length = chunks, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks


def error_of(status: int, content: bytes) -> SandboxError:
    """The typed error that an answer of the service with this status stands for."""
    try:
        problem = json.loads(content)
        code, title, where = problem["code"], problem["title"], problem.get("where")
        findings = tuple(problem.get("findings", ()))
    except (ValueError, KeyError, TypeError):
        kind = _BY_STATUS.get(status, SandboxError)
        return kind(f"the service answered {status}")
    if code in _BY_CODE:
        return _BY_CODE[code](title, code=code, where=where, findings=findings)
    if status >= 500 and status != 503:
        return Tampered(title, code=code, where=where) if code != "internal" else Unavailable(title, code=code)
    return _BY_STATUS.get(status, SandboxError)(title, code=code, where=where)

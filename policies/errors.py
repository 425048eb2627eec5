"""Errors, grouped by who must act. Every error that a person or a program sees is one of these.

`code` is stable and closed per class or passed by the raiser from a closed set; `message` is for people; `findings` (on `Refused`)
name the rule, the column and the smallest change that would pass. The table from class to HTTP status and exit code is in
`OUTCOMES`; nothing else maps errors.
"""

from __future__ import annotations

from typing import Any


class SandboxError(Exception):
    """Base of all typed errors.

    Args:
        message: one sentence for people, naming what was wrong and, where there is one, the accepted form.
        code: stable machine word; defaults to the class's own.
        where: path of the offending field or construct, for example ``loss.epsilon`` or ``line 1, column 8``.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, where: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} (at {self.where})" if self.where else self.message


class Malformed(SandboxError):
    """The caller fixes the request."""

    code = "malformed"


class TooLarge(Malformed):
    """The caller sends less: the request is larger than the service takes."""

    code = "too-large"


class Unauthenticated(SandboxError):
    """No valid credential came with the request."""

    code = "unauthenticated"


class Forbidden(SandboxError):
    """The credential is valid but does not reach this thing."""

    code = "forbidden"


class Refused(SandboxError):
    """A rule said no. `findings` are the failing findings as plain JSON values."""

    code = "refused"

    def __init__(
        self, message: str, *, code: str | None = None, where: str | None = None, findings: tuple[dict[str, Any], ...] = ()
    ) -> None:
        super().__init__(message, code=code, where=where)
        self.findings = findings


class PolicyRefused(Refused):
    """An agreement does not allow the request."""

    code = "policy-refused"


class BudgetExhausted(Refused):
    """A ledger cannot pay for the request."""

    code = "budget-exhausted"


class EvidenceRejected(Refused):
    """Evidence was judged and not accepted."""

    code = "evidence-rejected"


class ReleaseWithheld(Refused):
    """The gate kept the release inside; `code` is from the closed set of `policies.grant`."""

    code = "release-withheld"


class NotFound(SandboxError):
    """There is no such thing, or the caller may not know of it."""

    code = "not-found"


class Conflict(SandboxError):
    """The thing exists already, or its state does not allow this step."""

    code = "conflict"


class Unavailable(SandboxError):
    """Retry later."""

    code = "unavailable"


class TooMany(SandboxError):
    """The caller asks too often. `retry_after` is in whole seconds."""

    code = "too-many"

    def __init__(self, message: str, *, code: str | None = None, where: str | None = None, retry_after: int = 1) -> None:
        super().__init__(message, code=code, where=where)
        self.retry_after = retry_after


class Tampered(SandboxError):
    """A digest, a signature or a proof failed."""

    code = "tampered"


OUTCOMES: dict[type[SandboxError], tuple[int, int]] = {
    Malformed: (400, 2),
    TooLarge: (413, 2),
    Unauthenticated: (401, 2),
    Forbidden: (403, 2),
    Refused: (403, 3),
    NotFound: (404, 2),
    Conflict: (409, 2),
    TooMany: (429, 4),
    Unavailable: (503, 4),
    Tampered: (500, 5),
}
"""Class -> (HTTP status, exit code); a subclass inherits its nearest ancestor's row."""


def outcome(error: SandboxError) -> tuple[int, int]:
    """Return (HTTP status, exit code) of `error`; 500 and 1 for a class outside the table."""
    for cls in type(error).__mro__:
        if cls in OUTCOMES:
            return OUTCOMES[cls]
    return 500, 1

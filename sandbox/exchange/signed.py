"""Documents that a caller hands in: a wrong signature there is the caller's fault, not a sign that records were tampered with."""

from __future__ import annotations

from typing import Any

from enclaves.kit.envelope import Purpose, Signed, verify_document
from policies.errors import Forbidden, Tampered


def require_signed(signed: Signed, purpose: Purpose, by: str, public: str) -> dict[str, Any]:
    """Return the body if `by` signed it for `purpose` with the key `public` (hex). Raises Forbidden (code `bad-signature`)."""
    try:
        return verify_document(signed, purpose, by, public)
    except Tampered as error:
        raise Forbidden(error.message, code="bad-signature") from error

"""Names that travel: participants, datasets, columns, purposes. One alphabet: none can be a path, a quote or a control character."""

from __future__ import annotations

import re

from policies.errors import Malformed

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
_SLUG = re.compile(r"[a-z][a-z0-9_-]{0,59}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_HEX_KEY = re.compile(r"[0-9a-f]{64}\Z")
_REQUEST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{7,63}\Z")
_DATASET = re.compile(rf"{_NAME.pattern.removesuffix(chr(92) + 'Z')}\.{_NAME.pattern}")


def require_name(text: str, where: str) -> str:
    """Return `text` if it is a name: a-z, then up to 39 of a-z, 0-9 and underscore. Raises Malformed."""
    return _require(_NAME, text, where, "must be 1 to 40 of a-z, 0-9 and _, starting with a letter")


def require_slug(text: str, where: str) -> str:
    """Return `text` if it is a purpose, id space or other label: like a name, with hyphens, up to 60. Raises Malformed."""
    return _require(_SLUG, text, where, "must be 1 to 60 of a-z, 0-9, _ and -, starting with a letter")


def require_dataset(text: str, where: str) -> str:
    """Return `text` if it is `provider.dataset`, two names. Raises Malformed."""
    provider, _, name = text.partition(".")
    require_name(provider, where)
    require_name(name, where)
    return text


def require_digest(text: str, where: str) -> str:
    """Return `text` if it is ``sha256:`` and 64 lower-case hex digits. Raises Malformed."""
    return _require(_DIGEST, text, where, "must be sha256: and 64 lower-case hex digits")


def require_key(text: str, where: str) -> str:
    """Return `text` if it is a 32-byte key in lower-case hex. Raises Malformed."""
    return _require(_HEX_KEY, text, where, "must be 64 lower-case hex digits (a 32-byte key)")


def require_request_id(text: str, where: str) -> str:
    """Return `text` if it is a request id: 8 to 64 of letters, digits, _ and -. Raises Malformed."""
    return _require(_REQUEST, text, where, "must be 8 to 64 letters, digits, _ or -")


def _require(pattern: re.Pattern[str], text: str, where: str, rule: str) -> str:
    if not pattern.match(text):
        raise Malformed(f"`{_shown(text)}` {rule}", where=where)
    return text


def _shown(text: str) -> str:
    """A refused name as it may be printed: no control characters, no more than 40 characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:40])


PATTERNS: dict[str, str] = {
    require.__name__: pattern.pattern.removesuffix(r"\Z")
    for require, pattern in (
        (require_name, _NAME),
        (require_slug, _SLUG),
        (require_dataset, _DATASET),
        (require_digest, _DIGEST),
        (require_key, _HEX_KEY),
        (require_request_id, _REQUEST),
    )
}
"""Name of the function -> regular expression of the whole text that it accepts, for those who describe documents to others."""

"""Canonical JSON (RFC 8785) over the subset that signatures and digests use, and a strict parser for it.

Values are None, bool, int within +-(2^53 - 1), str without lone surrogates, list and dict with str keys. There are no floats: money,
losses and bounds are integers in a declared unit or decimal strings, so that two machines can never disagree about a number.
"""

from __future__ import annotations

import hashlib
import json
import re
from json.encoder import encode_basestring
from typing import Any, NoReturn

from policies.errors import Malformed

MAX_INTEGER = 2**53 - 1
"""Largest integer that every JSON implementation keeps exactly (RFC 8785 section 3.2.2.3, RFC 7493)."""

MAX_DEPTH = 32

_SURROGATE = re.compile("[\ud800-\udfff]")


def canonical(value: Any) -> bytes:
    """Return the RFC 8785 bytes of `value`.

    Raises:
        Malformed: for a float, an integer out of range, a lone surrogate, a non-string key or nesting deeper than `MAX_DEPTH`.
    """
    return _render(value, 0).encode("utf-8")


def digest(value: Any) -> str:
    """Return ``sha256:`` and 64 hex digits over the canonical bytes of `value`."""
    return digest_bytes(canonical(value))


def digest_bytes(data: bytes | memoryview) -> str:
    """Return ``sha256:`` and 64 hex digits over `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def parse_json(data: bytes, *, limit: int = 1 << 20) -> Any:
    """Parse untrusted JSON bytes into canonicalisable values.

    Raises:
        Malformed: not UTF-8, not JSON, larger than `limit` bytes, a duplicate key, a float, NaN or a value `canonical` refuses.
    """
    if len(data) > limit:
        raise Malformed(f"the document is larger than {limit} bytes", code="too-large")
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_float=_no_float, parse_constant=_no_float, parse_int=_bounded_int)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Malformed("the document is not valid UTF-8 JSON") from error
    _render(value, 0)
    return value


def _render(value: Any, depth: int) -> str:
    if depth > MAX_DEPTH:
        raise Malformed(f"nested deeper than {MAX_DEPTH} levels")
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise Malformed("an integer is outside +-(2^53 - 1)")
        return int.__repr__(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_render(item, depth + 1) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_string(k)}:{_render(value[k], depth + 1)}" for k in sorted(value, key=_utf16)) + "}"
    raise Malformed(f"{type(value).__name__} has no canonical form; numbers are integers, fractions are decimal strings")


def _string(text: str) -> str:
    if not isinstance(text, str):
        raise Malformed("object keys must be strings")
    if _SURROGATE.search(text):
        raise Malformed("a string holds a lone surrogate")
    return encode_basestring(text)


def _utf16(key: Any) -> bytes:
    """RFC 8785 section 3.2.3 sorts keys by UTF-16 code units."""
    if not isinstance(key, str):
        raise Malformed("object keys must be strings")
    return key.encode("utf-16-be", "surrogatepass")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise Malformed("an object has a duplicate key")
    return result


def _no_float(text: str) -> NoReturn:
    raise Malformed(f"`{text[:40]}` is not an integer; write fractions as decimal strings")


def _bounded_int(text: str) -> int:
    if len(text) > 17:
        raise Malformed("an integer is outside +-(2^53 - 1)")
    return int(text)

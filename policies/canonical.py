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

import orjson

from policies.errors import Malformed

MAX_INTEGER = 2**53 - 1
"""Largest integer that every JSON implementation keeps exactly (RFC 8785 section 3.2.2.3, RFC 7493)."""

MAX_DEPTH = 32

_INTEGER = frozenset({int})
_SURROGATE = re.compile("[\ud800-\udfff]")
_LEAVES = frozenset({str, bool, type(None)})


def canonical(value: Any) -> bytes:
    """Return the RFC 8785 bytes of `value`.

    Raises:
        Malformed: for a float, an integer out of range, a lone surrogate, a non-string key or nesting deeper than `MAX_DEPTH`.
    """
    if not _is_plain(value, 0):
        return _render(value, 0).encode("utf-8")
    try:
        return _written(value)
    except TypeError as error:
        raise Malformed("a string holds a lone surrogate") from error


def canonical_part(value: Any) -> bytes:
    """Return the canonical bytes of a part of a value that `parse_json` or its like returned: what they refuse is not looked for again."""
    text = _written(value)
    return text if text.isascii() else canonical(value)


def canonical_with(value: dict[str, Any], name: str, text: bytes) -> bytes:
    """Return the canonical bytes of an object with the members of `value` and one more, whose canonical bytes are `text`.

    Names are ASCII. Raises Malformed as `canonical` for the members of `value`; that `text` is no deeper than may be is the caller's.
    """
    before, after = ({key: item for key, item in value.items() if (key < name) is first} for first in (True, False))
    parts = (canonical(before)[1:-1], b'"%b":%b' % (name.encode("ascii"), text), canonical(after)[1:-1])
    return b"{%b}" % b",".join(part for part in parts if part)


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
    return parse_spelled(data, limit=limit)[0]


def parse_canonical(data: bytes, *, limit: int = 1 << 20) -> Any:
    """Parse bytes that `canonical` would have written.

    Raises:
        Malformed: as `parse_json`, and for every other spelling of the value.
    """
    value, own = parse_spelled(data, limit=limit)
    if not own:
        raise Malformed("the document is not canonical JSON")
    return value


def parse_spelled(data: bytes, *, limit: int = 1 << 20) -> tuple[Any, bool]:
    """The value of untrusted JSON bytes, and whether they are its canonical spelling. Raises Malformed as `parse_json`."""
    value, own = _parse_own(data, limit)
    if own:
        return value, True
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_float=_no_float, parse_constant=_no_float, parse_int=_bounded_int)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Malformed("the document is not valid UTF-8 JSON") from error
    _render(value, 0)
    return value, False


def _parse_own(data: bytes, limit: int) -> tuple[Any, bool]:
    """The value of `data` and whether `data` is its canonical spelling: only then is the value to be used.

    What is written back byte for byte held no duplicate key, no float and nothing else that `canonical` refuses. ASCII keys sort alike by
    code points and by UTF-16 code units, so there `_written` may write. An integer is bounded as it is read, unless
    nowhere in `data` stand as many digits as one out of range has; a value is no deeper than `data` has brackets.
    """
    if len(data) > limit:
        raise Malformed(f"the document is larger than {limit} bytes", code="too-large")
    try:
        value = (_DECODER if _LONG in data.translate(_ALIKE) else _SHORT_DECODER).decode(data.decode("utf-8"))
        if data.isascii() and (data.count(b"{") + data.count(b"[") <= MAX_DEPTH or _depth_within(value)):
            return value, _written(value) == data
        return value, canonical(value) == data
    except (ValueError, TypeError, RecursionError, Malformed):
        return None, False


def _depth_within(value: Any) -> bool:
    """Whether a parsed value is nested no deeper than `_render` would go."""
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        level = [item for one in level for item in (one.values() if type(one) is dict else one) if type(item) in _CONTAINERS]
        if not level:
            return True
    return not any(level)


def _is_plain(value: Any, depth: int) -> bool:
    """Whether `_written` writes `value` as RFC 8785 does: known types only, ASCII keys, nothing out of range.

    Keys beyond ASCII are left to `_render`: code points and UTF-16 code units sort them differently.
    """
    kind = type(value)
    if kind is dict:
        try:
            if not "".join(value).isascii():
                return False
        except TypeError:
            return False
        value = value.values()
    elif kind is int:
        return bool(-MAX_INTEGER <= value <= MAX_INTEGER)
    elif kind is not list and kind is not tuple:
        return kind in _LEAVES
    if depth >= MAX_DEPTH and value:
        return False
    for item in value:
        kind = type(item)
        if kind is int:
            if not -MAX_INTEGER <= item <= MAX_INTEGER:
                return False
        elif kind not in _LEAVES and not _is_plain(item, depth + 1):
            return False
    return True


def _written(value: Any) -> bytes:
    """What is plain, by a compiled encoder: sorted by code points, escaped as RFC 8785 section 3.2.2.2 does. Raises TypeError for a lone
    surrogate.
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


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
        # Domains are long lists of integers, and most of a large document.
        whole = value and depth < MAX_DEPTH and _INTEGER.issuperset(map(type, value))
        if whole and min(value) >= -MAX_INTEGER and max(value) <= MAX_INTEGER:
            return "[" + ",".join(map(int.__repr__, value)) + "]"
        return "[" + ",".join(_render(item, depth + 1) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_string(k)}:{_render(value[k], depth + 1)}" for k in _in_order(value)) + "}"
    raise Malformed(f"{type(value).__name__} has no canonical form; numbers are integers, fractions are decimal strings")


def _string(text: str) -> str:
    if not isinstance(text, str):
        raise Malformed("object keys must be strings")
    if _SURROGATE.search(text):
        raise Malformed("a string holds a lone surrogate")
    return encode_basestring(text)


def _in_order(value: dict[Any, Any]) -> list[Any]:
    try:
        # ASCII sorts the same way in every encoding.
        if all(map(str.isascii, value)):
            return sorted(value)
    except TypeError:
        pass
    return sorted(value, key=_utf16)


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
    if len(text) <= 17 and -MAX_INTEGER <= (found := int(text)) <= MAX_INTEGER:
        return found
    raise Malformed("an integer is outside +-(2^53 - 1)")


_CONTAINERS = frozenset({dict, list})
_DECODER = json.JSONDecoder(parse_int=_bounded_int, parse_float=_no_float, parse_constant=_no_float)
_SHORT_DECODER = json.JSONDecoder(parse_float=_no_float, parse_constant=_no_float)
_LONG = b"0" * len(str(MAX_INTEGER))
_ALIKE = bytes(ord("0") if ord("0") <= byte <= ord("9") else byte for byte in range(256))

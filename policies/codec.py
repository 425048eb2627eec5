"""From plain JSON values to frozen types and back, strictly: the one place where documents are parsed.

`decode(cls, value)` reads a dataclass from a dict by its type hints: unknown and missing fields, wrong types, booleans for integers,
over-long or control-character strings are `Malformed` with the path of the field. `encode` is its inverse. Field types are
str, int, bool, enums with string values, Literal, ``X | None``, tuple[X, ...], dict[str, X], nested dataclasses, and a union of
dataclasses told apart by their Literal field ``kind``. A field with a default may be left
out; one that is `omitted` at its default must be.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import types
import typing
from typing import Any, TypeVar, cast

from policies.errors import Malformed

T = TypeVar("T")

MAX_STRING = 100_000
MAX_ITEMS = 10_000

_OMITTED = "omitted"
_PLAIN = frozenset({str, int, bool, type(None)})
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def omitted(default: T) -> T:
    """A dataclass field that is not written out while it has its default, so that documents made before it existed keep their bytes."""
    return dataclasses.field(default=default, metadata={_OMITTED: True})


def decode(cls: type[T], value: Any, where: str = "") -> T:
    """Return the frozen `cls` that `value` spells out.

    Raises:
        Malformed: with `where` naming the field.
    """
    return cast(T, _decode(cls, value, where))


def encode(value: Any) -> Any:
    """Return the plain JSON value of a decoded document."""
    if type(value) in _PLAIN:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: encode(item) for name, item in members(value).items()}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return list(value) if _PLAIN.issuperset(map(type, value)) else [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def members(value: Any) -> dict[str, Any]:
    """One level of `encode`: the members that a dataclass's document has, with their values as they are. Raises TypeError for others."""
    found = {}
    for name, omitted_at in _members_of(cast(Any, type(value))):
        item = getattr(value, name)
        if omitted_at is None or item != omitted_at[0]:
            found[name] = item
    return found


@functools.cache
def _members_of(kind: Any) -> tuple[tuple[str, tuple[Any] | None], ...]:
    """Names of a dataclass's fields, each with the value at which it is left out, if there is one."""
    return tuple((field.name, (field.default,) if _OMITTED in field.metadata else None) for field in dataclasses.fields(kind))


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if hint is str:
        return _text(value, where)
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Malformed("must be an integer", where=where)
        return value
    if hint is bool:
        if not isinstance(value, bool):
            raise Malformed("must be true or false", where=where)
        return value
    if origin is typing.Literal:
        if not any(type(value) is type(option) and value == option for option in typing.get_args(hint)):
            raise Malformed(f"must be one of {', '.join(map(str, typing.get_args(hint)))}", where=where)
        return value
    if origin in (typing.Union, types.UnionType):
        return _decode_union(typing.get_args(hint), value, where)
    if origin is tuple:
        return _decode_tuple(typing.get_args(hint)[0], value, where)
    if origin is dict:
        return _decode_mapping(typing.get_args(hint)[1], value, where)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _decode_enum(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(hint, value, where)
    raise TypeError(f"the codec does not know {hint!r}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise Malformed("must be a string", where=where)
    if len(value) > MAX_STRING:
        raise Malformed(f"is longer than {MAX_STRING} characters", where=where)
    if not is_printable(value):
        raise Malformed("holds a control character or a lone surrogate", where=where)
    return value


def is_printable(text: str) -> bool:
    """Whether a text may stand in a document: no control characters but tab and line feed, no lone surrogates."""
    return _UNPRINTABLE.search(text) is None


def _decode_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None:
        if type(None) in options:
            return None
        raise Malformed("must not be null", where=where)
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:
        return _decode(options[0], value, where)
    if isinstance(value, dict):
        for option in options:
            if dataclasses.is_dataclass(option) and value.get("kind") in typing.get_args(_hints(cast(Any, option))["kind"]):
                return _decode(option, value, where)
    else:
        for option in options:
            if option in (str, int, bool) and type(value) is option:
                return _decode(option, value, where)
    raise Malformed("is none of the accepted forms", where=where)


def _decode_tuple(item: Any, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise Malformed("must be a list", where=where)
    if len(value) > MAX_ITEMS:
        raise Malformed(f"has more than {MAX_ITEMS} items", where=where)
    return tuple(_decode(item, entry, f"{where}[{index}]") for index, entry in enumerate(value))


def _decode_mapping(item: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed("must be an object", where=where)
    return {_text(key, where): _decode(item, entry, f"{where}.{key}") for key, entry in value.items()}


def _decode_enum(hint: type[enum.Enum], value: Any, where: str) -> enum.Enum:
    try:
        return hint(value)
    except (ValueError, TypeError) as error:
        raise Malformed(f"must be one of {', '.join(str(m.value) for m in hint)}", where=where) from error


def _decode_dataclass(hint: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise Malformed("must be an object", where=where)
    hints = _hints(hint)
    unknown = sorted({_text(key, where) for key in value} - set(hints))
    if unknown:
        raise Malformed(f"unknown field `{unknown[0][:60]}`", where=where or None, code="unknown-field")
    arguments = {}
    for field in dataclasses.fields(hint):
        path = f"{where}.{field.name}" if where else field.name
        if field.name in value:
            found = arguments[field.name] = _decode(hints[field.name], value[field.name], path)
            if _OMITTED in field.metadata and found == field.default:
                raise Malformed("must be left out where it says nothing", where=path)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise Malformed("is missing", where=path)
    try:
        return hint(**arguments)
    except Malformed as error:
        error.where = ".".join(part for part in (where, error.where) if part) or None
        raise


@functools.cache
def _hints(hint: Any) -> dict[str, Any]:
    return typing.get_type_hints(hint)

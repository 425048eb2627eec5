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
from collections.abc import Callable
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
    try:
        return cast(T, _reader(cast(Any, cls))(value))
    except Malformed as error:
        _place(error, where)
        raise


@functools.cache
def _reader(cls: Any) -> Decoder:
    return _decoder(cls)


def encode(value: Any) -> Any:
    """Return the plain JSON value of a decoded document."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is tuple or kind is list:
        return [item if type(item) in _PLAIN else encode(item) for item in value]
    if kind is dict:
        return {key: encode(item) for key, item in value.items()}
    fields = _written(cast(Any, kind))
    if fields is not None:
        found = {}
        for name, omitted_at in fields:
            item = getattr(value, name)
            if omitted_at is None or item != omitted_at[0]:
                found[name] = item if type(item) in _PLAIN else encode(item)
        return found
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return list(value) if _PLAIN.issuperset(map(type, value)) else [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def members(value: Any) -> dict[str, Any]:
    """One level of `encode`: the members that a dataclass's document has, with their values as they are. Raises TypeError for others."""
    fields = _written(cast(Any, type(value)))
    if fields is None:
        raise TypeError(f"{type(value).__name__} is no dataclass")
    items = ((name, getattr(value, name), omitted_at) for name, omitted_at in fields)
    return {name: item for name, item, omitted_at in items if omitted_at is None or item != omitted_at[0]}


@functools.cache
def _written(kind: Any) -> tuple[tuple[str, tuple[Any] | None], ...] | None:
    """Names of a dataclass's fields, each with the value at which it is left out, if there is one; None of other types."""
    if not dataclasses.is_dataclass(kind):
        return None
    return tuple((field.name, (field.default,) if _OMITTED in field.metadata else None) for field in dataclasses.fields(kind))


def _place(error: Malformed, where: str) -> None:
    """Put the path of what contains a malformed value before the path that the error names."""
    if where:
        inner = error.where or ""
        error.where = where + inner if inner.startswith("[") else f"{where}.{inner}" if inner else where


def _decoder(hint: Any) -> Decoder:
    """The function that reads values of one type. Only dataclasses are built once and kept: they contain the others, and themselves."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return _anything
    if hint in _SCALARS:
        return _SCALARS[hint]
    if origin is typing.Literal:
        return _literal(typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return _union(typing.get_args(hint))
    if origin is tuple:
        return _tuple(_decoder(typing.get_args(hint)[0]))
    if origin is dict:
        return _mapping(_decoder(typing.get_args(hint)[1]))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum(hint)
    if dataclasses.is_dataclass(hint):
        return _dataclass(cast(Any, hint))
    raise TypeError(f"the codec does not know {hint!r}")


def _anything(value: Any) -> Any:
    return value


def _text(value: Any) -> str:
    if type(value) is str and value.isascii() and value.isprintable() and len(value) <= MAX_STRING:
        return value
    if not isinstance(value, str):
        raise Malformed("must be a string")
    if len(value) > MAX_STRING:
        raise Malformed(f"is longer than {MAX_STRING} characters")
    if not is_printable(value):
        raise Malformed("holds a control character or a lone surrogate")
    return value


def is_printable(text: str) -> bool:
    """Whether a text may stand in a document: no control characters but tab and line feed, no lone surrogates."""
    return _UNPRINTABLE.search(text) is None


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Malformed("must be an integer")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Malformed("must be true or false")
    return value


def _literal(options: tuple[Any, ...]) -> Decoder:
    texts = {option: option for option in options if type(option) is str}

    def read(value: Any) -> Any:
        if type(value) is str and value in texts:
            return texts[value]
        for option in options:
            if value == option and type(value) is type(option):
                return value
        raise Malformed(f"must be one of {', '.join(map(str, options))}")

    return read


def _union(options: tuple[Any, ...]) -> Decoder:
    """One alternative beside None, or dataclasses told apart by `kind`, or scalars told apart by their type."""
    nullable = type(None) in options
    options = tuple(option for option in options if option is not type(None))
    if len(options) == 1:
        only = _decoder(options[0])

        def read(value: Any) -> Any:
            if value is None:
                return _null(nullable)
            return only(value)

        return read
    return functools.partial(_read_union, nullable, options)


def _null(nullable: bool) -> None:
    if not nullable:
        raise Malformed("must not be null")


def _read_union(nullable: bool, options: tuple[Any, ...], value: Any) -> Any:
    if value is None:
        return _null(nullable)
    if isinstance(value, dict):
        kind = value.get("kind")
        known = _by_kind(options).get(kind) if isinstance(kind, str) else None
        if known is not None:
            return known(value)
    else:
        for option in options:
            if type(value) is option and option in _SCALARS:
                return _SCALARS[option](value)
    raise Malformed("is none of the accepted forms")


def _tuple(item: Decoder) -> Decoder:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise Malformed("must be a list")
        if len(value) > MAX_ITEMS:
            raise Malformed(f"has more than {MAX_ITEMS} items")
        found: list[Any] = []
        try:
            for entry in value:
                found.append(item(entry))
        except Malformed as error:
            _place(error, f"[{len(found)}]")
            raise
        return tuple(found)

    return read


def _mapping(item: Decoder) -> Decoder:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Malformed("must be an object")
        found = {}
        for key, entry in value.items():
            name = _text(key)
            try:
                found[name] = item(entry)
            except Malformed as error:
                _place(error, name)
                raise
        return found

    return read


def _enum(hint: type[enum.Enum]) -> Decoder:
    def read(value: Any) -> enum.Enum:
        try:
            return hint(value)
        except (ValueError, TypeError) as error:
            raise Malformed(f"must be one of {', '.join(str(m.value) for m in hint)}") from error

    return read


@functools.cache
def _dataclass(hint: Any) -> Decoder:
    check = getattr(hint, "__post_init__", None)

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise Malformed("must be an object")
        fields, names = _fields_of(hint)
        if not value.keys() <= names:
            unknown = sorted({_text(key) for key in value} - names)
            raise Malformed(f"unknown field `{unknown[0][:60]}`", code="unknown-field")
        made = object.__new__(hint)
        for name, decoder, place, default, left_out in fields:
            if name in value:
                try:
                    found = decoder(value[name])
                except Malformed as error:
                    _place(error, name)
                    raise
                if left_out and found == default:
                    raise Malformed("must be left out where it says nothing", where=name)
            elif default is dataclasses.MISSING:
                raise Malformed("is missing", where=name)
            else:
                found = default
            place(made, found)
        if check is not None:
            check(made)
        return made

    return read


@functools.cache
def _fields_of(hint: Any) -> tuple[tuple[tuple[str, Decoder, Callable[[Any, Any], None], Any, bool], ...], frozenset[str]]:
    """Of every field: name, reader, what puts a value into its slot, default if it has one, whether it is left out there; and all names.

    Values are put into their slots as the dataclass's own constructor would, in a third of its time. Asked for at the first value and not
    when the reader is made: types may contain themselves.
    """
    hints, found = _hints(hint), []
    for field in dataclasses.fields(hint):
        if not field.init or field.default_factory is not dataclasses.MISSING or field.name not in hint.__slots__:
            raise TypeError(f"the codec reads dataclasses with slots and plain defaults; {hint.__name__}.{field.name} is neither")
        place = getattr(hint, field.name).__set__
        found.append((field.name, _decoder(hints[field.name]), place, field.default, _OMITTED in field.metadata))
    return tuple(found), frozenset(hints)


@functools.cache
def _by_kind(options: tuple[Any, ...]) -> dict[Any, Decoder]:
    """The reader of each dataclass of a union by the values of the field that tells it from the others; of two, the first."""
    found: dict[Any, Decoder] = {}
    for option in options:
        if dataclasses.is_dataclass(option):
            for kind in typing.get_args(_hints(cast(Any, option))["kind"]):
                found.setdefault(kind, _decoder(option))
    return found


@functools.cache
def _hints(hint: Any) -> dict[str, Any]:
    return typing.get_type_hints(hint)


Decoder = Callable[[Any], Any]

_SCALARS: dict[Any, Decoder] = {str: _text, int: _integer, bool: _boolean}

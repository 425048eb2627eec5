"""Under which scopes an export was made: what its reader's credential opened, what it could not, and what nobody had given to it.

`reader.json` of an export says whose credential made it and when. Nothing rests on that but this account: scopes are signed entries of
the log itself.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from policies.audit_scope import Openable
from policies.canonical import parse_json
from policies.codec import decode
from policies.names import require_name
from sandbox.audit.export import MISSING, READER_PATH, Read


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """Who made an export, at a time in seconds since 1970 by its own clock."""

    kind: Literal["reader/1"] = "reader/1"
    participant: str
    at: int

    def __post_init__(self) -> None:
        require_name(self.participant, "participant")


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenScope:
    """The newest scope of an owner for the reader, and the index of its entry."""

    index: int
    agreement: str
    owner: str
    sequence: int
    openings: tuple[Openable, ...]
    not_before: int
    not_after: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Closed:
    """Entries of one kind under one agreement that the export does not open.

    Attributes:
        agreement: digest; empty where the log does not tell.
        signer: the provider that alone has signed them; empty for entries of all providers.
        entries: how many.
        why: what every owner's scope says; for entries that were given, that they are not there.
    """

    agreement: str
    kind: str
    signer: str
    entries: int
    why: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """An export's reader, the scopes that it read under, and exactly what was not opened to it."""

    reader: str
    at: int
    scopes: tuple[GivenScope, ...]
    closed: tuple[Closed, ...]


def reader_of(read: Read) -> Reader | None:
    """The reader that an export names; None where it names nobody. Raises Malformed."""
    with suppress(*MISSING):
        return decode(Reader, parse_json(read(READER_PATH)))
    return None

"""The stored log: entries, their openings, the perfect nodes of the tree, and published checkpoints.

Appending takes the one row of `log_state` first, so entries have one order whoever writes; the entry becomes visible with the state
change that it records, or neither does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, insert, literal, select, tuple_, union_all, update

from policies.canonical import canonical, parse_json
from policies.codec import encode
from policies.entries import MAX_ENTRY, SALT_BYTES, EntryKind, Header, LedgerCharge, Opening, commit_text
from policies.errors import Malformed, NotFound
from sandbox.audit import merkle
from sandbox.store.once import insert_once
from sandbox.store.schema import checkpoints, cosignatures, entries, log_state, openings, tree_nodes

T = TypeVar("T")

StoredOpening = tuple[str, str, str | None]
"""Salt (hex), body as canonical text, and the agreement whose parties may read it; None for all participants."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewEntry:
    """An entry to be appended; the fields are those of `LogTables.append`."""

    kind: EntryKind
    at: int
    ids: dict[str, str]
    body: dict[str, Any]
    losses: tuple[LedgerCharge, ...] = ()
    agreement: str | None = None


@lru_cache(maxsize=1024)
def _body(text: str) -> Any:
    """A stored body, parsed once; keyed by the whole text, and not to be changed."""
    return parse_json(text.encode(), limit=16 << 20)


# Statements of nearly every request, built once: building one costs as much as running it on SQLite.
_SIZE = select(log_state.c.size).where(log_state.c.id == 1)
_NEWEST = select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)
_COSIGNATURES = select(cosignatures).where(cosignatures.c.size == bindparam("size"))
_NODE = select(tree_nodes.c.hash).where(tree_nodes.c.level == bindparam("at_level"), tree_nodes.c.position == bindparam("at_position"))
_NODES = select(tree_nodes).where(tuple_(tree_nodes.c.level, tree_nodes.c.position).in_(bindparam("wanted", expanding=True)))
_ENTRIES = (
    select(entries.c.data)
    .where(entries.c.position >= bindparam("first"), entries.c.position < bindparam("end"))
    .order_by(entries.c.position)
)
_LEAF = -1
"""Where `_INCLUDED` has the entry itself among the nodes over it."""
_INCLUDED = union_all(
    _NODES, select(literal(_LEAF).label("level"), entries.c.position, entries.c.data).where(entries.c.position == bindparam("index"))
)
_ALL_OPENINGS = (
    select(openings).where(openings.c.position >= bindparam("first"), openings.c.position < bindparam("end")).order_by(openings.c.position)
)
_OPENINGS = _ALL_OPENINGS.where(openings.c.agreement.is_(None) | openings.c.agreement.in_(bindparam("agreements", expanding=True)))

_OPENED = (
    select(openings, entries.c.data)
    .join(entries, entries.c.position == openings.c.position)
    .where(
        openings.c.position >= bindparam("first"),
        openings.c.position < bindparam("end"),
        openings.c.agreement.in_(bindparam("agreements", expanding=True)),
    )
    .order_by(openings.c.position)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedEntry:
    """An entry with its opening, and the agreement whose parties may read it."""

    data: bytes
    opening: Opening
    agreement: str


def _asked(compute: Callable[[Callable[[int, int], bytes]], Any]) -> list[tuple[int, int]]:
    """The (level, index) of every node that a pure function of tree nodes reads; that depends on sizes and indices only."""
    asked: set[tuple[int, int]] = set()

    def note(level: int, index: int) -> bytes:
        asked.add((level, index))
        return bytes(merkle.HASH_BYTES)

    compute(note)
    return sorted(asked)


class LogTables:
    """Verbs on the log, inside one transaction."""

    connection: Connection

    def hold_log(self) -> None:
        """Let nobody else append until the transaction ends: facts read now are still the newest at one's own entry, and what is missing
        is not made by another meanwhile.
        """
        self.connection.execute(select(log_state.c.size).where(log_state.c.id == 1).with_for_update())

    def append(
        self,
        kind: EntryKind,
        *,
        at: int,
        ids: dict[str, str],
        body: dict[str, Any],
        losses: Iterable[LedgerCharge] = (),
        agreement: str | None = None,
    ) -> int:
        """Append an entry and return its index.

        Args:
            at: milliseconds since 1970.
            body: what only holders of the opening may read.
            agreement: digest of the agreement whose parties may read the body; None for all participants.

        Raises:
            Malformed: code `too-large` for an entry above 64 KiB.
        """
        return self.append_all((NewEntry(kind=kind, at=at, ids=ids, body=body, losses=tuple(losses), agreement=agreement),))

    def append_all(self, new: Sequence[NewEntry]) -> int:
        """Append entries in their order, with as many statements as one entry takes; returns the index of the first. Raises as `append`."""
        rows: list[tuple[bytes, StoredOpening | None]] = []
        for entry in new:
            salt, body = os.urandom(SALT_BYTES), canonical(entry.body)
            commitment = commit_text(salt, body)
            header = Header(kind=entry.kind, at=entry.at, ids=entry.ids, losses=entry.losses, commitment=commitment)
            data = canonical(encode(header))
            if len(data) > MAX_ENTRY:
                raise Malformed("the log entry is larger than 64 KiB", code="too-large")
            rows.append((data, (salt.hex(), body.decode(), entry.agreement)))
        return self._append_rows(rows)

    def append_bytes(self, data: bytes, opening: StoredOpening | None) -> int:
        """Append the bytes of an entry as they are and return its index.

        Args:
            opening: salt (hex), body as canonical text, and the agreement whose parties may read it; None where the body is not known.
        """
        return self._append_rows([(data, opening)])

    def _append_rows(self, rows: Sequence[tuple[bytes, StoredOpening | None]]) -> int:
        size = self.connection.execute(
            update(log_state).where(log_state.c.id == 1).values(size=log_state.c.size + len(rows)).returning(log_state.c.size)
        ).scalar_one()
        first = int(size) - len(rows)
        self.connection.execute(insert(entries), [{"position": first + at, "data": data} for at, (data, _) in enumerate(rows)])
        opened = [
            {"position": first + at, "agreement": opening[2], "salt": opening[0], "body": opening[1]}
            for at, (_, opening) in enumerate(rows)
            if opening is not None
        ]
        if opened:
            self.connection.execute(insert(openings), opened)
        self.connection.execute(insert(tree_nodes), self._completed(first, [merkle.leaf_hash(data) for data, _ in rows]))
        return first

    def _completed(self, first: int, leaves: Sequence[bytes]) -> list[dict[str, Any]]:
        """Rows of the perfect nodes that leaves appended from index `first` complete."""
        made: dict[tuple[int, int], bytes] = {}

        def node(level: int, index: int) -> bytes:
            return made.get((level, index)) or self.node(level, index)

        for index, leaf in enumerate(leaves, start=first):
            for level, position, value in merkle.completed_nodes(index, leaf, node):
                made[level, position] = value
        return [{"level": level, "position": position, "hash": value} for (level, position), value in made.items()]

    def node(self, level: int, index: int) -> bytes:
        """Hash of a perfect node of the tree. Raises NotFound."""
        found = self.connection.execute(_NODE, {"at_level": level, "at_position": index}).scalar_one_or_none()
        if found is None:
            raise NotFound(f"the log has no node {level}/{index}")
        return bytes(found)

    def over_nodes(self, compute: Callable[[Callable[[int, int], bytes]], T]) -> T:
        """Return `compute(node)` for a pure function of tree nodes, with one query for all nodes that it asks for.

        `compute` is called twice: first with empty hashes, to learn which nodes it needs; that depends on sizes and indices only.
        Raises NotFound like `node`.
        """
        asked = _asked(compute)
        if not asked:
            return compute(self.node)
        rows = self.connection.execute(_NODES, {"wanted": asked})
        found = {(row.level, row.position): bytes(row.hash) for row in rows}
        return compute(lambda level, index: found.get((level, index)) or self.node(level, index))

    def included(self, index: int, size: int) -> tuple[bytes, tuple[bytes, ...]]:
        """An entry and its inclusion proof in the tree of `size`, in one query.

        Raises:
            Malformed: code "tree-range", unless 0 <= index < size.
            NotFound: the log is not that long.
        """

        def compute(node: Callable[[int, int], bytes]) -> tuple[bytes, ...]:
            return merkle.inclusion_proof(index, size, node)

        rows = self.connection.execute(_INCLUDED, {"wanted": _asked(compute), "index": index})
        found = {(row.level, row.position): bytes(row.hash) for row in rows}
        if (_LEAF, index) not in found:
            raise NotFound(f"the log has no entry {index}")
        return found[_LEAF, index], compute(lambda level, at: found.get((level, at)) or self.node(level, at))

    def nodes(self, level: int, first: int, count: int) -> list[bytes]:
        """Hashes of consecutive perfect nodes of one level."""
        rows = self.connection.execute(
            select(tree_nodes.c.hash)
            .where(tree_nodes.c.level == level, tree_nodes.c.position >= first, tree_nodes.c.position < first + count)
            .order_by(tree_nodes.c.position)
        )
        return [bytes(row.hash) for row in rows]

    def log_size(self) -> int:
        """Number of entries, published or not."""
        return int(self.connection.execute(_SIZE).scalar_one())

    def entries(self, first: int, end: int) -> list[bytes]:
        """Bytes of the entries with first <= index < end."""
        rows = self.connection.execute(_ENTRIES, {"first": first, "end": end})
        return [bytes(row.data) for row in rows]

    def openings(self, first: int, end: int, agreements: Iterable[str] | None) -> list[Opening]:
        """Openings with first <= index < end that a reader who is party to `agreements` may have; None means the operator: all."""
        values: dict[str, Any] = {"first": first, "end": end}
        if agreements is None:
            rows = self.connection.execute(_ALL_OPENINGS, values)
        else:
            rows = self.connection.execute(_OPENINGS, values | {"agreements": list(agreements)})
        return [Opening(index=row.position, salt=row.salt, body=_body(row.body)) for row in rows]

    def opened_under(self, first: int, end: int, agreements: Iterable[str]) -> list[OpenedEntry]:
        """Entries with first <= index < end whose openings are for the parties of one of `agreements`, with those openings."""
        rows = self.connection.execute(_OPENED, {"first": first, "end": end, "agreements": list(agreements)})
        return [
            OpenedEntry(
                data=bytes(row.data), opening=Opening(index=row.position, salt=row.salt, body=_body(row.body)), agreement=row.agreement
            )
            for row in rows
        ]

    def newest_checkpoint(self) -> tuple[int, str] | None:
        """(size, note) of the newest published checkpoint."""
        row = self.connection.execute(_NEWEST).one_or_none()
        return None if row is None else (int(row.size), row.note)

    def add_checkpoint(self, size: int, note: str) -> None:
        """Store a checkpoint unless one of that size is stored; Ed25519 makes it the same note."""
        insert_once(self.connection, checkpoints, size=size, note=note)

    def checkpoint_of(self, size: int) -> str | None:
        """The published note of the checkpoint of that size."""
        found: str | None = self.connection.execute(select(checkpoints.c.note).where(checkpoints.c.size == size)).scalar_one_or_none()
        return found

    def add_cosignature(self, size: int, witness: str, line: str) -> None:
        """Keep a witness's first cosignature on the checkpoint of that size: its line, by the digest of its verifier key."""
        insert_once(self.connection, cosignatures, size=size, witness=witness, line=line)

    def cosignatures(self, size: int) -> dict[str, str]:
        """The lines that are kept of the checkpoint of that size, by the digest of the witness's verifier key."""
        rows = self.connection.execute(_COSIGNATURES, {"size": size})
        return {row.witness: row.line for row in rows}

    def cosigned_sizes(self, limit: int = 100) -> list[int]:
        """Sizes of the newest checkpoints that somebody has cosigned, newest first."""
        query = select(cosignatures.c.size).distinct().order_by(cosignatures.c.size.desc()).limit(limit)
        return [int(row.size) for row in self.connection.execute(query)]

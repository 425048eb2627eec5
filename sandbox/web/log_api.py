"""The log over HTTP: C2SP tlog-tiles files for anyone admitted, entries and openings for followers and auditors."""

from __future__ import annotations

from flask import Response

from policies.errors import Malformed, NotFound
from sandbox.audit import merkle
from sandbox.audit.tiles import TILE_HEIGHT, TILE_WIDTH, pack_entries, parse_tile_path, tile_hashes
from sandbox.exchange import cosigning
from sandbox.exchange.cosigning import newest_cosigned, served_note
from sandbox.exchange.scopes import openings_for
from sandbox.web.answers import reply
from sandbox.web.auth import host
from sandbox.web.models import NoteBody, Query, RangeQuery
from sandbox.web.operation import Call
from sandbox.web.views import ConsistencyProof, Entries, Health, LineageView, Openings

MAX_PAGE = 1000


def healthz(_call: Call[Query, None]) -> Response:
    """Whether this process can read its database."""
    with host().store.reading() as tx:
        size = tx.log_size()
    return reply(Health(ok=True, entries=size))


def checkpoint(_call: Call[Query, None]) -> Response:
    """The newest checkpoint as a signed note, with the cosignatures that are kept of it."""
    with host().store.reading() as tx:
        newest = tx.newest_checkpoint()
        note = None if newest is None else served_note(tx, *newest)
    return _note(host().publish() if note is None else note)


def cosigned_checkpoint(_call: Call[Query, None]) -> Response:
    """The newest checkpoint that a quorum of the operator's witnesses has cosigned."""
    with host().store.reading() as tx:
        return _note(newest_cosigned(tx).note)


def add_cosignatures(call: Call[Query, NoteBody]) -> Response:
    """Keep cosignatures of witnesses on a checkpoint of the log."""
    return reply(cosigning.add_cosignatures(host(), call.body.note), 201)


def _note(note: str) -> Response:
    return Response(note, mimetype="text/plain", headers={"Cache-Control": "no-cache"})


def tile(_call: Call[Query, None], path: str) -> Response:
    """A hash tile or an entry bundle."""
    file = parse_tile_path(f"tile/{path}")
    with host().store.reading() as tx:
        first = file.index * TILE_WIDTH
        if (first + file.width) << (TILE_HEIGHT * file.level) > tx.log_size():
            raise NotFound("the log is not that long")
        if file.kind == "entries":
            data = pack_entries(tx.entries(first, first + file.width))
        else:
            data = tx.over_nodes(lambda node: tile_hashes(file.level, file.index, file.width, node))
    return Response(data, mimetype="application/octet-stream", headers={"Cache-Control": "public, max-age=31536000, immutable"})


def entries(call: Call[RangeQuery, None]) -> Response:
    """Entries `from` (inclusive) to `to` (exclusive) as text, at most 1000."""
    first, end = page_of(call.query)
    with host().store.reading() as tx:
        return reply(Entries(entries=tuple(data.decode() for data in tx.entries(first, end))))


def openings(call: Call[RangeQuery, None]) -> Response:
    """Openings of that range that the caller may read: those for all, those of its agreements, and what audit scopes give it."""
    first, end = page_of(call.query)
    with host().store.reading() as tx:
        return reply(Openings(openings=tuple(openings_for(tx, call.who.id, first, end, host().now()))))


def lineage(_call: Call[Query, None]) -> Response:
    """What leads from the first log to the one in force."""
    with host().store.reading() as tx:
        return reply(LineageView(links=tx.log_links()))


def consistency(call: Call[RangeQuery, None]) -> Response:
    """Proof that the tree of size `to` extends the tree of size `from`."""
    old, new = _range(call.query, None)
    with host().store.reading() as tx:
        if new > tx.log_size():
            raise NotFound("the log is not that long")
        proof = tx.over_nodes(lambda node: merkle.consistency_proof(old, new, node))
    return reply(ConsistencyProof(proof=tuple(item.hex() for item in proof)))


def page_of(query: RangeQuery) -> tuple[int, int]:
    """First index and end of a range of at most 1000 entries. Raises Malformed."""
    return _range(query, MAX_PAGE)


def _range(query: RangeQuery, limit: int | None) -> tuple[int, int]:
    first, end = query.first, query.end
    if first > end or (limit is not None and end - first > limit):
        apart = "" if limit is None else f", at most {limit} apart"
        raise Malformed(f"`from` and `to` must satisfy 0 <= from <= to{apart}", where="from")
    return first, end

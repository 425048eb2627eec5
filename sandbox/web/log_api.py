"""The log over HTTP: C2SP tlog-tiles files for anyone admitted, entries and openings for followers and auditors."""

from __future__ import annotations

import re

from flask import Blueprint, Response, request

from policies.canonical import MAX_INTEGER
from policies.codec import encode
from policies.errors import Malformed, NotFound
from sandbox.audit import merkle
from sandbox.audit.tiles import TILE_HEIGHT, TILE_WIDTH, pack_entries, parse_tile_path, tile_hashes
from sandbox.web.auth import caller, host
from sandbox.web.views import reply

api = Blueprint("log", __name__, url_prefix="/api/v1/log")

MAX_PAGE = 1000
_WHOLE_NUMBER = re.compile(r"[0-9]{1,16}")


@api.get("/checkpoint")
def checkpoint() -> Response:
    """The newest checkpoint as a signed note."""
    caller()
    with host().store.reading() as tx:
        newest = tx.newest_checkpoint()
    note = newest[1] if newest else host().publish()
    return Response(note, mimetype="text/plain", headers={"Cache-Control": "no-cache"})


@api.get("/tile/<path:path>")
def tile(path: str) -> Response:
    """A hash tile or an entry bundle."""
    caller()
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


@api.get("/entries")
def entries() -> Response:
    """Entries `from` (inclusive) to `to` (exclusive) as text, at most 1000."""
    caller()
    first, end = _range()
    with host().store.reading() as tx:
        return reply({"entries": [data.decode() for data in tx.entries(first, end)]})


@api.get("/openings")
def openings() -> Response:
    """Openings of that range that the caller may read: those for all participants and those of its agreements."""
    who = caller()
    first, end = _range()
    with host().store.reading() as tx:
        found = tx.openings(first, end, tx.agreements_of(who.id))
    return reply({"openings": [encode(opening) for opening in found]})


@api.get("/consistency")
def consistency() -> Response:
    """Proof that the tree of size `to` extends the tree of size `from`."""
    caller()
    old, new = _range(limit=None)
    with host().store.reading() as tx:
        if new > tx.log_size():
            raise NotFound("the log is not that long")
        proof = tx.over_nodes(lambda node: merkle.consistency_proof(old, new, node))
    return reply({"proof": [item.hex() for item in proof]})


def _range(limit: int | None = MAX_PAGE) -> tuple[int, int]:
    texts = request.args.get("from", ""), request.args.get("to", "")
    if not all(map(_WHOLE_NUMBER.fullmatch, texts)):
        raise Malformed("`from` and `to` must be whole numbers of at most 16 digits", where="query")
    first, end = map(int, texts)
    if not first <= end <= MAX_INTEGER or (limit is not None and end - first > limit):
        apart = "" if limit is None else f", at most {limit} apart"
        raise Malformed(f"`from` and `to` must satisfy 0 <= from <= to{apart}", where="query")
    return first, end

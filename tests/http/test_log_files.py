"""The log over HTTP: what is asked for outside of it is refused, no path reaches anything but a tile, and what is served proves itself."""

from __future__ import annotations

import pytest

from sandbox.audit.checkpoint import open_checkpoint
from sandbox.audit.merkle import Frontier, leaf_hash, verify_consistency
from sandbox.audit.tiles import layout, unpack_entries, unpack_hashes
from tests.support.doors import expect_problem, flaws, get
from tests.support.market import Market

RANGES = (
    "", "?from=0", "?to=1", "?from=&to=", "?from=a&to=b", "?from=0.5&to=1", "?from=-1&to=1", "?from=2&to=1", "?from=0&to=1e3",
    "?from=0x0&to=0x1", "?from=NaN&to=Infinity", "?from=0&to=9007199254740993", "?from=0&to=99999999999999999999999999",
    "?from=0&to=1001", "?from=0&to=" + "9" * 3000, "?from=%00&to=1", "?from=0&to=1%00", "?from=\u0660&to=1", "?from=0_0&to=1_0",
    "?from=+0&to=1", "?from= 0&to=1", "?from=0%27%20OR%201=1&to=1",
)  # fmt: skip

TILES = {
    400: (
        "0", "0/0", "0/00", "0/0000", "0/x000/000", "0/000.p", "0/000.p/0", "0/000.p/256", "0/000.p/257", "0/000.p/01", "0/000.p/-1",
        "64/000", "-1/000", "00/000", "a/000", "entries", "entries/0", "entries/000/..", "../000", "0/../0/000", "..%2f..%2fetc/passwd",
        "%2e%2e/%2e%2e/etc/passwd", "0/%2e%2e/000", "0/000%20", "entries/000.p/1/",
        "/etc/passwd", "..\\..\\log.key", "entries/../../log.key",
        "0/000.P/1", "0/000.p/\u0661",
    ),
    404: (
        "0/x999/x999/999", "0/x999/x999/x999/x999/x999/x999/999", "entries/x999/x999/x999/x999/x999/x999/999", "63/000.p/1", "1/000",
        "0/000", "entries/000", "0/000.p/255", "entries/000.p/255", "entries/x001/000.p/1", "0/000%00", "0/000%0a", "2/x001/000.p/1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("path", ["entries", "openings", "consistency"])
def test_a_range_outside_the_log_is_refused(market: Market, path: str) -> None:
    before, wrong = market.service.state(), []
    for query in RANGES:
        if path == "consistency" and query == "?from=0&to=1001":
            continue  # a proof may span any distance
        if found := flaws(get(market.clients["auditor"], f"/log/{path}{query}"), 400):
            wrong.append(f"{query[:60]!r}: {found}")
    assert not wrong, "\n".join(wrong)
    assert market.service.state() == before


def test_a_range_beyond_the_end_is_empty_and_has_no_proof(market: Market) -> None:
    auditor, size = market.clients["auditor"], len(market.service.headers())
    for first, end in ((size, size), (size + 5, size + 9), (2**52, 2**52 + 1000), (2**53 - 2, 2**53 - 1)):
        assert get(auditor, f"/log/entries?from={first}&to={end}").json() == {"entries": []}
        assert get(auditor, f"/log/openings?from={first}&to={end}").json() == {"openings": []}
    for old, new in ((1, size + 1), (size, size + 1), (1, 2**53 - 1)):
        expect_problem(get(auditor, f"/log/consistency?from={old}&to={new}"), 404)
    expect_problem(get(auditor, "/log/consistency?from=0&to=1"), 400, "tree-range")


@pytest.mark.parametrize("status", list(TILES))
def test_no_path_but_that_of_a_tile_is_served(market: Market, status: int) -> None:
    before, wrong = market.service.state(), []
    for path in TILES[status]:
        # A path with dots may as well not be routed at all.
        wanted = {400, 404} if status == 400 else status
        if found := flaws(get(market.clients["auditor"], f"/log/tile/{path}"), wanted):
            wrong.append(f"{path}: {found}")
    assert not wrong, "\n".join(wrong)
    assert market.service.state() == before


def test_the_files_lead_to_the_checkpoint_and_every_checkpoint_to_the_next(market: Market) -> None:
    auditor, log = market.clients["auditor"], market.service.host.log_identity
    older = open_checkpoint(auditor.checkpoint(), log)
    market.clients["institute"].submit(market.request())
    newer = open_checkpoint(auditor.checkpoint(), log)
    assert newer.size == older.size + 3
    entries, hashes = [], []
    for file in layout(newer.size):
        response = get(auditor, f"/log/{file.path}")
        assert response.status_code == 200
        assert "immutable" in response.headers["Cache-Control"]
        if file.kind == "entries":
            entries += unpack_entries(response.content, file.width)
        elif file.level == 0:
            hashes += unpack_hashes(response.content, file.width)
    assert [leaf_hash(entry) for entry in entries] == hashes
    frontier = Frontier()
    for leaf in hashes:
        frontier = frontier.append(leaf)
    assert frontier.root() == newer.root
    texts = get(auditor, f"/log/entries?from=0&to={newer.size}").json()["entries"] if newer.size <= 1000 else []
    assert not texts or [text.encode() for text in texts] == entries
    proof = get(auditor, f"/log/consistency?from={older.size}&to={newer.size}").json()["proof"]
    verify_consistency(older.size, older.root, newer.size, newer.root, [bytes.fromhex(item) for item in proof])

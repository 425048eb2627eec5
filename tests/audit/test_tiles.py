"""The static layout of a log: the specification's example paths, bundles, and damaged files."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.errors import Malformed, NotFound, Tampered
from sandbox.audit.export import Export
from sandbox.audit.merkle import Frontier, completed_nodes, leaf_hash
from sandbox.audit.tiles import (
    LogFile,
    entries_path,
    layout,
    pack_entries,
    parse_tile_path,
    tile_hashes,
    tile_path,
    unpack_entries,
    unpack_hashes,
)

entry_lists = st.lists(st.binary(max_size=40), min_size=1, max_size=30)


def entries_of(read: Callable[[str], bytes], size: int) -> Iterator[bytes]:
    """The entries of an export, in order."""
    return (entry for bundle in Export(read=read).bundles(size) for entry in bundle.entries)


def _files(entries: list[bytes]) -> dict[str, bytes]:
    """Every file that the layout lists for a log with `entries`."""
    nodes: dict[tuple[int, int], bytes] = {}
    for index, entry in enumerate(entries):
        for level, position, value in completed_nodes(index, leaf_hash(entry), lambda *at: nodes[at]):
            nodes[level, position] = value
    files = {}
    for file in layout(len(entries)):
        start = file.index * 256
        files[file.path] = (
            pack_entries(entries[start : start + file.width])
            if file.kind == "entries"
            else tile_hashes(file.level, file.index, file.width, lambda *at: nodes[at])
        )
    return files


def _entries(count: int) -> list[bytes]:
    return [b"entry %d" % i for i in range(count)]


def test_paths_are_those_of_the_specification() -> None:
    # C2SP tlog-tiles: index 1234067 is encoded as x001/x234/067.
    assert tile_path(0, 1_234_067) == "tile/0/x001/x234/067"
    assert tile_path(1, 0, 17) == "tile/1/000.p/17"
    assert entries_path(999) == "tile/entries/999"
    assert entries_path(1000, 255) == "tile/entries/x001/000.p/255"


def test_the_tree_of_70000_is_laid_out_as_the_specification_says() -> None:
    # C2SP tlog-tiles, Partial Tiles: 273 full and one of 112; one full and one of 17; one of width 1.
    files = list(layout(70_000))
    for kind in ("entries", "tile"):
        widths = [file.width for file in files if file.kind == kind and file.level == 0]
        assert widths == [256] * 273 + [112]
    assert [f.width for f in files if f.level == 1] == [256, 17]
    assert [f.width for f in files if f.level == 2] == [1]
    assert len(files) == 2 * 274 + 3


def test_a_full_tile_starts_the_level_above() -> None:
    assert [file.path for file in layout(256)] == ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]
    assert list(layout(0)) == []
    with pytest.raises(Malformed):
        list(layout(-1))


@given(st.integers(0, 300_000))
@settings(max_examples=30, deadline=None)
def test_a_layout_lists_each_file_once_and_every_hash_of_every_level(size: int) -> None:
    files = list(layout(size))
    assert len({file.path for file in files}) == len(files)
    assert sum(file.width for file in files if file.kind == "entries") == size
    for level in range(4):
        widths = [file.width for file in files if file.kind == "tile" and file.level == level]
        assert sum(widths) == size // 256**level
        assert all(width == 256 for width in widths[:-1])


@given(st.sampled_from(["tile", "entries"]), st.integers(0, 63), st.integers(0, 10**20), st.integers(1, 256))
def test_paths_survive_parsing(kind: str, level: int, index: int, width: int) -> None:
    path = tile_path(level, index, width) if kind == "tile" else entries_path(index, width)
    parsed = parse_tile_path(path)
    assert parsed == LogFile(
        kind="tile" if kind == "tile" else "entries",
        level=level if kind == "tile" else 0,
        index=index,
        width=width,
    )
    assert parsed.path == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "checkpoint",
        "tile/0",
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/entries/../../secret",
        "tile/0/../000",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/0/x000/000",
        "tile/0/001/000",
        "tile/0/x001",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/1000",
        "tile/0/000.p/",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/" + "x001/" * 2000 + "000",
    ],
)
def test_only_canonical_paths_are_parsed(path: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse_tile_path(path)
    assert caught.value.code == "tile-path"


@pytest.mark.parametrize(("level", "index", "width"), [(64, 0, 1), (-1, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)])
def test_tiles_outside_the_format_have_no_path(level: int, index: int, width: int) -> None:
    with pytest.raises(Malformed):
        tile_path(level, index, width)


@given(entry_lists)
def test_bundles_return_the_entries_that_were_packed(entries: list[bytes]) -> None:
    assert list(unpack_entries(pack_entries(entries), len(entries))) == entries


@given(entry_lists, st.data())
def test_a_cut_or_extended_bundle_is_malformed(entries: list[bytes], data: st.DataObject) -> None:
    contents = pack_entries(entries)
    cut = data.draw(st.integers(0, len(contents) - 1))
    extra = data.draw(st.binary(min_size=1, max_size=3))
    for damaged, width in (
        (contents[:cut], len(entries)),
        (contents + extra, len(entries)),
        (contents, len(entries) - 1),
        (contents, len(entries) + 1),
    ):
        with pytest.raises(Malformed) as caught:
            unpack_entries(damaged, width)
        assert caught.value.code == "entry-bundle"


def test_an_entry_of_65535_bytes_fits_and_a_longer_one_does_not() -> None:
    longest = b"x" * 65_535
    assert unpack_entries(pack_entries([longest, b""]), 2) == (longest, b"")
    with pytest.raises(Malformed) as caught:
        pack_entries([longest + b"x"])
    assert caught.value.code == "entry-size"


@pytest.mark.parametrize("count", [0, 257])
def test_a_bundle_has_1_to_256_entries(count: int) -> None:
    with pytest.raises(Malformed):
        pack_entries([b""] * count)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 700])
def test_an_export_read_back_gives_the_entries_and_their_leaf_hashes(size: int) -> None:
    entries = _entries(size)
    files = _files(entries)
    assert list(entries_of(files.__getitem__, size)) == entries

    tiles = [file for file in layout(size) if file.kind == "tile" and file.level == 0]
    leaves = [leaf for file in tiles for leaf in unpack_hashes(files[file.path], file.width)]
    assert leaves == [leaf_hash(entry) for entry in entries]


def test_a_level_1_hash_is_the_root_of_the_full_tile_below() -> None:
    entries = _entries(600)
    files = _files(entries)
    for index, value in enumerate(unpack_hashes(files["tile/1/000.p/2"], 2)):
        below = unpack_hashes(files[tile_path(0, index)], 256)
        assert Frontier().extend(below).root() == value


@pytest.mark.parametrize("error", [NotFound("gone"), FileNotFoundError(), KeyError("gone")])
def test_a_missing_bundle_is_tampering(error: Exception) -> None:
    files = _files(_entries(300))
    del files["tile/entries/000"]

    def read(path: str) -> bytes:
        if path not in files:
            raise error
        return files[path]

    with pytest.raises(Tampered) as caught:
        list(entries_of(read, 300))
    assert (caught.value.code, caught.value.where) == ("log-file-missing", "tile/entries/000")


def test_a_short_bundle_is_malformed_and_named() -> None:
    files = _files(_entries(300))
    files["tile/entries/001.p/44"] = files["tile/entries/001.p/44"][:-1]
    with pytest.raises(Malformed) as caught:
        list(entries_of(files.__getitem__, 300))
    assert caught.value.where == "tile/entries/001.p/44"


def test_an_outage_of_the_reader_is_not_called_tampering() -> None:
    def read(path: str) -> bytes:
        raise PermissionError(path)

    with pytest.raises(PermissionError):
        list(entries_of(read, 1))


def test_the_full_bundle_serves_where_the_partial_one_it_replaced_is_gone() -> None:
    entries = _entries(256)
    assert list(entries_of(_files(entries).__getitem__, 100)) == entries[:100]


@pytest.mark.parametrize("contents", [b"", bytes(31), bytes(33), bytes(64)])
def test_a_tile_of_the_wrong_length_is_malformed(contents: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        unpack_hashes(contents, 1)
    assert caught.value.code == "tile"

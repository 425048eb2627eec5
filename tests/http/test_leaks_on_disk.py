"""After a full job the operator's disk and database hold no plaintext cell and no secret of any participant, in no usual spelling."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from policies.canonical import canonical
from sandbox.party.home import SECRET_FILES
from sandbox.party.publish import column_keys
from sandbox.store.schema import metadata, versions
from tests.http.conftest import Ran
from tests.support.market import Market, write_plaintext

RUN = 3
"""Consecutive numbers of a column that are searched for together: a single small integer is in every file."""
EVERY = 30
"""One row in so many is searched for; texts are found by what they all begin with."""


def spellings(secret: bytes) -> list[bytes]:
    """A secret as raw bytes, in hex and in base64 of both alphabets, without padding."""
    encoded = [base64.b64encode(secret), base64.urlsafe_b64encode(secret)]
    return [secret, secret.hex().encode(), secret.hex().upper().encode(), *(item.rstrip(b"=") for item in encoded)]


def secrets(market: Market) -> dict[str, list[bytes]]:
    """Every secret of every participant of a market, by name."""
    found = {}
    for role, client in market.clients.items():
        home = client.home
        for name in SECRET_FILES:
            found[f"{role}'s {name}"] = spellings(home.read_bytes(name))
        found[f"{role}'s code"] = spellings(market.codes[role].encode())
        for version in market.service.rows(versions):
            if version["dataset"].startswith(home.participant + "."):
                table = market.tables[role]
                keys = column_keys(home, version["dataset"], version["version"], version["file_digest"], tuple(table.column_names))
                found |= {f"{role}'s key of {name}": spellings(key) for name, key in keys.items()}
    return found


def cells(table: pa.Table) -> Iterator[bytes]:
    """Cells as a leak would spell them: what texts begin with; runs of numbers as Parquet, Arrow, JSON and CSV hold them."""
    for name in table.column_names:
        values = table.column(name).to_pylist()
        if isinstance(values[0], str):
            yield b"remark-"
            continue
        for start in range(0, len(values) - RUN, EVERY):
            run = values[start : start + RUN]
            if isinstance(run[0], float):
                yield struct.pack(f"<{RUN}d", *run)
                yield ",".join(f"{value:.2f}" for value in run).encode()
                yield ",".join(map(str, run)).encode()
            elif max(run) > 10**6:
                yield struct.pack(f"<{RUN}q", *run)
                yield from (str(value).encode() for value in run)


def held(market: Market) -> Iterator[tuple[str, bytes]]:
    """(name, contents) of everything that the service keeps: files, logs of its processes, and each row of the database."""
    service = market.service
    for path in [*service.config.data.rglob("*"), *service.folder.glob("*.log")]:
        if path.is_file():
            yield str(path.relative_to(service.folder)), path.read_bytes()
    for table in metadata.sorted_tables:
        for row in service.rows(table):
            values = [value if isinstance(value, bytes) else str(value).encode() for value in row.values()]
            yield f"table {table.name}", b"\n".join(values)


def search(needles: dict[str, list[bytes]], places: Iterator[tuple[str, bytes]]) -> list[str]:
    """Which needles lie where."""
    found = []
    for place, data in places:
        # What is kept compressed is looked at as it was before.
        for contents in (data, _inflated(data)):
            for name, forms in needles.items():
                if any(form in contents for form in forms):
                    found.append(f"{name} in {place}")
    return found


def test_no_secret_of_a_participant_is_kept_by_the_service(ran: Ran) -> None:
    needles = secrets(ran.market)
    assert len(needles) == 4 * 5 + 10, "four secrets and a code each, and the keys of two files with their footers"
    assert all(len(form) >= 30 for forms in needles.values() for form in forms)
    assert not search(needles, held(ran.market))


def test_no_plaintext_cell_is_kept_by_the_service(ran: Ran) -> None:
    needles = {f"{role}'s cells": list(cells(table)) for role, table in ran.market.tables.items()}
    assert all(len(forms) > 150 for forms in needles.values())
    everything = list(held(ran.market))
    assert sum(name.startswith("data/uploads/") for name, _ in everything) >= 2
    assert any(name.startswith("table releases") for name, _ in everything)
    assert not search(needles, iter(everything))


def test_no_exact_figure_of_the_release_is_kept_by_the_service(ran: Ran) -> None:
    """The released values themselves are sealed to the consumer: neither they nor the true counts stand anywhere."""
    release, _ = ran.market.clients["institute"].release(ran.released)
    shown = canonical([{"keys": list(cell.keys), "figures": [figure.value for figure in cell.figures]} for cell in release.cells])
    figures = [f'"value":"{figure.value}"'.encode() for cell in release.cells for figure in cell.figures]
    assert not search({"a released figure": figures, "the release": [shown]}, held(ran.market))


@pytest.mark.parametrize("where", ["insurer", "clinic"])
def test_the_search_finds_a_plaintext_file(ran: Ran, tmp_path: Path, where: str) -> None:
    table = ran.market.tables[where]
    leaked = write_plaintext(table, tmp_path / "leaked.parquet").read_bytes()
    needles = {"cells": list(cells(table))}
    assert search(needles, iter([("a leak", leaked)]))
    assert search(needles, iter([("a compressed leak", zlib.compress(leaked))]))
    assert search(needles, iter([("rows", canonical(table.slice(7, 30).column("person_id").to_pylist()))]))


def test_the_search_finds_every_secret(ran: Ran) -> None:
    for name, forms in secrets(ran.market).items():
        for form in forms:
            assert search({name: forms}, iter([("a leak", b"before" + form + b"after")]))


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompress(data)
    except zlib.error:
        return b""

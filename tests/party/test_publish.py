"""Publishing: keys are safe at home before anything is sent, and a table that breaks its declaration never leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enclaves.kit.columns import FOOTER, decrypt_columns
from enclaves.kit.prepared import prepared
from enclaves.kit.sources import dropped_and_clamped, read_table
from policies.canonical import canonical, digest_bytes
from policies.errors import Malformed, NotFound, Tampered, Unavailable
from policies.names import require_digest
from sandbox.exchange.participants import issue_code
from sandbox.party.home import Home
from sandbox.party.publish import column_keys, publish
from tests.support import market
from tests.support.runs import Answer, Town, network_down, open_town

PLANS = market.plans_declaration("insurer")
COLUMNS = tuple(column.name for column in PLANS.columns)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """A host with one admitted provider."""
    town = open_town(tmp_path / "town", homes=())
    client = town.client(Home.create(tmp_path / "insurer", "insurer", "First Insurance", "http://host.test"))
    client.join(issue_code(town.host, "insurer"))
    town.clients["insurer"] = client
    yield town
    town.close()


def stored(town: Town, digest: str) -> bytes:
    """An upload as the host holds it."""
    return town.host.blobs.path(digest).read_bytes()


def kept(home: Home) -> list[str]:
    """Digests of the files whose keys are at home."""
    return ["sha256:" + path.stem for path in sorted((home.folder / "keys" / PLANS.dataset).glob("*.json"))]


def test_what_was_published_can_be_opened_with_the_keys_at_home_and_with_no_others(town: Town) -> None:
    table, home = market.plans_table(20), town.clients["insurer"].home
    version = publish(town.clients["insurer"], PLANS, table)
    keys = column_keys(home, PLANS.dataset, 1, version["file_digest"], ("coinsurance", "medical_spend"))
    data = stored(town, version["file_digest"])
    opened = decrypt_columns(data, dataset=PLANS.dataset, version=1, keys=keys, columns=["coinsurance", "medical_spend"])
    assert opened.equals(prepared(table, PLANS).select(["coinsurance", "medical_spend"]))
    assert sorted(map(float, opened.column("medical_spend").to_pylist())) == sorted(table.column("medical_spend").to_pylist())
    assert set(keys) == {FOOTER, "coinsurance", "medical_spend"}
    with pytest.raises(Tampered):
        decrypt_columns(data, dataset=PLANS.dataset, version=1, keys=keys, columns=["person_id"])
    assert not list(home.folder.glob("publish-*")), "the encrypted copy is gone"


def test_keys_are_at_home_before_the_file_and_before_the_manifest_are_sent(town: Town) -> None:
    client, seen = town.clients["insurer"], {}

    def look(method: str, path: str, answer: Answer) -> Answer:
        if path in ("/uploads", "/versions"):
            seen[path] = kept(client.home)
        return answer

    town.session("insurer").doctor = look
    version = publish(client, PLANS, market.plans_table(5))
    assert seen == {"/uploads": [version["file_digest"]], "/versions": [version["file_digest"]]}


def test_every_column_and_version_has_a_key_of_its_own_and_none_is_kept_in_the_clear(town: Town) -> None:
    client, home = town.clients["insurer"], town.clients["insurer"].home
    files = [publish(client, PLANS, market.plans_table(5))["file_digest"] for _ in range(2)]
    keys = [key for v, file in enumerate(files, 1) for key in column_keys(home, PLANS.dataset, v, file, COLUMNS).values()]
    assert len(set(keys)) == len(keys) == 2 * (len(COLUMNS) + 1)
    contents = b"".join(path.read_bytes() for path in home.folder.rglob("*") if path.is_file())
    assert not any(key in contents or key.hex().encode() in contents for key in keys)


@pytest.mark.parametrize("lost", ["/uploads", "/versions"])
def test_a_lost_answer_loses_no_published_file(town: Town, lost: str) -> None:
    client = town.clients["insurer"]
    town.session("insurer").doctor = lambda method, path, answer: network_down() if path == lost else answer
    with pytest.raises(Unavailable):
        publish(client, PLANS, market.plans_table(5))
    town.session("insurer").doctor = lambda method, path, answer: answer
    again = publish(client, PLANS, market.plans_table(5))
    assert again["version"] == (2 if lost == "/versions" else 1)
    with town.host.store.reading() as tx:
        newest = tx.newest_version(PLANS.dataset)
    assert newest is not None
    assert len(kept(client.home)) == 2
    for name in kept(client.home):
        version = int(client.home.read(f"keys/{PLANS.dataset}/{name.removeprefix('sha256:')}.json")["version"])
        keys = column_keys(client.home, PLANS.dataset, version, name, COLUMNS)
        assert decrypt_columns(stored(town, name), dataset=PLANS.dataset, version=version, keys=keys, columns=COLUMNS).num_rows == 25


def test_a_host_that_names_another_file_gets_no_signature_under_it(town: Town) -> None:
    def lie(method: str, path: str, answer: Answer) -> Answer:
        return Answer(201, canonical({**answer.json(), "digest": "sha256:" + "6" * 64})) if path == "/uploads" else answer

    town.session("insurer").doctor = lie
    with pytest.raises(Tampered) as caught:
        publish(town.clients["insurer"], PLANS, market.plans_table(5))
    assert caught.value.code == "upload-digest"
    assert ("POST", "/versions") not in town.session("insurer").sent


def test_the_signed_manifest_describes_the_uploaded_bytes(town: Town) -> None:
    version = publish(town.clients["insurer"], PLANS, market.plans_table(5))
    body = version["signed"]["body"]
    data = stored(town, require_digest(body["file_digest"], "file"))
    assert (body["file_digest"], body["size"]) == (digest_bytes(data), len(data))
    assert sorted(body["columns"]) == sorted(COLUMNS)


def test_keys_of_another_file_version_or_column_are_not_given(town: Town) -> None:
    client = town.clients["insurer"]
    file = publish(client, PLANS, market.plans_table(5))["file_digest"]
    for dataset, version, digest, columns in (
        (PLANS.dataset, 2, file, ("year",)),
        (PLANS.dataset, 1, "sha256:" + "0" * 64, ("year",)),
        ("insurer.other", 1, file, ("year",)),
        (PLANS.dataset, 1, file, ("year", "salary")),
    ):
        with pytest.raises(NotFound):
            column_keys(client.home, dataset, version, digest, columns)


def test_kept_keys_that_were_moved_between_columns_do_not_open(town: Town) -> None:
    client = town.clients["insurer"]
    file = publish(client, PLANS, market.plans_table(5))["file_digest"]
    name = f"keys/{PLANS.dataset}/{file.removeprefix('sha256:')}.json"
    held = client.home.read(name)
    held["keys"]["year"] = held["keys"]["medical_spend"]
    client.home.write(name, held)
    with pytest.raises(Tampered):
        column_keys(client.home, PLANS.dataset, 1, file, ("year",))


# Tables that break their declaration


def written(tmp_path: Path, **columns: Any) -> Path:
    """The plans with some columns replaced or (None) left out, as a file."""
    rows = {name: market.plans_table(2).column(name) for name in COLUMNS}
    rows |= columns
    path = tmp_path / "plans.parquet"
    pq.write_table(pa.table({name: cells for name, cells in rows.items() if cells is not None}), path)
    return path


def refused(path: Path, declaration: Any = PLANS) -> str:
    with pytest.raises(Malformed) as caught:
        read_table(path, declaration)
    return caught.value.code


ROWS = 10


def test_an_honest_table_is_read_with_its_declared_columns_only(tmp_path: Path) -> None:
    assert read_table(written(tmp_path, secret=pa.array(["x"] * ROWS)), PLANS).column_names == list(COLUMNS)


def test_rows_that_repeat_the_unique_key_are_refused(tmp_path: Path) -> None:
    assert refused(written(tmp_path, year=pa.array([1] * ROWS))) == "key-not-unique"


def test_a_missing_column_is_refused(tmp_path: Path) -> None:
    assert refused(written(tmp_path, coinsurance=None)) == "unknown-column"


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    table = market.plans_table(2)
    path = tmp_path / "twice.parquet"
    pq.write_table(pa.Table.from_arrays([*table.columns, table.column("year")], names=[*table.column_names, "year"]), path)
    assert refused(path) == "unreadable"


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("coinsurance", pa.array([0.5] * ROWS)),
        ("coinsurance", pa.array(["0"] * ROWS)),
        ("coinsurance", pa.array([None] * ROWS)),
        ("medical_spend", pa.array(["1.5"] * ROWS)),
        ("medical_spend", pa.array([True] * ROWS)),
        ("medical_spend", pa.array([1] * ROWS).cast(pa.decimal256(50, 2))),
        ("medical_spend", pa.array([[1.0]] * ROWS)),
        ("person_id", pa.array([str(n) for n in range(ROWS)])),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.type),
)
def test_a_column_of_another_kind_is_refused(tmp_path: Path, column: str, cells: pa.Array) -> None:
    assert refused(written(tmp_path, **{column: cells})) == "column-type"


def test_a_row_without_a_privacy_unit_is_refused(tmp_path: Path) -> None:
    assert refused(written(tmp_path, person_id=pa.array([None, *range(1, ROWS)], pa.int64()))) == "unit-missing"


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    remark = pa.array([b"\xff\xfe"] * ROWS, pa.binary()).view(pa.string())
    columns = (*PLANS.columns, replace(PLANS.columns[1], name="remark", type="text", domain=None))
    assert refused(written(tmp_path, remark=remark), replace(PLANS, columns=columns)) == "unreadable"


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not parquet at all" * 10])
def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "plans.parquet"
    path.write_bytes(data)
    assert refused(path) == "unreadable"
    assert refused(tmp_path / "missing.parquet") == "unreadable"


def test_the_provider_alone_is_told_how_much_its_bounds_change() -> None:
    table = pa.table(
        {
            "person_id": pa.array([1, 1, 1, 1, 1, 1, 2], pa.int64()),
            "year": pa.array([1, 2, 3, 4, 5, 6, 1], pa.int64()),
            "coinsurance": pa.array([0] * 7, pa.int64()),
            "medical_spend": pa.array([1.0, 2000.01, -1.0, 3.0, 2000.0, None, 5.0]),
        }
    )
    assert dropped_and_clamped(table, PLANS) == {"medical_spend": 2, "rows beyond the contribution bound": 1}


def test_integers_that_no_float_holds_are_counted_too() -> None:
    columns = (*PLANS.columns[:3], replace(PLANS.columns[3], type="integer", decimals=0))
    table = market.plans_table(1).set_column(3, "medical_spend", pa.array([2**62 + 1, 2**53 + 1, 5, 6, 7], pa.int64()))
    assert dropped_and_clamped(table, replace(PLANS, columns=columns))["medical_spend"] == 2

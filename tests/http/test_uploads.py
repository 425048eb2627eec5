"""Uploads: only whole encrypted Parquet files of bearable size are kept, and of anything else nothing stays on the disk."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import requests

from enclaves.kit.columns import encrypt_table
from tests.support.doors import expect_problem
from tests.support.market import Market, plans_table, write_plaintext
from tests.support.service import UPLOAD_BYTES


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small encrypted file."""
    path = tmp_path_factory.mktemp("encrypted") / "table.parquet"
    table = plans_table(5)
    keys = {name: bytes([number + 1]) * 32 for number, name in enumerate(("_footer", *table.column_names))}
    encrypt_table(table, path, dataset="x.y", version=1, keys=keys)
    return path.read_bytes()


@pytest.fixture(scope="module")
def plaintext(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same kind of file, readable by anybody."""
    return write_plaintext(plans_table(5), tmp_path_factory.mktemp("plain") / "table.parquet").read_bytes()


def send(market: Market, data: bytes | Iterator[bytes], **headers: str) -> requests.Response:
    """Upload as the insurer; an iterator is sent in chunks without a length."""
    credential = market.clients["insurer"].home.credential
    return requests.post(
        market.service.api + "/uploads", data=data, headers={"Authorization": f"Bearer {credential}", **headers}, timeout=60
    )


def plaintext_footer(encrypted: bytes) -> bytes:
    """An encrypted file as the format allows it with a readable footer: it begins and ends as a plain one."""
    return b"PAR1" + encrypted[4:-4] + b"PAR1"


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("empty", "empty-upload"),
        ("plaintext", "plaintext-upload"),
        ("plaintext footer", "plaintext-upload"),
        ("plaintext after an encrypted head", "plaintext-upload"),
        ("text", "not-parquet"),
        ("one byte", "not-parquet"),
        ("head only", "truncated-upload"),
        ("head and tail only", "truncated-upload"),
        ("cut in half", "truncated-upload"),
        ("last byte missing", "truncated-upload"),
        ("footer length beyond the file", "truncated-upload"),
        ("multipart form", "not-parquet"),
        ("archive", "not-parquet"),
    ],
)
def test_what_is_no_encrypted_parquet_file_is_refused_and_leaves_nothing(
    market: Market, encrypted: bytes, plaintext: bytes, case: str, code: str
) -> None:
    bodies = {
        "empty": b"",
        "plaintext": plaintext,
        "plaintext footer": plaintext_footer(encrypted),
        "plaintext after an encrypted head": b"PARE" + plaintext[4:],
        "text": b"person_id,year,coinsurance\n1,1,0\n" * 100,
        "one byte": b"P",
        "head only": b"PARE",
        "head and tail only": b"PARE" + (300).to_bytes(4, "little") + b"PARE",
        "cut in half": encrypted[: len(encrypted) // 2],
        "last byte missing": encrypted[:-1],
        "footer length beyond the file": encrypted[:-8] + (2**31).to_bytes(4, "little") + b"PARE",
        "multipart form": b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + encrypted + b"\r\n--x--\r\n",
        "archive": b"PK\x03\x04" + encrypted,
    }
    before = market.service.state()
    expect_problem(send(market, bodies[case]), 400, code)
    chunked = iter([bodies[case][:3], bodies[case][3:]] if len(bodies[case]) > 3 else [bodies[case]])
    expect_problem(send(market, chunked), 400, code)
    assert market.service.state() == before


def test_a_plaintext_file_is_what_the_test_says(plaintext: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(plaintext)
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 25


@pytest.mark.parametrize("announced", [True, False])
def test_an_upload_that_is_too_large_is_refused_whether_it_says_so_or_not(market: Market, announced: bool) -> None:
    before = market.service.state()
    large = b"PARE" + b"\0" * (UPLOAD_BYTES - 3)
    expect_problem(send(market, large if announced else iter([large[:1000], large[1000:]])), 413, "too-large")
    assert market.service.state() == before


def test_a_hundred_times_too_large_still_gets_its_answer(market: Market) -> None:
    before = market.service.state()
    expect_problem(send(market, b"\0" * (100 * UPLOAD_BYTES)), 413, "too-large")
    assert market.service.state() == before


@pytest.mark.parametrize("sent", [0, 4, 1000])
def test_an_upload_that_ends_before_its_announced_length_leaves_nothing(market: Market, encrypted: bytes, sent: int) -> None:
    before = market.service.state()
    answer = _raw(market, encrypted[:sent], f"Content-Length: {len(encrypted)}")
    assert answer == b"" or b" 400 " in answer.split(b"\r\n")[0], answer[:300]
    assert market.service.state() == before


def test_a_whole_file_with_a_part_missing_at_the_end_of_the_connection_is_not_taken(market: Market, encrypted: bytes) -> None:
    """A file that is whole, announced as longer than it is."""
    before = market.service.state()
    answer = _raw(market, encrypted, f"Content-Length: {len(encrypted) + 100}")
    assert answer == b"" or b" 400 " in answer.split(b"\r\n")[0], answer[:300]
    assert market.service.state() == before


def test_chunks_that_break_off_are_not_taken(market: Market, encrypted: bytes) -> None:
    before = market.service.state()
    chunk = f"{len(encrypted):x}\r\n".encode() + encrypted + b"\r\n"
    answer = _raw(market, chunk, "Transfer-Encoding: chunked")
    assert answer == b"" or b" 400 " in answer.split(b"\r\n")[0], answer[:300]
    assert market.service.state() == before


def test_what_was_refused_in_parts_is_accepted_whole(market: Market, encrypted: bytes) -> None:
    files = market.service.uploads()
    answer = send(market, encrypted)
    assert answer.status_code == 201
    assert answer.json()["size"] == len(encrypted)
    assert market.service.uploads() == sorted([*files, answer.json()["digest"].removeprefix("sha256:")])
    assert send(market, encrypted).json() == answer.json(), "again is the same"
    assert send(market, iter([encrypted[:10], encrypted[10:]])).json() == answer.json(), "and so is the same in chunks"
    assert "table" not in answer.text


def test_nobody_uploads_without_a_credential(market: Market, encrypted: bytes) -> None:
    before = market.service.state()
    for header in ({}, {"Authorization": "Bearer " + "x" * 43}):
        expect_problem(requests.post(market.service.api + "/uploads", data=encrypted, headers=header, timeout=60), 401, "unauthenticated")
    assert market.service.state() == before


def _raw(market: Market, body: bytes, length: str) -> bytes:
    """Send a request by hand, stop sending, and return the answer up to the end of the connection."""
    credential = market.clients["insurer"].home.credential
    head = f"POST /api/v1/uploads HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {credential}\r\n{length}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", market.service.port), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer

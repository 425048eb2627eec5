"""Uploads damaged in every region of the file: noticed by digest, and where a provider signed the damage itself, by the encryption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from enclaves.run import run
from policies.canonical import digest_bytes
from tests.support.runs import Bench, bench, replace_grant

FILE = "insurer.plans"

REGIONS: dict[str, Callable[[int, int], int]] = {
    "head magic": lambda size, footer: 0,
    "length of the first page's header": lambda size, footer: 4,
    "nonce of the first page's header": lambda size, footer: 9,
    "first page": lambda size, footer: 60,
    "before the footer": lambda size, footer: size - 8 - footer - 1,
    "algorithm in the footer": lambda size, footer: size - 8 - footer + 1,
    "key material in the footer": lambda size, footer: size - 8 - footer + 150,
    "encrypted footer": lambda size, footer: size - 8 - 40,
    "tag of the footer": lambda size, footer: size - 8 - 4,
    "footer's length": lambda size, footer: size - 8,
    "tail magic": lambda size, footer: size - 1,
}
DAMAGE: dict[str, Callable[[bytes, int], bytes]] = {
    "a flipped bit": lambda data, at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :],
    "a byte less": lambda data, at: data[:at] + data[at + 1 :],
    "a byte more": lambda data, at: data[:at] + b"\x00" + data[at:],
    "cut off": lambda data, at: data[:at],
    "zeros to the end": lambda data, at: data[:at] + bytes(len(data) - at),
    "the front again": lambda data, at: data[:at] + data[: len(data) - at],
}


@pytest.fixture(scope="module")
def laid() -> Bench:
    return bench()


def damaged(laid: Bench, region: str, how: str) -> bytes:
    """The insurer's file with that damage."""
    data = laid.files[FILE]
    return DAMAGE[how](data, REGIONS[region](len(data), int.from_bytes(data[-8:-4], "little")))


def code(laid: Bench, data: bytes) -> str | None:
    """With which word a run on that file withholds."""
    statement, sealed = run(laid.grant, laid.agreement, laid.identity, laid.inputs(files={**laid.files, FILE: data}), memory_mib=256)
    assert (sealed is None) == (statement.statement.withheld is not None)
    return statement.statement.withheld


@pytest.mark.parametrize("region", REGIONS)
def test_a_file_that_was_damaged_on_the_way_is_not_the_granted_one(laid: Bench, region: str) -> None:
    for how in DAMAGE:
        data = damaged(laid, region, how)
        if data != laid.files[FILE]:
            assert code(laid, data) == "input-tampered", how


@pytest.mark.parametrize("region", REGIONS)
def test_a_file_that_was_damaged_before_it_was_signed_is_unreadable(laid: Bench, region: str) -> None:
    for how in DAMAGE:
        data = damaged(laid, region, how)
        if data == laid.files[FILE]:
            continue
        reads = tuple(replace(read, file_digest=digest_bytes(data)) if read.dataset == FILE else read for read in laid.grant.reads)
        assert code(replace_grant(laid, reads=reads), data) in ("input-unreadable", "internal"), how

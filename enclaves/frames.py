"""Frames on the pipe between host and enclave: 4-byte big-endian length, then bytes. Both ends bound the length."""

from __future__ import annotations

from typing import IO

from policies.errors import Malformed

MAX_FRAME = 64 << 20


def write_frame(stream: IO[bytes], data: bytes) -> None:
    """Write one frame. Raises OSError when the other end is gone."""
    stream.write(len(data).to_bytes(4, "big") + data)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes:
    """Return the next frame. Raises EOFError at the end of the stream, Malformed for a frame above `MAX_FRAME`."""
    length = int.from_bytes(_exactly(stream, 4), "big")
    if length > MAX_FRAME:
        raise Malformed("the frame is too large")
    return _exactly(stream, length)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError
    return data

"""Frames between host and enclave: 4-byte big-endian length, then bytes. Both ends bound the length.

Input travels over a socket, so that open files can come with it; output over a pipe, which carries bytes and nothing else.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence
from typing import IO

from policies.errors import Malformed

MAX_FRAME = 64 << 20
MAX_FILES = 64
"""Most open files that come with one frame."""


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


def send_frame(channel: socket.socket, data: bytes, files: Sequence[int] = ()) -> None:
    """Send one frame and, with it, open files. Raises OSError when the other end is gone, Malformed for more than `MAX_FILES`."""
    if len(files) > MAX_FILES:
        raise Malformed("too many files")
    header = len(data).to_bytes(4, "big")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    sent = channel.sendmsg([header], rights, socket.MSG_NOSIGNAL)
    channel.sendall(header[sent:] + data, socket.MSG_NOSIGNAL)


def receive_frame(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Return the next frame and the files that came with it, which the caller closes. Raises like `read_frame`."""
    room = socket.CMSG_SPACE(MAX_FILES * array.array("i").itemsize)
    header, ancillary, flags, _ = channel.recvmsg(4, room, socket.MSG_CMSG_CLOEXEC)
    files = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(content[: len(content) - len(content) % files.itemsize])
    if flags & socket.MSG_CTRUNC:
        raise Malformed("too many files")
    header += _received(channel, 4 - len(header)) if header else b""
    if len(header) != 4:
        raise EOFError
    length = int.from_bytes(header, "big")
    if length > MAX_FRAME:
        raise Malformed("the frame is too large")
    return _received(channel, length), list(files)


def _received(channel: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = channel.recv(min(count - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError
    return data

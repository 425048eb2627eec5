"""A TCP proxy that loses one message: `lost` before it reaches the server, `applied` after the server answered, before the answer arrives.

A turn is what a client sends until the server says something. Real sockets, real resets; everything before and after the cut passes.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

How = Literal["lost", "applied", "half-answer"]
PAIR: tuple[How, How] = ("lost", "applied")
ABORT = struct.pack("ii", 1, 0)


@dataclass
class Proxy:
    """Passes connections on to a server.

    Attributes:
        turns: the beginning of what each turn sent, since `watch` or `cut`.
        fired: the turn that was cut, if it came.
    """

    target: tuple[str, int]
    port: int = 0
    turns: list[bytes] = field(default_factory=list)
    fired: bytes | None = None
    down: bool = False
    _wanted: Callable[[bytes], bool] = lambda data: False
    _nth: int = 0
    _how: How = "lost"
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _listener: socket.socket | None = None
    _open: set[socket.socket] = field(default_factory=set)

    def watch(self) -> None:
        """Cut nothing; note the turns from here on."""
        with self._lock:
            self.turns, self.fired, self._wanted = [], None, lambda data: False

    def cut(self, how: How, wanted: Callable[[bytes], bool] = lambda data: True, nth: int = 0) -> None:
        """Cut the `nth` turn (from 0) of those whose beginning is `wanted`."""
        with self._lock:
            self.turns, self.fired, self._wanted, self._nth, self._how = [], None, wanted, nth, how

    def start(self) -> None:
        """Listen on a free loopback port."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Close everything."""
        if self._listener is not None:
            self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Reset all open connections."""
        for end in list(self._open):
            _reset(end)

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self.down:
            _reset(client)
            return
        server = socket.create_connection(self.target)
        pair = {client, server}
        self._open |= pair
        try:
            self._pass(client, server)
        except OSError:
            pass  # one end reset it
        finally:
            self._open -= pair
            for end in pair:
                _reset(end)

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        """Pass bytes on in both directions until an end closes or the turn comes that is cut."""
        cutting: How | None = None
        new_turn = True
        with selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ)
            ready.register(server, selectors.EVENT_READ)
            while True:
                # The server first: what it said belongs to the turn before.
                for key, _ in sorted(ready.select(), key=lambda found: found[0].fileobj is client):
                    end = key.fileobj
                    assert isinstance(end, socket.socket)
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    if end is client:
                        if new_turn:
                            cutting, new_turn = self._begin(data), False
                        if cutting == "lost":
                            return
                        server.sendall(data)
                        continue
                    new_turn = True
                    if cutting == "half-answer":
                        client.sendall(data[: len(data) // 2])
                        # A reset would take back what the client has not read yet.
                        client.shutdown(socket.SHUT_RDWR)
                    if cutting is not None:
                        return
                    client.sendall(data)

    def _begin(self, data: bytes) -> How | None:
        with self._lock:
            self.turns.append(data[:4000])
            if self.fired is not None or not self._wanted(data):
                return None
            if self._nth:
                self._nth -= 1
                return None
            self.fired = data
            return self._how


@contextmanager
def proxied(host: str, port: int) -> Iterator[Proxy]:
    """A proxy before a server, while the context lasts."""
    proxy = Proxy(target=(host, port))
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


def _reset(end: socket.socket) -> None:
    """Close with a reset, as a cable that is pulled would look sooner or later."""
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        end.close()
    except OSError:
        pass

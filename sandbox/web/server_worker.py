"""The web server's worker process, with a bound on how slowly a client may send.

gunicorn's threads read without one: as many connections as there are threads, each with half a request, would stop the service.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

HEAD_S = 15.0
"""A request's head must be there so long after its first byte."""

BODY_S = 60.0
"""So long after its head, a request's body must be there; what comes later is not read."""

UPLOAD_S = 3600.0
"""The same for an encrypted file."""

STALL_S = 30
"""A client that sends nothing, or takes nothing of its answer, for so long is gone."""

_UPLOADS = "/uploads"


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker; its main loop ends what takes too long."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._until: dict[Any, float] = {}

    def handle(self, connection: Any) -> Any:
        """Read and answer one request."""
        # In the kernel, since gunicorn resets the timeouts of Python's sockets.
        stall = struct.pack("ll", STALL_S, 0)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connection.sock.setsockopt(socket.SOL_SOCKET, option, stall)
        if connection.initialized or connection.data_ready:
            self._until[connection] = time.monotonic() + HEAD_S
        else:
            # It waits up to 5 s for the first byte without holding a thread for longer.
            self._until[connection] = time.monotonic() + HEAD_S + 5.0
        try:
            return super().handle(connection)
        finally:
            self._until.pop(connection, None)

    def handle_request(self, request: Any, connection: Any) -> Any:
        """Answer a request whose head is there."""
        self._until[connection] = time.monotonic() + (UPLOAD_S if request.path.endswith(_UPLOADS) else BODY_S)
        return super().handle_request(request, connection)

    def murder_pending(self) -> None:
        """Called by the main loop about once a second: let no thread wait for more of a request that is late."""
        super().murder_pending()
        now = time.monotonic()
        for connection, until in list(self._until.items()):
            if now > until:
                self._until.pop(connection, None)
                try:
                    connection.sock.shutdown(socket.SHUT_RD)
                except OSError:
                    pass  # it is gone already

"""The web server's worker process, with a bound on how slowly a client may send.

gunicorn's threads read without one: as many connections as there are threads, each with half a request, would stop the service.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

from sandbox.web.server import AnsweringWorker

_UPLOADS = "/uploads"


class Worker(AnsweringWorker):
    """gunicorn's threaded worker; its main loop ends what takes too long.

    Attributes:
        head_s: a request's head must be there so long after its first byte.
        body_s: so long after its head, a request's body must be there; what comes later is not read.
        upload_s: the same for an encrypted file.
        stall_s: a client that sends nothing, or takes nothing of its answer, for so long is gone.
    """

    head_s = 15.0
    body_s = 60.0
    upload_s = 3600.0
    stall_s = 30

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._until: dict[Any, float] = {}

    def handle(self, connection: Any) -> Any:
        """Read and answer one request."""
        # In the kernel, since gunicorn resets the timeouts of Python's sockets.
        stall = struct.pack("ll", self.stall_s, 0)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connection.sock.setsockopt(socket.SOL_SOCKET, option, stall)
        if connection.initialized or connection.data_ready:
            self._until[connection] = time.monotonic() + self.head_s
        else:
            # It waits up to 5 s for the first byte without holding a thread for longer.
            self._until[connection] = time.monotonic() + self.head_s + 5.0
        try:
            return super().handle(connection)
        finally:
            self._until.pop(connection, None)

    def handle_request(self, request: Any, connection: Any) -> Any:
        """Answer a request whose head is there."""
        self._until[connection] = time.monotonic() + (self.upload_s if request.path.endswith(_UPLOADS) else self.body_s)
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

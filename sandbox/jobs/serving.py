"""`sandbox enclave serve`: enclaves for the workers of another operator, over mutually authenticated TLS.

Every connection gets one enclave, which ends with it. Files that come are kept without a name until then. What workers send and get is
sealed; what they could learn beyond it is what a host can observe anyway, and less: the enclave's memory is not on their machine.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from enclaves.kit.frames import read_frame, write_frame
from policies.canonical import canonical
from policies.codec import decode, encode
from policies.errors import Malformed, SandboxError
from sandbox.jobs.isolation import Isolation
from sandbox.jobs.launch import EnclaveDied, EnclaveOutOfMemory, EnclaveProcess
from sandbox.jobs.remote import CHUNK, Died, Go, Hello, SentFile, Start, parsed

HANDSHAKE_S = 10.0
START_S = 60.0
WATCH_S = 0.2
HANDSHAKES = 64
"""Most connections that have not shown a certificate yet."""

RECEIVE_S = 60.0
"""How long a worker may pause while it sends files."""

_log = logging.getLogger("sandbox.enclave")


def server_context(cert: Path, key: Path, clients: Path) -> ssl.SSLContext:
    """TLS 1.3 that asks for a certificate of one of `clients`. Raises Malformed for files that cannot be used."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(cert, key)
        context.load_verify_locations(cafile=str(clients))
        context.verify_mode = ssl.CERT_REQUIRED
    except (ssl.SSLError, OSError) as error:
        raise Malformed("the certificates cannot be used: PEM files of a chain, its key, and the workers' certificates") from error
    return context


@dataclass(kw_only=True)
class EnclaveServer:
    """Takes connections until it is closed.

    Attributes:
        most: connections at a time; each holds an enclave and its memory.
        most_bytes: of all files of one run.
        run_timeout_s: how long an enclave may compute.
    """

    listening: socket.socket
    context: ssl.SSLContext
    isolation: Isolation
    most: int = 4
    most_bytes: int = 64 << 30
    run_timeout_s: float = 600.0
    stopping: Callable[[], bool] = lambda: False
    _places: threading.Semaphore = field(init=False)
    _handshakes: threading.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._places, self._handshakes = threading.Semaphore(self.most), threading.Semaphore(HANDSHAKES)

    def serve(self) -> None:
        """Take connections until `stopping`; a thread for each, which starts and ends its enclave."""
        self.listening.settimeout(0.2)
        while not self.stopping():
            try:
                plain, address = self.listening.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            if not self._handshakes.acquire(blocking=False):
                plain.close()
                continue
            threading.Thread(target=self._connection, args=(plain, str(address[0])), daemon=True).start()

    def _connection(self, plain: socket.socket, address: str) -> None:
        try:
            with plain, self._shaken(plain) as channel:
                if not self._places.acquire(blocking=False):
                    _log.warning("refused %s: %d enclaves run", _subject(channel), self.most)
                    return
                try:
                    _log.info("enclave for %s", _subject(channel))
                    self._one_run(channel)
                finally:
                    self._places.release()
        except (OSError, EOFError, ValueError, SandboxError, EnclaveDied) as error:
            _log.warning("%s: %s", address, type(error).__name__)

    def _shaken(self, plain: socket.socket) -> ssl.SSLSocket:
        """The connection once its worker has shown a certificate. Raises OSError."""
        try:
            plain.settimeout(HANDSHAKE_S)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self.context.wrap_socket(plain, server_side=True)
        finally:
            self._handshakes.release()

    def _one_run(self, channel: ssl.SSLSocket) -> None:
        stream = cast(IO[bytes], channel.makefile("rwb"))
        channel.settimeout(None)  # an enclave is kept ready for as long as the worker likes
        write_frame(stream, canonical(encode(Hello(isolation=self.isolation.layers))))
        with ExitStack() as held, EnclaveProcess(self.isolation) as enclave:
            try:
                start = decode(Start, parsed(read_frame(stream)))
                evidence = enclave.start(start.grant, start.agreement, list(start.nonces), START_S)
                write_frame(stream, canonical(encode(evidence)))
                go = decode(Go, parsed(read_frame(stream)))
                channel.settimeout(RECEIVE_S)
                files = {sent.dataset: self._receive(stream, sent, held) for sent in self._within(go.files)}
                with _no_longer_than(channel, enclave):
                    statement, sealed = enclave.run(go.keys, files, self.run_timeout_s)
            except EnclaveDied as death:
                # The worker's operator may not be this one's: of what it died, the worker is not told.
                why = "out of memory" if isinstance(death, EnclaveOutOfMemory) else "it died, or took too long"
                _log.warning("an enclave ended without a word: %s; memory %s MiB at most", why, enclave.peak_mib or "unknown")
                write_frame(stream, canonical(encode(Died(code="enclave-died"))))
            except SandboxError:
                write_frame(stream, canonical(encode(Died(code="refused"))))
            else:
                write_frame(stream, canonical(encode(statement)))
                write_frame(stream, sealed)

    def _within(self, files: tuple[SentFile, ...]) -> tuple[SentFile, ...]:
        """The files, if they are few and small enough together. Raises Malformed."""
        if len({sent.dataset for sent in files}) != len(files) or sum(sent.size for sent in files) > self.most_bytes:
            raise Malformed("a dataset twice, or too many bytes")
        return files

    def _receive(self, stream: IO[bytes], sent: SentFile, held: ExitStack) -> Path:
        """Keep an encrypted file without a name, gone with this connection; return a path to it."""
        file = held.enter_context(tempfile.TemporaryFile(prefix="enclave-file-"))  # noqa: SIM115 - until the connection ends
        left = sent.size
        while left:
            chunk = read_frame(stream)
            if not 0 < len(chunk) <= min(left, CHUNK):
                raise Malformed("a chunk of another size than was said")
            file.write(chunk)
            left -= len(chunk)
        file.flush()
        return Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")


def _subject(channel: ssl.SSLSocket) -> str:
    """The common name of the worker's certificate, for the log."""
    subject: Any = (channel.getpeercert() or {}).get("subject", ())
    names = [value for part in subject for name, value in part if name == "commonName"]
    return str(names[0])[:80] if names else "a worker"


@contextmanager
def _no_longer_than(channel: ssl.SSLSocket, enclave: EnclaveProcess) -> Iterator[None]:
    """End the enclave as soon as its worker's connection ends, though nobody reads from it: a worker has nothing to say here."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_S):
            if select.select([channel], [], [], 0)[0]:
                enclave.kill()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

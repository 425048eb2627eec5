"""Enclaves on another machine, a provider's or a neutral party's: the worker's end of `sandbox enclave serve`.

One mutually authenticated TLS 1.3 connection is one enclave and one run. It carries frames: what `EnclaveProcess` is given and answers, and
the encrypted files. The worker sees ciphertext only: keys come sealed to the enclave, the release leaves it sealed to its recipient.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, TypeVar, cast

from enclaves.kit.frames import read_frame, write_frame
from policies.canonical import canonical, parse_json
from policies.codec import decode, encode
from policies.errors import Malformed, SandboxError
from policies.grant import Grant
from policies.granted import MAX_RELEASE
from policies.isolation import Layer
from policies.names import require_dataset
from policies.statement import Nonce, SignedEvidence, SignedStatement
from sandbox.config import Config
from sandbox.jobs.launch import Enclave, EnclaveDied, EnclaveOutOfMemory

T = TypeVar("T")

CONNECT_S = 10.0
CHUNK = 1 << 20
MAX_MESSAGE = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """What an enclave server says first: the layers between its enclaves and its machine."""

    kind: Literal["enclave-server/1"] = "enclave-server/1"
    isolation: tuple[Layer, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """The first message to a remote enclave; grant and agreement as documents, which the enclave itself parses."""

    kind: Literal["start/1"] = "start/1"
    grant: Grant
    agreement: dict[str, Any]
    nonces: tuple[Nonce, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SentFile:
    """An encrypted file that follows, in frames of at most `CHUNK` bytes."""

    dataset: str
    size: int

    def __post_init__(self) -> None:
        require_dataset(self.dataset, "dataset")
        if self.size < 0:
            raise Malformed("must not be negative", where="size")


@dataclass(frozen=True, kw_only=True, slots=True)
class Go:
    """The second message: the sealed keys by provider, and which files follow."""

    kind: Literal["go/1"] = "go/1"
    keys: dict[str, str]
    files: tuple[SentFile, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Died:
    """The answer where the enclave ended without one, or the server takes no such message."""

    kind: Literal["died/1"] = "died/1"
    code: Literal["enclave-died", "out-of-memory", "refused"]


def client_context(config: Config) -> ssl.SSLContext:
    """TLS 1.3 with the worker's certificate, trusting the enclave server's alone. Raises OSError for a file that cannot be read."""
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(config.enclave_ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(config.enclave_cert, config.enclave_key)
    except ssl.SSLError as error:
        raise OSError("the certificates of enclave_ca, enclave_cert and enclave_key cannot be used") from error
    return context


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port. Raises Malformed."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdigit() and 0 <= int(port) < 65536):
        raise Malformed(f"`{text[:80]}` is no host:port", where="enclave_address")
    return host.strip("[]"), int(port)


class RemoteEnclave:
    """One enclave of an enclave server, for one run.

    Raises:
        OSError: no connection, or a server that is not the trusted one or does not trust this worker.
    """

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        plain = socket.create_connection(address, CONNECT_S)
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._channel = context.wrap_socket(plain, server_hostname=address[0])
        except BaseException:
            plain.close()
            raise
        self._stream = cast(IO[bytes], self._channel.makefile("rwb"))
        try:
            self.isolation = self._answer(Hello, CONNECT_S).isolation
        except EnclaveDied as error:
            self.close()
            raise OSError("the enclave server said nothing; does it know this worker's certificate?") from error

    def __enter__(self) -> RemoteEnclave:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and with it the enclave."""
        for end in (self._stream, self._channel):
            try:
                end.close()
            except (OSError, ValueError):
                pass  # the other end is gone, which is what closing is for

    @property
    def alive(self) -> bool:
        """Whether the connection stands: until it is spoken to, the server says nothing."""
        try:
            return not select.select([self._channel], [], [], 0)[0]
        except (OSError, ValueError):
            return False

    @property
    def peak_mib(self) -> int | None:
        """Nothing: its memory is for its own operator to know."""
        return None

    def start(self, grant: Grant, agreement_document: Mapping[str, Any], nonces: list[Nonce], timeout: float) -> SignedEvidence:
        """Give the enclave its grant and challenges and return its evidence. Raises EnclaveDied."""
        self._send(Start(grant=grant, agreement=dict(agreement_document), nonces=tuple(nonces)))
        return self._answer(SignedEvidence, timeout)

    def run(self, sealed_keys: Mapping[str, str], files: Mapping[str, Path], timeout: float) -> tuple[SignedStatement, bytes]:
        """Send the sealed keys and the encrypted files; return the enclave's statement and the sealed release. Raises EnclaveDied."""
        try:
            sizes = {dataset: path.stat().st_size for dataset, path in files.items()}
            sent = tuple(SentFile(dataset=dataset, size=size) for dataset, size in sizes.items())
            self._channel.settimeout(timeout)
            self._send(Go(keys=dict(sealed_keys), files=sent))
            for dataset, path in files.items():
                self._send_file(path, sizes[dataset])
            self._stream.flush()
        except (OSError, ValueError) as error:
            raise EnclaveDied from error
        statement = self._answer(SignedStatement, timeout)
        sealed = self._frame(timeout)
        if len(sealed) > MAX_RELEASE:
            raise EnclaveDied
        return statement, sealed

    def _send_file(self, path: Path, size: int) -> None:
        with path.open("rb") as file:
            while size:
                chunk = file.read(min(size, CHUNK))
                if not chunk:
                    raise EnclaveDied  # it is shorter than it was
                size -= len(chunk)
                self._stream.write(len(chunk).to_bytes(4, "big") + chunk)

    def _send(self, message: Start | Go) -> None:
        try:
            write_frame(self._stream, canonical(encode(message)))
        except (OSError, ValueError) as error:
            raise EnclaveDied from error

    def _answer(self, kind: type[T], timeout: float) -> T:
        found = parsed(self._frame(timeout))
        if isinstance(found, dict) and found.get("kind") == "died/1":
            raise EnclaveOutOfMemory if found.get("code") == "out-of-memory" else EnclaveDied
        try:
            return decode(kind, found)
        except SandboxError as error:
            raise EnclaveDied from error

    def _frame(self, timeout: float) -> bytes:
        try:
            self._channel.settimeout(timeout)
            return read_frame(self._stream)
        except (OSError, EOFError, ValueError, Malformed) as error:
            raise EnclaveDied from error


def parsed(frame: bytes) -> Any:
    """The JSON of a frame. Raises EnclaveDied."""
    try:
        return parse_json(frame, limit=MAX_MESSAGE)
    except SandboxError as error:
        raise EnclaveDied from error


@dataclass(kw_only=True)
class RemoteEnclaves:
    """Enclaves of the enclave server that the settings name."""

    config: Config
    _layers: tuple[Layer, ...] | None = field(default=None, init=False)

    def launch(self) -> Enclave:
        """A new one. Raises OSError, Malformed."""
        enclave = RemoteEnclave(parse_address(self.config.enclave_address), client_context(self.config))
        self._layers = enclave.isolation
        return enclave

    def layers(self) -> tuple[Layer, ...]:
        """What isolates each of them, as their server says. Raises OSError where it cannot be asked."""
        if self._layers is None:
            self.launch().close()
        return self._layers or ()

    def tidy(self) -> None:
        """Nothing of theirs is on this machine."""

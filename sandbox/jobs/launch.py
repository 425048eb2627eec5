"""Starting an enclave process and speaking frames with it. The child gets no environment, no descriptors and a folder of its own."""

from __future__ import annotations

import fcntl
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from enclaves.frames import read_frame, write_frame
from enclaves.kit.measure import checkout_root
from policies.canonical import canonical, parse_json
from policies.codec import decode, encode
from policies.errors import Malformed, SandboxError, Tampered
from policies.grant import Grant
from policies.granted import MAX_RELEASE
from policies.statement import Nonce, SignedEvidence, SignedStatement

T = TypeVar("T")

_START = "import sys; sys.path.insert(0, {root!r}); from enclaves.main import main; main()"


_PREFIX = "enclave-"


class EnclaveDied(Exception):
    """The enclave process ended, ran out of time or said something that is no frame of the protocol."""


class EnclaveProcess:
    """One enclave for one run; a context manager that never leaves a process behind.

    The child runs `python -I` with an empty environment in an empty temporary folder, in its own session, with standard error closed. It
    limits itself before it reads anything (enclaves/main.py) and dies with this process.
    """

    def __init__(self) -> None:
        self._folder, self._held = _own_folder()
        try:
            self._process = self._start()
        except BaseException:
            _remove(self._folder, self._held)
            raise
        self._frames: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._collect, daemon=True).start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _START.format(root=str(checkout_root()))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            env={},
            close_fds=True,
            start_new_session=True,
        )

    def __enter__(self) -> EnclaveProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process and remove its folder."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass  # the other end is gone, which is what closing is for
        _remove(self._folder, self._held)

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the enclave."""
        return self._process.pid

    def start(self, grant: Grant, agreement_document: Mapping[str, Any], nonces: list[Nonce], timeout: float) -> SignedEvidence:
        """Give the enclave its grant and challenges and return its evidence. Raises EnclaveDied."""
        self._receive(timeout)
        self._send({"grant": encode(grant), "agreement": dict(agreement_document), "nonces": encode(nonces)})
        return _typed(SignedEvidence, self._receive(timeout))

    def run(self, sealed_keys: Mapping[str, str], files: Mapping[str, Path], timeout: float) -> tuple[SignedStatement, bytes]:
        """Give the enclave the sealed keys (hex by provider) and encrypted files; return its statement and the sealed release.

        Raises:
            EnclaveDied: no answer in time, or one that is too large.
        """
        self._send({"keys": dict(sealed_keys), "files": {dataset: str(path) for dataset, path in files.items()}})
        statement = _typed(SignedStatement, self._receive(timeout))
        sealed = self._receive(timeout)
        if len(sealed) > MAX_RELEASE:
            raise EnclaveDied
        return statement, sealed

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            write_frame(self._process.stdin, canonical(message))
        except OSError as error:
            raise EnclaveDied from error

    def _receive(self, timeout: float) -> bytes:
        try:
            frame = self._frames.get(timeout=timeout)
        except queue.Empty as error:
            raise EnclaveDied from error
        if frame is None:
            raise EnclaveDied
        return frame

    def _collect(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                self._frames.put(read_frame(self._process.stdout))
        except (EOFError, OSError, ValueError, Malformed, Tampered):
            self._frames.put(None)


def remove_leftovers(folder: Path | None = None) -> int:
    """Remove the empty folders that enclaves of killed workers left in the folder for temporary files. Returns how many.

    Whoever starts an enclave holds a lock on its folder, which ends with its process however that ends.
    """
    removed = 0
    for path in (folder or Path(tempfile.gettempdir())).glob(f"{_PREFIX}*"):
        try:
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # gone meanwhile, or somebody else's
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.rmdir()
            removed += 1
        except OSError:
            pass  # an enclave is in it, or it is not an enclave's: an enclave writes nothing
        finally:
            os.close(held)
    return removed


def _own_folder() -> tuple[str, int]:
    """A new empty folder and the descriptor whose lock says that it is in use. Raises OSError."""
    while True:
        path = tempfile.mkdtemp(prefix=_PREFIX)
        try:
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # removed as a leftover before it was locked
        fcntl.flock(held, fcntl.LOCK_EX)
        if os.path.isdir(path):
            return path, held
        os.close(held)


def _remove(path: str, held: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(held)


def _typed(kind: type[T], frame: bytes) -> T:
    try:
        return decode(kind, parse_json(frame, limit=16 << 20))
    except SandboxError as error:
        raise EnclaveDied from error

"""Starting an enclave process and speaking frames with it: input over a socket, with open files; output over a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from enclaves.attesters import find_attester
from enclaves.kit.frames import read_frame, send_frame
from enclaves.kit.jail import START, Uid
from enclaves.kit.measure import checkout_root
from policies.attestation import EnclaveKind
from policies.canonical import canonical, parse_json
from policies.codec import decode, encode
from policies.errors import Malformed, SandboxError, Tampered
from policies.grant import Grant
from policies.granted import MAX_RELEASE
from policies.isolation import Layer
from policies.statement import Nonce, SignedEvidence, SignedStatement
from sandbox.config import Config
from sandbox.jobs.cgroups import Group, remove_groups
from sandbox.jobs.isolation import THREADS, Isolation, default_isolation, isolation_of

T = TypeVar("T")

_PREFIX = "enclave-"
_JOIN = 'set -e; until [ "$1" = -- ]; do echo 0 > "$1"; shift; done; shift; exec "$@"'
"""A shell that joins the control groups named before `--` and becomes the command after it."""

END_S = 10.0
"""How long a killed enclave may take to go."""


class EnclaveDied(Exception):
    """The enclave process ended, ran out of time or said something that is no frame of the protocol."""


class EnclaveOutOfMemory(EnclaveDied):
    """The enclave process was ended because it wanted more memory than its control group may use."""


class Enclave(Protocol):
    """One enclave for one run, wherever it is; a context manager that ends it."""

    def start(self, grant: Grant, agreement_document: Mapping[str, Any], nonces: list[Nonce], timeout: float) -> SignedEvidence:
        """Give the enclave its grant and challenges and return its evidence. Raises EnclaveDied."""

    def run(self, sealed_keys: Mapping[str, str], files: Mapping[str, Path], timeout: float) -> tuple[SignedStatement, bytes]:
        """Give the enclave sealed keys and encrypted files; return its statement and the sealed release. Raises EnclaveDied."""

    def close(self) -> None:
        """End it."""

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""

    @property
    def peak_mib(self) -> int | None:
        """The most memory that it used, as this machine measures it; None where it does not, or the enclave is elsewhere."""

    def __enter__(self) -> Enclave: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class EnclaveProcess:
    """One enclave for one run; a context manager that never leaves a process behind.

    The child runs `python -I` with an empty environment between the layers of `isolation`, in its own session, with standard error closed.
    It confines itself before it reads anything (enclaves/main.py) and dies with the thread that started it.

    Args:
        isolation: how this machine starts enclaves; by default, with default settings.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, isolation: Isolation | None = None) -> None:
        self.isolation = isolation or default_isolation()
        self.stated: tuple[Layer, ...] = ()
        self._group: Group | None = None
        self._info: int | None = None
        with ExitStack() as undo:
            self._folder, held = _own_folder()
            undo.callback(_remove, self._folder, held)
            uid = Uid(self.isolation.first_uid) if self.isolation.jail == "uid" else None
            if uid is not None:
                undo.callback(uid.close)
            self._group = self._own_group(undo)
            self._input, theirs = socket.socketpair()
            self._input.shutdown(socket.SHUT_RD)  # what leaves, leaves by the pipe
            undo.callback(self._input.close)
            with theirs:
                self._process = self._start(theirs, uid.number if uid else 0)
            self._undo = undo.pop_all()
        self._frames: queue.Queue[bytes | None] = queue.Queue()
        self._collecting = threading.Thread(target=self._collect, daemon=True)
        self._collecting.start()

    def _own_group(self, undo: ExitStack) -> Group | None:
        """A fresh control group, removed at the end; its limits are what may be stated of it."""
        if self.isolation.hierarchy is None:
            return None
        group = Group(hierarchy=self.isolation.hierarchy, name=Path(self._folder).name)
        undo.callback(group.remove)
        self.stated = group.make(memory_mib=self.isolation.memory_mib, pids=THREADS)
        return group

    def _start(self, theirs: socket.socket, uid: int) -> subprocess.Popen[bytes]:
        doors = self._group.doors if self._group else ()
        code = START.format(root=str(checkout_root()), call=f"main({self.isolation.memory_mib})")
        told, tell = os.pipe()
        try:
            command = self.isolation.command(code, uid, tell)
            started: subprocess.Popen[bytes] = subprocess.Popen(
                ["/bin/sh", "-c", _JOIN, "sh", *doors, "--", *command] if doors else command,
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self._folder,
                env={},
                close_fds=True,
                pass_fds=() if self.isolation.jail == "none" else (tell,),
                start_new_session=True,
            )
        except BaseException:
            os.close(told)
            raise
        finally:
            os.close(tell)
        self._info = told
        return started

    def __enter__(self) -> EnclaveProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def kill(self) -> None:
        """End the process."""
        # bubblewrap's first process, killed while it makes the namespaces, would leave the second waiting for it: end the whole group.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._group is not None:
            self._group.kill()

    def close(self) -> None:
        """End the process and remove what was its own."""
        self.kill()
        self._input.close()
        self._process.wait()
        self._collecting.join(END_S)  # until then something of it lives and has the pipe
        if self._process.stdout is not None and not self._collecting.is_alive():
            self._process.stdout.close()
        if self._info is not None:
            os.close(self._info)
            self._info = None
        self._undo.close()

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    @property
    def peak_mib(self) -> int | None:
        """The most memory that it used, as its control group measures it; None without one."""
        return None if self._group is None else self._group.peak_mib()

    @property
    def pid(self) -> int:
        """Process id of the enclave itself, which within bubblewrap is not the one that was started. Raises EnclaveDied."""
        if self.isolation.jail == "none":
            return self._process.pid
        if self._info is not None:
            with os.fdopen(self._info) as told:
                self._info = None
                text = told.read()
            try:
                self._first = int(json.loads(text)["child-pid"])
            except (ValueError, KeyError) as error:
                raise EnclaveDied from error
        return _only_child(self._first)

    def start(self, grant: Grant, agreement_document: Mapping[str, Any], nonces: list[Nonce], timeout: float) -> SignedEvidence:
        """Give the enclave its grant and challenges and return its evidence. Raises EnclaveDied."""
        self._receive(timeout)
        start = {"grant": encode(grant), "agreement": dict(agreement_document), "nonces": encode(nonces)}
        self._send(start | {"cgroup": list(self.stated)})
        said = self._receive(timeout)
        if grant.enclave_kind != "simulated":
            self._send({"endorsed": _endorsed(said, grant.enclave_kind)})
            said = self._receive(timeout)
        return _typed(SignedEvidence, said)

    def run(self, sealed_keys: Mapping[str, str], files: Mapping[str, Path], timeout: float) -> tuple[SignedStatement, bytes]:
        """Give the enclave the sealed keys (hex by provider) and encrypted files; return its statement and the sealed release.

        Raises:
            EnclaveDied: no answer in time, or one that is too large, or a file that is missing.
        """
        with ExitStack() as opened:
            try:
                held = [opened.enter_context(path.open("rb")).fileno() for path in files.values()]
            except OSError as error:
                raise EnclaveDied from error
            self._send({"keys": dict(sealed_keys), "files": list(files)}, held)
        statement = _typed(SignedStatement, self._receive(timeout))
        sealed = self._receive(timeout)
        if len(sealed) > MAX_RELEASE:
            raise EnclaveDied
        return statement, sealed

    def _send(self, message: dict[str, Any], files: list[int] | None = None) -> None:
        try:
            send_frame(self._input, canonical(message), files or [])
        except OSError as error:
            raise self._death() from error

    def _death(self) -> EnclaveDied:
        return EnclaveOutOfMemory() if self._group is not None and self._group.ran_out_of_memory() else EnclaveDied()

    def _receive(self, timeout: float) -> bytes:
        try:
            frame = self._frames.get(timeout=timeout)
        except queue.Empty as error:
            raise EnclaveDied from error
        if frame is None:
            raise self._death()
        return frame

    def _collect(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                self._frames.put(read_frame(self._process.stdout))
        except (EOFError, OSError, ValueError, Malformed, Tampered):
            self._frames.put(None)


def _endorsed(said: bytes, kind: EnclaveKind) -> Any:
    """What this machine's TEE says of the bytes that an enclave asks for; None where it is no such TEE. Raises EnclaveDied."""
    try:
        bound = bytes.fromhex(parse_json(said, limit=1 << 12)["bound"])
    except (SandboxError, ValueError, KeyError, TypeError) as error:
        raise EnclaveDied from error
    try:
        return encode(find_attester(kind).endorse(bound))
    except OSError:
        return None


def _only_child(first: int) -> int:
    """The process that the first one of a namespace started."""
    until = time.monotonic() + END_S
    while time.monotonic() < until:
        try:
            children = Path(f"/proc/{first}/task/{first}/children").read_text(encoding="ascii").split()
        except OSError as error:
            raise EnclaveDied from error
        if children:
            return int(children[0])
        time.sleep(0.001)
    raise EnclaveDied


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


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalEnclaves:
    """Enclaves on this machine, as its settings say."""

    config: Config

    def launch(self) -> Enclave:
        """A new one. Raises OSError."""
        return EnclaveProcess(isolation_of(self.config))

    def layers(self) -> tuple[Layer, ...]:
        """What isolates each of them. Raises OSError where none can be started."""
        return isolation_of(self.config).layers

    def tidy(self) -> None:
        """Remove what enclaves of killed workers left: folders, and control groups without a process."""
        remove_leftovers()
        hierarchy = isolation_of(self.config).hierarchy
        if hierarchy is not None:
            remove_groups(hierarchy, _PREFIX)


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

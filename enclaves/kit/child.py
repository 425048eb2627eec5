"""Asking a child process for a part of a joint total. Whatever the files do to it, the asker goes on.

What others sent is parsed between walls: bubblewrap, a filter of system calls, no network, no path of the machine. Files go in as open
descriptors over a socket that is closed for the child's sending; what comes out comes through one pipe.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from enclaves.kit.frames import read_frame, send_frame
from enclaves.kit.jail import FIRST_UID, Jail, Uid, command, strongest
from enclaves.kit.measure import checkout_root
from policies import errors
from policies.canonical import canonical, parse_json
from policies.errors import SandboxError, Tampered, Unavailable
from policies.isolation import Layer, in_order

TIMEOUT_S = 1800.0
LARGEST_ANSWER = 16 << 20
REST_S = 5.0
"""After an answer, before the next process is made ready."""

CHUNK = 1 << 20
PUBLIC, TOTAL, SECRET, REQUEST, TABLE = ".public", ".total", ".secret", ".request", ".table"
"""Names of files in questions; contributions go by their contributors' names, which have no point."""

Work = Literal["contribute", "add_up", "open", "score"]
"""What a child is started for: it loads what that needs and answers nothing else."""

_START = "import sys; sys.path.insert(0, {root!r}); from enclaves.joint_main import main; main({work!r})"


class Child:
    """A child process of `enclaves.joint_main` per question; the next one may be made ready ahead, with its libraries loaded.

    It has no environment, no descriptors but its pipe and its socket, and a session of its own; it dies with the thread that started it.

    It stands in the strongest jail that this machine has and confines its system calls.

    Args:
        work: the verb of every question that is asked of it.
        first_uid: where the uids begin of which each child takes one, if the asker is root; 0 for none.

    Attributes:
        layers: those which the child that was asked last found around itself.
    """

    def __init__(self, work: Work, *, first_uid: int = FIRST_UID) -> None:
        self._work = work
        self.layers: tuple[Layer, ...] = ()
        self._first_uid = first_uid
        self._ready: _Process | None = None
        self._rests_until = 0.0

    def ready(self) -> None:
        """Have a process waiting for the next question. Where none can be started, asking says so.

        Not right after an answer: others on the same machine may still be at work on the same job, and loading libraries takes a second.
        """
        if time.monotonic() < self._rests_until:
            return
        if self._ready is None or not self._ready.alive:
            self.close()
            try:
                self._ready = self._started()
            except OSError:
                self._ready = None

    def close(self) -> None:
        """End the process that waits."""
        waiting, self._ready = self._ready, None
        if waiting is not None:
            waiting.end()

    def ask(
        self,
        question: Mapping[str, Any],
        files: Mapping[str, Path] | None = None,
        output: Path | None = None,
        *,
        timeout: float = TIMEOUT_S,
    ) -> dict[str, Any]:
        """Return the answer to one question.

        Args:
            files: what the child reads, by the names that the question gives them.
            output: where the bytes go that the answer comes with; left unwritten where it comes with none.

        Raises:
            SandboxError: what the child answers as an error.
            Unavailable: code `child-died`, if it ends without an answer or takes longer than `timeout` seconds.
            OSError: a file cannot be read, or `output` not be written.
        """
        waiting, self._ready = self._ready, None
        with ExitStack() as held:
            opened = {name: held.enter_context(path.open("rb")) for name, path in (files or {}).items()}
            try:
                child = waiting or self._started()
            except OSError as error:
                raise Unavailable("the computation could not be started", code="child-died") from error
            held.callback(self._rest)
            held.callback(child.end)
            late = threading.Timer(timeout, child.kill)
            late.daemon = True
            held.callback(late.cancel)
            late.start()
            try:
                self.layers, found = child.asked(question, {name: file.fileno() for name, file in opened.items()})
            except (OSError, ValueError, EOFError, KeyError, TypeError, SandboxError) as error:
                raise Unavailable("the computation ended without an answer", code="child-died") from error
            if "error" in found:
                raise _told(found)
            if output is not None and "bytes" in found:
                with output.open("wb") as file:
                    child.copy(file, int(found["bytes"]))
            return found

    def _rest(self) -> None:
        self._rests_until = time.monotonic() + REST_S

    def _started(self) -> _Process:
        jail: Jail = strongest(self._first_uid)
        uid = Uid(self._first_uid) if jail == "uid" else None
        code = _START.format(root=str(checkout_root()), work=self._work)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = subprocess.Popen(
                    command(jail, code, uid.number if uid else 0),
                    stdin=theirs.fileno(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={},
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            if uid is not None:
                uid.close()
            raise
        ours.shutdown(socket.SHUT_RD)
        return _Process(process=process, input=ours, uid=uid)


@dataclass(frozen=True, kw_only=True)
class _Process:
    """A child that was started and what belongs to it alone."""

    process: subprocess.Popen[bytes]
    input: socket.socket
    uid: Uid | None

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def asked(self, question: Mapping[str, Any], files: Mapping[str, int]) -> tuple[tuple[Layer, ...], dict[str, Any]]:
        """Its layers and its answer. Raises OSError, EOFError, ValueError or SandboxError where it gives none."""
        assert self.process.stdout is not None
        layers = in_order(map(str, parse_json(read_frame(self.process.stdout), limit=LARGEST_ANSWER)["isolation"]))
        send_frame(self.input, canonical({**question, "files": list(files)}), list(files.values()))
        found = parse_json(read_frame(self.process.stdout), limit=LARGEST_ANSWER)
        if not isinstance(found, dict):
            raise ValueError("no answer")
        return layers, found

    def copy(self, file: IO[bytes], count: int) -> None:
        """Write the bytes that come behind the answer. Raises Unavailable if they are fewer."""
        assert self.process.stdout is not None
        while count > 0:
            chunk = self.process.stdout.read(min(count, CHUNK))
            if not chunk:
                raise Unavailable("the computation ended within its answer", code="child-died")
            file.write(chunk)
            count -= len(chunk)

    def kill(self) -> None:
        # bubblewrap's first process, killed while it makes the namespaces, would leave the second waiting for it: end the whole group.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        self.kill()
        self.process.wait()
        self.input.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self.uid is not None:
            self.uid.close()


def _told(found: Mapping[str, Any]) -> SandboxError:
    kind = getattr(errors, str(found["error"]), Tampered)
    known = kind if isinstance(kind, type) and issubclass(kind, SandboxError) else Tampered
    return known(str(found.get("message", "")), code=str(found.get("code", "")))

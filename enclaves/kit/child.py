"""Asking a child process for a part of a joint total. Whatever the files do to it, the asker goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from enclaves.kit.measure import checkout_root
from policies import errors
from policies.canonical import canonical, parse_json
from policies.errors import SandboxError, Tampered, Unavailable

TIMEOUT_S = 1800.0
LARGEST_ANSWER = 16 << 20

_START = "import sys; sys.path.insert(0, {root!r}); from enclaves.joint_main import main; main()"


class Child:
    """A child process of `enclaves.joint_main` per question; the next one may be made ready ahead, with its libraries loaded.

    It has no environment, no descriptors but its pipes, and a session of its own; it dies with the thread that started it.
    """

    def __init__(self) -> None:
        self._ready: subprocess.Popen[bytes] | None = None

    def ready(self) -> None:
        """Have a process waiting for the next question. Where none can be started, asking says so."""
        if self._ready is None or self._ready.poll() is not None:
            self.close()
            try:
                self._ready = _started()
            except OSError:
                self._ready = None

    def close(self) -> None:
        """End the process that waits."""
        waiting, self._ready = self._ready, None
        if waiting is not None:
            _end(waiting)

    def ask(self, question: Mapping[str, Any], *, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """Return the answer to one question.

        Raises:
            SandboxError: what the child answers as an error.
            Unavailable: code `child-died`, if it ends without an answer or takes longer than `timeout` seconds.
        """
        waiting, self._ready = self._ready, None
        try:
            child = waiting or _started()
        except OSError as error:
            raise Unavailable("the computation could not be started", code="child-died") from error
        try:
            out, _ = child.communicate(canonical(dict(question)), timeout=timeout)
            found = parse_json(out, limit=LARGEST_ANSWER) if child.returncode == 0 else None
        except (subprocess.SubprocessError, OSError, ValueError, SandboxError) as error:
            raise Unavailable("the computation ended without an answer", code="child-died") from error
        finally:
            _end(child)
        if not isinstance(found, dict):
            raise Unavailable("the computation ended without an answer", code="child-died")
        if "error" in found:
            kind = getattr(errors, str(found["error"]), Tampered)
            known = kind if isinstance(kind, type) and issubclass(kind, SandboxError) else Tampered
            raise known(str(found["message"]), code=str(found["code"]))
        return found


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-B", "-c", _START.format(root=str(checkout_root()))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        start_new_session=True,
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:
                pass  # the other end is gone, which is what closing is for

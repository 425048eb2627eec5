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


def ask(question: Mapping[str, Any], *, timeout: float = TIMEOUT_S) -> dict[str, Any]:
    """Return the answer of `enclaves.joint_main` to one question.

    The child has no environment, no descriptors but its pipes, and a session of its own; it dies with the thread that asks.

    Raises:
        SandboxError: what the child answers as an error.
        Unavailable: code `child-died`, if it ends without an answer or takes longer than `timeout` seconds.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-B", "-c", _START.format(root=str(checkout_root()))],
            input=canonical(dict(question)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            start_new_session=True,
            timeout=timeout,
            check=True,
        )
        found = parse_json(done.stdout, limit=LARGEST_ANSWER)
    except (subprocess.SubprocessError, OSError, SandboxError) as error:
        raise Unavailable("the computation ended without an answer", code="child-died") from error
    if not isinstance(found, dict):
        raise Unavailable("the computation ended without an answer", code="child-died")
    if "error" in found:
        kind = getattr(errors, str(found["error"]), Tampered)
        known = kind if isinstance(kind, type) and issubclass(kind, SandboxError) else Tampered
        raise known(str(found["message"]), code=str(found["code"]))
    return found

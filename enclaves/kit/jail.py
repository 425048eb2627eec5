"""How a process is started that parses what others sent: bubblewrap around it and, where the machine allows, a uid of its own.

What is missing on a machine is left out and never claimed: the process that is started looks at its walls from inside and names them
(`enclaves/confinement.py`).
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from enclaves.kit.measure import MEASURED, checkout_root
from policies.isolation import Layer, in_order

Jail = Literal["uid", "namespaces", "none"]
"""bubblewrap with a uid of each process's own, bubblewrap in a user namespace, or nothing."""

START = "import sys; sys.path.insert(0, {root!r}); from enclaves.main import *; {call}"
"""What an enclave's interpreter runs."""

FIRST_UID = 70_000
UIDS = 4096
"""How many uids from the first one on are those of jailed processes."""

PROBE_S = 30.0
TMP_BYTES = 1 << 20
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin")
_CACHE = "/etc/ld.so.cache"

_log = logging.getLogger("sandbox.isolation")


def candidates(first_uid: int) -> Iterable[Jail]:
    """The jails that this machine may have, the strongest first; `first_uid` 0 for none with a uid of its own."""
    if shutil.which("bwrap"):
        if os.geteuid() == 0 and first_uid and shutil.which("setpriv"):
            yield "uid"
        yield "namespaces"
    yield "none"


def probed(jail: Jail, first_uid: int, memory_mib: int) -> tuple[Layer, ...] | None:
    """The layers that an enclave started so finds around itself; None, and a warning in the log, where none starts."""
    code = START.format(root=str(checkout_root()), call=f"probe({memory_mib})")
    try:
        done = subprocess.run(
            command(jail, code, first_uid), stdin=subprocess.DEVNULL, capture_output=True, env={}, timeout=PROBE_S, check=True
        )
        measured, *layers = done.stdout.decode("ascii", "replace").split() or [""]
        if measured.startswith("sha256:"):
            return in_order(layers)
    except (OSError, subprocess.SubprocessError):
        pass
    _log.warning("enclaves cannot be started in the jail `%s`", jail)
    return None


@functools.cache
def strongest(first_uid: int = FIRST_UID) -> Jail:
    """The strongest jail in which this machine starts anything; looked for once per process."""
    return next((jail for jail in candidates(first_uid) if jail == "none" or probed(jail, first_uid, 1024) is not None), "none")


def command(jail: Jail, code: str, uid: int, info: int | None = None) -> list[str]:
    """The command that runs Python code in a jail; bubblewrap writes the first process's id to descriptor `info`."""
    python = [sys.executable, "-I", "-B", "-c", code]
    if jail == "none":
        return python
    told = [] if info is None else ["--info-fd", str(info)]
    return [*_bubblewrap(), *told, *_dropping(jail, uid), *python]


@functools.cache
def _bubblewrap() -> tuple[str, ...]:
    """bubblewrap's options but for the uid: every namespace of its own, the system and the measured code read-only, nothing else."""
    options = [str(shutil.which("bwrap")), "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    options += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "enclave"]
    options += ["--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp", "--proc", "/proc", "--dev", "/dev"]  # noqa: S108
    for place in _SYSTEM:
        if os.path.islink(place):
            options += ["--symlink", os.readlink(place), place]
        elif os.path.isdir(place):
            options += ["--ro-bind", place, place]
    if os.path.exists(_CACHE):
        options += ["--perms", "0755", "--dir", "/etc", "--ro-bind", _CACHE, _CACHE]
    made = {Path("/"), Path("/tmp")}  # noqa: S108
    for path in _python_folders():
        for parent in reversed(path.parents):
            if parent not in made and not parent.is_relative_to("/usr"):
                options += ["--perms", "0755", "--dir", str(parent)]  # those that bubblewrap makes itself only root may enter
            made.add(parent)
        options += ["--ro-bind", str(path), str(path)]
    return (*options, "--remount-ro", "/", "--chdir", "/")


def _python_folders() -> list[Path]:
    """Where the interpreter, its packages and the measured code lie, outside the system's own folders."""
    root = checkout_root()
    prefixes = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent.parent}
    outside = [path for path in prefixes if not path.is_relative_to("/usr")]
    return sorted(outside) + [root / name for name in (*MEASURED, "requirements.txt")]


def _dropping(jail: Jail, uid: int) -> list[str]:
    """From here on an unprivileged uid without capabilities."""
    if jail == "namespaces":
        return ["--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]
    kept = [word for name in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP") for word in ("--cap-add", name)]
    setpriv = [str(shutil.which("setpriv")), f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return ["--cap-drop", "ALL", *kept, *setpriv, "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]


class Uid:
    """A uid that no other jailed process on this machine has, until it is closed.

    It is held by a name in the kernel's abstract namespace of sockets, which ends with the process that holds it, however that ends.
    """

    def __init__(self, first: int) -> None:
        self._held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        for number in range(first, first + UIDS):
            try:
                self._held.bind(f"\0sandbox-enclave-uid-{number}")
            except OSError:
                continue
            self.number = number
            return
        self._held.close()
        raise OSError("all uids of enclaves are taken")

    def close(self) -> None:
        """Let others have it."""
        self._held.close()

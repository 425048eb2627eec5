"""How enclave processes are started on this machine: bubblewrap, a uid of their own and a control group, as far as the machine has them.

What is found at the first start is used for all. What is missing is said in the worker's log, in the evidence of every run, and to
agreements that require it; nothing is left out silently.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from enclaves.kit.measure import MEASURED, checkout_root
from policies.isolation import LAYERS, Layer, in_order
from sandbox.config import Config
from sandbox.jobs.cgroups import Hierarchy, find_hierarchy

Jail = Literal["uid", "namespaces", "none"]
"""bubblewrap with a uid of each enclave's own, bubblewrap in a user namespace, or nothing."""

PROBE_S = 30.0
THREADS = 64
"""Most threads of an enclave, and of what starts it."""

UIDS = 4096
"""How many uids from the first one on are the enclaves'."""

TMP_BYTES = 1 << 20
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin")
_CACHE = "/etc/ld.so.cache"

_log = logging.getLogger("sandbox.isolation")


@dataclass(frozen=True, kw_only=True, slots=True)
class Isolation:
    """How this machine starts enclaves.

    Attributes:
        layers: those between an enclave and this machine.
        memory_mib: memory of one enclave.
        first_uid: where the uids begin of which each enclave takes one.
    """

    jail: Jail
    hierarchy: Hierarchy | None
    layers: tuple[Layer, ...]
    memory_mib: int
    first_uid: int

    @property
    def missing(self) -> tuple[Layer, ...]:
        """The layers that this machine does not give."""
        return in_order(set(LAYERS) - set(self.layers))

    def command(self, code: str, uid: int, info: int | None = None) -> list[str]:
        """The command that runs Python code as an enclave; bubblewrap writes the first process's id to descriptor `info`."""
        python = [sys.executable, "-I", "-B", "-c", code]
        if self.jail == "none":
            return python
        told = [] if info is None else ["--info-fd", str(info)]
        return [*_bubblewrap(self.jail), *told, *_dropping(self.jail, uid), *python]


def isolation_of(config: Config) -> Isolation:
    """What this machine has, with the settings' memory and uids; found once per process."""
    return _find(config.enclave_memory_mib, config.enclave_first_uid, config.enclave_cgroup)


def default_isolation() -> Isolation:
    """As `isolation_of` with the default settings."""
    return isolation_of(Config())


@functools.cache
def _find(memory_mib: int, first_uid: int, cgroup: str) -> Isolation:
    hierarchy = find_hierarchy(cgroup)
    jails: list[Jail] = ["none"]
    if shutil.which("bwrap"):
        jails = ["uid", "namespaces", "none"] if os.geteuid() == 0 and first_uid and shutil.which("setpriv") else ["namespaces", "none"]
    for jail in jails:
        tried = Isolation(jail=jail, hierarchy=hierarchy, layers=(), memory_mib=memory_mib, first_uid=first_uid)
        layers = _probed(tried)
        if layers is not None:
            held = in_order({*layers, *(hierarchy.layers if hierarchy else ())})
            found = Isolation(jail=jail, hierarchy=hierarchy, layers=held, memory_mib=memory_mib, first_uid=first_uid)
            if found.missing:
                _log.warning("enclaves on this machine lack %s%s", ", ".join(found.missing), _advice())
            return found
        _log.warning("enclaves cannot be started in the jail `%s`", jail)
    raise OSError("no enclave can be started")


def _advice() -> str:
    return "" if shutil.which("bwrap") else "; install bubblewrap"


def _probed(tried: Isolation) -> tuple[Layer, ...] | None:
    """The layers that a process started so finds around itself; None where none starts."""
    code = START.format(root=str(checkout_root()), call=f"probe({tried.memory_mib})")
    try:
        done = subprocess.run(
            tried.command(code, tried.first_uid), stdin=subprocess.DEVNULL, capture_output=True, env={}, timeout=PROBE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    measured, *layers = done.stdout.decode("ascii", "replace").split() or [""]
    return in_order(layers) if measured.startswith("sha256:") else None


START = "import sys; sys.path.insert(0, {root!r}); from enclaves.main import *; {call}"
"""What an enclave's interpreter runs."""


@functools.cache
def _bubblewrap(jail: Jail) -> tuple[str, ...]:
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
    """A uid that no other enclave on this machine has, until it is closed.

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

"""What an enclave does to itself before it reads anything, and what it finds around itself: the layers of isolation of its evidence.

The launcher builds the walls; the enclave looks at each from inside and names only those that it finds. What it cannot see from inside,
the cgroup's limits, the launcher reads back and states.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from policies.isolation import Layer

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
ADDRESS_SPACE_MIB = 6144
"""Address space besides the memory that a run may use: libraries, stacks and arenas that are reserved and not used."""

CPU_SECONDS = 600
OPEN_FILES = 128
THREADS = 64
HOST_NAME = "enclave"
"""The launcher gives it to a uts namespace of its own."""

_KERNELS = ("/proc", "/dev")
"""Where the kernel shows itself; devices there keep nothing."""


def limit_self(memory_mib: int) -> None:
    """Die with the parent; no core dump, no file writes, bounded memory, time and descriptors; not readable by other processes."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for what, most in _limits(memory_mib):
        hard = resource.getrlimit(what)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))


def limit_threads() -> None:
    """Bound the threads and processes of this uid, which is this process's alone: several enclaves of one uid would share the bound."""
    resource.setrlimit(resource.RLIMIT_NPROC, (THREADS, THREADS))


def _limits(memory_mib: int) -> list[tuple[int, int]]:
    return [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_AS, (memory_mib + ADDRESS_SPACE_MIB) << 20),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ]


def layers_around(memory_mib: int) -> list[Layer]:
    """Return the layers that this process finds in force around itself; `syscalls` is for `confine_system_calls` to say. Never raises."""
    checks: dict[Layer, Callable[[], bool]] = {
        "network": _no_network,
        "processes": _alone,
        "filesystem": _read_only,
        "uid": _own_uid,
        "capabilities": _no_capabilities,
    }
    found: list[Layer] = []
    for layer, check in checks.items():
        try:
            if check():
                found.append(layer)
        except (OSError, ValueError, KeyError):
            continue
    if all(resource.getrlimit(what)[1] <= most for what, most in _limits(memory_mib)):
        found.append("limits")
    return found


def _no_network() -> bool:
    """No interface but loopback, and no route."""
    routes = _lines("/proc/net/route")[1:]
    return {name for _, name in socket.if_nameindex()} <= {"lo"} and not routes


def _alone() -> bool:
    """No process but the first of the namespace and this one; a host name of its own; the root of a cgroup namespace."""
    seen = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    at_root = all(line.endswith(":/") for line in _lines("/proc/self/cgroup"))
    return seen <= {1, os.getpid()} and socket.gethostname() == HOST_NAME and at_root


def _read_only() -> bool:
    """Every mount is read-only, except the kernel's own and an in-memory /tmp."""
    for line in _lines("/proc/self/mounts"):
        _, place, kind, options, *_ = line.split(" ")
        private = place == "/tmp" and kind == "tmpfs"  # noqa: S108 - the name of a mount
        kernels = any(place == root or place.startswith(root + "/") for root in _KERNELS)
        if not (private or kernels or "ro" in options.split(",")):
            return False
    return True


def _own_uid() -> bool:
    """Not root, and not a mere other name for the uid of whoever made the user namespace: such a one maps a single uid."""
    mapped = sum(int(line.split()[2]) for line in _lines("/proc/self/uid_map"))
    return os.getuid() == os.geteuid() != 0 and os.getgroups() == [] and mapped > 1 and os.getuid() != _launcher_uid()


def _launcher_uid() -> int:
    """The owner of the first process of this pid namespace, which the launcher made; this process's own where there is none."""
    return os.stat("/proc/1").st_uid if os.getpid() != 1 else os.getuid()


def _no_capabilities() -> bool:
    fields = dict(line.split(":\t", 1) for line in _lines("/proc/self/status") if ":\t" in line)
    return fields["NoNewPrivs"].strip() == "1" and all(int(fields[name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"))


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()

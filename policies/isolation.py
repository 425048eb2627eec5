"""The layers that may stand between a run and the machine it runs on: words of evidence and of agreements.

Layers keep a run from reaching the machine. They do not keep whoever runs the machine from reaching the run: that takes a TEE.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal, get_args

from policies.errors import Malformed

Layer = Literal["network", "processes", "filesystem", "uid", "capabilities", "syscalls", "limits", "memory", "pids"]
"""What separates a run from its machine; only ever added to.

- `network`: a network namespace of its own, without any interface but an unconnected loopback.
- `processes`: pid, ipc, uts and cgroup namespaces of its own: it sees no process but its own.
- `filesystem`: a mount namespace of its own: the system read-only, an empty private tmpfs, nothing of other runs.
- `uid`: an unprivileged uid that no other process has, not the worker's.
- `capabilities`: no capabilities, and no way to gain any (no_new_privs).
- `syscalls`: a seccomp filter that allows listed system calls only.
- `limits`: rlimits: no core, no byte written to a file, bounded address space, processor time and descriptors.
- `memory`, `pids`: a cgroup that bounds its memory and its number of threads.
"""

LAYERS: tuple[Layer, ...] = get_args(Layer)
"""Every layer, in the order in which documents list them."""


def in_order(layers: Iterable[str]) -> tuple[Layer, ...]:
    """Return the known layers among `layers`, each once, in the order of `LAYERS`."""
    found = set(layers)
    return tuple(layer for layer in LAYERS if layer in found)


def require_in_order(layers: tuple[Layer, ...], where: str) -> None:
    """Raise Malformed unless `layers` has each at most once and in the order of `LAYERS`: a set has one spelling."""
    if layers != in_order(layers):
        raise Malformed(f"lists layers once each, in the order {', '.join(LAYERS)}", where=where)


def lacking(required: Iterable[Layer], present: Collection[str]) -> tuple[Layer, ...]:
    """Return the required layers that are not present, in order."""
    return in_order(layer for layer in required if layer not in present)

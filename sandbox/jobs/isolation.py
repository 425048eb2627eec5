"""How enclave processes are started on this machine: bubblewrap, a uid of their own and a control group, as far as the machine has them.

What is found at the first start is used for all. What is missing is said in the worker's log, in the evidence of every run, and to
agreements that require it; nothing is left out silently.
"""

from __future__ import annotations

import functools
import logging
import shutil
from dataclasses import dataclass

from enclaves.kit.jail import Jail, candidates, command, probed
from policies.isolation import LAYERS, Layer, in_order
from sandbox.config import Config
from sandbox.jobs.cgroups import Hierarchy, find_hierarchy

THREADS = 64
"""Most threads of an enclave, and of what starts it."""

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
        return command(self.jail, code, uid, info)


def isolation_of(config: Config) -> Isolation:
    """What this machine has, with the settings' memory and uids; found once per process."""
    return _find(config.enclave_memory_mib, config.enclave_first_uid, config.enclave_cgroup)


def default_isolation() -> Isolation:
    """As `isolation_of` with the default settings."""
    return isolation_of(Config())


@functools.cache
def _find(memory_mib: int, first_uid: int, cgroup: str) -> Isolation:
    hierarchy = find_hierarchy(cgroup)
    for jail in candidates(first_uid):
        layers = probed(jail, first_uid, memory_mib)
        if layers is not None:
            held = in_order({*layers, *(hierarchy.layers if hierarchy else ())})
            found = Isolation(jail=jail, hierarchy=hierarchy, layers=held, memory_mib=memory_mib, first_uid=first_uid)
            if found.missing:
                _log.warning("enclaves on this machine lack %s%s", ", ".join(found.missing), _advice())
            return found
    raise OSError("no enclave can be started")


def _advice() -> str:
    return "" if shutil.which("bwrap") else "; install bubblewrap"

"""Control groups that bound the memory and the threads of one enclave: version 1 and version 2 of the kernel's interface.

An enclave joins a fresh group before its first instruction, so everything that it ever uses is counted. The limits are read back: a layer
that is not in force is not named. Version 2 needs a delegated group: the worker's own parent, where the service manager keeps the worker
in a leaf (systemd: `Delegate=memory pids`, `DelegateSubgroup=worker`), or a folder that the operator names.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from policies.isolation import Layer, in_order

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
PATIENCE_S = 5.0
"""How long the last process of a group may take to go."""

LEFT_S = 60.0
"""A group so old without a process is nobody's any more: a process joins within moments."""

DELEGATED, LEAF = "delegated", "worker"

_V1: Mapping[str, Layer] = {"memory": "memory", "pids": "pids"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Hierarchy:
    """Where groups can be made.

    Attributes:
        parents: by controller, the folder in which a group is made; version 2 has one folder for both.
        version: 1 or 2.
    """

    version: int
    parents: Mapping[str, Path]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that its groups make."""
        return in_order(self.parents)


def find_hierarchy(folder: str = "", *, root: Path = ROOT, own: Path = OWN) -> Hierarchy | None:
    """Return where this process may make groups, or None.

    Args:
        folder: of version 2; `delegated` where this process's own group is for it alone to arrange; empty to look for one.
        root, own: where the kernel shows its groups, and which this process is in.
    """
    if folder not in ("", DELEGATED):
        return _second((Path(folder),))
    try:
        text = own.read_text(encoding="utf-8")
    except OSError:
        return None
    lines = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    first = {
        name: root / name / path.lstrip("/")
        for _, names, path in lines
        for name in names.split(",")
        if name in _V1 and _makes_groups(root / name / path.lstrip("/"))
    }
    if first:
        return Hierarchy(version=1, parents=first)
    mine = next((root / path.lstrip("/") for number, _, path in lines if number == "0"), None)
    if mine is not None and folder == DELEGATED:
        mine = _vacated(mine)
    return None if mine is None else _second((mine, *([mine.parent] if mine != root else [])))


def _vacated(group: Path) -> Path:
    """Move the processes of a delegated group into a leaf of it: one that has processes of its own hands nothing on. Return the leaf."""
    if group.name == LEAF:
        return group
    leaf = group / LEAF
    with suppress(OSError):
        leaf.mkdir(exist_ok=True)
        for pid in (group / "cgroup.procs").read_text(encoding="ascii").split():
            with suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(pid)
    return leaf


def _second(candidates: tuple[Path, ...]) -> Hierarchy | None:
    """The first candidate that hands memory or pids on to its children, or that can be made to."""
    for folder in candidates:
        try:
            on = set((folder / "cgroup.subtree_control").read_text(encoding="ascii").split())
            for name in set((folder / "cgroup.controllers").read_text(encoding="ascii").split()) & set(_V1) - on:
                try:
                    (folder / "cgroup.subtree_control").write_text(f"+{name}")
                except OSError:
                    continue  # a group with processes of its own hands nothing on
                on.add(name)
        except OSError:
            continue
        if on & set(_V1) and _makes_groups(folder):
            return Hierarchy(version=2, parents=dict.fromkeys(sorted(on & set(_V1)), folder))
    return None


def _makes_groups(folder: Path) -> bool:
    probe = folder / f"enclave-probe-{time.monotonic_ns()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The group of one enclave, in one folder or in one per controller."""

    hierarchy: Hierarchy
    name: str

    @property
    def folders(self) -> dict[str, Path]:
        """Its folder by controller."""
        return {controller: parent / self.name for controller, parent in self.hierarchy.parents.items()}

    @property
    def doors(self) -> tuple[str, ...]:
        """The files through which a process joins."""
        return tuple(sorted({str(folder / "cgroup.procs") for folder in self.folders.values()}))

    def make(self, *, memory_mib: int, pids: int) -> tuple[Layer, ...]:
        """Make it and set its limits; return the layers whose limit, read back, is in force. Raises OSError where it cannot be made."""
        held: list[Layer] = []
        for folder in set(self.folders.values()):
            folder.mkdir(exist_ok=True)
        for controller, folder in self.folders.items():
            limit = memory_mib << 20 if controller == "memory" else pids
            name = {"pids": "pids.max", "memory": "memory.limit_in_bytes" if self.hierarchy.version == 1 else "memory.max"}[controller]
            try:
                (folder / name).write_text(str(limit))
                if controller == "memory":
                    self._no_swap(folder, limit)
                if int((folder / name).read_text()) <= limit:
                    held.append(_V1[controller])
            except (OSError, ValueError):
                continue
        return in_order(held)

    def _no_swap(self, folder: Path, limit: int) -> None:
        """Memory and swap together stay within the limit; a kernel without swap accounting has no such file."""
        name, most = ("memory.memsw.limit_in_bytes", limit) if self.hierarchy.version == 1 else ("memory.swap.max", 0)
        if (folder / name).exists():
            (folder / name).write_text(str(most))

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel ended one of its processes because it wanted more memory than the limit."""
        folder = self.folders.get("memory")
        if folder is None:
            return False
        try:
            text = (folder / ("memory.oom_control" if self.hierarchy.version == 1 else "memory.events")).read_text(encoding="ascii")
        except OSError:
            return False
        return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in text.splitlines())

    def kill(self) -> None:
        """End all its processes."""
        for door in self.doors:
            with suppress(OSError, ValueError):
                for pid in Path(door).read_text(encoding="ascii").split():
                    os.kill(int(pid), signal.SIGKILL)

    def remove(self) -> bool:
        """Remove it once its processes are gone; False if they stay or it was gone."""
        until = time.monotonic() + PATIENCE_S
        removed = False
        for folder in set(self.folders.values()):
            while folder.exists():
                try:
                    folder.rmdir()
                    removed = True
                except OSError:
                    if time.monotonic() > until:
                        return False
                    time.sleep(0.002)
        return removed


def remove_groups(hierarchy: Hierarchy, prefix: str, age_s: float = LEFT_S) -> int:
    """Remove the groups of that prefix that have no process and are `age_s` old: what killed workers left. Returns how many folders."""
    removed = 0
    for folder in {path for parent in hierarchy.parents.values() for path in parent.glob(f"{prefix}*")}:
        try:
            if time.time() - folder.stat().st_mtime >= age_s:
                folder.rmdir()
                removed += 1
        except OSError:
            continue  # it has a process, or somebody else removed it
    return removed

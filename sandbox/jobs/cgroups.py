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

_LAYERS: Mapping[str, Layer] = {"memory": "memory", "pids": "pids"}


@dataclass(frozen=True, slots=True)
class Parent:
    """A folder in which groups can be made, of version 1 or 2 of the interface."""

    version: int
    folder: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Hierarchy:
    """Where groups can be made.

    Attributes:
        parents: by controller, where its groups are made. Those of version 2 share one folder; a machine may have some of each version.
    """

    parents: Mapping[str, Parent]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that its groups make."""
        return in_order(self.parents)

    @property
    def folders(self) -> set[Path]:
        """The folders in which groups are made."""
        return {parent.folder for parent in self.parents.values()}


def find_hierarchy(folder: str = "", *, root: Path = ROOT, own: Path = OWN) -> Hierarchy | None:
    """Return where this process may make groups, or None.

    Args:
        folder: of version 2; `delegated` where this process's own group is for it alone to arrange; empty to look for one.
        root, own: where the kernel shows its groups, and which this process is in (cgroups(7), /proc/PID/cgroup).
    """
    if folder not in ("", DELEGATED):
        return _hierarchy(_second((Path(folder),)))
    try:
        text = own.read_text(encoding="utf-8")
    except OSError:
        return None
    lines = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    named = {name: path for _, names, path in lines for name in names.split(",") if name in _LAYERS}
    first = {name: Parent(1, place) for name, path in named.items() if _makes_groups(place := _place(root / name, path))}
    if first.keys() == _LAYERS.keys():
        return _hierarchy(first)
    # Beside version 1 the other has a folder of its own, and the controllers that version 1 leaves.
    second = root / "unified" if (root / "unified").is_dir() and not (root / "cgroup.controllers").exists() else root
    mine = next((_place(second, path) for number, _, path in lines if number == "0"), None)
    if mine is not None and folder == DELEGATED:
        mine = _vacated(mine)
    offered = {} if mine is None else _second((mine, *([mine.parent] if mine != second else [])))
    return _hierarchy(offered | first)


def _hierarchy(parents: Mapping[str, Parent]) -> Hierarchy | None:
    return Hierarchy(parents=dict(sorted(parents.items()))) if parents else None


def _place(mount: Path, path: str) -> Path:
    """The folder of a group: below the mount, or the mount itself where a container is shown no more than its own group."""
    place = mount / path.lstrip("/")
    return place if place.is_dir() else mount


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


def _second(candidates: tuple[Path, ...]) -> dict[str, Parent]:
    """The controllers of the first candidate that hands memory or pids on to its children, or that can be made to."""
    for folder in candidates:
        try:
            on = set((folder / "cgroup.subtree_control").read_text(encoding="ascii").split())
            for name in set((folder / "cgroup.controllers").read_text(encoding="ascii").split()) & set(_LAYERS) - on:
                try:
                    (folder / "cgroup.subtree_control").write_text(f"+{name}")
                except OSError:
                    continue  # a group with processes of its own hands nothing on
                on.add(name)
        except OSError:
            continue
        if on & set(_LAYERS) and _makes_groups(folder):
            return dict.fromkeys(on & set(_LAYERS), Parent(2, folder))
    return {}


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
        return {controller: parent.folder / self.name for controller, parent in self.hierarchy.parents.items()}

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
            name = {"pids": "pids.max", "memory": "memory.limit_in_bytes" if self._version(controller) == 1 else "memory.max"}[controller]
            try:
                (folder / name).write_text(str(limit))
                if controller == "memory":
                    self._no_way_out(folder, limit)
                if int((folder / name).read_text()) <= limit:
                    held.append(_LAYERS[controller])
            except (OSError, ValueError):
                continue
        return in_order(held)

    def _version(self, controller: str) -> int:
        return self.hierarchy.parents[controller].version

    def _no_way_out(self, folder: Path, limit: int) -> None:
        """Memory and swap together stay within the limit, and who exceeds it ends whole; a kernel without one of both has no such file."""
        wanted = {"memory.memsw.limit_in_bytes": limit} if self._version("memory") == 1 else {"memory.swap.max": 0, "memory.oom.group": 1}
        for name, value in wanted.items():
            if (folder / name).exists():
                (folder / name).write_text(str(value))

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel ended one of its processes because it wanted more memory than the limit."""
        text = self._of_memory("memory.oom_control", "memory.events")
        return text is not None and any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in text.splitlines())

    def peak_mib(self) -> int | None:
        """The most memory that its processes used at once; None where the kernel does not say."""
        text = self._of_memory("memory.max_usage_in_bytes", "memory.peak")
        return None if text is None else int(text) >> 20

    def _of_memory(self, first: str, second: str) -> str | None:
        """What the kernel says in the memory group's file of that name in version 1 or 2; None where it says nothing."""
        folder = self.folders.get("memory")
        if folder is None:
            return None
        try:
            return (folder / (first if self._version("memory") == 1 else second)).read_text(encoding="ascii")
        except OSError:
            return None

    def kill(self) -> None:
        """End all its processes, and those that they start meanwhile."""
        until = time.monotonic() + PATIENCE_S
        for folder in set(self.folders.values()):
            with suppress(OSError, ValueError):
                if (folder / "cgroup.kill").exists():  # version 2, Linux 5.14 and later
                    (folder / "cgroup.kill").write_text("1")
                while (pids := (folder / "cgroup.procs").read_text(encoding="ascii").split()) and time.monotonic() < until:
                    for pid in map(int, pids):
                        if pid:  # 0: a process outside of this one's namespace
                            with suppress(ProcessLookupError):
                                os.kill(pid, signal.SIGKILL)
                    time.sleep(0.001)

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
    for folder in {path for parent in hierarchy.folders for path in parent.glob(f"{prefix}*")}:
        try:
            if time.time() - folder.stat().st_mtime >= age_s:
                folder.rmdir()
                removed += 1
        except OSError:
            continue  # it has a process, or somebody else removed it
    return removed

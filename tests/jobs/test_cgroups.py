"""Control groups: found, bounded, read back and removed; version 2 on a tree laid out as the kernel shows it, this machine's for real."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from sandbox.jobs.cgroups import Group, Hierarchy, find_hierarchy, remove_groups


def delegated(root: Path, own: str, controllers: str, on: str) -> Path:
    """A version 2 tree in which this process is in `own`, whose parent has these controllers, of which `on` are handed on."""
    leaf = root / own.lstrip("/")
    leaf.mkdir(parents=True)
    (leaf / "cgroup.subtree_control").write_text("")
    (leaf / "cgroup.controllers").write_text("")
    (leaf.parent / "cgroup.controllers").write_text(controllers)
    (leaf.parent / "cgroup.subtree_control").write_text(on)
    (root / "own").write_text(f"0::{own}\n")
    return leaf.parent


def test_version_2_is_found_in_the_parent_of_a_leaf(tmp_path: Path) -> None:
    parent = delegated(tmp_path, "/system.slice/sandbox.service/worker", "cpu memory pids\n", "memory pids\n")
    found = find_hierarchy(root=tmp_path, own=tmp_path / "own")
    assert found == Hierarchy(version=2, parents={"memory": parent, "pids": parent})
    assert found.layers == ("memory", "pids")


def test_a_folder_that_the_operator_names_is_used_and_no_other(tmp_path: Path) -> None:
    parent = delegated(tmp_path, "/a/worker", "memory\n", "memory\n")
    assert find_hierarchy(str(parent)) == Hierarchy(version=2, parents={"memory": parent})
    assert find_hierarchy(str(tmp_path / "nothing")) is None


def test_a_group_that_hands_nothing_on_gives_no_layer(tmp_path: Path) -> None:
    delegated(tmp_path, "/a/worker", "cpu\n", "cpu\n")
    assert find_hierarchy(root=tmp_path, own=tmp_path / "own") is None
    (tmp_path / "own").write_text("nonsense")
    assert find_hierarchy(root=tmp_path, own=tmp_path / "own") is None
    assert find_hierarchy(root=tmp_path, own=tmp_path / "missing") is None


def test_a_delegated_group_is_vacated_before_it_hands_on(tmp_path: Path) -> None:
    """systemd without DelegateSubgroup= puts a service's processes into the delegated group itself."""
    group = tmp_path / "sandbox.service"
    group.mkdir()
    (group / "cgroup.procs").write_text("11\n12\n")
    (group / "cgroup.controllers").write_text("memory pids")
    (group / "cgroup.subtree_control").write_text("memory pids")
    (tmp_path / "own").write_text("0::/sandbox.service\n")
    found = find_hierarchy("delegated", root=tmp_path, own=tmp_path / "own")
    assert found == Hierarchy(version=2, parents={"memory": group, "pids": group})
    assert (group / "worker" / "cgroup.procs").read_text() == "12", "each is written alone, as the kernel wants it"
    (tmp_path / "own").write_text("0::/sandbox.service/worker\n")
    assert find_hierarchy("delegated", root=tmp_path, own=tmp_path / "own") == found


def test_a_limit_that_does_not_hold_is_not_named(tmp_path: Path) -> None:
    """The kernel may round a limit down; a file that reads otherwise is no limit. On this tree a file keeps what is written."""
    (tmp_path / "cgroup.subtree_control").write_text("memory pids")
    (tmp_path / "cgroup.controllers").write_text("memory pids")
    hierarchy = find_hierarchy(str(tmp_path))
    assert hierarchy is not None
    group = Group(hierarchy=hierarchy, name="enclave-1")
    folder = tmp_path / "enclave-1"
    folder.mkdir()
    (folder / "pids.max").mkdir()  # cannot be written
    (folder / "memory.swap.max").write_text("max")
    assert group.make(memory_mib=512, pids=64) == ("memory",)
    assert (folder / "memory.max").read_text() == str(512 << 20)
    assert (folder / "memory.swap.max").read_text() == "0"
    assert group.doors == (str(folder / "cgroup.procs"),)


def test_version_2_says_whether_memory_ran_out(tmp_path: Path) -> None:
    group = Group(hierarchy=Hierarchy(version=2, parents={"memory": tmp_path}), name="g")
    assert not group.ran_out_of_memory()
    (tmp_path / "g").mkdir()
    events = tmp_path / "g" / "memory.events"
    events.write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n")
    assert not group.ran_out_of_memory()
    events.write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\n")
    assert group.ran_out_of_memory()


def here() -> Hierarchy:
    """This machine's groups."""
    found = find_hierarchy()
    if found is None:
        pytest.skip("this process may make no control groups: run as root, or delegate memory and pids to it")
    return found


def test_a_process_that_joins_is_bounded_and_counted() -> None:
    group = Group(hierarchy=here(), name=f"enclave-test-{time.monotonic_ns()}")
    try:
        assert set(group.make(memory_mib=64, pids=16)) == set(group.hierarchy.layers)
        script = 'for f in "$@"; do echo 0 > "$f"; done; exec sleep 60'
        with subprocess.Popen(["/bin/sh", "-c", script, "sh", *group.doors]) as process:
            deadline = time.monotonic() + 10
            while not all(str(process.pid) in Path(door).read_text().split() for door in group.doors):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert not group.ran_out_of_memory()
            group.kill()
            assert process.wait(timeout=10) == -9
    finally:
        assert group.remove()
    assert not any(folder.exists() for folder in group.folders.values())


def test_groups_of_killed_workers_are_removed_and_busy_or_fresh_ones_stay() -> None:
    hierarchy, prefix = here(), f"enclave-left-{time.monotonic_ns()}-"
    left = Group(hierarchy=hierarchy, name=prefix + "left")
    left.make(memory_mib=64, pids=16)
    assert remove_groups(hierarchy, prefix) == 0, "it may be about to be joined"
    assert remove_groups(hierarchy, prefix, age_s=0) == len(set(left.folders.values()))
    assert remove_groups(hierarchy, prefix, age_s=0) == 0


def test_a_real_group_of_version_2_is_joined_killed_and_removed_and_claims_no_limit_that_it_does_not_have() -> None:
    """On machines whose memory and pids belong to version 1: what the second version's files do is the kernel's, not a layout of ours."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="ascii").splitlines()]
    root = next((Path(place) for _, place, kind, *_ in mounts if kind == "cgroup2"), None)
    if root is None or not os.access(root, os.W_OK):
        pytest.skip("mount cgroup2, and run as root")
    offered = set((root / "cgroup.controllers").read_text(encoding="ascii").split())
    parents = dict.fromkeys(("memory", "pids"), root)
    group = Group(hierarchy=Hierarchy(version=2, parents=parents), name=f"enclave-test-{os.getpid()}")
    held = group.make(memory_mib=64, pids=8)
    try:
        assert set(held) <= offered & {"memory", "pids"}
        assert len(group.doors) == 1
        join = f"echo 0 > {group.doors[0]}; exec sleep 60"
        with subprocess.Popen(["/bin/sh", "-c", join]) as process:
            until = time.monotonic() + 20
            while str(process.pid) not in Path(group.doors[0]).read_text(encoding="ascii").split():
                assert time.monotonic() < until
                time.sleep(0.01)
            group.kill()
            assert process.wait(20) == -9
    finally:
        group.kill()
        assert group.remove()
    assert not (root / group.name).exists()

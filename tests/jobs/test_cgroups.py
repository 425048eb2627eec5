"""Control groups: found, bounded, read back and removed; version 2 on a tree laid out as the kernel shows it, this machine's for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.jobs.cgroups import Group, Hierarchy, Parent, find_hierarchy, remove_groups


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


def second(folder: Path, *controllers: str) -> Hierarchy:
    """Groups of version 2 in one folder."""
    return Hierarchy(parents=dict.fromkeys(controllers, Parent(2, folder)))


def test_version_2_is_found_in_the_parent_of_a_leaf(tmp_path: Path) -> None:
    parent = delegated(tmp_path, "/system.slice/sandbox.service/worker", "cpu memory pids\n", "memory pids\n")
    found = find_hierarchy(root=tmp_path, own=tmp_path / "own")
    assert found == second(parent, "memory", "pids")
    assert found.layers == ("memory", "pids")


def test_a_folder_that_the_operator_names_is_used_and_no_other(tmp_path: Path) -> None:
    parent = delegated(tmp_path, "/a/worker", "memory\n", "memory\n")
    assert find_hierarchy(str(parent)) == second(parent, "memory")
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
    assert found == second(group, "memory", "pids")
    assert (group / "worker" / "cgroup.procs").read_text() == "12", "each is written alone, as the kernel wants it"
    (tmp_path / "own").write_text("0::/sandbox.service/worker\n")
    assert find_hierarchy("delegated", root=tmp_path, own=tmp_path / "own") == found


def first(root: Path, own: str, *controllers: str) -> None:
    """A version 1 tree, one hierarchy per controller, in all of which this process is in `own`."""
    for number, name in enumerate(controllers, start=2):
        (root / name / own.lstrip("/")).mkdir(parents=True)
        with (root / "own").open("a") as file:
            file.write(f"{number}:{name}:{own}\n")


def test_version_1_is_found_in_this_process_s_own_group(tmp_path: Path) -> None:
    first(tmp_path, "/user.slice", "cpuset", "memory", "pids")
    found = find_hierarchy(root=tmp_path, own=tmp_path / "own")
    assert found == Hierarchy(parents={name: Parent(1, tmp_path / name / "user.slice") for name in ("memory", "pids")})


def test_a_container_that_is_shown_only_its_own_group_makes_groups_in_what_it_is_shown(tmp_path: Path) -> None:
    """Without a namespace of control groups /proc names the path as the host sees it, which does not exist inside."""
    (tmp_path / "memory").mkdir()
    (tmp_path / "own").write_text("4:memory:/docker/0123\n")
    found = find_hierarchy(root=tmp_path, own=tmp_path / "own")
    assert found == Hierarchy(parents={"memory": Parent(1, tmp_path / "memory")})


def test_a_machine_with_both_versions_gives_each_controller_from_where_it_is(tmp_path: Path) -> None:
    """systemd's hybrid layout: version 2 in a folder beside those of version 1, with the controllers that version 1 leaves."""
    first(tmp_path, "/a/worker", "pids")
    parent = delegated(tmp_path / "unified", "/a/worker", "memory\n", "memory\n")
    with (tmp_path / "own").open("a") as file:
        file.write("0::/a/worker\n")
    found = find_hierarchy(root=tmp_path, own=tmp_path / "own")
    assert found == Hierarchy(parents={"memory": Parent(2, parent), "pids": Parent(1, tmp_path / "pids/a/worker")})
    group = Group(hierarchy=found, name="enclave-1")
    assert group.make(memory_mib=512, pids=64) == ("memory", "pids")
    assert (parent / "enclave-1/memory.max").read_text() == str(512 << 20)
    assert (tmp_path / "pids/a/worker/enclave-1/pids.max").read_text() == "64"
    assert len(group.doors) == 2


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
    (folder / "memory.oom.group").write_text("0")
    assert group.make(memory_mib=512, pids=64) == ("memory",)
    assert (folder / "memory.max").read_text() == str(512 << 20)
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "memory.oom.group").read_text() == "1", "nothing of a run goes on without the rest"
    assert group.doors == (str(folder / "cgroup.procs"),)


def test_version_2_says_whether_memory_ran_out(tmp_path: Path) -> None:
    group = Group(hierarchy=second(tmp_path, "memory"), name="g")
    assert not group.ran_out_of_memory()
    (tmp_path / "g").mkdir()
    events = tmp_path / "g" / "memory.events"
    events.write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n")
    assert not group.ran_out_of_memory()
    events.write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\n")
    assert group.ran_out_of_memory()


def test_version_2_says_the_most_memory_that_was_used_where_the_kernel_does(tmp_path: Path) -> None:
    group = Group(hierarchy=second(tmp_path, "memory"), name="g")
    assert group.peak_mib() is None, "before Linux 5.19 it does not"
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "memory.peak").write_text(f"{88 << 20}\n")
    assert group.peak_mib() == 88


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
            deadline = time.monotonic() + 60
            while not all(str(process.pid) in Path(door).read_text().split() for door in group.doors):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert not group.ran_out_of_memory()
            group.kill()
            assert process.wait(timeout=60) == -9
    finally:
        assert group.remove()
    assert not any(folder.exists() for folder in group.folders.values())


JOIN = 'for f in "$@"; do echo 0 > "$f"; done; exec '


@pytest.fixture
def group() -> Iterator[Group]:
    """A group of this machine's with 64 MiB and 16 threads."""
    made = Group(hierarchy=here(), name=f"enclave-test-{time.monotonic_ns()}")
    try:
        assert set(made.make(memory_mib=64, pids=16)) == set(made.hierarchy.layers)
        yield made
    finally:
        made.kill()
        assert made.remove()


def joined(group: Group, code: str) -> subprocess.Popen[str]:
    """Python code in the group, without any other layer."""
    command = ["/bin/sh", "-c", JOIN + f"{sys.executable} -I -S -c '{code}'", "sh", *group.doors]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def members(group: Group) -> set[str]:
    return {pid for door in group.doors for pid in Path(door).read_text(encoding="ascii").split()}


def test_a_fork_bomb_stops_at_the_limit_and_all_of_it_ends(group: Group) -> None:
    """Nothing but the group holds it back: a child forks as soon as there is room, also while the group is being killed."""
    if "pids" not in group.hierarchy.layers:
        pytest.skip("this process may make no pids control group")
    code = "import os\nwhile 1:\n try: os.fork() or print(flush=True)\n except BlockingIOError: pass"
    with joined(group, code) as bomb:
        assert bomb.stdout is not None
        for _ in range(15):
            assert bomb.stdout.readline() == "\n", "each process but the first has said that it is there"
        assert len(members(group)) == 16
        group.kill()
        assert not members(group)
        assert bomb.wait(timeout=60) == -9
        assert bomb.stdout.read() == "", "never more than 16"


def test_who_wants_more_memory_than_the_group_has_is_ended_by_the_kernel_and_it_is_told_from_other_ends(group: Group) -> None:
    if "memory" not in group.hierarchy.layers:
        pytest.skip("this process may make no memory control group")
    with joined(group, "x = bytearray(8 << 20)") as modest:
        assert modest.wait(timeout=60) == 0
    assert not group.ran_out_of_memory()
    assert group.peak_mib() in (None, *range(8, 65))
    with joined(group, 'x = b"x" * (128 << 20)') as greedy:
        assert greedy.wait(timeout=60) == -9
    assert group.ran_out_of_memory()


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
    group = Group(hierarchy=second(root, "memory", "pids"), name=f"enclave-test-{os.getpid()}")
    held = group.make(memory_mib=64, pids=8)
    try:
        assert set(held) <= offered & {"memory", "pids"}
        assert len(group.doors) == 1
        join = f"echo 0 > {group.doors[0]}; exec sleep 60"
        with subprocess.Popen(["/bin/sh", "-c", join]) as process:
            until = time.monotonic() + 60
            while str(process.pid) not in Path(group.doors[0]).read_text(encoding="ascii").split():
                assert time.monotonic() < until
                time.sleep(0.01)
            group.kill()
            assert process.wait(20) == -9
    finally:
        group.kill()
        assert group.remove()
    assert not (root / group.name).exists()


GUEST = """#!/bin/sh
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t cgroup2 none /sys/fs/cgroup && mount -t tmpfs tmpfs {scratch}
export HOME={scratch} TMPDIR={scratch} PATH={path} PYTHONDONTWRITEBYTECODE=1
cd {checkout}
{python} -m pytest -o addopts= -q -rs -p no:cacheprovider tests/jobs/test_cgroups.py -k "not guest"
echo "ended: $?"
echo o > /proc/sysrq-trigger
sleep 60
"""


@pytest.mark.skipif(not os.environ.get("SANDBOX_FULL"), reason="set SANDBOX_FULL=1: it starts another kernel")
def test_all_of_this_holds_in_a_guest_that_has_version_2_alone(tmp_path: Path) -> None:
    """User-mode Linux: a whole kernel as one process, whose root is this machine's, read-only. There every group is of version 2."""
    kernel = shutil.which("linux.uml")
    if kernel is None:
        pytest.skip("install user-mode-linux")
    checkout, scratch, init = Path(__file__).resolve().parents[2], tmp_path / "scratch", tmp_path / "init"
    scratch.mkdir()
    init.write_text(GUEST.format(scratch=scratch, path=os.environ["PATH"], checkout=checkout, python=sys.executable), encoding="utf-8")
    init.chmod(0o755)
    options = ["rootfstype=hostfs", "rootflags=/", "ro", "mem=1G", f"init={init}", "con=null", "con0=fd:0,fd:1", "quiet"]
    done = subprocess.run([kernel, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
    assert "ended: 0" in done.stdout, done.stdout
    assert "skipped" not in done.stdout, done.stdout

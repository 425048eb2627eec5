"""The delivered units of systemd: what they take away leaves enclaves the layers that the pages promise."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from enclaves.kit.jail import START, Jail, command
from enclaves.kit.measure import checkout_root
from policies.isolation import LAYERS
from sandbox.cli import main as cli

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNITS = sorted([*DEPLOY.glob("*.service"), *DEPLOY.glob("*.timer")])

FILTERED = """
import ctypes, os, socket, sys
names, families, command = sys.argv[1].split(","), sys.argv[2].split(","), sys.argv[3:]
class Equal(ctypes.Structure):
    _fields_ = [("argument", ctypes.c_uint), ("equal", ctypes.c_int), ("value", ctypes.c_uint64), ("other", ctypes.c_uint64)]
library = ctypes.CDLL({library!r})
library.seccomp_init.restype = ctypes.c_void_p
context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(0x80000000)))
for name in names:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if name == "socket":
        for family in families:
            first = (Equal * 1)(Equal(0, 4, getattr(socket, family), 0))
            library.seccomp_rule_add_array(context, ctypes.c_uint32(0x7FFF0000), ctypes.c_int(number), ctypes.c_uint(1), first)
    elif number >= 0:
        library.seccomp_rule_add(context, ctypes.c_uint32(0x7FFF0000), ctypes.c_int(number), ctypes.c_uint(0))
assert library.seccomp_load(context) == 0
os.execv(command[0], command)
"""
"""Becomes a command under a filter that ends a process at every other system call and family of sockets, as systemd's does (libseccomp)."""


def settings(unit: Path) -> dict[str, str]:
    lines = [line.partition("=") for line in unit.read_text(encoding="utf-8").splitlines() if "=" in line and not line.startswith("#")]
    return {name: value for name, _, value in lines}


def calls(words: str) -> set[str]:
    """The system calls that a SystemCallFilter= names, with its groups spelt out by systemd itself."""
    found: set[str] = set()
    for word in words.split():
        if not word.startswith("@"):
            found.add(word)
            continue
        listed = subprocess.run(["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True, timeout=60).stdout
        inner = [line.strip() for line in listed.splitlines()[1:]]
        found |= calls(" ".join(item for item in inner if item and not item.startswith("#")))
    return found


def layers_under(unit: str, jail: Jail) -> set[str]:
    """The layers of an enclave that is started under a unit's system calls and capabilities."""
    library = ctypes.util.find_library("seccomp")
    if library is None or not all(shutil.which(name) for name in ("systemd-analyze", "bwrap", "setpriv")) or os.geteuid() != 0:
        pytest.skip("install systemd, libseccomp2, bubblewrap and util-linux, and run as root")
    held = settings(DEPLOY / unit)
    names = ",".join(sorted(calls(held["SystemCallFilter"])))
    families = ",".join(held["RestrictAddressFamilies"].split())
    kept = [f"+{word.removeprefix('CAP_').lower()}" for word in held["CapabilityBoundingSet"].split()]
    bounded = (
        ["setpriv", f"--bounding-set={','.join(['-all', *kept])}", "--no-new-privs"] if jail == "uid" else ["setpriv", "--no-new-privs"]
    )
    enclave = command(jail, START.format(root=str(checkout_root()), call="probe(1024)"), 70_000)
    filtered = [sys.executable, "-c", FILTERED.format(library=library), names, families, *enclave]
    done = subprocess.run([*bounded, *filtered], stdin=subprocess.DEVNULL, capture_output=True, env={}, timeout=120, check=False)
    return set(done.stdout.decode().split()[1:])


def test_an_enclave_of_the_delivered_worker_has_every_layer_that_needs_no_root_and_no_cgroup() -> None:
    """Its first version lacked the calls by which a jail names its host and an enclave confines itself: no enclave could be started."""
    assert layers_under("sandbox-worker.service", "namespaces") == set(LAYERS) - {"uid", "memory", "pids"}
    assert "ProtectHostname" not in settings(DEPLOY / "sandbox-worker.service"), "it would refuse the jail's host name"


def test_the_delivered_unit_of_enclaves_gives_each_a_uid_of_its_own() -> None:
    assert layers_under("sandbox-enclaves.service", "uid") == set(LAYERS) - {"memory", "pids"}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_understands_every_line(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("install systemd")
    for delivered in UNITS:
        text = delivered.read_text(encoding="utf-8").replace("/opt/sandbox/.venv/bin/sandbox", "/bin/true")
        (tmp_path / delivered.name).write_text(text, encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(tmp_path / unit.name)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.suffix == ".service"], ids=lambda unit: unit.name)
def test_every_unit_runs_a_command_that_there_is(unit: Path) -> None:
    _, *words = settings(unit)["ExecStart"].removeprefix("/opt/sandbox/.venv/bin/").split()
    command: click.Command = cli
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.commands[word]
    assert not isinstance(command, click.Group)


def test_cosignatures_are_asked_for_in_time_and_their_unit_may_do_no_more_than_the_web_service() -> None:
    timer, service, web = (settings(DEPLOY / name) for name in ("sandbox-cosign.timer", "sandbox-cosign.service", "sandbox-web.service"))
    assert timer["OnUnitInactiveSec"] == "5min"
    assert timer["WantedBy"] == "timers.target"
    assert service["Type"] == "oneshot"
    assert "SuccessExitStatus" not in service, "a quorum that is missing is to be seen"
    own = {"Description", "Type", "ExecStart", "TimeoutStartSec"}
    assert {name: value for name, value in service.items() if name not in own}.items() <= web.items()
    given_up = web.keys() - service.keys() - own
    assert given_up == {"Restart", "RestartSec", "TimeoutStopSec", "WantedBy"}

"""Hostile code inside a run tries to reach the machine, other runs and the network: each attempt fails; a control shows that it is real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks._attempts import HARMLESS, Stage, stage
from enclaves.kit.jail import Uid
from enclaves.kit.measure import checkout_root
from policies.isolation import LAYERS
from sandbox.jobs import launch
from sandbox.jobs.isolation import Isolation, default_isolation
from sandbox.jobs.launch import EnclaveProcess

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def aimed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("victim")) as found:
        yield found


def full() -> Isolation:
    """This machine's isolation; skips where it lacks a layer."""
    found = default_isolation()
    if found.missing:
        pytest.skip(
            f"this machine's enclaves lack {', '.join(found.missing)}; install bubblewrap, and run as root or with a delegated cgroup"
        )
    return found


def outcome(isolation: Isolation, code: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """What the attempts say that were started as an enclave is."""
    monkeypatch.setattr(launch, "START", code.replace("{", "{{").replace("}", "}}"))
    with EnclaveProcess(isolation) as enclave:
        return {str(name): bool(value) for name, value in json.loads(enclave._receive(PATIENCE_S)).items()}


def test_every_attempt_from_inside_a_run_fails(aimed: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    isolation = full()
    found = outcome(isolation, aimed.code(checkout_root(), memory_mib=isolation.memory_mib), monkeypatch)
    assert len(found) >= 40
    assert [name for name, succeeded in found.items() if succeeded] == []


def test_the_same_attempts_succeed_from_an_ordinary_process(aimed: Stage) -> None:
    """Otherwise the test above would prove nothing."""
    code = aimed.code(checkout_root(), memory_mib=None, only=HARMLESS)
    done = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=True)
    found = json.loads(done.stdout[4:])
    real = {"tcp", "file-of-another-run", "folder-of-the-host", "host-processes", "signal-victim", "forks", "execute", "executable-memory",
            "memory-file", "abstract-socket"}  # fmt: skip
    assert {name for name, succeeded in found.items() if succeeded} >= real


def test_without_bubblewrap_the_filter_alone_stops_what_makes_or_reaches_anything(aimed: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What remains then is what the filter cannot tell apart: reading files that the worker may read. The evidence says so."""
    bare = replace(default_isolation(), jail="none", hierarchy=None)
    found = outcome(bare, aimed.code(checkout_root(), memory_mib=bare.memory_mib), monkeypatch)
    reading = {"shadow", "file-of-another-run", "folder-of-the-host", "environments", "host-processes"}
    # A limit on threads belongs to a uid of its own or to a control group.
    assert {name for name, succeeded in found.items() if succeeded} <= reading | {"many-threads"}


@pytest.mark.parametrize("jail", ["namespaces", "none"])
def test_weaker_jails_claim_only_what_they_give(jail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weaker = replace(default_isolation(), jail=jail, hierarchy=None)  # type: ignore[arg-type]
    if jail == "namespaces" and default_isolation().jail == "none":
        pytest.skip("install bubblewrap")
    with EnclaveProcess(weaker) as enclave:
        layers = set(json.loads(enclave._receive(PATIENCE_S))["isolation"])
    assert not layers & {"memory", "pids", "uid"}
    assert {"limits", "syscalls"} <= layers
    if jail == "none":
        assert not layers & {"network", "processes", "filesystem"}
    else:
        assert {"network", "processes", "filesystem", "capabilities"} <= layers


def test_two_runs_have_two_uids_and_see_nothing_of_each_other() -> None:
    isolation = full()
    with EnclaveProcess(isolation) as one, EnclaveProcess(isolation) as other:
        for enclave in (one, other):
            assert json.loads(enclave._receive(PATIENCE_S))["isolation"] == [x for x in LAYERS if x not in ("memory", "pids")]
        uids = [Path(f"/proc/{enclave.pid}/status").read_text().split("Uid:\t")[1].split()[0] for enclave in (one, other)]
        assert len(set(uids)) == 2
        assert all(int(uid) >= isolation.first_uid for uid in uids)
        namespaces = [
            {os.readlink(f"/proc/{e.pid}/ns/{name}") for name in ("net", "pid", "ipc", "uts", "mnt", "cgroup")} for e in (one, other)
        ]
        own = {os.readlink(f"/proc/self/ns/{name}") for name in ("net", "pid", "ipc", "uts", "mnt", "cgroup")}
        assert not namespaces[0] & namespaces[1]
        assert not own & (namespaces[0] | namespaces[1])


def test_a_uid_is_free_again_when_its_holder_is_gone() -> None:
    first, second = Uid(90_000), Uid(90_000)
    try:
        assert (first.number, second.number) == (90_000, 90_001)
    finally:
        first.close()
        second.close()
    third = Uid(90_000)
    assert third.number == 90_000
    third.close()
